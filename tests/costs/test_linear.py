"""Logistic and softmax costs by pooled rows, against the scenarios' own costs and the generic Newton's method."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

from distopt.catalog import registry
from distopt.costs import comparator, data, descent, linear
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks, Thinned, evaluate
from distopt.costs.descent import minimise
from distopt.costs.evaluation import Evaluator
from distopt.costs.linear import Rows, costs_of_all
from distopt.costs.products import one_thread, product
from distopt.costs.summed import Horizon, Sum
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.numerics.trees import part
from distopt.optional import ScenarioDefaults

SPECS = [
    "flights",
    "drifting_logistic",
    "hyperplane",
    "rbf_drift:classes=2",
    "rbf_drift:classes=4",
    "sea",
    "digits",
    "stream:path=weather",
]
ROUNDS, TRIALS, AGENTS = 5, 2, 3


def blocks(scenario: Any, rounds: int = ROUNDS) -> Blocks:
    return Blocks(scenario, Key(0, range(AGENTS), range(TRIALS), AGENTS), rounds)


def made(spec: str) -> Any:
    return registry.make("scenarios", spec, {"agents": AGENTS})


class Generic(ScenarioDefaults):
    """A scenario that does not tell of its rows."""

    def __init__(self, scenario: Any) -> None:
        self.dim, self.batch, self.loss, self.grad = scenario.dim, scenario.batch, scenario.loss, scenario.grad
        self.hessian = scenario.hessian


@pytest.fixture(params=SPECS)
def scenario(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


def test_costs_gradients_and_hessians_are_the_scenarios_own(scenario: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "CACHE_BYTES", 1)  # every round is a piece of its own
    batch = blocks(scenario).get(0)
    trials = max(leaf.shape[1] for leaf in batch)
    x = 0.3 * torch.randn(ROUNDS, trials, scenario.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    every = x.unsqueeze(2).expand(-1, -1, AGENTS, -1)
    flat = x.reshape(-1, scenario.dim).numpy()
    loss = evaluate(scenario.loss, every, batch).reshape(-1, AGENTS)
    grad = evaluate(scenario.grad, every, batch).reshape(-1, AGENTS, scenario.dim)
    hessian = torch.cat([scenario.hessian(every[k], part_of(batch, k)) for k in range(ROUNDS)])
    v = np.random.default_rng(2).standard_normal(flat.shape)
    pieces = list(Rows.pieces(scenario.linear_rows(batch), ROUNDS, trials, AGENTS, 1))
    assert len(pieces) == ROUNDS
    for where, rows in pieces:
        at = flat[where]
        found = rows.at(at)
        np.testing.assert_allclose(found.losses(), loss[where], rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(found.value(), loss[where].sum(1), rtol=1e-13)
        np.testing.assert_allclose(found.gradients(), grad[where], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.gradient(), grad[where].sum(1), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.length(), grad[where].norm(dim=-1).sum(1), rtol=1e-12)
        np.testing.assert_array_equal(found.both(), np.c_[found.value(), found.gradient()])
        origin = rows.at(np.zeros((1, scenario.dim)))
        np.testing.assert_array_equal(rows.at_zero(scenario.dim).gradients(), origin.gradients())
        np.testing.assert_allclose(found.hessian(), hessian[where], rtol=1e-11, atol=1e-12)
        turned = np.einsum("pij,pj->pi", hessian[where].numpy(), v[where])
        np.testing.assert_allclose(found.curvature()(v[where]), turned, rtol=1e-11, atol=1e-11)
    points = x.unsqueeze(2) + torch.arange(AGENTS).reshape(-1, 1)
    every = costs_of_all(scenario.linear_rows(batch), points)
    for j in range(AGENTS):
        other = evaluate(scenario.loss, points[:, :, j : j + 1].expand(-1, -1, AGENTS, -1), batch).sum(-1)
        np.testing.assert_allclose(every[..., j], other, rtol=1e-13)


def test_one_hessian_of_all_rounds_corrects_those_of_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the last steps are Newton's own, and few."""
    made: list[type] = []
    hessian = Horizon.hessian

    def counting(self: Horizon, x: Tensor) -> Tensor:
        made.append(type(self.blocks))
        return hessian(self, x)

    monkeypatch.setattr(Horizon, "hessian", counting)
    key = Key(0, range(AGENTS), range(1), AGENTS)
    it = Comparator(Blocks(registry.make("scenarios", "flights"), key, 2 * comparator.ENOUGH))
    fixed = it.fixed()
    assert fixed is not None and made.count(Blocks) == 1
    corrected = made.count(Thinned)
    whole = Horizon(it.blocks, 1, it._evaluator)
    assert float(whole.both(fixed)[:, 1:].norm() / whole.scale(fixed)) < 1e-9
    monkeypatch.setattr("distopt.costs.newton.NARROW", 0)
    made.clear()
    again = Comparator(Blocks(registry.make("scenarios", "flights"), key, 2 * comparator.ENOUGH)).fixed()
    assert again is not None and made.count(Thinned) > corrected
    np.testing.assert_allclose(again, fixed, rtol=0, atol=1e-9)


