"""Pulling credits back through a run: where torch's engine works for this folder."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, final

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from worldsheet.core.errors import LayerError
from worldsheet.core.private_torch import run_backward
from worldsheet.cut.leaves import deliver, is_watched, silenced
from worldsheet.cut.linearity import Parts
from worldsheet.cut.run import Run
from worldsheet.cut.state import Site, hook_between_sites
from worldsheet.cut.walk import Node, below, leaves_of, shares, states_among

Edges: TypeAlias = tuple[GradientEdge, ...]
"""Ends of graphs."""

Credits: TypeAlias = tuple[Tensor, ...]
"""The covectors to pull back from them."""


def pull_by_sites(run: Run, cost: Tensor, *, once: bool) -> None:
    """Fill `.grad` with backprop's gradient by one pull-back a site, from the cost down, against the order of calls.

    At unit rate every state is its prediction, so that costates are final once all readers of a site have pulled:
    λ_l = Σ_m J_mᵀ λ_m over readers m, all of which were called later. A pull-back ends at the states that a site has
    read and at its parameters, whose gradient torch accumulates itself, with the user's hooks.

    Args:
        run: a forward pass; its graph is used up.
        cost: the loss it led to.
        once: whether somebody torch does not tell of listens to the gradients of all parameters.

    Raises:
        LayerError: a pull-back that torch refuses, or a hook on a tensor that several sites read.
    """
    head = get_gradient_edge(cost)
    shared = shares([*([edge.node for edge in edges] for edges in run.predictions), [head.node]])
    if any(node in shared.nodes for node in run.hooked_nodes) or any(map(_is_hook, shared.nodes)):
        raise hook_between_sites()
    if any(map(_is_checkpoint, shared.nodes)) or (shared.nodes and run.uncut):
        raise _backward_between_sites()
    held = {key for key, leaf in shared.leaves.items() if once or is_watched(leaf)}
    kept = shared.kept
    parts = Parts(shared.nodes)
    del shared
    run.hooked_nodes.clear()
    run.nodes.clear()
    pull = _Gathering(None if parts else held) if parts or held else _accumulate
    with run.gate:
        try:
            pull((head,), (torch.ones_like(cost),), kept.pop())
        except RuntimeError as error:
            raise refused("the loss", error) from error
        del head
        for site in reversed(run.sites):
            edges, credits = _whole(run.predictions.pop(), site)
            keep = kept.pop()
            if credits:
                try:
                    pull(edges, credits, keep)
                except RuntimeError as error:
                    raise refused(site.label, error) from error
            del edges, credits
        parts.check()
        if isinstance(pull, _Gathering):
            deliver(pull.totals())


def pull_in_order(run: Run, cost: Tensor, *, keep: bool) -> tuple[list[Tensor | None], list[tuple[Tensor, Tensor]]]:
    """As `pull_by_sites`, but leave `.grad` alone.

    Args:
        run: a forward pass.
        cost: the loss it led to.
        keep: whether the run's graph stays; else it is used up.

    Returns:
        The costate of each tensor, None for what nobody reads, and leaves with their gradients.

    Raises:
        LayerError: a pull-back that torch refuses.
    """
    pull = _Gathering(None)
    costates = _in_order(run, cost, (), pull, priced=True, keep=keep)
    return costates, pull.totals()


def pull_through(
    run: Run, cost: Tensor, credits: Sequence[Tensor | None], *, priced: bool, keep: bool
) -> list[Tensor | None]:
    """Pull credits back through all layers below them: at each tensor what has arrived and its own, (1 − Nᵀ)⁻¹ c.

    Args:
        run: its sites, at whatever states.
        cost: the loss it led to.
        credits: by tensor, what is added to what its readers pull back; None or left out for nothing.
        priced: whether the cost's credit, 1, comes along.
        keep: whether the run's graph stays; else it is used up.

    Raises:
        LayerError: a pull-back that torch refuses.
    """
    return _in_order(run, cost, credits, _to_states, priced=priced, keep=keep)


def _in_order(
    run: Run,
    cost: Tensor,
    credits: Sequence[Tensor | None],
    pull: Callable[[Edges, Credits, bool], None],
    *,
    priced: bool,
    keep: bool,
) -> list[Tensor | None]:
    """The whole credit of each tensor, site by site against the order of calls."""
    costates: list[list[Tensor | None]] = []
    with run.gate:
        head = get_gradient_edge(cost)
        parts = [*([edge.node for edge in edges] for edges in run.predictions), [head.node]]
        shared = shares(parts)
        kept = [keep or part for part in shared.kept]
        users = Parts(shared.nodes)
        del parts, shared
        if credits:
            for site in run.sites:
                site.take(credits[site.first : site.first + len(site.credits)])
        stays = kept.pop()
        if priced:
            pull((head,), (torch.ones_like(cost),), stays)
        for site, ends in zip(reversed(run.sites), reversed(run.predictions), strict=True):
            stays = kept.pop()
            costates.append(list(site.credits))
            edges, whole = _whole(ends, site)
            if whole:
                try:
                    pull(edges, whole, stays)
                except RuntimeError as error:
                    raise refused(site.label, error) from error
        users.check()
    return [costate for found in reversed(costates) for costate in found]


def pull_all(
    run: Run, cost: Tensor, credits: Sequence[Tensor | None], leaves: Sequence[Tensor], *, priced: bool, keep: bool
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Pull the credits of all tensors of all sites back at once, one layer each, that of the cost being 1.

    Args:
        run: its sites.
        cost: the loss it led to.
        credits: by tensor; None for none.
        leaves: parameters and inputs to pull back to, too.
        priced: whether the cost is pulled back through, too.
        keep: whether the run's graph stays; else it is used up.

    Returns:
        Jᵀ·credit summed over the readers of each tensor, and (∂f/∂θ)ᵀ·credit for each leaf; None where nothing arrives.

    Raises:
        LayerError: a pull-back that torch refuses.
    """
    pairs = [(edge, credit) for edge, credit in zip(run.edges, credits, strict=True) if credit is not None]
    if priced:
        pairs.append((get_gradient_edge(cost), torch.ones_like(cost)))
    edges, given = zip(*pairs, strict=True) if pairs else ((), ())
    arrivals = run.arrivals
    run.gate.shows = bool(leaves)
    try:
        with silenced(leaves):
            found = _captured(edges, given, [*arrivals, *leaves], keep=keep)
    except RuntimeError as error:
        raise refused("one of " + ", ".join(site.label for site in run.sites[:3]) + ", ...", error) from error
    finally:
        run.gate.shows = False
    return list(found[: len(arrivals)]), list(found[len(arrivals) :])


