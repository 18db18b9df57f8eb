"""Sensors that see parts of a moving state: what one of them lacks, and how good the estimate of all of them is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.synthetic import rounds

import distopt
from distopt.checks.scenarios import check_scenario
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios.sensor_fusion import SensorFusion, information


@pytest.mark.parametrize(
    "scenario",
    [
        SensorFusion(),
        SensorFusion(dim=5, rows=2, motion="walk"),
        SensorFusion(dim=6),
        SensorFusion(noise=0.0, motion="jump"),
    ],
    ids=repr,
)
def test_promises_of_scenarios_hold(scenario: SensorFusion) -> None:
    check_scenario(scenario)


def test_one_sensor_alone_cannot_tell_and_all_can() -> None:
    s = SensorFusion(dim=4, rows=2, noise=0.0)
    one, all_ = (s.batch(rounds(5), Key(1, ids, range(1), 6)) for ids in ([3], range(6)))
    assert torch.linalg.matrix_rank(information(one)).item() == 2 and float(s.modulus(one)) == 0
    assert torch.linalg.matrix_rank(information(all_)).item() == 4 and float(s.modulus(all_)) > 0.1
    p = s.state(rounds(5), Key(1, range(6), range(1), 6))[:, :, 0]
    assert float((s.optimum(all_) - p).abs().max()) < 1e-12
    alone = s.optimum(one)  # the shortest of its minimisers
    assert float((alone - p).norm()) > 0.1 and float(alone.norm()) < float(p.norm())
    assert float(s.grad(alone[0].unsqueeze(1), type(one)(*(leaf[0] for leaf in one))).abs().max()) < 1e-12


def test_the_estimate_is_that_of_least_squares() -> None:
    s, key = SensorFusion(dim=3, rows=2), Key(2, range(4), range(2), 4)
    b = s.batch(rounds(0, 7), key)
    found = s.optimum(b).numpy()
    for k in range(2):
        for r in range(2):
            root = b.w[0, r].sqrt().numpy().reshape(-1)
            H, y = b.H[0, r].numpy().reshape(-1, 3), b.y[k, r].numpy().reshape(-1)
            wanted = np.linalg.lstsq(root[:, None] * H, root * y, rcond=None)[0]
            np.testing.assert_allclose(found[k, r], wanted, rtol=1e-10)


def test_the_error_has_the_covariance_of_the_docstring() -> None:
    s, key, T = SensorFusion(dim=2, noise=0.3), Key(4, range(5), range(3), 5), 4000
    t = rounds(*range(T))
    b = s.batch(t, key)
    error = s.optimum(b) - s.state(t, key)[:, :, 0]
    found = torch.einsum("krd,kre->rde", error, error) / T
    wanted = s.noise**2 * torch.linalg.inv(information(b))[0]
    gap = (found - wanted).flatten(1).norm(dim=-1) / wanted.flatten(1).norm(dim=-1)
    assert float(gap.max()) < 5 * (2 / T) ** 0.5, gap
    assert 0.1 <= float(b.w.min()) < float(b.w.max()) <= 1


def test_the_regret_is_certified_and_the_best_fixed_point_is_found() -> None:
    s, key = SensorFusion(motion="walk"), Key(0, range(8), range(2), 8)
    comparator = Comparator(Blocks(s, key, 30))
    reference = comparator.reference(0)
    assert reference.gap is not None and float(reference.gap.max()) < 1e-20
    fixed = comparator.fixed()
    each = s.optimum(s.batch(rounds(*range(30)), key))
    assert fixed is not None
    torch.testing.assert_close(fixed, each.mean(0), rtol=1e-9, atol=1e-10)


def test_a_network_finds_a_state_that_stands_still() -> None:
    ask: dict[str, Any] = {"agents": 6, "scenario": "sensor_fusion:noise=0,motion=line,speed=0.001", "rounds": 600}
    run = distopt.simulate("ring", algorithm="gt:lr=0.3", mode="eager", **ask)
    assert run["tracking_error"][0, -1] < 0.1
    with pytest.raises(InputError, match="^sensor_fusion: motion='spiral' must be one of"):
        SensorFusion(motion="spiral")
