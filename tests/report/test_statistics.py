"""Statistics of runs, against scipy, small enumerations and calculations by hand."""

from itertools import product
from math import inf, isnan, nan
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from distopt.report import statistics
from distopt.report.study import Group, groups
from distopt.runs.manifest import Status
from distopt.runs.results import Run

Floats = NDArray[np.float64]


def run(label: str, values: Any, status: Status = "done", scenario: str = "sea", **info: Any) -> Run:
    """A run whose average dynamic regret is ``values`` [R, k]."""
    average = np.atleast_2d(np.asarray(values, dtype=np.float64))
    rounds = np.arange(average.shape[1])
    experiment = {"scenario": scenario, "algorithm": label, "topology": "ring", "seed": 0}
    metrics = {"dynamic_regret": average * (rounds + 1), "bits": np.broadcast_to(64.0 * (rounds + 1), average.shape)}
    return Run(label, status, rounds, metrics, info={"experiment": experiment, "agents": 4, **info})


def group(*runs: Run) -> Group:
    (found,) = groups(runs)
    return found


# ------------------------------------------------------------------------------------------------------- at the end


def test_a_trial_that_is_not_finite_has_diverged() -> None:
    assert statistics.closing(run("gt", [[4.0, 3.0], [4.0, inf], [4.0, nan]])).tolist() == [3.0, inf, inf]


def test_trials_that_the_run_calls_diverged_are_infinite() -> None:
    finite = run("gt", [[4.0, 3.0], [4.0, 2.0]], "diverged", rounds=2, diverged_trials={"1": 1})
    assert statistics.closing(finite).tolist() == [3.0, inf]


def test_a_run_that_stopped_early_counts_as_diverged_in_all_trials() -> None:
    early = run("gt", [[4.0, 3.0], [4.0, 2.0]], "diverged", rounds=9)
    assert statistics.closing(early).tolist() == [inf, inf]
    at_the_end = run("gt", [[4.0, 3.0], [4.0, inf]], "diverged", rounds=2)
    assert statistics.closing(at_the_end).tolist() == [3.0, inf]


def test_accuracy_is_the_mean_of_the_rounds_with_samples_and_worst_at_minus_infinity() -> None:
    own = run("gt", [[4.0, 3.0, 2.0], [4.0, 3.0, inf]])
    own.metrics = {**own.metrics, "accuracy": np.array([[0.5, nan, 1.0], [1.0, 1.0, 1.0]])}
    assert statistics.closing(own, "accuracy").tolist() == [0.75, -inf]


# ------------------------------------------------------------------------------------------------------------ medians


@pytest.mark.parametrize("n", [3, 5, 7, 9, 13, 21])
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_the_interval_of_the_median_is_that_of_the_bootstrap_distribution(n: int, level: float) -> None:
    """For odd n the median of a resample is at most the k-th value where more than half of n draws are: a binomial chance."""
    values = np.random.default_rng(n).normal(size=n)
    chance = [scipy.stats.binom.sf((n - 1) // 2, n, k / n) for k in range(1, n + 1)]
    tail = (1 - level) / 2
    assert min(abs(each - tail) for each in chance) > 0.004  # else the drawn resamples may decide
    k = next(k for k, each in enumerate(chance) if each > tail)
    found = statistics.median_interval(values, level)
    ordered = np.sort(values)
    assert found == (np.median(values), ordered[k], ordered[n - 1 - k])


def test_the_interval_of_the_median_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).normal(size=25)
    there = scipy.stats.bootstrap(
        (values,), np.median, confidence_level=0.9, method="percentile", n_resamples=9999, rng=np.random.default_rng(1)
    ).confidence_interval
    found = statistics.median_interval(values, 0.9)
    assert (found.low, found.high) == (there.low, there.high)


def test_infinite_values_are_like_very_large_ones() -> None:
    some = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1e9, 2e9]
    large, infinite = (statistics.median_interval(each) for each in (some, [*some[:7], inf, inf]))
    assert infinite == large._replace(high=inf if large.high >= 1e9 else large.high)
    assert statistics.median_interval([1.0, inf, inf, inf]).value == inf


def test_no_interval_below_two_values() -> None:
    assert [isnan(each) for each in statistics.median_interval([2.0])] == [False, True, True]
    assert all(isnan(each) for each in statistics.median_interval([]))


# -------------------------------------------------------------------------------------------------------- differences


@pytest.mark.parametrize("n", [6, 9, 20, 60])
def test_the_signed_rank_test_is_scipys_exact_one(n: int) -> None:
    for shift in (0.0, 0.3, 1.0):
        d = np.random.default_rng(n).normal(shift, size=n)
        there = scipy.stats.wilcoxon(d, method="exact").pvalue
        assert statistics.signed_rank(d) == pytest.approx(there, rel=1e-12)


