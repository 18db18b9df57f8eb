"""A teacher and students: the matrix, the labels and how rows are dealt, minimisers, and agents who find them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import distopt
from distopt.checks import check_scenario
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.reproduce import glm
from distopt.scenarios.teacher_student import Taught, TeacherStudent, orthogonal

T = torch.zeros(1, 1, 1, 1, dtype=torch.int64)


def batch(scenario: TeacherStudent, agents: int, trials: int = 1) -> Taught:
    return Taught(*(leaf[0] for leaf in scenario.batch(T, Key(0, range(agents), range(trials), agents))))


def pooled(b: Taught, trial: int = 0) -> tuple[Tensor, Tensor]:
    """All rows and labels of a trial."""
    there = b.w[0] > 0
    return b.X[trial][there], b.y[trial][there]


@pytest.mark.parametrize("alpha", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("agents", [1, 4, 7])
def test_the_matrix_has_the_spectrum_and_each_row_one_agent(alpha: float, agents: int) -> None:
    s = TeacherStudent(dim=10, alpha=alpha)
    b = batch(s, agents, trials=2)
    sizes = (b.w[0] > 0).sum(-1)
    assert int(sizes.sum()) == s.rows == round(10 * alpha) and int(sizes.max() - sizes.min()) <= 1
    assert b.w.unique().tolist() in ([agents], [0, agents])
    for trial in range(2):
        F, _ = pooled(b, trial)
        values = torch.linalg.eigvalsh(F.mT @ F)
        zeros = torch.zeros(10 - len(s.eigenvalues), dtype=torch.float64)
        torch.testing.assert_close(values, torch.cat([zeros, s.eigenvalues]), rtol=1e-9, atol=1e-12)
    assert not torch.equal(b.X[0], b.X[1])
    torch.testing.assert_close(pooled(b)[0], s.matrix(Key(0, range(1), range(1), 1))[0], rtol=0, atol=0)


def test_orthogonal_columns_have_no_preferred_sign() -> None:
    """The signs of LAPACK's factorisation would give first entries of one sign; uniform columns are 0 on average."""
    draws = torch.randn(2000, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.stack([orthogonal(each) for each in draws])
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found.mT @ found, eye.expand(2000, 3, 3), rtol=0, atol=1e-12)
    assert float(found.mean(0).abs().max()) < 4 * 0.5 / 2000**0.5
    assert float((found.square().mean(0) - 0.25).abs().max()) < 0.03
    plain = torch.stack([torch.linalg.qr(each).Q for each in draws])
    assert float(plain.mean(0).abs().max()) > 0.2


@pytest.mark.parametrize("rho", [1.0, 0.3, 1e-3])
def test_the_teacher_has_an_exact_length_and_number_of_coordinates(rho: float) -> None:
    s = TeacherStudent(dim=50, rho=rho)
    x0 = s.teacher(Key(0, range(3), range(4), 3))
    assert x0.shape == (1, 4, 1, 50)
    torch.testing.assert_close(x0.square().sum(-1), torch.full((1, 4, 1), 50 * rho, dtype=torch.float64))
    assert (x0 != 0).sum(-1).unique().tolist() == [max(1, round(50 * rho))]
    places = (x0 != 0).squeeze()
    assert rho == 1.0 or not torch.equal(places[0], places[1])  # other places in other trials


@pytest.mark.parametrize("model", ["linear", "logistic"])
def test_labels_are_the_teachers(model: Any) -> None:
    quiet = TeacherStudent(dim=30, alpha=4.0, model=model, noise=0.0)
    loud = TeacherStudent(dim=30, alpha=4.0, model=model, noise=0.5)
    x0 = quiet.teacher(Key(0, range(1), range(1), 1))[0, 0, 0]
    F, y = pooled(batch(quiet, 5))
    _, noisy = pooled(batch(loud, 5))
    if model == "linear":
        torch.testing.assert_close(y, F @ x0)
        assert float((noisy - y).std()) == pytest.approx(0.5, rel=0.2)
    else:
        assert torch.equal(y, torch.sign(F @ x0)) and 0.05 < float((noisy != y).double().mean()) < 0.5


@pytest.mark.parametrize("model", ["linear", "logistic"])
@pytest.mark.parametrize(("alpha", "l2"), [(0.5, 0.1), (2.0, 0.1), (1.5, 0.0), (0.5, 0.0)])
def test_the_check_knows_it(model: Any, alpha: float, l2: float) -> None:
    if model == "logistic" and l2 == 0:
        l2 = 0.01  # separable rows have no minimiser
    check_scenario(TeacherStudent(dim=6, alpha=alpha, model=model, l2=l2))


