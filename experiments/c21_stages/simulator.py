"""What an unlocked pipeline of one-layer stages does to its parameters, many runs at once in batched products.

Stage s carries packet j up with the parameters that it shows after (j − lead)/M updates, rounded down, and answers its
credit after j/M; packets of a batch that see the same parameters are one product. Nothing else of a pipeline matters
for what is learnt, so this is `worldsheet.Pipeline` with `Unlocked(M)`; `run.py` checks it against that.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from rules import Answer, Rule
from torch import Tensor, nn

from worldsheet.pipeline import PipelineSchedule
from worldsheet_lab.data import DataSet

BATCH, WIDTH = 64, 128


@dataclass(frozen=True)
class Net:
    """A multilayer perceptron of ReLUs, a layer per stage; residual: hidden layers compute x + relu(W x + b)."""

    stages: int
    residual: bool

    def sizes(self, data: DataSet) -> list[int]:
        pixels = data.train_images[0].numel()
        return [pixels, *[WIDTH] * (self.stages - 1), len(data.classes)]

    def start(self, data: DataSet, seed: int) -> list[nn.Linear]:
        """Torch's own start."""
        torch.manual_seed(seed)
        sizes = self.sizes(data)
        return [nn.Linear(*pair) for pair in pairwise(sizes)]

    def skips(self, layer: int) -> bool:
        return self.residual and 0 < layer < self.stages - 1


@dataclass
class Layer:
    """One stage in all runs: parameters as (runs, out·in + out)."""

    outputs: int
    inputs: int
    answer: Answer
    whole: int
    rest: int
    shown: deque[Tensor] = field(default_factory=deque)

    def weight(self, flat: Tensor) -> Tensor:
        return flat[:, : self.outputs * self.inputs].view(-1, self.outputs, self.inputs)

    def bias(self, flat: Tensor) -> Tensor:
        return flat[:, self.outputs * self.inputs :].unsqueeze(1)

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The first packets of a batch with older parameters, the others with newer."""
        if self.rest:
            yield x[:, : self.rest], self.shown[-2 - self.whole]
        yield x[:, self.rest :], self.shown[-1 - self.whole]

    def up(self, x: Tensor) -> Tensor:
        made = [torch.baddbmm(self.bias(p), part, self.weight(p).transpose(1, 2)) for part, p in self.parts(x)]
        return torch.cat(made, 1) if len(made) > 1 else made[0]

    def down(self, credit: Tensor, keeps: bool) -> Tensor:
        if not keeps:
            return torch.bmm(credit, self.weight(self.answer.parameters))
        made = [torch.bmm(part, self.weight(p)) for part, p in self.parts(credit)]
        return torch.cat(made, 1) if len(made) > 1 else made[0]

    def effort(self, credit: Tensor, x: Tensor) -> Tensor:
        weight = torch.bmm(credit.transpose(1, 2), x)
        return torch.cat([weight.flatten(1), credit.sum(1)], 1)

    def move(self, effort: Tensor) -> None:
        """Answer the effort, and show the parameters that come of it."""
        self.answer.move(effort, self.shown[-1 - self.whole])
        self.shown.append(self.answer.shown)


def layers_of(
    starts: Sequence[Sequence[nn.Linear]], rule: Rule, order: PipelineSchedule, lrs: Sequence[float]
) -> list[Layer]:
    """Every layer in len(lrs)·len(starts) runs: all starts with the first rate, then with the next."""
    rates = torch.tensor([lr for lr in lrs for _ in starts], dtype=starts[0][0].weight.dtype).unsqueeze(1)
    found, stages = [], len(starts[0])
    for index in range(stages):
        own = [torch.cat([start[index].weight.flatten(), start[index].bias]) for start in starts]
        parameters = torch.stack(own * len(lrs)).detach().clone()
        delay, lead = order.delay(index, stages), order.warmup(index, stages)
        many = order.packets_per_update
        whole, rest = divmod(lead if delay else 0, many)
        outputs, inputs = starts[0][index].weight.shape
        layer = Layer(
            outputs, inputs, Answer(rule, parameters, outputs, inputs, delay, rates), whole, rest * BATCH // many
        )
        layer.shown.extend([layer.answer.shown] * (whole + 2))
        layer.shown = deque(layer.shown, maxlen=whole + 2)
        found.append(layer)
    return found


@torch.no_grad()
def simulate(
    net: Net,
    data: DataSet,
    layers: list[Layer],
    keeps: bool,
    batches: Sequence[Callable[[int], Tensor]],
    count: int,
) -> None:
    """Train all runs by `count` updates; batches[start](number) are the indices of a batch's images."""
    runs = len(layers[0].answer.parameters)
    images, copies = data.train_images.reshape(len(data.train_images), -1), runs // len(batches)
    images = images.to(layers[0].answer.parameters.dtype)
    for number in range(count):
        chosen = [indices(number) for indices in batches]
        x = torch.stack([images[i] for i in chosen]).repeat(copies, 1, 1)
        target = torch.stack([data.train_labels[i] for i in chosen]).repeat(copies, 1)
        efforts = batch_efforts(net, layers, x, target, keeps)
        progress = (number + 1) / count
        for layer, effort in zip(layers, efforts, strict=True):
            layer.answer.progress = progress
            layer.move(effort)


def batch_efforts(net: Net, layers: list[Layer], x: Tensor, target: Tensor, keeps: bool) -> list[Tensor]:
    points, sums = [x], []
    for index, layer in enumerate(layers):
        sums.append(layer.up(points[-1]))
        if index < net.stages - 1:
            active = sums[-1].relu()
            points.append(points[-1] + active if net.skips(index) else active)
    credit = sums[-1].softmax(-1)
    credit.scatter_add_(2, target.unsqueeze(2), credit.new_full((*target.shape, 1), -1.0))
    credit /= target.shape[1]
    efforts = []
    for index in reversed(range(net.stages)):
        own = credit if index == net.stages - 1 else credit * (sums[index] > 0)
        efforts.append(layers[index].effort(own, points[index]))
        if index:
            below = layers[index].down(own, keeps)
            credit = credit + below if net.skips(index) else below
    return efforts[::-1]


@torch.no_grad()
def accuracies(net: Net, data: DataSet, layers: list[Layer]) -> list[float]:
    """Percent of the test images that each run has right."""
    images, found = data.test_images.reshape(len(data.test_images), -1).float(), []
    for run in range(len(layers[0].answer.parameters)):
        x = images
        for index, layer in enumerate(layers):
            flat = layer.answer.resting[run : run + 1]
            z = torch.addmm(layer.bias(flat)[0], x, layer.weight(flat)[0].t())
            x = z if index == net.stages - 1 else (x + z.relu() if net.skips(index) else z.relu())
        found.append(100 * float((x.argmax(1) == data.test_labels).double().mean()))
    return found
