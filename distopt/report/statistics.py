"""Statistics of runs that share their trials: figures at the end, differences pair by pair, times to targets.

A trial that has diverged is infinitely bad. It stays in every median, difference and curve, and is never left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distopt.report.series import along, drawn
from distopt.report.study import Group
from distopt.report.summary import by_trial
from distopt.runs.results import Run

Floats = NDArray[np.float64]

LEVEL = 0.9
"""The default level of intervals."""

ALPHA = 0.05
"""A difference is called significant where its p-value, corrected by ``holm``, is at most this."""

FEWEST = 6
"""The smallest number of pairs whose p-value can be at most ``ALPHA``: the smallest p-value of n pairs is 2^(1-n)."""

RESAMPLES = 9_999
"""Resamples of a bootstrap interval."""

TARGETS = 50
"""Targets of each trial of a problem (see ``targets``)."""

PROBLEMS = 5
"""A performance profile needs at least as many problems."""

FARTHEST = 4.0
"""Where the area under a performance profile ends."""


class Estimate(NamedTuple):
    """A figure with its interval, whose ends are nan if there is none at this level."""

    value: float
    low: float
    high: float


class Paired(NamedTuple):
    """How one method differs from another on the trials that both have.

    Attributes:
        pairs: the number of trials.
        unequal: in how many of them the two differ.
        difference: the Hodges-Lehmann estimate of first minus second, with its interval.
        p: the two-sided p-value of the Wilcoxon signed-rank test; None with fewer than ``FEWEST`` unequal pairs, where it cannot be
            significant.
    """

    pairs: int
    unequal: int
    difference: Estimate
    p: float | None


def diverged(run: Run) -> NDArray[np.bool_]:
    """Which trials of a run have diverged, bool [R].

    A trial has diverged if the run lists it (``run.info["diverged_trials"]``), or if the ranking metric is not finite at the end. A
    run that stopped early because some trial diverged, and does not list which, counts as diverged in all trials, since the others
    have no final value.
    """
    said = run.info.get("diverged_trials")
    found = np.zeros(run.trials, dtype=np.bool_)
    if run.leading in run:
        found |= ~np.isfinite(by_trial(run, run.leading))
    if said is not None:
        found[[int(trial) for trial in said]] = True
    elif run.status == "diverged" and int(run.rounds[-1]) + 1 < int(run.info.get("rounds", math.inf)):
        found[:] = True
    return found


def closing(run: Run, series: str | None = None) -> Floats:
    """The figure of each trial at the end of a run, float64 [R]: as the series' metric says, the last value, the largest, or the mean.

    It is +inf for a trial that has diverged (see ``diverged``) or whose figure is not finite; -inf where larger values are better.

    >>> run = Run("gt", "done", np.arange(2), {"dynamic_regret": np.array([[4.0, 6.0], [4.0, np.inf]])})
    >>> closing(run).tolist()
    [3.0, inf]

    Args:
        run: a run with at least one recorded round.
        series: a name that ``run[series]`` knows as a metric; by default the one by which runs are ranked.
    """
    series = series or run.leading
    metric = run.about(series)
    values = drawn(run, series)[:, -1] if metric.smoothed else by_trial(run, series)
    return np.where(diverged(run) | ~np.isfinite(values), -np.inf if metric.rises else np.inf, values)


def median_interval(values: Iterable[float], level: float = LEVEL, seed: int = 0) -> Estimate:
    """The median of n values with its percentile bootstrap interval [efron1993].

    The ends are the (1 - level)/2 and (1 + level)/2 quantiles of the medians of 9,999 resamples of n values. Each quantile is one of those
    medians, so nothing is interpolated and infinite values need no rule of their own. BCa, which corrects a bias, is not defined with
    infinite values. Below two values there is no interval. With few values the true coverage is below the level. At level
    0.9 it is 50 % with 2 values, 75 % with 3, about 80 % with 4, and 82 to 94 % with 5 to 30.

    >>> median_interval([3.0, 1.0, 2.0, float("inf"), 2.5])
    Estimate(value=2.5, low=1.0, high=inf)
    """
    given = np.asarray(list(values), dtype=np.float64)
    if len(given) < 2:
        return Estimate(float(given[0]) if len(given) else math.nan, math.nan, math.nan)
    places = np.random.default_rng(seed).integers(len(given), size=(RESAMPLES, len(given)))
    medians = np.sort(np.median(given[places], axis=1))
    rank = math.floor((RESAMPLES + 1) * (1 - level) / 2 + 1e-9)  # of the lower end, from 1
    rank = max(rank, 1)
    return Estimate(float(np.median(given)), float(medians[rank - 1]), float(medians[-rank]))


def differences(a: Iterable[float], b: Iterable[float]) -> Floats:
    """a - b pair by pair. Where both are infinite alike, as where both methods have diverged, the difference is 0.

    >>> differences([1.0, float("inf"), float("inf")], [3.0, 1.0, float("inf")]).tolist()
    [-2.0, inf, 0.0]
    """
    first, second = np.asarray(list(a), dtype=np.float64), np.asarray(list(b), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(first == second, 0.0, first - second)


def paired(a: Iterable[float], b: Iterable[float], level: float = LEVEL) -> Paired:
    """How the figures a differ from the figures b of the same n trials.

    The p-value is that of the Wilcoxon signed-rank test [wilcoxon1945]. With d = a - b and the ranks r_i of |d_i|, W is the sum of r_i
    over d_i > 0. Under the null hypothesis each sign is a fair coin, and p = min(1, 2 min(P(W <= w), P(W >= w))). The distribution is
    exact, with ties too: equal |d_i| share the mean of their ranks. Pairs with d_i = 0 are left out of the test.

    The difference is the Hodges-Lehmann estimate [hodges1963], the median of the Walsh averages (d_i + d_j) / 2, i <= j, of all pairs. Its
    interval is that of the test [hollander2013]: from the (k+1)-th smallest to the (k+1)-th largest average, with the largest k such that
    P(W <= k) <= (1 - level) / 2 for n pairs without ties. Below 5 pairs there is none at level 0.9.

    Where one method has diverged, d is infinite: it has the largest rank, and ties with other infinite ones. Where both have, d is 0. The
    Walsh average of +inf and -inf is 0.

    >>> result = paired([5.0, 6.0, 7.0, 8.0, 9.0, 10.0], [4.0, 4.0, 4.0, 4.0, 4.0, 4.0])
    >>> result.difference, result.p
    (Estimate(value=3.5, low=2.0, high=5.0), 0.03125)
    """
    d = differences(a, b)
    unequal = d[d != 0]
    p = signed_rank(unequal) if len(unequal) >= FEWEST else None
    return Paired(len(d), len(unequal), hodges_lehmann(d, level), p)


def signed_rank(d: Floats) -> float:
    """The exact two-sided p-value of the Wilcoxon signed-rank test for differences d [n], none of them 0 (see ``paired``).

    >>> signed_rank(np.array([1.0, 2.0, -3.0]))
    1.0
    """
    from scipy.stats import rankdata

    ranks = np.rint(2 * rankdata(np.abs(d))).astype(np.int64)  # twice the ranks: with ties they are halves
    below = np.cumsum(_sums(ranks))
    w = int(ranks[d > 0].sum())
    total = len(below) - 1  # W and total - W have the same distribution
    return min(1.0, 2 * float(below[min(w, total - w)]))


def leaning(d: Floats) -> int:
    """Where the signed-rank test sees differences d [n]: 1 above zero, -1 below, 0 between. A few large ones can outweigh many small ones.

    >>> leaning(np.array([-1.0, -2.0, -3.0, 7.0, 8.0]))
    1
    """
    from scipy.stats import rankdata

    unequal = d[d != 0]
    return int(np.sign((np.sign(unequal) * rankdata(np.abs(unequal))).sum()))


def _sums(ranks: NDArray[np.int64]) -> Floats:
    """The probabilities of 0, 1, ..., sum(ranks) as the sum of those ranks whose fair coins show heads."""
    chance = np.ones(1)
    for rank in ranks:
        chance = 0.5 * (np.pad(chance, (0, int(rank))) + np.pad(chance, (int(rank), 0)))
    return chance


def hodges_lehmann(d: Floats, level: float = LEVEL) -> Estimate:
    """The median of the Walsh averages of differences d [n], with the interval of the signed-rank test (see ``paired``)."""
    n = len(d)
    if not n:
        return Estimate(math.nan, math.nan, math.nan)
    first, second = np.triu_indices(n)
    one, other = d[first], d[second]
    with np.errstate(invalid="ignore"):
        walsh = np.sort(np.where(one == -other, 0.0, one / 2 + other / 2))
    allowed = np.cumsum(_sums(np.arange(1, n + 1))) <= (1 - level) / 2 + 1e-12
    middle = len(walsh) // 2
    value = walsh[middle] if len(walsh) % 2 else _between(float(walsh[middle - 1]), float(walsh[middle]))
    if not allowed[0]:
        return Estimate(float(value), math.nan, math.nan)
    k = int(allowed.sum()) - 1
    return Estimate(float(value), float(walsh[k]), float(walsh[-1 - k]))


def _between(low: float, high: float) -> float:
    return 0.0 if low == -high else low / 2 + high / 2


def smallest_p(pairs: int) -> float:
    """The smallest two-sided p-value that n pairs can have: 2^(1-n), where all differences have the same sign.

    >>> smallest_p(5), smallest_p(6)
    (0.0625, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - pairs))


