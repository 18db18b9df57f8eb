"""GT-STORM and STORM against loops over agents, Super-Adam, and what is known of their estimates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import one_agent
from helpers.one_agent import START, Floats, Gradient, apart
from torch import Tensor

import distopt
from distopt.algorithms.dgd import DGD
from distopt.algorithms.gt_storm import GTStorm
from distopt.algorithms.storm import storm
from distopt.directions.superadam import SuperAdam
from distopt.errors import InputError
from distopt.network.net import Rehearsal
from distopt.schedules.inverse_sqrt import InverseSqrt

N, D, ROUNDS = 5, 3, 80
_draw = np.random.default_rng(8)
CURVATURE, CENTRE = _draw.uniform(0.5, 2.0, (N, D)), _draw.normal(0, 2, (N, D))
XI = _draw.normal(size=(2, ROUNDS, N, D))
W = np.zeros((N, N))
for _i in range(N):
    W[_i, _i] = W[_i, (_i + 1) % N] = W[_i, (_i - 1) % N] = 1 / 3


def noisy(x: Any, t: int, noise: float, kind: Any = np.asarray) -> Any:
    """(curvature + noise) (x - centre) + noise, of a round, as NumPy's numbers or as tensors."""
    scale, shift = (kind(noise * each[t]) for each in XI)
    return (kind(CURVATURE) + 0.3 * scale) * (x - kind(CENTRE)) + shift


def superadam(grad: Gradient, lr: Any, k: float = 1.0, m: float = 100.0, c: float = 5.0) -> list[Floats]:
    """Super-Adam with tau = 1: the loop of its paper, in its order: the point, then the estimate there."""
    x, v, path = START, (1 - 0.999) * grad(START, 0) ** 2, [START]
    estimate = grad(x, 0)
    for t in range(1, one_agent.ROUNDS + 1):
        mu = k / (m + t) ** (1 / 3)
        target = x - lr(t - 1) * estimate / (np.sqrt(v / (1 - 0.999**t)) + 1e-3)
        before, x = x, (1 - mu) * x + mu * target
        path.append(x)
        if t < one_agent.ROUNDS:
            share, s = min(c * mu**2, 0.99), grad(x, t)
            estimate = share * s + (1 - share) * (estimate + s - grad(before, t))
            v = 0.999 * v + (1 - 0.999) * s**2
    return path


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize(("lr", "settings"), [(0.1, {}), (0.02, {"k": 3.0, "m": 10.0, "c": 4.0})], ids=str)
def test_on_one_agent_both_are_super_adam(lr: float, settings: dict[str, float], noise: float) -> None:
    wanted = np.array(superadam(one_agent.gradient(noise), lambda t: lr, **settings))
    for algorithm in (GTStorm(lr, **settings), GTStorm(lr, "atc", **settings), storm(lr, **settings)):
        assert apart(one_agent.simulated(algorithm, noise, mode="eager"), wanted) < 1e-12


def test_a_schedule_is_the_step_of_each_round() -> None:
    wanted = np.array(superadam(one_agent.gradient(1.0), lambda t: float(1 / np.sqrt(t + 9.0))))
    assert apart(one_agent.simulated(GTStorm(InverseSqrt(1.0, shift=9.0)), 1.0, mode="compiled"), wanted) < 1e-12


def from_the_paper(lr: float, noise: float, form: str, adaptive: bool, tracking: bool) -> list[Floats]:
    """GT-HSGD's order: s_0 is the first estimate, and trackers travel at the end of a round with the next one."""
    x, v, path = np.zeros((N, D)), np.zeros((N, D)), [np.zeros((N, D))]
    estimate = noisy(x, 0, noise)
    s = estimate
    for t in range(ROUNDS):
        v = 0.99 * v + 0.01 * noisy(x, t, noise) ** 2
        below = np.sqrt(v / (1 - 0.99 ** (t + 1))) + 0.01 if adaptive else 1.0
        mu = 2 / (50 + t + 1) ** (1 / 3)
        step = lr * mu * (s if tracking else estimate) / below
        before, x = x, W @ x - step if form == "cta" else W @ (x - step)
        path.append(x)
        if t + 1 < ROUNDS:
            fresh = noisy(x, t + 1, noise) + (1 - min(3 * mu**2, 0.99)) * (estimate - noisy(before, t + 1, noise))
            s, estimate = W @ s + fresh - estimate, fresh
    return path


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("form", ["cta", "atc"])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("tracking", [True, False])
def test_rounds_are_those_of_the_paper(tracking: bool, adaptive: bool, form: Any, noise: float) -> None:
    algorithm = GTStorm(0.2, form, k=2.0, m=50.0, c=3.0, beta=0.99, lam=0.01, adaptive=adaptive, tracking=tracking)
    w, x = torch.from_numpy(W), torch.zeros(1, N, D, dtype=torch.float64)
    state, path = algorithm.init(x), [x]
    for t in range(ROUNDS):
        round = Rehearsal(lambda _, z: w @ z, x, t, grad=lambda y, t=t: noisy(y, t, noise, torch.tensor))
        g = noisy(x, t, noise, torch.tensor)
        x, state = algorithm.update(g, state, x, round)
        path.append(x)
        assert round.gradients == 1
        if tracking:
            assert float((state.s.mean(1) - state.estimate.mean(1)).abs().max()) < 1e-12
            if t > 5 and noise:  # it follows the estimates, and not the gradients
                assert float((state.s.mean(1) - g.mean(1)).abs().max()) > 1e-3
    wanted = np.array(from_the_paper(0.2, noise, form, adaptive, tracking))
    assert np.abs(wanted[-1]).max() > 0.1
    assert np.abs(torch.cat(path).numpy() - wanted).max() < 1e-12 * np.abs(wanted).max()


