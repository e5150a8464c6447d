"""Running a program again on states of one's own: the predictions and pull-backs that a tick needs."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, TypeGuard, TypeVar, final

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from worldsheet.core.errors import LayerError, SitesChangedError
from worldsheet.core.private_torch import tree_leaves
from worldsheet.core.problem import Problem
from worldsheet.core.topology import Topology
from worldsheet.core.types import AnyState
from worldsheet.cut.inputs import Inputs
from worldsheet.cut.program import Program
from worldsheet.cut.pull import pull_all, pull_in_order, pull_through
from worldsheet.cut.run import Feed, Run
from worldsheet.cut.state import Site
from worldsheet.cut.walk import reach
from worldsheet.cut.world import World

Ran: TypeAlias = tuple[Run, Tensor, list[Tensor]]
"""A run, the cost it led to, and its predictions."""

Pulled = TypeVar("Pulled")


@final
class ReplayedRun:
    """A run at one set of states, with what can be asked of it.

    Attributes:
        states: the very tensors that were put in; None where the prediction itself was.
        predictions: f_l at the states below, by tensor of each site.
        cost: C, without a graph.
    """

    def __init__(self, problem: "Replayed", states: Sequence[Tensor | None] | None, run: Ran) -> None:
        self._problem = problem
        self._run, self._cost, self.predictions = run
        self.states: Sequence[Tensor | None] = self.predictions if states is None else states
        self.cost = self._cost.detach()
        self._spent = False

    def pull(
        self, credits: Sequence[Tensor | None], leaves: Sequence[Tensor] = (), *, priced: bool = True
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Jᵀ·credit summed over the readers of each tensor, and (∂f/∂θ)ᵀ·credit of each leaf.

        Args:
            credits: by tensor; None for none.
            leaves: parameters and inputs.
            priced: whether the cost's credit, 1, comes along.

        Raises:
            LayerError: a pull-back that torch refuses.
        """
        return self._pulled(lambda keep: pull_all(self._run, self._cost, credits, leaves, priced=priced, keep=keep))

    def solved(self) -> tuple[list[Tensor | None], list[tuple[Tensor, Tensor]]]:
        """Costates and gradients where every state is its prediction, from one pull-back a site."""
        return self._pulled(lambda keep: pull_in_order(self._run, self._cost, keep=keep))

    def through(self, credits: Sequence[Tensor | None] = (), *, priced: bool = True) -> list[Tensor | None]:
        """(1 − Nᵀ)⁻¹ c: what credits and the cost's pull back to through all layers below them, one after the other.

        Args:
            credits: by tensor; None or left out for none.
            priced: whether the cost's credit, 1, comes along.

        Raises:
            LayerError: a pull-back that torch refuses.
        """
        return self._pulled(lambda keep: pull_through(self._run, self._cost, credits, priced=priced, keep=keep))

    def _pulled(self, pull: Callable[[bool], Pulled]) -> Pulled:
        """Pull back; where a checkpoint runs a part of the forward again for that, as if it were the first time."""
        if not self._run.surrounded_anywhere:
            return self._tried(pull)
        with self._problem.again():
            return self._tried(pull)

    def _tried(self, pull: Callable[[bool], Pulled]) -> Pulled:
        """Pull back so that it can be done again; where compiled code allows it but once, on a run of its own."""
        if self._spent:
            self._run, self._cost, _ = self._problem.ran(self.states)
        if self._problem.keeps:
            try:
                return pull(True)
            except LayerError as error:
                if "donated buffers" not in str(error):
                    raise
                self._problem.keeps = False
                self._run, self._cost, _ = self._problem.ran(self.states)
        self._spent = True
        return pull(False)

    def bent(self, ends: Sequence[int], tangents: Sequence[Tensor]) -> list[Tensor] | None:
        """∇²C·tangents at the tensors that the cost reads; None where torch cannot differentiate the cost twice."""
        arrivals = self._run.arrivals
        places = [arrivals[end] for end in ends]
        try:
            slopes = torch.autograd.grad(self._cost, places, create_graph=True)
            pairs = [(s, t) for s, t in zip(slopes, tangents, strict=True) if s.requires_grad]
            if not pairs:
                return [torch.zeros_like(tangent) for tangent in tangents]
            rising, covectors = zip(*pairs, strict=True)
            found: tuple[Tensor | None, ...] = torch.autograd.grad(rising, places, covectors, allow_unused=True)
        except RuntimeError:
            return None
        return [torch.zeros_like(t) if f is None else f for f, t in zip(found, tangents, strict=True)]


