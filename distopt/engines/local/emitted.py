"""The rounds of all agents as one function that is written out and compiled (see ``distopt.codegen``), with their measurements."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.codegen import objects
from distopt.codegen.folder import CompileWarning
from distopt.codegen.function import Function, compiled
from distopt.codegen.record import Unsupported
from distopt.costs.data import Blocks
from distopt.engines import WRITTEN_OUT
from distopt.engines.local import Mode
from distopt.engines.local.eager import Eager, InThisProcess
from distopt.errors import InputError
from distopt.network.net import Whole
from distopt.numerics.sums import tree_sum
from distopt.numerics.trees import default_dtype
from distopt.simulation import measure
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, before, recorded, same_form, step
from distopt.simulation.runner import Block, Engine, Segment


class Leaves:
    """The tensors of a tree, each once: what stands in several places of it is one leaf of data."""

    def __init__(self, tree: Any) -> None:
        found, self._form = pytree.tree_flatten(tree)
        self.tensors: list[Tensor] = []
        self._places: list[Any] = []
        known: dict[int, int] = {}
        for each in found:
            if isinstance(each, Tensor):
                if id(each) not in known:
                    known[id(each)] = len(self.tensors)
                    self.tensors.append(each)
                self._places.append(known[id(each)])
            else:
                self._places.append((each,))  # no tensor: part of the code

    def tree(self, tensors: Sequence[Tensor]) -> Any:
        """The tree with others in their places."""
        leaves = [tensors[place] if isinstance(place, int) else place[0] for place in self._places]
        return pytree.tree_unflatten(leaves, self._form)

    @property
    def shape(self) -> Any:
        """What functions of such trees have in common."""
        places = tuple(place if isinstance(place, int) else repr(place[0]) for place in self._places)
        return str(self._form), places, tuple((tuple(each.shape[1:]), each.dtype) for each in self.tensors)


def leaves_of(block: Block) -> Leaves:
    """A block's data, exact data, tables, uniforms, x*_t and rounds."""
    best = block.reference.x
    rounds = torch.arange(block.start, block.start + block.count, device=best.device)
    return Leaves((block.data, block.exact, block.tables, block.uniforms, best, rounds))


