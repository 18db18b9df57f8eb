"""The two ends of the dynamic regret against regrets that are exact: in fractions, and from a minimiser found in 40 digits."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

import distopt
from distopt.costs import comparator as comparators
from distopt.costs.comparator import Comparator
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.simulation.problem import build

ENDS = ("dynamic_regret_low", "dynamic_regret_high")
CASES = range(100)


def exact(problem: Any, x: np.ndarray) -> list[Fraction]:
    """The dynamic regret of ``moving_target`` up to each round, from the points x [T, N, d], without any rounding."""
    data = problem.scenario.batch(torch.arange(len(x)).reshape(-1, 1, 1, 1), problem.key)
    a, o, p = (leaf.expand(len(x), 1, -1, -1)[:, 0].tolist() for leaf in data)
    total, found, agents, dim = Fraction(0), [], problem.agents, problem.scenario.dim
    for t, points in enumerate(x.tolist()):
        for k in range(dim):
            weights = [Fraction(a[t][i][k]) for i in range(agents)]
            targets = [Fraction(p[t][0][k]) + Fraction(o[t][i][k]) for i in range(agents)]
            mean = sum(Fraction(points[i][k]) for i in range(agents)) / agents
            best = sum(w * c for w, c in zip(weights, targets, strict=True)) / sum(weights)
            total += sum(weights) * (mean - best) ** 2 / 2
        found.append(total)
    return found


def setting(case: int) -> dict[str, Any]:
    draw = np.random.default_rng(case)
    motion = ("circle", "line", "walk", "jump")[case % 4]
    scenario = f"moving_target:motion={motion},dim={draw.integers(1, 6)},kappa={draw.choice([1, 3, 100])}"
    scenario += (
        f",spread={draw.choice([0.0, 0.5, 20.0])},period={draw.integers(2, 50)},speed={draw.choice([0.01, 1.0])}"
    )
    return {
        "topology": draw.choice(["ring", "complete", "path"]).item(),
        "agents": int(draw.integers(1, 18)),
        "scenario": scenario,
        "algorithm": draw.choice(["gt:lr=0.005", "dgd:lr=0.005", "gtadam:lr=0.01"]).item(),
        "rounds": int(draw.integers(1, 9)),
        "dtype": draw.choice(["float64", "float32"]).item(),
        "x0": float(draw.choice([0.0, 1.0, -30.0])),
        "seed": case,
    }


@pytest.mark.parametrize("case", CASES)
def test_the_exact_regret_lies_between_the_ends(case: int) -> None:
    ask = setting(case)
    run = distopt.simulate(**ask, record="x", mode="eager")
    found = exact(build(Experiment(**{**ask, "record": ("x",)})), run["x"][0, : ask["rounds"]])
    low, high = (run[name][0] for name in ENDS)
    for t, true in enumerate(found):
        assert Fraction(low[t]) <= true <= Fraction(high[t])
    assert high[-1] - low[-1] <= 1e-8 * float(found[-1])
    assert np.array_equal(run["average_dynamic_regret_low"], run["dynamic_regret_low"] / (run.rounds + 1))
    np.testing.assert_allclose(run["dynamic_regret"] + run["regret_gap"], run["dynamic_regret_high"], rtol=1e-13)


def test_far_from_the_origin_the_interval_is_wider_and_still_right() -> None:
    ask: dict[str, Any] = {"topology": "ring", "agents": 5, "algorithm": "gt:lr=0.02", "rounds": 30, "x0": 1e5}
    ask["scenario"] = "moving_target:motion=line,speed=3000,kappa=4,spread=0.1"
    run = distopt.simulate(**ask, record="x", mode="eager")
    found = exact(build(Experiment(**{**ask, "record": ("x",)})), run["x"][0, :30])
    low, high = (run[name][0] for name in ENDS)
    assert all(Fraction(a) <= true <= Fraction(b) for a, true, b in zip(low, found, high, strict=True))


class Ridge:
    """Logistic regression with ridge, by a few rows of each agent, that turn with the rounds. Newton's method finds its minimisers."""

    dim = 3
    l2 = 0.05

    def batch(self, t: Tensor, key: Any) -> Any:
        X = key.normal("test.rows", 15).unflatten(-1, (5, 3))
        turn = 0.3 * t.to(torch.float64).unsqueeze(-1)
        turned = X[..., :1] * turn.cos() + X[..., 1:2] * turn.sin()
        return torch.cat([turned, X[..., 1:].expand(*turned.shape[:-1], 2)], -1), torch.sign(
            key.normal("test.labels", 5)
        )

    def loss(self, x: Tensor, b: Any) -> Tensor:
        X, y = b
        z = y * (X * x.unsqueeze(-2)).sum(-1)
        return ((-z).clamp(min=0) + torch.log1p(torch.exp(-z.abs()))).sum(-1) + 0.5 * self.l2 * (x * x).sum(-1)

    def grad(self, x: Tensor, b: Any) -> Tensor:
        X, y = b
        pull = y * (0.5 * torch.tanh(0.5 * y * (X * x.unsqueeze(-2)).sum(-1)) - 0.5)
        return (pull.unsqueeze(-1) * X).sum(-2) + self.l2 * x

    def modulus(self, b: Any) -> Tensor:
        return torch.full((1, 1), self.l2 * b[0].shape[2], dtype=torch.float64)

    def smoothness(self, b: Any) -> Tensor:
        return b[0].square().sum((-3, -2, -1)) / 4 + self.l2 * b[0].shape[2]


