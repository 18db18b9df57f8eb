"""LED and ProxSkip, local steps with a dual variable, against loops written from their papers; and rounds without an exchange."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs

import distopt
from distopt.algorithms.led import LED
from distopt.algorithms.prox_skip import ProxSkip
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.net import Rehearsal
from distopt.numerics.random import words
from distopt.simulation.problem import build

N, D, ROUNDS, TRIALS = 5, 3, 60, 3
draw = np.random.default_rng(3)
CURVATURE, CENTRE = draw.uniform(0.5, 2.0, (N, D)), draw.normal(0, 2, (N, D))
W = np.zeros((N, N))
for i in range(N):
    W[i, i] = W[i, (i + 1) % N] = W[i, (i - 1) % N] = 1 / 3
HALF = (np.eye(N) + W) / 2
ASK: dict[str, Any] = {"agents": N, "scenario": f"moving_target:dim={D}", "rounds": ROUNDS, "trials": TRIALS, "seed": 4}


def centre(t: int, moving: float) -> Any:
    return CENTRE + moving * np.sin(0.1 * t + np.arange(N))[:, None]


@pytest.mark.parametrize("moving", [0.0, 1.0])
@pytest.mark.parametrize(("local", "dual"), [(1, 1.0), (5, 1.0), (4, 0.5), (3, 1.5)])
def test_rounds_of_led_are_those_of_the_paper(local: int, dual: float, moving: float) -> None:
    x, y, wanted = np.zeros((N, D)), np.zeros((N, D)), [np.zeros((N, D))]
    for t in range(ROUNDS):
        phi = x
        for _ in range(local):
            phi = phi - 0.05 * CURVATURE * (phi - centre(t, moving)) - dual / local * y
        x = HALF @ phi
        y = y + phi - x
        wanted.append(x)
    algorithm, w = LED(0.05, local, dual), torch.from_numpy(W)
    z = torch.zeros(1, N, D, dtype=torch.float64)
    state, path = algorithm.init(z), [z]
    for t in range(ROUNDS):
        a, c = torch.from_numpy(CURVATURE), torch.from_numpy(centre(t, moving))
        round = Rehearsal(lambda name, v: w @ v, z, t, grad=lambda v, a=a, c=c: a * (v - c))
        z, state = algorithm.update(a * (z - c), state, z, round)
        path.append(z)
        assert float(state.y.sum(1).abs().max()) < 1e-12 and round.gradients == local - 1
    assert np.abs(torch.cat(path).numpy() - np.array(wanted)).max() < 1e-12 * np.abs(wanted).max()


@pytest.mark.parametrize("lr", ["0.1", "inverse_sqrt(0.3)", "step(0.2,every=20)"])
@pytest.mark.parametrize("spec", ["led:local=1,lr={}", "prox_skip:p=1.0,lr={}"])
def test_with_an_exchange_after_every_step_both_are_exact_diffusion(spec: str, lr: str) -> None:
    ask = {**ASK, "topology": "ring", "record": "x", "mode": "eager"}
    mine, known = (distopt.simulate(algorithm=each.format(lr), **ask) for each in (spec, "exact_diffusion:lr={}"))
    assert np.abs(mine["x"] - known["x"]).max() < 1e-12 * np.abs(known["x"]).max()
    assert np.array_equal(mine["bits"], known["bits"]) and np.array_equal(mine["messages"], known["messages"])


@pytest.mark.parametrize("spec", ["led:lr=0.1,local=3", "prox_skip:lr=0.2,p=0.5", "prox_skip:lr=0.2,p=0.5,chi=1.5"])
def test_both_find_the_optimum_itself(spec: str) -> None:
    run = distopt.simulate("ring", agents=6, scenario="quadratic", algorithm=spec, rounds=1500, mode="compiled")
    assert run["tracking_error"][0, -1] < 1e-11 < run["tracking_error"][0, 0]


def coins(seed: int, trial: int, p: float) -> Any:
    """The coin of each round from its address."""
    return np.array([words(seed, "coin", trial, t, 1)[0] < p for t in range(ROUNDS)])


@pytest.mark.parametrize("chi", [1.0, 2.5])
def test_rounds_of_prox_skip_are_those_of_the_paper(chi: float) -> None:
    spec = f"prox_skip:lr=0.1,p=0.3,chi={chi}"
    run = distopt.simulate("ring", algorithm=spec, record="x", mode="eager", x0=0.5, **ASK)
    problem = build(Experiment("ring", algorithm=spec, **ASK))
    data = problem.scenario.batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), problem.key)
    a, c = (each.expand(ROUNDS, TRIALS, N, D).numpy() for each in (data.a, data.c))
    mixing = np.eye(N) - (np.eye(N) - W) / (2 * chi)
    for r in range(TRIALS):
        x, y, heads = np.full((N, D), 0.5), np.zeros((N, D)), coins(4, r, 0.3)
        assert 5 < heads.sum() < 35
        for t in range(ROUNDS):
            assert np.abs(run["x"][r, t] - x).max() < 1e-12 * max(1.0, np.abs(x).max())
            z = x - 0.1 * a[t, r] * (x - c[t, r]) - y
            x = mixing @ z if heads[t] else z
            y = y + 0.3 * (z - x)
        np.testing.assert_array_equal(run["bits"][r], 64 * D * heads.cumsum())
        np.testing.assert_array_equal(run["messages"][r], 2 * heads.cumsum())
        np.testing.assert_array_equal(run["gradients"][r], np.arange(1, ROUNDS + 1))
    assert len({tuple(coins(4, r, 0.3)) for r in range(TRIALS)}) == TRIALS


@pytest.mark.parametrize(
    "engine",
    ["threads:workers=3", pytest.param("ranks:workers=2", marks=needs.forks), pytest.param("threads:workers=1")],
)
@pytest.mark.parametrize("channel", ["exact", "choco:compressor=qsgd,gamma=0.3"])
@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_every_engine_tosses_the_same_coins(mode: str, channel: str, engine: str) -> None:
    ask = {**ASK, "topology": "ring", "algorithm": "prox_skip:lr=0.05,p=0.3", "channel": channel, "dtype": "float32"}
    here, there = (distopt.simulate(record="x,y", mode=mode, engine=each, **ask) for each in ("local", engine))
    for name in ("x", "y", "bits", "messages"):
        assert np.array_equal(here[name], there[name])
    assert np.isfinite(here["x"]).all() and np.abs(here["y"]).max() > 0


def test_memory_of_channels_stays_where_nothing_is_sent() -> None:
    run = distopt.simulate(
        "ring",
        algorithm="prox_skip:lr=0.05,p=0.3",
        channel="choco:compressor=sign,gamma=0.3",
        record="memory.z.copy,y",
        mode="eager",
        **ASK,
    )
    for name in ("memory.z.copy", "y"):
        values = run[name]
        for r in range(TRIALS):
            moved = np.abs(np.diff(values[r], axis=0)).reshape(ROUNDS - 1, -1).max(1) > 0
            np.testing.assert_array_equal(moved, coins(4, r, 0.3)[1:])


def test_a_grid_of_probabilities_has_the_coins_of_each() -> None:
    ask = {**ASK, "topology": "ring", "record": "x", "mode": "eager", "dtype": "float32"}
    both = distopt.simulate(algorithm="prox_skip:lr=0.1,p=[0.2,0.6],chi=[1.0,2.0]", **ask)
    assert len(both) == 4
    for label, run in both.items():
        alone = distopt.simulate(algorithm=label, **ask)
        assert all(np.array_equal(run[name], alone[name]) for name in ("x", "bits", "messages"))


def test_the_mean_of_the_points_counts_the_same_messages() -> None:
    ask = {**ASK, "topology": "ring", "mode": "eager"}
    inner = "prox_skip(lr=0.1,p=0.3)"
    mean, plain = (distopt.simulate(algorithm=each, **ask) for each in (f"averaged({inner},start=3)", inner))
    assert np.array_equal(mean["bits"], plain["bits"])


def test_names_and_fields() -> None:
    assert ProxSkip(p=0.4).coin == 0.4 and LED().coin is None and ProxSkip().weights == LED().weights == "symmetric"
    with pytest.raises(InputError, match=r"^prox_skip: chi must be at least 1, got 0.5"):
        ProxSkip(chi=0.5)
    with pytest.raises(InputError, match="^led: local must be a whole number from 1 to 1000, got 0"):
        LED(local=0)


class Unnamed:
    """Asks for a coin without saying how often it falls on True."""

    channels = ("x",)

    def init(self, x: Any) -> tuple[()]:
        return ()

    def update(self, g: Any, state: Any, x: Any, mix: Any) -> Any:
        return torch.where(mix.coin, mix("x", x), x) - 0.01 * g, state


class Late(Unnamed):
    """Asks for the coin from its second round on."""

    coin = 0.5

    def update(self, g: Any, state: Any, x: Any, mix: Any) -> Any:
        return mix("x", x) if mix.t == 0 else torch.where(mix.coin, mix("x", x), x), state


@pytest.mark.parametrize(
    ("algorithm", "told"),
    [
        (Unnamed(), r"^algorithm unnamed: coin must lie in \(0, 1\], got None"),
        (Late(), "uses mix.coin in this round, but not in round 0"),
    ],
)
def test_a_coin_without_a_probability_is_refused(algorithm: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        distopt.simulate("ring", algorithm=algorithm, mode="eager", **ASK)
