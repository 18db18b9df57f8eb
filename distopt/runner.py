"""The one loop over rounds. In round t the agents stand at x_t; f_t is revealed; they move to x_{t+1}.

The state of a run is a ``Carry``; a round is a pure function of it, of the round's data and of W_t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt import metrics, mixing
from distopt.comparator import Comparator
from distopt.data import Blocks, at, cast, default_dtype, leaf, tree_map
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
    x = problem.x0.clone()
    return Carry(0, x, problem.algorithm.init(x), {}, {})


def step(problem: Problem, x: Tensor, state: Any, memory: Memory, data: Any, weights: mixing.Table) -> tuple[Tensor, Any, Net, Tensor]:
    """One round: (x_{t+1}, state, the network as it was used, g_t)."""
    net = Net(problem.channels, partial(mixing.apply, weights), memory)
    g = problem.scenario.grad(x, data)
    after, state = problem.algorithm.update(g, state, x, net.mix)
    return after, state, net, g


def run(problem: Problem, comparator: Comparator, blocks: Blocks, start: Carry | None = None, agentwise: bool | None = None) -> Iterator[Chunk]:
    """Run from ``start`` (or from the beginning) to the last round, block by block.

    ``agentwise`` keeps the regrets at each agent's own point; None decides by size (see ``metrics.AGENTWISE_LIMIT``).
    """
    carry = start or begin(problem)
    if agentwise is None:
        agentwise = problem.agents**2 * problem.x0.shape[-1] <= metrics.AGENTWISE_LIMIT
    fixed = comparator.fixed()
    for b in range(carry.t // blocks.length, blocks.count):
        chunk = _block(problem, comparator, blocks, b, carry, fixed, agentwise)
        yield chunk
        if chunk.diverged is not None:
            return
        carry = chunk.carry


def _block(
    problem: Problem, comparator: Comparator, blocks: Blocks, b: int, carry: Carry, fixed: Tensor, agentwise: bool
) -> Chunk:
    span = range(max(blocks.span(b).start, carry.t), blocks.span(b).stop)
    offset = span.start - blocks.span(b).start
    batch, reference = blocks.get(b), comparator.reference(b)
    if offset:
        batch = tree_map(lambda each: each[offset:] if each.shape[0] > 1 else each, batch)
        reference = tree_map(lambda each: each[offset:], reference)
    data = cast(batch, problem.x0.dtype)
    tables = problem.mixing.tables(torch.arange(span.start, span.stop).reshape(-1, 1, 1, 1))

    x, state, memory = carry.x, carry.state, carry.memory
    xs: list[Tensor] = []
    invariant: list[Tensor] = []
    bits: list[float] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in problem.experiment.record if name != "x"}
    with default_dtype(x.dtype):
        for k in range(len(span)):
            xs.append(x)
            x, state, net, g = step(problem, x, state, memory, at(data, k), at(tables, k))
            if x.shape != problem.x0.shape or x.dtype != problem.x0.dtype:
                raise InputError(
                    f"the algorithm returned x of shape {list(x.shape)} and {x.dtype} in round {span[k]}, not "
                    f"{list(problem.x0.shape)} and {problem.x0.dtype}"
                )
            memory = net.memory
            bits.append(net.bits)
            if hasattr(state, "s") and hasattr(state, "g"):
                invariant.append(metrics.tracker_invariant(state.s, g))
            for name, each in kept.items():
                each.append(leaf(state, name))

    path = torch.stack(xs).double()
    values, totals = _measure(problem, path, batch, reference, fixed, agentwise, carry.totals)
    spent = torch.tensor(bits, dtype=torch.float64)[:, None].expand(-1, path.shape[1])
    values["bits"] = metrics.accumulate(carry.totals.get("bits"), spent)
    totals["bits"] = values["bits"][-1]
    if invariant:
        values["tracker_invariant"] = torch.stack(invariant)
    good = torch.isfinite(path).all(-1).all(-1) & torch.isfinite(values["dynamic_regret"])
    bad = torch.nonzero(~good.all(-1))
    diverged = span[int(bad[0])] if len(bad) else None
    if diverged is None and not bool(torch.isfinite(x).all()):
        diverged = span.stop
    keep = len(span) if diverged is None else diverged - span.start

    every, last = problem.experiment.every, problem.rounds - 1
    chosen = [k for k, t in enumerate(span[:keep]) if (t + 1) % every == 0 or t == last or (diverged is not None and k == keep - 1)]
    trajectories = {name: torch.stack(each)[:keep].transpose(0, 1).numpy() for name, each in kept.items()}
    if "x" in problem.experiment.record:
        trajectories["x"] = torch.stack(xs)[:keep].transpose(0, 1).numpy()
    return Chunk(
        span.start,
        span.start + keep,
        np.asarray([span[k] for k in chosen], dtype=np.int64),
        {name: value[chosen].T.contiguous().numpy() for name, value in values.items()},
        trajectories,
        Carry(span.start + keep, x, state, memory, totals),
        diverged,
    )


def _measure(
    problem: Problem, path: Tensor, batch: Any, reference: Any, fixed: Tensor, agentwise: bool, before: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The metrics of a block [K, R] and the totals after it."""
    values = metrics.snapshots(problem.scenario, path, batch, reference, fixed)
    totals: dict[str, Tensor] = {}
    for name, increments in metrics.regret_increments(problem.scenario, path, batch, reference, fixed, agentwise).items():
        sums = metrics.accumulate(before.get(name), increments)
        totals[name] = sums[-1]
        if name == "agents":
            values["dynamic_regret_worst"], values["dynamic_regret_agents"] = sums.amax(-1), sums.mean(-1)
        else:
            values[name] = sums
    return values, totals
