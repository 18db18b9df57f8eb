"""LT-ADMM, ADMM, DLM and ATG against loops over agents and links, and against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs

import distopt
from distopt.algorithms.admm import ADMM
from distopt.algorithms.atg import ATG
from distopt.algorithms.dlm import DLM
from distopt.algorithms.lt_admm import LTADMM
from distopt.errors import InputError
from distopt.network.net import Rehearsal

N, D, ROUNDS = 6, 3, 60
draw = np.random.default_rng(5)
CURVATURE, CENTRE, START = draw.uniform(0.5, 2.0, (N, D)), draw.normal(0, 2, (N, D)), draw.normal(0, 1, (N, D))
RING = np.zeros((N, N))
for i in range(N):
    RING[i, (i + 1) % N] = RING[i, (i - 1) % N] = 1 / 2
CHORD = np.zeros((N, N))
for i, j in [*((i, (i + 1) % N) for i in range(N)), (0, 3)]:
    CHORD[i, j] = CHORD[j, i] = 1 / 4
CHORD += np.diag(1 - CHORD.sum(1))
ASK: dict[str, Any] = {"agents": N, "scenario": "moving_target:dim=3", "rounds": 12, "seed": 4, "trials": 2}
ALL = ("lt_admm:lr=0.05,local=3", "admm:lr=0.1,rho=2.0,local=3", "dlm:lr=0.1,rho=2.0", "atg:lr=0.1")
Step = Callable[[int, Any], Any]


def gradient(t: int, moving: float) -> Step:
    centre = CENTRE + moving * np.sin(0.1 * t + np.arange(N))[:, None]
    return lambda _, x: CURVATURE * (x - centre)


def links(w: Any, x: Any, share: float, penalty: float) -> Any:
    """z[i][j] of each link by itself, and how an exchange of x changes them. At first an agent's own value lies on the link with itself."""
    z = {(i, j): (i == j) * penalty * x[i] for i in range(N) for j in range(N) if w[i, j] or i == j}

    def exchange(x: Any) -> None:
        message = {(j, i): z[j, i] - 2 * penalty * w[i, j] * x[j] for i, j in z}  # from j to i
        for (i, j), value in z.items():
            z[i, j] = (1 - share) * value - share * message[j, i]

    return lambda i: sum(value for (k, _), value in z.items() if k == i), exchange


def lt_admm(w: Any, moving: float, lr: float, local: int, dual: float, share: float) -> Any:
    rho = 0.7  # any
    x, (total, exchange), path = START, links(w, START, share, rho), [START]
    for t in range(ROUNDS):
        r = np.array([rho * x[i] - total(i) for i in range(N)])
        for _ in range(local):
            x = x - lr * gradient(t, moving)(t, x) - dual / (local * rho) * r
        exchange(x)
        path.append(x)
    return np.array(path)


def admm(w: Any, moving: float, lr: float, rho: float, local: int, share: float) -> Any:
    x, (total, exchange), path = START, links(w, START, share, rho), [START]
    for t in range(ROUNDS):
        near = np.array([total(i) / rho for i in range(N)])
        if local:
            for _ in range(local):
                x = x - lr * (gradient(t, moving)(t, x) + rho * (x - near))
        else:  # the minimum itself
            x = (rho * near - gradient(t, moving)(t, np.zeros((N, D)))) / (CURVATURE + rho)
        exchange(x)
        path.append(x)
    return np.array(path)


def dlm(w: Any, moving: float, lr: float, rho: float) -> Any:
    """In the order of the paper: the dual variable moves at the end of a round, by the points that have just been sent."""
    x, z, path = START, np.zeros((N, D)), [START]
    apart = np.array([sum(rho * w[i, j] * (x[i] - x[j]) for j in range(N)) for i in range(N)])
    for t in range(ROUNDS):
        x = x - lr * (gradient(t, moving)(t, x) + apart + z)
        apart = np.array([sum(rho * w[i, j] * (x[i] - x[j]) for j in range(N)) for i in range(N)])
        z = z + apart
        path.append(x)
    return np.array(path)


def atg(w: Any, moving: float, lr: float, rho: float, gamma: float, share: float) -> Any:
    pair = np.concatenate([START, np.zeros((N, D))], 1)
    x, (total, exchange), path = START, links(w, pair, share, rho), [START]
    for t in range(ROUNDS):
        held = np.concatenate([x, gradient(t, moving)(t, x)], 1)
        both = (held + np.array([total(i) for i in range(N)])) / (1 + rho)
        x = (1 - gamma) * x + gamma * (both[:, :D] - lr * both[:, D:])
        exchange(both)
        path.append(x)
    return np.array(path)


def walked(algorithm: Any, w: Any, moving: float) -> Any:
    matrix, x = torch.from_numpy(w), torch.from_numpy(START)[None]
    state, path = algorithm.init(x), [x]
    for t in range(ROUNDS):

        def grad(y: Any, t: int = t) -> Any:
            return torch.from_numpy(gradient(t, moving)(t, y.numpy()))

        x, state = algorithm.update(grad(x), state, x, Rehearsal(lambda _, z: matrix @ z, x, t, grad))
        path.append(x)
    return torch.cat(path).numpy()


