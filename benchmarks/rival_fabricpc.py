"""One training step of fabricpc, run by a Python that has it: see `rivals.py` for settings and dialogue."""

import os
import sys
import time
from itertools import pairwise

widths, ticks, batch, threads = [int(w) for w in sys.argv[1].split(",")], *(int(text) for text in sys.argv[2:5])
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # before jax counts the cores

import jax  # noqa: E402  the cores are counted at import
import optax  # noqa: E402
from fabricpc.core.activations import IdentityActivation, TanhActivation  # noqa: E402
from fabricpc.core.inference import InferenceSGD  # noqa: E402
from fabricpc.core.topology import Edge  # noqa: E402
from fabricpc.graph_assembly import TaskMap, graph  # noqa: E402
from fabricpc.graph_initialization import initialize_params  # noqa: E402
from fabricpc.nodes import Linear  # noqa: E402
from fabricpc.training.trainer import make_train_step  # noqa: E402

key = jax.random.PRNGKey(0)
curves = [IdentityActivation(), *[TanhActivation() for _ in widths[1:-1]], IdentityActivation()]
nodes = [
    Linear(shape=(width,), name=f"site{index}", activation=curve)
    for index, (width, curve) in enumerate(zip(widths, curves, strict=True))
]
structure = graph(
    nodes=nodes,
    edges=[Edge(source=one, target=other.slot("in")) for one, other in pairwise(nodes)],
    task_map=TaskMap(x=nodes[0], y=nodes[-1]),
    inference=InferenceSGD(eta_infer=0.1, infer_steps=ticks),
)
params = initialize_params(structure, key)
optimizer = optax.sgd(1e-3)
state = optimizer.init(params)
step = make_train_step(structure, optimizer)
labels = jax.random.randint(key, (batch,), 0, widths[-1])
data = {"x": jax.random.normal(key, (batch, widths[0])), "y": jax.nn.one_hot(labels, widths[-1])}

begun = time.perf_counter()
jax.block_until_ready(step(params, state, data, key))
print(time.perf_counter() - begun, flush=True)
for _ in sys.stdin:
    begun = time.perf_counter()
    params, state, *rest = step(params, state, data, key)
    jax.block_until_ready((params, rest))
    print(time.perf_counter() - begun, flush=True)
