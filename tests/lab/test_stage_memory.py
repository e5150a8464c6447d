"""A process makes only its own stage: the memory of its weights, of what its optimizer keeps, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import worldsheet

SCRIPT = """
import json, sys
from pathlib import Path
import psutil, torch
from worldsheet.pipeline import Locked, Pipeline, Plan
from worldsheet_lab.staged.texts import Texts
from worldsheet_lab.text.recipe import TextRecipe

torch.set_num_threads(1)
stage, stages = map(int, sys.argv[1:])
recipe = TextRecipe("none", "", 64, 10_000, width=640, blocks=8, heads=4, context=16, optimizer="adamw")
job = Texts(recipe)
warm = torch.nn.Linear(8, 8)
torch.optim.AdamW(warm.parameters(), fused=False).step()
before = psutil.Process().memory_info().rss
each = 16 // stages
plan = Plan((0, *(1 + each * s for s in range(1, stages)), 18))
chain = job.chain(plan.layers(stage))
rule = job.rule(chain)
own = Pipeline(chain, plan, optimizer=rule.optimizer, scheduler=rule.scheduler, schedule=Locked(1)).stages[stage]
for packet in range(3):
    x = torch.randint(64, (1, 16)) if own.first else torch.randn(1, 16, 640)
    state = own.forward(packet, x, torch.randint(64, (1, 16)) if own.last else None)
    own.pull(packet, None if own.last else torch.randn_like(state))
    own.answer()
    own.update()
held = psutil.Process().memory_info().rss - before
print(json.dumps({"held": held, "parameters": sum(p.nbytes for p in own.parameters)}))
"""


def held(stage: int, stages: int) -> dict[str, int]:
    """Of three processes the one that holds least: what an allocator has not given back only adds to what is needed."""
    return min((measured(stage, stages) for _ in range(3)), key=lambda found: found["held"])


def measured(stage: int, stages: int) -> dict[str, int]:
    where = {**os.environ, "PYTHONPATH": str(Path(worldsheet.__file__).resolve().parents[1])}
    where |= {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    line = [sys.executable, "-c", SCRIPT, str(stage), str(stages)]
    done = subprocess.run(line, env=where, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_memory_of_a_stage_is_its_share_of_that_of_one_process() -> None:
    whole, parts = held(0, 1), [held(stage, 4) for stage in (0, 2, 3)]
    for part in parts:
        share = part["parameters"] / whole["parameters"]
        assert 0.2 < share < 0.3
        print(f"{part['held'] / 2**20:.0f} of {whole['held'] / 2**20:.0f} MiB, share {share:.3f}")
        assert part["held"] <= 1.3 * share * whole["held"]
