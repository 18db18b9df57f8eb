"""The one loop over rounds. In round t the agents stand at x_t; f_t is revealed; they move to x_{t+1}.

The state of a run is a ``Carry``; a round is a pure function of it, of the round's data and of W_t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt import metrics, mixing
from distopt.comparator import Comparator, Reference
from distopt.data import BLOCK_BYTES, Blocks, cast, default_dtype, part
from distopt.errors import InputError
from distopt.experiment import Problem
from distopt.network import Memory, Net


class Carry(NamedTuple):
    """Everything a run must know to go on from round t.

    ``x`` [R, n, d]; ``state`` the algorithm's; ``memory`` the channels'; ``totals`` the cumulative metrics, [R] or [R, N].
    """

    t: int
    x: Tensor
    state: Any
    memory: Memory
    totals: dict[str, Tensor]


@dataclass(frozen=True)
class Chunk:
    """What a stretch of rounds start .. stop-1 produced.

    Attributes:
        rounds: the recorded rounds [k].
        metrics: name -> [R, k], float64.
        trajectories: name -> [R, stop - start, N, *]: x_t, and state leaves as they stand after round t.
        carry: where to go on.
        diverged: the round at which something stopped being finite, or None; nothing from it on is kept.
    """

    start: int
    stop: int
    rounds: NDArray[np.int64]
    metrics: dict[str, NDArray[np.float64]]
    trajectories: dict[str, NDArray[Any]]
    carry: Carry
    diverged: int | None = None


def begin(problem: Problem) -> Carry:
    """The carry before round 0."""
    with default_dtype(problem.x0.dtype):
        return Carry(0, problem.x0.clone(), problem.algorithm.init(problem.x0.clone()), {}, {})


def step(problem: Problem, x: Tensor, state: Any, memory: Memory, data: Any, weights: mixing.Table) -> tuple[Tensor, Any, Net, Tensor]:
    """One round: (x_{t+1}, state, the network as it was used, g_t)."""
    net = Net(problem.channels, partial(mixing.apply, weights), memory)
    g = problem.scenario.grad(x, data)
    if g.shape != x.shape or g.dtype != x.dtype:
        raise InputError(
            f"scenario {type(problem.scenario).__name__}: grad returned shape {list(g.shape)} and {g.dtype}, not {list(x.shape)} and {x.dtype}"
        )
    after, state = problem.algorithm.update(g.clone(), state, x, net.mix)  # a scenario may hand out one buffer every round
    return after, state, net, g


def invariant(state: Any, g: Tensor) -> Tensor | None:
    """The tracker's violation [R] after a round with gradients g, or None for an algorithm without tracker."""
    if hasattr(state, "s") and hasattr(state, "g"):
        return metrics.tracker_invariant(state.s, g)
    return None


def same_form(problem: Problem, x: Tensor, t: int) -> None:
    """Refuse an algorithm that changes the shape or precision of x."""
    if x.shape != problem.x0.shape or x.dtype != problem.x0.dtype:
        raise InputError(
            f"the algorithm returned x of shape {list(x.shape)} and {x.dtype} in round {t}, not {list(problem.x0.shape)} and {problem.x0.dtype}"
        )


@dataclass(frozen=True)
class Block:
    """A block of rounds, ready to run: ``count`` rounds from ``start``, of at most ``length``.

    ``data`` in the experiment's precision and ``exact`` in float64, leaves [K|1, R|1, n, ...]; ``tables`` the weights;
    ``reference`` the comparator; ``fixed_cost`` F_t at the best fixed point [K, R|1] and ``fixed_accuracy``, or None where there is none.
    """

    start: int
    count: int
    length: int
    data: Any
    exact: Any
    tables: mixing.Table
    reference: Reference
    fixed_cost: Tensor | None
    fixed_accuracy: Tensor | None


@dataclass(frozen=True)
class Stretch:
    """What an engine made of some rounds: float64 ``observed`` [K, R] by name, ``kept`` trajectories [K, R, N, *], and where it stands.

    ``bits`` is what each agent broadcast in a round.
    """

    observed: dict[str, Tensor]
    kept: dict[str, Tensor]
    x: Tensor
    state: Any
    memory: Memory
    bits: int


class Engine(Protocol):
    """Where the rounds run."""

    def advance(self, problem: Problem, block: Block, offset: int, carry: Carry, keep: tuple[str, ...]) -> Stretch:
        """Run rounds of ``block`` from place ``offset`` on: at least one, at most to its end.

        ``keep`` names trajectories to return: "x", and state leaves as they stand after each round.
        """


