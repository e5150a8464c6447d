"""A network that learns from a stream while it happens."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import inf, isfinite, nan
from typing import TypeAlias, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.words import plural
from worldsheet.streaming.config import MissingValues, Start, Streams
from worldsheet.streaming.edge_port import AddEffort, EdgeMotion, EdgePort, Inertia
from worldsheet.streaming.equations import Activations, Equations, StepCoefficients
from worldsheet.streaming.functional import Functional, NeuronModel
from worldsheet.streaming.graphs.connectivity import Connectivity
from worldsheet.streaming.integrator import Exponential, NeuronIntegrator
from worldsheet.streaming.io import Readout, StreamIO, Target, check_places, has_holes, speeds
from worldsheet.streaming.memory import Accumulator, BoundTraces, Force, Memory, Response
from worldsheet.streaming.shapes import Edges, Signal
from worldsheet.streaming.sign import ConstantFlip, Plain, Sign, SignPolicy
from worldsheet.streaming.state import EdgeState, PhasePoint, Snapshot, as_tensors, is_finite
from worldsheet.streaming.trace import StepResult, Trace

Stream: TypeAlias = Iterable[tuple[Tensor | None, Tensor | None]]
"""Pairs of input and target, one per step, as long as the stream lasts."""

_LOOK_EVERY = 64  # steps between two looks at whether everything is finite


@final
class HamiltonianNetwork:
    """A recurrent network on a directed graph that learns from a stream in the time in which the stream happens.

    Neurons, weights and their costates move together by Hamilton's equations (6) of the functional, the sign of time of
    the costates being flipped so that initial data suffice. Each update reads what a neuron, its parents and its
    children hold at this instant: nothing is unrolled, no past is stored, and memory does not grow with the stream.

    Cost per step: one drive, one pull and one effort of the graph, and passes over neurons and edges; `listen`, the
    forward dynamics alone, costs the drive.

    Args:
        graph: who is connected to whom.
        outputs: neurons that are compared with the target.
        inputs: neurons that are held at the input.
        model: speeds, activation, bias.
        functional: what is made stationary: potential, regulariser, mass, dissipation.
        sign: the sign of time for the costates.
        integrator: how a step is taken.
        memory: what edges remember of their senders; None for nothing: an error of this instant meets its activity.
        port: how weights answer their efforts.
        streams: how many streams run at once, and how.
        start: initial weights and states.
        dtype: of all fields; torch's default if left out.
        device: of all fields; the graph's by default.

    Raises:
        InputError: arguments that cannot be right, outputs that no input can reach.

    Reference:
        Betti & Gori, Nature-Inspired Local Propagation, arXiv 2402.05959; (6) is derived from its description.
    """

    def __init__(  # noqa: PLR0913  one argument per axis
        self,
        graph: Connectivity,
        outputs: Sequence[int],
        inputs: Sequence[int] = (),
        *,
        model: NeuronModel | None = None,
        functional: Functional | None = None,
        sign: SignPolicy | None = None,
        integrator: NeuronIntegrator | None = None,
        memory: Memory | None = None,
        port: EdgePort | None = None,
        streams: Streams | None = None,
        start: Start | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_places(graph, inputs, outputs)
        model = model or NeuronModel()
        like = torch.empty(0, dtype=dtype, device=device if device is not None else graph.sources.device)
        speed = speeds(model, graph.neurons, inputs, outputs, like)
        if model.bias:
            graph, speed = graph.with_source(), torch.cat([speed, speed.new_zeros(1)])
        self.sign = sign or ConstantFlip()
        self.streams = streams or Streams()
        graph, integrator, port = graph.to(like.device), integrator or Exponential(), port or Inertia()
        _check_edges(memory, port, integrator, self.sign)
        places = torch.tensor(list(outputs), device=like.device)
        traces = None if memory is None else memory.on(graph, speed, places)
        functional = _of_what_moves(functional or Functional(), port)
        self._laws = Equations(graph, speed, model, functional, integrator, port, traces)
        self._io = StreamIO(inputs, outputs, self.streams, self.functional.potential, like.device)
        self._coefficients: dict[float, StepCoefficients] = {}
        self._dt = nan
        self._point = self._drawn(start or Start(), like)
        self._edge_state = EdgeState(
            like if traces is None else traces.empty(self.streams.count),
            port.squares(self._point.weights),
            torch.zeros(0 if port.derived else 2, dtype=torch.float64),
        )
        self.time = 0.0
        self.steps = 0

    def __repr__(self) -> str:
        neurons, streams = plural(self.graph.neurons, "neuron"), plural(self.streams.count, "stream")
        return f"HamiltonianNetwork of {neurons}, {streams}: {plural(self.steps, 'step')} to {self.time:.4g} s"

    @property
    def point(self) -> PhasePoint:
        """A copy of the point in phase space; set it to go on from another one, which is copied too."""
        return PhasePoint(*(field.clone() for field in self._point))

    @point.setter
    def point(self, point: PhasePoint) -> None:
        self._point = PhasePoint(*(field.detach().clone() for field in point))

    @property
    def edge_state(self) -> EdgeState:
        """A copy of what edges keep beside the point: traces of a memory, squares of a port."""
        return EdgeState(*(field.clone() for field in self._edge_state))

    @property
    def graph(self) -> Connectivity:
        """The graph, the source of the biases included as its last neuron."""
        return self._laws.graph

    @property
    def functional(self) -> Functional:
        """What is made stationary."""
        return self._laws.functional

    @property
    def output(self) -> Signal:
        """The output neurons' states, (streams, outputs)."""
        return self._io.output(self._point.state)

    @property
    def finite(self) -> bool:
        """Whether every state, costate, weight and momentum is a number."""
        return is_finite(self._point, self._edge_state)

    @property
    def effort(self) -> Edges:
        """c_i σ′(a_i) π_i x_j on every edge at this instant, whether or not edges remember more: (6)."""
        laws, point = self._laws, self._point
        conductance = laws.conductance(laws.see(point.weights, point.state))
        return self.graph.effort(laws.sensitivity(point.costate, conductance), point.state, shared=self.streams.shared)

    @torch.no_grad()
    def step(self, input: Tensor | None, target: Tensor | None, dt: float, *, record: bool = False) -> StepResult:
        """Hear an instant of the stream, answer, and learn from it.

        Args:
            input: what the input neurons are held at, (streams, inputs); None if there are none.
            target: what the outputs are compared with, (streams, outputs) or one class per stream; None is no error.
            dt: seconds until the next instant.
            record: also compute the energies that the step begins with, by a pass over the edges.

        Raises:
            InputError: wrong shapes, a step beyond the integrator's bound, or NaN under `MissingValues.STOP`.
        """
        self._set_dt(dt)
        laws = self._laws
        wanted = self._io.target_of(self._point.state, target)
        point = self._point._replace(state=self._io.hold(self._point.state, input))
        activations = laws.see(point.weights, point.state)
        velocity = partial(laws.velocity, point.state, activations)
        moment = Snapshot(self.time, point, velocity, wanted, self.functional, self.streams.shared)
        sign = self.sign.sign(moment)
        energies = moment.energies() if record else None
        moment.close()
        coefficients = self._coefficients_of(sign, dt)
        move = self._moved if self._laws.traces is None else partial(self._recalled, self._laws.traces)
        after, readout = move(point, activations, wanted, coefficients)
        result = StepResult(readout.output, readout.loss, sign, self.time, energies)
        self._advance(after, dt)
        return result

    def _moved(
        self, point: PhasePoint, activations: Activations, wanted: Target, coefficients: StepCoefficients
    ) -> tuple[PhasePoint, Readout]:
        """One step of (6), and the outputs that the target was compared with; weights and momenta in their memory."""
        laws = self._laws
        staggered = laws.integrator.staggered
        state = laws.state(point.state, activations, coefficients)
        readout = wanted.read(state if staggered else point.state)
        conductance = laws.conductance(activations)
        felt = laws.sensitivity(point.costate, conductance)
        costate = laws.costate(point, wanted.add_loss_gradient(laws.pull(point, felt), readout), coefficients)
        weights = point.weights
        if self._edges_move:
            felt = laws.sensitivity(costate, conductance) if staggered else felt
            weights = self._learn(point, laws.effort(point.state, felt, coefficients), coefficients)
        return PhasePoint(state, costate, weights, point.momentum), readout

    def _recalled(
        self,
        traces: BoundTraces,
        point: PhasePoint,
        activations: Activations,
        wanted: Target,
        coefficients: StepCoefficients,
    ) -> tuple[PhasePoint, Readout]:
        """One step of edges with memory: errors push the outputs' costates, which pull, and edges feel both forces."""
        laws = self._laws
        state = laws.state(point.state, activations, coefficients)
        readout = wanted.read(state)
        error = wanted.add_loss_gradient(torch.zeros_like(state), readout)
        costate = laws.costate(point, error.clone(), coefficients)
        felt = laws.sensitivity(costate, laws.conductance(activations))
        pulled = laws.pull(point, felt)
        remembered = traces.own_pull(point.weights, felt)
        pulled = pulled if remembered is None else pulled.sub_(remembered)
        force = Force(pulled, None if readout.gradient is None else error)
        response = Response(point.state, laws.slope(activations), coefficients.reach, point.weights)
        step = partial(traces.step, self._edge_state.traces, force, response)
        weights = point.weights
        if self._edges_move:
            gain = coefficients.credit_gain
            weights = self._learn(
                point, lambda edges, keep, scale: step(Accumulator(edges, keep, scale, gain)), coefficients
            )
        else:
            step(None)
        return PhasePoint(state, laws.pushed(costate, pulled, coefficients), weights, point.momentum), readout

    @property
    def _edges_move(self) -> bool:
        return (self.steps + 1) % self._laws.integrator.every == 0

    def _learn(self, point: PhasePoint, add_effort: AddEffort, coefficients: StepCoefficients) -> Edges:
        """Move momenta and what a port keeps, and return the weights a step later."""
        kept = self._edge_state
        moved = self._laws.learn(
            EdgeMotion(point.weights, point.momentum, kept.squares, kept.averaged), add_effort, coefficients
        )
        self._edge_state = kept._replace(squares=moved.squares, averaged=moved.averaged)
        return moved.weights

    @torch.no_grad()
    def listen(self, input: Tensor | None, dt: float) -> Signal:
        """The forward dynamics alone: states move, costates and weights rest. Returns the outputs after the step.

        Raises:
            InputError: wrong shapes, or a step beyond the integrator's bound.
        """
        self._set_dt(dt)
        point = self._point._replace(state=self._io.hold(self._point.state, input))
        activations = self._laws.see(point.weights, point.state)
        state = self._laws.state(point.state, activations, self._coefficients_of(-1.0, dt))
        self._advance(point._replace(state=state), dt)
        return self.output

    def run(
        self,
        stream: Stream,
        dt: float,
        trace: Trace | None = None,
        progress: Callable[[StepResult], object] | None = None,
    ) -> Outcome:
        """Step through a stream to its end, or until something is no number.

        Args:
            stream: pairs of input and target.
            dt: seconds per step.
            trace: records curves.
            progress: is shown every step.

        Raises:
            InputError: as `step`, except for NaN under `MissingValues.STOP`, which ends the run.
        """
        first = self.steps
        for input, target in stream:
            if self.streams.missing is MissingValues.STOP and has_holes(input, target):
                return self._ended(
                    Status.STOPPED, first, "the stream holds NaN or infinity: clean it, or use MissingValues.SKIP"
                )
            step = self.step(input, target, dt, record=trace is not None and trace.due)
            if trace is not None:
                trace.add(step)
            if progress is not None:
                progress(step)
            if self.steps % _LOOK_EVERY == 0 and not self.finite:
                break
        if self.finite:
            return self._ended(Status.ENDED, first, "")
        return self._ended(Status.DIVERGED, first, self._remedy())

    def state_dict(self) -> dict[str, Tensor]:
        """All that is needed to go on to the same bits: the point in phase space, the time and the number of steps."""
        clock = {"time": torch.tensor(self.time, dtype=torch.float64), "steps": torch.tensor(self.steps)}
        return {name: values.clone() for name, values in {**as_tensors(self._point, self._edge_state), **clock}.items()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take up where `state_dict` was called.

        Raises:
            InputError: fields missing, or of other shapes.
        """
        own = as_tensors(self._point, self._edge_state)
        for name, values in own.items():
            found = saved.get(name)
            if found is None or found.shape != values.shape or "time" not in saved or "steps" not in saved:
                kept = "is missing" if found is None else f"has shape {tuple(found.shape)}"
                raise InputError(
                    f"the saved state does not fit this network: {name} {kept}",
                    f"{name} of shape {tuple(values.shape)}, time and steps",
                    "build the same network",
                )
        taken = {name: saved[name].to(values).clone() for name, values in own.items()}
        self.point = PhasePoint(*(taken[name] for name in PhasePoint._fields))
        self._edge_state = self._edge_state._replace(
            **{name: taken[name] for name in EdgeState._fields if name in taken}
        )
        self.time, self.steps = float(saved["time"]), int(saved["steps"])

    def _drawn(self, start: Start, like: Tensor) -> PhasePoint:
        """Weights and states from the generator, on the CPU so that every device begins alike."""
        graph, count = self._laws.graph, self.streams.count
        generator = start.generator or torch.Generator().manual_seed(0)
        scale = start.gain / graph.in_degrees().clamp(min=1).sqrt()[graph.targets].to(like)
        sets = 1 if self.streams.shared else count
        drawn = [torch.randn(graph.edges, generator=generator).to(like) * scale for _ in range(sets)]
        weights = torch.stack([graph.on_edges(values) for values in drawn])
        weights = weights[0] if self.streams.shared else weights
        state = start.spread * torch.randn(count, graph.neurons, generator=generator).to(like)
        if self._laws.model.bias:
            state[:, -1] = 1
        return PhasePoint(state, torch.zeros_like(state), weights, torch.zeros_like(weights))

    def _coefficients_of(self, sign: Sign, dt: float) -> StepCoefficients:
        """The coefficients of a step; those of signs that are the same for all are kept while dt stays."""
        if isinstance(sign, Tensor):
            return self._laws.coefficients(sign, dt, self.streams.shared)
        if sign not in self._coefficients:
            self._coefficients[sign] = self._laws.coefficients(sign, dt, self.streams.shared)
        return self._coefficients[sign]

    def _set_dt(self, dt: float) -> None:
        """A new step is checked once."""
        if dt == self._dt:
            return
        if not (isfinite(dt) and dt > 0):
            raise InputError(
                f"dt must be positive and finite, got {dt}", "the time of one step in seconds", "try dt=0.002"
            )
        integrator, theta = self._laws.integrator, self.functional.dissipation
        integrator.check(max(float(self._laws.speed.max()) + theta, integrator.every * theta), dt)
        self._dt, self._coefficients = dt, {}

    def _advance(self, point: PhasePoint, dt: float) -> None:
        self._point = point
        self.time += dt
        self.steps += 1

    def _ended(self, status: Status, first: int, remedy: str) -> Outcome:
        return Outcome(status, self.steps - first, None, remedy)

    def _remedy(self) -> str:
        if isinstance(self.sign, Plain):
            return (
                "Hamilton's equations with s = +1 are unstable from initial data: costates grow as e^{(c − θ)t}. "
                "Flip the sign with sign=ConstantFlip()"
            )
        return "the weights moved too fast: raise mass or dissipation, weigh the potential less, or take shorter steps"


def _of_what_moves(functional: Functional, port: EdgePort) -> Functional:
    """The functional of the neurons alone, without kinetic energy, where weights move by no functional."""
    return functional if port.derived else replace(functional, mass=inf)


def _check_edges(memory: Memory | None, port: EdgePort, integrator: NeuronIntegrator, sign: SignPolicy) -> None:
    """Edges with memory read states that have moved, and a port that is not derived knows no sign of time.

    Raises:
        InputError: an integrator or a sign policy that they cannot be combined with.
    """
    if not integrator.staggered and not (memory is None and port.derived):
        raise InputError(
            f"the integrator must move one field after the other for edges with a memory or with "
            f"{type(port).__name__}, got {type(integrator).__name__}",
            "an integrator that is staggered",
            "use integrator=Exponential(), or leave memory and port out",
        )
    if not port.derived and not isinstance(sign, ConstantFlip):
        raise InputError(
            f"the port {type(port).__name__} does not follow from Hamilton's equations and has no sign of time to "
            f"flip, got {type(sign).__name__}",
            "sign=ConstantFlip()",
            "leave the sign out, or the port",
        )
