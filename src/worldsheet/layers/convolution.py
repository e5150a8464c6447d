"""A plane convolution with its derivatives, without a graph."""

from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import Parameter
from typing_extensions import override

from worldsheet.core.types import AnyState, Costate, Point, State
from worldsheet.layers.steps import Factors, Step


@final
class Convolution(Step):
    """The map y = x ∗ W + b on images (batch, channels, height, width), zeros around them.

    Never stacked: torch has no batched convolution that is faster than its parts.
    """

    __slots__ = ("_module",)

    def __init__(self, module: nn.Conv2d) -> None:
        self._module = module

    def forward(self, x: Point) -> tuple[State, Point]:
        """One convolution; x is saved."""
        m = self._module
        return F.conv2d(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups), x

    def pull(self, credit: Costate, saved: Point) -> AnyState:
        """One transposed convolution."""
        return cast(Tensor, self._transposed(credit, saved, (True, False, False))[0])

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One convolution of x with the credit and, for b, one sum."""
        parameters = (self._module._parameters["weight"], self._module._parameters["bias"])
        wanted = [parameter is not None and parameter.requires_grad for parameter in parameters]
        parts = self._transposed(credit, saved, (False, *wanted))[1:] if any(wanted) else ()
        pairs = zip(parameters, parts, strict=bool(parts))
        return tuple((parameter, part) for parameter, part in pairs if parameter is not None and part is not None)

    def factors(self, credit: Costate, saved: Point) -> Factors | None:
        """Patches of x and the credits of all places; None where channels are in groups."""
        m = self._module
        if m.groups != 1 or isinstance(m.padding, str):
            return None
        patches = F.unfold(saved, m.kernel_size, m.dilation, m.padding, m.stride)
        inputs = patches.transpose(1, 2).flatten(0, 1)
        return Factors(m.weight, inputs, credit.permute(0, 2, 3, 1).flatten(0, 2), credit.shape[0])

    @property
    @override
    def has_parameters(self) -> bool:
        return True

    def fits(self, x: Point) -> bool:
        """Batches of images of the weight's dtype, padded with a number of zeros."""
        m = self._module
        plain = m.padding_mode == "zeros" and not isinstance(m.padding, str) and type(m.weight) is Parameter
        return plain and x.dim() == 4 and x.dtype == m.weight.dtype

    def _transposed(self, credit: Costate, x: Point, mask: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
        m = self._module
        found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            credit, x, m.weight, [m.out_channels], m.stride, m.padding, m.dilation, False, [0, 0], m.groups, mask
        )
        return found
