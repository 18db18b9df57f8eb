"""The rounds of all agents as one function that is written out and compiled (see ``distopt.codegen``), with their measurements."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor

from distopt.codegen import objects
from distopt.codegen.function import Function, compiled, written_out
from distopt.codegen.leaves import Leaves
from distopt.codegen.recording import Unsupported
from distopt.codegen.unchanged import Calls
from distopt.costs.data import Blocks
from distopt.engines.local import costs_not_compiled, not_compiled
from distopt.engines.local.eager import Eager, InThisProcess
from distopt.engines.local.updates import Given, Updates
from distopt.errors import InputError
from distopt.network.drawn import uniforms
from distopt.network.net import Whole
from distopt.numerics import room
from distopt.numerics.sums import tree_sum
from distopt.numerics.trees import cast, default_dtype, finite, part
from distopt.simulation import grid, measure
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, before, begun, recorded, same_form, step
from distopt.simulation.runner import Block, Segment


def leaves_of(block: Block) -> Leaves:
    """A block's data, exact data, tables, uniforms, x*_t and rounds."""
    best = block.reference.x
    rounds = torch.arange(block.start, block.start + block.count, device=best.device)
    return Leaves((block.data, block.exact, block.tables, block.uniforms, best, rounds))


class Recursion:
    """A round of all agents as a function of leaves, for the emitter.

    Args:
        problem: whose ``step`` it is.
        keep: trajectories to return.
        stood: what the agents hold.
        leaves: those of a block.
        observe: whether to measure; without, there are no measurements (for benchmarks of the bare recursion).
    """

    def __init__(
        self, problem: Problem, keep: tuple[str, ...], stood: Leaves, leaves: Leaves, observe: bool = True
    ) -> None:
        self.bits, self.seen = 0, 0
        self.keep, self.observe, self.own, self.leaves = keep, observe, stood.form(), leaves.form()
        # copies, since an algorithm that counts would count these rounds, and a scenario might keep tensors of the recording
        own = {"algorithm": copy.copy(problem.algorithm), "scenario": copy.copy(problem.scenario)}
        self.problem = dataclasses.replace(problem, **own)
        self._calls = Calls(algorithm=self.problem.algorithm, **self.problem.channels)

    def __call__(self, carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The leaves of the agents' values after a round, and the rows that are recorded.

        Raises:
            Unsupported: the agents' values have another form after the round, or an object has counted the round.
        """
        with self._calls.one():
            return self._round(carry, data)

    def _round(self, carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        problem, now = self.problem, self.own.tree(carry)
        own, exact, weights, uniforms, best, t = self.leaves.tree(data)
        stood = before(problem, now)
        points = {name: each.clone() for name, each in stood.items()}  # an algorithm may work in place
        after, net, g = step(problem, now, own, Whole(weights, problem.network.which), uniforms, t)
        same_form(problem, after.x, 0)
        self.bits, seen = net.bits, []
        if self.observe:
            seen = [measure.sums(problem, points[problem.answer].double(), exact, best)]
            of_round = measure.round_terms(problem, after.state, g)
            if of_round is not None:
                seen.append(tree_sum(of_round))
        self.seen = len(seen)
        kept = [points[name] if name in points else recorded(after, name) for name in self.keep]
        return self.own.of(after), [*seen, *kept]


class Rounds:
    """The rounds of blocks of one shape, compiled. See ``Recursion`` for the arguments.

    Raises:
        Unsupported: the rounds cannot be written out.
    """

    def __init__(
        self, problem: Problem, keep: tuple[str, ...], stood: Leaves, leaves: Leaves, observe: bool = True
    ) -> None:
        self.recursion = Recursion(problem, keep, stood, leaves, observe)
        self.function: Function = compiled(self.recursion, stood.tensors, leaves.tensors, "rounds")
        self.memory: list[Tensor] = []  # of the last call, for the next

    def __call__(self, held: Leaves, leaves: Leaves, rounds: range) -> tuple[Segment, AgentState]:
        """``rounds``, places in ``leaves``, and what the agents hold after them. The values in ``held`` are overwritten."""
        count, own = len(rounds), self.recursion
        rows = [torch.empty(count, *shape, dtype=dtype) for shape, dtype in self.function.rows]
        data = [each.contiguous() for each in leaves.tensors]
        bound = self.function.bound(held.tensors, data, rows, self.memory)
        bound(rounds.start, rounds.stop)
        self.memory = bound.memory
        after: AgentState = held.tree(bound.carry)
        observed: dict[str, Tensor] = {}
        sums, kept = rows[: own.seen], rows[own.seen :]
        if sums:
            observed = measure.observed(own.problem, sums[0], sums[1] if len(sums) > 1 else None)
        return Segment(observed, dict(zip(own.keep, kept, strict=True)), finite(after.x), own.bits), after


def obstacle(problem: Problem, blocks: Blocks) -> str | None:
    """Why the rounds of a problem cannot be compiled; None where they can. One round is written out for this, and none is compiled."""
    if (why := objects.fault() or problem.scenario.eager) is not None:
        return str(why)
    exact = grid.repeated(part(blocks.get(0), 0, 1), max(1, len(problem.points)))
    x, first = problem.x0, torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    data = exact if x.dtype == torch.float64 else cast(exact, x.dtype)
    data = (data, data) if problem.plan.earlier else data
    drawn = uniforms(problem.channels, problem.key, problem.plan.widths, first)
    best = torch.zeros(1, 1, x.shape[-1], dtype=torch.float64)
    tree = data, exact, problem.network.rows(first), drawn, best, first.flatten()
    held, leaves = Leaves(begun(problem)), Leaves(tree)
    try:
        with default_dtype(x.dtype):
            written_out(Recursion(problem, problem.experiment.record, held, leaves), held.tensors, leaves.tensors)
    except Unsupported as error:
        return str(error)
    return None


def obstacle_of_updates(problem: Problem) -> str | None:
    """Why the rounds of a problem cannot even be compiled without their costs; None where they can."""
    first = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    drawn = uniforms(problem.channels, problem.key, problem.plan.widths, first)
    held, leaves = Leaves(begun(problem)), Leaves((problem.network.rows(first), drawn, first.flatten()))

    given = Given(problem)

    def rest(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return held.of(given(held.tree(carry), data[0], *leaves.tree(data[1:]))), []

    try:
        with default_dtype(problem.x0.dtype):
            written_out(rest, held.tensors, [torch.zeros_like(problem.x0).unsqueeze(0), *leaves.tensors])
    except Unsupported as error:
        return str(error)
    return None


class Compiled(InThisProcess):
    """Runs blocks through ``Rounds``, compiled once for each shape of block (one, unless the network's degree changes).

    Where only the costs cannot be written out, ``Updates`` runs them. Rounds that cannot be compiled run one by one in Python, after a
    warning that says why. If they are ``forced``, this is an error.
    """

    def __init__(self, forced: bool = False) -> None:
        self._forced = forced
        self._placed: Problem | None = None
        self._rounds: dict[Any, Rounds] = {}  # of the problem that is placed
        self._eager: Eager | None = None

    @property
    def compiled(self) -> bool:
        """See ``distopt.simulation.runner.Engine``."""
        return self._eager is None or self._eager.compiled

    def place(self, problem: Problem, held: AgentState | None) -> None:
        """See ``distopt.simulation.runner.Engine``."""
        if problem is not self._placed:
            self._placed, self._rounds = problem, {}
        for each in self._rounds.values():
            each.memory = []
        super().place(problem, held)
        self._eager = None

    def fetch(self) -> AgentState:
        """See ``distopt.simulation.runner.Engine``."""
        return super().fetch() if self._eager is None else self._eager.fetch()

    def advance(self, block: Block, rounds: range, keep: tuple[str, ...]) -> Segment:
        """See ``distopt.simulation.runner.Engine``.

        Raises:
            InputError: the rounds cannot be compiled, but are forced, or earlier rounds were compiled: eager rounds
                would have other bits.
        """
        if self._eager is not None:
            return self._eager.advance(block, rounds, keep)
        taken = self.fetch()
        held, leaves = Leaves(taken), leaves_of(block)
        shapes = held.shape, leaves.shape, keep
        with default_dtype(taken.x.dtype):
            if shapes not in self._rounds:
                try:
                    if (why := objects.fault() or self._problem.scenario.eager) is not None:
                        raise Unsupported(why)
                    self._rounds[shapes] = Rounds(self._problem, keep, held, leaves)
                    room.trim()  # what was built with, and compiling took: rounds need none of it
                except Unsupported as error:
                    other = self._otherwise(error, block, rounds)
                    other.place(self._problem, self.take())
                    self._eager = other
            if self._eager is None:
                segment, self._held = self._rounds[shapes](held, leaves, rounds)
                return segment
        return self._eager.advance(block, rounds, keep)

    def _otherwise(self, error: Unsupported, block: Block, rounds: range) -> Eager:
        """The function that runs rounds that cannot be compiled as a whole."""
        if objects.fault() is None and obstacle_of_updates(self._problem) is None:
            costs_not_compiled(self._problem, error)
            return Updates()
        if block.start + rounds.start:
            raise InputError(f"these rounds cannot be compiled; run them eagerly: {error}") from error
        not_compiled(error, self._forced)
        return Eager()
