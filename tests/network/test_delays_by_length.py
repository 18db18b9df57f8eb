"""Messages that are as late as their links are long: the rounds of each link, told one by one, the same bits on engines, and what is refused."""

from __future__ import annotations

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.asking import call
from helpers.battery import PARTITIONS, Case, Problems, differences, moves, on, threads
from helpers.networks import dense, mixing, rounds

import distopt
from distopt.engines import ranks
from distopt.errors import InputError
from distopt.experiment import Experiment, read_toml
from distopt.network.faults import Faults
from distopt.network.graphs import Graph, graph_from_edges
from distopt.network.lengths import Travel, measured
from distopt.numerics.random import scattered
from distopt.runs.execution import Comparison
from distopt.simulation.problem import build

KILOMETRES = {(0, 1): 100.0, (1, 2): 700.0, (2, 3): 300.0, (3, 4): 1000.0, (4, 5): 40.0, (0, 5): 400.0, (1, 4): 0.0}
ROUNDS = {(0, 1): 1, (1, 2): 4, (2, 3): 2, (3, 4): 5, (4, 5): 1, (0, 5): 2, (1, 4): 0}
"""Of one millisecond, in which light goes 200 km; 400 and 1000 km take whole rounds."""
ROADS: Graph = measured(graph_from_edges(6, list(KILOMETRES)), list(KILOMETRES), list(KILOMETRES.values()))
LATE: dict[str, Any] = {"delay": "length", "clock": "compute=1e-3"}
ASK: dict[str, Any] = {"scenario": "moving_target:dim=3", "rounds": 20, "seed": 3}


def by_length(pace: float = 1e-3, drop: float = 0.0) -> Faults:
    return Faults.of(drop, 0.0, "length", f"compute={pace}").on(ROADS)


def test_each_link_takes_its_own_number_of_rounds() -> None:
    assert by_length().delay == (0, 5)
    found = Travel.of(ROADS).late(1e-3, np.arange(6)[:, None], np.arange(6))
    assert {(i, j): found[i, j] for i, j in ROUNDS} == ROUNDS == {(i, j): found[j, i] for i, j in ROUNDS}
    assert Travel.of(ROADS).rounds(1.0).tolist() == [math.ceil(each) for each in (0.1, 0.1, 0.1, 0, 0.1, 0.1, 0.1)]
    with pytest.raises(ValueError, match="knows no lengths"):
        Travel.of(graph_from_edges(2, [[0, 1]]))


@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_weights_of_an_age_are_those_of_links_of_that_length(drop: float) -> None:
    faults, W, T = by_length(drop=drop), dense(ROADS), 9
    for needs_, back in (("doubly", True), ("column", False)):
        whole = mixing(ROADS, faults=faults).require(needs_, "demo")
        ages = [whole.aged(age).dense(rounds(0, T))[:, 0].numpy() for age in range(6)]
        for t in range(T):
            expected = np.zeros((6, 6, 6))
            np.fill_diagonal(expected[0], W.diagonal())
            for (a, b), late in ROUNDS.items():
                for i, j in ((a, b), (b, a)):
                    sent = (np.array([each]) for each in (0, t - late, j, i))
                    arrived = t >= late and float(scattered(3, "messages", *sent)[0]) >= drop
                    if arrived:
                        expected[late, i, j] = W[i, j]
                    elif back:
                        expected[0, i, i] += W[i, j]
            np.testing.assert_allclose([age[t] for age in ages], expected, rtol=0, atol=1e-15)


def test_values_are_those_of_the_round_in_which_they_left() -> None:
    """A loop that remembers every x: x_{t+1,i} = sum_j w_ij x_{t - late_ij, j} - lr g_i."""
    run = distopt.simulate(ROADS, algorithm="dgd:lr=0.1", record="x", **LATE, **ASK)
    W, problem = dense(ROADS), build(Experiment(ROADS, None, "moving_target:dim=3", "dgd", rounds=20, seed=3))
    data = problem.scenario.batch(rounds(0, 20), problem.key)
    xs = [problem.x0[0].numpy()]
    for t in range(20):
        np.testing.assert_allclose(run["x"][0, t], xs[t], rtol=0, atol=1e-12)
        at = torch.utils._pytree.tree_map(lambda leaf, t=t: leaf[t if len(leaf) > 1 else 0], data)
        after = W.diagonal()[:, None] * xs[t] - 0.1 * problem.scenario.grad(torch.tensor(xs[t][None]), at)[0].numpy()
        for (a, b), late in ROUNDS.items():
            for i, j in ((a, b), (b, a)):
                after[i] += W[i, j] * (xs[t - late][j] if t >= late else xs[t][i])
        xs.append(after)
    np.testing.assert_allclose(run["simulated_seconds"], 1e-3 * np.arange(1, 21)[None], rtol=1e-12)


