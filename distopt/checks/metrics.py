"""Check of metrics: pure functions whose sums over agents do not depend on the blocks of agents or on the segments of rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distopt import metrics
from distopt.checks._common import ROUNDS, N, R, copied, mixed, normals, require, same_bits, sliced, weights
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks, evaluate
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.metrics import Metric, View
from distopt.network.net import Rehearsal
from distopt.numerics.sums import tree_sum
from distopt.numerics.trees import at, default_dtype, tree_map
from distopt.simulation import measure
from distopt.simulation.problem import Problem, build

POINTS = "seen.points"
"""Raised where a metric reads ``seen.points`` without ``needs_points``."""

CLOCK = "compute=1e-3,latency=1e-3,bandwidth=1e9"
"""Metrics may ask how long a round lasts."""


def check_metric(metric: Any, scenario: Any = "moving_target:dim=3", algorithm: Any = "gt") -> None:
    """Check a metric against ``distopt.metrics.Metric``. It is measured on a scenario and an algorithm that can have it.

    Promises:

    - It has one way of measuring, and its attributes have the types of ``Metric``.
    - ``columns`` is a whole number above 0, and a term [R, n] or [R, n, columns]. ``finish`` and ``value`` give [K, R].
    - It is pure, changes nothing in place, and is finite on harmless numbers.
    - It reads ``seen.points`` only with ``needs_points``.
    - An agent adds the same bits alone as among others, so that sums are the same on every engine.
    - Trials are independent, and no bit depends on where a segment of rounds begins.

    Raises:
        AssertionError: naming the first promise that is broken.
        InputError: an unknown scenario or algorithm, or a wrong value in one of them.

    >>> class Farthest:
    ...     def term(self, view):
    ...         return (view.x - view.mean).abs().amax(-1)
    >>> print(check_metric(Farthest()))
    None
    """
    who = type(metric).__name__
    try:
        ((name, found),) = metrics.added([metric]).items()
    except InputError as error:
        raise AssertionError(f"{who}: {error}") from None
    problem = build(Experiment("ring", N, scenario, algorithm, rounds=ROUNDS, trials=R, clock=CLOCK))
    problem = dataclasses.replace(problem, metrics={**problem.metrics, name: found})
    told = f"{who}: it does not apply to this scenario and algorithm; give check_metric others"
    require(name in problem.measured, told)
    columns = found.columns(problem.x0.shape[-1])
    fits = isinstance(columns, int) and not isinstance(columns, bool) and columns > 0
    require(fits, f"{who}: columns must be a whole number above 0, not {columns!r}")
    with default_dtype(torch.float64), torch.no_grad():
        try:
            _check(_Rounds(problem), name, found, who)
        except InputError as error:
            raise AssertionError(f"{who}: {error}") from None


class _Rounds:
    """Some rounds of random points, with everything that a metric may use."""

    def __init__(self, problem: Problem) -> None:
        self.problem, blocks = problem, Blocks(problem.scenario, problem.key, ROUNDS)
        comparator = Comparator(blocks)
        self.data, self.reference, self.fixed = blocks.get(0), comparator.reference(0), comparator.fixed_values(0)
        self.x = normals(ROUNDS, R, N, problem.x0.shape[-1], seed=9)
        self.states: list[Any] = []
        self.gradients: list[Tensor] = []
        w, state = weights(), problem.algorithm.init(self.x[0].clone())
        for t, x in enumerate(self.x):
            data = at(self.data, t)

            def grad(y: Tensor, data: Any = data) -> Tensor:
                g: Tensor = problem.scenario.grad(y, data)
                return g.clone()

            self.gradients.append(grad(x))
            round = Rehearsal(lambda _, z: mixed(w, z), x, t, grad)
            _, state = problem.algorithm.update(grad(x), state, x.clone(), round)
            self.states.append(state)

    def term(self, metric: Metric) -> Callable[[Tensor, Any], Tensor]:
        """A metric's term of all agents, of x [R, n, d] and (data, x*)."""
        scenario = self.problem.scenario
        return lambda x, each: metric.term(View(scenario, x, tree_sum(x) / N, each[0], each[1].unsqueeze(-2)))

    def sums(self) -> dict[str, Tensor]:
        """The sums over agents of all metrics, as an engine makes them."""
        best = self.reference.x
        terms = evaluate(lambda x, each: measure.sums(self.problem, x, *each), self.x, (self.data, best))
        each = [
            measure.round_terms(self.problem, state, g) for state, g in zip(self.states, self.gradients, strict=True)
        ]
        there = [term for term in each if term is not None]
        return measure.observed(self.problem, terms, tree_sum(torch.stack(there)) if there else None)

    def seen(self, rounds: slice, trials: slice, before: dict[str, Tensor]) -> _Seen:
        """Some rounds of some trials, as a metric sees them; ``before`` are the sums of the cumulative ones."""

        def cut(leaf: Tensor) -> Tensor:
            leaf = leaf[rounds] if leaf.shape[0] > 1 else leaf
            return leaf[:, trials] if leaf.dim() > 1 and leaf.shape[1] > 1 else leaf

        def whole(leaf: Tensor | None) -> Tensor | None:
            return None if leaf is None else leaf.expand(ROUNDS, R)[rounds, trials]

        figures: dict[str, Any] = {k: whole(v) for k, v in self.reference._asdict().items() if k != "x"}
        return _Seen(
            self.problem,
            rounds.start,
            tree_map(cut, self.sums()),
            before,
            self.reference._replace(**figures),
            (whole(self.fixed[0]), whole(self.fixed[1])),
            (64, 1),
            torch.ones(ROUNDS, R, dtype=torch.float64)[rounds, trials],
            torch.full((ROUNDS, R), 2.0, dtype=torch.float64)[rounds, trials],
            self.x[rounds, trials],
            tree_map(cut, self.data),
        )


