"""The picture at the top of the README: python tools/picture.py.

A network of 16 layers relaxes from random fields. States come to rest from the input side up, costates from the output
side down: two fronts that cross the layers at about a layer a tick. Colours are distances to the fields at rest.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor, nn

import worldsheet as ws

PLACE = Path(__file__).parents[1] / "docs" / "pictures" / "worldsheet.png"
DEPTH, WIDTH, RATE, TICKS = 16, 32, 0.9, 48
AT_REST, FLOOR = "#d9d9d9", -4.0  # below 1e-4 of the largest distance a site counts as at rest


def distances() -> tuple[Tensor, Tensor]:
    """(tick, site) of states and of costates, each site's over its largest."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(DEPTH - 1)]
    for layer in layers:
        nn.init.orthogonal_(layer[0].get_parameter("weight"), gain=1.1)  # so that no layer forgets by itself
    chain = ws.Chain([*layers, nn.Linear(WIDTH, 4)], nn.CrossEntropyLoss())
    x, target = torch.randn(64, WIDTH), torch.randint(4, (64,))
    rest = ws.relax(chain, x, target).fields
    start = ws.Fields(
        tuple(torch.randn_like(state) * state.std() for state in rest.states),
        tuple(torch.randn_like(costate) * costate.std() for costate in rest.costates),
    )
    record, stop = ws.Record(fields=True), ws.Stop(max_ticks=TICKS)
    ws.relax(chain, x, target, ws.Dyadic(RATE), stop=stop, record=record, initial=start)
    found = []
    for field, wanted in ((0, rest.states), (1, rest.costates)):
        rows = [[(own - w).norm() for own, w in zip(row[field], wanted, strict=True)] for row in record.moments]
        away = torch.tensor(rows)
        found.append((away / away.amax(0)).clamp(min=1e-9))
    return found[0], found[1]


def draw(axes: Axes, values: Tensor, title: str) -> AxesImage:
    """One field: ticks to the right, layers up."""
    shown = values.log10().t().flip(0)
    colours = mpl.colormaps["viridis"].with_extremes(under=AT_REST)
    edges = (-0.5, TICKS + 0.5, 0.5, DEPTH + 0.5)
    image = axes.imshow(shown.numpy(), cmap=colours, vmin=FLOOR, vmax=0, aspect="auto", extent=edges)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("tick")
    return image


def main() -> None:
    """Draw it."""
    states, costates = distances()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained", dpi=140)
    draw(left, states, "states settle from the input up")
    image = draw(right, costates, "costates (credit) settle from the loss down")
    left.set_ylabel("layer")
    left.set_yticks([1, 4, 8, 12, 16])
    bar = figure.colorbar(image, ax=(left, right), extend="min", ticks=[-4, -3, -2, -1, 0])
    bar.ax.set_yticklabels(["at rest", "0.001", "0.01", "0.1", "1"])
    bar.set_label("distance to rest")
    figure.savefig(PLACE)


if __name__ == "__main__":
    main()
