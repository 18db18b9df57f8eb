"""The pages on the sphere and on the gradient flow: their parts in a short form, their costs, and verdicts on figures made for them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pages import measured, outcomes, shortened

from distopt import reproduce
from distopt.numerics.random import Key
from distopt.reproduce import flow, spherical_sharpness
from distopt.reproduce.flow import DeepLinear, hessian, split, target, times
from distopt.reproduce.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


# --------------------------------------------------------------------------------------------------------- on the sphere


def test_the_ratio_is_that_of_the_step_on_the_sphere(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, spherical_sharpness, RUNS=((0.02, 0.01, 20), (0.05, 0.0, 20)), READINGS=2)
    decayed, still = measured(store, "spherical-sharpness", "digits")
    for each in (decayed, still):
        lr, decay = each["lr"], each["decay"]
        assert each["sharpness"]["t"] == each["length"]["t"] == [9, 19]
        step = lr / ((1 - lr * decay) * np.array(each["length"]["values"]) ** 2)
        np.testing.assert_allclose(
            each["ratio"]["values"], np.array(each["sharpness"]["values"]) * step / 2, rtol=1e-12
        )


def test_verdicts_on_the_sphere() -> None:
    def made(
        lr: float, decay: float, ratio: list[float], sharpness: list[float], length: list[float]
    ) -> dict[str, Any]:
        values = {"ratio": ratio, "sharpness": sharpness, "length": length}
        each = {name: {"t": [1, 2, 3], "values": value} for name, value in values.items()}
        return {"lr": lr, "decay": decay, "rounds": 3, **each}

    good = [
        made(0.02, 0.01, [0.9, 1.05, 1.04], [200, 170, 144], [1.4, 1.3, 1.2]),
        made(0.05, 0.0, [0.5, 0.55, 0.6], [388, 400, 460], [3.0, 3.0, 3.0]),
    ]
    assert outcomes("spherical-sharpness", "digits", good) == ["holds"] * 5 + ["open"] * 2
    bad = [
        made(0.02, 0.01, [0.9, 0.95, 1.2], [200, 190, 190], [1.4, 1.4, 1.4]),
        made(0.05, 0.0, [0.5, 0.55, 1.0], [388, 300, 300], [3.0, 2.9, 2.8]),
    ]
    assert outcomes("spherical-sharpness", "digits", bad) == ["does not hold"] * 5 + ["open"] * 2


# ---------------------------------------------------------------------------------------------------------- and the flow


@pytest.mark.parametrize("balanced", [0, 1, -1])
def test_the_deep_linear_network_has_its_gradient_and_its_starts(balanced: int) -> None:
    network, key = DeepLinear(0.3, balanced), Key(3, range(1), range(3), 1)
    x, b = network.start(key), network.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)[0]
    one, two, three = split(x)
    whole = times(three, times(two, one))
    rest = whole - torch.from_numpy(target()).reshape(4, 4)
    torch.testing.assert_close(network.loss(x, b), rest.square().sum((-1, -2)) / 2)
    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(network.loss(y, b).sum(), y)
    torch.testing.assert_close(slope, network.grad(x, b), rtol=1e-10, atol=1e-12)
    assert len({float(each) for each in whole[:, 0, 0, 0]}) == 3, "another start in each trial"
    if balanced:
        assert (balanced * torch.linalg.det(whole) > 0).all()
        for low, high in ((one, two), (two, three)):
            assert float((times(high.mT, high) - times(low, low.mT)).abs().max()) < 0.05


def test_the_hessian_is_that_of_differences_of_gradients() -> None:
    network, x = DeepLinear(), torch.linspace(-1, 1, 48, dtype=torch.float64)
    b, width, found = torch.from_numpy(target()), 1e-6, hessian(x)
    for k in (0, 20, 47):
        e = torch.eye(48, dtype=torch.float64)[k]
        near = (network.grad(x + width * e, b) - network.grad(x - width * e, b)) / (2 * width)
        torch.testing.assert_close(found[k], near, rtol=1e-6, atol=1e-7)


def test_halving_the_step_halves_the_distance(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, flow, TIME=2.0, SCALES=(0.3,), DIGITS_TIME=1.0)
    results = measured(store, "flow", "order")
    small = [each["most"] for each in results["deep linear, start 0.3"]]
    assert [large / less for large, less in pairwise(small[1:])] == pytest.approx([2, 2], rel=0.1)
    digits = results["digits"]
    assert [each["time"][-1] for each in digits] == pytest.approx([1.0] * 4)
    assert digits[0]["relative"] > digits[1]["relative"] > digits[2]["relative"] > digits[3]["relative"] > 0


def test_balanced_starts_descend(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, flow, TIME=1.0, STARTS=3, START_ROUNDS=600, POINTS=3, REACHED=1e-3)
    results = measured(store, "flow", "valleys")
    assert results["time"] == pytest.approx([0.4875, 0.9875]) and len(results["elsewhere"]) == 3
    assert results["same"]["reached"] == 3 and 0 < results["same"]["median"] < 600
    assert results["other"]["reached"] == 0
    assert min(results["elsewhere"]) > 5 * max(results["along"])


def test_verdicts_on_the_flow() -> None:
    def runs(rates: tuple[float, ...], scale: float) -> list[dict[str, Any]]:
        return [{"lr": lr, "most": scale * lr, "relative": scale * lr, "cost": 1.0} for lr in rates]

    good = {f"deep linear, start {scale:g}": runs(flow.RATES, 1.0) for scale in flow.SCALES}
    good["digits"] = runs(flow.DIGITS_RATES, 0.1)
    assert outcomes("flow", "order", good) == ["holds"] * 2
    bad = {
        name: [{**each, "most": 1.0, "relative": 0.5, "cost": each["lr"]} for each in own] for name, own in good.items()
    }
    assert outcomes("flow", "order", bad) == ["does not hold"] * 2
    near = {"along": [0.1, 3.0], "elsewhere": [26.0, 79.0], "same": {"reached": 20}}
    assert outcomes("flow", "valleys", near) == ["holds", "holds", "open"]
    far = {"along": [30.0], "elsewhere": [26.0], "same": {"reached": 19}}
    assert outcomes("flow", "valleys", far) == ["does not hold", "does not hold", "open"]


@pytest.mark.parametrize("paper", ["spherical-sharpness", "flow"])
def test_every_page_says_whose_it_is(paper: str) -> None:
    module = reproduce._module(paper)
    assert module.REFERENCE and module.NOTE and module.PARTS is reproduce.parts(paper)