def trials_needed(comparisons: int, alpha: float = ALPHA) -> int:
    """How many trials it takes before one of some comparisons can be significant after ``holm``: m 2^(1-n) <= alpha.

    >>> trials_needed(1), trials_needed(4)
    (6, 8)
    """
    return 1 + math.ceil(math.log2(max(comparisons, 1) / alpha))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number by Holm's step-down method [holm1979].

    The k-th smallest of m becomes the largest of (m - j + 1) p_(j), j <= k, at most 1. Those that are None count as no test, and stay.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    places = sorted((k for k, p in enumerate(p_values) if p is not None), key=lambda k: p_values[k] or 0.0)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for done, k in enumerate(places):
        largest = max(largest, min(1.0, (len(places) - done) * (p_values[k] or 0.0)))
        corrected[k] = largest
    return corrected


# ------------------------------------------------------------------------------------------------------- times to targets


def targets(starts: Floats, bests: Floats, linear: bool = False, count: int = TARGETS) -> Floats:
    """The targets of each trial, float64 [R, count]: levels from where its methods start to the best value that any of them reached.

    Level k = 1 .. count is start^(1 - k/count) best^(k/count), so every decade has equally many. Where values may be zero or less
    (``linear``) it is start + (best - start) k/count. A trial in which no method got below its start has no targets: its row is nan.

    >>> targets(np.array([100.0]), np.array([1.0]), count=2).round(9).tolist()
    [[10.0, 1.0]]
    """
    share = np.arange(1, count + 1) / count
    start, best = starts[:, None], bests[:, None]
    with np.errstate(all="ignore"):
        levels = start + (best - start) * share if linear else start ** (1 - share) * best**share
    levels[:, -1] = bests
    levels[~(bests < starts)] = np.nan
    return np.asarray(levels)


