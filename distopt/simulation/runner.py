"""The one loop over rounds. In round t the agents are at x_t; f_t is revealed; they move to x_{t+1}.

The state of a run is a ``Carry``; a round is a pure function of it, of the round's data and of W_t.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt import metrics
from distopt.costs.comparator import Comparator, Reference
from distopt.costs.data import BLOCK_BYTES, Blocks
from distopt.network.drawn import Uniforms, uniforms
from distopt.network.rows import Tables
from distopt.numerics.trees import at, cast, part, tensors, tree_map
from distopt.simulation import grid, measure
from distopt.simulation.ahead import ahead
from distopt.simulation.probing import Probing
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, begun, copied

PATIENCE = 1.0
"""Seconds that a segment should take at most, so that an interruption is soon acted upon. No bit depends on it."""

FIRST_BYTES, FIRST = 2**26, 256  # size of x over a run's first segment, before any was timed, and its rounds at most


class Carry(NamedTuple):
    """What a run needs to continue from round t: the agents' values, and the cumulative metrics, [R] or [R, N].

    ``diverged`` holds the trials that have diverged, each with the round of it.
    """

    t: int
    held: AgentState
    totals: dict[str, Tensor]
    diverged: Mapping[int, int] = MappingProxyType({})

    @property
    def x(self) -> Tensor:
        """x_t [R, N, d]."""
        return self.held.x


@dataclass(frozen=True)
class Chunk:
    """What is recorded of a segment of rounds start .. stop-1.

    Attributes:
        rounds: the recorded rounds [k].
        metrics: name -> [R, k], float64.
        trajectories: name -> [R, stop - start, N, *]: x_t, and what agents hold besides as it stands after round t.
        last: x after the last of these rounds [R, N, d], where x is recorded.
        t: the round before which the agents stand.
        totals: the cumulative metrics, [R] or [R, N].
        diverged: the trials that have diverged so far, each with the round at which something of it stopped being finite. From then on
            what is measured of its agents is nan.
        over: whether all trials have diverged. Nothing from the last one's round on is kept then.
    """

    start: int
    stop: int
    rounds: NDArray[np.int64]
    metrics: dict[str, NDArray[np.float64]]
    trajectories: dict[str, NDArray[Any]]
    last: NDArray[Any] | None
    t: int
    totals: dict[str, Tensor]
    diverged: Mapping[int, int] = field(default_factory=dict)
    over: bool = False

    def carry(self, held: AgentState) -> Carry:
        """The point to continue from, with the agents' current values (see ``Engine.fetch``)."""
        return Carry(self.t, held, self.totals, self.diverged)


def begin(problem: Problem) -> Carry:
    """The carry before round 0. Its leaves share no memory."""
    return Carry(0, begun(problem), {})


@dataclass(frozen=True)
class Block:
    """A block of rounds, ready to run: ``count`` rounds from ``start``, of at most ``length``.

    ``exact`` the agents' data in float64, leaves [K|1, R|1, n, ...]; ``reference`` the comparator; ``fixed_cost`` F_t at the best
    fixed point [K, R|1] and ``fixed_accuracy``, or None where there is none; ``earlier`` the data of the rounds before (``Plan.earlier``).
    """

    problem: Problem
    start: int
    count: int
    length: int
    exact: Any
    reference: Reference
    fixed_cost: Tensor | None
    fixed_accuracy: Tensor | None
    earlier: Any = None

    @property
    def rounds(self) -> Tensor:
        """int64 [K, 1, 1, 1]."""
        return torch.arange(self.start, self.start + self.count).reshape(-1, 1, 1, 1)

    @cached_property
    def data(self) -> Any:
        """What a round reveals (see ``distopt.simulation.round.revealed``), in the experiment's precision."""
        seen = (self.exact, self.earlier) if self.problem.plan.earlier else self.exact
        return seen if self.problem.x0.dtype == torch.float64 else cast(seen, self.problem.x0.dtype)

    @cached_property
    def tables(self) -> Tables:
        """The weights of the whole network."""
        return self.problem.network.rows(self.rounds)

    @cached_property
    def messages(self) -> Tensor:
        """How many an agent sends in each round, the mean over the agents [K|1, R|1]."""
        network, made = self.problem.network, self.__dict__.get("tables")  # the leader of workers has no use for them
        return network.messages(self.rounds, made)

    @cached_property
    def uniforms(self) -> Uniforms:
        """The channels' uniforms."""
        return uniforms(self.problem.channels, self.problem.key, self.problem.plan.widths, self.rounds)


