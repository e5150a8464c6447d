"""Leaf tensors: parameters, and inputs that require grad."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from worldsheet.core.private_torch import run_backward


def is_watched(leaf: Tensor) -> bool:
    """Whether hooks of the user's wait for a leaf's gradient."""
    return bool(leaf._backward_hooks or getattr(leaf, "_post_accumulate_grad_hooks", None))


def answered(leaf: Tensor, gradient: Tensor) -> Tensor:
    """A whole gradient as the user's hooks on the leaf change it: what torch.autograd.grad returns."""
    for hook in tuple((leaf._backward_hooks or {}).values()):
        changed = hook(gradient)
        gradient = gradient if changed is None else changed
    return gradient


def deliver(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Add whole gradients to `.grad` as the end of a backward pass does, with the user's hooks."""
    if pairs:
        leaves, gradients = zip(*pairs, strict=True)
        run_backward(leaves, gradients, False, False, (), allow_unreachable=True, accumulate_grad=True)


@contextmanager
def silenced(leaves: Iterable[Tensor]) -> Iterator[None]:
    """Keep hooks on leaves from being called with the parts of a gradient: they are meant for the whole.

    Torch calls them with whatever arrives at a leaf; it finds them in the dictionary that this empties meanwhile.
    """
    hooks = [leaf._backward_hooks for leaf in leaves if leaf._backward_hooks]
    kept = [dict(each) for each in hooks]
    for each in hooks:
        each.clear()
    try:
        yield
    finally:
        for each, before in zip(hooks, kept, strict=True):
            each.update(before)
