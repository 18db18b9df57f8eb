"""Rounds one by one in Python: where there is no compiler, for short runs, and for debugging."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distopt.costs.data import BLOCK_BYTES, evaluate
from distopt.network.net import Link, Uniforms, Whole
from distopt.numerics.sums import tree_sum
from distopt.numerics.trees import at, default_dtype, leaf, part, rounds_of
from distopt.simulation import measure
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, before, begun, same_form, step
from distopt.simulation.runner import Block, Segment

Step = Callable[[AgentState, Any, Link, Uniforms, Tensor], tuple[AgentState, int, Tensor | None]]
"""A round: (held, data, link, uniforms, t) -> (held, bits, its ``round_terms`` [R, n, *] or None)."""


@dataclass(frozen=True)
class Walk:
    """The result of some rounds of a block of agents.

    ``points`` that are measured [K, R, n, d]; what they add to metrics of the rounds, ``round_terms`` [K, R, n, *] or None (see
    ``distopt.simulation.measure``); ``kept`` trajectories [K, R, n, *]; what they ``held`` in the end; ``bits`` one of them broadcast
    in a round.
    """

    points: Tensor
    round_terms: Tensor | None
    kept: dict[str, Tensor]
    held: AgentState
    bits: int


def stepper(problem: Problem, early: Mapping[str, int] | None = None) -> Step:
    """``distopt.simulation.round.step`` as a ``Step``."""

    def one(
        held: AgentState, data: Any, link: Link, uniforms: Uniforms, t: Tensor
    ) -> tuple[AgentState, int, Tensor | None]:
        after, net, g = step(problem, held, data, link, uniforms, t, early)
        return after, net.bits, measure.round_terms(problem, after.state, g)

    return one


def room(x: Tensor) -> int:
    """How many rounds a segment may have: their points [R, N, d] each are held until they are measured."""
    return max(1, BLOCK_BYTES // (x.numel() * x.element_size()))


def walk(
    problem: Problem,
    held: AgentState,
    start: int,
    rounds: range,
    data: Any,
    uniforms: Uniforms,
    link: Callable[[int], Link],
    keep: tuple[str, ...],
    one: Step,
) -> Walk:
    """Let the agents of a block go through ``rounds``, places in ``data`` and ``uniforms``; place 0 is round ``start``."""
    points = held.x.new_empty(len(rounds), *held.x.shape)
    terms: list[Tensor] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in keep}
    bits, data_of, uniforms_of = 0, rounds_of(data), rounds_of(uniforms)
    ts = (points.new_ones(len(rounds), dtype=torch.int64).cumsum(0) + (start + rounds.start - 1)).unbind()
    for point, k, t in zip(points.unbind(), rounds, ts, strict=True):
        stood = before(problem, held)
        point.copy_(stood[problem.answer])  # an algorithm may work in place
        own = {name: point if name == problem.answer else each.clone() for name, each in stood.items() if name in keep}
        held, bits, of_round = one(held, data_of(k), link(k), uniforms_of(k), t)
        same_form(problem, held.x, start + k)
        if of_round is not None:
            terms.append(of_round)
        for name, each in kept.items():
            each.append(own[name] if name in own else leaf(held.state, name).clone())
    return Walk(
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
        self._problem, self._held = problem, begun(problem) if held is None else held

    def fetch(self) -> AgentState:
        """See ``distopt.simulation.runner.Engine``."""
        if self._held is None:
            raise RuntimeError("no agents are here: place them before the first rounds")
        return self._held

    def take(self) -> AgentState:
        """The state, for rounds that write over it: nobody else has it any more."""
        held, self._held = self.fetch(), None
        return held


class Eager(InThisProcess):
    """Calls ``step`` round by round, then measures all the rounds of the segment at once."""

    compiled = False

    def advance(self, block: Block, rounds: range, keep: tuple[str, ...]) -> Segment:
        """See ``distopt.simulation.runner.Engine``."""
        problem, held = self._problem, self.take()
        rounds = rounds[: room(held.x)]
        with default_dtype(held.x.dtype):
            walked = walk(
                problem,
                held,
                block.start,
                rounds,
                block.data,
                block.uniforms,
                lambda k: Whole(at(block.tables, k), problem.network.which),
                keep,
                stepper(problem),
            )
        self._held = walked.held

        batch = part(block.exact, rounds.start, rounds.stop), part(block.reference.x, rounds.start, rounds.stop)
        sums = evaluate(lambda x, each: measure.sums(problem, x, *each), walked.points.double(), batch)
        terms = None if walked.round_terms is None else tree_sum(walked.round_terms)
        observed = measure.observed(problem, sums, terms)
        return Segment(observed, walked.kept, torch.isfinite(walked.held.x).flatten(1).all(1), walked.bits)
