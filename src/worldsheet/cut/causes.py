"""What usually stands behind a layer or a loss that fails on what it was given, with the remedy that fits.

Asked after a call has failed, and only about shapes, dtypes and devices, so that a call that works costs nothing. Of
torch's own modules and losses it is known what they take. A module or loss of the user's may take anything and fail for
a reason of its own: there a cause is told only if its error speaks of it. Otherwise that error is passed on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsheet.core.errors import LayerError
from worldsheet.core.private_torch import tree_leaves

_Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d

_BY_ENTRY = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
_BY_ENTRY_AS_FUNCTIONS = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
_BY_CLASS = (nn.CrossEntropyLoss, nn.NLLLoss)
_BY_CLASS_AS_FUNCTIONS = (F.cross_entropy, F.nll_loss)


def name_of(function: object) -> str:
    """How a loss is called in messages."""
    return getattr(function, "__name__", type(function).__name__)


def in_words(value: object) -> str:
    """What a function returned where something else was wanted."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"an object of type {type(value).__name__}"


def describe(value: Any) -> str:
    """Shapes and dtypes of the tensors in a value, or its class."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {_short(value.dtype)}"
    found = [describe(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return ", ".join(found[:4]) + ("" if len(found) <= 4 else ", ...") if found else type(value).__name__


_OF_DTYPES = ("dtype", "scalar type", "Input type")  # by which torch's errors speak of them


class Where(NamedTuple):
    """A call that failed, in words.

    Attributes:
        place: what was called.
        source: where its argument comes from, with a space before it; empty where that is not known.
        outermost: whether that is the user's input, which the user can change.
    """

    place: str
    source: str
    outermost: bool


def cause_in_layer(where: Where, module: nn.Module, given: Any, error: Exception) -> LayerError | None:
    """Why a module fails with an error on the arguments that it is given, if it is one of the usual reasons."""
    points = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    inner = _first_called(module)
    if not points:
        kind = next((type(leaf).__name__ for leaf in tree_leaves(given)), "nothing")
        if not (_is_torchs(inner) or kind == "DataLoader"):
            return None
        cure = "loop over it: for x, target in loader" if kind == "DataLoader" else "convert it: torch.as_tensor(x)"
        return LayerError(f"{where.place} needs a tensor, got type {kind}{where.source}", "a torch.Tensor", cure)
    if parameter is not None:
        return _cause_at(where, inner, points[0], parameter, error)
    return None


def _cause_at(
    where: Where, inner: nn.Module | None, point: Tensor, parameter: Tensor, error: Exception
) -> LayerError | None:
    torchs = _is_torchs(inner)
    if point.device != parameter.device and (torchs or "device" in str(error)):
        return _other_device(where, point, parameter)
    if isinstance(inner, nn.Embedding):
        return _cause_in_embedding(where, inner, point)
    reads = isinstance(inner, (nn.Linear, _Convolution)) or point.is_floating_point()
    if point.dtype != parameter.dtype and reads and (torchs or any(word in str(error) for word in _OF_DTYPES)):
        return _other_dtype(where, point, parameter)
    return _cause_in_shape(where, inner, point)


def _cause_in_shape(where: Where, inner: nn.Module | None, point: Tensor) -> LayerError | None:
    if isinstance(inner, nn.Linear):
        return _cause_in_linear(where, inner, point)
    return _cause_in_convolution(where, inner, point) if isinstance(inner, _Convolution) else None


def loss_error(loss: Callable[..., Any], output: Any, target: Any, error: Exception) -> LayerError:
    """The error of a loss, told by its cause, or else with what it was given."""
    return _cause_in_loss(loss, output, target, error) or LayerError(
        f"loss {name_of(loss)} failed on output {describe(output)} and target {describe(target)}: {error}",
        "an output and a target of the shapes and dtypes this loss is written for",
        "call the loss itself on model(x) and the target: it must work first",
    )


def _cause_in_loss(loss: Callable[..., Any], output: Any, target: Any, error: Exception) -> LayerError | None:
    """Why a loss fails with an error on an output and a target, if it is one of the usual reasons."""
    name = name_of(loss)
    if not _is_torchs(loss) and "device" not in str(error):
        return None
    if target is None or type(target) is list or type(target).__module__ == "numpy":
        cure = "pass the target as the third argument" if target is None else "convert it: torch.as_tensor(target)"
        return LayerError(f"loss {name} needs a tensor, the target has type {_kind(target)}", "a torch.Tensor", cure)
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)):
        return None
    if output.device != target.device:
        return LayerError(
            f"loss {name} has the output on {output.device} and the target on {target.device}",
            "both on one device",
            f'move the target: target.to("{output.device}")',
        )
    if isinstance(loss, _BY_CLASS) or loss in _BY_CLASS_AS_FUNCTIONS:
        return _cause_among_classes(loss, name, output, target)
    return unequal_shapes(loss, output, target)


def unequal_shapes(loss: Callable[..., Any], output: Any, target: Any) -> LayerError | None:
    """A loss that compares entry by entry, of tensors of two shapes: torch would compare them all with all.

    Asked before the loss is called, since that goes wrong without a word or with a warning.
    """
    if not (isinstance(loss, _BY_ENTRY) or loss in _BY_ENTRY_AS_FUNCTIONS):
        return None
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or output.shape == target.shape:
        return None
    if output.dim() and target.dim() and output.shape[0] != target.shape[0]:
        cure = "give the targets of the very samples in x"
    elif output.numel() == target.numel():
        cure = "reshape the target: target.reshape(output.shape), often target.unsqueeze(1)"
    elif not target.is_floating_point() and output.shape[:1] == target.shape:
        cure = "use nn.CrossEntropyLoss() for class indices, or F.one_hot(target, classes).float()"
    else:
        cure = "give a target for every entry of the output: target.expand_as(output), if one is meant for several"
    return LayerError(
        f"loss {name_of(loss)} must have a target of the output's shape {tuple(output.shape)}, got "
        f"{tuple(target.shape)}",
        "a target of the output's shape",
        cure,
    )


def no_scalar(name: str, cost: object) -> LayerError:
    """The error of a loss that returned anything but a tensor with one entry."""
    if isinstance(cost, Tensor):
        cure = "average or sum over the batch: reduction='mean' or 'sum', or .mean()"
    elif isinstance(cost, (int, float)):
        cure = "return the tensor itself, without .item() or float(): the library reads the number when it is safe"
    elif cost is None:
        cure = "let the function end with return"
    else:
        cure = "return the one tensor that is to fall"
    return LayerError(f"loss {name} returned {in_words(cost)}, not a scalar tensor", "a tensor with one entry", cure)


def _is_torchs(function: object) -> bool:
    """Whether a module or loss is one of torch's own."""
    named = function if hasattr(function, "__name__") else type(function)
    return str(getattr(named, "__module__", "")).startswith("torch.")


