"""What is asked of torch under names that torch calls private (core/private_torch.py): it still does what is needed.

Each test stands for one such name. One that fails after an update of torch says which part of `worldsheet.cut` has to
be written anew; nothing here is public, and none of it can be had from public names.
"""

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from worldsheet.core.private_torch import core_decompositions, set_versions, storage_users, unnoticed_writes

DOUBLE = torch.float64

engine: Callable[..., tuple[Tensor | None, ...]] = torch.autograd.Variable._execution_engine.run_backward


def random(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, requires_grad=grad)


class Seen(TorchFunctionMode):
    """Writes down which functions of torch are called."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


class Passed(torch.autograd.Function):
    """Its argument without a past; what arrives goes to a list."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, inbox: Any, *values: Tensor) -> Any:
        ctx.inbox = inbox
        ctx.set_materialize_grads(False)
        return values[0].detach() if len(values) == 1 else tuple(value.detach() for value in values)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> Any:
        ctx.inbox.append(slopes)
        return (None,) * (2 + len(slopes))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        found = tuple(None if tangent is None else tangent.clone() for tangent in tangents[2:])
        return found[0] if len(found) == 1 else found


apply: Callable[..., Any] = super(torch.autograd.Function, Passed).apply
TOKEN = torch.empty(0, requires_grad=True)


# Calls of modules.


def test_a_call_is_looked_up_in_the_module_itself_each_time_and_has_the_hooks_inside() -> None:
    module, heard = nn.Linear(2, 2), list[str]()
    module.register_forward_hook(lambda *_: heard.append("hook"))
    own = module._call_impl

    def tapped(*args: Any) -> Tensor:
        heard.append("before")
        made = own(*args)
        heard.append("after")
        return made

    x = torch.randn(3, 2)
    wanted = module(x)
    module.__dict__["_call_impl"] = tapped
    assert torch.equal(module(x), wanted)
    assert torch.equal(nn.Sequential(module)(x), wanted)
    del module.__dict__["_call_impl"]
    assert torch.equal(module(x), wanted)
    assert heard == ["hook", "before", "hook", "after", "before", "hook", "after", "hook"]


def test_a_compiled_call_is_looked_up_in_the_module_itself_under_a_name_of_its_own() -> None:
    module = nn.Linear(2, 2)
    assert module._compiled_call_impl is None
    module.compile(backend="eager")
    assert module._compiled_call_impl is not None
    heard = []
    module.__dict__["_call_impl"] = lambda *_: heard.append("plain")
    module.__dict__["_compiled_call_impl"] = lambda *_: heard.append("compiled")
    module(torch.randn(3, 2))
    assert heard == ["compiled"]


def test_a_wrapped_module_shows_that_it_is_compiled() -> None:
    compiled: Any = torch.compile(nn.Linear(2, 2), backend="eager")
    assert "_orig_mod" in compiled._modules


def test_the_call_of_a_copy_is_its_class_s() -> None:
    module = nn.Linear(2, 2)
    other = copy.deepcopy(module)
    x = torch.randn(3, 2)
    assert torch.equal(type(other)._call_impl(other, x), module(x))


def test_all_that_a_module_holds_is_in_dictionaries_of_these_names() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2))
    assert list(module._modules.values()) == [module[0]]
    assert set(module[0]._parameters) == {"weight", "bias"}
    assert set(module[0]._buffers) == {"running_mean", "running_var", "num_batches_tracked"}
    other = torch.ones(2)
    module[0]._buffers["running_mean"] = other
    assert module[0].running_mean is other
    weight = module.get_parameter("0.weight")
    version = weight._version
    with torch.no_grad():
        weight.mul_(2)
    assert weight._version == version + 1


# Where a forward must not be cut.


def test_hooks_on_what_graphs_save_are_seen_and_are_equal_to_themselves() -> None:
    def top() -> Any:
        return torch._C._autograd._top_saved_tensors_default_hooks(True)

    assert top() is None
    with saved_tensors_hooks(lambda t: t, lambda t: t):
        outer = top()
        assert outer is not None
        assert top() == outer
        with saved_tensors_hooks(lambda t: t, lambda t: t):
            assert top() != outer
        assert top() == outer
    assert top() is None


