"""Evaluation of a scenario's costs at points of many rounds: compiled if the run is large enough that compiling pays."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distopt.codegen import objects
from distopt.codegen.function import Function, compiled
from distopt.codegen.leaves import Leaves
from distopt.codegen.recording import Unsupported
from distopt.costs.data import evaluate

LARGE, LARGE_ROWS = 2**16, 2**19
"""Numbers in the points of all agents in all rounds from which on compiling is soon paid for: 0.01 seconds for each function, 0.05 for a new
one. Where a scenario's costs have rows (see ``distopt.costs.linear``), only little is left to be compiled."""

Of = Callable[[Tensor, Any], Tensor]
"""Of points [R, n, d] and a round's data: [R|1, ...]."""

_functions: dict[int, dict[Any, Function | None]] = {}  # by scenario, and by what they compute


def _known(scenario: Any) -> dict[Any, Function | None]:
    """The functions of a scenario, as long as it lives."""
    place = id(scenario)
    if place not in _functions:
        try:
            weakref.finalize(scenario, _functions.pop, place, None)
        except TypeError:  # nothing would report its end
            return {}
        _functions[place] = {}
    return _functions[place]


class Evaluator:
    """Evaluates functions of a scenario's costs, round by round.

    Args:
        scenario: whose costs they are.
        numbers: in the points of all agents in all rounds of a run. It decides alone whether functions are compiled, so that the same
            experiment has the same bits on every run.

    Attributes:
        compiles: whether functions are compiled.
        differentiable: whether torch can differentiate the scenario's gradients; None until somebody has found out.
    """

    differentiable: bool | None = None

    def __init__(self, scenario: Any, numbers: int) -> None:
        self._scenario = scenario
        self.compiles = numbers >= (LARGE if scenario.linear_rows is None else LARGE_ROWS)

    def __call__(self, name: str, f: Of, x: Tensor, batch: Any, agents: int | None = None) -> Tensor:
        """f at points x [K, R, n, d] of K rounds, in one piece [K, R, ...].

        Args:
            name: what f computes; one name stands for one function of the scenario.
            f: of points [R, n, d] and a round's data.
            x: the points; of one agent, where all ``agents`` stand at the same.
            batch: the rounds' data, leaves [K|1, R|1, n|1, ...].
            agents: n, where x is of one.
        """
        rounds, trials, n, d = x.shape
        n = n if agents is None else agents
        function, leaves = None, Leaves(())
        if self.compiles and rounds:
            leaves = Leaves((x, batch))
            function = self._function(name, f, leaves, (trials, n, d))
        if function is None:
            return evaluate(f, x.expand(rounds, trials, n, d), batch)
        ((shape, dtype),) = function.rows
        row = torch.empty(rounds, *shape, dtype=dtype)
        function.bound([], [each.contiguous() for each in leaves.tensors], [row])(0, rounds)
        return row

    def _function(self, name: str, f: Of, leaves: Leaves, shape: tuple[int, int, int]) -> Function | None:
        """The compiled function; None where f cannot be written out. Then the rounds, whose metrics use it too, say so."""
        known, key = _known(self._scenario), (name, shape, leaves.shape)
        if key not in known:

            def do(_: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
                x, own = leaves.tree(data)
                value = f(x.expand(shape), own)
                return [], [value.expand(shape[0], *value.shape[1:])]

            try:
                known[key] = compiled(do, [], leaves.tensors, name) if objects.fault() is None else None
            except Unsupported:
                known[key] = None
        return known[key]
