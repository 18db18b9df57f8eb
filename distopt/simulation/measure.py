"""Metrics are measured here and nowhere else: their columns for an engine to sum, and what the sums over all agents come to.

Everything is float64. Sums over agents follow the tree of ``distopt.numerics.sums``, so that they have the same bits whichever block
holds which agents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from distopt.costs.comparator import Reference
from distopt.costs.evaluation import Evaluator
from distopt.errors import InputError
from distopt.metrics import Metric, Missing, View
from distopt.numerics.sums import tree_sum
from distopt.numerics.trees import tensors, tree_map
from distopt.simulation.attendance import Attendance
from distopt.simulation.problem import Problem


def terms(problem: Problem, x: Tensor, mean: Tensor, data: Any, best: Tensor) -> tuple[Tensor, ...]:
    """What each agent adds to the metrics with a ``term``, [R, n, columns] each, in the order of their names.

    For x [R, n, d], the network average [R, 1, d], the agents' data and x*_t [R|1, d]: one round, or many folded into the trials axis,
    eager or inside a compiled loop, for any block of agents.
    """
    view = View(problem.scenario, x, mean, data, best.unsqueeze(-2))
    found = tuple(_checked(name, metric, metric.term(view), x) for name, metric in problem.sources["term"])
    return tuple(each * data.here for each in found) if isinstance(data, Attendance) else found


def round_terms(problem: Problem, state: Any, g: Tensor) -> Tensor | None:
    """Each agent's terms of the metrics with a ``round_term``, concatenated [R, n, *], after a round; None if there are no such metrics."""
    found = [
        _checked(name, metric, metric.round_term(problem.algorithm, state, g), g)
        for name, metric in problem.sources["round_term"]
    ]
    return torch.cat(found, -1) if len(found) > 1 else found[0] if found else None


def _checked(name: str, metric: Metric, term: Any, x: Tensor) -> Tensor:
    """A term as [R, n, columns] in float64."""
    shape = (*x.shape[:-1], metric.columns(x.shape[-1]))
    if isinstance(term, Tensor) and term.shape == shape and term.dtype == torch.float64:
        return term
    try:
        whole = term.unsqueeze(-1) if term.dim() == x.dim() - 1 and shape[-1] == 1 else term
        checked: Tensor = whole.to(torch.float64).expand(shape)
    except (AttributeError, RuntimeError):
        found = list(term.shape) if isinstance(term, Tensor) else type(term).__name__
        raise InputError(
            f"metric {name}: its term is {found}, not {list(shape)}; columns(dim) must give the last size"
        ) from None
    return checked


def summed(terms: tuple[Tensor, ...], add: Callable[[Tensor], Tensor]) -> Tensor:
    """Sums over agents of ``terms`` side by side [R, m, c]: over all of them (``add`` is ``tree_sum``, m = 1) or node by node."""
    return torch.cat([add(each) for each in terms], -1)


def sums(problem: Problem, x: Tensor, data: Any, best: Tensor) -> Tensor:
    """The sums of ``terms`` [R, 1, c] of a round where one block holds all agents."""
    mean = tree_sum(counted(x, data)) / count(data, x.shape[-2])
    return summed(terms(problem, x, mean, data, best), tree_sum)


def counted(x: Tensor, data: Any) -> Tensor:
    """The points that make up the network average, [R, n, d]: zeros for absent agents."""
    return x * data.here if isinstance(data, Attendance) else x


def count(data: Any, agents: int) -> Any:
    """How many agents are there: N, or in each round and trial [K, R, 1, 1] (without K in one round) where they leave and join."""
    return data.number if isinstance(data, Attendance) else agents


def observed(problem: Problem, sums: Tensor, of_rounds: Tensor | None) -> dict[str, Tensor]:
    """Sums over all agents by metric, [K, R, columns]: of ``terms`` [K, R, 1, *] and of ``round_terms``, likewise or None."""
    found: dict[str, Tensor] = {}
    for source, each in (("term", sums), ("round_term", of_rounds)):
        if each is None:
            continue
        named = problem.sources[source]
        widths = [metric.columns(problem.x0.shape[-1]) for _, metric in named]
        found |= dict(zip((name for name, _ in named), torch.split(each[..., 0, :], widths, -1), strict=True))
    return found


def accumulate(total: Tensor | None, increments: Tensor) -> Tensor:
    """Running sums [K, ...] continued from ``total`` [...], added one round after the other for any block length."""
    start = torch.zeros_like(increments[:1]) if total is None else total[None]
    return torch.cat([start, increments]).cumsum(0)[1:]


