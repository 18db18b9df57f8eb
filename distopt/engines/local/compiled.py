"""The rounds of all agents as one compiled loop (see ``distopt.engines.local.while_loop``), with their measurements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distopt.engines.local.eager import InThisProcess
from distopt.engines.local.while_loop import Loop, Round, layout, padded, pick, prepare_process, traced
from distopt.errors import InputError
from distopt.network.net import Uniforms, Whole
from distopt.numerics.sums import tree_sum
from distopt.numerics.trees import default_dtype, tensors
from distopt.simulation import measure
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, before, recorded, same_form, step
from distopt.simulation.runner import Block, Segment

SMALL = 2**12  # numbers in x up to which a turn of the loop costs as much as the round in it: some 4 us
MANY = 4 * 10**6  # rounds from which sparing that pays for compiling four rounds instead of one: some 15 s

Leaves = tuple[Any, Any, Any, Uniforms, Tensor, Tensor]
"""A block's data, exact data, tables, uniforms, x*_t and first round."""


def leaves_of(block: Block) -> Leaves:
    """Padded to the block's full length."""
    best = block.reference.x
    first = torch.tensor([block.start], device=best.device)
    leaves: Leaves = padded((block.data, block.exact, block.tables, block.uniforms, best, first), block.length)
    return leaves


class Rounds:
    """The rounds of blocks of one shape.

    Args:
        problem: whose ``step`` it is.
        keep: trajectories to return.
        held: leaves (x, state, memory) as they enter.
        block: a block whose leaves show the shapes.
        observe: whether to measure; without, ``Segment.observed`` is empty (for benchmarks of the bare recursion).
        unroll: rounds per turn of the loop; None for as many as pay.
    """

    def __init__(
        self,
        problem: Problem,
        keep: tuple[str, ...],
        held: AgentState,
        block: Block,
        observe: bool = True,
        unroll: int | None = None,
    ) -> None:
        self.problem, self.keep, self.observe = problem, keep, observe
        self.bits, self.seen = 0, 0
        after, rows, _ = self._forms(held, leaves_of(block))
        same_form(problem, after.x, block.start)
        points = len(problem.x0) // problem.experiment.trials
        moving, self.threads = layout(held, problem.plan.early.values(), points)
        turns = unroll or (4 if held.x.numel() <= SMALL and problem.rounds >= MANY else 1)
        self.loop = Loop(self._round, held, rows, block.length, moving, turns)

    def _forms(self, held: AgentState, leaves: Leaves) -> Round:
        """The shapes and dtypes of a round's results."""
        trees = held, torch.zeros((), dtype=torch.int64, device=held.x.device), leaves
        try:
            return traced(self._round, *trees)
        except InputError:
            raise
        except Exception:  # tracing fails, for example, on code that reads a tensor's value: run it for real
            with torch.no_grad():
                return self._round(*trees)

    def _round(self, held: AgentState, k: Tensor, leaves: Leaves) -> Round:
        data, exact, weights, uniforms, best, first = (pick(tree, k) for tree in leaves)
        link = Whole(weights, self.problem.network.which)
        after, net, g = step(self.problem, held, data, link, uniforms, first + k)
        self.bits = net.bits
        seen = []
        stood = before(self.problem, held)
        if self.observe:
            seen = [measure.sums(self.problem, stood[self.problem.answer].double(), exact, best)]
            of_round = measure.round_terms(self.problem, after.state, g)
            if of_round is not None:
                seen.append(tree_sum(of_round))
        self.seen = len(seen)
        kept = [stood[name] if name in stood else recorded(after, name) for name in self.keep]
        return Round(after, [*seen, *kept], k)

    def __call__(self, held: AgentState, block: Block, rounds: range) -> tuple[Segment, AgentState]:
        """``rounds``, places in ``block``, and what the agents hold after them. What ``held`` holds is written over."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            held, rows = self.loop(held, leaves_of(block), rounds)
        finally:
            torch.set_num_threads(before)
        sums, kept = rows[: self.seen], rows[self.seen :]
        observed: dict[str, Tensor] = {}
        if sums:
            observed = measure.observed(self.problem, sums[0], sums[1] if len(sums) > 1 else None)
        finite = torch.isfinite(held.x).flatten(1).all(1)
        return Segment(observed, dict(zip(self.keep, kept, strict=True)), finite, self.bits), held


class Compiled(InThisProcess):
    """Runs blocks through ``Rounds``, compiled once for each shape of block (one, unless the network's degree changes)."""

    compiled = True

    def __init__(self) -> None:
        self._rounds: dict[Any, Rounds] = {}

    def advance(self, block: Block, rounds: range, keep: tuple[str, ...]) -> Segment:
        """See ``distopt.simulation.runner.Engine``."""
        held = self.take()
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in tensors((held, leaves_of(block))))
        with default_dtype(held.x.dtype):
            if shapes not in self._rounds:
                prepare_process()
                self._rounds[shapes] = Rounds(self._problem, keep, held, block)
            segment, self._held = self._rounds[shapes](held, block, rounds)
        return segment