def test_costs_of_all_agents_are_those_of_all_rows() -> None:
    x = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for model in ("linear", "logistic"):
        one, five = (batch(TeacherStudent(dim=8, model=model), agents) for agents in (1, 5))
        s = TeacherStudent(dim=8, model=model)
        torch.testing.assert_close(s.loss(x.expand(1, 5, 8), five).mean(-1), s.loss(x, one)[..., 0])
        torch.testing.assert_close(s.grad(x.expand(1, 5, 8), five).mean(-2), s.grad(x, one)[..., 0, :])
        F, y = pooled(one)
        z = F @ x[0, 0]
        rows = (z - y).square() / 2 if model == "linear" else torch.log1p(torch.exp(-y * z))
        expected = rows.sum() + 0.05 * x.square().sum()
        assert float(s.loss(x, one)) == pytest.approx(float(expected), rel=1e-12)


def test_minimisers() -> None:
    ridge = TeacherStudent(dim=12, alpha=0.5)
    whole = ridge.batch(T, Key(0, range(3), range(2), 3))
    found = ridge.optimum(whole)
    assert found is not None and found.shape == (1, 2, 12)
    for trial in range(2):
        F, y = pooled(batch(ridge, 3, 2), trial)
        expected = torch.linalg.solve(F.mT @ F + 0.1 * torch.eye(12, dtype=torch.float64), F.mT @ y)
        torch.testing.assert_close(found[0, trial], expected)
    least = TeacherStudent(dim=12, alpha=0.5, l2=0.0, noise=0.0)  # many solutions: the shortest
    short = least.optimum(least.batch(T, Key(0, range(3), range(1), 3)))
    assert short is not None
    F, y = pooled(batch(least, 3))
    torch.testing.assert_close(short[0, 0], torch.linalg.pinv(F) @ y)
    assert TeacherStudent(model="logistic").optimum(whole) is None


@pytest.mark.parametrize(("model", "lr"), [("linear", 0.1), ("logistic", 0.4)])
def test_agents_find_what_the_rows_of_all_say(model: str, lr: float) -> None:
    run = distopt.simulate(
        "ring",
        agents=4,
        scenario=f"teacher_student:model={model},dim=8,alpha=1.5,low=0.8,high=1.2,l2=0.3",
        algorithm=f"gt:lr={lr},form=atc",
        rounds=400,
        trials=2,
    )
    assert float(np.asarray(run["tracking_error"])[:, -1].max()) < 1e-6
    assert float(np.asarray(run["regret_gap"])[:, -1].max()) < 1e-8


@pytest.mark.parametrize(("more", "rule"), [("", "sgd"), (",l1=0.3", "proximal")])
def test_engines_have_the_same_bits(more: str, rule: str) -> None:
    runs = [
        distopt.simulate(
            "ring",
            agents=5,
            scenario=f"teacher_student:dim=7,alpha=2.4{more}",
            algorithm=f"gt:lr=0.02,form=atc,direction={rule}",
            rounds=20,
            engine=engine,
            record="x",
        )
        for engine in ("local", "threads:workers=2")
    ]
    assert np.array_equal(runs[0]["x"], runs[1]["x"])


SPARSE = "teacher_student:dim=12,alpha=1.5,l2=0,l1=0.2,rho=0.3"
PROXIMAL = "gt:lr=0.2,form=atc,direction=proximal"


@pytest.mark.parametrize("model", ["linear", "logistic"])
@pytest.mark.parametrize(("alpha", "l2"), [(0.5, 0.0), (2.0, 0.1)])
def test_the_check_knows_the_lasso(model: Any, alpha: float, l2: float) -> None:
    check_scenario(TeacherStudent(dim=6, alpha=alpha, model=model, l2=l2, l1=0.05))


