"""The rounds of a worker, compiled in pieces between its exchanges with the neighbours (see ``distopt.codegen.segments``).

The numbers are those of the rounds of all agents that are compiled as one function (``distopt.engines.local.compiled``).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distopt.codegen import objects
from distopt.codegen.function import Function, compiled
from distopt.codegen.leaves import Leaves
from distopt.codegen.record import arrive, leave
from distopt.codegen.recording import ARRIVE, LEAVE, Unsupported
from distopt.codegen.segments import Segments, segments
from distopt.engines.local.eager import Trajectory
from distopt.engines.local.updates import not_compiled
from distopt.engines.workers.agents import Agents
from distopt.engines.workers.exchange import BlockLink, Form, HaloExchange
from distopt.engines.workers.halo import Halo
from distopt.errors import InputError
from distopt.numerics.trees import part, rounds_of
from distopt.simulation import measure
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, before, opened, recorded, revealed, same_form, step, updated

Do = Callable[[int], object]
"""What is done at some point of round k."""


@dataclasses.dataclass
class Noted:
    """An exchange while a round is recorded: messages are only noted.

    If all rounds have the same messages, their parts leave and arrive one by one. Otherwise the rows of all own agents leave, and the
    rows of all heard agents of other blocks arrive.

    Attributes:
        places: which own rows each message takes; None where that changes from round to round.
        counts: of the rows that arrive together.
        order: see ``distopt.engines.workers.halo.Halo``.
        forms: shapes and precisions of the own rows of each stage.
    """

    places: Sequence[Tensor] | None
    counts: Sequence[int]
    order: Tensor | None
    forms: dict[str, list[Form]]

    def send(self, stage: str, rows: Sequence[Tensor]) -> None:
        """See ``HaloExchange``."""
        self.forms[stage] = [(row.shape, row.dtype) for row in rows]
        leave(
            stage, rows if self.places is None else [row.index_select(1, each) for each in self.places for row in rows]
        )

    def heard(self, stage: str, rows: Sequence[Tensor]) -> list[Tensor]:
        """See ``HaloExchange``."""
        if not self.counts:
            return list(rows)
        forms = [((row.shape[0], count, *row.shape[2:]), row.dtype) for count in self.counts for row in rows]
        arrived = arrive(stage, forms)
        wholes = [torch.cat([row, *arrived[leaf :: len(rows)]], 1) for leaf, row in enumerate(rows)]
        return wholes if self.order is None else [whole.index_select(1, self.order) for whole in wholes]


def constant(halo: Halo) -> bool:
    """Whether all rounds of a halo have the same messages."""
    return len(halo.send) == 1


def counted(halo: Halo) -> list[int]:
    """How many rows arrive together in a round."""
    if constant(halo):
        return [count for _, count in sorted(halo.receive[0].items())]
    others = halo.width - halo.own.shape[-1]
    return [others] if others else []


def ordered(halo: Halo) -> Tensor | None:
    """The orders of all rounds, int64 [K, h]; None where the rows are heard as they arrive."""
    if all(each is None for each in halo.order):
        return None
    return torch.stack([torch.arange(halo.width) if each is None else each for each in halo.order])


@dataclasses.dataclass
class Compiled:
    """Rounds of one shape: the pieces, the forms of what is sent by stage, and what was found when they were recorded.

    ``kept`` is the memory of the rows, which is used again: new memory takes longer than writing the rows.
    """

    segments: Segments
    forms: dict[str, list[Form]]
    bits: int
    terms: bool
    kept: list[Tensor] = dataclasses.field(default_factory=list)

    def rows(self, count: int) -> list[Tensor]:
        """Memory for the rows of so many rounds."""
        if not self.kept or len(self.kept[0]) < count:
            self.kept = [torch.empty(count, *shape, dtype=dtype) for shape, dtype in self.segments.rows]
        return [each[:count] for each in self.kept]


class Rounds:
    """The rounds of a worker, and their measurements, compiled once for each shape of what is loaded.

    Args:
        problem: with the worker's own agents.
        agents: the worker's.
        terms: node sums of a round's measurements: (x, mean, data, x*_t).
        measure: takes them eagerly, where the costs cannot be compiled.
    """

    def __init__(
        self, problem: Problem, agents: Agents, terms: Callable[..., Tensor], measure: Callable[..., Tensor]
    ) -> None:
        self.problem, self.agents, self.terms, self._eagerly = problem, agents, terms, measure
        self.exchange = agents.exchange
        self._gradient: Tensor | None = None  # where it lies, if the costs cannot be compiled
        self._rounds: dict[Any, Compiled] = {}
        self._measures: dict[Any, Function] = {}

    def through(self, rounds: range, data: Any, count: int, keep: tuple[str, ...]) -> Trajectory:
        """See ``distopt.engines.workers.worker.Through``. What the agents hold is written over, and so is what was returned before.

        Raises:
            InputError: the rounds cannot be written out.
        """
        agents, halo, exchange = self.agents, self.agents.halo, self.exchange
        exchange.go(rounds.start)
        first = exchange.round - rounds.start
        places = tuple(each[None] for each in halo.send[0].values()) if constant(halo) else None
        tree = halo.tables, halo.own, agents.uniforms, torch.arange(first, first + count), places, ordered(halo)
        held = Leaves(agents.held)

        def found_for(own: Any) -> tuple[Leaves, Compiled]:
            leaves = Leaves((own, *tree))
            shapes = keep, held.shape, leaves.shape, tuple(counted(halo))
            if shapes not in self._rounds:
                self._rounds[shapes] = self._recorded(keep, held, leaves, counted(halo))
            return leaves, self._rounds[shapes]

        leaves, found = _written(lambda: self._with_costs_or_without(data, found_for))
        for stage, forms in found.forms.items():
            exchange.declare(stage, forms)
        rows = found.rows(len(rounds))
        given = [each.contiguous() for each in leaves.tensors]
        memory = [self._memory(found, halo, rounds.start + turn) for turn in (0, 1)]
        bound = found.segments.bound(held.tensors, given, rows, rounds.start, memory)
        turns = [self._steps(found, halo, *each) for each in zip(bound.pieces, memory, strict=True)]
        if self._gradient is not None:
            self._reveal_in(turns, data, lambda k: held.tree(bound.after(k - rounds.start)).x)
        for k in rounds:
            exchange.go(k)
            for do in turns[(k - rounds.start) % 2]:
                do(k)
        after: AgentState = held.tree(bound.after(len(rounds)))
        kept = dict(zip(keep, rows[1:], strict=False))
        return Trajectory(rows[0], rows[-1] if found.terms else None, kept, after, found.bits)

    def _with_costs_or_without(self, data: Any, found_for: Callable[[Any], tuple[Leaves, Compiled]]) -> Any:
        """The rounds with the costs, if those can be compiled; else the rounds that are given their gradients. All workers find the same."""
        if self._gradient is None:
            try:
                if self.problem.scenario.eager is not None:
                    raise Unsupported(self.problem.scenario.eager)
                return found_for(data)
            except Unsupported:
                self._gradient = torch.empty_like(self.agents.x, memory_format=torch.contiguous_format)
        return found_for(self._gradient.unsqueeze(0))

    def _reveal_in(self, turns: Sequence[list[Do]], data: Any, x: Callable[[int], Tensor]) -> None:
        """Have the gradients taken in each round, after the messages that leave before they are known."""
        gradient, data_of = self._gradient, rounds_of(data)
        assert gradient is not None

        def reveal(k: int) -> None:
            gradient.copy_(revealed(self.problem, x(k), data_of(k))[0])

        for steps in turns:
            sent = next((at for at, do in enumerate(steps) if getattr(do, "leaves", False)), -1)
            steps.insert(sent + 1 if self.agents.method.plan.early else 0, reveal)

    def _recorded(self, keep: tuple[str, ...], held: Leaves, leaves: Leaves, counts: Sequence[int]) -> Compiled:
        """The rounds of one shape."""
        problem = dataclasses.replace(self.problem, algorithm=copy.copy(self.problem.algorithm))
        early = self.agents.method.plan.early
        forms: dict[str, list[Form]] = {}
        seen: list[Any] = [0, False]

        def one(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            now: AgentState = held.tree(carry)
            own, weights, mine, uniforms, t, places, order = leaves.tree(data)
            stood = before(problem, now)
            points = {name: each.clone() for name, each in stood.items()}  # an algorithm may work in place
            link = BlockLink(Noted(places, counts, order, forms), problem.network.which, weights, mine)
            if self._gradient is None:
                after, net, g = step(problem, now, own, link, uniforms, t, early)
            else:
                g, net = own, opened(problem.method, now, link, uniforms, early)
                after = updated(problem.method, now, net, t, g, not_compiled(problem), problem.scenario.project)
            same_form(problem, after.x, 0)
            of_round = measure.round_terms(problem, after.state, g)
            seen[:] = net.bits, of_round is not None
            kept = [points[name] if name in points else recorded(after, name) for name in (problem.answer, *keep)]
            return held.of(after), [*kept, *([of_round] if of_round is not None else [])]

        made = segments(one, held.tensors, leaves.tensors)
        return Compiled(made, forms, *seen)

    def _memory(self, found: Compiled, halo: Halo, k: int) -> list[list[Tensor]]:
        """The memory of the messages sent and received in round k, point by point."""
        memory = []
        for kind, stage, forms in found.segments.points:
            if constant(halo):
                memory.append([row for rows in self.exchange.side(stage, k, kind == ARRIVE).rows for row in rows])
            else:
                memory.append([torch.zeros(shape, dtype=dtype) for shape, dtype in forms])
        return memory

    def _steps(
        self, found: Compiled, halo: Halo, pieces: Sequence[Do | None], memory: Sequence[Sequence[Tensor]]
    ) -> list[Do]:
        """What is done in a round, one after the other."""
        exchange, steps = self.exchange, list[Do | None]()
        for piece, (kind, stage, _), rows in zip(pieces, found.segments.points, memory, strict=False):
            if constant(halo):
                point = _posting(exchange, stage) if kind == LEAVE else _waiting(exchange, stage)
            else:
                point = _sending(exchange, stage, rows) if kind == LEAVE else _taking(exchange, stage, rows)
            steps += [piece, point]
        return [each for each in (*steps, pieces[-1]) if each is not None]

    def measure(self, points: Tensor, mean: Tensor, data: Any, best: Tensor, rounds: range) -> Tensor:
        """See ``distopt.engines.workers.worker.Measure``."""
        if self._gradient is not None:
            return self._eagerly(points, mean, data, best, rounds)
        found = Leaves((points, mean, *part((data, best), rounds.start, rounds.stop)))
        if found.shape not in self._measures:

            def one(_: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
                return [], [self.terms(*found.tree(data))]

            self._measures[found.shape] = _written(lambda: compiled(one, [], found.tensors, "measurements"))
        function = self._measures[found.shape]
        values = torch.empty(len(rounds), *function.rows[0][0], dtype=function.rows[0][1])
        function.bound([], [each.contiguous() for each in found.tensors], [values])(0, len(rounds))
        return values


def _posting(exchange: HaloExchange, stage: str) -> Do:
    return _leaving(lambda k: exchange.post(stage))


def _leaving(do: Do) -> Do:
    """Mark a step that sends."""
    do.leaves = True  # type: ignore[attr-defined]  # a function's own
    return do


def _waiting(exchange: HaloExchange, stage: str) -> Do:
    return lambda k: exchange.wait(stage)


def _sending(exchange: HaloExchange, stage: str, rows: Sequence[Tensor]) -> Do:
    return _leaving(lambda k: exchange.send(stage, rows))


def _taking(exchange: HaloExchange, stage: str, rows: Sequence[Tensor]) -> Do:
    """Put the rows that have come one after the other."""

    def take(k: int) -> None:
        at = 0
        for pieces in exchange.wait(stage):
            for piece, into in zip(pieces, rows, strict=True):
                into[:, at : at + piece.shape[1]].copy_(piece)
            at += pieces[0].shape[1]

    return take


def _written(make: Callable[[], Any]) -> Any:
    """What ``make`` gives, unless it cannot be written out."""
    try:
        if (why := objects.fault()) is not None:
            raise Unsupported(why)
        return make()
    except Unsupported as error:
        raise InputError(f"these rounds cannot be compiled; run them eagerly: {error}") from error
