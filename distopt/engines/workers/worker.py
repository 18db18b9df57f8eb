"""A worker: one block of agents, its rounds and its part of the measurements. Engines move its messages and do no arithmetic.

A worker makes its own agents' data and its own part of the weights; during a round only rows travel that a neighbouring block
weighs. Payloads that are known at the beginning of a round leave before the gradients are computed, in one message per
neighbouring block. The algorithm waits for them when it mixes. Other payloads are exchanged when it mixes them. After a
segment the measurements of all of them take three messages per worker, all to or from worker 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.costs.data import Blocks, evaluate
from distopt.engines.local import eager
from distopt.engines.workers.agents import Agents, checked
from distopt.engines.workers.compiled import Rounds
from distopt.engines.workers.exchange import CPU, Rows, Transport
from distopt.engines.workers.halo import pack, size, unpack
from distopt.engines.workers.partition import Partition
from distopt.numerics import sums as tree
from distopt.numerics.random import Key
from distopt.numerics.trees import cast, default_dtype, finite, moved, part, rounds_of, tree_map
from distopt.simulation import measure
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, revealed
from distopt.simulation.runner import Segment

Measure = Callable[[Tensor, Tensor, Any, Tensor, range], Tensor]
"""Node sums of what a block's agents add to the measurements of some rounds: (points [K, R, n, d] and their mean there; data and x*_t of all
rounds that are loaded; places of these rounds among them) -> [K, R, m, c]."""

Through = Callable[[range, Any, int, tuple[str, ...]], eager.Trajectory]
"""What takes the agents through rounds: (their places among those loaded; data of these, and how many they are; trajectories to keep)."""


class Worker:
    """Holds the agents of one block of a partition. All workers must get the same calls in the same order.

    Args:
        problem: the experiment, as every worker builds it.
        partition: who holds which agents.
        me: which block this is; worker 0 makes the reports.
        transport: carries the messages.
        length: of the whole run's blocks of data (``Blocks.length``).
        compiled: whether the rounds and the measurements are.
        rows: carries the rows of a round from device to device, where the agents then live; else ``transport`` does. Data and reports are the host's.

    ``load`` and ``measure`` must run under the default precision float64, ``place`` and ``walk`` under the experiment's (see
    ``distopt.numerics.trees.default_dtype``, which holds for a whole process).
    """

    def __init__(
        self,
        problem: Problem,
        partition: Partition,
        me: int,
        transport: Transport,
        length: int,
        compiled: bool = False,
        rows: Rows | None = None,
    ) -> None:
        self.partition, self.me, self.transport, self.rows = partition, me, transport, rows
        self.device = rows.device if rows else CPU
        self.ids = partition.blocks[me]
        self.whole = problem
        key = Key(problem.key.seed, self.ids, problem.key.trials.tolist(), problem.agents)
        self.problem = replace(problem, key=key, x0=problem.x0[:, list(self.ids)].clone())
        self.agents = Agents(
            self.problem.method,
            problem.network,
            partition,
            me,
            key,
            rows or transport,
            self.device,
            project=problem.scenario.project,
        )
        self.blocks = Blocks(problem.scenario, key, problem.rounds, length)
        self.nodes = [tree.nodes(ids, problem.agents) for ids in partition.blocks]
        self.compiled = compiled
        self._span = range(0)
        self._through: Through | None = None
        self._measure: Measure = self._at_once

    def advance(self, start: int, count: int, rounds: range, keep: tuple[str, ...], best: Tensor) -> Segment | None:
        """``load``, ``walk`` and ``measure``, in a process of the worker's own."""
        with default_dtype(torch.float64):
            self.load(start, count)
        with default_dtype(self.problem.x0.dtype):
            self.walk(rounds, keep)
        with default_dtype(torch.float64):
            return self.measure(best)

    def place(self, held: AgentState | None) -> None:
        """Start from the state of all agents, of which this worker takes its own rows; None: from the beginning."""
        if held is None:
            self.agents.place(self.problem.x0)
        else:
            own = list(self.ids)
            self.agents.place(tree_map(lambda leaf: checked(leaf, self.partition.agents)[..., own, :].clone(), held))
        if self._through is None:
            self._through = self._one_by_one
            if self.compiled:
                rounds = Rounds(self.problem, self.agents, self._terms, self._at_once)
                self._through, self._measure = rounds.through, rounds.measure

    def _there(self, tree: Any) -> Any:
        return tree if self.device.type == "cpu" else moved(tree, self.device)

    def load(self, start: int, count: int) -> None:
        """Make the data, weights and uniforms of ``count`` rounds from ``start``, which lie in one block of the run's data."""
        if self._span == range(start, start + count):
            return
        self._span = range(start, start + count)
        b = start // self.blocks.length
        first = start - self.blocks.span(b).start
        self.exact = seen = self._there(part(self.blocks.get(b), first, first + count))
        if self.problem.plan.earlier:
            seen = self.exact, self._there(part(self.blocks.earlier(b), first, first + count))
        self.data = seen if self.problem.x0.dtype == torch.float64 else cast(seen, self.problem.x0.dtype)
        self.agents.load(start, count)

    def walk(self, rounds: range, keep: tuple[str, ...]) -> None:
        """Go through ``rounds``, counted from the first of those loaded, and remember what is to be measured."""
        assert self._through is not None
        self._rounds = rounds
        self.agents.begin(rounds)
        self._walked = self._through(rounds, self.data, len(self._span), keep)
        self.agents.end()
        self.agents.held = self._walked.held

    def _one_by_one(self, rounds: range, data: Any, count: int, keep: tuple[str, ...]) -> eager.Trajectory:
        """Rounds in Python."""
        agents, problem, data_of = self.agents, self.problem, rounds_of(data)

        def one(held: AgentState, k: int) -> tuple[AgentState, int, Tensor | None]:
            agents.send()
            g, costs = revealed(problem, held.x, data_of(k))
            agents.step(g, costs)
            return agents.held, agents.bits, measure.round_terms(problem, agents.held.state, g)

        return eager.walk(problem, agents.held, self._span.start, rounds, keep, one)

    def measure(self, best: Tensor) -> Segment | None:
        """Measure the rounds just walked, with x*_t [K, R|1, d] of those loaded. The report, on worker 0."""
        if self.rows:
            self.rows.confirm()
        walked, agents, ids = self._walked, self.problem.agents, self.ids
        counts = [len(nodes) for nodes in self.nodes]
        points, data = walked.points.double(), part(self.exact, self._rounds.start, self._rounds.stop)
        summed = measure.counted(points, data), walked.round_terms
        rows = [tree.node_sums(each, ids, agents) for each in summed if each is not None]
        sums = [self._combine(each) for each in self.collect("sums", [(row, counts) for row in rows])]
        there = measure.count(data, agents)
        there = there.cpu() if isinstance(there, Tensor) else there
        mean = self._spread("mean", sums[0] / there if sums else points[:, :, :1])

        values = self._measure(points, self._there(mean), self.exact, self._there(best), self._rounds)
        sound = finite(walked.held.x).reshape(1, -1, 1, 1)
        ones = [1] * len(self.nodes)
        whole = self.collect(
            "values",
            [(values, counts), (sound, ones), *((rows, self._sizes) for rows in walked.kept.values())],
        )
        if self.me:
            return None
        terms = None if walked.round_terms is None else sums[1]
        observed = measure.observed(self.problem, self._combine(whole[0]), terms)
        kept = {name: self._in_order(rows) for name, rows in zip(walked.kept, whole[2:], strict=True)}
        return Segment(observed, kept, torch.cat(whole[1], -2)[0, :, :, 0].all(-1), walked.bits)

    def _at_once(self, points: Tensor, mean: Tensor, data: Any, best: Tensor, rounds: range) -> Tensor:
        batch = mean, *part((data, best), rounds.start, rounds.stop)
        return evaluate(lambda x, each: self._terms(x, *each), points, batch)

    def _terms(self, x: Tensor, mean: Tensor, data: Any, best: Tensor) -> Tensor:
        terms = measure.terms(self.problem, x, mean, data, best)
        return measure.summed(terms, lambda z: tree.node_sums(z, self.ids, self.problem.agents))

    def fetch(self) -> AgentState | None:
        """What all agents hold, on worker 0."""
        leaves, form = pytree.tree_flatten(self.agents.held)
        whole = self.collect("held", [(leaf, self._sizes) for leaf in leaves])
        if self.me:
            return None
        held: AgentState = pytree.tree_unflatten([self._in_order(rows) for rows in whole], form)
        return held

    @property
    def _sizes(self) -> list[int]:
        return [len(ids) for ids in self.partition.blocks]

    def _in_order(self, rows: list[Tensor]) -> Tensor:
        """The rows of all blocks in the order of the agents."""
        ids = torch.tensor([i for block in self.partition.blocks for i in block])
        return torch.cat(rows, -2).index_select(-2, torch.argsort(ids))

    def _combine(self, sums: list[Tensor]) -> Tensor:
        return tree.combine(torch.cat(sums, -2), [node for nodes in self.nodes for node in nodes], self.problem.agents)

    def collect(self, what: str, rows: list[tuple[Tensor, list[int]]]) -> list[list[Tensor]]:
        """Bring tensors [..., rows, *] to worker 0, with the number of rows of each worker: there every worker's, else nothing."""
        tag = (self._span.start + self._rounds.stop if self._span else 0, what)
        rows = [(row.cpu(), counts) for row, counts in rows]
        if self.me:
            self.transport.send(tag, {0: pack([row for row, _ in rows])})
            return []
        forms = {
            b: [((*row.shape[:-2], counts[b], row.shape[-1]), row.dtype) for row, counts in rows]
            for b in range(1, len(self.nodes))
        }
        arrived = {b: torch.empty(size(form), dtype=torch.uint8) for b, form in forms.items()}
        self.transport.expect(tag, arrived).wait()
        parts = [[row for row, _ in rows], *(unpack(arrived[b], form) for b, form in forms.items())]
        return [list(each) for each in zip(*parts, strict=True)]

    def _spread(self, what: str, rows: Tensor) -> Tensor:
        """Worker 0's tensor, on every worker; the others give one of its shape and precision."""
        tag = (self._span.start + self._rounds.stop, what)
        form = [(rows.shape, rows.dtype)]
        if self.me:
            message = torch.empty(size(form), dtype=torch.uint8)
            self.transport.expect(tag, {0: message}).wait()
            return unpack(message, form)[0]
        self.transport.send(tag, dict.fromkeys(range(1, len(self.nodes)), pack([rows])))
        return rows
