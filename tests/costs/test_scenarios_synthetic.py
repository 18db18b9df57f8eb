"""The synthetic scenarios against autograd, finite differences, and plain Python loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.synthetic import SCENARIOS, N, R, at, cut, key, leaves, points, rounds, same
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios.drifting_logistic import DriftingLogistic
from distopt.scenarios.hyperplane import Hyperplane
from distopt.scenarios.localization import Localization
from distopt.scenarios.moving_target import MovingTarget
from distopt.scenarios.quadratic import Quadratic
from distopt.scenarios.rbf_drift import RbfDrift
from distopt.scenarios.sea import Sea

every = pytest.mark.parametrize("name", SCENARIOS)


# --- a pure function of (rounds, agents, trials) ---------------------------------------------------------------------------


@every
@pytest.mark.parametrize("start", [0, 4090, 999_990])
def test_blocks_chunks_and_order_leave_the_bits_alone(name: str, start: int) -> None:
    s = SCENARIOS[name]
    if name in ("moving-walk", "hyperplane", "hyperplane-all", "switching"):
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
    assert len(set(cost.flatten().tolist())) > R * N // 2 + (
        0 if "one-row" in name else R * N // 4
    )  # trials and agents differ
    other = s.batch(rounds(*range(9)), key(seed=12))
    assert not torch.equal(s.grad(x, now), s.grad(x, at(other, 8)))
    if not name.startswith(("quadratic", "teacher")):  # whose data no round changes
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


@pytest.mark.parametrize(
    "name",
    [
        "quadratic",
        "switching",
        "moving-circle",
        "moving-walk",
        "moving-jump",
        "moving-line",
        "sensor-circle",
        "sensor-rows",
    ],
)
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