class Rounds:
    """K finished rounds as metrics see them (see ``distopt.metrics.Seen``). Each metric is computed once, on first use.

    Args:
        problem: the run's.
        start: the first of the rounds.
        sums: over all agents, by metric [K, R, columns].
        before: the sums over earlier rounds by cumulative metric, [R] or [R, N].
        reference: [K, R] each.
        fixed: cost and accuracy of the best fixed point, [K, R] or None.
        counted: bits of each agent in a round with an exchange, and gradients in a round.
        exchanges: 1 in rounds with an exchange, 0 in others [K, R].
        messages: that an agent sends in each round, the mean over the agents [K, R].
        points, data: of all agents in float64, where metrics may need them; else None.
    """

    def __init__(
        self,
        problem: Problem,
        start: int,
        sums: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        reference: Reference,
        fixed: tuple[Tensor | None, Tensor | None],
        counted: tuple[int, float],
        exchanges: Tensor,
        messages: Tensor,
        points: Tensor | None,
        data: Any,
    ) -> None:
        self._problem, self._start, self._sums, self._before = problem, start, sums, before
        self.scenario, self.agents, self._reference = problem.scenario, problem.agents, reference
        self._fixed, (self.bits, self.gradients) = fixed, counted
        self.exchanges, self.messages = exchanges, messages
        self._points, self.data = points, data
        self._found: dict[str, Tensor] = {}
        self.totals: dict[str, Tensor] = {}

    @property
    def reference(self) -> Any:
        """[K, R] each."""
        return self._reference if self.scenario.comparator else _Unsought(self._reference.persistence)

    @property
    def seconds(self) -> Tensor:
        """[K, R]."""
        if self._problem.timing is None:
            raise Missing
        t = torch.arange(self._start, self._start + len(self.messages)).reshape(-1, 1, 1, 1)
        return self._problem.timing.lasts(self._problem.network, t, self.bits, self.gradients, self.messages)

    @property
    def fixed_cost(self) -> Tensor:
        """[K, R]."""
        return _there(self._fixed[0])

    @property
    def fixed_accuracy(self) -> Tensor:
        """[K, R]."""
        return _there(self._fixed[1])

    @property
    def points(self) -> Tensor:
        """[K, R, N, d]."""
        return _there(self._points)

    def everywhere(self, name: str, f: Callable[[Tensor, Any], Tensor]) -> Tensor:
        """See ``distopt.metrics.Seen``."""
        x = self.points
        rounds, trials, agents, d = x.shape
        evaluator = Evaluator(self.scenario, self._problem.rounds * trials * agents * agents * d)

        def found(points: Tensor, data: Any) -> Tensor:  # each point is a trial of its own
            return evaluator(name, f, points.reshape(rounds, -1, 1, d), data, agents)

        if all(leaf.shape[1] == 1 for leaf in tensors(self.data)):
            return found(x, self.data).reshape(rounds, trials, agents)

        def own(r: int) -> Any:
            """The data of one trial."""
            return tree_map(lambda leaf: leaf[:, r : r + 1] if leaf.shape[1] > 1 else leaf, self.data)

        return torch.stack([found(x[:, r], own(r)) for r in range(trials)], 1)

    def same(self, value: float) -> Tensor:
        """A number as [K, R]."""
        return torch.full_like(self._reference.cost, value)

    def __getitem__(self, name: str) -> Tensor:
        """A metric [K, R], a cumulative one summed up to each round."""
        if name not in self._problem.measured:
            raise Missing(name)
        if name not in self._found:
            metric = self._problem.measured[name]
            if metric.cumulative and self._start and name not in self._before:
                raise Missing(name)  # the run has begun without it
            shape = self._reference.cost.shape
            value = metric.finish(self._sums[name], self._count(shape)) if name in self._sums else metric.value(self)
            if not isinstance(value, Tensor) or value.shape[:2] != shape or (metric.stored and value.dim() > 2):
                what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(f"metric {name}: its value is {what}, not [rounds, trials], {list(shape)}")
            value = value.to(torch.float64)
            if metric.cumulative:
                value = accumulate(self._before.get(name), value)
                self.totals[name] = value[-1]
            self._found[name] = value
        return self._found[name]

    def _count(self, shape: torch.Size) -> Any:
        """How many agents are there: N, or [K, R] where they leave and join."""
        found = count(self.data, self.agents)
        return found[..., 0, 0].expand(shape) if isinstance(found, Tensor) else found

    def all(self) -> dict[str, Tensor]:
        """Every metric that there is, by name."""
        for name, metric in self._problem.measured.items():
            if metric.needs_points and self._points is None:
                continue
            try:
                _ = self[name]
            except Missing:
                continue
        return {name: self._found[name] for name in self._problem.measured if name in self._found}


class _Unsought:
    """The reference where no comparator is sought."""

    def __init__(self, persistence: Tensor | None) -> None:
        self.persistence = persistence

    def __getattr__(self, name: str) -> Tensor:
        raise Missing(name)


def _there(value: Tensor | None) -> Tensor:
    if value is None:
        raise Missing
    return value
