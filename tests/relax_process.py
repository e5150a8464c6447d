"""A relaxation that is spread over stages, as one process of it: python relax_process.py RANK STAGES STORE OUT."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.pipeline import relax
from worldsheet.pipeline.transport.distributed import joined, place_of

STOP = ws.Stop(max_ticks=24, tol=1e-2, every=4)
Make = Callable[[ws.Chain, Tensor, Tensor], ws.dynamics.Dynamics]

DYNAMICS: dict[str, Make] = {
    "dyadic": lambda *_: ws.Dyadic(),
    "slow dyadic": lambda *_: ws.Dyadic(0.6),
    "wave": lambda chain, x, y: ws.calibrate(chain, x, y, ws.Wave()),
    "wave with a proximal end": lambda *_: ws.Wave(impedance=0.3, output=ws.dynamics.Output.PROXIMAL),
    "predictive coding": lambda chain, x, y: ws.calibrate(chain, x, y, ws.PredictiveCoding()),
    "nudged": lambda *_: ws.PredictiveCoding(rate=0.2, nudge=0.1),
    "fixed prediction": lambda *_: ws.PredictiveCoding(prediction=ws.dynamics.Prediction.FIXED),
    "multipliers": lambda chain, x, y: ws.calibrate(chain, x, y, ws.AugmentedLagrangian()),
}


def chain_of(seed: int) -> ws.Chain:
    torch.manual_seed(seed)
    hidden: list[nn.Module] = [nn.Sequential(nn.Linear(5, 5), nn.Tanh()), nn.Linear(5, 5), nn.GELU(), nn.Linear(5, 5)]
    return ws.Chain([nn.Linear(4, 5), *hidden, nn.Linear(5, 3)], nn.MSELoss())


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, generator=generator), torch.randn(3, 3, generator=generator)


def main(rank: int, stages: int, store: str, out: Path) -> None:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    found = {}
    with joined(rank, stages, f"file://{store}", 30):
        for name, make in DYNAMICS.items():
            chain, (x, target) = chain_of(0), batch(0)
            dynamics = make(chain, x, target)
            if rank:
                x = torch.zeros(0)  # only the first stage has it
            if rank < stages - 1:
                target = torch.zeros(0)
            place = place_of(rank, stages, cpu)
            share = relax(chain, stages, x, target, dynamics, schedule=ws.Synchronous(), stop=STOP, place=place)
            found[name] = {
                "first": share.sites.start,
                "ticks": share.outcome.ticks,
                "loss": share.loss,
                "states": share.fields.states,
                "costates": share.fields.costates,
                "gradients": share.gradients(),
            }
    torch.save(found, out / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
