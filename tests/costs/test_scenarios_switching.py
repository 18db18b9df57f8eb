"""Costs of one sample at a time, and the double well: against plain loops and the figures of the papers' dynamics."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.synthetic import N, R, at, cut, key, points, rounds, same
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

import distopt
from distopt.checks import check_scenario
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios.double_well import DoubleWell
from distopt.scenarios.switching import Switching

Floats = NDArray[np.float64]


# --- which sample is held -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", ["own", "shared"])
def test_a_sample_stays_until_a_draw_as_in_a_loop(chain: Any) -> None:
    s, T = Switching(rate=8.0, h=0.02, samples=4, chain=chain), 2100
    found = s.sample(rounds(*range(T)), key())
    who = key().shared if chain == "shared" else key()
    u = who.uniform("switching.turn", 2, rounds(*range(T)))
    first = who.integers("switching.first", 4, 1)[0]
    assert found.shape == (T, R, N if chain == "own" else 1, 1) and found.dtype == torch.int64
    for r in range(R):
        for i in range(found.shape[2]):
            j = int(first[r, i, 0])
            for t in range(T):
                if t and float(u[t, r, i, 0]) < 1 - math.exp(-8.0 * 0.02):
                    j = int(float(u[t, r, i, 1]) * 4)
                assert int(found[t, r, i, 0]) == j


def test_times_between_draws_and_samples_have_their_laws() -> None:
    s, T, many = Switching(rate=30.0, h=0.01, samples=5), 20_000, Key(5, range(20), range(1), 20)
    j = s.sample(rounds(*range(T)), many)[:, 0, :, 0]
    changed = float((j[1:] != j[:-1]).double().mean())
    assert changed == pytest.approx((1 - math.exp(-0.3)) * 4 / 5, rel=0.02)  # one draw in five is the same sample
    shares = torch.bincount(j.reshape(-1), minlength=5).double() / j.numel()
    assert float((shares - 0.2).abs().max()) < 0.01
    apart = j[::40]  # far apart they are independent
    assert float((apart[1:] == apart[:-1]).double().mean()) == pytest.approx(0.2, abs=0.01)


def test_rounds_far_out_are_found_alone() -> None:
    s, far = Switching(rate=0.5, h=0.01, samples=6), 60_000
    whole = s.sample(rounds(*range(far, far + 8)), key())
    assert torch.equal(s.sample(rounds(far + 5), key([2], [1])), whole[5:6, 1:2, 2:3])
    fresh = key()
    for chosen in ([7, 0], [3], list(range(8))):
        assert torch.equal(s.sample(rounds(*[far + k for k in chosen]), fresh), whole[chosen])


def test_the_ends_of_the_rate() -> None:
    t = rounds(*range(3000))
    still = Switching(rate=0.0, samples=4).sample(t, key())
    assert bool((still == still[:1]).all()) and len(still.unique()) > 1
    restless = Switching(rate=1e9, samples=4).sample(t, key())
    u = key().uniform("switching.turn", 2, t)[..., 1:]
    assert torch.equal(restless[1:], (4 * u).to(torch.int64)[1:])
    never = Switching(rate=None, samples=4, dim=3)
    b = never.batch(t, key())
    assert b.centre.shape == (1, R, N, 3) and b.least.shape == (1, R, N, 1)


# --- the costs ----------------------------------------------------------------------------------------------------------


def test_costs_by_hand_and_without_sampling() -> None:
    s = Switching(rate=30.0, samples=5, dim=3, spread=2.0)
    a = 2.0 * key().normal("switching.samples", 15)[0].reshape(R, N, 5, 3)
    j, b, x = s.sample(rounds(0, 50), key()), s.batch(rounds(0, 50), key()), points(3)
    for k in range(2):
        for r in range(R):
            for i in range(N):
                gap = x[r, i] - a[r, i, int(j[k, r, i, 0])]
                assert float(s.loss(x, at(b, k))[r, i]) == pytest.approx(float(gap @ gap) / 2, rel=1e-13)
                assert torch.equal(s.grad(x, at(b, k))[r, i], gap)
    whole = Switching(rate=None, samples=5, dim=3, spread=2.0)
    full = at(whole.batch(rounds(0), key()), 0)
    mean = (x.unsqueeze(-2) - a).square().sum(-1).mean(-1) / 2
    torch.testing.assert_close(whole.loss(x, full), mean)
    torch.testing.assert_close(whole.grad(x, full), x - a.mean(-2))
    centre = s.centre(key())
    torch.testing.assert_close(centre, a.mean((1, 2)))
    assert torch.equal(s.centre(key([1], [2])), centre[2:])
    here = centre.unsqueeze(1).expand(R, N, 3)
    objective = whole.loss(here, full).mean(1) + (x - here).square().sum(-1)[:, 0] / 2
    torch.testing.assert_close(whole.loss(x[:, :1].expand_as(x), full).mean(1), objective)


@pytest.mark.parametrize(
    "s", [Switching(rate=30.0, dim=2), Switching(rate=None), Switching(rate=0.0), Switching(rate=30.0, chain="shared")]
)
def test_it_keeps_the_promises_of_a_scenario(s: Switching) -> None:
    check_scenario(s)
    check_scenario(s, agents=1)


def test_the_comparators_are_means() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = distopt.simulate(
            "ring", agents=4, scenario="switching:rate=30", algorithm="gt:lr=0.1", rounds=500, record="x"
        )
    s, who = Switching(rate=30.0), Key(0, range(4), range(1), 4)
    c = s.batch(rounds(*range(500)), who).centre[:, 0, :, 0].numpy()
    x = run["x"][0, :-1, :, 0].mean(1)
    assert np.abs(run["dynamic_regret"][0] - np.cumsum(2 * (x - c.mean(1)) ** 2)).max() < 1e-9
    static = ((x[:, None] - c) ** 2 - (c.mean() - c) ** 2).sum(1) / 2
    assert np.abs(run["static_regret"][0] - np.cumsum(static)).max() < 1e-9
    assert run["average_dynamic_regret_high"][0, -1] == pytest.approx(run["average_dynamic_regret"][0, -1], rel=1e-9)


@pytest.mark.parametrize("engine", ["threads:workers=2", pytest.param("ranks:workers=2", marks=needs.forks)])
@pytest.mark.parametrize(
    "scenario", ["switching:rate=30,dim=2", "switching:rate=30,chain=shared", "double_well:spread=1,dim=2"]
)
def test_engines_have_the_same_bits(scenario: str, engine: str) -> None:
    ask: dict[str, Any] = {"agents": 5, "scenario": scenario, "rounds": 40, "record": "x", "trials": 2}
    here, there = (
        distopt.simulate("ring", algorithm="gt:lr=0.02", mode="eager", engine=each, **ask) for each in ("local", engine)
    )
    assert all(np.array_equal(here[name], there[name], equal_nan=True) for name in here)


def with_mass(m: float, alpha: float, h: float) -> str:
    """p <- (m p + h g) / (m + alpha h), x <- x - h p, as a heavy ball."""
    return f"dgd:lr={h * h / (m + alpha * h)},direction=momentum(b={m / (m + alpha * h)})"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("m", "rate", "expected"),
    [
        pytest.param(0, 0.3, 0.769, marks=pytest.mark.battery),
        (0, 10, 0.0909),
        (1, 1, 0.667),
        pytest.param(1, 10, 0.0991, marks=pytest.mark.battery),
    ],
)
def test_the_stationary_variance_is_that_of_the_formula(m: float, rate: float, expected: float) -> None:
    """Over 200 trials and all but the first tenth of 20,000 rounds, relative to the samples: 5 % is two standard errors or more."""
    h, T, trials = 0.005, 20_000, 200
    assert (1 + m * rate) / (1 + rate + m * rate**2) == pytest.approx(expected, abs=6e-4)
    spec = f"switching:rate={rate},h={h},samples=8"
    run = distopt.simulate(
        "ring",
        agents=1,
        scenario=spec,
        algorithm=with_mass(m, 1.0, h),
        rounds=T,
        trials=trials,
        record="x",
        agentwise=False,
    )
    a = Key(0, range(1), range(trials), 1).normal("switching.samples", 8)[0, :, 0].numpy()
    x = run["x"][:, T // 10 :, 0, 0] - a.mean(1, keepdims=True)
    assert (x**2).mean() / a.var(1).mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Switching(rate=-1.0), "switching: rate=-1.0 must be a number of at least 0"),
        (lambda: Switching(rate=math.inf), "switching: rate=inf"),
        (lambda: Switching(h=-0.1), "switching: h=-0.1"),
        (lambda: Switching(samples=0), "switching: samples=0"),
        (lambda: Switching(chain="each"), "switching: chain='each' must be one of own, shared"),
        (lambda: DoubleWell(dim=0), "double_well: dim=0"),
        (lambda: DoubleWell(spread=-1.0), "double_well: spread=-1.0"),
        (lambda: DoubleWell(c=math.nan), "double_well: c=nan"),
        (lambda: DoubleWell(begin=1e7), "double_well: begin=10000000.0"),
    ],
)
def test_bad_parameters_are_named(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


# --- the double well ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.15, -0.15, 0.0, 0.38, 2 / math.sqrt(27), 0.39, -3.0, 1e6, 1e-12])
def test_the_lower_minimum_is_the_lowest_of_all_roots(c: float) -> None:
    s = DoubleWell(c=c)
    x = float(s.optimum(s.batch(rounds(0), Key(0, range(1), range(1), 1))))
    roots = np.roots([1, 0, -1, c])
    real = roots[np.abs(roots.imag) < 1e-6 * np.abs(roots).max()].real
    costs = real**4 / 4 - real**2 / 2 + c * real
    assert x == pytest.approx(real[costs.argmin()], rel=1e-7) or (c == 0 and x == -1)
    assert abs(x**3 - x + c) <= 1e-15 * max(1.0, abs(c)) * 4


@pytest.mark.parametrize("agents", [1, 2, 5, 6])
def test_tilts_differ_and_their_mean_is_the_given_one(agents: int) -> None:
    s, whole = DoubleWell(c=0.2, spread=3.0, dim=2), Key(1, range(agents), range(3), agents)
    b = s.batch(rounds(0, 7), whole)
    assert b.c.shape == (1, 3, agents, 2)
    assert float((b.c.mean(-2) - 0.2).abs().max()) < 1e-15 and (agents == 1 or float(b.c.std()) > 0.5)
    for i in range(agents):
        same(
            s.batch(rounds(3), Key(1, [i], [2], agents)), pytree.tree_map(lambda v, i=i: cut(cut(v, 2, [i]), 1, [2]), b)
        )


@pytest.mark.parametrize("s", [DoubleWell(), DoubleWell(c=-1.0, spread=2.0, dim=3), DoubleWell(c=0.0)])
def test_the_well_keeps_the_promises_of_a_scenario(s: DoubleWell) -> None:
    check_scenario(s)
    it = Comparator(Blocks(s, Key(0, range(5), range(2), 5), 30))
    assert it.blocks.static and it.reference(0).residual.max() < 1e-14
    fixed = it.fixed()
    assert fixed is not None and torch.equal(fixed, it.reference(0).x[0])


def falls(algorithm: str, begin: float, time: float, h: float = 0.02) -> Floats:
    """The points of one agent in the well."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = distopt.simulate(
            "ring",
            agents=1,
            scenario=f"double_well:begin={begin}",
            algorithm=algorithm,
            rounds=round(time / h),
            record="x",
        )
    assert run["x"][0, 0, 0, 0] == begin and (run["dynamic_regret"] >= 0).all()
    found: Floats = run["x"][0, :, 0, 0]
    return found


def test_mass_rolls_over_into_the_lower_well() -> None:
    h, low = 0.02, -1.0679
    assert falls("dgd:lr=0.02", 1.6, 80)[-1] == pytest.approx(0.914, abs=1e-3)
    heavy = falls(with_mass(4, 1.0, h), 1.6, 80)
    assert heavy[-1] == pytest.approx(low, abs=1e-3)
    away = np.flatnonzero(np.abs(heavy - low) > 1e-3)[-1] + 1
    assert away * h == pytest.approx(57, abs=1)
    light = falls(with_mass(1, 1.0, h), 2.2, 40)
    assert np.abs(light[int(15 / h) :] - low).max() < 1e-2
    away = np.flatnonzero(np.abs(light - low) > 1e-3)[-1] + 1
    assert away * h == pytest.approx(13.6, abs=0.3)


def test_agents_agree_on_the_lower_well() -> None:
    run = distopt.simulate(
        "ring", agents=5, scenario="double_well:spread=0.5,begin=-0.5", algorithm="gt:lr=0.05", rounds=600, record="x"
    )
    assert np.abs(run["x"][0, -1] + 1.0679).max() < 1e-3
    assert run["tracking_error"][0, -1] < 1e-6