class Segment(NamedTuple):
    """What an engine made of some rounds: float64 ``observed`` and ``kept`` trajectories [K, R, N, *].

    ``observed`` holds sums over agents by metric, [K, R, columns]. ``finite`` [R] says whether the last x of each trial
    is finite; ``bits`` is what each agent broadcast in a round.
    """

    observed: dict[str, Tensor]
    kept: dict[str, Tensor]
    finite: Tensor
    bits: int


class Engine(Protocol):
    """Where the rounds run and the agents' state lives: ``place`` moves the state there, ``fetch`` returns it."""

    @property
    def compiled(self) -> bool:
        """Whether the rounds are compiled; their bits are other ones than those of eager rounds."""

    def prepare(self, block: Block) -> None:
        """Make what ``advance`` will need of a block, while earlier rounds run: called from another thread."""

    def place(self, problem: Problem, held: AgentState | None) -> None:
        """The agents hold this from now on; None: what they hold before the first round. The engine may write to it."""

    def advance(self, block: Block, rounds: range, keep: tuple[str, ...]) -> Segment:
        """Run ``rounds``, places in ``block``: one or several of the first, or all. The agents continue from where they are.

        ``keep`` names trajectories to return: "x", and leaves of the state and of the channels' memories, after each round.
        """

    def fetch(self) -> AgentState:
        """What the agents hold, here. Whoever keeps it copies it: the next ``advance`` may write to it."""


def run(
    problem: Problem,
    comparator: Comparator,
    blocks: Blocks,
    engine: Engine,
    start: Carry | None = None,
    agentwise: bool | None = None,
) -> Iterator[Chunk]:
    """Run from ``start`` (or from the beginning) to the last round or to divergence, segment by segment.

    ``agentwise`` keeps the regrets at each agent's own point; None decides by size (see ``metrics.AGENTWISE_LIMIT``).
    """
    for chunks in together([problem], comparator, blocks, engine, start and [start], agentwise):
        yield chunks[0]


