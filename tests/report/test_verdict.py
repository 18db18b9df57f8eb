"""Verdicts on methods: words, pairing, baselines, what is refused, and what is written."""

from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import distopt
from distopt.errors import InputError
from distopt.report import statistics
from distopt.report.study import Group, groups
from distopt.report.verdict import Verdict, compared
from distopt.runs.results import Run


def run(label: str, ends: list[float], seed: int = 0, scenario: str = "sea", **more: Any) -> Run:
    """A run whose average dynamic regret begins at 8 and ends at ``ends`` [R]."""
    average = np.array([[8.0, end] for end in ends])
    experiment = {"scenario": scenario, "algorithm": label, "topology": "ring", "seed": seed}
    metrics = {"dynamic_regret": average * np.arange(1, 3), "bits": np.full(average.shape, 64.0), **more}
    return Run(label, "done", np.arange(2), metrics, info={"experiment": experiment, "agents": 4, "rounds": 2})


def verdict(*runs: Run, **asked: Any) -> Verdict:
    return compared(groups(runs), **asked)


def words(found: Verdict) -> dict[str, str]:
    return {row.method: row.verdict for row in found.rows}


EIGHT = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]


def test_the_verdicts() -> None:
    mixed = [end + (0.03 if k % 2 else -0.01) for k, end in enumerate(EIGHT)]
    worse = [end + 0.1 * (k + 1) for k, end in enumerate(EIGHT)]
    found = verdict(run("best", EIGHT), run("like", mixed), run("worse", worse), run("same", EIGHT))
    assert words(found) == {
        "best": "best",
        "like": "not distinguishable from the best",
        "worse": "worse than the best",
        "same": "equal to the best in every trial",
    }
    assert [row.method for row in found.rows if row.marked] == ["best", "like", "same"]
    by_name = {row.method: row for row in found.rows}
    assert by_name["worse"].p == 2.0**-7 and by_name["worse"].corrected == 2 * 2.0**-7  # two tests: "same" is none
    assert by_name["best"].difference is None and by_name["best"].median == statistics.median_interval(EIGHT)
    assert by_name["worse"].difference == statistics.paired(worse, EIGHT).difference


@pytest.mark.parametrize(
    ("trials", "others", "said"),
    [
        (1, 1, "cannot be significant: 1 trial"),
        (3, 1, "cannot be significant: 3 trials"),
        (6, 2, "cannot be significant: 6 trials, and 2 comparisons need 7"),
        (6, 1, "worse than the best"),
    ],
)
def test_too_few_trials(trials: int, others: int, said: str) -> None:
    ends = [1.0 + k for k in range(trials)]
    found = verdict(run("best", ends), *(run(f"other{k}", [2 * end for end in ends]) for k in range(others)))
    assert words(found)["other0"] == said
    assert [row.method for row in found.rows if row.marked] == ["best"]


def test_methods_that_differ_in_few_trials() -> None:
    almost = [*EIGHT[:6], 1.7, 1.8]
    assert words(verdict(run("best", EIGHT), run("almost", almost)))["almost"] == (
        "cannot be significant: differs in 2 of 8 trials"
    )


def test_a_significant_difference_has_the_side_of_the_test() -> None:
    ends = [100.0 + k for k in range(30)]
    slightly_below = [-0.001 * (k + 1) for k in range(16)]
    far_above = [10.0 + k for k in range(14)]
    other = [end + d for end, d in zip(ends, [*slightly_below, *far_above], strict=True)]
    found = verdict(run("gt", ends), run("dgd", other), baseline="gt")  # dgd is smaller in most trials
    assert found.rows[1].corrected is not None and found.rows[1].corrected < 0.05
    assert words(found)["dgd"] == "worse than the baseline"


def test_what_can_be_significant_depends_on_the_other_p_values() -> None:
    ends = [1.0 + k for k in range(10)]
    clear = [2 * end for end in ends]
    some = [*ends[:4], *(end + d for end, d in zip(ends[4:], [0.1, 0.2, 0.3, 0.4, 0.5, -0.25], strict=True))]
    found = verdict(run("best", ends), run("clear", clear), run("some", some))
    assert words(found)["some"] == "not distinguishable from the best"  # of all one sign, Holm would have let it pass
    alike = verdict(
        run("best", ends), run("like", [end + 0.1 * (-1) ** k for k, end in enumerate(ends)]), run("some", some)
    )
    assert words(alike)["some"] == "cannot be significant: differs in 6 of 10 trials, and 2 comparisons need 7"


def test_a_figure_that_is_no_number_is_no_divergence() -> None:
    shares = np.array([[1.0, nan]] * 8)
    found = verdict(run("gt", EIGHT, own=np.ones((8, 2))), run("dgd", EIGHT, own=shares), metric="own")
    assert [row.diverged for row in found.rows] == [0, 0] and found.rows[1].median.value == inf
    assert "own of dgd is not a number at the end of 8 of 8 trials" in found.text()


def test_hostile_names_do_not_reach_the_terminal() -> None:
    found = verdict(run("gt\x1b[2J", EIGHT), run("dgd", EIGHT, own=np.ones((8, 2))), metric="own")
    assert "left out: gt" in found.text() and "\x1b" not in found.text()


def test_diverged_trials_are_counted_and_worst() -> None:
    found = verdict(run("gt", [*EIGHT[:5], inf, inf, nan]), run("dgd", [2 * end for end in EIGHT]))
    gt, dgd = found.rows
    assert (gt.diverged, gt.median.value, gt.median.high) == (3, 1.35, inf) and dgd.diverged == 0
    assert gt.finding == "best" and "3 of 8" in found.text()
    every = verdict(run("gt", [inf] * 8), run("dgd", EIGHT))
    assert words(every) == {"gt": "worse than the best", "dgd": "best"}
    assert every.rows[0].difference == (inf, inf, inf)


