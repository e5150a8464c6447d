"""Which modules have a closed form."""

from torch import nn

from worldsheet.layers.activations import RELU, SIGMOID, TANH
from worldsheet.layers.convolution import Convolution
from worldsheet.layers.steps import Affine, Flattened, OffersStep, Pointwise, Step


def steps_of(module: object) -> tuple[Step, ...] | None:
    """The steps of a linear layer, convolution, known activation or plain Sequential of them; None for anything else.

    Exact classes only: a subclass may compute something else.
    """
    kind = type(module)
    if isinstance(module, nn.Linear) and kind is nn.Linear:
        return (Affine(module),)
    if isinstance(module, nn.Sequential) and kind is nn.Sequential and len(module):
        parts = [steps_of(child) for child in module]
        return None if None in parts else tuple(step for part in parts if part for step in part)
    if isinstance(module, OffersStep):
        return (module.step(),)
    if isinstance(module, nn.Flatten) and kind is nn.Flatten:
        return (Flattened(module),)
    if isinstance(module, nn.Conv2d) and kind is nn.Conv2d:
        return (Convolution(module),)
    made = _ACTIVATIONS.get(kind)
    return None if made is None else (made,)


_ACTIVATIONS: dict[type, Step] = {
    nn.Tanh: Pointwise(TANH),
    nn.Sigmoid: Pointwise(SIGMOID),
    nn.ReLU: Pointwise(RELU),
}