def test_a_checkpointed_region_shows_by_hooks_on_what_graphs_save_or_by_having_no_graph() -> None:
    found: list[tuple[bool, bool]] = []

    def region(x: Tensor) -> Tensor:
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        found.append((torch.is_grad_enabled(), hooks is not None))
        return torch.tanh(x)

    x = random(3, grad=True)
    inside = checkpoint(region, x, use_reentrant=False)
    assert found == [(True, True)]
    checkpoint(region, x, use_reentrant=True)
    assert found[1:] == [(False, False)]
    inside.sum().backward()
    torch.testing.assert_close(x.grad, 1 - torch.tanh(x.detach()).square())


def test_transforms_are_seen() -> None:
    def top() -> Any:
        return torch._C._functorch.peek_interpreter_stack()

    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(top() is not None)
        return x.square().sum()

    x = random(3, 2)
    assert top() is None
    torch.vmap(function)(x)
    torch.func.grad(function)(x)
    assert seen == [True, True]
    assert top() is None


# What is noticed of torch's functions.


def test_no_mode_looks_while_torch_functions_are_disabled() -> None:
    with Seen() as seen, torch._C.DisableTorchFunction():
        torch.tanh(random(2))
    assert seen.functions == []


def test_a_mode_can_leave_the_top_of_the_stack_and_come_back() -> None:
    x = random(2)
    with Seen() as outer, Seen() as inner:
        assert torch._C._get_function_stack_at(torch._C._len_torch_function_stack() - 1) is inner
        torch._C._pop_torch_function_stack()
        torch.tanh(x)
        torch._C._push_on_torch_function_stack(inner)
        torch.sin(x)
    assert inner.functions == [torch.sin]
    assert outer.functions == [torch.tanh, torch.sin]


def _added(x: Tensor) -> None:
    x += 1


def _powered(x: Tensor) -> None:
    x **= 2


def _divided(x: Tensor) -> None:
    x /= 2


def _set(x: Tensor) -> None:
    x[0] = 1


WRITES: list[tuple[Callable[[Tensor], Any], Any]] = [
    (_added, Tensor.add_),
    (_divided, Tensor.div_),
    (_powered, Tensor.__ipow__),
    (_set, Tensor.__setitem__),
    (lambda x: x.tanh_(), Tensor.tanh_),
    (torch.sigmoid_, torch.sigmoid_),
    (lambda x: F.relu(x, inplace=True), F.relu),
    (nn.ReLU(inplace=True), F.relu),
    (lambda x: x.view(-1).mul_(2), Tensor.mul_),
]


@pytest.mark.parametrize(("write", "function"), WRITES, ids=range(len(WRITES)))
def test_a_mode_is_told_of_each_way_to_write_into_a_tensor(write: Callable[[Tensor], Any], function: Any) -> None:
    x = random(3, grad=True) * 1
    with Seen() as seen:
        write(x)
    assert function in seen.functions
    assert x._version > 0


@pytest.mark.parametrize(
    ("join", "function"),
    [
        (lambda a, b: a + b, Tensor.add),
        (lambda a, b: sum([a, b]), Tensor.add),
        (torch.add, torch.add),
        (lambda a, b: torch.cat([a, b]), torch.cat),
    ],
)
def test_a_mode_is_told_of_each_way_to_join_tensors(join: Callable[[Tensor, Tensor], Tensor], function: Any) -> None:
    a, b = random(3), random(3)
    with Seen() as seen:
        join(a, b)
    assert seen.functions[-1] is function


# States.


def test_a_function_applied_without_a_look_for_transforms_is_the_same_function() -> None:
    inbox: list[Any] = []
    x = random(3, grad=True)
    prediction = x.square()
    state = apply(TOKEN, inbox, prediction.detach())
    assert torch.equal(state, prediction)
    assert state.data_ptr() == prediction.data_ptr()
    assert type(state.grad_fn) is type(Passed.apply(TOKEN, inbox, x.detach()).grad_fn)
    assert state.grad_fn.inbox is inbox
    assert not state.is_leaf
    assert not state._is_view()
    (3 * state).sum().backward()
    assert torch.equal(inbox[0][0], torch.full((3,), 3.0, dtype=DOUBLE))
    assert x.grad is None