def test_only_common_trials_are_compared() -> None:
    found = verdict(run("gt", EIGHT), run("gt", [9.0] * 8, seed=1), run("dgd", EIGHT, seed=1))
    assert {row.method: row.trials for row in found.rows} == {"gt": 8, "dgd": 8}
    assert found.rows[0].median.value == 9.0  # seed 1 alone
    assert "of the 16 trials of gt only the 8 that all methods have count" in found.text()


def test_without_a_common_trial_nothing_is_compared() -> None:
    found = verdict(run("gt", EIGHT), run("dgd", EIGHT, seed=1))
    assert words(found) == {"gt": "best", "dgd": "no trial in common"} and "run them on the same seeds" in found.text()
    assert [row.p for row in found.rows] == [None, None]


def test_a_baseline_by_its_name_or_how_it_begins() -> None:
    lower = [end / 2 for end in EIGHT]
    found = verdict(run("gt:lr=0.1", EIGHT), run("dgd", lower), baseline="gt")
    assert words(found) == {"gt:lr=0.1": "baseline", "dgd": "better than the baseline"}
    assert "minus gt:lr=0.1" in found.text() and not any(row.marked for row in found.rows)
    with pytest.raises(InputError, match=r"no method is called 'xx'; methods: gt:lr=0\.1, dgd"):
        verdict(run("gt:lr=0.1", EIGHT), run("dgd", lower), baseline="xx")
    with pytest.raises(InputError, match=r"could be gt:lr=0\.1 or gt:lr=0\.2"):
        verdict(run("gt:lr=0.1", EIGHT), run("gt:lr=0.2", lower), baseline="gt")


def test_of_accuracies_the_largest_is_best() -> None:
    def own(label: str, share: float) -> Run:
        return run(label, EIGHT, accuracy=np.array([[share + k / 100] * 2 for k in range(8)]))

    found = verdict(own("low", 0.5), own("high", 0.6), metric="accuracy")
    assert words(found) == {"low": "worse than the best", "high": "best"}
    assert found.rows[0].difference is not None and found.rows[0].difference.value == pytest.approx(-0.1)


def test_a_metric_that_some_lack() -> None:
    own = run("dgd", EIGHT, own=np.array([[1.0, 1.0]] * 8))
    found = verdict(run("gt", EIGHT), own, metric="own")
    assert [row.method for row in found.rows] == ["dgd"] and "left out: gt" in found.text()
    with pytest.raises(InputError, match="no run has the metric 'nothing'; metrics: .*bits, dynamic_regret"):
        verdict(run("gt", EIGHT), own, metric="nothing")


@pytest.mark.parametrize("metric", [3, ["bits"]])
def test_a_metric_that_is_no_name(metric: Any) -> None:
    with pytest.raises(InputError, match="metric=.*must be the name of a metric"):
        verdict(run("gt", EIGHT), metric=metric)


@pytest.mark.parametrize("level", [0, 1, 2.0, True, "0.9"])
def test_a_level_that_is_none(level: Any) -> None:
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        verdict(run("gt", EIGHT), level=level)


def test_the_table_in_other_forms() -> None:
    found = verdict(run("gt", EIGHT), run("dgd", [2 * end for end in EIGHT]))
    frame = found.to_pandas()
    assert isinstance(frame, pd.DataFrame) and list(frame["method"]) == ["gt", "dgd"]
    assert frame.loc[1, "p_holm"] == 2.0**-7 and np.isnan(frame.loc[0, "difference"])
    assert found.plot().axes[0].get_xlabel() == "difference to the best"


def problems(count: int) -> list[Group]:
    runs = []
    for k in range(count):
        runs += [run("gt", EIGHT, scenario=f"s{k}"), run("my_rule.py:lr=50%", [3.0] * 7 + [inf], scenario=f"s{k}")]
    return groups(runs)


@pytest.mark.parametrize("count", [4, 5])
def test_what_is_written(count: int, tmp_path: Path) -> None:
    files = compared(problems(count)).write(tmp_path / "out")
    names = ["comparison.csv", "comparison.md", "comparison.tex", "differences.png", "ecdf.png"]
    assert [path.name for path in files] == [*names, *(["profile.png"] if count == 5 else [])]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files)
    table = pd.read_csv(files[0])
    assert list(table["problem"].unique()) == [f"s{k}, 4 agents, ring" for k in range(count)]
    assert table.loc[1, "median_high"] == 3.0 and table.loc[1, "diverged"] == 1


def test_from_python_runs_folders_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"agents": 4, "scenario": "moving_target", "rounds": 12, "trials": 6}
    runs = distopt.simulate("ring", algorithm=["gt", "dgd"], out="two", **settings)
    (tmp_path / "e.toml").write_text(
        'topology = "ring"\nagents = 4\nscenario = "moving_target"\nrounds = 12\ntrials = 6\nalgorithm = ["gt", "dgd"]\n'
    )
    from_memory, from_folder, from_file = (distopt.compare(each) for each in (runs, "two", "e.toml"))
    pd.testing.assert_frame_equal(from_memory.to_pandas(), from_folder.to_pandas())
    pd.testing.assert_frame_equal(from_memory.to_pandas(), from_file.to_pandas())
    assert list(from_memory.to_pandas()["trials"]) == [6, 6]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*/*")}
    distopt.compare("e.toml")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*/*")} == before  # not run again
    assert len(distopt.compare("two/gt", tmp_path / "two").rows) == 2
    with pytest.raises(InputError, match="3: neither a run, nor a folder"):
        distopt.compare(3)
