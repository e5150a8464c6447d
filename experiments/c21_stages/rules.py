"""Ideas against staleness: what a stage shows to packets, and how it answers efforts that are d updates late."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """One idea, or several together; the numbers are those of every stage alike, but for the stage's own delay d.

    Attributes:
        adaptive: Adam's division by the root of the mean square.
        unit: rates are this many times as large, where they mean something else.
        memory: μ, how much of the past efforts is kept.
        rate_power: R ← (1 + d)^p R.
        mass_power: 1 − μ ← (1 − μ)/(1 + d)^q, and so the memory of the mean square.
        horizon: packets see θ + h d (last step).
        keeps: credits are pulled back through what packets saw, else through the parameters of the moment.
        prompt: the mean of the input moves the bias alone (P1) where d is larger.
        fades: rates fall linearly to zero over the run.
        eases: the factor (1 + d)^−p falls away over the first quarter (PipeMare's T1).
        curvature: e + λ e² (θ now − θ seen), a diagonal forecast of the effort (DC-ASGD).
        trusted: steps are a part lr of the parameters' own norm (LAMB).
        clipped: largest root mean square of a step's direction.
        spikes: the efforts that a delay has held back are answered at once (spike compensation).
        averaged: packets see a mean of where the port has been, which is also the result (schedule-free).
        decay: lr·decay of the parameters is lost in a step (AdamW).
    """

    adaptive: bool = True
    unit: float = 1.0
    memory: float = 0.9
    rate_power: float = 0.0
    mass_power: float = 0.0
    horizon: float = 0.0
    keeps: bool = True
    centering_delay: float = inf
    fades: bool = False
    eases: bool = False
    curvature: float = 0.0
    trusted: bool = False
    clipped: float = 0.0
    spikes: bool = False
    averaged: bool = False
    decay: float = 0.0


class Answer:
    """One stage's parameters in all runs, moved by a rule.

    Attributes:
        parameters: θ, (runs, out·in + out).
        shown: what packets see until the next move.
        resting: what is the result.
        progress: how much of the run is over.
    """

    def __init__(self, rule: Rule, parameters: Tensor, outputs: int, inputs: int, delay: float, rates: Tensor) -> None:
        self.rule, self.delay = rule, delay
        self.parameters = self.resting = parameters
        self.shown = parameters.clone()
        self.progress = 0.0
        self._split, self._shape = outputs * inputs, (-1, outputs, inputs)
        slowed = (1 + delay) ** rule.mass_power
        self._memory, self._long = 1 - (1 - rule.memory) / slowed, 1 - 0.001 / slowed
        self._rates = rates * rule.unit
        self._mean, self._square = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self._along = parameters.new_zeros(len(parameters), inputs)
        self._credit = parameters.new_zeros(len(parameters), 1)
        self._lead = parameters.clone() if rule.averaged else None
        self._steps = 0

    def move(self, effort: Tensor, seen: Tensor) -> None:
        """One update."""
        rule, self._steps = self.rule, self._steps + 1
        if rule.curvature:
            effort = effort + rule.curvature * effort.square() * (self.parameters - seen)
        common = self._grounded(effort) if self.delay > rule.centering_delay else None
        flow = self._direction(effort)
        if rule.clipped:
            flow = flow / (flow.square().mean(1, keepdim=True).sqrt() / rule.clipped).clamp_min(1)
        flow = flow * -self._rate
        if rule.trusted:
            flow = flow * (self.parameters.norm(dim=1) / flow.norm(dim=1) * self._rates.squeeze(1)).unsqueeze(1)
        if common is not None:
            weight = flow[:, : self._split].view(self._shape)
            flow[:, self._split :] -= torch.bmm(weight, common.unsqueeze(2)).squeeze(2)
        self._place(flow)

    @property
    def _rate(self) -> Tensor:
        rule = self.rule
        power = rule.rate_power * (max(0.0, 1 - 4 * self.progress) if rule.eases else 1.0)
        return self._rates * (1 + self.delay) ** -power * (1 - self.progress if rule.fades else 1.0)

    def _place(self, flow: Tensor) -> None:
        if self._lead is not None:
            self._lead = self._lead + flow
            self.resting = torch.lerp(self.resting, self._lead, 1 / self._steps)
            before, self.parameters = self.parameters, torch.lerp(self._lead, self.resting, 0.9)
            flow = self.parameters - before
        else:
            if self.rule.decay:
                self.parameters = self.parameters * (1 - self._rate * self.rule.decay)
            self.parameters = self.resting = self.parameters + flow
        self.shown = self.parameters + self.rule.horizon * self.delay * flow if self.delay else self.parameters

    def _grounded(self, effort: Tensor) -> Tensor:
        """(P1) in place; x̂ by (P2)."""
        weight, bias = effort[:, : self._split].view(self._shape), effort[:, self._split :]
        self._along = 0.98 * self._along + torch.bmm(bias.unsqueeze(1), weight).squeeze(1)
        self._credit = 0.98 * self._credit + bias.square().sum(1, keepdim=True)
        common = self._along / self._credit.clamp_min(torch.finfo(effort.dtype).tiny)
        weight -= bias.unsqueeze(2) * common.unsqueeze(1)
        return common

    def _direction(self, effort: Tensor) -> Tensor:
        memory = 0.0 if self.rule.averaged else self._memory
        self._mean = self._mean * memory + effort * (1 - memory)
        mean = self._mean / (1 - memory**self._steps) if self.rule.adaptive else self._mean
        if self.rule.spikes:
            kept = memory**self.delay
            mean = kept * mean + (1 - kept) * effort
        if not self.rule.adaptive:
            return mean
        self._square = self._square * self._long + effort.square() * (1 - self._long)
        return mean / ((self._square / (1 - self._long**self._steps)).sqrt() + 1e-8)
