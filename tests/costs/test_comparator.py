"""x*_t against closed forms, cvxpy and scipy; the best fixed point; refusal where there is no minimiser."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import cvxpy
import numpy as np
import pytest
import torch
from torch import Tensor

import distopt
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks, evaluate
from distopt.errors import InputError, RunError
from distopt.experiment import Experiment
from distopt.numerics.random import Key
from distopt.numerics.trees import tensors
from distopt.optional import ScenarioDefaults, completed
from distopt.scenarios.moving_target import MovingTarget
from distopt.simulation.problem import build


@dataclass(frozen=True)
class Logistic:
    """A user's logistic stream: no optimum, no hessian."""

    dim: int = 4
    rows: int = 6
    l2: float = 0.1

    def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        z = key.normal("z", self.rows * self.dim, t)
        features = z.reshape(*z.shape[:-1], self.rows, self.dim)
        labels = torch.where(key.uniform("y", self.rows, t) < 0.3, 1.0, -1.0)
        return features, labels

    def loss(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        margin = b[1] * (b[0] * x.unsqueeze(-2)).sum(-1)
        return torch.nn.functional.softplus(-margin).sum(-1) + self.l2 / 2 * x.square().sum(-1)

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        margin = b[1] * (b[0] * x.unsqueeze(-2)).sum(-1)
        return -((b[1] * torch.sigmoid(-margin)).unsqueeze(-1) * b[0]).sum(-2) + self.l2 * x


@dataclass(frozen=True)
class WithHessian(Logistic):
    def hessian(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        p = torch.sigmoid((b[0] * x.unsqueeze(-2)).sum(-1))
        each = (b[0].mT * (p * (1 - p)).unsqueeze(-2)) @ b[0] + self.l2 * torch.eye(self.dim, dtype=x.dtype)
        return each.sum(1)


def comparator(scenario: Any, rounds: int = 5, agents: int = 3, trials: int = 2) -> Comparator:
    return Comparator(
        Blocks(completed(ScenarioDefaults, scenario), Key(0, range(agents), range(trials), agents), rounds)
    )


def by_cvxpy(features: Tensor, labels: Tensor, weight: float) -> np.ndarray:
    x = cvxpy.Variable(features.shape[-1])
    margin = cvxpy.multiply(labels.reshape(-1).numpy(), features.reshape(-1, features.shape[-1]).numpy() @ x)
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(cvxpy.logistic(-margin)) + weight / 2 * cvxpy.sum_squares(x))).solve(
        solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11
    )
    return np.asarray(x.value)


@pytest.mark.parametrize("kind", [Logistic, WithHessian])
def test_newton_agrees_with_cvxpy(kind: type[Logistic]) -> None:
    it = comparator(kind())
    reference, (features, labels) = it.reference(0), it.blocks.get(0)
    for t in range(5):
        for r in range(2):
            expected = by_cvxpy(features[t, r], labels[t, r], 3 * 0.1)
            assert np.abs(reference.x[t, r].numpy() - expected).max() < 2e-5
    assert it.certificate() < 1e-12


def test_best_fixed_point_agrees_with_cvxpy() -> None:
    it = comparator(WithHessian())
    features, labels = it.blocks.get(0)
    for r in range(2):
        expected = by_cvxpy(features[:, r], labels[:, r], 5 * 3 * 0.1)
        assert np.abs(it.fixed()[r].numpy() - expected).max() < 2e-5


@pytest.mark.slow
def test_conjugate_gradients_find_the_same_minimiser_in_high_dimension() -> None:
    """Without a Hessian, 150 coordinates are over the limit of differencing: the matrix-free path must agree with Cholesky."""
    free, dense = (
        comparator(Logistic(dim=150), rounds=2, trials=1),
        comparator(WithHessian(dim=150), rounds=2, trials=1),
    )
    assert torch.allclose(free.reference(0).x, dense.reference(0).x, rtol=0, atol=1e-8)
    assert free.certificate() < 1e-7


def test_many_blocks_give_the_values_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = comparator(WithHessian(), rounds=8)
    monkeypatch.setattr("distopt.costs.data.LONGEST_BLOCK", 2)
    many = comparator(WithHessian(), rounds=8)
    assert many.blocks.count == 4
    pieces = [many.reference(b) for b in range(4)]
    whole = one.reference(0)
    for name in ("x", "cost", "path", "gradient_variation", "function_variation", "previous_optimum"):
        assert torch.allclose(
            torch.cat([getattr(p, name) for p in pieces]), getattr(whole, name), rtol=1e-9, atol=1e-11
        ), name
    assert torch.allclose(many.fixed(), one.fixed(), rtol=0, atol=1e-10)