def refused(label: str, error: Exception) -> LayerError:
    """The error of a pull-back."""
    return LayerError(
        f"the backward pass through {label} failed: {error}",
        "operations that torch can differentiate",
        "call backward on the module's own loss: it fails in the same way; in-place operations are the usual cause",
    )


def _is_hook(node: Node) -> bool:
    """Whether a node calls a module's full backward hooks."""
    return type(node).__name__ == "BackwardHookFunctionBackward"


def _is_checkpoint(node: Node) -> bool:
    """Whether a node runs a region of the forward again."""
    return type(node).__name__ == "CheckpointFunctionBackward"


def _backward_between_sites() -> LayerError:
    return LayerError(
        "an activation checkpoint is outside of all sites and is read by several of them, each of which would run it "
        "again",
        "checkpoints inside of a site, or read by one site",
        "put it into a submodule with the weights around it, or name such a module in blocks=",
    )


def _whole(ends: Edges, site: Site) -> tuple[Edges, Credits]:
    """The ends of a site's graphs that somebody has read, with their whole credits."""
    credits = site.whole()
    found = tuple([credit for credit in credits if credit is not None])
    if len(found) == len(ends):
        return ends, found
    return tuple([end for end, credit in zip(ends, credits, strict=True) if credit is not None]), found


def _accumulate(edges: Edges, credits: Credits, keep: bool) -> None:
    """Pull back to states, whose sites take what arrives, and to leaves, where torch accumulates."""
    run_backward(edges, credits, keep, False, (), allow_unreachable=True, accumulate_grad=True)


def _to_states(edges: Edges, credits: Credits, keep: bool) -> None:
    """Pull back to states alone, whose sites take what arrives."""
    states = states_among(below(edge.node for edge in edges))
    arrivals = [GradientEdge(node, index) for node in states for index in range(len(node.site.credits))]
    found = iter(_captured(edges, credits, arrivals, keep=keep))
    for node in states:
        node.site.take([next(found) for _ in node.site.credits])


def _captured(
    edges: Edges, credits: Credits, ends: Sequence[Tensor | GradientEdge], *, keep: bool
) -> tuple[Tensor | None, ...]:
    """What arrives at some ends, where it stays."""
    if not ends or not edges:
        return (None,) * len(ends)
    return run_backward(edges, credits, keep, False, tuple(ends), allow_unreachable=True, accumulate_grad=False)


@final
class _Gathering:
    """Pulls back like `_accumulate`, but adds up the gradients of some leaves before anybody is told of them.

    Args:
        held: identities of these leaves; None for all of them.
    """

    def __init__(self, held: set[int] | None) -> None:
        self._held = held
        self._totals: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, edges: Edges, credits: Credits, keep: bool) -> None:
        nodes = below(edge.node for edge in edges)
        leaves, states = leaves_of(nodes), states_among(nodes)
        del nodes
        arrivals = [GradientEdge(node, index) for node in states for index in range(len(node.site.credits))]
        with silenced(leaves):
            found = iter(_captured(edges, credits, [*leaves, *arrivals], keep=keep))
        own = [(leaf, gradient) for leaf in leaves if (gradient := next(found)) is not None]
        for node in states:
            node.site.take([next(found) for _ in node.site.credits])
        for leaf, gradient in own:
            if self._held is None or id(leaf) in self._held:
                known = self._totals.get(id(leaf))
                self._totals[id(leaf)] = (leaf, gradient if known is None else known[1] + gradient)
        if self._held is not None:
            deliver([pair for pair in own if id(pair[0]) not in self._held])

    def totals(self) -> list[tuple[Tensor, Tensor]]:
        """The leaves that were held with the sums of their gradients."""
        return list(self._totals.values())
