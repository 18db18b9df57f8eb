"""Rounds one by one in Python: where there is no compiler, for short runs, and for debugging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.costs.data import BLOCK_BYTES, evaluate
from distopt.network.net import Whole
from distopt.numerics.sums import tree_sum
from distopt.numerics.trees import default_dtype, finite, part, rounds_of
from distopt.simulation import measure
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, before, begun, numbered, recorded, same_form, step
from distopt.simulation.runner import Block, Segment

Step = Callable[[AgentState, int], tuple[AgentState, int, Tensor | None]]
"""A round: (held, its place among those that are loaded) -> (held, bits, its ``round_terms`` [R, n, *] or None)."""


@dataclass(frozen=True)
class Trajectory:
    """Where the agents of a block went in some rounds, before anything is measured.

    Attributes:
        points: those that are measured, before each round [K, R, n, d].
        round_terms: what the agents add to metrics of the rounds [K, R, n, *], or None (see ``distopt.simulation.measure``).
        kept: what is recorded, by name [K, R, n, *].
        held: what they hold in the end.
        bits: what one of them broadcast in a round.
    """

    points: Tensor
    round_terms: Tensor | None
    kept: dict[str, Tensor]
    held: AgentState
    bits: int


def room(x: Tensor) -> int:
    """How many rounds a segment may have: their points [R, N, d] each are held until they are measured."""
    return max(1, BLOCK_BYTES // (x.numel() * x.element_size()))


def walk(
    problem: Problem,
    held: AgentState,
    start: int,
    rounds: range,
    keep: tuple[str, ...],
    one: Step,
) -> Trajectory:
    """Run ``rounds`` with the agents of a block. They are places among the loaded rounds; place 0 is round ``start``."""
    points = held.x.new_empty(len(rounds), *held.x.shape)
    terms: list[Tensor] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in keep}
    answer, bits = problem.answer, 0
    for point, k in zip(points.unbind(), rounds, strict=True):
        stood = before(problem, held)
        point.copy_(stood[answer])  # an algorithm may work in place
        own = {name: point if name == answer else each.clone() for name, each in stood.items() if name in keep}
        held, bits, of_round = one(held, k)
        same_form(problem, held.x, start + k)
        if of_round is not None:
            terms.append(of_round)
        for name, each in kept.items():
            each.append(own[name] if name in own else recorded(held, name).clone())
    return Trajectory(
        points,
        torch.stack(terms) if terms else None,
        {name: torch.stack(each) for name, each in kept.items()},
        held,
        bits,
    )


def ready(block: Block) -> None:
    """Make the data, weights and uniforms of a block that holds all agents."""
    _ = block.data, block.tables, block.uniforms


class InThisProcess:
    """The part of an engine that holds the agents' state, in this process."""

    _problem: Problem
    _held: AgentState | None = None

    def prepare(self, block: Block) -> None:
        """See ``distopt.simulation.runner.Engine``."""
        ready(block)

    def place(self, problem: Problem, held: AgentState | None) -> None:
        """See ``distopt.simulation.runner.Engine``."""
        self._problem, self._held = problem, None  # what was here makes room first
        self._held = begun(problem) if held is None else held

    def fetch(self) -> AgentState:
        """See ``distopt.simulation.runner.Engine``."""
        if self._held is None:
            raise RuntimeError("there are no agents yet: call place() before the first rounds")
        return self._held

    def take(self) -> AgentState:
        """The state, for rounds that overwrite it: no other object uses it any more."""
        held, self._held = self.fetch(), None
        return held


class Eager(InThisProcess):
    """Calls ``step`` round by round, then measures all the rounds of the segment at once."""

    compiled = False

    def advance(self, block: Block, rounds: range, keep: tuple[str, ...]) -> Segment:
        """See ``distopt.simulation.runner.Engine``."""
        problem, held = self._problem, self.fetch()
        rounds = rounds[: room(held.x)]
        one = self.rounds(block, rounds, held)
        del held
        with default_dtype(self.fetch().x.dtype):
            walked = walk(problem, self.take(), block.start, rounds, keep, one)
        self._held = walked.held

        batch = part(block.exact, rounds.start, rounds.stop), part(block.reference.x, rounds.start, rounds.stop)
        sums = evaluate(lambda x, each: measure.sums(problem, x, *each), walked.points.double(), batch)
        terms = None if walked.round_terms is None else tree_sum(walked.round_terms)
        observed = measure.observed(problem, sums, terms)
        return Segment(observed, walked.kept, finite(walked.held.x), walked.bits)

    def rounds(self, block: Block, rounds: range, held: AgentState) -> Step:
        """The function that runs ``rounds`` of a block one by one, with agents whose values are ``held``."""
        problem, which = self._problem, self._problem.network.which
        data, tables, uniforms = (rounds_of(each) for each in (block.data, block.tables, block.uniforms))
        ts = numbered(held.x, block.start + rounds.start, len(rounds))

        def one(held: AgentState, k: int) -> tuple[AgentState, int, Tensor | None]:
            after, net, g = step(problem, held, data(k), Whole(tables(k), which), uniforms(k), ts[k - rounds.start])
            return after, net.bits, measure.round_terms(problem, after.state, g)

        return one
