"""One training step of pcx, run by a Python that has it: see `rivals.py` for settings and dialogue."""

import os
import sys
import time
from itertools import pairwise

widths, ticks, batch, threads = [int(w) for w in sys.argv[1].split(",")], *(int(text) for text in sys.argv[2:5])
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # before jax counts the cores

import jax  # noqa: E402  the cores are counted at import
import optax  # noqa: E402
import pcx.functional as pxf  # noqa: E402
import pcx.nn as pxnn  # noqa: E402
import pcx.predictive_coding as pxc  # noqa: E402
import pcx.utils as pxu  # noqa: E402


class Network(pxc.EnergyModule):
    """Tanh layers, the last one linear, a value node behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [pxnn.Linear(one, other) for one, other in pairwise(widths)]
        self.vodes = [pxc.Vode() for _ in self.layers]
        self.vodes[-1].h.frozen = True

    def __call__(self, x: jax.Array, y: jax.Array | None) -> jax.Array:
        """The output that is predicted; y is what the last value node is held at."""
        for vode, layer in zip(self.vodes[:-1], self.layers[:-1], strict=True):
            x = vode(jax.nn.tanh(layer(x)))
        self.vodes[-1](self.layers[-1](x))
        if y is not None:
            self.vodes[-1].set("h", y)
        return self.vodes[-1].get("u")


nodes = pxc.VodeParam | pxc.VodeParam.Cache


@pxf.vmap(pxu.M(nodes).to((None, 0)), in_axes=(0, 0), out_axes=0)
def forward(x: jax.Array, y: jax.Array, *, model: Network) -> jax.Array:
    """Give every value node what its layer predicts."""
    return model(x, y)


@pxf.vmap(pxu.M(nodes).to((None, 0)), in_axes=(0,), out_axes=(None, 0), axis_name="batch")
def energy(x: jax.Array, *, model: Network) -> tuple[jax.Array, jax.Array]:
    """The prediction energy, averaged over the batch."""
    y = model(x, None)
    return jax.lax.pmean(model.energy().sum(), "batch"), y


@pxf.jit()
def train(x: jax.Array, y: jax.Array, *, model: Network, weights: pxu.Optim, values: pxu.Optim) -> None:
    """Forward, inference, one step of the weights."""
    with pxu.step(model, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
        forward(x, y, model=model)
    values.init(pxu.M_hasnot(pxc.VodeParam, frozen=True)(model))
    for _ in range(ticks):
        with pxu.step(model, clear_params=pxc.VodeParam.Cache):
            target = pxu.M_hasnot(pxc.VodeParam, frozen=True).to([False, True])
            _, slope = pxf.value_and_grad(target, has_aux=True)(energy)(x, model=model)
        values.step(model, slope["model"])
    values.clear()
    with pxu.step(model, clear_params=pxc.VodeParam.Cache):
        _, slope = pxf.value_and_grad(pxu.M(pxnn.LayerParam).to([False, True]), has_aux=True)(energy)(x, model=model)
    weights.step(model, slope["model"])


key = jax.random.PRNGKey(0)
network = Network()
of_weights = pxu.Optim(lambda: optax.sgd(1e-3), pxu.M(pxnn.LayerParam)(network))
of_values = pxu.Optim(lambda: optax.sgd(0.1 * batch))
labels = jax.random.randint(key, (batch,), 0, widths[-1])
data = jax.random.normal(key, (batch, widths[0])), jax.nn.one_hot(labels, widths[-1])


def step() -> float:
    """Seconds of one training step."""
    begun = time.perf_counter()
    train(*data, model=network, weights=of_weights, values=of_values)
    jax.block_until_ready([layer.nn.weight.get() for layer in network.layers])
    return time.perf_counter() - begun


print(step() + step(), flush=True)  # the second call compiles again
for _ in sys.stdin:
    print(step(), flush=True)