def test_variation_is_what_its_formula_says() -> None:
    scenario = WithHessian()
    it = comparator(scenario)
    reference, data = it.reference(0), it.blocks.get(0)
    assert float(reference.path[0].abs().max()) == 0 and float(reference.gradient_variation[0].abs().max()) == 0
    for t in range(1, 5):
        now, before = (tuple(leaf[k] for leaf in data) for k in (t, t - 1))
        x = reference.x[t][:, None].expand(-1, 3, -1)
        change = (scenario.grad(x, now) - scenario.grad(x, before)).norm(dim=-1).max(-1).values
        assert torch.allclose(reference.gradient_variation[t], change, rtol=1e-12)
        cost = (scenario.loss(x, now).sum(-1) - scenario.loss(x, before).sum(-1)).abs()
        assert torch.allclose(reference.function_variation[t], cost, rtol=1e-9)
        assert torch.allclose(reference.path[t], (reference.x[t] - reference.x[t - 1]).norm(dim=-1), rtol=1e-12)
        stale = reference.x[t - 1][:, None].expand(-1, 3, -1)
        assert torch.allclose(
            reference.previous_optimum[t], scenario.loss(stale, now).sum(-1) - reference.cost[t], rtol=1e-9
        )


@dataclass(frozen=True)
class Unbounded(Logistic):
    """Every label the same and no regulariser: the infimum is not attained."""

    def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        features, labels = super().batch(t, key)
        return features.abs() + 1, torch.ones_like(labels)


@pytest.mark.slow
def test_no_minimiser_is_said_with_its_round() -> None:
    with pytest.raises(InputError, match=r"no minimiser of f_t in round 0.*regularisation"):
        comparator(Unbounded(l2=0.0)).reference(0)


@dataclass(frozen=True)
class Wrong(WithHessian):
    def optimum(self, b: tuple[Tensor, Tensor]) -> Tensor:
        return torch.ones(1, 1, self.dim)


def test_a_wrong_optimum_shows_in_the_certificate() -> None:
    it = comparator(Wrong())
    it.reference(0)
    assert it.certificate() > 1e-2


def test_optimum_of_a_wrong_shape_is_refused() -> None:
    class Misshapen(Wrong):
        def optimum(self, b: tuple[Tensor, Tensor]) -> Tensor:
            return torch.ones(1, 1, self.dim + 1)

    with pytest.raises(InputError, match=r"optimum has shape \[1, 1, 5\]"):
        comparator(Misshapen()).reference(0)


def test_saddle_is_left_downhill() -> None:
    """A double well: Newton undamped would go to the maximum at the origin."""

    @dataclass(frozen=True)
    class Well:
        dim: int = 2

        def batch(self, t: Tensor, key: Key) -> Tensor:
            return key.uniform("a", 2, t) + 0.5

        def loss(self, x: Tensor, b: Tensor) -> Tensor:
            return ((x.square() - b.square()).square() / 4).sum(-1)

        def grad(self, x: Tensor, b: Tensor) -> Tensor:
            return x * (x.square() - b.square())

        def guess(self, b: Tensor) -> Tensor:
            return torch.full((1, 1, 2), 0.05)

    it = comparator(Well(), agents=1)
    assert torch.allclose(it.reference(0).x, it.blocks.get(0)[:, :, 0], rtol=0, atol=1e-9)


def test_data_that_are_not_finite_name_the_round() -> None:
    class Holed(WithHessian):
        def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
            features, labels = super().batch(t, key)
            return torch.where(t[..., None] == 3, torch.nan, features), labels

    with pytest.raises(InputError, match=r"the data of round 3 are not finite"):
        comparator(Holed()).reference(0)


def test_leaves_of_a_wrong_shape_are_refused() -> None:
    class Flat(WithHessian):
        def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
            return torch.zeros(len(t), 4), torch.zeros(len(t), 4)

    with pytest.raises(InputError, match=r"first three axes must be rounds"):
        comparator(Flat())


@dataclass(frozen=True)
class Still(WithHessian):
    """A logistic problem that no round changes; counts what it is asked for."""

    asked: Counter[str] = field(default_factory=Counter)

    def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        self.asked["batch"] += 1
        return super().batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)

    def grad(self, x: Tensor, b: tuple[Tensor, Tensor]) -> Tensor:
        self.asked["grad"] += 1
        return super().grad(x, b)


def test_static_data_are_made_once_and_solved_for_one_round() -> None:
    asked = []
    for rounds in (10, 1000):
        it = comparator(Still(), rounds=rounds)
        it.prepare(lambda done, total: None)
        asked.append(dict(it.scenario.asked))
        for b in range(it.blocks.count):
            assert it.blocks.get(b) is it.blocks.get(0)
            reference, values = it.reference(b), it.fixed_values(b)
            assert len(reference.x) == len(it.blocks.span(b)) == len(reference.cost) == len(reference.path)
            for nothing in (
                reference.path,
                reference.gradient_variation,
                reference.function_variation,
                reference.previous_optimum,
            ):
                assert not nothing.any()
            assert torch.equal(reference.x, it.reference(0).x[:1].expand_as(reference.x))
            assert values[0] is not None and torch.equal(values[0], reference.cost)
    assert asked[0] == asked[1] and asked[0]["batch"] == 2  # the first rounds and, to be sure, the last
    features, labels = it.blocks.get(0)
    for r in range(2):
        assert np.abs(it.fixed()[r].numpy() - by_cvxpy(features[0, r], labels[0, r], 3 * 0.1)).max() < 2e-5


