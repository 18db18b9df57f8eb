"""Tuning against independent loops and closed forms, and what it promises: other seeds, equal gradients, the bits of single runs."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import distopt
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.runs import execution
from distopt.runs.tuned import Point, Sensitivity
from distopt.scenarios.moving_target import MovingTarget

pytestmark = pytest.mark.usefixtures("own_folder")
Floats = NDArray[np.float64]
ASK: dict[str, Any] = {"agents": 4, "scenario": "moving_target", "rounds": 60, "trials": 3, "report_trials": 2}
FEW = {**ASK, "mode": "eager", "grid": [0.01, 0.02, 0.05]}


def regrets(lr: float, seed: int, trials: int, agents: int, rounds: int, **parameters: Any) -> Floats:
    """The average dynamic regret of gradient descent with W = 1 1^T / N on a moving target, number by number."""
    batch = MovingTarget(**parameters).batch(
        torch.arange(rounds).reshape(-1, 1, 1, 1), Key(seed, range(agents), range(trials), agents)
    )
    a, o, p = (leaf.numpy() for leaf in batch)
    found = np.zeros(trials)
    with np.errstate(over="ignore", invalid="ignore"):
        for r in range(trials):
            x = np.zeros((agents, a.shape[-1]))
            for t in range(rounds):
                centres, mean = p[t, r] + o[0, r], x.mean(0)
                best = (a[0, r] * centres).sum(0) / a[0, r].sum(0)
                for i in range(agents):
                    found[r] += 0.5 * (a[0, r, i] * ((mean - centres[i]) ** 2 - (best - centres[i]) ** 2)).sum()
                x = mean - lr * a[0, r] * (x - centres)
    return found / rounds


# ---------------------------------------------------------------------------------------------------- the best step size


@pytest.mark.parametrize(("agents", "kappa"), [(1, 4.0), (3, 10.0)])
def test_the_whole_curve_is_that_of_a_loop_and_so_is_the_winner(agents: int, kappa: float) -> None:
    scenario = f"moving_target:kappa={kappa},period=80"
    tuned = distopt.tune(
        "complete",
        **{**ASK, "agents": agents, "scenario": scenario},
        algorithm="dgd",
        grid="lr=0.01..1,4",
        mode="eager",
    )
    sensitivity = tuned.algorithms["dgd"]
    medians = {}
    for point in sensitivity.curve:
        expected = regrets(point.lr, 0, 3, agents, 60, kappa=kappa, period=80)
        np.testing.assert_allclose(point.figures, expected, rtol=1e-9)
        medians[point.lr] = statistics.median(expected)
    assert len(medians) == 9 and sensitivity.winner is not None
    assert sensitivity.winner.lr == min(medians, key=medians.__getitem__)
    low, high = sensitivity.stable or (0.0, 0.0)
    inside = [lr for lr, median in medians.items() if median <= 2 * min(medians.values())]
    assert (low, high) == (min(inside), max(inside))


@pytest.mark.parametrize("kappa", [1.0, 3.0])
def test_the_best_step_size_of_gradient_descent_is_that_of_its_rate(kappa: float) -> None:
    """One agent in one dimension, curvature a = mu = L: the best rate is at 2 / (mu + L) = 1 / a, and falls off on both sides of it."""
    tuned = distopt.tune(
        "complete",
        agents=1,
        scenario=f"quadratic:dim=1,kappa={kappa},spread=3",
        algorithm="dgd",
        rounds=40,
        trials=1,
        report_trials=1,
        grid="lr=0.1..1,20",
        mode="eager",
    )
    a = 1 + (kappa - 1) * float(Key(0, range(1), range(1), 1).uniform("quadratic.curvature", 1))
    winner = tuned.algorithms["dgd"].winner
    assert winner is not None and abs(1 - winner.lr * a) == min(
        abs(1 - point.lr * a) for point in tuned.algorithms["dgd"].points
    )
    assert abs(winner.lr * a - 1) < 0.06  # a step of the grid is 12 %


def test_the_grid_is_continued_where_the_best_stands_at_its_end(own_folder: None) -> None:
    said: list[str] = []
    question = asked("complete", algorithm="dgd", scenario="quadratic:kappa=1,dim=2", steps="lr=1e-3..1e-1,3")
    found = question.run(say=said.append).algorithms["dgd"]
    # curvature 1: the regret falls up to lr = 1, which the first decade above holds; beyond 2 it diverges
    assert (found.lower, found.upper, found.winner and found.winner.lr) == (0, 2, 1.0)
    assert [point.lr for point in found.curve][-7:] == [0.1, 0.215, 0.464, 1, 2.15, 4.64, 10]
    assert said[0] == "dgd: the best lr, 0.1, is the largest of the grid; it is extended to 1" and len(said) == 2
    said.clear()
    found = (
        asked("complete", algorithm="dgd", scenario="quadratic:kappa=1,dim=2", steps="lr=1e-7..1e-6,1")
        .run(say=said.append)
        .algorithms["dgd"]
    )
    assert (found.upper, found.edge, found.winner and found.winner.lr) == (3, "upper", 1e-3)
    assert said[-1] == "dgd: the best lr, 0.001, is the largest that was tried; a better one may lie beyond"
    found = (
        asked("complete", algorithm="dgd", scenario="quadratic:kappa=1,dim=2", steps="0.001,0.01")
        .run()
        .algorithms["dgd"]
    )
    assert (found.upper, found.edge, len(found.points)) == (0, "upper", 2), "a list stays as it is"


def asked(topology: str, algorithm: str | list[str], steps: Any, **settings: Any) -> Any:
    from distopt.experiment import Experiment
    from distopt.runs import tuning
    from distopt.runs.execution import Asked

    named = algorithm if isinstance(algorithm, list) else [algorithm]
    each = [Experiment(topology, 2, algorithm=one, **{"rounds": 30, "trials": 1, **settings}) for one in named]
    return tuning.asked(each, report_trials=1, steps=steps, how=Asked("eager"))


# ------------------------------------------------------------------------------------------------------------ divergence


def test_an_algorithm_that_always_diverges_is_told_and_stops_no_other() -> None:
    Path("wild.py").write_text(
        "class Wild:\n    channels = ('x',)\n    def __init__(self, lr: float = 0.5): self.lr = lr\n"
        "    def init(self, x): return ()\n    def update(self, g, state, x, mix): return mix('x', x) * 1e20 + self.lr * g, state\n"
    )
    said: list[str] = []
    question = asked("ring", ["wild.py", "dgd"], "lr=0.01..0.1,2", scenario="moving_target", trials=2, rounds=60)
    tuned = question.run(say=said.append)
    assert list(tuned.winners) == ["dgd"]
    wild = tuned.algorithms["wild.py"]
    assert wild.winner is None and wild.diverging == 1 and wild.stable is None and wild.lower == 3
    assert [line for line in said if "no winner" in line] == [
        "wild: at least half of the trials diverge at every lr from 1e-05 to 0.1; it has no winner"
    ]
    assert tuned.runs["wild.py"].status == "diverged" and tuned.runs["dgd"].status == "done"


def test_a_trial_that_diverges_counts_as_inf_and_does_not_end_the_others() -> None:
    """Gradient descent of one agent diverges where lr > 2 / L, which each trial draws for itself."""
    steps, trials, rounds = [0.25, 0.6], 9, 3000
    settings = {"agents": 1, "scenario": "quadratic:dim=1,kappa=12", "rounds": rounds, "trials": trials, "seed": 3}
    tuned = distopt.tune("complete", algorithm="dgd", grid=steps, report_trials=1, mode="eager", **settings).algorithms[
        "dgd"
    ]
    a = 1 + 11 * Key(3, range(1), range(trials), 1).uniform("quadratic.curvature", 1).reshape(-1).numpy()
    for point in tuned.points:
        wild = np.abs(1 - point.lr * a) > 1.15  # 1.15^6000 overflows; between 1 and 1.15 it may not
        assert not (wild ^ (np.abs(1 - point.lr * a) > 1)).any(), "draw others: this one is at the border"
        assert [math.isinf(each) for each in point.figures] == wild.tolist() and 0 < point.diverged < trials
        if point.diverged * 2 > trials:
            assert math.isinf(point.median)


# -------------------------------------------------------------------------------------------------------- bits and seeds


def test_a_point_has_the_bits_of_a_run_of_its_own_and_the_report_has_other_seeds() -> None:
    tuned = distopt.tune("ring", algorithm=["gtadam", "gt:lr=inverse_sqrt(0.1)"], seed=7, **FEW)
    settings = {key: value for key, value in FEW.items() if key not in ("grid", "trials", "report_trials")}
    for sensitivity in tuned.algorithms.values():
        for point in sensitivity.points:
            alone = distopt.simulate("ring", algorithm=point.spec, seed=7, trials=3, **settings)
            assert list(point.figures) == alone["average_dynamic_regret"][:, -1].tolist()
    assert (tuned.seed, tuned.report_seed, tuned.trials, tuned.report_trials) == (7, 1007, 3, 2)
    for label, run in tuned.runs.items():
        alone = distopt.simulate("ring", algorithm=label, seed=1007, trials=2, **settings)
        assert list(run) == list(alone) and all(np.array_equal(run[key], alone[key], equal_nan=True) for key in run)
    assert [row["row"] for row in tuned.rows()] == ["tuned", "defaults", "tuned", "defaults"]
    drawn = [Key(seed, range(4), range(3), 4).normal("moving_target.offset", 2) for seed in (7, 1007)]
    assert not np.isin(drawn[0].numpy(), drawn[1].numpy()).any()


@pytest.mark.slow
def test_compiled_points_have_the_bits_of_runs_of_their_own() -> None:
    tuned = distopt.tune("ring", algorithm="gtadam", **{**FEW, "mode": "auto"})
    for point in tuned.algorithms["gtadam"].points:
        alone = distopt.simulate(
            "ring", agents=4, scenario="moving_target", algorithm=point.spec, rounds=60, trials=3, seed=0
        )
        assert list(point.figures) == alone["average_dynamic_regret"][:, -1].tolist()


def test_points_and_trials_of_an_algorithm_run_as_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, together = [], execution.execute_together

    def counting(problems: Any, comparison: Any, **settings: Any) -> Any:
        sizes.append((len(problems), len(problems[0].x0), comparison))
        return together(problems, comparison, **settings)

    monkeypatch.setattr(execution, "execute_together", counting)
    distopt.tune("ring", algorithm=["gtadam", "dgd"], **FEW)
    assert [each[:2] for each in sizes[:2]] == [(3, 3), (3, 3)] and sizes[0][2] is sizes[1][2]


def test_without_a_comparator_the_mean_cost_decides() -> None:
    Path("own.py").write_text(
        "from dataclasses import dataclass\nimport torch\nfrom distopt.scenarios.quadratic import Quadratic\n"
        "@dataclass(frozen=True)\nclass Own(Quadratic):\n    comparator = False\n"
    )
    settings = {**FEW, "scenario": "own.py:dim=2"}
    tuned = distopt.tune("ring", algorithm="dgd", **settings)
    (run,) = [
        distopt.simulate(
            "ring", agents=4, scenario="own.py:dim=2", algorithm="dgd:lr=0.05", rounds=60, trials=3, mode="eager"
        )
    ]
    assert tuned.figure == "cost"
    point = next(point for point in tuned.algorithms["dgd"].points if point.lr == 0.05)
    assert list(point.figures) == run["cost"].mean(1).tolist()
    assert tuned.rows()[0]["cost"] > 0


# --------------------------------------------------------------------------------------------------------- equal gradients


def test_no_algorithm_takes_more_gradients_than_another() -> None:
    said: list[str] = []
    question = asked(
        "ring", ["k_gt:local=[2,3]", "dgd"], [0.01, 0.02], scenario="moving_target", rounds=31, trials=2
    ).placed(Path("o"))
    tuned = question.run(say=said.append)
    assert {(point.rest, point.rounds) for each in tuned.algorithms.values() for point in each.points} == {
        ("k_gt:local=2", 15),
        ("k_gt:local=3", 10),
        ("dgd", 31),
    }
    assert said[:2] == [
        "k_gt:local=[2,3]: 2 gradients in a round instead of 1, so 15 rounds instead of 31",
        "k_gt:local=[2,3]: 3 gradients in a round instead of 1, so 10 rounds instead of 31",
    ]
    assert all(25 < run["gradients"][0, -1] <= 31 for run in tuned.runs.values())
    assert tuned.runs["k_gt"].info["rounds"] == 6  # five local steps by default
    again = distopt.resume("o/report")
    assert {label: len(run.rounds) for label, run in again.items()} == {
        label: run.info["rounds"] for label, run in tuned.runs.items()
    }
    loaded = distopt.load("o/report")
    assert isinstance(loaded, dict) and list(loaded) == list(tuned.runs)
    alone = distopt.simulate(
        "ring", agents=2, scenario="moving_target", algorithm="k_gt", rounds=6, seed=1000, mode="eager"
    )
    np.testing.assert_array_equal(loaded["k_gt"]["static_regret"], alone["static_regret"])
    with pytest.raises(
        InputError, match="algorithm k_gt:lr=0.01: takes 5 gradients in a round, more than others in 4 rounds"
    ):
        distopt.tune("ring", algorithm=["k_gt", "dgd"], **{**FEW, "rounds": 4})


def test_over_is_a_second_grid_for_those_that_have_the_constant() -> None:
    tuned = distopt.tune("ring", algorithm=["gtadam:b1=0.3", "dgd"], over={"b1": [0.5, 0.9]}, **FEW)
    assert {point.rest for point in tuned.algorithms["gtadam:b1=0.3"].points} == {"gtadam:b1=0.5", "gtadam:b1=0.9"}
    assert [len(each.points) for each in tuned.algorithms.values()] == [6, 3]
    assert len(tuned.algorithms["gtadam:b1=0.3"].curve) == 3 and "gtadam:b1=0.3" in tuned.runs


# ------------------------------------------------------------------------------------------------------------- definitions


def sensitivity(*figures: tuple[float, ...]) -> Sensitivity:
    points = tuple(Point(f"gt:lr={10.0**k:g}", 10.0**k, "gt", 9, each) for k, each in enumerate(figures))
    return Sensitivity("gt", "gt", points)


def test_ties_go_to_the_smaller_step_size_and_the_stable_range_is_one_interval() -> None:
    inf = math.inf
    found = sensitivity((1.5,), (5.0,), (1.0,), (1.0,), (1.9,), (2.1,), (inf,))
    assert found.winner is not None and found.winner.lr == 100 and found.stable == (100, 10000)
    assert found.diverging == pytest.approx(1 / 7) and found.edge == ""
    assert sensitivity((1.0, 2.0, inf), (1.0, inf, inf)).stable == (1, 1)
    assert sensitivity((-4.0,), (-2.0,), (0.0,), (0.1,)).stable == (1, 100)
    assert sensitivity((inf,), (inf,)).winner is None and sensitivity((inf,), (inf,)).edge == "lower"
    assert sensitivity((1.0, inf)).winner is None, "half of the trials diverge"