def test_its_results_may_be_written_into_and_what_arrives_is_the_derivative_by_what_they_were() -> None:
    inbox: list[Any] = []
    one, two = apply(TOKEN, inbox, random(3), random(3))
    one.mul_(5)
    two[0] = 0
    two[1:].mul_(2)
    (one.sum() + two.sum()).backward()
    by_one, by_two = inbox[0]
    assert by_one.tolist() == [5, 5, 5]
    assert by_two.tolist() == [0, 2, 2]


def test_a_result_that_nobody_reads_brings_nothing() -> None:
    inbox: list[Any] = []
    one, _ = apply(TOKEN, inbox, random(3), random(3))
    one.sum().backward()
    assert inbox[0][0].tolist() == [1, 1, 1]
    assert inbox[0][1] is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch about itself, at the first tangent
def test_tangents_come_in_with_the_values() -> None:
    value, tangent = random(3), random(3)
    with torch.autograd.forward_ad.dual_level():
        state = apply(TOKEN, [], torch.autograd.forward_ad.make_dual(value, tangent))
        found = torch.autograd.forward_ad.unpack_dual(2 * state).tangent
    torch.testing.assert_close(found, 2 * tangent)


# Memory.


def test_how_many_hold_some_memory_is_counted() -> None:
    def holders(tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        return torch._C._storage_Use_Count(storage._cdata)

    x = random(3, grad=True)
    fresh = 2 * x
    assert holders(fresh) == 2  # the tensor, and the storage that is asked
    other = fresh.detach()
    assert holders(fresh) == 3
    del other
    assert holders(fresh) == 2
    assert holders(torch.tanh(x)) == 3  # its graph has saved it
    assert holders((2 * x)[:2]) == 3  # the view and its base


def test_python_names_the_base_of_a_view_once_more_where_somebody_holds_it() -> None:
    def names(view: Tensor) -> int:
        base = view._base
        assert base is not None
        return sys.getrefcount(base)

    x = random(3, 4, grad=True)
    held = 2 * x
    assert names(held[:, :2]) == names((2 * x)[:, :2]) + 1
    assert names((2 * x)[:, :2]) == names(nn.Linear(4, 4).double()(x)[:, :2])


def test_a_tensor_is_gone_when_neither_python_nor_a_graph_holds_it() -> None:
    x = random(3, grad=True)
    fresh, saved = 2 * x, 3 * x
    gone, kept = ref(fresh), ref(saved)
    graph = saved.square()
    del fresh, saved
    assert gone() is None
    assert kept() is not None
    del graph
    assert kept() is None


# Graphs.


def first_read_by(value: Tensor) -> Any:
    """The first of the nodes that a tensor's own reads."""
    assert value.grad_fn is not None
    return value.grad_fn.next_functions[0][0]


def test_the_nodes_of_leaves_have_a_class_of_their_own_and_know_their_leaf() -> None:
    view = torch.empty(0, requires_grad=True).view_as(torch.empty(0))
    kind = type(first_read_by(view))
    for leaf in (nn.Parameter(random(2, 2)), random(2, 2, grad=True)):
        node = first_read_by(2 * leaf)
        assert type(node) is kind
        assert node.variable is leaf
        assert type((2 * leaf).grad_fn) is not kind


def test_a_node_is_one_object_while_it_is_held() -> None:
    x = random(3, grad=True)
    middle = torch.tanh(x)
    one, other = middle * 2, middle + 1
    node = middle.grad_fn
    assert first_read_by(one) is node
    assert first_read_by(other) is node
    assert len({node, first_read_by(one)}) == 1


def test_the_engine_pulls_back_from_edges_and_captures_at_edges_and_leaves() -> None:
    inbox: list[Any] = []
    weight, other = random(3, grad=True), random(3, grad=True)
    state = apply(TOKEN, inbox, random(3))
    made = state * weight
    slope = random(3)
    ends = (GradientEdge(state.grad_fn, 0), weight, other)
    edge = get_gradient_edge(made)
    found = engine((edge,), (slope,), True, False, ends, allow_unreachable=True, accumulate_grad=False)
    torch.testing.assert_close(found[0], slope * weight.detach())
    torch.testing.assert_close(found[1], slope * state.detach())
    assert found[2] is None
    assert inbox == []
    assert weight.grad is None
    engine((edge,), (slope,), False, False, (), allow_unreachable=True, accumulate_grad=True)
    torch.testing.assert_close(inbox[0][0], slope * weight.detach())
    torch.testing.assert_close(weight.grad, slope * state.detach())


def test_the_engine_adds_to_a_leaf_what_it_is_given_at_the_leaf() -> None:
    leaf, slope = random(3, grad=True), random(3)
    heard: list[Tensor] = []
    leaf.register_hook(heard.append)
    for _ in range(2):
        engine((leaf,), (slope,), False, False, (), allow_unreachable=True, accumulate_grad=True)
    torch.testing.assert_close(leaf.grad, 2 * slope)
    assert len(heard) == 2


# Hooks on leaves.


@pytest.mark.parametrize("captured", [True, False], ids=["captured", "accumulated"])
def test_hooks_taken_out_of_their_dictionary_are_not_called_and_those_put_back_are(captured: bool) -> None:
    leaf, heard = random(3, grad=True), list[Tensor]()
    assert not leaf._backward_hooks
    leaf.register_hook(heard.append)
    assert leaf._backward_hooks
    made = 2 * leaf

    def pull() -> None:
        edge, ones = get_gradient_edge(made.sum()), torch.ones((), dtype=DOUBLE)
        ends = (leaf,) if captured else ()
        engine((edge,), (ones,), True, False, ends, allow_unreachable=True, accumulate_grad=not captured)

    kept = dict(leaf._backward_hooks)
    leaf._backward_hooks.clear()
    pull()
    assert heard == []
    leaf._backward_hooks.update(kept)
    pull()
    assert [each.tolist() for each in heard] == [[2, 2, 2]]


def test_hooks_for_the_end_of_accumulation_show() -> None:
    leaf = random(3, grad=True)
    assert not getattr(leaf, "_post_accumulate_grad_hooks", None)
    handle = leaf.register_post_accumulate_grad_hook(lambda _: None)
    assert leaf._post_accumulate_grad_hooks
    handle.remove()
    assert not leaf._post_accumulate_grad_hooks


def test_a_handle_takes_a_hook_out_of_any_dictionary() -> None:
    hooks: OrderedDict[int, Any] = OrderedDict()
    handle = RemovableHandle(hooks)
    hooks[handle.id] = print
    handle.remove()
    assert hooks == {}


def test_hooks_of_modules_are_in_dictionaries_of_these_names() -> None:
    module = nn.Linear(2, 2)
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not any(getattr(module, name) for name in names)
    module.register_forward_hook(lambda *_: None)
    module.register_forward_pre_hook(lambda *_: None)
    module.register_full_backward_hook(lambda *_: None)
    module.register_full_backward_pre_hook(lambda *_: None)
    assert all(getattr(module, name) for name in names)


def test_a_hook_on_several_tensors_puts_hooks_of_torchs_own_on_each() -> None:
    x, y = random(3, grad=True) * 1, random(3, grad=True) * 1
    with Seen() as seen:
        torch.autograd.graph.register_multi_grad_hook((x, y), lambda _: None)
    assert seen.functions.count(Tensor.register_hook) == 2


def test_a_graph_can_be_kept_from_noticing_a_write() -> None:
    weight = random(3, grad=True)
    told, untold = weight.square().sum(), weight.square().sum()
    with torch.no_grad(), unnoticed_writes([weight]):
        weight.add_(1)
    (slope,) = torch.autograd.grad(untold, weight)
    assert torch.equal(slope, 2 * weight)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(told, weight)


def test_a_graph_can_be_told_afterwards_that_nothing_was_written() -> None:
    weight = random(3, grad=True)
    cost, version = weight.square().sum(), weight._version
    with torch.no_grad():
        weight.add_(1)
    set_versions([weight], [version])
    assert weight._version == version
    (slope,) = torch.autograd.grad(cost, weight)
    assert torch.equal(slope, 2 * weight)


def test_there_is_a_table_of_operations_made_of_fewer() -> None:
    table, aten = core_decompositions(), torch.ops.aten
    a, b, c = random(3), random(3), random(3)
    assert torch.allclose(table[aten.addcmul.default](a, b, c, value=2), a + 2 * b * c)
    assert aten.add.Tensor not in table


def test_who_holds_a_piece_of_memory_is_counted() -> None:
    tensor = random(3)
    storage = tensor.untyped_storage()
    alone = storage_users(storage)
    other = tensor.detach()
    assert storage_users(storage) == alone + 1
    del other
    assert storage_users(storage) == alone == 2
