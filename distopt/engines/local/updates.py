"""Rounds whose costs cannot be compiled, such as those of a neural network: torch computes the gradients, and the rest of a round is compiled."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor

from distopt.codegen.function import compiled
from distopt.codegen.leaves import Leaves
from distopt.codegen.recording import Unsupported
from distopt.codegen.unchanged import Calls
from distopt.engines.local.eager import Eager, Step
from distopt.network.drawn import Uniforms
from distopt.network.net import Costs, Whole
from distopt.network.rows import Tables
from distopt.numerics.trees import default_dtype, rounds_of
from distopt.simulation import measure
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, opened, revealed, updated
from distopt.simulation.runner import Block


class Updates(Eager):
    """Takes the gradients round by round, and computes the rest of each round by one compiled function.
    Measures as ``Eager`` does.

    It has the bits of compiled rounds, as far as the gradients have.
    """

    compiled = True

    def rounds(self, block: Block, rounds: range, held: AgentState) -> Step:
        """See ``Eager``. The values in ``held`` are overwritten.

        Raises:
            Unsupported: the rest of a round cannot be written out.
        """
        problem, gradient = self._problem, torch.empty_like(held.x, memory_format=torch.contiguous_format)
        first = block.start
        leaves = Leaves((block.tables, block.uniforms, torch.arange(first, first + block.count)))
        own, form, given = Leaves(held), leaves.form(), Given(problem)

        def rest(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            g, *others = data
            return own.of(given(own.tree(carry), g, *form.tree(others))), []

        data = [gradient.unsqueeze(0), *(each.contiguous() for each in leaves.tensors)]
        with default_dtype(held.x.dtype):
            function = compiled(rest, own.tensors, data, "updates")
        bound, data_of = function.bound(own.tensors, data, []), rounds_of(block.data)

        def one(held: AgentState, k: int) -> tuple[AgentState, int, Tensor | None]:
            gradient.copy_(revealed(problem, held.x, data_of(k))[0])
            bound(k, k + 1)
            after: AgentState = own.tree(bound.carry)
            return after, given.bits, measure.round_terms(problem, after.state, gradient)

        return one


class Given:
    """A round of all agents once their gradients are known, to be recorded. ``bits`` is what an agent sent in the last one."""

    def __init__(self, problem: Problem) -> None:
        self.method = dataclasses.replace(problem.method, algorithm=copy.copy(problem.algorithm))
        self.problem, self.bits = problem, 0
        self._calls = Calls(algorithm=self.method.algorithm, **self.method.channels)

    def __call__(self, held: AgentState, g: Tensor, tables: Tables, uniforms: Uniforms, t: Tensor) -> AgentState:
        """What the agents hold after round t.

        Raises:
            Unsupported: the algorithm takes a further gradient, or an object has counted the round.
        """
        with self._calls.one():
            net = opened(self.method, held, Whole(tables, self.problem.network.which), uniforms)
            after = updated(self.method, held, net, t, g, not_compiled(self.problem), self.problem.scenario.project)
        self.bits = net.bits
        return after


def _refused(y: Tensor, rows: Tensor | None = None) -> Tensor:
    """In the place of ``mix.grad`` while a round is recorded whose costs are not."""
    raise Unsupported("the algorithm takes a further gradient of costs that cannot be compiled")


def _no_value(y: Tensor) -> Tensor:
    """In the place of ``mix.loss``."""
    raise Unsupported("the algorithm asks for values of costs that cannot be compiled")


def not_compiled(problem: Problem) -> Costs:
    """The functions of costs that are not recorded."""
    scenario = problem.scenario
    return Costs(_refused, _refused, _no_value, scenario.project, scenario.lmo, scenario.prox)
