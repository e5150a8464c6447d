"""Gauss–Newton curvature by costates: the output's curvature, sent down like any other credit."""

from typing import Any

import torch
from torch import Tensor, nn

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState
from worldsheet.dynamics import Dyadic, Dynamics
from worldsheet.ports import Newton
from worldsheet.problem import Chain
from worldsheet.solve.relax import relax
from worldsheet.solve.solution import refuse_diverged


def curvature(chain: Chain, x: Tensor, target: Any, port: Newton, dynamics: Dynamics = Dyadic()) -> None:
    """Show a port the Gauss–Newton factors of a batch instead of those of its gradient.

    The loss of one sample has a Hessian H = Σ_k h_k h_kᵀ at the output. Each column h_k is a credit of its own, and is
    pulled back to every layer by the same local messages, one copy of the batch per column:

        G_l = E[ Σ_k (J_lᵀ h_k)(J_lᵀ h_k)ᵀ ] = E[ J_lᵀ H J_l ]                                       (G)

    For an output with several places, as of a convolution, a channel's column is sent from all places at once, which is
    exact for the last layer. `.grad` is not touched. Costs one relaxation of a batch as many times larger as there are
    columns. Dropout and batch-norm act on the copies as on any batch.

    Args:
        chain: layers and `nn.MSELoss` or `nn.CrossEntropyLoss` of class indices, mean or sum.
        x: input x_0.
        target: what the loss compares the output with; its value does not matter to H.
        port: whose averages are moved.
        dynamics: how a site moves.

    Raises:
        InputError: a loss whose Hessian has no known root, or layers that the port cannot watch.
        RelaxationError: a relaxation that diverged.
    """
    reduction = _reduction(chain, port)
    output = _output(chain, x, target, dynamics)
    columns = _columns(chain.loss, output, 1 if reduction == "sum" else output[0].numel())
    copies = columns.shape[1]

    def sent(outputs: Tensor, credits: Tensor) -> Tensor:
        """A loss whose slope is one column per copy of a sample."""
        return (outputs * credits).sum() * (copies**0.5 / len(outputs) if reduction == "mean" else 1)

    batch = x.detach().repeat_interleave(copies, 0)
    solution = relax(port.attach(chain.with_loss(sent)), batch, columns.flatten(0, 1), dynamics)
    refuse_diverged(solution.outcome)


def _output(chain: Chain, x: Tensor, target: Any, dynamics: Dynamics) -> Tensor:
    """What the loss is given at the end of a relaxation.

    Raises:
        InputError: a module that returns anything but one tensor.
    """
    seen: list[Any] = []

    def look(output: Any, wanted: Any) -> Tensor:
        """The loss itself."""
        seen.append(output)
        return chain.loss(output, wanted)

    relax(chain.with_loss(look), x, target, dynamics)
    if not isinstance(seen[-1], Tensor):
        raise InputError(
            f"the module returned an object of type {type(seen[-1]).__name__}, not one tensor",
            "one output tensor, with the batch in front",
            "let the port see the credits of the loss itself: ws.backward(port.attach(chain), x, target)",
        )
    found: Tensor = seen[-1].detach()
    return found


def _reduction(chain: Chain, port: Newton) -> str:
    loss = chain.loss
    plain = type(loss) is nn.MSELoss or (type(loss) is nn.CrossEntropyLoss and loss.weight is None)
    reduction = str(getattr(loss, "reduction", "none"))
    if not plain or reduction not in ("mean", "sum"):
        raise InputError(
            f"the exact curvature of loss {chain.loss_name} with reduction '{reduction}' is not known",
            "nn.MSELoss, or nn.CrossEntropyLoss without class weights, averaged or summed",
            "let the port see the credits of the loss itself: ws.backward(port.attach(chain), x, target)",
        )
    if any(group["averaged"] != (reduction == "mean") for group in port.param_groups):
        raise InputError(
            f"the optimizer was made for a loss that is {'summed' if reduction == 'mean' else 'averaged'} over the "
            "batch, and this one is not",
            "the same for both",
            f"make it with Newton(..., averaged={reduction == 'mean'})",
        )
    return reduction


def _columns(loss: object, output: Tensor, entries: int) -> AnyState:
    """Roots h_k of one sample's Hessian at the output, (batch, columns, ...); squares are averaged over entries."""
    unit = torch.eye(output.shape[1], dtype=output.dtype, device=output.device)
    if isinstance(loss, nn.CrossEntropyLoss):
        if output.dim() != 2:
            raise InputError(
                f"the output must be two-dimensional for cross-entropy, got shape {tuple(output.shape)}",
                "shape (batch, classes)",
                "flatten the output first",
            )
        chances = output.softmax(1)
        columns: Tensor = chances.sqrt().unsqueeze(2) * (unit - chances.unsqueeze(1))
        return columns
    places = output.dim() - 2
    spread: Tensor = ((2 / entries) ** 0.5 * unit).reshape(1, *unit.shape, *[1] * places)
    return spread.expand(len(output), *unit.shape, *output.shape[2:])