@pytest.mark.parametrize("algorithm", [GTStorm(0.2), storm(0.2), GTStorm(0.2, adaptive=False)], ids=repr)
def test_where_nothing_is_random_the_estimate_is_the_gradient(algorithm: GTStorm) -> None:
    w, x = torch.from_numpy(W), torch.zeros(1, N, D, dtype=torch.float64)
    state = algorithm.init(x)
    for t in range(ROUNDS):
        g = noisy(x, t, 0.0, torch.tensor)
        round = Rehearsal(lambda _, z: w @ z, x, t, grad=lambda y: noisy(y, 0, 0.0, torch.tensor))
        x, state = algorithm.update(g, state, x, round)
        assert float((state.estimate - g).abs().max()) < 1e-14 * max(1.0, float(g.abs().max()))


def test_only_trackers_take_the_bias_away_where_costs_differ() -> None:
    ends = {}
    for name in ("gt_storm", "storm"):
        run = distopt.simulate(
            "ring",
            agents=6,
            scenario="quadratic",
            algorithm=f"{name}:lr=0.2,adaptive=false",
            rounds=3000,
            mode="compiled",
        )
        ends[name] = float(run["consensus_error"][:, -1].mean())
        assert "tracker_invariant" not in run.metrics
    assert ends["gt_storm"] < 1e-12 < ends["storm"] / 1e6


DIM, TRIALS = 20, 200
ASKED = (100, 1000, 8000)


def errors(algorithm: Any, estimate: Any, asked: tuple[int, ...] = ASKED) -> list[float]:
    """E |estimate - gradient|^2 at some rounds, on a quadratic with additive and multiplicative noise, a trial each."""
    generator = torch.Generator().manual_seed(3)
    a = torch.logspace(-0.5, 0.5, DIM, dtype=torch.float64)
    x = torch.ones(TRIALS, 1, DIM, dtype=torch.float64)
    state, found = algorithm.init(x), []
    for t in range(asked[-1]):
        shift, scale = torch.randn(2, TRIALS, 1, DIM, generator=generator, dtype=torch.float64)

        def grad(y: Tensor, shift: Tensor = shift, scale: Tensor = scale) -> Tensor:
            return (a + 0.3 * scale) * y + shift

        g, truth = grad(x), a * x
        x, state = algorithm.update(g, state, x, Rehearsal(lambda _, z: z, x, t, grad))
        if t + 1 in asked:
            found.append(float((estimate(g, state) - truth).square().sum(-1).mean()))
    return found


@pytest.mark.slow
def test_the_variance_of_an_estimate_falls_as_the_weight_of_the_new_gradient() -> None:
    """While x hardly moves, E |G - grad|^2 is d al / (2 - al): 1.6, .48, .13 for STORM and 4.3, 1.6, .57 for momentum, of 20 for a gradient."""
    storms = errors(storm(0.2), lambda g, state: state.estimate)
    momenta = errors(DGD(0.2, direction=SuperAdam()), lambda g, state: state.direction.estimate)
    weights = [5 / (100.0 + t - 1) ** (2 / 3) for t in ASKED], [5 / (100.0 + t) ** 0.5 for t in ASKED]
    for found, of in zip((storms, momenta), weights, strict=True):
        assert found == pytest.approx([DIM * al / (2 - al) for al in of], rel=0.15)
    assert errors(DGD(1e-3), lambda g, state: g, (100,)) == pytest.approx([DIM * 1.09], rel=0.05)


def test_names_and_fields() -> None:
    assert storm(0.3, k=2.0).channels == ("x",) and storm().weights == "row"
    assert GTStorm().channels == ("x", "s") and GTStorm().weights == "doubly"
    with pytest.raises(InputError, match="^storm: c must be positive"):
        storm(c=0.0)
    with pytest.raises(InputError, match="^gt_storm: form must be one of cta, atc"):
        GTStorm(form="x")
