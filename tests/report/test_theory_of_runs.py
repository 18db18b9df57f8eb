"""Rates against eigenvalues, floors against closed forms, and the bound on the regret against regrets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.report.theory import bound_for, contraction, floor, gradient_descent_bound, linear_rate, speed
from distopt.simulation.problem import build


def curves(scenario: str, agents: int) -> np.ndarray:
    problem = build(Experiment("ring", agents, scenario, "gt", rounds=1))
    return problem.scenario.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), problem.key).a[0, 0].numpy()


@pytest.mark.parametrize("lr", [0.02, 0.08, 0.18])
def test_the_rate_of_gradient_descent_is_its_largest_factor(lr: float) -> None:
    run = distopt.simulate(
        "ring", agents=1, scenario="quadratic:dim=4", algorithm=f"dgd:lr={lr}", rounds=1500, mode="eager"
    )
    a = curves("quadratic:dim=4", 1)
    assert linear_rate(run["tracking_error"][0]) == pytest.approx(np.abs(1 - lr * a).max(), rel=1e-3)


@pytest.mark.parametrize("lr", [0.01, 0.03])
@pytest.mark.parametrize("every", [1, 3])
def test_the_rate_of_gradient_tracking_is_an_eigenvalue(lr: float, every: int) -> None:
    N = 5
    run = distopt.simulate(
        "ring", agents=N, scenario="quadratic:dim=2", algorithm=f"gt:lr={lr}", rounds=2500, every=every, mode="eager"
    )
    W = (
        build(Experiment("ring", N, "quadratic:dim=2", "gt"))
        .network.mixings[0]
        .dense(torch.zeros(1, 1, 1, 1, dtype=torch.int64))[0, 0]
        .numpy()
    )
    found = []
    for k in range(2):
        A, Z = np.diag(curves("quadratic:dim=2", N)[:, k]), np.zeros((N, N))
        s = np.hstack([A, W, -np.eye(N)])  # s_t of (x_t, s_{t-1}, g_{t-1})
        M = np.vstack([np.hstack([W, Z, Z]) - lr * s, s, np.hstack([A, Z, Z])])
        sizes = np.abs(np.linalg.eigvals(M))
        found.append(sizes[sizes < 1 - 1e-9].max())  # 1 is what never changes: the mean of s - g
    assert linear_rate(run["tracking_error"][0], run.rounds) == pytest.approx(max(found), rel=1e-3)


def test_noise_and_wild_values_hardly_move_the_rate() -> None:
    draw, t = np.random.default_rng(0), np.arange(400)
    e = 3 * 0.95**t * np.exp(0.1 * draw.normal(size=400)) + 1e-8
    e[draw.choice(400, 20)] *= 5
    assert linear_rate(e) == pytest.approx(0.95, abs=0.002)
    both = 0.5**t + 0.01 * 0.97**t  # a fast mode and a slow one
    assert linear_rate(both) == pytest.approx(0.97, rel=1e-3)
    assert linear_rate(0.9**t * (1.5 + np.sin(t))) == pytest.approx(0.9, rel=5e-3)


@pytest.mark.parametrize(
    "values",
    [
        1 / (1.0 + np.arange(1000)),
        1 / (1.0 + np.arange(1000)) ** 2,
        np.exp(-np.sqrt(np.arange(3000))),
        np.ones(100),
        1.01 ** np.arange(300),
        0.9 ** np.arange(12),
        np.zeros(50),
        np.where(np.arange(200) == 90, np.nan, 0.9 ** np.arange(200)),
        1 + 0.5 ** np.arange(200),
        np.random.default_rng(0).uniform(1, 2, 300),
    ],
)
def test_what_does_not_fall_linearly_has_no_rate(values: np.ndarray) -> None:
    assert linear_rate(values) is None


def test_a_curve_needs_a_round_for_each_value() -> None:
    with pytest.raises(InputError, match="one value for each of its rounds"):
        linear_rate([1.0, 0.5], [0])
    with pytest.raises(InputError, match="one value"):
        floor(np.ones((2, 30)))


@pytest.mark.parametrize("lr", [0.1, 0.4])
def test_the_floor_of_a_steady_drift_is_the_speed_over_what_is_left(lr: float) -> None:
    """e = rho e + speed has the fixed point speed / (1 - rho), where rho = 1 - lr for a curvature of 1."""
    fast = 0.03
    scenario = f"moving_target:motion=line,kappa=1,speed={fast}"
    run = distopt.simulate("ring", agents=1, scenario=scenario, algorithm=f"dgd:lr={lr}", rounds=400, mode="eager")
    assert floor(run["tracking_error"][0]) == pytest.approx(fast / lr, rel=1e-9)
    assert speed(run) == pytest.approx(fast, rel=1e-9)


def test_what_has_not_settled_has_no_floor() -> None:
    t, draw = np.arange(400), np.random.default_rng(1)
    for values in (0.99**t, 1.01**t, np.ones(10), np.where(t == 390, np.inf, 1.0), t.astype(float)):
        assert floor(values) is None
    noisy = 0.2 * np.exp(0.5 * draw.normal(size=400)) + 5 * 0.9**t
    assert floor(noisy) == pytest.approx(0.2, rel=0.1)
    assert floor(np.zeros(100)) == 0.0


@pytest.mark.parametrize("agents", [1, 6])
@pytest.mark.parametrize(
    ("scenario", "lr", "factor"),
    [
        ("moving_target", 0.02, 20),
        ("moving_target:motion=walk,dim=4,speed=0.1,kappa=3", 0.1, 30),
        ("moving_target:motion=jump,period=20", 0.1, 10),
        ("moving_target:motion=line,kappa=1,speed=0.1", 0.3, 1.1),
        ("drifting_logistic", 0.1, 30),
        ("drifting_logistic:l2=0.5,speed=0.1", 0.5, 10),
    ],
)
def test_the_bound_holds_and_says_something(agents: int, scenario: str, lr: float, factor: float) -> None:
    """In every round it is above the regret's upper end; in the last one it is within the factor."""
    run = distopt.simulate(
        "complete", agents=agents, scenario=scenario, algorithm=f"dgd:lr={lr},form=atc", rounds=200, trials=3, x0=0.5
    )
    bound, label = bound_for(run)
    assert bound is not None and label.startswith("bound for gradient descent, ρ = 0.")
    assert (bound >= run["dynamic_regret_high"].mean(0) * (1 - 1e-12)).all()
    assert bound[-1] <= factor * run["dynamic_regret_low"][:, -1].mean()