def part_of(batch: Any, k: int) -> Any:
    return type(batch)(*(leaf[0] for leaf in part(batch, k, k + 1)))


@pytest.mark.slow
def test_the_comparator_is_the_generic_ones(scenario: Any) -> None:
    mine, other = Comparator(blocks(scenario)), Comparator(blocks(Generic(scenario)))
    for name, a, b in zip(mine.reference(0)._fields, mine.reference(0), other.reference(0), strict=True):
        if name not in (
            "persistence",
            "residual",
            "gradient",
            "gap",
            "smoothness",
        ):  # rounding, or what rows alone tell
            assert a is not None and b is not None
            np.testing.assert_allclose(a, b.expand(a.shape), rtol=1e-9, atol=1e-10, err_msg=name)
    assert mine.certificate() < 1e-12
    fixed, generic = mine.fixed(), other.fixed()
    assert fixed is not None and generic is not None
    np.testing.assert_allclose(fixed, generic, rtol=1e-8, atol=1e-9)


def test_products_take_one_thread_until_the_last_who_asked_is_done() -> None:
    def threads() -> set[int]:
        return {each["num_threads"] for each in threadpool_info() if "numpy" in each["filepath"]}

    with threadpool_limits(3, user_api="blas"):
        with one_thread:
            with one_thread:
                assert threads() == {1}
            product(np.eye(2), np.eye(2))
            assert threads() == {1}
        assert threads() == {3}


@dataclass(frozen=True)
class Far(ScenarioDefaults):
    """Large features and little regularisation: from most points a full Newton step goes much too far."""

    dim: int = 2
    l2: float = 1e-6

    def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        X = 30 * key.normal("X", 8 * self.dim, t)
        y = torch.where(key.uniform("y", 8, t) < 0.5, 1.0, -1.0).to(torch.float64)
        return X.reshape(*X.shape[:-1], 8, self.dim), y, torch.full((1, 1, 1, 8), 1 / 8, dtype=torch.float64)

    def loss(self, x: Tensor, b: Any) -> Tensor:
        z = b[1] * (b[0] * x.unsqueeze(-2)).sum(-1)
        return (b[2] * torch.nn.functional.softplus(-z)).sum(-1) + 0.5 * self.l2 * x.square().sum(-1)

    def grad(self, x: Tensor, b: Any) -> Tensor:
        z = b[1] * (b[0] * x.unsqueeze(-2)).sum(-1)
        return -((b[2] * b[1] * torch.sigmoid(-z)).unsqueeze(-1) * b[0]).sum(-2) + self.l2 * x

    def linear_rows(self, b: Any) -> tuple[Tensor, Tensor, Tensor, float]:
        return (*b, self.l2)