def true_regret(x: np.ndarray, agents: int) -> list[Any]:
    """The dynamic regret of ``Ridge`` up to each round, with minimisers in 40 digits."""
    problem = build(Experiment("ring", agents, Ridge(), "gt", rounds=len(x)))
    X, y = problem.scenario.batch(torch.arange(len(x)).reshape(-1, 1, 1, 1), problem.key)
    total, found, d = mpmath.mpf(0), [], Ridge.dim
    for t in range(len(x)):
        rows = [[mpmath.mpf(v) for v in row] for row in X[t, 0].reshape(-1, d).tolist()]
        signs = [mpmath.mpf(v) for v in y[0, 0].reshape(-1).tolist()]
        ridge = mpmath.mpf(Ridge.l2) * agents

        def cost(point: Any, rows: Any = rows, signs: Any = signs, ridge: Any = ridge) -> Any:
            margins = [
                s * mpmath.fsum(a * v for a, v in zip(row, point, strict=True))
                for row, s in zip(rows, signs, strict=True)
            ]
            return (
                mpmath.fsum(mpmath.log1p(mpmath.exp(-z)) for z in margins)
                + ridge * mpmath.fsum(v * v for v in point) / 2
            )

        best = mpmath.matrix([0] * d)
        for _ in range(60):
            g, H = ridge * best, ridge * mpmath.eye(d)
            for row, s in zip(rows, signs, strict=True):
                a = mpmath.matrix(row)
                share = 1 / (1 + mpmath.exp(s * (a.T * best)[0]))
                g, H = g - s * share * a, H + share * (1 - share) * a * a.T
            best -= mpmath.lu_solve(H, g)
            if mpmath.norm(g) < mpmath.mpf(10) ** -35:
                break
        mean = [mpmath.fsum(mpmath.mpf(v) for v in column) / agents for column in x[t].T.tolist()]
        total += cost(mean) - cost(list(best))
        found.append(total)
    return found