def test_the_minimiser_of_the_lasso_is_that_of_coordinate_descent() -> None:
    s = TeacherStudent(dim=12, alpha=0.7, l2=0.0, rho=0.3, l1=0.2)
    found = s.optimum(s.batch(T, Key(0, range(4), range(3), 4)))
    assert found is not None
    for trial in range(3):
        F, y = pooled(batch(s, 4, 3), trial)
        expected = glm._lasso(F.numpy(), y.numpy(), 0.2)
        assert 0 < int((found[0, trial] == 0).sum()) < 12
        np.testing.assert_allclose(found[0, trial].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(("dim", "alpha", "l1"), [(20, 0.5, 0.01), (30, 0.4, 0.01), (50, 0.5, 0.02)])
def test_small_penalties_with_few_rows_have_their_minimiser_too(dim: int, alpha: float, l1: float) -> None:
    """The search has long stretches in which no step is much shorter than the one before."""
    s = TeacherStudent(dim=dim, alpha=alpha, l2=0.0, l1=l1, low=1e-4 if dim == 30 else 0.2)
    found = s.optimum(s.batch(T, Key(0, range(4), range(1), 4)))
    assert found is not None
    x = found[0, 0]
    F, y = pooled(batch(s, 4), 0)
    slope = F.T @ (F @ x - y)
    scale = float((F.T @ y).abs().max())
    torch.testing.assert_close(slope[x != 0], -l1 * x[x != 0].sign(), rtol=0, atol=1e-9 * scale)
    assert float(slope.abs().max()) <= l1 + 1e-9 * scale


def test_the_elastic_net_of_the_logistic_model_has_no_slope() -> None:
    s = TeacherStudent(dim=12, alpha=2.0, model="logistic", l2=0.1, l1=0.3)
    found = s.optimum(s.batch(T, Key(0, range(4), range(1), 4)))
    assert found is not None
    x = found[0, 0]
    slope = TeacherStudent(dim=12, model="logistic", l2=0.1).grad(x.expand(1, 4, 12), batch(s, 4))[0].mean(0)
    torch.testing.assert_close(slope[x != 0], -0.3 * x[x != 0].sign(), rtol=0, atol=1e-12)
    assert 0 < int((x == 0).sum()) < 12 and float(slope[x == 0].abs().max()) <= 0.3


def test_regret_of_the_lasso_is_that_of_all_its_cost() -> None:
    run: Any = distopt.simulate("ring", agents=4, scenario=SPARSE, algorithm=PROXIMAL, rounds=400, record="x")
    assert run["tracking_error"][0, -1] < 1e-12 and run.info["certificate"] < 1e-12
    assert "regret_gap" not in list(run.keys()) and "constants" not in run.info
    s = TeacherStudent(dim=12, alpha=1.5, l2=0.0, rho=0.3, l1=0.2)
    best = s.optimum(s.batch(T, Key(0, range(4), range(1), 4)))
    assert best is not None
    mean = torch.from_numpy(run["x"][:, 0].mean(-2, keepdims=True)).expand(1, 4, 12)
    first = (s.loss(mean, batch(s, 4)) - s.loss(best[0].unsqueeze(1).expand(1, 4, 12), batch(s, 4))).sum()
    assert run["dynamic_regret"][0, 0] == pytest.approx(float(first), rel=1e-12)
    assert run["static_regret"][0, -1] == pytest.approx(run["dynamic_regret"][0, -1], rel=1e-9)


def test_steps_that_follow_mixing_end_beside_the_minimiser() -> None:
    after, before = (
        distopt.simulate("ring", agents=4, scenario=SPARSE, algorithm=spec, rounds=3000)["tracking_error"][0, -1]
        for spec in (PROXIMAL, "gt:lr=0.02,direction=proximal")
    )
    assert after < 1e-12 and 1e-4 < before < 0.1


def test_without_a_penalty_proximal_steps_are_gradient_steps() -> None:
    plain, proximal = (
        distopt.simulate(
            "ring", agents=4, scenario="teacher_student:dim=6", algorithm=f"gt:lr=0.02{rule}", rounds=30, record="x"
        )
        for rule in ("", ",direction=proximal")
    )
    np.testing.assert_allclose(proximal["x"], plain["x"], atol=1e-12)


@pytest.mark.parametrize(
    ("algorithm", "asked", "words"),
    [
        ("gt:lr=0.1", {}, "and gt takes none; take the direction proximal"),
        ("bandit(gt(direction=proximal))", {}, "takes values of the costs"),
        ("gt:direction=proximal", {"churn": "leave=0.1,join=0.5"}, "use it without churn"),
        (
            "gt:direction=proximal",
            {"probe": "flow_distance"},
            "probe flow_distance: a part of the costs has no gradient",
        ),
        (
            "gt:direction=proximal",
            {"scenario": f"feasible({SPARSE.replace(':', '(')}))"},
            "needs proximal steps and no set",
        ),
        (
            "gt:direction=proximal",
            {"scenario": f"normalised({SPARSE.replace(':', '(')}))"},
            "which cannot be put on a sphere",
        ),
    ],
)
def test_what_cannot_use_the_penalty_is_refused(algorithm: str, asked: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        distopt.simulate("ring", **{"agents": 4, "scenario": SPARSE, "algorithm": algorithm, "rounds": 3, **asked})


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"dim": 0}, "teacher_student: dim=0"),
        ({"alpha": 0.0}, "teacher_student: alpha=0.0"),
        ({"rho": 1.5}, "teacher_student: rho=1.5"),
        ({"low": 3.0}, "teacher_student: low=3 is above high=2"),
        ({"model": "probit"}, "teacher_student: model='probit'"),
        ({"noise": -1.0}, "teacher_student: noise=-1.0"),
        ({"l1": -1.0}, "teacher_student: l1=-1.0"),
    ],
)
def test_what_is_out_of_range_is_refused(asked: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        TeacherStudent(**asked)