@pytest.mark.slow
def test_steps_that_go_too_far_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    shortened = []
    length = descent._length

    def counting(*at: Any) -> Any:
        found = length(*at)
        shortened.append(float(found.min()))
        return found

    monkeypatch.setattr(descent, "_length", counting)
    batch = blocks(Far(), 20).get(0)
    ((_, rows),) = Rows.pieces(Far().linear_rows(batch), 20, TRIALS, AGENTS, 1)
    truth, residual = minimise(rows, np.zeros((len(rows), 2)), 1.0)
    assert residual.max() < 1e-10 and not shortened
    far = np.random.default_rng(0).standard_normal(truth.shape)
    found, residual = minimise(rows, far, 1.0)  # where hardly a row bends the cost
    assert residual.max() < 1e-10 and min(shortened) < 1
    np.testing.assert_allclose(found, truth, atol=1e-8)


@pytest.mark.slow
def test_where_there_is_no_minimiser_it_is_said_with_its_round() -> None:
    @dataclass(frozen=True)
    class Apart(Far):
        """Points that a line through 0 separates, and no regularisation."""

        l2: float = 0.0

        def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor, Tensor]:
            X, _, w = super().batch(t, key)
            return X, torch.where(X[..., 0] > 0, 1.0, -1.0).to(torch.float64), w

    with pytest.raises(InputError, match=r"Apart: found no minimiser of f_t in round 0 "):
        Comparator(blocks(Apart())).reference(0)


@dataclass(frozen=True)
class Late(Far):
    """Its rows are those of other costs from round 3 on."""

    def loss(self, x: Tensor, b: Any) -> Tensor:
        return super().loss(x, b) * b[3]

    def batch(self, t: Tensor, key: Key) -> Any:
        return (*super().batch(t, key), torch.where(t < 3, 1.0, 2.0).to(torch.float64)[..., 0])

    def linear_rows(self, b: Any) -> tuple[Tensor, Tensor, Tensor, float]:
        return (*b[:3], self.l2)


@dataclass(frozen=True)
class Solved(Late):
    """One whose minimiser needs no search."""

    def optimum(self, b: Any) -> Tensor:
        return torch.zeros(1, 1, self.dim, dtype=torch.float64)


@pytest.mark.parametrize("kind", [Late, Solved])
def test_rows_of_other_costs_are_refused(kind: type[Late]) -> None:
    says = r": linear_rows gives other costs than loss in round 3 \(they differ by .*linear_rows = None"
    with pytest.raises(InputError, match=kind.__name__ + says):
        Comparator(blocks(kind())).reference(0)


@pytest.mark.parametrize(
    "rows",
    [
        lambda X, y, w, l2: (X, y, w),
        lambda X, y, w, l2: (X.numpy(), y, w, l2),
        lambda X, y, w, l2: (X, y.int(), w, l2),
        lambda X, y, w, l2: (X.float(), y, w, l2),
        lambda X, y, w, l2: (X, y, w, torch.tensor(l2)),
        lambda X, y, w, l2: (X[..., :1], y, w, l2),
        lambda X, y, w, l2: (X, (y > 0).long(), w, l2),
        lambda X, y, w, l2: (X, y[..., :1], w, l2),
    ],
)
def test_rows_of_another_form_are_refused(rows: Any) -> None:
    class Odd(Far):
        def linear_rows(self, b: Any) -> Any:
            return rows(*super().linear_rows(b))

    with pytest.raises(InputError, match=r"^scenario Odd: linear_rows (must give X|gives \d features)"):
        Comparator(blocks(Odd())).reference(0)


