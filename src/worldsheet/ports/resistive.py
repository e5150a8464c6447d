"""A resistor: gradient descent."""

from typing import Any, final

from torch import Tensor

from worldsheet.ports.base import Parameters, ScalarPort, defaults_of


@final
class Resistive(ScalarPort):
    """A port that reflects nothing: θ̇ = −e/R with R = 1/lr, to the last bit `torch.optim.SGD(params, lr)`.

    Args:
        params: parameters or parameter groups.
        lr: 1/R.

    Raises:
        InputError: a rate that is not positive.

    Reference:
        Pehle & Slotine, arXiv 2602.10461, Theorem 4.4.
    """

    def __init__(self, params: Parameters, lr: float) -> None:
        super().__init__(params, defaults_of("Resistive", lr))

    def flow(self, parameter: Tensor, effort: Tensor, group: dict[str, Any]) -> tuple[Tensor, float]:
        """−lr e."""
        return effort, -group["lr"]

    def resistance(self, group: dict[str, Any]) -> float:
        """1/lr."""
        return 1 / float(group["lr"])