def run(
    problem: Problem,
    comparator: Comparator,
    blocks: Blocks,
    engine: Engine,
    start: Carry | None = None,
    agentwise: bool | None = None,
) -> Iterator[Chunk]:
    """Run from ``start`` (or from the beginning) to the last round, stretch by stretch.

    ``agentwise`` keeps the regrets at each agent's own point; None decides by size (see ``metrics.AGENTWISE_LIMIT``).
    """
    carry = start or begin(problem)
    if agentwise is None:
        agentwise = problem.agents**2 * problem.x0.shape[-1] <= metrics.AGENTWISE_LIMIT
    keep = tuple(dict.fromkeys([*(("x",) if agentwise else ()), *problem.experiment.record]))
    length = blocks.length
    while length > 1 and length * problem.mixing.bytes_per_round > 4 * BLOCK_BYTES:
        length //= 2  # the weights of a whole block of a changing network may be larger than its data
    while carry.t < problem.rounds:
        block = _block(problem, comparator, blocks, carry.t - carry.t % length, length)
        while carry.t < block.start + block.count:
            offset = carry.t - block.start
            stretch = engine.advance(problem, block, offset, carry, keep)
            chunk = _chunk(problem, block, offset, carry, stretch, agentwise)
            yield chunk
            if chunk.diverged is not None:
                return
            carry = chunk.carry


def _block(problem: Problem, comparator: Comparator, blocks: Blocks, start: int, length: int) -> Block:
    """Rounds start .. start + length - 1 (to the last round), which lie in one block of the scenario's data."""
    b = start // blocks.length
    span = blocks.span(b)
    first, last = start - span.start, min(start + length, span.stop) - span.start
    exact, reference = part(blocks.get(b), first, last), part(comparator.reference(b), first, last)
    cost, accuracy = part(comparator.fixed_values(b), first, last)
    tables = problem.mixing.tables(torch.arange(start, span.start + last).reshape(-1, 1, 1, 1))
    data = exact if problem.x0.dtype == torch.float64 else cast(exact, problem.x0.dtype)
    return Block(start, last - first, length, data, exact, tables, reference, cost, accuracy)


def _chunk(problem: Problem, block: Block, offset: int, carry: Carry, stretch: Stretch, agentwise: bool) -> Chunk:
    """Cumulate a stretch's measurements, find out whether it diverged, and choose the rounds to record."""
    count, trials = stretch.observed["cost"].shape
    rows = slice(offset, offset + count)

    def each(value: Tensor) -> Tensor:
        return value[rows].expand(count, trials)

    values = {name: value for name, value in stretch.observed.items() if name != "cost"}
    cost, best = stretch.observed["cost"], each(block.reference.cost)
    increments = {"dynamic_regret": cost - best}
    if block.fixed_cost is not None:
        fixed = each(block.fixed_cost)
        increments |= {"static_regret": cost - fixed, "regret_best_fixed": fixed - best}
    increments |= {
        "regret_no_change": each(block.reference.no_change),
        "path_length": each(block.reference.path),
        "gradient_variation": each(block.reference.gradient_variation),
        "function_variation": each(block.reference.function_variation),
        "bits": torch.full_like(cost, stretch.bits),
    }
    totals: dict[str, Tensor] = {}
    for name, added in increments.items():
        values[name] = metrics.accumulate(carry.totals.get(name), added)
        totals[name] = values[name][-1]
    if agentwise:
        own = metrics.agentwise_costs(problem.scenario, stretch.kept["x"].double(), part(block.exact, offset, offset + count))
        sums = metrics.accumulate(carry.totals.get("agents"), own - best[..., None])
        totals["agents"] = sums[-1]
        values["dynamic_regret_worst"], values["dynamic_regret_agents"] = sums.amax(-1), sums.mean(-1)
    if block.fixed_accuracy is not None:
        values["accuracy_best_fixed"] = each(block.fixed_accuracy)
    if block.reference.persistence is not None:
        values["accuracy_no_change"] = each(block.reference.persistence)

    start = block.start + offset
    good = torch.isfinite(cost) & torch.isfinite(values["dynamic_regret"]) & torch.isfinite(values["consensus_error"])
    bad = torch.nonzero(~good.all(-1))
    diverged = start + int(bad[0, 0]) if len(bad) else None
    if diverged is None and not bool(torch.isfinite(stretch.x).all()):
        diverged = start + count
    kept = count if diverged is None else diverged - start

    every, last = problem.experiment.every, problem.rounds - 1
    chosen = [k for k in range(kept) if (start + k + 1) % every == 0 or start + k == last or (diverged is not None and k == kept - 1)]
    return Chunk(
        start,
        start + kept,
        np.asarray([start + k for k in chosen], dtype=np.int64),
        {name: value[chosen].T.contiguous().numpy() for name, value in values.items()},
        {name: stretch.kept[name][:kept].transpose(0, 1).numpy() for name in problem.experiment.record},
        Carry(start + count, stretch.x, stretch.state, stretch.memory, totals),
        diverged,
    )
