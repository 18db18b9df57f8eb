"""Robust push-DIGing against a loop over links and agents, and exact where messages are lost."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from helpers.digraphs import weights
from helpers.networks import rounds

import distopt
from distopt.experiment import Experiment
from distopt.simulation.problem import build

TOPOLOGY, N, LR = "random_digraph:p=0.4", 7, 0.05
ASK: dict[str, Any] = {"agents": N, "scenario": "quadratic:kappa=4", "drop_messages": 0.3, "seed": 5}


def test_it_is_the_loop_over_links() -> None:
    """(u, w, y): each agent splits what it has, adds a share to its running sum, and takes of each sum what is new of it."""
    T = 40
    run = distopt.simulate(TOPOLOGY, algorithm=f"robust_push_diging:lr={LR}", rounds=T, record="x,w,y", **ASK)
    problem = build(Experiment(TOPOLOGY, N, ASK["scenario"], "push_diging", seed=5, drop_messages=0.3, rounds=T))
    there = problem.network.mixings[0].dense(rounds(0, T))[:, 0].numpy() > 0
    C = weights(TOPOLOGY, N, 5).C
    data = problem.scenario.batch(rounds(0, 1), problem.key)
    x, w = problem.x0[0].numpy().copy(), np.ones((N, 1))
    u, y, old = x.copy(), np.zeros_like(x), np.zeros_like(x)
    d = x.shape[1]
    total, heard = np.zeros((N, 2 * d + 1)), np.zeros((N, N, 2 * d + 1))
    for t in range(T):
        np.testing.assert_allclose(run["x"][0, t], x, rtol=1e-10, atol=1e-12)
        g = problem.scenario.grad(problem.x0.new_tensor(x[None]), _at(data)).numpy()[0]
        # the round of the simulator: y of the round before travels, then takes the new gradients, then u moves by it
        share = C.max(0)
        after_y = _exchanged(y, slice(0, d), C, share, there[t], total, heard)
        y = after_y + g - old
        u = _exchanged(u - LR * y, slice(d, 2 * d), C, share, there[t], total, heard)
        w = _exchanged(w, slice(2 * d, 2 * d + 1), C, share, there[t], total, heard)
        x, old = u / w, g
        np.testing.assert_allclose(run["w"][0, t], w, rtol=1e-10)
        np.testing.assert_allclose(run["y"][0, t], y, rtol=1e-9, atol=1e-11)


def _exchanged(z: Any, part: slice, C: Any, share: Any, there: Any, total: Any, heard: Any) -> Any:
    """Every agent keeps its share and sends the running sum of the shares of each of the others, who are alike."""
    out = np.stack([C[i, i] * z[i] for i in range(N)])
    for j in range(N):
        total[j, part] += share[j] * z[j]
    for i in range(N):
        for j in range(N):
            if i != j and there[i, j]:
                out[i] += total[j, part] - heard[i, j, part]
                heard[i, j, part] = total[j, part]
    return out


def _at(data: Any) -> Any:
    return type(data)(*(leaf[0] for leaf in data)) if hasattr(data, "_fields") else tuple(leaf[0] for leaf in data)


@pytest.mark.parametrize(("topology", "lr"), [("random_digraph:p=0.5", 0.1), ("ring", 0.05), ("star", 0.1)])
def test_it_is_exact_under_losses_where_others_stop_beside_the_minimiser(topology: str, lr: float) -> None:
    ask = {"agents": 8, "scenario": "quadratic:kappa=2", "rounds": 800, "drop_messages": 0.3}
    run = distopt.simulate(topology, algorithm=f"robust_push_diging:lr={lr}", **ask)
    assert run["tracking_error"][0, 0] > 0.5
    assert run["tracking_error"][0, -1] < 1e-9
    assert run["tracker_invariant"][0, 20] > 1e-4  # on its way
    assert run["tracker_invariant"][0, -1] < 1e-9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tracking = distopt.simulate(topology, algorithm=f"ab:lr={lr}", **ask)
        pushed = distopt.simulate(topology, algorithm=f"push_diging:lr={lr}", **ask)
    assert tracking["tracking_error"][0, -1] > 0.05
    assert tracking["tracker_invariant"][0, -1] > 0.05
    assert pushed.status == "diverged" or pushed["tracking_error"][0, -1] > 0.05


def test_without_losses_it_is_push_diging_to_rounding() -> None:
    ask = {**ASK, "drop_messages": 0.0, "rounds": 300, "record": "x"}
    one, other = (
        distopt.simulate(TOPOLOGY, algorithm=f"{name}:lr={LR}", **ask) for name in ("robust_push_diging", "push_diging")
    )
    np.testing.assert_allclose(one["x"], other["x"], rtol=0, atol=1e-12)
    assert one["tracker_invariant"].max() < 1e-12
