"""A nine-layer VGG on CIFAR-10, by the dyadic relaxation and by backprop from one seed."""

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

import worldsheet as ws
from benchmarks.gpu.images import Images, found
from benchmarks.gpu.ledger import FOUND, Ledger
from benchmarks.gpu.plan import Figures, Item, NotHereError, Part, Plan, UnfinishedError
from worldsheet.diagnostics.autograd import autograd_backward
from worldsheet_lab.augmentation import shifted
from worldsheet_lab.networks import Blueprint, cnn

_METHODS: dict[str, Callable[..., Tensor]] = {"dyadic": ws.backward, "backprop": autograd_backward}
_RATE, _SEED = 0.1, 0

_images = cache(found)


def _normal(images: Tensor) -> Tensor:
    """Of about unit spread around zero."""
    return images.float() / 64 - 2


@final
class _Run:
    """A training that is saved after each epoch and goes on from there."""

    def __init__(self, method: str, plan: Plan) -> None:
        self._file = plan.out / f"training-{method}.pt"
        self._images: Images = _images(plan.data, toy=plan.toy)
        self._batch, self.epochs = plan.sized((256, 12), (64, 2))
        torch.manual_seed(_SEED)
        module = cnn(Blueprint((3, 32, 32), 10, 9, plan.sized(64, 4), "relu", 0.0))
        self._device = plan.device
        self.module: nn.Module = module.to(plan.device)
        self.chain = ws.Chain(self.module, nn.CrossEntropyLoss(label_smoothing=0.1))
        self.optimizer = torch.optim.SGD(module.parameters(), _RATE, 0.9, weight_decay=5e-4, nesterov=True)
        steps = self.epochs * (len(self._images.train) // self._batch)
        self.rates = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, _RATE, total_steps=steps)
        self.kept: dict[str, Any] = {"losses": [], "seconds": 0.0, "cosines": [], "source": self._images.source}
        self._resume()

    def epoch(self, gradient: Callable[..., Tensor]) -> None:
        """Once through the images, in an order and with shifts that the seed and the epoch decide."""
        begun, number = time.monotonic(), len(self.kept["losses"])
        draw = torch.Generator().manual_seed(1000 * _SEED + number)
        order = torch.randperm(len(self._images.train), generator=draw)
        total = torch.zeros((), device=self._device)
        batches = [index for index in torch.split(order, self._batch) if len(index) == self._batch]
        for count, index in enumerate(batches):
            x = shifted(_normal(self._images.train[index].to(self._device)), draw)
            target = self._images.train_labels[index].to(self._device)
            if count == 0:
                self.kept["cosines"].append(self._cosine(x, target))
            self.optimizer.zero_grad()
            total += gradient(self.chain, x, target).detach()
            self.optimizer.step()
            self.rates.step()
        self.kept["losses"].append(float(total) / len(batches))
        self.kept["seconds"] += time.monotonic() - begun
        self._save()

    @torch.no_grad()
    def accuracy(self) -> float:
        """Percent of the test images."""
        self.module.eval()
        hits = 0
        for images, labels in zip(
            torch.split(self._images.test, 500), torch.split(self._images.test_labels, 500), strict=True
        ):
            hits += int((self.module(_normal(images.to(self._device))).argmax(1).cpu() == labels).sum())
        self.module.train()
        return 100 * hits / len(self._images.test_labels)

    def _cosine(self, x: Tensor, target: Tensor) -> float:
        """The smallest cosine of a literal relaxation's gradients with autograd's; statistics are put back."""
        before = [buffer.clone() for buffer in self.module.buffers()]
        sol = ws.relax(self.chain, x, target, schedule=ws.Synchronous())
        found_ = ws.compare(self.chain, x, target, sol)
        for buffer, kept in zip(self.module.buffers(), before, strict=True):
            buffer.copy_(kept)
        return min(row.cosine for row in found_.rows if row.name.endswith("weight"))

    def _save(self) -> None:
        holders = (self.module, self.optimizer, self.rates)
        states = [holder.state_dict() for holder in holders]
        fresh = self._file.with_suffix(".new")
        torch.save({"kept": self.kept, "states": states}, fresh)
        fresh.replace(self._file)

    def _resume(self) -> None:
        if self._file.is_file():
            saved = torch.load(self._file, map_location=self._device)
            if saved["kept"]["source"] != self._images.source:
                raise ValueError(f"{self._file} was trained on {saved['kept']['source']}, not {self._images.source}")
            self.kept = saved["kept"]
            module, optimizer, rates = saved["states"]
            self.module.load_state_dict(module)
            self.optimizer.load_state_dict(optimizer)
            self.rates.load_state_dict(rates)


def trained(method: str, plan: Plan, seconds: float) -> Figures:
    """As many epochs as the time allows, from where the last run stopped."""
    run, begun = _Run(method, plan), time.monotonic()
    while len(run.kept["losses"]) < run.epochs:
        if time.monotonic() - begun > seconds:
            done = f"{len(run.kept['losses'])} of {run.epochs} epochs, {run.accuracy():.1f} % right so far"
            raise UnfinishedError(f"{done}; {run.kept['source']}")
        run.epoch(_METHODS[method])
    return {
        "accuracy": run.accuracy(),
        "loss": run.kept["losses"][-1],
        "epochs": float(run.epochs),
        "seconds": run.kept["seconds"],
        "smallest cosine": min(run.kept["cosines"]),
        "images": run.kept["source"],
    }


def difference(out: Path) -> Figures:
    """How far the two trainings lie apart; both began at the same weights and saw the same batches."""
    rows = Ledger(out / "training.jsonl").rows
    if any(rows.get(method, {}).get("state") != FOUND for method in _METHODS):
        raise UnfinishedError("both trainings have to end first")
    one, other = (rows[method]["figures"] for method in _METHODS)
    return {name: abs(one[name] - other[name]) for name in ("accuracy", "loss")}


@final
class Training(Part):
    """The same network twice."""

    @property
    def name(self) -> str:
        """Of its file and its rows."""
        return "training"

    @property
    def seconds(self) -> float:
        """How long it may take on a GPU."""
        return 170.0

    def items(self, plan: Plan) -> Sequence[Item]:
        """Half of what is left of the time for each."""
        if plan.device.type == "cpu" and not plan.toy:
            raise NotHereError("a training of full size is not run on a CPU")
        share = max(1.0, plan.deadline - time.monotonic()) / len(_METHODS)
        items = [Item(method, partial(trained, method, plan, share)) for method in _METHODS]
        return [*items, Item("difference", partial(difference, plan.out))]
