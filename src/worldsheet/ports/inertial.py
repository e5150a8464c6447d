"""A resistor with a mass: momentum."""

from typing import Any, final

from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.ports.base import Parameters, ScalarPort, defaults_of


@final
class Inertial(ScalarPort):
    """A port with mass m and resistance R, m θ̈ + R θ̇ = −e: to the last bit `torch.optim.SGD(params, lr, momentum)`.

    In steps of one unit of time v ← (1 − R/m) v − e/m, θ ← θ + v, so that momentum = 1 − R/m and lr = 1/m, or
    m = 1/lr and R = (1 − momentum)/lr. At constant effort the flow settles at −e/R and nothing is reflected; what is
    reflected is what the mass takes up.

    Args:
        params: parameters or parameter groups.
        lr: 1/m.
        momentum: 1 − R/m, at least 0 and below 1.

    Raises:
        InputError: a rate that is not positive, or a momentum outside [0, 1).

    Reference:
        Pehle & Slotine, arXiv 2602.10461, Theorem 4.4; the correspondence of constants is derived.
    """

    def __init__(self, params: Parameters, lr: float, momentum: float = 0.9) -> None:
        if not 0 <= momentum < 1:
            raise InputError(
                f"Inertial: momentum must be at least 0 and below 1, got {momentum}",
                "the share of its velocity that a step keeps",
                "use 0.9: R is a tenth of m",
            )
        super().__init__(params, defaults_of("Inertial", lr, momentum=momentum))

    def flow(self, parameter: Tensor, effort: Tensor, group: dict[str, Any]) -> tuple[Tensor, float]:
        """−lr times the accumulated effort."""
        state = self.state[parameter]
        known = state.get("momentum_buffer")
        if known is None:
            state["momentum_buffer"] = known = effort.clone()
        else:
            known.mul_(group["momentum"]).add_(effort)
        return known, -group["lr"]

    def resistance(self, group: dict[str, Any]) -> float:
        """(1 − momentum)/lr."""
        return (1 - float(group["momentum"])) / float(group["lr"])
