"""The synthetic scenarios against autograd, finite differences, plain Python loops and river's generators."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from river.datasets.synth import hyper_plane as river_hyperplane
from river.datasets.synth import random_rbf as river_rbf
from river.datasets.synth import sea as river_sea
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.errors import InputError
from distopt.random import Key
from distopt.scenarios import _logistic
from distopt.scenarios.drifting_logistic import DriftingLogistic
from distopt.scenarios.hyperplane import Hyperplane
from distopt.scenarios.localization import Localization
from distopt.scenarios.moving_target import MovingTarget
from distopt.scenarios.quadratic import Quadratic
from distopt.scenarios.rbf_drift import RbfDrift
from distopt.scenarios.sea import Sea

N, R = 6, 3
STREAMS = {
    "sea": Sea(period=3, rows=3, window=4),
    "sea-one-row": Sea(rows=1, window=1),
    "hyperplane": Hyperplane(features=4, drifting=3, reversal=0.3, window=3),
    "hyperplane-all": Hyperplane(window=1),
    "rbf-binary": RbfDrift(noise=0.3, speed=0.2),
    "rbf-softmax": RbfDrift(features=3, classes=3, centroids=7, noise=0.3, rows=2, window=3, speed=0.05),
}
SCENARIOS: dict[str, Any] = {
    "quadratic": Quadratic(),
    **{f"moving-{motion}": MovingTarget(motion, dim=3, period=5) for motion in ("circle", "line", "walk", "jump")},
    "moving-default": MovingTarget(),
    "localization": Localization(),
    "drifting_logistic": DriftingLogistic(rows=5),
    **STREAMS,
}
every = pytest.mark.parametrize("name", SCENARIOS)
streams = pytest.mark.parametrize("name", STREAMS)


def rounds(*t: int) -> Tensor:
    return torch.tensor(t, dtype=torch.int64).reshape(-1, 1, 1, 1)


def key(agents: Any = range(N), trials: Any = range(R), seed: int = 11) -> Key:
    return Key(seed, agents, trials, N)


def leaves(batch: Any) -> list[Tensor]:
    out: list[Tensor] = pytree.tree_leaves(batch)
    return out


def at(batch: Any, k: int) -> Any:
    return pytree.tree_map(lambda leaf: leaf[k if leaf.shape[0] > 1 else 0], batch)


def cut(leaf: Tensor, axis: int, index: Any) -> Tensor:
    return leaf if leaf.shape[axis] == 1 else leaf.index_select(axis, torch.as_tensor(list(index)))


def points(dim: int, scale: float = 1.0, agents: int = N, trials: int = R) -> Tensor:
    return scale * torch.randn(trials, agents, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def same(a: Any, b: Any) -> None:
    for one, other in zip(leaves(a), leaves(b), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(one, other)


# --- a pure function of (rounds, agents, trials) ---------------------------------------------------------------------------


@every
@pytest.mark.parametrize("start", [0, 4090, 999_990])
def test_blocks_chunks_and_order_leave_the_bits_alone(name: str, start: int) -> None:
    s = SCENARIOS[name]
    if name in ("moving-walk", "hyperplane", "hyperplane-all"):
        start = min(start, 12_280)  # every new key sums from round 0; round 10^6 has its own test
    span = range(start, start + 12)
    whole = s.batch(rounds(*span), key())
    for agents in ([0], [5], [1, 2, 3], [0, 2, 5]):
        for trials in ([0], [2], [0, 2]):
            block = s.batch(rounds(*span), key(agents, trials))
            same(block, pytree.tree_map(lambda v, a=agents, r=trials: cut(cut(v, 2, a), 1, r), whole))
    fresh = key()
    for chosen in ([11], [0], [3, 4, 5], [7, 2, 9, 2], list(range(6)), list(range(6, 12))):
        some = s.batch(rounds(*[span[k] for k in chosen]), fresh)
        same(some, pytree.tree_map(lambda v, c=chosen: cut(v, 0, c) if v.shape[0] > 1 else v, whole))


@every
def test_shapes_kinds_and_what_is_shared(name: str) -> None:
    s = SCENARIOS[name]
    b = s.batch(rounds(*range(9)), key())
    for leaf in leaves(b):
        assert leaf.dtype in (torch.float64, torch.int64, torch.bool)
        assert leaf.shape[0] in (1, 9)
        assert leaf.shape[1] in (1, R)
        assert leaf.shape[2] in (1, N)
        assert bool(torch.isfinite(leaf).all())
    x, now = points(s.dim), at(b, 8)
    assert s.loss(x, now).shape == (R, N)
    assert s.grad(x, now).shape == (R, N, s.dim)
    assert s.hessian(x, now).shape == (R, s.dim, s.dim)
    assert {v.dtype for v in (s.loss(x, now), s.grad(x, now), s.hessian(x, now))} == {torch.float64}
    cost = s.loss(points(s.dim, agents=1, trials=1).expand(R, N, s.dim), now)
    assert len(set(cost.flatten().tolist())) > R * N // 2 + (0 if "one-row" in name else R * N // 4)  # trials and agents differ
    other = s.batch(rounds(*range(9)), key(seed=12))
    assert not torch.equal(s.grad(x, now), s.grad(x, at(other, 8)))
    if name != "quadratic":
        assert not torch.equal(s.grad(x, now), s.grad(x, at(b, 4)))


@every
def test_costs_of_an_agent_do_not_depend_on_its_company(name: str) -> None:
    s, n, trials = SCENARIOS[name], 48, range(2)
    big = Key(5, range(n), trials, n)
    x = points(s.dim, agents=n, trials=2)
    whole = at(s.batch(rounds(7), big), 0)
    for size in (1, 3, 7, 16):
        for low in range(0, n, size * 3):
            agents = range(low, min(low + size, n))
            part = at(s.batch(rounds(7), Key(5, agents, trials, n)), 0)
            assert torch.equal(s.loss(x[:, list(agents)], part), s.loss(x, whole)[:, list(agents)])
            assert torch.equal(s.grad(x[:, list(agents)], part), s.grad(x, whole)[:, list(agents)])
    assert torch.equal(s.grad(x[1:], at(s.batch(rounds(7), Key(5, range(n), [1], n)), 0)), s.grad(x, whole)[1:])


@every
def test_rounds_folded_into_the_trials_axis(name: str) -> None:
    s = SCENARIOS[name]
    K = 5
    b = s.batch(rounds(*range(K)), key())
    folded = pytree.tree_map(lambda v: v.expand(K, R, *v.shape[2:]).reshape(K * R, *v.shape[2:]), b)
    x = torch.stack([points(s.dim, 1.0 + k) for k in range(K)])
    each = [(s.loss(x[k], at(b, k)), s.grad(x[k], at(b, k))) for k in range(K)]
    assert torch.equal(s.loss(x.flatten(0, 1), folded), torch.cat([loss for loss, _ in each]))
    assert torch.equal(s.grad(x.flatten(0, 1), folded), torch.cat([grad for _, grad in each]))


# --- derivatives and minimisers --------------------------------------------------------------------------------------------


@every
def test_gradient_and_hessian_are_those_of_the_loss(name: str) -> None:
    s = SCENARIOS[name]
    b = at(s.batch(rounds(0, 6), key()), 1)
    x = points(s.dim, 0.7).requires_grad_()
    (auto,) = torch.autograd.grad(s.loss(x, b).sum(), x)
    torch.testing.assert_close(s.grad(x, b).detach(), auto, rtol=1e-12, atol=1e-13)
    rows = []
    for k in range(s.dim):
        (row,) = torch.autograd.grad(s.grad(x, b)[..., k].sum(), x)
        rows.append(row)
    torch.testing.assert_close(s.hessian(x, b).detach(), torch.stack(rows, -2).sum(1), rtol=1e-12, atol=1e-12)
    base, h = x.detach(), 1e-5
    for k in range(s.dim):
        e = h * torch.eye(s.dim, dtype=torch.float64)[k]
        slope = (s.loss(base + e, b) - s.loss(base - e, b)) / (2 * h)
        torch.testing.assert_close(s.grad(base, b)[..., k], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["quadratic", "moving-circle", "moving-walk", "moving-jump", "moving-line"])
def test_the_optimum_has_no_summed_gradient_and_is_lowest(name: str) -> None:
    s = SCENARIOS[name]
    b = s.batch(rounds(0, 3, 77), key())
    best = s.optimum(b)
    for k in range(3):
        now, x = at(b, k), best[min(k, len(best) - 1)].unsqueeze(-2).expand(R, N, s.dim)
        terms = s.grad(x, now)
        assert float(terms.sum(-2).abs().max()) < 1e-12 * float(terms.abs().sum())
        assert bool((s.loss(x, now).sum(-1) < s.loss(x + 0.01 * points(s.dim, agents=1), now).sum(-1)).all())


def test_the_static_quadratic_never_moves_and_has_the_curvatures_it_says() -> None:
    s = Quadratic(dim=4, kappa=7.0, spread=0.0)
    a, c = s.batch(rounds(0, 5), key())
    assert a.shape == (1, R, N, 4)
    assert 1 <= float(a.min()) < 2
    assert 6 < float(a.max()) <= 7
    assert float(c.abs().max()) == 0
    x = points(4)
    by_hand = sum(0.5 * float(a[0, 1, 2, k]) * float(x[1, 2, k]) ** 2 for k in range(4))
    assert float(s.loss(x, at((a, c), 0))[1, 2]) == pytest.approx(by_hand, rel=1e-14)


# --- moving targets --------------------------------------------------------------------------------------------------------


def path(s: MovingTarget, *t: int) -> Tensor:
    target = s.target(rounds(*t), key())
    assert target.shape == (len(t), R, 1, s.dim)
    row: Tensor = target[:, :, 0]
    return row


def test_the_circle_closes_keeps_its_radius_and_its_step() -> None:
    p = path(MovingTarget("circle", dim=4, radius=2.0, period=12), 0, 1, 2, 12, 10**6 * 12 + 1)
    torch.testing.assert_close(p[..., :2].norm(dim=-1), torch.full((5, R), 2.0, dtype=torch.float64))
    torch.testing.assert_close(p[..., 2:].norm(dim=-1), torch.full((5, R), 2.0, dtype=torch.float64))
    chord = 2 * 2.0 * math.sin(math.pi / 12) * math.sqrt(2)
    torch.testing.assert_close((p[1] - p[0]).norm(dim=-1), torch.full((R,), chord, dtype=torch.float64))
    assert torch.equal(p[3], p[0])
    assert torch.equal(p[4], p[1])
    turned = torch.atan2(p[1, :, 1], p[1, :, 0]) - torch.atan2(p[0, :, 1], p[0, :, 0])
    torch.testing.assert_close(turned % (2 * math.pi), torch.full((R,), math.pi / 6, dtype=torch.float64))


def test_the_line_is_straight() -> None:
    p = path(MovingTarget("line", dim=3, speed=0.25), 0, 4, 8)
    assert float(p[0].abs().max()) == 0
    torch.testing.assert_close(p[1].norm(dim=-1), torch.ones(R, dtype=torch.float64))
    torch.testing.assert_close(p[2], 2 * p[1])


def test_the_walk_sums_its_steps_one_by_one() -> None:
    s, d, T = MovingTarget("walk", dim=3, speed=0.5), 3, 4100
    steps = key().shared.normal("moving_target.walk", d, rounds(*range(T)))[:, 1, 0].tolist()
    at_t, seen = [0.0] * d, {}
    for t in range(1, T):
        at_t = [a + 0.5 / math.sqrt(d) * z for a, z in zip(at_t, steps[t], strict=True)]
        seen[t] = list(at_t)
    chosen = [1, 2, 100, 4095, 4096, 4099]
    torch.testing.assert_close(
        path(s, *chosen)[:, 1], torch.tensor([seen[t] for t in chosen], dtype=torch.float64), rtol=1e-11, atol=1e-11
    )
    p = path(s, *range(2000))
    assert float((p[1:] - p[:-1]).square().sum(-1).mean()) == pytest.approx(0.25, rel=0.03)


def test_the_jump_stands_still_between_jumps() -> None:
    p = path(MovingTarget("jump", period=5), *range(15))
    for k in range(3):
        assert all(torch.equal(p[5 * k], p[5 * k + j]) for j in range(5))
    assert float((p[5] - p[0]).norm()) > 0.1
    assert float((p[10] - p[5]).norm()) > 0.1
    many = path(MovingTarget("jump", radius=3.0, period=1), *range(2000))
    assert float(many.std()) == pytest.approx(3.0, rel=0.03)


def test_offsets_are_the_agents_and_the_target_is_everybodys() -> None:
    s = MovingTarget("circle", period=7, spread=0.3)
    b = s.batch(rounds(0, 3), key())
    moved = b.c[1] - b.c[0]
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))
    torch.testing.assert_close(moved[:, 0], path(s, 3)[0] - path(s, 0)[0])
    torch.testing.assert_close((s.optimum(b)[1] - s.optimum(b)[0]), moved[:, 0])
    assert float(torch.cat([b.c[0] - s.target(rounds(0), key())[0]]).std()) == pytest.approx(0.3, rel=0.4)


# --- localization ----------------------------------------------------------------------------------------------------------


def test_localization_by_hand() -> None:
    s = Localization(size=3.0, radius=1.0, period=8, noise=0.2)
    b = s.batch(rounds(0, 2), key())
    x, r, i = points(2), 2, 4
    qx, qy = b.position[0, r, i].tolist()
    px, py = b.source[1, r, 0].tolist()
    measured = math.hypot(px - qx, py - qy) + 0.2 * float(key().normal("localization.noise", 1, rounds(2))[0, r, i, 0])
    gap = (float(x[r, i, 0]) - qx) ** 2 + (float(x[r, i, 1]) - qy) ** 2 - measured**2
    assert float(s.loss(x, at(b, 1))[r, i]) == pytest.approx(gap**2 / 72, rel=1e-12)
    assert float(b.position.abs().max()) <= 3
    assert float(b.position.abs().max()) > 2
    torch.testing.assert_close(b.source.norm(dim=-1), torch.ones(2, R, 1, dtype=torch.float64))
    quarter = b.source[1] - torch.stack([-b.source[0, ..., 1], b.source[0, ..., 0]], -1)
    assert float(quarter.abs().max()) < 1e-14


def test_without_noise_the_source_is_the_minimiser_and_newton_starts_there() -> None:
    s = Localization(noise=0.0)
    b = s.batch(rounds(0, 40), key())
    assert s.guess(b).shape == (2, R, 2)
    assert s.optimum(b) is None
    x = s.guess(b)[1].unsqueeze(-2).expand(R, N, 2)
    assert float(s.loss(x, at(b, 1)).max()) < 1e-30
    assert float(s.grad(x, at(b, 1)).abs().max()) < 1e-15
    assert bool((torch.linalg.eigvalsh(s.hessian(x, at(b, 1))) > 0).all())


def test_localization_is_not_convex() -> None:
    s = Localization()
    b = at(s.batch(rounds(0), key()), 0)
    at_agents = b.position.expand(R, N, 2)
    assert float(torch.linalg.eigvalsh(s.hessian(at_agents, b)).min()) < 0


# --- logistic regression ---------------------------------------------------------------------------------------------------


def logistic_by_hand(x: list[float], X: list[list[float]], y: list[float], l2: float) -> float:
    """The mean loss of the rows, one row at a time."""
    scores = [sum(a * b for a, b in zip(row, x, strict=True)) for row in X]
    total = sum(math.log(1 + math.exp(-label * z)) for z, label in zip(scores, y, strict=True))
    return total / len(X) + 0.5 * l2 * sum(v * v for v in x)


def test_drifting_logistic_circles_with_the_speed_it_says() -> None:
    s = DriftingLogistic(rows=6, radius=2.0, l2=0.3)
    t = [0, 100, 1234, 10**6]
    b = s.batch(rounds(*t), key())
    home = b.X[0, ..., :2] - 2.0 * torch.tensor([1.0, 0.0], dtype=torch.float64)
    for k, when in enumerate(t):
        drift = torch.tensor([2.0 * math.cos(when / 100), 2.0 * math.sin(when / 100)], dtype=torch.float64)
        torch.testing.assert_close(b.X[k, ..., :2], home + drift, rtol=0, atol=1e-11)
    assert torch.equal(b.X[..., 2], torch.ones_like(b.X[..., 2]))
    assert b.y.flatten().tolist() == [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]
    x = points(3)
    expected = logistic_by_hand(x[1, 4].tolist(), b.X[2, 1, 4].tolist(), b.y[0, 0, 0].tolist(), 0.3)
    assert float(s.loss(x, at(b, 2))[1, 4]) == pytest.approx(expected, rel=1e-13)


def test_drifting_logistic_has_centres_by_label_and_by_agent() -> None:
    s = DriftingLogistic(rows=400, radius=0.0, separation=3.0, spread=0.5, scatter=0.1)
    X, y, _ = s.batch(rounds(0), key())
    plus, minus = X[0, ..., ::2, :2].mean(-2), X[0, ..., 1::2, :2].mean(-2)
    assert bool((y[..., ::2] == 1).all())
    assert float((plus - minus)[..., 0].mean()) == pytest.approx(6.0, abs=0.6)
    assert float(plus[0].std(0).min()) > 0.15  # agents differ
    assert float(X[0, ..., ::2, :2].std(-2).mean()) == pytest.approx(0.1, rel=0.1)
    best = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(R, N, 3)
    assert float(s.accuracy(best, at((X, y, _), 0)).min()) == 1.0


@pytest.mark.parametrize("rows", [1, 3])
def test_absent_rows_and_agents_without_rows(rows: int) -> None:
    g = torch.Generator().manual_seed(0)
    X, x = torch.randn(1, 2, 4, 3, generator=g, dtype=torch.float64), points(3, agents=2, trials=5)
    y = torch.tensor([1.0, -1, -1, 1], dtype=torch.float64).expand(1, 2, 4)
    w = torch.zeros(1, 2, 4, dtype=torch.float64)
    w[0, 1, :rows] = 1 / rows  # agent 0 has none
    loss, grad = _logistic.logistic_loss(x, X, y, w, 0.2), _logistic.logistic_grad(x, X, y, w, 0.2)
    torch.testing.assert_close(loss[:, 0], 0.1 * x[:, 0].square().sum(-1))
    torch.testing.assert_close(grad[:, 0], 0.2 * x[:, 0])
    few = _logistic.logistic_loss(x[:, 1:], X[:, 1:, :rows], y[:, 1:, :rows], w[:, 1:, :rows], 0.2)
    torch.testing.assert_close(loss[:, 1:], few)
    ids = torch.tensor([0, 2, 1, 1]).expand(1, 2, 4)
    x = points(9, agents=2, trials=5)
    torch.testing.assert_close(_logistic.softmax_loss(x, X, ids, w, 0.2)[:, 0], 0.1 * x[:, 0].square().sum(-1))
    torch.testing.assert_close(_logistic.softmax_grad(x, X, ids, w, 0.2)[:, 0], 0.2 * x[:, 0])
    seen = torch.tensor([[[False] * 4, [True, True, False, False]]])
    hit = _logistic.softmax_accuracy(x, X, ids, seen)
    assert hit.shape == (5, 2)
    assert bool(hit[:, 0].isnan().all())
    assert set(hit[:, 1].tolist()) <= {0.0, 0.5, 1.0}


def test_large_scores_overflow_nothing() -> None:
    X, y, w = torch.full((1, 1, 1, 1), 1e4), torch.ones(1, 1, 1), torch.ones(1, 1, 1)
    for x in (torch.full((1, 1, 1), 1e3), torch.full((1, 1, 1), -1e3)):
        assert float(_logistic.logistic_loss(x, X, y, w, 0.0)) == pytest.approx(max(0.0, -float(x) * 1e4))
        assert float(_logistic.logistic_grad(x, X, y, w, 0.0)) == (0.0 if float(x) > 0 else -1e4)


def test_softmax_of_two_classes_is_the_logistic_of_the_difference() -> None:
    g = torch.Generator().manual_seed(1)
    X, x = torch.randn(R, N, 7, 3, generator=g, dtype=torch.float64), points(6)
    ids = torch.randint(0, 2, (R, N, 7), generator=g)
    w = torch.full((1, 1, 7), 1 / 7, dtype=torch.float64)
    z, y = x[..., 3:] - x[..., :3], 2.0 * ids - 1
    torch.testing.assert_close(_logistic.softmax_loss(x, X, ids, w, 0.0), _logistic.logistic_loss(z, X, y, w, 0.0))
    pull = _logistic.logistic_grad(z, X, y, w, 0.0)
    torch.testing.assert_close(_logistic.softmax_grad(x, X, ids, w, 0.0), torch.cat([-pull, pull], -1))
    bend = _logistic.logistic_hessian(z, X, y, w, 0.0)
    torch.testing.assert_close(_logistic.softmax_hessian(x, X, ids, w, 0.0)[..., :3, 3:], -bend)
    everything = torch.ones(1, 1, 7, dtype=torch.bool)
    assert torch.equal(_logistic.softmax_accuracy(x, X, ids, everything), _logistic.logistic_accuracy(z, X, y, everything))


def test_sums_reach_round_a_million_and_whole_and_single_rounds_agree() -> None:
    walk, plane, t = MovingTarget("walk", dim=1), Hyperplane(features=1, reversal=0.5), rounds(999_999, 10**6)
    one, other = key(trials=[1]), key(trials=[1])
    assert torch.equal(walk.target(t, one)[1:], walk.target(t[1:], other))
    assert torch.equal(plane.weights(t, one)[1:], plane.weights(t[1:], other))
    assert not torch.equal(walk.target(t, one)[0], walk.target(t, one)[1])
    assert abs(float(plane.weights(t, one)[1] - plane.weights(t, one)[0])) == pytest.approx(0.01, abs=1e-12)


# --- streams ---------------------------------------------------------------------------------------------------------------


@streams
def test_costs_accuracies_and_no_change_of_a_stream_row_by_row(name: str) -> None:
    s = STREAMS[name]
    T = 7
    k = s.rows
    alone = replace(s, window=1)  # the rows of each round, without a window
    arrived = [at(alone.batch(rounds(t), key()), 0) for t in range(T)]
    b = s.batch(rounds(*range(T)), key())
    x = points(s.dim)
    classes = getattr(s, "classes", 2)
    for t, r, i in [(0, 0, 0), (1, 2, 5), (2, 1, 3), (6, 2, 2), (5, 0, 4)]:
        held = [
            (arrived[u].X[r, i, j].tolist(), float(arrived[u].y[r, i, j]))
            for u in range(max(0, t - s.window + 1), t + 1)
            for j in range(k)
        ]
        v, now = x[r, i].tolist(), at(b, t)
        if classes == 2:
            expected = logistic_by_hand(v, [row for row, _ in held], [y for _, y in held], s.l2)
            guesses = [1.0 if sum(a * c for a, c in zip(row, v, strict=True)) >= 0 else -1.0 for row, _ in held[-k:]]
        else:
            p, expected, guesses = len(held[0][0]), 0.5 * s.l2 * sum(a * a for a in v), []
            for n, (row, y) in enumerate(held):
                scores = [sum(a * c for a, c in zip(row, v[c * p : (c + 1) * p], strict=True)) for c in range(classes)]
                expected += (math.log(sum(math.exp(z) for z in scores)) - scores[int(y)]) / len(held)
                if n >= len(held) - k:
                    guesses.append(float(np.argmax(scores)))
        assert float(s.loss(x, now)[r, i]) == pytest.approx(expected, rel=1e-12)
        new = [y for _, y in held[-k:]]
        assert float(s.accuracy(x, now)[r, i]) == pytest.approx(sum(a == y for a, y in zip(guesses, new, strict=True)) / k)
        before = float(arrived[t - 1].y[r, i, -1]) if t else None
        assert float(s.persistence(now).expand(R, N)[r, i]) == pytest.approx(sum(y == before for y in new) / k)


@streams
def test_windows_slide_and_the_newest_rows_are_fresh(name: str) -> None:
    s = STREAMS[name]
    b = s.batch(rounds(*range(9)), key())
    m = s.rows * s.window
    assert b.X.shape == (9, R, N, m, b.X.shape[-1])
    assert b.fresh[0, 0, 0].tolist() == [False] * (m - s.rows) + [True] * s.rows
    torch.testing.assert_close(b.w.sum(-1), torch.ones(9, 1, 1, dtype=torch.float64))
    for t in range(9):
        assert int((b.w[t] > 0).sum()) == s.rows * min(t + 1, s.window)
    if s.window > 1:
        assert torch.equal(b.X[8, ..., : -s.rows, :], b.X[7, ..., s.rows :, :])
    assert not torch.equal(b.X[7, ..., -s.rows :, :], b.X[8, ..., -s.rows :, :])
    assert torch.equal(b.X[..., -1], torch.ones_like(b.X[..., -1]))
    assert float(b.X.abs().max()) <= (4 if name.startswith("rbf") else 1)


class Fed:
    """Stands in for ``random.Random`` inside river: hands out our numbers in the order in which river asks."""

    def __init__(self, numbers: list[float]) -> None:
        self.numbers = iter(numbers)

    def random(self) -> float:
        return next(self.numbers)

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * next(self.numbers)

    def gauss(self, mean: float, std: float) -> float:
        return mean + std * next(self.numbers)

    def randint(self, low: int, high: int) -> int:
        number = next(self.numbers)
        assert low <= number <= high
        return int(number)


def feed(monkeypatch: pytest.MonkeyPatch, module: Any, *lists: list[float]) -> None:
    """Give the module's generators ``lists``, one for each ``Random`` they make, in order."""
    waiting = [Fed(numbers) for numbers in lists]
    monkeypatch.setattr(module.random, "Random", lambda seed: waiting.pop(0))