def _first_called(module: nn.Module) -> nn.Module | None:
    """What meets the input of a module first: itself, or the first of Sequentials in each other."""
    return next((part for part in module.modules() if type(part) is not nn.Sequential), None)


def _other_device(where: Where, point: Tensor, parameter: Tensor) -> LayerError:
    to = (
        f'move the input: x.to("{parameter.device}")'
        if where.outermost
        else f'move the model: model.to("{point.device}")'
    )
    return LayerError(
        f"{where.place} is on {parameter.device}, got a tensor on {point.device}{where.source}",
        "both on one device",
        to,
    )


def _other_dtype(where: Where, point: Tensor, parameter: Tensor) -> LayerError:
    wanted, calls = _short(parameter.dtype), {torch.float32: "float()", torch.float64: "double()"}
    call = calls.get(parameter.dtype, f"to({parameter.dtype})")
    if not where.outermost:
        cure = f"give both layers one dtype: model.{call}"
    elif point.dtype is torch.uint8:
        cure = f"convert the images: x.{call} / 255"
    else:
        cure = f"convert the input: x.{call}"
    return LayerError(
        f"{where.place} has parameters of dtype {wanted}, got dtype {_short(point.dtype)}{where.source}",
        "one dtype",
        cure,
    )


def _cause_in_embedding(where: Where, inner: nn.Embedding, point: Tensor) -> LayerError | None:
    if point.dtype not in (torch.int32, torch.int64):
        return LayerError(
            f"{where.place} reads indices, got dtype {_short(point.dtype)}{where.source}",
            "int64",
            "convert them: x.long()",
        )
    return _outside(
        f"{where.place} has rows for", point, inner.num_embeddings, "make the table larger: nn.Embedding(n, …)"
    )