def times(group: Group, axis: str = "rounds", series: str | None = None) -> dict[str, Floats]:
    """When each method of a group first reaches each target, by name: float64 [common trials, targets].

    The targets are those of ``targets``. start is the largest first recorded value of the trial's methods. best is the smallest value of
    the methods that did not diverge (the smallest above zero, if the series cannot be below zero). A series whose larger values are better
    is negated. A target that was missed takes inf, and a trial that diverged misses all of its targets. A trial without targets is nan.

    Args:
        group: methods on one problem. Only trials that all of them have count.
        axis: what is counted until then, as in ``distopt.report.series.AXES``.
        series: by default the one by which the runs are ranked. Methods that lack it, or the axis, are left out.
    """
    places = {name: along(run, axis) for name, run in group.runs.items()}
    have = [name for name, run in group.runs.items() if (series or run.leading) in run and places[name] is not None]
    common = group.common(have)
    if not common:
        return {}
    values, passed = {}, {}
    linear = False
    for name in have:
        run, rows = group.runs[name], group.rows(name, common)
        metric = run.about(series or run.leading)
        linear = linear or metric.signed or metric.rises
        values[name] = (-1 if metric.rises else 1) * drawn(run, series or run.leading)[rows]
        values[name][diverged(run)[rows]] = np.inf
        where = places[name]
        assert where is not None
        passed[name] = where[rows]
    starts = np.max([np.where(np.isfinite(each[:, 0]), each[:, 0], -np.inf) for each in values.values()], axis=0)
    reached = [each if linear else np.where(each > 0, each, np.inf) for each in values.values()]
    bests = np.min([np.nanmin(np.where(np.isnan(each), np.inf, each), axis=1) for each in reached], axis=0)
    levels = targets(starts, bests, linear)
    return {name: _first(values[name], passed[name], levels) for name in have}