class Rounds:
    """The rounds of blocks of one shape.

    Args:
        problem: whose ``step`` it is.
        keep: trajectories to return.
        held: what the agents hold.
        leaves: those of a block.
        observe: whether to measure; without, there are no measurements (for benchmarks of the bare recursion).

    Raises:
        Unsupported: the rounds cannot be written out.
    """

    def __init__(
        self, problem: Problem, keep: tuple[str, ...], held: Leaves, leaves: Leaves, observe: bool = True
    ) -> None:
        self.bits, self.seen = 0, 0
        problem = dataclasses.replace(
            problem, algorithm=copy.copy(problem.algorithm)
        )  # one that counts would count these rounds

        form = pytree.tree_structure(held.tree(held.tensors))

        def one(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            now: AgentState = held.tree(carry)
            own, exact, weights, uniforms, best, t = leaves.tree(data)
            stood = before(problem, now)
            points = {name: each.clone() for name, each in stood.items()}  # an algorithm may work in place
            after, net, g = step(problem, now, own, Whole(weights, problem.network.which), uniforms, t)
            same_form(problem, after.x, 0)
            if pytree.tree_structure(after) != form:
                raise Unsupported("a round changes the form of what the agents hold")
            self.bits, seen = net.bits, []
            if observe:
                seen = [measure.sums(problem, points[problem.answer].double(), exact, best)]
                of_round = measure.round_terms(problem, after.state, g)
                if of_round is not None:
                    seen.append(tree_sum(of_round))
            self.seen = len(seen)
            kept = [points[name] if name in points else recorded(after, name) for name in keep]
            return pytree.tree_leaves(after), [*seen, *kept]

        self._problem, self.keep = problem, keep
        self.function: Function = compiled(one, held.tensors, leaves.tensors)

    def __call__(self, held: Leaves, leaves: Leaves, rounds: range) -> tuple[Segment, AgentState]:
        """``rounds``, places in ``leaves``, and what the agents hold after them. What ``held`` holds is written over."""
        count = len(rounds)
        rows = [torch.empty(count, *shape, dtype=dtype) for shape, dtype in self.function.rows]
        bound = self.function.bound(held.tensors, [each.contiguous() for each in leaves.tensors], rows)
        bound(rounds.start, rounds.stop)
        after: AgentState = held.tree(bound.carry)
        observed: dict[str, Tensor] = {}
        sums, kept = rows[: self.seen], rows[self.seen :]
        if sums:
            observed = measure.observed(self._problem, sums[0], sums[1] if len(sums) > 1 else None)
        finite = torch.isfinite(after.x).flatten(1).all(1)
        return Segment(observed, dict(zip(self.keep, kept, strict=True)), finite, self.bits), after


class Emitted(InThisProcess):
    """Runs blocks through ``Rounds``, compiled once for each shape of block (one, unless the network's degree changes).

    Rounds that cannot be written out run one by one in Python, after a warning that says why.
    """

    def __init__(self) -> None:
        self._rounds: dict[Any, Rounds] = {}
        self._eager: Eager | None = None

    @property
    def compiled(self) -> bool:
        """See ``distopt.simulation.runner.Engine``."""
        return self._eager is None

    @property
    def device(self) -> str:
        """What a checkpoint notes, so that no other kind of compiled rounds goes on from it."""
        return WRITTEN_OUT if self.compiled else "cpu"

    def place(self, problem: Problem, held: AgentState | None) -> None:
        """See ``distopt.simulation.runner.Engine``."""
        super().place(problem, held)
        self._rounds, self._eager = {}, None

    def fetch(self) -> AgentState:
        """See ``distopt.simulation.runner.Engine``."""
        return super().fetch() if self._eager is None else self._eager.fetch()

    def advance(self, block: Block, rounds: range, keep: tuple[str, ...]) -> Segment:
        """See ``distopt.simulation.runner.Engine``.

        Raises:
            InputError: later rounds cannot be written out, and earlier ones could: eager ones would have other bits.
        """
        if self._eager is not None:
            return self._eager.advance(block, rounds, keep)
        taken = self.fetch()
        held, leaves = Leaves(taken), leaves_of(block)
        shapes = held.shape, leaves.shape, keep
        with default_dtype(taken.x.dtype):
            if shapes not in self._rounds:
                try:
                    if (why := objects.fault()) is not None:
                        raise Unsupported(why)
                    self._rounds[shapes] = Rounds(self._problem, keep, held, leaves)
                except Unsupported as error:
                    if self._rounds:
                        raise InputError(f"these rounds cannot be compiled; run them eagerly: {error}") from error
                    message = f"the rounds are not compiled and run many times slower: {error}"
                    warnings.warn(message, CompileWarning, stacklevel=2)
                    eager = Eager()
                    eager.place(self._problem, self.take())
                    self._eager = eager
            if self._eager is None:
                segment, self._held = self._rounds[shapes](held, leaves, rounds)
                return segment
        return self._eager.advance(block, rounds, keep)


class _Maker:
    """Makes ``Emitted`` engines."""

    device = WRITTEN_OUT

    def __call__(self, problem: Problem, blocks: Blocks, mode: Mode = "auto") -> Engine:
        """All agents in this process; with mode "eager", in which a run of eager rounds goes on, the rounds are eager."""
        return Eager() if mode == "eager" else Emitted()


emitted = _Maker()
"""Rounds compiled as one function: ``distopt.simulate(..., engine=emitted)``.

Its numbers equal those of eager rounds to rounding. A run that was interrupted goes on with ``distopt.resume(folder, engine=emitted)``; any
other engine is refused, since its last bits differ.
"""
