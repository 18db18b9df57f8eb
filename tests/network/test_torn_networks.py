"""Churn that takes a network apart: a line names the first round, and counts them."""

from __future__ import annotations

import warnings
from typing import Any

import networkx as nx
import numpy as np
import pytest
from helpers.asking import call
from helpers.networks import key, rounds

import distopt
from distopt.network import churn as module
from distopt.network.churn import Churn, JoinMixing
from distopt.network.topology import build_topology

CHURN = Churn(0.1, 0.3)
ASK: dict[str, Any] = {"scenario": "quadratic:dim=2", "rounds": 60, "seed": 3}


def torn(topology: str, agents: int, T: int, trials: int) -> list[tuple[int, int]]:
    """The rounds and trials in which those who are there are not connected, one by one."""
    there = CHURN.present(rounds(0, T), key(agents, trials))[..., 0].numpy()
    graph = nx.Graph(build_topology(topology, agents, 3).edges.tolist())
    return [
        (t, r)
        for t in range(T)
        for r in range(trials)
        if not nx.is_connected(graph.subgraph(np.flatnonzero(there[t, r])))
    ]


@pytest.mark.parametrize("topology", ["ring", "erdos_renyi", "star"])
@pytest.mark.parametrize("trials", [1, 3])
@pytest.mark.parametrize("links", [1, 10**7])
def test_the_line_names_the_first_round_and_counts(
    topology: str, trials: int, links: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINKS", links)
    expected = torn(topology, 9, 120, trials)
    said = JoinMixing(build_topology(topology, 9, 3), key(9, trials), CHURN).torn(120)
    if topology == "star":
        assert not expected and said is None  # the hub, agent 0, never leaves
        return
    (t, r), total = expected[0], 120 * trials
    whole, which = (f"{total} rounds of {trials} trials", f"{t} of trial {r}") if trials > 1 else (f"{total} rounds", t)
    assert said is not None and f"not connected in {len(expected)} of {whole}, first in round {which}: each" in said


def told(topology: str, algorithm: Any, churn: str, **more: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        distopt.simulate(topology, agents=9, algorithm=algorithm, churn=churn, **ASK, **more)
    return [str(each.message) for each in found if "not connected" in str(each.message)]


def test_it_is_said_once_a_run_and_not_where_all_stay_connected() -> None:
    (line,) = told("ring", ["gt:lr=0.05", "dgd:lr=0.05"], "leave=0.1,join=0.3")
    assert f"in {len(torn('ring', 9, 60, 1))} of 60 rounds, first in round {torn('ring', 9, 60, 1)[0][0]}:" in line
    assert told("complete", "gt:lr=0.05", "leave=0.1,join=0.3") == []
    assert told("ring", "gt:lr=0.05", "") == []


def test_commands_say_it(tmp_path: Any) -> None:
    ask = ["simulate", "ring", "--agents", "9", "--scenario", "quadratic:dim=2", "--rounds", "60", "--seed", "3"]
    done = call(*ask, "--algorithm", "gt:lr=0.05", "--churn", "leave=0.1,join=0.3", "--out", str(tmp_path / "o"))
    assert done.exit_code == 0 and done.stderr.count("distopt: warning: with churn those who are there are not") == 1