def _first(values: Floats, passed: Floats, levels: Floats) -> Floats:
    """Where on the axis ``passed`` [R, k] the values [R, k] are first at most as large as each level [R, m]; inf where never."""
    lowest = np.minimum.accumulate(np.where(np.isnan(values), np.inf, values), axis=1)
    found = np.full(levels.shape, np.nan)
    for r, (low, at, wanted) in enumerate(zip(lowest, passed, levels, strict=True)):
        if not np.isnan(wanted).any():
            place = np.searchsorted(-low, -wanted)
            found[r] = np.append(at, np.inf)[place]
    return found


def ecdf(groups: Sequence[Group], axis: str = "rounds", series: str | None = None) -> dict[str, Floats]:
    """Times to target of all problems, trials and targets together, sorted, by method: inf for each that was missed.

    The share of the targets that a method has reached by time t is the share of its values that are at most t. So a method
    that missed some targets never reaches 1 [hansen2021]. Methods that were not run on every problem are left out. See
    ``times``.
    """
    each = [found for group in groups if (found := times(group, axis, series))]
    everywhere = [name for name in (each[0] if each else {}) if all(name in found for found in each)]
    pooled = {name: np.concatenate([found[name].ravel() for found in each]) for name in everywhere}
    return {name: np.sort(found[~np.isnan(found)]) for name, found in pooled.items()}


class Profile(NamedTuple):
    """The performance profile of a method: rho(tau) is ``shares[k]`` from ``ratios[k]`` on, 0 before; ``score`` its area (see ``profiles``)."""

    ratios: Floats
    shares: Floats
    score: float


def profiles(figures: Mapping[str, Floats], farthest: float = FARTHEST) -> dict[str, Profile]:
    """Performance profiles [dolan2002] of methods whose figures on S problems are given, by name: float64 [S], above zero, smaller is better.

    rho_m(tau) = |{s : figure_{m,s} <= tau min_m' figure_{m',s}}| / S. The score is the area under rho from tau = 1 to ``farthest``, divided by
    its width [dahl2023], so 1 is the best on every problem. An infinite figure is within no factor of the best; so are all
    figures of a problem on which all are infinite.

    >>> found = profiles({"a": np.array([1.0, 2.0]), "b": np.array([2.0, np.inf])})
    >>> found["a"].score, round(found["b"].score, 3), found["b"].ratios.tolist(), found["b"].shares.tolist()
    (1.0, 0.333, [2.0], [0.5])

    Raises:
        ValueError: a figure is zero or less, where no ratio means anything.
    """
    table = np.array(list(figures.values()), dtype=np.float64)
    if not (table > 0).all():
        raise ValueError("performance profiles need figures above zero")
    best = table.min(axis=0)
    with np.errstate(invalid="ignore"):
        ratios = np.where(np.isfinite(table), table / best, np.inf)
    found = {}
    for name, row in zip(figures, ratios, strict=True):
        own = np.sort(row[np.isfinite(row)])
        area = float(np.clip(farthest - own, 0, None).sum()) / (farthest - 1) / len(row)
        found[name] = Profile(own, np.arange(1, len(own) + 1) / len(row), area)
    return found
