"""What is known of training at the edge of stability comes out: full-batch training of the digits' network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

import distopt
from distopt.algorithms.dgd import DGD
from distopt.directions.adam import Adam

ONE: dict[str, Any] = {"agents": 1, "scenario": "digits_mlp", "rounds": 3000}


def plateau(run: Any, name: str, count: int = 10) -> float:
    """The mean of the last readings."""
    return float(run.readings(name)[1][0, -count:].mean())


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.5, 1.0])
def test_gradient_descent_trains_where_lr_times_the_sharpness_is_two(lr: float) -> None:
    run = distopt.simulate("complete", **ONE, algorithm=f"dgd:lr={lr}", probe="sharpness:every=100")
    assert lr * plateau(run, "sharpness") == pytest.approx(2.0, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("b1", "b2", "lr", "edge"),
    [
        (0.9, 0.999, 3e-3, 38.0),
        (0.9, 0.999, 1e-2, 38.0),
        (0.9, 0.99, 3e-3, 38.0),
        (0.5, 0.999, 1e-3, 6.0),
        (0.0, 0.999, 1e-3, 2.0),
    ],
)
def test_adam_trains_at_the_edge_of_its_preconditioned_sharpness(b1: float, b2: float, lr: float, edge: float) -> None:
    """lambda_max(P^-1 H) lr is (2 + 2 b1) / (1 - b1)."""
    assert edge == pytest.approx((2 + 2 * b1) / (1 - b1))
    rule = Adam(b1=b1, b2=b2, eps_inside=False, cap=None, bias_correction=True)
    probe = "preconditioned_sharpness:every=100"
    run = distopt.simulate("complete", **ONE, algorithm=DGD(lr=lr, direction=rule), probe=probe)
    assert lr * plateau(run, "preconditioned_sharpness") == pytest.approx(edge, rel=0.05)


class Decay:
    """The gradient and decoupled weight decay."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def __call__(self, s: Tensor, state: tuple[()], mix: Any) -> tuple[Tensor, tuple[()]]:
        return s + self.decay * mix.x, ()


@pytest.mark.slow
def test_weight_decay_reduces_the_spherical_sharpness_along_its_edge() -> None:
    """The network at 8 x / |x|: spherical sharpness times lr / ((1 - lr decay) |x|^2) is about 2, and falls."""
    x0 = distopt.simulate("complete", agents=1, scenario="digits_mlp", algorithm="dgd", rounds=1, record="x")["x"][0, 0]
    asked = {**ONE, "scenario": "digits_mlp:normalised=8", "rounds": 6000, "x0": x0 / np.linalg.norm(x0)}
    algorithm = DGD(lr=0.02, direction=Decay(0.01))
    run = distopt.simulate("complete", **asked, algorithm=algorithm, probe="spherical_sharpness:every=250")
    (found,), (length,) = (run.readings(name)[1] for name in ("spherical_sharpness", "spherical_sharpness_norm"))
    ratio = found * 0.02 / ((1 - 0.02 * 0.01) * length**2) / 2
    assert ratio[1:].min() > 1.0 and ratio.max() < 1.06
    assert found[-1] < 0.65 * found[0], "it falls"


@pytest.mark.slow
def test_smaller_steps_stay_nearer_to_the_flow() -> None:
    """The relative distance at time 40 is of the order of the step size, below the edge."""
    found = {}
    for lr in (0.2, 0.1):
        rounds = round(40 / lr) + 1
        asked = {**ONE, "rounds": rounds, "algorithm": f"dgd:lr={lr}"}
        run = distopt.simulate("complete", **asked, probe=f"flow_distance:every={rounds},parts=2")
        found[lr] = float(run["flow_distance_relative"][0, -1])
    assert found[0.1] < 0.01 and found[0.2] / found[0.1] == pytest.approx(2.0, rel=0.1)
