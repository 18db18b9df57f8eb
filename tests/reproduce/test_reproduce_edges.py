"""The pages on the edge of stability: their parts in a short form, what they measure against whole matrices, and verdicts on made figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pages import measured, outcomes, shortened

import distopt
from distopt import reproduce
from distopt.algorithms.dgd import DGD
from distopt.algorithms.gt import GT
from distopt.costs.data import Blocks
from distopt.experiment import Experiment
from distopt.numerics.trees import at
from distopt.reproduce import adaptive_edge, edge_of_stability
from distopt.reproduce.adaptive_edge import Frozen, Tilted
from distopt.reproduce.landscape import NetworkSharpness, OwnSharpness, edge, plateau, read, ring
from distopt.reproduce.store import Store
from distopt.simulation.problem import build

PAPERS = ("edge-of-stability", "adaptive-edge")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


# ------------------------------------------------------------------------------------------------------ gradient descent


def test_gradient_descent_reads_its_sharpness(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, edge_of_stability, ROUNDS=60, SLOW_ROUNDS=40, EVERY=20, RATES=(0.5,))
    fast, slow = measured(store, "edge-of-stability", "digits")
    assert fast["readings"]["t"] == [19, 39, 59] and slow["readings"]["t"] == [19, 39]
    assert fast["ends"] == pytest.approx(0.5 * np.mean(fast["readings"]["values"]))
    assert slow["rises"] == 0 and len(slow["cost"]) == 3 and slow["cost"][-1] < slow["cost"][0]


def test_verdicts_on_gradient_descent() -> None:
    fast = {"lr": 0.5, "rounds": 3000, "ends": 2.02, "rises": 900, "cost": [1.0, 0.5, 0.1]}
    slow = {"lr": 0.2, "rounds": 5000, "readings": {"t": [1], "values": [5.0]}, "first": 0.5, "rises": 0}
    holds = ["holds"] * 5 + ["open"]
    assert outcomes("edge-of-stability", "digits", [fast, slow]) == holds
    low = {**fast, "ends": 1.8, "rises": 3, "cost": [1.0, 0.1, 0.2]}
    late = {**slow, "readings": {"t": [1], "values": [9.9]}, "rises": 4}
    expected = ["does not hold"] * 3 + ["holds in part", "does not hold", "open"]
    assert outcomes("edge-of-stability", "digits", [low, late]) == expected


# ------------------------------------------------------------------------------------------------------------------ Adam


def test_adam_reads_both_kinds_of_sharpness(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    adam = ((0.9, 0.999, 3e-3), (0.9, 0.999, 1e-2))
    shortened(monkeypatch, adaptive_edge, ADAM=adam, ROUNDS=40, EVERY=20)
    *fast, slow = measured(store, "adaptive-edge", "digits")
    assert [each["lr"] for each in (*fast, slow)] == [3e-3, 1e-2, 1e-3]
    for each in (*fast, slow):
        assert each["readings"]["t"] == each["raw"]["t"] == [19, 39]
        assert each["ends"] == pytest.approx(each["lr"] * np.mean(each["readings"]["values"]))


def test_verdicts_on_adam() -> None:
    def made(b1: float, lr: float, ends: float, raw: float) -> dict[str, Any]:
        each = {"t": [1], "values": [ends / lr]}
        return {"b1": b1, "b2": 0.999, "lr": lr, "ends": ends, "readings": each, "raw": {"t": [1], "values": [raw]}}

    good = [made(0.9, 3e-3, 37.7, 6.0), made(0.9, 1e-2, 38.1, 4.5), made(0.9, 1e-3, 26.0, 6.0)]
    assert outcomes("adaptive-edge", "digits", good) == ["holds"] * 3
    bad = [made(0.9, 3e-3, 37.7, 20.0), made(0.9, 1e-2, 30.0, 6.0), made(0.9, 1e-3, 38.0, 6.0)]
    assert outcomes("adaptive-edge", "digits", bad) == ["holds in part", "does not hold", "does not hold"]


def test_on_a_quadratic_the_edge_is_sharp(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, adaptive_edge, STABLE_ROUNDS=3000)
    results = measured(store, "adaptive-edge", "quadratic")
    for name, each in results.items():
        assert each["below"]["growth"] < 0.1 and each["above"]["growth"] > 10, name
    assert outcomes("adaptive-edge", "quadratic", results) == ["holds", "holds"]
    swapped = {name: {**each, "below": each["above"]} for name, each in results.items()}
    assert outcomes("adaptive-edge", "quadratic", swapped) == ["holds in part", "holds in part"]


def test_the_tilted_quadratic_has_its_gradient() -> None:
    tilted, x = Tilted(), torch.tensor([[[0.3, -0.7]]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([3.0, 1.0, 1.0, 2.0], dtype=torch.float64).reshape(1, 1, 4)
    (slope,) = torch.autograd.grad(tilted.loss(x, b).sum(), x)
    torch.testing.assert_close(slope, tilted.grad(x.detach(), b))
    top = np.linalg.eigvals(np.diag([2.0, 0.5]) @ np.array([[3.0, 1.0], [1.0, 2.0]])).real.max()
    assert pytest.approx(top) == adaptive_edge.TOP


# -------------------------------------------------------------------------------------------------------------- networks


def test_weights_are_the_shipped_ones() -> None:
    for agents in (1, 3, 5):
        topology = "complete" if agents == 1 else "ring"
        problem = build(Experiment(topology, agents, "quadratic:dim=1", "dgd", rounds=1))
        given = problem.network.mixings[0].dense(torch.tensor(0))
        np.testing.assert_allclose(ring(agents), given[0, 0].numpy(), atol=1e-15)


DIM, AGENTS = 2, 5
P = np.tile([0.5, 2.0], AGENTS)
"""The divisor of ``Fixed`` in all coordinates of all agents."""


class Fixed(Frozen):
    """It tells its divisor, as the probes ask."""

    def preconditioner(self, state: Any) -> torch.Tensor:
        return torch.tensor([self.first, self.second], dtype=torch.float64)


def system(lr: float, b1: float, tracking: bool) -> np.ndarray:
    """The linear map of (x, g, s, m) in a round, of all agents together, on the quadratic with seed 0."""
    problem = build(Experiment("ring", AGENTS, f"quadratic:dim={DIM}", "gt", rounds=1))
    h = np.diag(at(Blocks(problem.scenario, problem.key, 1).get(0), 0).a[0].numpy().ravel())
    n, w, divided = AGENTS * DIM, np.kron(ring(AGENTS), np.eye(DIM)), np.diag(1 / P)
    one, none = np.eye(n), np.zeros((n, n))
    # s+ = W s + H x - g or H x, with g the gradient of the round before; m+ = b1 m + (1 - b1) s+
    s = np.hstack([h, -one, w, none]) if tracking else np.hstack([h, none, none, none])
    m = b1 * np.hstack([none, none, none, one]) + (1 - b1) * s
    return np.vstack([np.hstack([w, none, none, none]) - lr * divided @ m, np.hstack([h, none, none, none]), s, m])


def radius(matrix: np.ndarray) -> float:
    """The size of the largest eigenvalue, but for those of vectors that no round changes: s may keep a part with H x = 0, which is never there."""
    values = np.linalg.eigvals(matrix)
    return float(np.abs(values[np.abs(values - 1) > 1e-9]).max())


@pytest.mark.parametrize(("tracking", "b1"), [(True, 0.9), (True, 0.0), (False, 0.9), (False, 0.5)])
def test_the_sharpness_of_the_network_is_where_the_network_becomes_unstable(tracking: bool, b1: float) -> None:
    kind = GT if tracking else DGD
    asked: dict[str, Any] = {"agents": AGENTS, "scenario": f"quadratic:dim={DIM}", "rounds": 2}
    probe = NetworkSharpness(2, tracking, tolerance=1e-10)
    run = distopt.simulate("ring", **asked, algorithm=kind(1e-3, direction=Fixed(b1)), probe=probe)
    limit = edge(b1) / run["networksharpness"][0, -1]
    assert np.abs(np.linalg.eigvals(system(limit, b1, tracking)) + 1).min() < 1e-6, "the edge has the eigenvalue -1"
    assert radius(system(0.999 * limit, b1, tracking)) < 1 < radius(system(1.001 * limit, b1, tracking))
    away = {}
    for factor in (0.99, 1.01):
        algorithm = kind(factor * limit, direction=Fixed(b1))
        x = distopt.simulate("ring", **{**asked, "rounds": 3000}, algorithm=algorithm, record="x", every=3000)["x"][0]
        away[factor] = float(np.abs(x[-1] - x[-2]).max())
    assert away[0.99] < 1e-9 and not away[1.01] < 1e3, away


def test_agents_own_sharpness_is_that_of_their_own_hessians() -> None:
    algorithm = GT(1e-2, direction=Fixed(0.9))
    asked: dict[str, Any] = {"agents": AGENTS, "scenario": f"quadratic:dim={DIM}", "rounds": 2}
    run = distopt.simulate("ring", **asked, algorithm=algorithm, probe=OwnSharpness(2, tolerance=1e-10))
    problem = build(Experiment("ring", **asked, algorithm="gt"))
    each = (at(Blocks(problem.scenario, problem.key, 1).get(0), 0).a[0].numpy() / [0.5, 2.0]).max(-1)
    found = [run[f"ownsharpness_{name}"][0, -1] for name in ("low", "mean", "high")]
    assert found == pytest.approx([each.min(), each.mean(), each.max()], rel=1e-8)


def test_before_the_first_round_nothing_is_divided() -> None:
    asked: dict[str, Any] = {"agents": 3, "scenario": "quadratic:dim=2", "rounds": 2}
    probes = [OwnSharpness(1), NetworkSharpness(1)]
    run = distopt.simulate("ring", **asked, algorithm="gt:direction=adam(bias_correction=true)", probe=probes)
    names = ("ownsharpness_mean", "networksharpness")
    assert all(np.isnan(run[name][0, 0]) and run[name][0, 1] > 0 for name in names)
    assert read(run, "networksharpness")["t"] == [1]
    assert np.isnan(plateau({"t": [], "values": []}))


@pytest.mark.slow
def test_networks_are_measured_in_three_ways(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened(monkeypatch, adaptive_edge, ROUNDS=20, NETWORK_EVERY=10)
    results = measured(store, "adaptive-edge", "network")
    one = results["one agent"]["ends"]
    assert one["average"] == pytest.approx(one["own"], rel=1e-9) == pytest.approx(one["network"], rel=1e-9)
    for name, each in results.items():
        ends = each["ends"]
        assert ends["low"] <= ends["own"] <= ends["high"], name
        assert each["agents"] == 1 or ends["network"] > ends["average"], name


def test_verdicts_on_networks() -> None:
    def made(agents: int, average: float, own: float, network: float) -> dict[str, Any]:
        return {"agents": agents, "ends": {"average": average, "own": own, "network": network}}

    names = list(adaptive_edge.NETWORKS)
    found = dict(
        zip(names, [made(1, 38, 38, 38), made(5, 5, 10, 39), made(5, 6, 7, 39), made(5, 10, 20, 37)], strict=True)
    )
    holds = ["holds", "does not hold", "does not hold", "holds", "open"]
    assert outcomes("adaptive-edge", "network", found) == holds
    other = {**found, names[2]: made(5, 38, 38, 90)}
    expected = ["holds in part", "holds in part", "holds in part", "does not hold", "open"]
    assert outcomes("adaptive-edge", "network", other) == expected


@pytest.mark.parametrize("paper", PAPERS)
def test_every_page_has_a_reference(paper: str) -> None:
    module = reproduce._module(paper)
    assert module.REFERENCE and module.NOTE and module.PARTS is reproduce.parts(paper)