class _Seen(measure.Rounds):
    """The rounds with points for the metrics that say that they need them. A run keeps points only if one of its metrics has ``needs_points``."""

    _asked: Metric | None = None

    def __getitem__(self, name: str) -> Tensor:
        before, self._asked = self._asked, self._problem.measured.get(name)
        try:
            return super().__getitem__(name)
        finally:
            self._asked = before

    @property
    def points(self) -> Tensor:
        """[K, R, N, d]."""
        if self._asked is not None and not self._asked.needs_points:
            raise metrics.Missing(POINTS)
        return super().points

    def shown(self) -> Any:
        """All that a metric is given and might change."""
        return self.points, self.data, dict(self._sums)

    def others(self, name: str) -> dict[str, Tensor]:
        """The metrics that the metric ``name`` has read."""
        return {each: value for each, value in self._found.items() if each != name}


def _check(rounds: _Rounds, name: str, metric: Metric, who: str) -> None:
    if callable(metric.term):
        each = torch.stack([_check_term(rounds, metric, t, who) for t in range(ROUNDS)])
        folded = evaluate(rounds.term(metric), rounds.x, (rounds.data, rounds.reference.x))
        require(same_bits(folded, each), f"{who}: term gives a round alone other bits than among others")
    if callable(metric.round_term):
        for t in range(ROUNDS):
            _check_round_term(rounds, metric, t, who)
    everything = slice(0, ROUNDS), slice(0, R)
    seen = rounds.seen(*everything, {})
    held = copied(seen.shown())
    value = _asked(seen, name, who)
    fresh, found = rounds.seen(*everything, {}), seen.others(name)
    method = "value" if callable(metric.value) else "finish"
    kept = same_bits(held, seen.shown()) and same_bits(found, {each: fresh[each] for each in found})
    require(kept, f"{who}: {method} changes what it sees in place")
    numbers = bool(torch.isfinite(value).all())
    require(numbers, f"{who}: not finite on harmless points")
    again = _asked(rounds.seen(*everything, {}), name, who)
    require(same_bits(value, again), f"{who}: not pure: the same rounds give another value when asked again")
    first = rounds.seen(slice(0, 2), slice(0, R), {})
    parts = [_asked(first, name, who)]
    _ = first.all()  # what is summed over the rounds, of all metrics
    parts.append(_asked(rounds.seen(slice(2, ROUNDS), slice(0, R), first.totals), name, who))
    require(same_bits(torch.cat(parts), value), f"{who}: its value depends on where a segment of rounds begins")
    for r in range(R):
        alone = _asked(rounds.seen(slice(0, ROUNDS), slice(r, r + 1), {}), name, who)
        require(same_bits(alone, value[:, r : r + 1]), f"{who}: trial {r} alone differs from trial {r} in a batch")