@final
class Replayed(Problem):
    """A program on one input, for one relaxation: its forward can be run again and again on given states.

    The first run is an ordinary forward: what it drew is drawn again by every other, and what it left in the modules
    stays. Each tensor that a site's call returns is a state of its own, numbered in the order of calls.

    Args:
        program: the module, the loss and its sites.
        x: what the module is called with.
        target: what the loss compares the output with.

    Attributes:
        first: the forward pass.
        names: by tensor, of the site that it belongs to.
        kinds: by tensor, its site's class.
        topology: which reads which, numbered from 1.
        leaves: parameters and inputs that gradients flow to.
        keeps: whether graphs can be pulled through more than once.
        samples: batch size: the first dimension of the input, or of the first state.

    Raises:
        LayerError: a module or loss that fails on what it receives, or a loss that reads no site.
    """

    def __init__(self, program: Program, x: Any, target: Any) -> None:
        self.target = target
        self._program = program
        self._inputs = Inputs(x)
        holders = [part for part in (program.module, program.loss) if _is_module(part)]
        modules = list(dict.fromkeys(module for holder in holders for module in holder.modules()))
        held = [*tree_leaves((x, target)), *(p for holder in holders for p in holder.parameters())]
        self._world = World(modules, {each.device for each in held if isinstance(each, Tensor) and not each.is_meta})
        self.keeps = True
        feed = _Kept()
        run, cost = program.run(x, target, feed)
        if self._world.parameters_moved:
            raise _writes_parameters(program)
        if program.settle(run, cost):
            self.undo()
            feed = _Kept()
            run, cost = program.run(x, target, feed)
        self.first = ReplayedRun(self, None, (run, cost, feed.predictions))
        self._plan = [(site.name, len(site.credits)) for site in run.sites]
        self.names = [site.name for site in run.sites for _ in site.credits]
        self.kinds = [site.kind for site in run.sites for _ in site.credits]
        found = reach(run.edges, get_gradient_edge(cost))
        if not found.ends:
            raise _unread()
        parents = tuple(tuple(number + 1 for number in read) or (0,) for read in found.parents)
        self.topology = Topology(parents, tuple(number + 1 for number in found.ends))
        self.leaves = found.leaves
        self.samples = _samples(x, self.first.predictions)

    def again(self) -> AbstractContextManager[None]:
        """A time in which modules and generators are what they were before the first run."""
        return self._world.again()

    def undo(self) -> None:
        """Make modules, generators and inputs what they were before the first run."""
        self._world.undo()
        self._inputs.undo()

    def at(self, states: Sequence[Tensor | None]) -> ReplayedRun:
        """Run the forward with these states put in; where there is None, the prediction.

        Raises:
            SitesChangedError: the forward took another way than the first.
            LayerError: a module or loss that fails on what it receives.
        """
        return ReplayedRun(self, states, self.ran(states))

    def ran(self, states: Sequence[Tensor | None]) -> Ran:
        """One run with these states put in.

        Raises:
            SitesChangedError: the forward took another way than the first.
            LayerError: a module or loss that fails on what it receives.
        """
        return self._fed(_Given(states, self._plan, self.first.predictions))

    def along(self, state: Callable[[int, Tensor], Tensor]) -> ReplayedRun:
        """Run the forward with states made from predictions as they come, each at the states of the calls before.

        Args:
            state: what is put in, given the number of the tensor, from 1 on, and its prediction.

        Raises:
            SitesChangedError: the forward took another way than the first.
            LayerError: a module or loss that fails on what it receives.
        """
        feed = _Made(state, self._plan, self.first.predictions)
        ran = self._fed(feed)
        return ReplayedRun(self, feed.states, ran)

    def _fed(self, feed: "_Planned") -> Ran:
        with self._world.again():
            run, cost = self._program.run(self._inputs.again(), self.target, feed)
        feed.finish(len(run.sites))
        return run, cost, feed.predictions

    def pushed(
        self, states: Sequence[Tensor], tangents: Sequence[AnyState], *, through: bool = False
    ) -> list[AnyState] | None:
        """N v by forward mode, all sites in one run; None where an operation has no such derivative.

        Args:
            states: where.
            tangents: v.
            through: whether tangents go on through all layers above, for (1 − N)⁻¹ v.
        """
        feed = _Dual(states, tangents, through=through)
        try:
            with self._world.again(), forward_mode.dual_level():
                self._program.run(self._inputs.again(), self.target, feed)
        except (LayerError, RuntimeError, NotImplementedError):
            return None
        return feed.images if len(feed.images) == len(states) else None

    def whole(self, x: Any) -> Tensor:
        """The loss of the user's own forward with nothing cut, drawing what the relaxation drew: for the oracle."""
        del x  # which the forward may have written into
        with self._world.again(), torch.enable_grad():
            return self._program.plain(self._inputs.again(), self.target)


@final
class _Kept(Feed):
    """Predictions, remembered."""

    def __init__(self) -> None:
        self.predictions: list[Tensor] = []

    def give(self, site: Site, predictions: Sequence[Tensor]) -> Sequence[Tensor]:
        given = [prediction.detach() for prediction in predictions]
        self.predictions += given
        return [each.clone() for each in given]


