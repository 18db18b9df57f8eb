"""Mirror descent and Frank-Wolfe against loops written from their recursions, on the sets that they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.quadratics import ROUNDS, D, Drifting, Floats, N, W, apart, gradient, simulated

import distopt
from distopt.algorithms.domd import DOMD
from distopt.algorithms.online_frank_wolfe import OnlineFrankWolfe
from distopt.checks.methods import check_algorithm
from distopt.errors import InputError
from distopt.scenarios.feasible import Feasible

SIMPLEX = Feasible(Drifting(), "simplex", 1.0)


def mirrored(x: Floats, p: float) -> Floats:
    """The gradient of |x|_p^2 / 2."""
    norm = (np.abs(x) ** p).sum(-1, keepdims=True) ** (1 / p)
    return np.sign(x) * np.abs(x) ** (p - 1) * norm ** (2 - p)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_entropy_is_multiplicative_weights(mode: str) -> None:
    x = np.full((N, D), 1 / D)
    path = [x]
    for t in range(ROUNDS):
        y = x * np.exp(-0.1 * gradient(x, t))
        x = W @ (y / y.sum(-1, keepdims=True))
        path.append(x)
    found = simulated(DOMD(0.1, "entropy"), scenario=SIMPLEX, mode=mode)
    assert apart(found, np.array(path)) < 1e-12
    assert found.min() > 0 and np.abs(found.sum(-1) - 1).max() < 1e-12


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_norms_have_the_mirror_of_their_exponent(mode: str) -> None:
    x = np.full((N, D), 0.5)
    path, p = [x], 1.3
    for t in range(ROUNDS):
        x = W @ mirrored(mirrored(x, p) - 0.1 * gradient(x, t), p / (p - 1))
        path.append(x)
    assert apart(simulated(DOMD(0.1, "pnorm", p), x0=0.5, mode=mode), np.array(path)) < 1e-11


def test_euclidean_steps_are_projected_before_they_are_mixed() -> None:
    x = np.zeros((N, D))
    path = [x]
    for t in range(ROUNDS):
        x = W @ (x - 0.2 * gradient(x, t)).clip(-0.3, 0.3)
        path.append(x)
    found = simulated(DOMD(0.2), scenario=Feasible(Drifting(), "box", 0.3), mode="eager")
    assert apart(found, np.array(path)) < 1e-12


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_frank_wolfe_goes_to_corners(mode: str) -> None:
    x, s, last = np.full((N, D), 1 / D), np.zeros((N, D)), np.zeros((N, D))
    path = [x]
    for t in range(ROUNDS):
        g = gradient(x, t)
        s, last = W @ s + g - last, g
        x = 0.95 * (W @ x) + 0.05 * np.eye(D)[s.argmin(-1)]
        path.append(x)
    assert apart(simulated(OnlineFrankWolfe(0.05), scenario=SIMPLEX, mode=mode), np.array(path)) < 1e-12


def test_without_a_set_frank_wolfe_stays_in_a_ball() -> None:
    found = simulated(OnlineFrankWolfe(0.1, radius=0.4), mode="eager")
    assert 0.2 < np.linalg.norm(found, axis=-1).max() < 0.4 + 1e-12


def test_a_grid_has_the_bits_of_its_points() -> None:
    ask: dict[str, Any] = {"agents": 4, "scenario": "moving_target:kappa=2", "rounds": 10, "record": "x", "x0": 0.5}
    for spec in ("domd:geometry=pnorm,lr=[0.02,0.05],p=[1.3,1.7]", "online_frank_wolfe:lr=[0.02,0.1],radius=[1.0,3.0]"):
        runs = distopt.simulate("ring", algorithm=spec, mode="eager", **ask)
        assert len(runs) == 4
        for label, run in runs.items():
            np.testing.assert_array_equal(run["x"], distopt.simulate("ring", algorithm=label, mode="eager", **ask)["x"])


@pytest.mark.parametrize("algorithm", [DOMD(0.1), DOMD(0.1, "pnorm"), OnlineFrankWolfe()], ids=repr)
def test_promises_of_algorithms_hold(algorithm: Any) -> None:
    check_algorithm(algorithm)


def test_what_they_refuse() -> None:
    with pytest.raises(InputError, match=r"^domd: p must lie in \(1, 2\), got 2"):
        DOMD(p=2)
    with pytest.raises(InputError, match=r"^online_frank_wolfe: lr must lie in \(0, 1\], got 1.5"):
        OnlineFrankWolfe(lr=1.5)
    x = torch.zeros(1, 1, 2)
    from distopt.network.net import Rehearsal

    with pytest.raises(InputError, match="minimises linear functions over the allowed points"):
        Rehearsal(lambda name, z: z, x).lmo(x)