def _cause_in_linear(where: Where, inner: nn.Linear, point: Tensor) -> LayerError | None:
    wanted = inner.in_features
    if point.dim() and point.shape[-1] == wanted:
        return None
    if point.dim() > 2 and point[0].numel() == wanted:
        cure = "put nn.Flatten() before it"
    elif point.dim() == 1 and point.numel() == wanted:
        cure = "give a batch: x.unsqueeze(0)"
    else:
        found = point[0].numel() if point.dim() > 1 else point.numel()
        cure = f"let it read what arrives: nn.Linear({found}, {inner.out_features})"
        cure += ", after nn.Flatten()" if point.dim() > 2 else ""
    return LayerError(
        f"{where.place} reads {wanted} features in the last dimension, got shape {tuple(point.shape)}{where.source}",
        f"an input of shape (batch, {wanted})",
        cure,
    )


def _cause_in_convolution(where: Where, inner: _Convolution, point: Tensor) -> LayerError | None:
    spatial, channels = len(inner.kernel_size), inner.in_channels
    if point.dim() in (spatial + 1, spatial + 2) and point.shape[-spatial - 1] == channels:
        return None
    axes = ", ".join(("length",) if spatial == 1 else ("depth", "height", "width")[-spatial:])
    if point.dim() == spatial + 2 and point.shape[-1] == channels:
        order = ", ".join(map(str, (0, spatial + 1, *range(1, spatial + 1))))
        cure = f"bring the channels to the second place: x.permute({order})"
    elif channels == 1 and point.dim() == spatial + 1:
        cure = "add the channel: x.unsqueeze(1)"
    else:
        cure = "let its in_channels be what arrives, and the shape (batch, channels, " + axes + ")"
    return LayerError(
        f"{where.place} reads {channels} channels, got shape {tuple(point.shape)}{where.source}",
        f"an input of shape (batch, {channels}, {axes})",
        cure,
    )


def _cause_among_classes(loss: Callable[..., Any], name: str, output: Tensor, target: Tensor) -> LayerError | None:
    if output.dim() == 0:
        return None
    classes, rows = output.shape[1 if output.dim() > 1 else 0], (output.shape[0], *output.shape[2:])
    wanted = "int64 class indices of shape " + str(rows if output.dim() > 1 else ())
    if target.shape == output.shape and output.dim() > 1:
        return LayerError(
            f"loss {name} failed on a target of dtype {_short(target.dtype)} and the output's shape",
            f"probabilities of the output's dtype, or {wanted}",
            "convert the target: target.to(output.dtype), or F.one_hot's argument itself",
        )
    if output.dim() > 1 and tuple(target.shape) != rows:
        cure = "give the targets of the very samples in x"
        if target.dim() == output.dim() and target.shape[1] == 1:
            cure = "leave out the dimension of size 1: target.squeeze(1)"
        elif output.dim() == 3 and tuple(target.shape) == tuple(output.shape[:2]):
            cure = "bring the classes to the second place: output.transpose(1, 2) at the end of the model"
        elif output.dim() == 2 and target.dim() > 1 and target.shape[0] * target.shape[1] == output.shape[0]:
            cure = "flatten the target: target.flatten()"
        return LayerError(
            f"loss {name} has an output of shape {tuple(output.shape)} and a target of shape {tuple(target.shape)}",
            wanted,
            cure,
        )
    if target.dtype is not torch.int64:
        return LayerError(
            f"loss {name} reads class indices, the target has dtype {_short(target.dtype)}",
            wanted,
            "convert the target: target.long()",
        )
    ignored = getattr(loss, "ignore_index", -100)
    cure = "number the classes from 0, or let the last layer have an output for each class"
    return _outside(f"loss {name} has an output with", target[target != ignored], classes, cure, "classes")


def _outside(said: str, indices: Tensor, count: int, cure: str, what: str = "indices") -> LayerError | None:
    """An index that is not there, where indices can be read: a GPU that has met one answers nothing any more."""
    if indices.device.type != "cpu" or not indices.numel():
        return None
    low, high = int(indices.min()), int(indices.max())
    if low >= 0 and high < count:
        return None
    return LayerError(
        f"{said} {count} {what}, and {low if low < 0 else high} is none of them", f"0 to {count - 1}", cure
    )


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