@pytest.mark.parametrize("variant", [0, 1, 2, 3])
def test_sea_labels_are_rivers(variant: int, monkeypatch: pytest.MonkeyPatch) -> None:
    s = Sea(period=10, rows=4, window=1, noise=0.25)
    t = rounds(*range(10 * variant, 10 * variant + 10)) + 80  # the third time round
    b = s.batch(t, key())
    words = key().uniform("sea.rows", 16, t)[:, 1, 2].flatten().tolist()
    feed(monkeypatch, river_sea, words)
    ours_X, ours_y = b.X[:, 1, 2].reshape(-1, 4), b.y[:, 1, 2].flatten()
    flipped = 0
    for k, (z, label) in enumerate(river_sea.SEA(variant, noise=0.25, seed=1).take(40)):
        assert ours_X[k, :3].tolist() == pytest.approx([z[j] / 5 - 1 for j in range(3)], abs=1e-15)
        assert float(ours_y[k]) == (1.0 if label else -1.0)
        flipped += label != (z[0] + z[1] > [8, 9, 7, 9.5][variant])
    assert flipped > 2


@pytest.mark.parametrize("drifting", [2, 4])
def test_hyperplane_labels_and_drift_are_rivers(drifting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    f, T = 4, 400
    s = Hyperplane(features=f, drifting=drifting, speed=0.03, reversal=0.1, rows=1, window=1, noise=0.2)
    t = rounds(*range(T))
    b = s.batch(t, key())
    rows = key().uniform("hyperplane.rows", f + 1, t)[:, 2, 3]
    turns = key().shared.uniform("hyperplane.turn", f, rounds(*range(1, T + 1)))[:, 2, 0]
    start = key().shared.uniform("hyperplane.start", f)[0, 2, 0]
    numbers = start.tolist()
    for k in range(T):
        numbers += rows[k].tolist() + turns[k, :drifting].tolist()
    feed(monkeypatch, river_hyperplane, numbers)
    # river compares 0.01 + u with its probabilities, we compare u
    stream = river_hyperplane.Hyperplane(1, f, drifting, mag_change=0.03, noise_percentage=0.21, sigma=0.11)
    weights = s.weights(t, key())[:, 2, 0]
    seen = iter(stream)
    for k in range(T):
        z, label = next(seen)
        assert b.X[k, 2, 3, 0, :f].tolist() == pytest.approx([2 * z[j] - 1 for j in range(f)], abs=1e-15)
        assert float(b.y[k, 2, 3, 0]) == (1.0 if label else -1.0)
        if k + 1 < T:  # river drifts once an example is out, before it hands it over
            assert weights[k + 1].tolist() == pytest.approx(list(stream._weights), abs=1e-12)
    assert float((weights[-1, :drifting] - start[:drifting]).abs().min()) > 0
    assert torch.equal(weights[:, drifting:], start[drifting:].expand(T, f - drifting))


def test_hyperplane_far_away_is_the_same_recursion() -> None:
    s = Hyperplane(features=3, reversal=0.02, speed=2.0**-10)
    far = 9000  # beyond two blocks of the running sums
    turns = (key().shared.uniform("hyperplane.turn", 3, rounds(*range(far + 1)))[:, :, 0] < 0.02).numpy()
    heading, v = np.ones((R, 3)), key().shared.uniform("hyperplane.start", 3)[0, :, 0].numpy().copy()
    for t in range(far):
        v += 2.0**-10 * heading
        heading = np.where(turns[t + 1], -heading, heading)
        if t + 1 in (1, 4095, 4096, 4097, 8192, far):
            np.testing.assert_allclose(s.weights(rounds(t + 1), key())[0, :, 0], v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("speed", [0.03, 0.9])
def test_rbf_rows_labels_and_centroids_are_rivers(classes: int, speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    f, c, T = 3, 5, 300
    s = RbfDrift(features=f, centroids=c, classes=classes, speed=speed, width=1.0, rows=1, window=1)
    t = rounds(*range(1, T + 1))  # river moves before every row: its first row is our round 1
    b = s.batch(t, key())
    start = key().shared.uniform("rbf_drift.start", c * f)[0, 1, 0].reshape(c, f)
    velocity = key().shared.uniform("rbf_drift.velocity", c * f)[0, 1, 0]
    shape = key().shared.uniform("rbf_drift.shape", 2 * c)[0, 1, 0]
    model: list[float] = []
    for j in range(c):
        model += [*start[j].tolist(), float(j % classes), float(shape[j]), float(shape[c + j])]
    words = key().uniform("rbf_drift.rows", f + 3, t)[:, 1, 4].tolist()
    lengths = key().normal("rbf_drift.length", 1, t)[:, 1, 4, 0].tolist()
    samples: list[float] = []
    for k in range(T):
        samples += [words[k][f], *words[k][:f], lengths[k]]
    feed(monkeypatch, river_rbf, model, velocity.tolist(), samples)
    stream = river_rbf.RandomRBFDrift(1, 2, classes, f, c, change_speed=speed, n_drift_centroids=c)
    centres = s.centres(t, key())[:, 1, 0]
    bounced = 0
    for k, (z, label) in enumerate(stream.take(T)):
        np.testing.assert_allclose(centres[k], [one.centre for one in stream.centroids], rtol=0, atol=1e-9)
        assert b.X[k, 1, 4, 0, :f].tolist() == pytest.approx([2 * z[j] - 1 for j in range(f)], abs=1e-8)
        assert float(b.y[k, 1, 4, 0]) == (2.0 * label - 1 if classes == 2 else label)
        bounced += int((np.asarray(stream.centroid_speed) < 0).any())
    assert bounced > T // 2


def test_rbf_centroids_stay_in_the_cube_for_ever_and_can_stand_still() -> None:
    for speed in (0.005, 0.4, 3.0):
        p = RbfDrift(speed=speed).centres(rounds(0, 1, 999, 10**6, 10**6 + 1), key())
        assert float(p.min()) >= 0
        assert float(p.max()) <= 1
        assert not torch.equal(p[3], p[4])
    still = RbfDrift(speed=0.0).centres(rounds(0, 10**6), key())
    torch.testing.assert_close(still[0], still[1], rtol=0, atol=0)


def test_rbf_noise_gives_another_class_as_often_as_it_says() -> None:
    clean, noisy = (RbfDrift(classes=3, noise=p, rows=200, window=1) for p in (0.0, 0.3))
    a, b = (s.batch(rounds(*range(5)), key()).y for s in (clean, noisy))
    changed = a != b
    assert float(changed.double().mean()) == pytest.approx(0.3, abs=0.01)
    shifts = (b - a)[changed] % 3
    assert float((shifts == 1).double().mean()) == pytest.approx(0.5, abs=0.02)
    assert sorted(set(b.flatten().tolist())) == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Quadratic(dim=0), "dim"),
        (lambda: Quadratic(kappa=0.5), "kappa"),
        (lambda: Quadratic(spread=float("nan")), "spread"),
        (lambda: MovingTarget("zigzag"), "zigzag"),
        (lambda: MovingTarget(period=0), "period"),
        (lambda: MovingTarget(kappa=0.0), "kappa"),
        (lambda: MovingTarget(speed=-1.0), "speed"),
        (lambda: Localization(size=0.0), "size"),
        (lambda: Localization(period=0), "period"),
        (lambda: Localization(noise=-0.1), "noise"),
        (lambda: DriftingLogistic(rows=0), "rows"),
        (lambda: DriftingLogistic(l2=-1.0), "l2"),
        (lambda: Sea(window=0), "window"),
        (lambda: Sea(noise=1.5), "noise"),
        (lambda: Sea(l2=-1.0), "l2"),
        (lambda: Hyperplane(features=0), "features"),
        (lambda: Hyperplane(features=3, drifting=4), "drifting"),
        (lambda: Hyperplane(reversal=-0.1), "reversal"),
        (lambda: Hyperplane(speed=-0.1), "speed"),
        (lambda: RbfDrift(rows=0), "rows"),
        (lambda: RbfDrift(classes=9), "classes"),
        (lambda: RbfDrift(noise=2.0), "noise"),
        (lambda: RbfDrift(width=-1.0), "width"),
    ],
)
def test_bad_parameters_are_named(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