def test_where_a_direction_has_no_curvature_the_generic_method_takes_over() -> None:
    class Flat(Far):
        """Its last feature is always 0, and nothing pulls that coordinate back."""

        l2 = 0.0

        def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor, Tensor]:
            X, _, w = super().batch(t, key)
            y = torch.where(torch.arange(8) % 2 == 0, 1.0, -1.0).to(torch.float64)
            sides = torch.where(torch.arange(8) % 4 < 2, 1.0, -1.0).to(torch.float64)
            return torch.stack([0.1 * X[..., 0].abs() * sides, 0 * X[..., 1]], -1), y.reshape(1, 1, 1, 8), w

    reference = Comparator(blocks(Flat())).reference(0)
    assert float(reference.residual.max()) < 1e-10 and bool((reference.x[..., 1] == 0).all())


def test_points_that_are_minimal_at_once_are_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, rows),) = Rows.pieces(Far().linear_rows(blocks(Far()).get(0)), ROUNDS, TRIALS, AGENTS, 1)
    x, _ = minimise(rows, np.zeros((len(rows), 2)), 1.0)
    again, residual = minimise(rows, x, 1e6)
    assert np.array_equal(again, x) and residual.max() < 1e-15


@pytest.mark.parametrize(
    "spec", ["drifting_logistic:speed=0.1", "rbf_drift:classes=4", "localization", "moving_target"]
)
def test_the_best_fixed_point_of_many_rounds_is_found_from_an_estimate(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    monkeypatch.setattr(comparator, "Thinned", lambda *given: steps.append(given[1]) or Thinned(*given))
    scenario, key = made(spec), Key(0, range(AGENTS), range(TRIALS), AGENTS)
    rounds = comparator.ENOUGH
    whole, cut, plain = (
        Comparator(Blocks(scenario, key, n, length)) for n, length in ((rounds, 256), (rounds, 4), (rounds, 256))
    )
    found = [whole.fixed(), cut.fixed()]
    assert steps == [comparator.SAMPLED] * 2
    monkeypatch.setattr(comparator, "ENOUGH", rounds + 1)
    expected = plain.fixed()
    assert expected is not None
    for each in found:
        assert each is not None
        np.testing.assert_allclose(each, expected, rtol=1e-8, atol=1e-8)
    assert len(steps) == 2


@pytest.mark.parametrize("step", [2, 8])
def test_thinned_blocks_stand_for_the_run(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Blocks(Far(), Key(0, range(AGENTS), range(TRIALS), AGENTS), 30, 4)
    x = torch.randn(TRIALS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    evaluator = Evaluator(Far(), 0)
    found = Horizon(Thinned(whole, step), TRIALS, evaluator).both(x)
    single = Blocks(Far(), whole.key, 30, 1)
    taken = [Sum(Far(), single.get(t), 1, TRIALS, AGENTS, evaluator).both(x) for t in range(0, 30, step)]
    torch.testing.assert_close(found, torch.stack(taken).sum(0) * 30 / len(taken), rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(data, "BLOCK_BYTES", whole._size(whole.get(0)))
    assert (
        Thinned(whole, step).count == Thinned(whole, 8).count
    )  # of all blocks' data a step of 8 holds what a block may


def digest() -> str:
    """Of the minimisers and costs of problems that are large enough for a library to share them among threads."""
    import hashlib

    whole = hashlib.sha256()
    for spec in ("digits", "rbf_drift:features=200,classes=3,window=270"):
        found = Comparator(blocks(made(spec), 3))
        for leaf in (*found.reference(0), found.fixed()):
            if leaf is not None:
                whole.update(leaf.numpy().tobytes())
    return whole.hexdigest()


@pytest.mark.slow
def test_the_number_of_threads_changes_no_bit() -> None:
    found = []
    for threads in ("1", "2"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = {**os.environ, **dict.fromkeys(names, threads), "PYTHONPATH": os.pathsep.join(sys.path)}
        ask = [sys.executable, "-c", "from costs.test_linear import digest; print(digest())"]
        found.append(subprocess.run(ask, env=env, check=True, capture_output=True, text=True).stdout)
    assert found[0] == found[1] != ""