@pytest.mark.parametrize(
    "d", [[1.0, 1.0, -1.0, 2.0, 3.0, 3.0, -2.0], [inf, inf, 1.0, -1.0, 2.0, 5.0], [1.0, 2.0, 3.0, -4.0]]
)
def test_with_ties_it_is_the_share_of_all_signs(d: list[float]) -> None:
    ranks = scipy.stats.rankdata(np.abs(d))
    w = ranks[np.asarray(d) > 0].sum()
    sums = [sum(r for r, up in zip(ranks, signs, strict=True) if up) for signs in product([0, 1], repeat=len(d))]
    low, high = np.mean([each <= w for each in sums]), np.mean([each >= w for each in sums])
    assert statistics.signed_rank(np.asarray(d)) == pytest.approx(min(1.0, 2 * min(low, high)), rel=1e-12)


@pytest.mark.parametrize(("n", "smallest"), [(6, 0.031), (8, 0.008), (10, 0.002)])
def test_the_smallest_p_value(n: int, smallest: float) -> None:
    found = statistics.paired(np.arange(1.0, n + 1), np.zeros(n))
    assert found.p == statistics.smallest_p(n) and round(found.p, 3) == smallest


def test_below_six_unequal_pairs_there_is_no_p_value() -> None:
    assert statistics.smallest_p(5) == 0.0625
    assert statistics.paired(np.arange(5.0) + 1, np.zeros(5)).p is None
    six = statistics.paired([1.0, 2.0, 3.0, 4.0, 5.0, 7.0], [0.0, 0.0, 0.0, 0.0, 0.0, 7.0])
    assert (six.pairs, six.unequal, six.p) == (6, 5, None)


@pytest.mark.parametrize(("comparisons", "needed"), [(1, 6), (2, 7), (3, 7), (4, 8), (9, 9)])
def test_the_trials_that_comparisons_need(comparisons: int, needed: int) -> None:
    can = [n for n in range(1, 20) if comparisons * statistics.smallest_p(n) <= statistics.ALPHA]
    assert statistics.trials_needed(comparisons) == needed == can[0]


def test_the_difference_is_the_median_of_the_walsh_averages_and_its_interval_inverts_the_test() -> None:
    d = np.array([1.1, -0.4, 2.3, 0.9, 3.1, 1.7, -0.2, 0.6])
    walsh = sorted((d[i] + d[j]) / 2 for i in range(8) for j in range(i, 8))
    found = statistics.hodges_lehmann(d, 0.9)
    assert found.value == pytest.approx(np.median(walsh))
    # a shift lies inside exactly if the test of d - shift does not refuse it at 10 %
    for shift in np.linspace(-1, 4, 333):
        if min(abs(shift - each) for each in walsh) > 1e-9:
            inside = found.low < shift < found.high
            assert inside == (scipy.stats.wilcoxon(d - shift, method="exact").pvalue > 0.1)


def test_no_interval_where_so_few_pairs_cannot_have_one() -> None:
    assert isnan(statistics.hodges_lehmann(np.arange(4.0), 0.9).low)  # 2/16 > 0.1
    five = statistics.hodges_lehmann(np.arange(5.0), 0.9)  # 2/32 <= 0.1
    assert five == (2.0, 0.0, 4.0)


def test_pairs_that_have_diverged() -> None:
    assert statistics.differences([inf, inf, 1.0], [inf, 1.0, inf]).tolist() == [0.0, inf, -inf]
    one_sided = statistics.paired([inf] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert one_sided.p == 0.03125 and one_sided.difference == (inf, inf, inf)
    balanced = statistics.hodges_lehmann(np.array([inf, -inf]))
    assert balanced.value == 0.0
    same = statistics.paired([inf, 1.0], [inf, 1.0])
    assert (same.unequal, same.p, same.difference.value) == (0, None, 0.0)


def test_holm_by_hand() -> None:
    # 3 x 0.01, 2 x 0.02, 1 x 0.05; the middle one may not be below the one before
    assert statistics.holm([0.05, 0.01, 0.02]) == pytest.approx([0.05, 0.03, 0.04])
    assert statistics.holm([0.02, 0.012, None, 0.5]) == pytest.approx([0.04, 0.036, None, 0.5])
    assert statistics.holm([0.012, 0.013]) == pytest.approx([0.024, 0.024])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0] and statistics.holm([]) == []


# ------------------------------------------------------------------------------------------------------------ targets