@pytest.mark.parametrize("off", [0.0, 1e-9, 1e-4, 1e-2])
def test_a_comparator_that_stopped_early_is_told_by_the_interval(off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    agents, rounds = 4, 6
    newton = comparators.newton

    def early(problem: Any, start: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
        x, residual = newton(problem, start, *more)
        return x + off * torch.cos(torch.arange(x.numel(), dtype=torch.float64)).reshape(x.shape), residual

    monkeypatch.setattr(comparators, "newton", early)
    run = distopt.simulate(
        "ring", agents=agents, scenario=Ridge(), algorithm="gt:lr=0.02", rounds=rounds, x0=1.0, record="x", mode="eager"
    )
    with mpmath.workdps(40):
        true = true_regret(run["x"][0, :rounds], agents)
        low, high, measured = (run[name][0] for name in (*ENDS, "dynamic_regret"))
        assert all(mpmath.mpf(a) <= each <= mpmath.mpf(b) for a, each, b in zip(low, true, high, strict=True))
        if off == 0:
            assert high[-1] - low[-1] <= 1e-9 * float(true[-1])
        if off >= 1e-4:
            assert all(mpmath.mpf(m) < each for m, each in zip(measured, true, strict=True)), (
                "the point is worse than the minimiser"
            )
            assert high[-1] - low[-1] > float(true[-1]) - measured[-1]


def test_scenarios_with_rows_know_how_they_curve() -> None:
    """Against Hessians at many points: no eigenvalue is outside, and none of the constants is far from the eigenvalues at zero."""
    for spec, loose in (
        ("flights", 1.001),
        ("digits:images=1,window=2", 4.0),
        ("sea", 1.001),
        ("rbf_drift:classes=3", 4.0),
        ("hyperplane", 1.001),
    ):
        problem = build(Experiment("ring", 4, spec, "gt", rounds=3))
        blocks = distopt.runs.execution.Comparison.of(problem).blocks
        batch, it = blocks.get(0), Comparator(blocks)
        it.reference(0)
        constants, tops, lows = it.constants(), [], []
        for size in (0.0, 1.0):
            x = size * torch.randn(
                3, 4, problem.scenario.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64
            )
            x = x[:, :1].expand(3, 4, -1)
            H = torch.cat(
                [
                    problem.scenario.hessian(
                        x[t : t + 1], type(batch)(*(leaf[min(t, len(leaf) - 1)] for leaf in batch))
                    )
                    for t in range(3)
                ]
            )
            values = torch.linalg.eigvalsh(H)
            tops.append(float(values.max()))
            lows.append(float(values.min()))
        assert constants["modulus"] <= min(lows) * (1 + 1e-9) and max(tops) <= constants["smoothness"] * (1 + 1e-9)
        assert constants["smoothness"] <= loose * max(tops), spec


def test_who_does_not_say_how_it_curves_has_no_interval() -> None:
    for spec in ("localization", "drifting_logistic:l2=0"):
        run = distopt.simulate("ring", agents=4, scenario=spec, algorithm="gt", rounds=3, x0=0.1, mode="eager")
        assert not {"regret_gap", *ENDS} & {*run}
        with pytest.raises(KeyError, match="does not say how strongly convex"):
            run["average_dynamic_regret_high"]
        assert "constants" not in run.info or "modulus" not in run.info["constants"]


class Wrong(Ridge):
    def __init__(self, value: Any) -> None:
        self.value = value

    def modulus(self, b: Any) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(4, 3), r"modulus has shape \[4, 3\], not \[4 or 1, 1 or 1\]"),
        (torch.full((1, 1), -1.0), "modulus must be finite and not negative"),
        ("much", "modulus gives a str"),
        (torch.full((1, 1), torch.nan), "modulus must be finite and not negative"),
    ],
)
def test_a_modulus_that_is_none_is_refused(value: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"scenario Wrong: {words}"):
        distopt.simulate("ring", agents=4, scenario=Wrong(value), algorithm="gt", rounds=4, mode="eager")


def test_a_modulus_that_is_a_number_is_refused() -> None:
    class Numbered(Ridge):
        modulus: Any = 0.2

    with pytest.raises(InputError, match=r"scenario Numbered: modulus must be a method, modulus\(b\)"):
        distopt.simulate("ring", agents=4, scenario=Numbered(), algorithm="gt", rounds=4, mode="eager")


def test_where_the_modulus_is_zero_in_some_round_nothing_bounds_the_regret_from_there_on() -> None:
    value = torch.full((4, 1), 0.2, dtype=torch.float64)
    value[2] = 0
    run = distopt.simulate("ring", agents=4, scenario=Wrong(value), algorithm="gt", rounds=4, mode="eager")
    assert run.status == "done" and np.isfinite(run["dynamic_regret_low"]).all()
    assert np.isfinite(run["dynamic_regret_high"][0]).tolist() == [True, True, False, False]
