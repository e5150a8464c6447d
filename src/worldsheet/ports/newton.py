"""A resistance that is the curvature: Newton's method in Kronecker factors."""

from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.layers import Factors, Observer
from worldsheet.ports.base import Port, Powers, defaults_of
from worldsheet.problem import Chain

Layers: TypeAlias = nn.Module | Iterable[nn.Module] | Iterable[dict[str, Any]]
"""A module, several, or groups of them: dictionaries with `modules` and the options of the group."""


class _Layer(NamedTuple):
    """A weight with its bias, seen as one matrix (out, in + 1)."""

    weight: Tensor
    bias: Tensor | None


@final
class Newton(Port, Observer):
    """A port whose resistance is the Gauss–Newton curvature R = (A ⊗ G)/lr of a linear map y = W x + b.

        A = E[x xᵀ],     G = E[g gᵀ],     θ̇ = −lr G⁻¹ e A⁻¹                                          (N)

    with x the layer's input, a 1 appended for b, and g its credit per sample: what the layer's own site holds, and
    nothing from elsewhere. With the credits of the loss itself R is the empirical Fisher matrix; with those that
    `ws.diagnostics.curvature` sends down it is Gauss–Newton, and one undamped step with lr = 1 reaches the
    least-squares optimum of a linear layer. For a convolution x runs over patches.

    Factors are seen where efforts are taken, if the relaxation is given `port.attach(chain)` instead of the chain.
    They are averaged over relaxations, and over the uses of a shared layer.

    Damping d is shared between the factors in proportion to their mean eigenvalues a and g: √(d a/g) is added to A and
    √(d g/a) to G, so that R grows by about d and θ̇ stays below lr e/d. The reflected power |e + Rθ̇|² is measured in the
    metric of the damped resistance, ½ (e + Rθ̇)ᵀ R_d⁻¹ (e + Rθ̇): zero without damping.

    Cost per step: a Cholesky factor of each A (in + 1)² and G (out)².

    Args:
        layers: a module whose parameters are all of `nn.Linear` and `nn.Conv2d`, several, or groups of them.
        lr: 1 is Newton's step.
        damping: d, in units of curvature, loss per parameter squared; 0 for none.
        memory: how much of the old averages is kept at each relaxation; 0 uses the last one alone.
        averaged: whether the loss is a mean over the first dimension (else a sum).

    Raises:
        InputError: a rate, damping or memory out of range, or layers without Kronecker factors.

    Reference:
        Pehle & Slotine, arXiv 2602.10461, Theorem 4.4; the factors are those of Martens & Grosse, arXiv 1503.05671.
    """

    def __init__(
        self, layers: Layers, lr: float = 1.0, damping: float = 0.1, memory: float = 0.95, *, averaged: bool = True
    ) -> None:
        if not (isfinite(damping) and damping >= 0 and 0 <= memory < 1):
            raise InputError(
                "Newton: damping must be 0 or more and memory at least 0 and below 1, "
                f"got damping={damping}, memory={memory}",
                "finite numbers in these ranges",
                "use damping=0.1, memory=0.95",
            )
        options = {**defaults_of("Newton", lr, damping=damping, memory=memory), "averaged": averaged}
        super().__init__([_group(part) for part in _parts(layers)], options)
        self._powers = []

    def attach(self, chain: Chain) -> Chain:
        """The chain as this port watches it; give it to the verb in the chain's place.

        Raises:
            InputError: a layer of this port's that the chain does not have, or not as a closed form.
        """
        watched = chain.with_observer(self)
        shown = watched.shown()
        for group in self.param_groups:
            for name, layer in _named(group):
                if id(layer.weight) not in shown:
                    raise InputError(
                        f"{name} is not a layer with known derivatives in this chain",
                        "every layer of the optimizer in a site of linear layers, convolutions and plain activations",
                        "make the chain with flatten=True, or leave the layer to another optimizer",
                    )
        return watched

    @torch.no_grad()
    def see(self, factors: Factors) -> None:
        """Take a layer's inputs and credits into the averages, unless no credit has come yet."""
        if not bool(factors.credits.any()):
            return
        for group in self.param_groups:
            for _, layer in _named(group):
                if layer.weight is factors.weight:
                    self._average(layer, factors, group)

    @override
    def answer(self, group: dict[str, Any]) -> Powers | None:
        powers = [self._move(name, layer, group) for name, layer in _named(group) if layer.weight.grad is not None]
        if not powers:
            return None
        incident, reflected = zip(*powers, strict=True)
        return Powers(torch.stack(incident).sum(), torch.stack(reflected).sum())

    def _average(self, layer: _Layer, factors: Factors, group: dict[str, Any]) -> None:
        inputs, credits = factors.inputs, factors.credits
        if layer.bias is not None:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        seen = {
            "inputs": inputs.t() @ inputs / len(inputs),
            "credits": credits.t() @ credits * (factors.samples if group["averaged"] else 1),
            "weight": inputs.new_ones(()),
        }
        state = self.state[layer.weight]
        for name, value in seen.items():
            state[name] = value if name not in state else state[name] * group["memory"] + value

    def _move(self, name: str, layer: _Layer, group: dict[str, Any]) -> Powers:
        state = self.state[layer.weight]
        if "weight" not in state:
            raise InputError(
                f"Newton has not seen {name} in any relaxation, and has no curvature for its step",
                "at least one relaxation of the chain that the optimizer watches",
                "seen = port.attach(chain), and ws.backward(seen, x, target) in place of ws.backward(chain, …)",
            )
        curvatures = [state[factor] / state["weight"] for factor in ("inputs", "credits")]
        means = [c.diagonal().mean().clamp_min(torch.finfo(c.dtype).tiny ** 0.25) for c in curvatures]
        shares = [(group["damping"] * means[0] / means[1]) ** 0.5, (group["damping"] * means[1] / means[0]) ** 0.5]
        roots = [_root(*pair, name) for pair in zip(curvatures, shares, strict=True)]
        effort = _joined(layer)
        flow = _solved(effort, roots)
        through = curvatures[1] @ flow @ curvatures[0]  # −R θ̇: what the port would need to be met with
        waves = [effort + through, effort - through]
        layer.weight.add_(flow[:, : layer.weight[0].numel()].reshape(layer.weight.shape), alpha=-group["lr"])
        if layer.bias is not None:
            layer.bias.add_(flow[:, -1], alpha=-group["lr"])
        return Powers(*(group["lr"] / 2 * (wave * _solved(wave, roots)).sum() for wave in waves))