def _asked(seen: measure.Rounds, name: str, who: str) -> Tensor:
    try:
        return seen[name]
    except metrics.Missing as error:
        if str(error) == POINTS:
            raise AssertionError(f"{who}: it reads seen.points, so it must say needs_points = True") from None
        raise AssertionError(
            f"{who}: it asks for {str(error) or 'something'}, which the scenario does not have"
        ) from None


def _check_term(rounds: _Rounds, metric: Metric, t: int, who: str) -> Tensor:
    problem, x, data = rounds.problem, rounds.x[t], at(rounds.data, t)
    mean, best = tree_sum(x) / N, at(rounds.reference.x, t).unsqueeze(-2)

    def term(trials: slice, agents: slice) -> Tensor:
        def cut(leaf: Tensor) -> Tensor:
            leaf = leaf[trials] if leaf.shape[0] > 1 else leaf
            return leaf[:, agents] if leaf.dim() > 1 and leaf.shape[1] > 1 else leaf

        view = View(problem.scenario, x[trials, agents], mean[trials], tree_map(cut, data), cut(best))
        held = copied(tuple(view)[1:])
        made: Tensor = metric.term(view)
        require(same_bits(held, tuple(view)[1:]), f"{who}: term changes what it sees in place")
        return made

    return _check_rows(term, metric, x, who, "term")


def _check_round_term(rounds: _Rounds, metric: Metric, t: int, who: str) -> None:
    state, g = rounds.states[t], rounds.gradients[t]

    def term(trials: slice, agents: slice) -> Tensor:
        given = sliced((state, g), trials, agents)
        held = copied(given)
        made: Tensor = metric.round_term(rounds.problem.algorithm, *given)
        require(same_bits(held, given), f"{who}: round_term changes what it sees in place")
        return made

    _check_rows(term, metric, rounds.x[t], who, "round_term")


def _check_rows(term: Callable[[slice, slice], Tensor], metric: Metric, x: Tensor, who: str, what: str) -> Tensor:
    """The agents' terms, checked for shape, purity, and independence of trials and agents."""
    all_trials, all_agents = slice(0, R), slice(0, N)
    whole, columns = term(all_trials, all_agents), metric.columns(x.shape[-1])
    shapes = [[R, N, columns]] + ([[R, N]] if columns == 1 else [])
    found = list(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
    require(found in shapes, f"{who}: {what} gives {found}, not {' or '.join(map(str, reversed(shapes)))}")
    require(bool(torch.isfinite(whole).all()), f"{who}: {what} is not finite on harmless points")
    require(same_bits(whole, term(all_trials, all_agents)), f"{who}: {what} is not pure")
    for r in range(R):
        alone = term(slice(r, r + 1), all_agents)
        require(same_bits(alone, whole[r : r + 1]), f"{who}: {what} gives trial {r} alone other bits than in a batch")
    for block in (slice(0, 2), slice(2, N), *(slice(i, i + 1) for i in range(N))):
        require(
            same_bits(term(all_trials, block), whole[:, block]),
            f"{who}: {what} gives agents {block.start} to {block.stop - 1} other bits alone than among others: sums would depend on the engine",
        )
    return whole
