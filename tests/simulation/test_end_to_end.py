"""Whole runs, from spec strings to trajectories, against the papers' loops: real topologies, dropped links, real scenarios."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import oracles
from helpers.oracles import PlainRule, Problem, Rows

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.trees import at
from distopt.simulation.problem import build

ROUNDS = 200
LR = 0.02


def adam(p: Problem) -> list[Rows]:
    return oracles.gtadam(p, LR, 0.9, 0.999, eps=1e-8, cap=1e6)


def plain(f: Callable[..., list[Rows]], form: str) -> Callable[[Problem], list[Rows]]:
    return lambda p: f(p, form, LR, [PlainRule() for _ in p.x0])


ORACLES: dict[str, Callable[[Problem], list[Rows]]] = {
    f"gtadam:lr={LR}": adam,
    f"gt:lr={LR}": plain(oracles.gt, "cta"),
    f"gt:lr={LR},form=atc": plain(oracles.gt, "atc"),
    f"aug_dgm:lr={LR}": plain(oracles.gt, "aug_dgm"),
    f"dgd:lr={LR}": plain(oracles.dgd, "cta"),
    f"dgd:lr={LR},form=atc": plain(oracles.dgd, "atc"),
    f"dadam:lr={LR}": lambda p: oracles.dadam(p, LR, 0.9, 0.999, eps=1e-8, cap=1e6, b3=None),
    f"extra:lr={LR}": lambda p: oracles.extra(p, LR),
    f"nids:lr={LR}": lambda p: oracles.nids(p, LR),
    f"exact_diffusion:lr={LR}": lambda p: oracles.exact_diffusion(p, LR),
}
NETWORKS = [
    ("erdos_renyi:p=0.4", 6, 0.0),
    ("one_peer_exponential", 6, 0.0),
    ("star", 5, 0.3),
    ("random_matching", 5, 0.0),
    ("path", 1, 0.0),
]


SCENARIOS = ("moving_target:dim=3", "drifting_logistic")
CASES = [  # every algorithm on every network and on both scenarios, by turns
    (algorithm, *network, SCENARIOS[(a + n) % 2])
    for a, algorithm in enumerate(ORACLES)
    for n, network in enumerate(NETWORKS)
]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "topology", "agents", "drop", "scenario"), CASES, ids=str)
def test_simulate_equals_the_papers_loop(
    algorithm: str, topology: str, agents: int, drop: float, scenario: str
) -> None:
    if topology == "one_peer_exponential" and algorithm.split(":", maxsplit=1)[0] in (
        "extra",
        "nids",
        "exact_diffusion",
    ):
        with pytest.raises(InputError, match="symmetric"):
            distopt.simulate(topology, agents=agents, scenario=scenario, algorithm=algorithm, rounds=3)
        return
    run = distopt.simulate(
        topology,
        agents=agents,
        scenario=scenario,
        algorithm=algorithm,
        rounds=ROUNDS,
        trials=2,
        seed=4,
        drop_links=drop,
        record=("x",),
        x0=0.25,
    )
    built = build(Experiment(topology, agents, scenario, algorithm, rounds=ROUNDS, trials=2, seed=4, drop_links=drop))
    t = torch.arange(ROUNDS).reshape(-1, 1, 1, 1)
    data, weights = built.scenario.batch(t, built.key), built.network.mixings[0].dense(t)
    for trial in range(2):

        def gradient(t: int, i: int, x: list[float], trial: int = trial) -> list[float]:
            points = torch.zeros(2, agents, len(x), dtype=torch.float64)
            points[trial, i] = torch.tensor(x, dtype=torch.float64)
            row: list[float] = built.scenario.grad(points, at(data, t))[trial, i].tolist()
            return row

        chosen = weights.expand(ROUNDS, 2, -1, -1)[:, trial].tolist()
        x0 = [[0.25] * built.scenario.dim for _ in range(agents)]
        expected = np.array(ORACLES[algorithm](Problem(chosen, gradient, x0)))
        scale = max(1.0, float(np.abs(expected).max()))
        assert np.abs(run["x"][trial] - expected).max() <= 1e-12 * scale


def sign(row: list[float]) -> list[float]:
    scale = sum(abs(each) for each in row) / len(row)
    return [scale if each >= 0 else -scale for each in row]


def ef_signsgd(p: Problem) -> list[Rows]:
    """Workers send their compressed steps to the server, agent 0 among them, and it answers with the average."""
    x, e, out = p.x0, [[0.0] * len(row) for row in p.x0], [p.x0]
    for t in range(ROUNDS):
        messages = []
        for i in range(len(x)):
            step = [LR * g + left for g, left in zip(p.gradient(t, i, x[i]), e[i], strict=True)]
            message = sign(step)
            e[i] = [a - b for a, b in zip(step, message, strict=True)]
            messages.append(message)
        answer = [sum(each) / len(x) for each in zip(*messages, strict=True)]
        x = [[a - b for a, b in zip(row, answer, strict=True)] for row in x]
        out.append(x)
    return out


def ef21(p: Problem) -> list[Rows]:
    """The server keeps a copy of each worker's gradient and answers with their average."""
    x, copies, out = p.x0, [[0.0] * len(row) for row in p.x0], [p.x0]
    for t in range(ROUNDS):
        for i in range(len(x)):
            message = sign([g - h for g, h in zip(p.gradient(t, i, x[i]), copies[i], strict=True)])
            copies[i] = [a + b for a, b in zip(copies[i], message, strict=True)]
        answer = [sum(each) / len(x) for each in zip(*copies, strict=True)]
        x = [[a - LR * b for a, b in zip(row, answer, strict=True)] for row in x]
        out.append(x)
    return out


@pytest.mark.parametrize(
    ("algorithm", "oracle"), [(f"ef_signsgd:lr={LR}", ef_signsgd), (f"ef21:lr={LR},compressor=sign", ef21)]
)
def test_a_star_equals_workers_and_a_server(algorithm: str, oracle: Callable[[Problem], list[Rows]]) -> None:
    ask = {"agents": 9, "scenario": "moving_target:dim=3", "rounds": ROUNDS, "seed": 4}
    run = distopt.simulate("star", algorithm=algorithm, record=("x",), x0=0.25, **ask)
    built = build(Experiment("star", algorithm=algorithm, **ask))
    data = built.scenario.batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), built.key)

    def gradient(t: int, i: int, x: list[float]) -> list[float]:
        points = torch.tensor([[x] * 9], dtype=torch.float64)
        row: list[float] = built.scenario.grad(points, at(data, t))[0, i].tolist()
        return row

    expected = np.array(oracle(Problem([], gradient, [[0.25] * 3 for _ in range(9)])))
    assert np.abs(expected[-1] - expected[0]).max() > 0.1, "nothing moved"
    assert np.abs(run["x"][0] - expected).max() < 1e-12
