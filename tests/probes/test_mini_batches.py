"""The sharpness of mini-batches: against whole Hessians of the rows that were chosen, and which scenarios have mini-batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import distopt
from distopt.catalog import registry
from distopt.checks import check_probe, check_scenario
from distopt.costs.data import Blocks
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.trees import at
from distopt.probes.mini_batch_edge import MiniBatchEdge, _order
from distopt.scenarios.drifting_logistic import DriftingLogistic
from distopt.simulation.probing import Probing
from distopt.simulation.problem import build
from distopt.simulation.round import AgentState
from distopt.simulation.snapshot import Snapshot

WITH_ROWS = ("digits", "digits_mlp", "drifting_logistic", "flights", "hyperplane", "rbf_drift", "sea")


def seen_of(scenario: Any, agents: int, monkeypatch: pytest.MonkeyPatch, t: int = 3) -> Snapshot:
    """What a probe is given before round t."""
    kept: list[Any] = []
    problem = build(Experiment("ring", agents, scenario, "gt", rounds=t + 1, probe=(MiniBatchEdge(1, 1),)))
    monkeypatch.setattr(MiniBatchEdge, "measure", lambda self, seen: kept.append(seen) or (0.0, 0.0))
    data = at(Blocks(problem.scenario, problem.key, t + 1).get(0), t)
    Probing([problem]).look(0, t, AgentState(problem.x0, problem.algorithm.init(problem.x0), {}), data, ())
    monkeypatch.undo()
    return kept[0]


def test_batches_are_means_over_the_rows_that_were_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_of("drifting_logistic:rows=4", 3, monkeypatch)
    probe = MiniBatchEdge(1, size=5, batches=3, tolerance=1e-10)
    assert len(seen.mean) == 3
    X, w = seen.data.X[0].reshape(12, 3), seen.data.w.flatten()
    y, l2 = seen.data.y.expand(1, 3, 4).reshape(12), float(seen.scenario.linear_rows(seen.data)[3])
    tops = []
    for number in range(3):
        chosen = _order(seen, number, 12)[:5]
        assert len(set(chosen.tolist())) == 5
        p = 1 / (1 + torch.exp(y[chosen] * (X[chosen] @ seen.mean)))
        h = (X[chosen].T * (p * (1 - p))) @ X[chosen] * float(4 * w[0]) / 5 + l2 * torch.eye(3, dtype=w.dtype)
        tops.append(float(torch.linalg.eigvalsh(h)[-1]))
    found, step = probe.measure(seen)
    assert found == pytest.approx(np.mean(tops), rel=1e-9) and step == pytest.approx(2 / found)


def test_all_samples_have_the_sharpness_and_small_batches_are_sharper() -> None:
    asked: dict[str, Any] = {"agents": 3, "scenario": "digits_mlp:rows=30", "algorithm": "gt", "rounds": 2}
    sizes = (1, 4, 30)
    found = []
    for size in sizes:
        probes = ["sharpness:every=2,tolerance=1e-6", f"mini_batch_edge:every=2,size={size},batches=4,tolerance=1e-6"]
        run = distopt.simulate("ring", **asked, probe=probes)
        found.append(float(run["mini_batch_edge"][0, -1]))
    assert found[0] > found[1] > found[2] == pytest.approx(float(run["sharpness"][0, -1]), rel=1e-5)


@pytest.mark.parametrize("name", WITH_ROWS)
def test_scenarios_with_samples_name_their_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = registry.make("scenarios", name)
    assert scenario.row_weights == "w"
    seen = seen_of(scenario, 2, monkeypatch)
    w = seen.data.w.expand(1, 2, -1)
    for factor in (0.0, 3.0):  # what has no samples in it is left at 0
        scaled = seen.with_data(seen.data._replace(w=factor * w)).cost(seen.mean)
        rest = seen.with_data(seen.data._replace(w=0 * w)).cost(seen.mean)
        assert float(scaled) == pytest.approx(float(rest + factor * (seen.cost(seen.mean) - rest)), rel=1e-9)


@pytest.mark.parametrize("name", ["quadratic", "localization", "moving_target"])
def test_costs_without_samples_are_refused_by_name(name: str) -> None:
    with pytest.raises(
        InputError, match=f"probe mini_batch_edge: the costs of scenario {name} are not sums over samples"
    ):
        distopt.simulate("ring", agents=3, scenario=name, algorithm="gt", rounds=2, probe="mini_batch_edge")


def test_a_batch_cannot_be_larger_than_the_data() -> None:
    asked: dict[str, Any] = {"agents": 2, "scenario": "digits_mlp:rows=8", "algorithm": "gt", "rounds": 1}
    with pytest.raises(InputError, match="size=9: there are 8 samples in round 0; give a smaller size"):
        distopt.simulate("ring", **asked, probe="mini_batch_edge:size=9")


def test_empty_places_are_no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven samples of three agents stand in nine places."""
    seen = seen_of("digits_mlp:rows=7", 3, monkeypatch)
    assert int((seen.data.w != 0).sum()) == 7 and seen.data.w.numel() == 9
    whole, _ = MiniBatchEdge(1, size=7, batches=1, tolerance=1e-8).measure(seen)
    top, _ = registry.make("probes", "sharpness:tolerance=1e-8").measure(seen)
    assert whole == pytest.approx(top, rel=1e-6)


def test_it_keeps_the_promises_of_probes() -> None:
    check_probe(registry.make("probes", "mini_batch_edge:every=2,size=2,batches=2,steps=3"), "digits_mlp:rows=8")


def test_weights_that_are_no_weights_are_found() -> None:
    class Wrong(DriftingLogistic):
        row_weights = "y"

    class Missing(DriftingLogistic):
        row_weights = "weights"

    with pytest.raises(AssertionError, match="Wrong: its costs are not linear in the leaf 'y'"):
        check_scenario(Wrong())
    with pytest.raises(
        AssertionError, match="Missing: row_weights='weights': a batch has no such leaf; it has: X, y, w"
    ):
        check_scenario(Missing())