def test_data_that_stand_still_for_a_while_only_are_not_static(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Stepwise(WithHessian):
        def batch(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
            steps = torch.unique(t // 4)
            return super().batch(steps.reshape(-1, 1, 1, 1) if len(steps) == 1 else t // 4, key)

    monkeypatch.setattr("distopt.costs.data.LONGEST_BLOCK", 4)
    it = comparator(Stepwise(), rounds=12)
    assert not it.blocks.static
    paths = torch.cat([it.reference(b).path[:, 0] for b in range(3)])
    assert torch.nonzero(paths).flatten().tolist() == [4, 8]
    for b in range(3):
        assert torch.equal(
            it.blocks.get(b)[0][:1], it.scenario.batch(torch.tensor(4 * b).reshape(1, 1, 1, 1), it.blocks.key)[0]
        )


def test_what_no_round_changes_is_shared_by_all_blocks_and_does_not_shorten_them() -> None:
    it = Blocks(MovingTarget(dim=4), Key(0, range(60_000), range(1), 60_000), 600)
    assert it.length == 256 and it.count == 3
    first, second = it.get(0), it.get(1)
    assert first.a is second.a and first.o is second.o and first.p.shape[0] == second.p.shape[0] == 256
    assert it._bytes == 2 * 256 * 4 * 8


def test_rows_of_all_agents_are_never_held_for_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 64 agents nothing that comes back from a scenario may be 64 times what the comparator keeps."""
    agents, largest, asked = 64, [], []

    def watched(f: Any, x: Tensor, batch: Any) -> Tensor:
        out = evaluate(f, x, batch)
        largest.append(out.numel() // (out.shape[0] * out.shape[1]))
        return out

    class Watched(MovingTarget):
        def optimum(self, b: Any) -> Tensor:
            asked.append(len(b.p))
            return super().optimum(b)

    monkeypatch.setattr("distopt.costs.evaluation.evaluate", watched)
    monkeypatch.setattr("distopt.costs.comparator.BLOCK_BYTES", 8 * 3 * agents * 10)
    it = comparator(Watched(dim=3), rounds=30, agents=agents, trials=1)
    it.prepare(lambda done, total: None)
    it.fixed_values(0)
    assert max(largest) <= 3 * 3 and max(asked) == 10


def test_a_hessian_too_large_to_hold_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge(MovingTarget):
        def hessian(self, x: Tensor, b: Any) -> Tensor:
            raise AssertionError("asked for")

    dense = comparator(MovingTarget(dim=20, motion="jump", period=2), rounds=6).fixed()
    monkeypatch.setattr("distopt.costs.newton.HESSIAN_BYTES", 8 * 2 * 20 * 20 - 1)
    free = comparator(Huge(dim=20, motion="jump", period=2), rounds=6).fixed()
    assert dense is not None and free is not None and torch.allclose(free, dense, rtol=0, atol=1e-8)


def test_a_run_that_starts_at_the_minimiser_of_static_costs_has_no_regret() -> None:
    built = build(Experiment("ring", 37, "quadratic:spread=0", "dgd", rounds=3))
    best = Comparator(Blocks(built.scenario, built.key, 3)).reference(0).x[0, 0]
    run = distopt.simulate(
        "ring", agents=37, scenario="quadratic:spread=0", algorithm="dgd", rounds=20, x0=best.numpy(), mode="eager"
    )
    assert np.abs(run["dynamic_regret"]).max() == 0


def test_the_minimisers_of_a_long_run_leave_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distopt.costs.data.LONGEST_BLOCK", 16)

    def solved() -> Comparator:
        return Comparator(Blocks(MovingTarget(dim=3), Key(0, range(4), range(2), 4), 640))

    def everything(comparator: Comparator) -> list[Tensor]:
        return tensors([(comparator.reference(b), comparator.fixed_values(b)) for b in range(comparator.blocks.count)])

    inside = solved()
    held, room = everything(inside), sum(8 * leaf.numel() for leaf in tensors(inside.reference(0)))
    monkeypatch.setattr("distopt.costs.store.MEMORY_BYTES", room)
    outside, before = solved(), len(os.listdir("/proc/self/fd"))
    assert all(torch.equal(one, other) for one, other in zip(held, everything(outside), strict=True))
    assert len(os.listdir("/proc/self/fd")) <= before + 2, "a descriptor for each block"
    file = outside._references._file
    assert file is not None
    assert os.fstat(file.fileno()).st_size == sum(
        8 * leaf.numel() for b in range(1, 40) for leaf in tensors(inside.reference(b))
    )
    assert inside.certificate() == outside.certificate() > 0


def test_a_full_folder_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distopt.costs.store.MEMORY_BYTES", 0)
    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(
        RunError,
        match="^cannot write temporary files: No space left on device; free space .* or name another one with TMPDIR$",
    ):
        distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="gt", rounds=3)