def test_longer_rounds_have_fewer_of_them_under_way() -> None:
    """``k_gt`` with five local steps takes 5 ms for a round, so all links that are not empty take one; each run is as it is alone."""
    both: Any = distopt.simulate(ROADS, algorithm=["gt:lr=0.02", "k_gt:lr=0.02,local=5"], record="x", **LATE, **ASK)
    for label, late in (("gt:lr=0.02", 5), ("k_gt:lr=0.02,local=5", 1)):
        problem = build(Experiment(ROADS, None, "moving_target:dim=3", label, rounds=20, seed=3, **LATE))
        assert len(problem.network.mixings) == 1 + late
        assert np.array_equal(
            distopt.simulate(ROADS, algorithm=label, record="x", **LATE, **ASK)["x"], both[label]["x"]
        )
    assert both["k_gt:lr=0.02,local=5"]["simulated_seconds"][0, -1] == pytest.approx(0.1)


@pytest.mark.parametrize("algorithm", ["push_diging:lr=0.05", "robust_push_diging:lr=0.05"])
def test_column_weights_stay_exact(algorithm: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = distopt.simulate(ROADS, scenario="quadratic:kappa=2", algorithm=algorithm, rounds=2000, **LATE)
    assert run["tracking_error"][0, 0] > 0.5 and run["tracking_error"][0, -1] < 1e-9


@pytest.mark.slow
def test_the_page_says_how_long_abilene_takes() -> None:
    """A grid of step sizes, of which 0.05 is the fastest for both."""
    ask: dict[str, Any] = {
        "topology": "topohub:name=topozoo/Abilene",
        "scenario": "quadratic:kappa=2",
        "algorithm": "push_diging:lr=[0.01,0.02,0.05,0.1,0.2]",
    }
    late = distopt.simulate(rounds=1700, **ask, **LATE)
    waits = distopt.simulate(rounds=400, clock="compute=1e-3,latency=length", **ask)
    for runs, number, seconds in ((late, 1674, 1.7), (waits, 384, 4.6)):
        near = {lr: run["tracking_error"][0] < 1e-6 for lr, run in runs.items()}
        first = {lr: int(np.argmax(each)) if each.any() else each.size for lr, each in near.items()}
        best = min(first, key=lambda lr: first[lr])
        assert best == "push_diging:lr=0.05" and first[best] + 1 == number
        assert runs[best]["simulated_seconds"][0, first[best]] == pytest.approx(seconds, abs=0.05)
    problem = build(Experiment(ask["topology"], None, "quadratic", "push_diging", rounds=1, **LATE))
    assert problem.network.mixings[0].faults.delay == (2, 12)


CASES = [
    Case("gtadam:lr=0.01", "exact", "moving_target:dim=3", "float64", 2),
    Case("robust_push_diging:lr=0.01", "exact", "drifting_logistic", "float32"),
    Case("k_gt:lr=0.01,local=2", "naive:compressor=sign", "moving_target:dim=3"),
]


def posed(case: Case, **more: Any) -> Problems:
    ask: dict[str, Any] = {"rounds": 8, "x0": 0.3, "dtype": case.dtype, "trials": case.trials, **LATE, **more}
    problem = build(Experiment(ROADS, None, case.scenario, case.algorithm, channel=case.channel, record=("x",), **ask))
    return Problems(problem, Comparison.of(problem))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("more", [{}, {"drop_messages": 0.3}], ids=str)
def test_threads_have_the_bits_of_one_block(case: Case, more: dict[str, Any]) -> None:
    problems = posed(case, **more)
    alone = on(problems)
    assert moves(alone)
    assert not np.array_equal(alone.run["x"], on(posed(case, delay="", clock="compute=1e-3", **more)).run["x"])
    part = type(PARTITIONS["2"])(((0, 3), (1, 5), (2, 4)))
    assert differences(alone, on(problems, threads(part, shuffled=True, seed=1))) == []


@needs.forks
def test_ranks_have_the_bits_of_one_block() -> None:
    problems = posed(CASES[0])
    assert differences(on(problems), on(problems, partial(ranks.ranks, workers=3, timeout=20))) == []


def test_compiled_threads_have_the_bits_of_one_compiled_block() -> None:
    problems = posed(CASES[0])
    alone = on(problems, mode="compiled")
    part = type(PARTITIONS["2"]).even(6, 2)
    assert differences(alone, on(problems, threads(part), mode="compiled")) == []


GML = "graph [ node [ id 0 ] node [ id 1 ] node [ id 2 ] edge [ source 0 target 1 dist 100 ] edge [ source 1 target 2 dist 500 ] ]"


def test_files_and_commands_know_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("g.gml").write_text(GML)
    ask = ["simulate", "file:path=g.gml", "--scenario", "moving_target", "--algorithm", "dgd:lr=0.1", "--rounds", "10"]
    done = call(*ask, "--delay", "length", "--clock", "compute=1e-3", "--out", "a")
    assert done.exit_code == 0, done.output
    Path("b.toml").write_text(
        'topology = "file:path=g.gml"\nscenario = "moving_target"\nalgorithm = "dgd:lr=0.1"\nrounds = 10\n'
        'delay = "length"\nclock = "compute=1e-3"\n'
    )
    (asked,) = read_toml(Path("b.toml"))
    late, plain = asked, Experiment(asked.topology, None, "moving_target", "dgd:lr=0.1", rounds=10, clock=asked.clock)
    assert late.fingerprint() != plain.fingerprint() and late.delay == "length"
    assert 'delay = "length"' in (tmp_path / "a" / "experiment.toml").read_text()


@pytest.mark.parametrize(
    ("network", "ask", "says"),
    [
        ("ring", {}, "delay=length, but the topology does not know the lengths of its links"),
        ("one_peer_exponential", {}, "delay=length, but the topology does not know"),
        (ROADS, {"clock": ""}, "add clock compute=1e-3"),
        (ROADS, {"clock": "bandwidth=1e9"}, "add clock compute=1e-3"),
        (ROADS, {"clock": "compute=1e-3,latency=length"}, "give clock compute=0.001 alone"),
        (ROADS, {"clock": "compute=1e-3,bandwidth=1e9"}, "give clock compute=0.001 alone"),
        (ROADS, {"clock": "compute=1e-5"}, r"the longest link \(1000 km\) takes 500 of them; 64 are the most"),
        (ROADS, {"sleep": 0.1}, "sleep and delay do not go together"),
        (ROADS, {"churn": 0.1}, "churn and delay do not go together"),
        (ROADS, {"drop_links": 0.1}, "delay needs the same links in every round"),
        (ROADS, {"algorithm": "prox_skip"}, "leave delay out"),
        (ROADS, {"channel": "choco:compressor=sign"}, "leave delay out"),
        (ROADS, {"delay": "lengths"}, "or a range, such as 0..3, or length"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(network: Any, ask: dict[str, Any], says: str) -> None:
    agents = None if isinstance(network, Graph) else 6
    with pytest.raises(InputError, match=says):
        distopt.simulate(network, agents=agents, **{**ASK, "algorithm": "gt", **LATE, **ask})


def test_rounds_without_gradients_have_no_length() -> None:
    class Agree:
        channels, full = ("x",), 0.0

        def init(self, x: Any) -> tuple[()]:
            return ()

        def update(self, g: Any, state: tuple[()], x: Any, mix: Any) -> Any:
            return mix("x", x), state

    with pytest.raises(InputError, match="delay=length: agree evaluates no gradients"):
        distopt.simulate(ROADS, agents=6, **{**ASK, "algorithm": Agree(), **LATE})


def test_links_without_length_are_never_late() -> None:
    near = measured(graph_from_edges(3, [[0, 1], [1, 2]]), [[0, 1], [1, 2]], [0.0, 0.0])
    late, plain = (distopt.simulate(near, algorithm="gt:lr=0.02", record="x", **more, **ASK) for more in (LATE, {}))
    assert np.array_equal(late["x"], plain["x"])