def test_the_bound_is_the_recursion_written_out() -> None:
    draw = np.random.default_rng(3)
    start, moved = draw.uniform(1, 2, 2), draw.uniform(0, 0.1, (2, 30))
    found = gradient_descent_bound(start, moved, step=0.3, modulus=0.5, smoothness=2.0)
    assert found is not None
    for r in range(2):
        e, total = start[r], 0.0
        for t in range(30):
            e = e if t == 0 else 0.85 * e + moved[r, t]  # max(|1 - 0.15|, |1 - 0.6|)
            total += e * e  # L / 2 = 1
            assert found[r, t] == pytest.approx(total, rel=1e-12)
    assert gradient_descent_bound(1.0, [0.0], step=1.1, modulus=0.5, smoothness=2.0) is None


def test_a_gradient_step_contracts_by_no_less() -> None:
    draw = np.random.default_rng(0)
    for h in (0.01, 0.1, 0.19, 0.25):
        for _ in range(50):
            a = draw.uniform(1, 10, 6)
            a[:2] = 1, 10
            x, y = draw.normal(size=(2, 6))
            factor = np.linalg.norm((x - h * a * x) - (y - h * a * y)) / np.linalg.norm(x - y)
            assert factor <= contraction(h, 1, 10) * (1 + 1e-12)


ASK: dict[str, Any] = {
    "topology": "complete",
    "agents": 4,
    "scenario": "moving_target",
    "algorithm": "dgd:lr=0.02,form=atc",
    "rounds": 6,
    "mode": "eager",
}


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"algorithm": "gt:lr=0.02"}, "known for dgd alone"),
        ({"algorithm": "dgd:lr=0.02,form=atc,direction=momentum"}, "without another direction rule"),
        ({"algorithm": "dgd:lr=inverse_sqrt(0.02),form=atc"}, "a number that does not change"),
        ({"algorithm": "dgd:lr=0.02"}, "dgd:form=atc"),
        ({"algorithm": "dgd:lr=0.5,form=atc"}, "lr must be below"),
        ({"channel": "choco(cast)"}, "channel must be exact"),
        ({"drop_links": 0.2}, "links must not fail"),
        ({"topology": "ring"}, "all agents must average exactly"),
        ({"weights": "lazy_metropolis"}, "all agents must average exactly"),
        ({"dtype": "float32"}, "precision must be float64"),
        ({"every": 2}, "every round must be recorded"),
        ({"scenario": "localization"}, "how strongly convex"),
        ({"x0": [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]}, "start at one point"),
    ],
)
def test_where_no_bound_is_known_the_reason_is_said(other: dict[str, Any], why: str) -> None:
    run = distopt.simulate(**(ASK | other))
    bound, label = bound_for(run)
    assert bound is None and why in label


def test_other_runs_have_one_too_after_they_were_saved(tmp_path: Any) -> None:
    distopt.simulate(**ASK, out=tmp_path / "run")
    run = distopt.load(tmp_path / "run")
    assert isinstance(run, distopt.Run)
    assert bound_for(run)[0] is not None
    assert bound_for(distopt.Run("gt", "done", run.rounds, run.metrics))[0] is None