def together(
    problems: Sequence[Problem],
    comparator: Comparator,
    blocks: Blocks,
    engine: Engine,
    starts: Sequence[Carry] | None = None,
    agentwise: bool | None = None,
    pause: int | None = None,
) -> Iterator[dict[int, Chunk]]:
    """Run the points of a grid (see ``distopt.simulation.grid``) in one batch: the chunks of each segment by place in ``problems``.

    Each point is measured separately, so its chunks are those of a single run. A point whose trials have all diverged
    has no further ones. Its rows are still computed, since a smaller batch would have to be compiled again, but they
    are not used.

    ``starts`` are the points' carries, all before the same round. A segment ends at every ``pause``-th round, and when it has
    taken about ``PATIENCE`` seconds; where a segment begins changes no bit.
    """
    points, whole = len(problems), grid.stack(problems)
    totals = {g: starts[g].totals if starts else {} for g in range(points)}
    diverged = {g: starts[g].diverged if starts else {} for g in range(points)}
    first, t, probing = problems[0], starts[0].t if starts else 0, Probing(problems)
    engine.place(whole, _joined(starts, len(first.x0)) if starts else None)
    if agentwise is None:
        agentwise = first.agents**2 * first.x0.shape[-1] <= metrics.AGENTWISE_LIMIT
    agentwise = agentwise and any(metric.needs_points for metric in first.measured.values())
    keep = tuple(dict.fromkeys([*((first.answer,) if agentwise else ()), *first.experiment.record]))
    soon = min(FIRST, max(1, FIRST_BYTES // (whole.x0.numel() * whole.x0.element_size())))  # rounds of a segment
    length, room = blocks.length, _bytes_per_round(whole, blocks, points, keep)
    while length > 1 and length * room > 4 * BLOCK_BYTES:
        length //= 2

    def made(start: int) -> tuple[Block, Block]:
        block = _block(first, comparator, blocks, start, length)
        wide = _wide(block, whole, points)
        engine.prepare(wide)
        return block, wide

    overlap = first.x0.dtype == torch.get_default_dtype() == torch.float64
    for block, wide in ahead(made, range(t - t % length, first.rounds, length), overlap):
        while t < block.start + block.count:
            offset = t - block.start
            count = min(soon, block.count - offset, pause - t % pause if pause else soon, probing.until(t))
            if probing.due(t):
                held, data = engine.fetch(), at(block.exact, offset)
                for g in totals:
                    probing.look(g, t, of_point(held, g, points, len(first.x0)), data, diverged[g])
                del held  # the rounds may write over it
            began = time.perf_counter()
            segment = engine.advance(wide, range(offset, offset + count), keep)
            count = len(segment.observed["cost"])
            soon = max(1, int(count * PATIENCE / max(time.perf_counter() - began, 1e-6)))
            t += count
            x = engine.fetch().x.clone() if "x" in first.experiment.record else None
            chunks = {
                g: _chunk(problems[g], block, offset, before, diverged[g], *_point(segment, x, g, points), agentwise)
                for g, before in totals.items()
            }
            for g, chunk in chunks.items():
                chunk.metrics.update(probing.columns(g, chunk.rounds))
            totals = {g: chunk.totals for g, chunk in chunks.items() if not chunk.over}
            diverged = {g: chunk.diverged for g, chunk in chunks.items()}
            yield chunks
            if not totals:
                return
            del segment, chunks  # a second copy of a large network's trajectories would be one too many


def _joined(starts: Sequence[Carry], trials: int) -> AgentState:
    """What the agents of several grid points hold, one point's trials after the other's; its leaves share memory with nothing."""
    if len(starts) == 1:
        only: AgentState = copied(starts[0].held)
        return only

    def join(*leaves: Any) -> Any:
        own = isinstance(leaves[0], Tensor) and leaves[0].dim() > 0 and len(leaves[0]) == trials
        return torch.cat(leaves) if own else copied(leaves[0])  # trials share it, so points do too

    held: AgentState = pytree.tree_map(join, *(start.held for start in starts))
    return held


def _bytes_per_round(whole: Problem, blocks: Blocks, points: int, keep: tuple[str, ...]) -> int:
    """What a round of a block costs beyond the scenario's own data: weights, uniforms, data repeated for grid points, kept trajectories."""
    repeated = sum(
        leaf[0].numel() * leaf.element_size()
        for leaf in tensors(blocks.get(0))
        if leaf.shape[0] > 1 and leaf.shape[1] > 1
    )
    drawn = uniforms(whole.channels, whole.key, whole.plan.widths, torch.zeros(1, 1, 1, 1, dtype=torch.int64))
    own = (
        whole.network.bytes_per_round
        + sum(8 * each.numel() for each in drawn.values())
        + (points * repeated if points > 1 else 0)
    )
    return own + len(keep) * whole.x0.numel() * whole.x0.element_size()


def _wide(block: Block, whole: Problem, points: int) -> Block:
    """The block as an engine needs it for ``points`` copies of the trials, one after the other."""
    if points == 1:
        return block
    best = block.reference._replace(x=grid.repeated(block.reference.x, points))
    exact, earlier = grid.repeated((block.exact, block.earlier), points)
    return replace(block, problem=whole, exact=exact, earlier=earlier, reference=best)


def of_point(held: Any, g: int, points: int, trials: int) -> Any:
    """The rows of grid point g in a tree of what the agents of all ``points`` hold; what all share, it shares."""
    rows = slice(g * trials, (g + 1) * trials)
    return tree_map(lambda leaf: leaf[rows] if points > 1 and leaf.dim() and len(leaf) > 1 else leaf, held)


def _point(segment: Segment, x: Tensor | None, g: int, points: int) -> tuple[Segment, Tensor | None]:
    """A segment of grid point g, and its rows of ``x``, laid out as if it had run alone."""
    if points == 1:
        return segment, x
    trials = len(segment.finite) // points
    rows = slice(g * trials, (g + 1) * trials)

    def each(named: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[:, rows].contiguous() for name, value in named.items()}

    own = Segment(each(segment.observed), each(segment.kept), segment.finite[rows], segment.bits)
    return own, None if x is None else x[rows]


def _block(problem: Problem, comparator: Comparator, blocks: Blocks, start: int, length: int) -> Block:
    """Rounds start .. start + length - 1 (to the last round), which lie in one block of the scenario's data."""
    b = start // blocks.length
    span = blocks.span(b)
    first, last = start - span.start, min(start + length, span.stop) - span.start
    exact, reference = part(blocks.get(b), first, last), part(comparator.reference(b), first, last)
    cost, accuracy = part(comparator.fixed_values(b), first, last)
    earlier = part(blocks.earlier(b), first, last) if problem.plan.earlier else None
    return Block(problem, start, last - first, length, exact, reference, cost, accuracy, earlier)


def _chunk(
    problem: Problem,
    block: Block,
    offset: int,
    before: dict[str, Tensor],
    earlier: Mapping[int, int],
    segment: Segment,
    x: Tensor | None,
    agentwise: bool,
) -> Chunk:
    """Cumulate a segment's measurements from the totals ``before`` it, find out which trials diverged, and choose the rounds to record.
    ``earlier`` are the trials that have diverged before, with their rounds."""
    count, trials = len(segment.observed["cost"]), len(problem.x0)
    start, rows = block.start + offset, slice(offset, offset + count)

    def each(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[rows].expand(count, trials)

    sent = block.messages[rows] if len(block.messages) > 1 else block.messages
    exchanges = problem.exchanges(block.rounds[rows]).expand(count, trials)
    figures: dict[str, Any] = {name: each(value) for name, value in block.reference._asdict().items() if name != "x"}
    seen = measure.Rounds(
        problem,
        start,
        segment.observed,
        before,
        block.reference._replace(**figures),
        (each(block.fixed_cost), each(block.fixed_accuracy)),
        (segment.bits, float(problem.evaluations)),
        exchanges,
        sent.expand(count, trials) * exchanges * (segment.bits > 0),
        segment.kept[problem.answer].double() if agentwise else None,
        part(block.exact, offset, offset + count),
    )
    values = seen.all()

    good = torch.stack([value.isfinite() for name, value in values.items() if problem.measured[name].diverges]).all(0)
    lasted = torch.where(segment.finite, count + 1, count).minimum(
        good.cumprod(0).sum(0) + good.all(0)
    )  # count + 1: to the end
    fallen = {r: start + int(lasted[r]) for r in torch.nonzero(lasted <= count).flatten().tolist()}
    diverged = {**fallen, **earlier}
    over = len(diverged) == trials
    kept = max(diverged.values()) - start if over else count
    if diverged:
        at = torch.tensor([diverged.get(r, start + count) for r in range(trials)])
        lost = at <= torch.arange(start, start + count)[:, None]
        for name, _ in (*problem.sources["term"], *problem.sources["round_term"]):
            if name in values:
                values[name] = values[name].masked_fill(lost, torch.nan)

    rounds = np.arange(start, start + kept, dtype=np.int64)
    wanted = ((rounds + 1) % problem.experiment.every == 0) | (rounds == problem.rounds - 1)
    if over:
        wanted[-1:] = True
    chosen = np.flatnonzero(wanted)
    return Chunk(
        start,
        start + kept,
        rounds[chosen],
        {
            name: np.ascontiguousarray(value.numpy()[chosen].T)
            for name, value in values.items()
            if problem.measured[name].kept(problem.scenario)
        },
        {name: segment.kept[name][:kept].transpose(0, 1).numpy() for name in problem.experiment.record},
        None if x is None else x.numpy(),
        start + count,
        seen.totals,
        diverged,
        over,
    )