def test_targets_are_geometric_and_end_at_the_best() -> None:
    (levels,) = statistics.targets(np.array([8.0]), np.array([0.5]), count=4)
    np.testing.assert_allclose(levels, [4.0, 2.0, 1.0, 0.5])
    (levels,) = statistics.targets(np.array([1.0]), np.array([-1.0]), linear=True, count=4)
    np.testing.assert_allclose(levels, [0.5, 0.0, -0.5, -1.0])
    assert np.isnan(statistics.targets(np.array([1.0]), np.array([1.0]), count=4)).all()


def test_times_are_those_of_a_plain_loop() -> None:
    draw = np.random.default_rng(0)
    values = {name: np.exp(draw.normal(size=(3, 40)).cumsum(1) * 0.3 - 0.05 * np.arange(40)) for name in ("gt", "dgd")}
    for each in values.values():
        each[:, 0] = 1.0
    found = statistics.times(group(*(run(name, each) for name, each in values.items())), "bits")
    assert found["gt"].shape == (3, statistics.TARGETS)
    averages = {name: (each * np.arange(1, 41)) / np.arange(1, 41) for name, each in values.items()}  # as a run has it
    for r in range(3):
        best = min(each[r].min() for each in averages.values())
        for k in range(1, statistics.TARGETS + 1):
            target = best ** (k / statistics.TARGETS) if k < statistics.TARGETS else best
            for name, each in averages.items():
                hit = next((64.0 * (t + 1) for t in range(40) if each[r, t] <= target), inf)
                assert found[name][r, k - 1] == hit
    assert min(each[:, -1].min() for each in found.values()) < inf  # the best is reached by whoever has it


def test_misses_keep_the_curve_below_one() -> None:
    found = statistics.ecdf([group(run("gt", [8.0, 4.0, 1.0]), run("dgd", [8.0, 4.0, 4.0]))])
    assert np.isfinite(found["gt"]).all() and found["gt"].size == statistics.TARGETS
    reached = np.isfinite(found["dgd"]).mean()  # the levels 8^(1 - k/50) down to 4 = 8^(2/3)
    assert reached == 16 / 50 and set(found["dgd"][:16]) == {2.0}


def test_a_diverged_trial_misses_all_and_sets_no_target() -> None:
    fine, wild = [8.0, 4.0, 2.0], [8.0, 0.1, inf]
    found = statistics.times(group(run("gt", fine), run("dgd", wild)))
    assert (found["dgd"] == inf).all() and np.isfinite(found["gt"]).all()


def test_only_methods_that_ran_everywhere_have_a_curve() -> None:
    here = group(run("gt", [8.0, 4.0]), run("dgd", [8.0, 2.0]))
    there = group(run("gt", [4.0, 1.0], scenario="quadratic"))
    assert list(statistics.ecdf([here, there])) == ["gt"]
    assert len(statistics.ecdf([here, there])["gt"]) == 2 * statistics.TARGETS


def test_larger_is_better_is_turned_round() -> None:
    own = group(run("gt", [4.0, 3.0]), run("dgd", [4.0, 3.0]))
    for name, rise in (("gt", 1.0), ("dgd", 0.5)):
        own.runs[name].metrics = {**own.runs[name].metrics, "accuracy": np.array([[0.0, 2 * rise]])}
    found = statistics.times(own, series="accuracy")  # means so far 0, 1 and 0, 0.5
    assert np.isfinite(found["gt"]).all() and np.isfinite(found["dgd"]).mean() == 0.5


def test_profiles_by_hand() -> None:
    figures = {
        "a": np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        "b": np.array([2.0, 2.0, 1.0, inf, 25.0]),
        "c": np.array([inf, 8.0, 12.0, inf, inf]),
    }
    found = statistics.profiles(figures)
    assert found["a"].ratios.tolist() == [1.0, 1.0, 1.0, 1.0, 3.0] and found["a"].shares.tolist()[-1] == 1.0
    assert found["a"].score == pytest.approx((4 * 3 + 1) / 15)
    assert found["b"].ratios.tolist() == [1.0, 1.0, 2.0, 5.0]
    assert found["b"].score == pytest.approx((3 + 3 + 2) / 15) and found["b"].shares.tolist()[-1] == 0.8
    assert found["c"].score == 0.0 and found["c"].ratios.tolist() == [4.0, 12.0]
    with pytest.raises(ValueError, match="above zero"):
        statistics.profiles({"a": np.array([0.0])})


def test_a_problem_on_which_all_diverge_is_within_no_factor() -> None:
    found = statistics.profiles({"a": np.array([inf, 1.0]), "b": np.array([inf, 2.0])})
    assert found["a"].score == 0.5 and found["a"].shares.tolist() == [0.5]