CASES = [
    (LTADMM(0.1, 1), lambda w, m: lt_admm(w, m, 0.1, 1, 1.0, 0.5)),
    (LTADMM(0.05, 4, 0.6, 0.8), lambda w, m: lt_admm(w, m, 0.05, 4, 0.6, 0.8)),
    (ADMM(0.2, 1.5, 3), lambda w, m: admm(w, m, 0.2, 1.5, 3, 0.5)),
    (ADMM(0.1, 2.5, 5, 0.7), lambda w, m: admm(w, m, 0.1, 2.5, 5, 0.7)),
    (DLM(0.1, 2.0), lambda w, m: dlm(w, m, 0.1, 2.0)),
    (ATG(0.2), lambda w, m: atg(w, m, 0.2, 1.0, 0.5, 0.5)),
    (ATG(0.1, 0.8, 0.3, 0.7), lambda w, m: atg(w, m, 0.1, 0.8, 0.3, 0.7)),
]


@pytest.mark.parametrize("w", [RING, CHORD], ids=["ring without self weights", "chord"])
@pytest.mark.parametrize("moving", [0.0, 1.0])
@pytest.mark.parametrize(("algorithm", "loop"), CASES, ids=[str(k) for k in range(len(CASES))])
def test_sums_of_links_are_the_links_one_by_one(algorithm: Any, loop: Any, moving: float, w: Any) -> None:
    """On the ring the links are the paper's, all alike, and there are no others."""
    wanted = loop(w, moving)
    assert np.abs(walked(algorithm, w, moving) - wanted).max() < 1e-12 * max(1.0, np.abs(wanted).max())
    assert np.abs(wanted[-1] - wanted[0]).max() > 0.1


@pytest.mark.parametrize("moving", [0.0, 1.0])
def test_many_gradient_steps_are_the_minimisation_of_admm(moving: float) -> None:
    wanted = admm(CHORD, moving, 0.0, 1.5, 0, 0.6)
    assert np.abs(walked(ADMM(0.4, 1.5, 80, 0.6), CHORD, moving) - wanted).max() < 1e-11


def test_one_local_step_of_lt_admm_is_dlm() -> None:
    """From one starting point: apart from that, the first dual variable differs."""
    ask = {**ASK, "topology": "ring", "record": "x", "rounds": 60, "mode": "eager"}
    mine, known = (
        distopt.simulate(algorithm=each, **ask)["x"] for each in ("lt_admm:lr=0.1,local=1", "dlm:lr=0.1,rho=5")
    )
    assert np.abs(mine - known).max() < 1e-12 * np.abs(known).max()


@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("spec", ALL)
def test_all_find_the_optimum_itself(spec: str, drop: float) -> None:
    ask = {"agents": 8, "scenario": "quadratic", "rounds": 1500, "mode": "compiled", "drop_links": drop}
    run = distopt.simulate("ring", algorithm=spec, **ask)
    assert run["tracking_error"][0, -1] < 1e-10 < run["tracking_error"][0, 0]


@pytest.mark.parametrize("channel", ["exact", "choco:compressor=sign,gamma=0.3"])
@pytest.mark.parametrize("engine", ["threads:workers=3", pytest.param("ranks:workers=2", marks=needs.forks)])
@pytest.mark.parametrize("spec", ALL)
def test_every_engine_has_the_same_bits(spec: str, engine: str, channel: str) -> None:
    ask = {**ASK, "topology": "ring", "algorithm": spec, "channel": channel, "dtype": "float32", "record": "x"}
    here, there = (distopt.simulate(engine=each, mode="eager", **ask) for each in ("local", engine))
    assert np.array_equal(here["x"], there["x"]) and np.array_equal(here["bits"], there["bits"])
    assert np.isfinite(here["x"]).all()


@pytest.mark.parametrize(
    "spec", ["lt_admm:local=2,lr={}", "admm:rho=2.0,local=3,lr={}", "dlm:rho=2.0,lr={}", "atg:lr={}"]
)
def test_a_step_size_that_falls_leads_to_the_optimum_too(spec: str) -> None:
    ask = {"agents": 8, "scenario": "quadratic", "rounds": 1500, "mode": "compiled"}
    run = distopt.simulate("ring", algorithm=spec.format("step(0.06,every=800,factor=0.5)"), **ask)
    assert run["tracking_error"][0, -1] < 1e-10


def test_signs_through_a_channel_that_keeps_means_find_it_too() -> None:
    for spec in ("dlm:lr=0.05,rho=2.0", "lt_admm:lr=0.05,local=1"):
        run = distopt.simulate(
            "ring",
            agents=6,
            scenario="quadratic:dim=4",
            algorithm=spec,
            channel="choco:compressor=sign,gamma=0.3",
            rounds=4000,
            mode="compiled",
        )
        assert run["tracking_error"][0, -1] < 1e-8, spec


def test_atg_takes_direction_rules() -> None:
    run = distopt.simulate("ring", algorithm="atg:lr=0.05,direction=adam", mode="eager", **{**ASK, "rounds": 400})
    plain = distopt.simulate("ring", algorithm="dgd:lr=0.05,direction=adam", mode="eager", **{**ASK, "rounds": 400})
    assert run["consensus_error"][:, -1].mean() < plain["consensus_error"][:, -1].mean()


def test_names_and_fields() -> None:
    assert {each.weights for each in (LTADMM(), ADMM(), DLM(), ATG())} == {"symmetric"}
    with pytest.raises(InputError, match=r"^atg: gamma must lie in \(0, 1\], got 2"):
        ATG(gamma=2)
    with pytest.raises(InputError, match=r"^lt_admm: relaxation must lie in \(0, 1\], got 0"):
        LTADMM(relaxation=0)
