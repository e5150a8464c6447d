"""A chain cut into one chain for each stage."""

from torch import nn

from worldsheet.core.errors import InputError
from worldsheet.pipeline.partition import Plan
from worldsheet.problem import Chain


def parts_of(chain: Chain, plan: Plan) -> list[Chain]:
    """The chain's layers cut by the plan, each with the loss, which only the last uses.

    Raises:
        InputError: a plan for another chain, a chain that is no path, or a parameter that two stages share.
    """
    layers = chain.layers
    if plan.cuts[-1] != len(layers):
        raise InputError(f"a plan for {plan.cuts[-1]} layers", f"{len(layers)} layers", "make a plan for this chain")
    parts = [Chain([layers[i].module for i in plan.layers(s)], chain.loss) for s in range(plan.stages)]
    owner: dict[int, int] = {}
    for index, part in enumerate(parts):
        modules = [layer.module for layer in part.layers]
        held = [p for module in modules for p in module.parameters()]
        if index == plan.stages - 1 and isinstance(chain.loss, nn.Module):
            held += chain.loss.parameters()
        for parameter in held:
            if owner.setdefault(id(parameter), index) != index:
                raise InputError(
                    f"a parameter of shape {tuple(parameter.shape)} in stages {owner[id(parameter)]} and {index}",
                    "parameters that one stage owns",
                    "cut so that its uses are in one stage, or untie it",
                )
    return parts