class _Planned(Feed):
    """States that are no predictions, put in if the forward goes the way it went."""

    def __init__(self, plan: Sequence[tuple[str, int]], like: Sequence[Tensor]) -> None:
        self.predictions: list[Tensor] = []
        self._plan = plan
        self._like = like
        self._calls = 0
        self._changed = ""

    @abstractmethod
    def state(self, index: int, prediction: Tensor) -> Tensor:
        """What is put in the place of the tensor of this index, from 0 on."""

    def give(self, site: Site, predictions: Sequence[Tensor]) -> Sequence[Tensor]:
        known = self._plan[self._calls] if self._calls < len(self._plan) else ("", 0)
        like = self._like[site.first : site.first + len(predictions)]
        fits = len(like) == len(predictions) and all(a.shape == b.shape for a, b in zip(like, predictions, strict=True))
        if known != (site.name, len(predictions)) or not fits:
            self._changed = self._changed or site.label
            raise self._error()
        self._calls += 1
        given = [prediction.detach() for prediction in predictions]
        self.predictions += given
        return [self.state(index, each).clone() for index, each in enumerate(given, start=site.first)]

    def finish(self, calls: int) -> None:
        """Refuse a way that ended early, or whose change the user's code has caught."""
        if self._changed or calls != len(self._plan):
            self._changed = self._changed or f"'{self._plan[min(calls, len(self._plan) - 1)][0]}'"
            raise self._error()

    def _error(self) -> SitesChangedError:
        return SitesChangedError(
            f"the forward calls other sites at these states than in its forward pass, first at {self._changed}",
            "a forward that calls the same sites whatever their states are",
            "name a larger module that always is called in blocks=, so that the choice is made inside one site; "
            "or use ws.backward with Dyadic(), which runs the forward once",
        )


@final
class _Given(_Planned):
    """States that are known; where there is None, the prediction."""

    def __init__(
        self, states: Sequence[Tensor | None], plan: Sequence[tuple[str, int]], like: Sequence[Tensor]
    ) -> None:
        super().__init__(plan, like)
        self._states = states

    def state(self, index: int, prediction: Tensor) -> Tensor:
        given = self._states[index]
        return prediction if given is None else given


@final
class _Made(_Planned):
    """States made from their predictions, remembered."""

    def __init__(
        self, made: Callable[[int, Tensor], Tensor], plan: Sequence[tuple[str, int]], like: Sequence[Tensor]
    ) -> None:
        super().__init__(plan, like)
        self.states: list[Tensor] = []
        self._made = made

    def state(self, index: int, prediction: Tensor) -> Tensor:
        self.states.append(self._made(index + 1, prediction))
        return self.states[-1]


@final
class _Dual(Feed):
    """States with tangents; what comes of the tangents is remembered.

    Args:
        states: by tensor.
        tangents: likewise.
        through: whether what comes of the tangents below is added to a tensor's own before it goes on.
    """

    def __init__(self, states: Sequence[Tensor], tangents: Sequence[Tensor], *, through: bool) -> None:
        self.images: list[Tensor] = []
        self._states = states
        self._tangents = tangents
        self._through = through

    def give(self, site: Site, predictions: Sequence[Tensor]) -> Sequence[Tensor]:
        for prediction in predictions:
            image = forward_mode.unpack_dual(prediction).tangent  # type: ignore[no-untyped-call]
            self.images.append(torch.zeros_like(prediction) if image is None else image.detach())
        numbers = range(site.first, site.first + len(predictions))
        if self._through:
            self.images[site.first :] = [self.images[n] + self._tangents[n] for n in numbers]
        onward = self.images if self._through else self._tangents
        pairs = [(self._states[n].clone(), onward[n].clone()) for n in numbers]
        return [forward_mode.make_dual(state, tangent) for state, tangent in pairs]  # type: ignore[no-untyped-call]


def _unread() -> LayerError:
    return LayerError(
        "the loss does not depend on what any site returned",
        "a loss that torch can differentiate by what the module returned",
        "compute it from the output without .detach(), .item(), argmax or numpy",
    )


@torch.no_grad()
def shapes_along(path: Sequence[nn.Module], x: Tensor) -> list[tuple[int, ...]]:
    """Shapes of what each layer of a path returns, from one forward pass that leaves everything as it was."""
    modules = list(dict.fromkeys(module for layer in path for module in layer.modules()))
    found = []
    with World(modules, {x.device}).again():
        for layer in path:
            x = layer(x)
            found.append(tuple(x.shape))
    return found


def _samples(x: Any, predictions: Sequence[Tensor]) -> int:
    for tensor in (*tree_leaves(x), *predictions):
        if isinstance(tensor, Tensor) and tensor.dim():
            return int(tensor.shape[0])
    return 1


def _writes_parameters(program: Program) -> LayerError:
    return LayerError(
        f"{type(program.module).__name__} writes into its parameters in its forward, so that no two runs are the same",
        "a forward that leaves parameters alone",
        "call the module once on this input if it does so the first time only; or use ws.backward with Dyadic(), which "
        "runs the forward once",
    )


def _is_module(part: object) -> TypeGuard[nn.Module]:
    return isinstance(part, nn.Module)