def _parts(layers: Layers) -> list[dict[str, Any]]:
    if isinstance(layers, nn.Module):
        return [{"modules": [layers]}]
    given = list(layers)
    grouped = [part for part in given if isinstance(part, dict)]
    return grouped or [{"modules": given}]


def _group(part: dict[str, Any]) -> dict[str, Any]:
    """A parameter group with names, weights each followed by its bias.

    Raises:
        InputError: a layer that trains other parameters than those of a linear map.
    """
    options = dict(part)
    modules = options.pop("modules")
    found: dict[int, tuple[str, Tensor]] = {}
    for root in [modules] if isinstance(modules, nn.Module) else modules:
        for name, module in root.named_modules():
            named = [(key, p) for key, p in module.named_parameters(recurse=False) if p.requires_grad]
            if named and not _has_factors(module, [key for key, _ in named]):
                raise InputError(
                    f"Newton does not know the curvature of layer '{name}' ({type(module).__name__}) with parameters "
                    f"{', '.join(key for key, _ in named)}",
                    "nn.Linear and nn.Conv2d without groups or special padding, whose weights are trained",
                    "give Newton the other layers as a list, and this one to an optimizer of its own",
                )
            found.update({id(p): (f"{name}.{key}" if name else key, p) for key, p in named})
    return {**options, "params": list(found.values())}


def _has_factors(module: nn.Module, trained: list[str]) -> bool:
    if type(module) is nn.Conv2d:
        plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return plain and "weight" in trained
    return type(module) is nn.Linear and "weight" in trained


def _named(group: dict[str, Any]) -> Iterator[tuple[str, _Layer]]:
    """The layers of a group: a bias is the one vector after its weight."""
    params, names = group["params"], group["param_names"]
    for index, (name, weight) in enumerate(zip(names, params, strict=True)):
        if weight.dim() > 1:
            after = params[index + 1] if index + 1 < len(params) and params[index + 1].dim() == 1 else None
            yield name.removesuffix(".weight"), _Layer(weight, after)


def _joined(layer: _Layer) -> Tensor:
    """The effort of weight and bias as one matrix."""
    effort = (torch.zeros_like(layer.weight) if layer.weight.grad is None else layer.weight.grad).flatten(1)
    if layer.bias is None:
        return effort
    bias = torch.zeros_like(layer.bias) if layer.bias.grad is None else layer.bias.grad
    return torch.cat([effort, bias.unsqueeze(1)], 1)


def _root(curvature: Tensor, damping: Tensor, name: str) -> Tensor:
    """The Cholesky factor of a damped curvature.

    Raises:
        InputError: it is singular.
    """
    damped = curvature + damping * torch.eye(len(curvature), dtype=damping.dtype, device=damping.device)
    root, info = torch.linalg.cholesky_ex(damped)
    pivots = root.diagonal().square()
    if int(info) or not bool(pivots.min() > len(root) * torch.finfo(root.dtype).eps * pivots.max()):
        raise InputError(
            f"the curvature of {name} is singular to rounding, with damping {float(damping):.1e}",
            "more independent rows than columns, or some damping",
            "use damping=0.1, larger batches, or more memory",
        )
    found: Tensor = root
    return found


def _solved(effort: Tensor, roots: list[Tensor]) -> Tensor:
    """G⁻¹ e A⁻¹."""
    left: Tensor = torch.cholesky_solve(effort, roots[1])
    right: Tensor = torch.cholesky_solve(left.t(), roots[0])
    return right.t()
