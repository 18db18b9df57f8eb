"""Compressed methods against loops written agent by agent from their equations, their theory, and each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from helpers.driving import ROUNDS, Costs, D, Floats, N, driven, ring, sign

import distopt
from distopt.algorithms._through import Through
from distopt.algorithms.beer import BEER
from distopt.algorithms.c_gt import c_gt
from distopt.algorithms.cedas import CEDAS
from distopt.algorithms.choco_sgd import choco_sgd
from distopt.algorithms.deepsqueeze import deepsqueeze
from distopt.algorithms.ef21 import EF21
from distopt.algorithms.ef_sgd import EFSGD
from distopt.algorithms.ef_signsgd import ef_signsgd
from distopt.algorithms.gt import GT
from distopt.algorithms.lead import LEAD
from distopt.algorithms.nids import NIDS
from distopt.algorithms.signsgd import SignSGD
from distopt.algorithms.signum import signum
from distopt.channels.exact import Exact
from distopt.compressors.identity import Identity
from distopt.compressors.sign import Sign
from distopt.compressors.topk import TopK
from distopt.directions.adam import Adam
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.simulation.problem import build

AVERAGE = np.full((N, N), 1 / N)
Compress = Callable[[Floats], Floats]


def top(p: Floats) -> Floats:
    """The two largest of a row."""
    kept = sorted(range(len(p)), key=lambda k: -abs(p[k]))[:2]
    return np.array([each if k in kept else 0.0 for k, each in enumerate(p)])


def rowwise(compress: Compress, z: Floats) -> Floats:
    return np.stack([compress(row) for row in z])


def gossip(W: Floats, z: Floats) -> Floats:
    """(W - I) z, neighbour by neighbour."""
    out = np.zeros_like(z)
    for i in range(N):
        for j in range(N):
            out[i] += W[i, j] * (z[j] - z[i])
    return out


# Each loop: (costs, W, lr, compress) -> points x_0 .. x_T


def loop_ef(costs: Costs, W: Floats, lr: float, compress: Compress) -> list[Floats]:
    x, e = costs.c / 2, np.zeros((N, D))
    out = [x]
    for t in range(ROUNDS):
        p = lr * costs.grad(x, t) + e
        delta = rowwise(compress, p)
        e = p - delta
        x = x - delta.mean(0)
        out.append(x)
    return out


def loop_ef21(costs: Costs, W: Floats, lr: float, compress: Compress) -> list[Floats]:
    x, h = costs.c / 2, np.zeros((N, D))
    out = [x]
    for t in range(ROUNDS):
        h = h + rowwise(compress, costs.grad(x, t) - h)
        x = x - lr * h.mean(0)
        out.append(x)
    return out


def loop_choco(costs: Costs, W: Floats, lr: float, compress: Compress) -> list[Floats]:
    x, h = costs.c / 2, np.zeros((N, D))
    out = [x]
    for t in range(ROUNDS):
        half = x - lr * costs.grad(x, t)
        h = h + rowwise(compress, half - h)
        x = half + 0.2 * gossip(W, h)
        out.append(x)
    return out


def loop_deepsqueeze(costs: Costs, W: Floats, lr: float, compress: Compress) -> list[Floats]:
    x, e = costs.c / 2, np.zeros((N, D))
    out = [x]
    for t in range(ROUNDS):
        half = x - lr * costs.grad(x, t)
        v = half + e
        cv = rowwise(compress, v)
        e = v - cv
        x = half + 0.2 * gossip(W, cv)
        out.append(x)
    return out


def loop_beer(costs: Costs, W: Floats, lr: float, compress: Compress) -> list[Floats]:
    x = costs.c / 2
    g = costs.grad(x, 0)
    v, h, k = g, np.zeros((N, D)), np.zeros((N, D))
    out = [x]
    for t in range(ROUNDS):
        x = x + 0.2 * gossip(W, h) - lr * v
        h = h + rowwise(compress, x - h)
        new = costs.grad(x, t + 1)
        v = v + 0.2 * gossip(W, k) + new - g
        k = k + rowwise(compress, v - k)
        g = new
        out.append(x)
    return out


def loop_cgt(costs: Costs, W: Floats, lr: float, compress: Compress) -> list[Floats]:
    def comm(z: Floats, h: Floats, hw: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        q = rowwise(compress, z - h)
        hat, hat_w = h + q, hw + W @ q
        return hat, hat_w, 0.6 * h + 0.4 * hat, 0.6 * hw + 0.4 * hat_w

    x = costs.c / 2
    g = costs.grad(x, 0)
    y, zero = g, np.zeros((N, D))
    hx, hxw, hy, hyw = zero, zero, zero, zero
    out = [x]
    for t in range(ROUNDS):
        hat, hat_w, hx, hxw = comm(x, hx, hxw)
        x = x - 0.2 * (hat - hat_w) - lr * y
        hat, hat_w, hy, hyw = comm(y, hy, hyw)
        new = costs.grad(x, t + 1)
        y = y - 0.2 * (hat - hat_w) + new - g
        g = new
        out.append(x)
    return out


def loop_lead(costs: Costs, W: Floats, lr: float, compress: Compress) -> list[Floats]:
    x0 = costs.c / 2
    x = x0 - lr * costs.grad(x0, 0)
    dual, h, hw = np.zeros((N, D)), np.zeros((N, D)), np.zeros((N, D))
    out = [x0, x]
    for t in range(1, ROUNDS):
        g = costs.grad(x, t)
        y = x - lr * g - lr * dual
        q = rowwise(compress, y - h)
        hat, hat_w = h + q, hw + W @ q
        h, hw = 0.5 * h + 0.5 * hat, 0.5 * hw + 0.5 * hat_w
        dual = dual + 0.5 / (2 * lr) * (hat - hat_w)
        x = x - lr * g - lr * dual
        out.append(x)
    return out


def loop_sign(costs: Costs, W: Floats, lr: float, compress: Compress) -> list[Floats]:
    x = costs.c / 2
    out = [x]
    for t in range(ROUNDS):
        g = costs.grad(x, t)
        x = x - lr * np.where(g >= 0, 1.0, -1.0).mean(0)
        out.append(x)
    return out


def loop_signum(costs: Costs, W: Floats, lr: float, compress: Compress) -> list[Floats]:
    x, m = costs.c / 2, np.zeros((N, D))
    out = [x]
    for t in range(ROUNDS):
        m = 0.9 * m + costs.grad(x, t)
        x = x - lr * np.where(m >= 0, 1.0, -1.0).mean(0)
        out.append(x)
    return out


CASES: dict[str, tuple[Any, Any, Floats, Compress, float]] = {  # cedas: test_schedules.py, where it is not lead
    "ef_sgd": (EFSGD(0.05, TopK(2)), loop_ef, AVERAGE, top, 1e-13),
    "ef_signsgd": (ef_signsgd(0.05), loop_ef, AVERAGE, sign, 1e-13),
    "ef21": (EF21(0.05, TopK(2)), loop_ef21, AVERAGE, top, 1e-12),
    "choco_sgd": (choco_sgd(0.05, Sign(), 0.2), loop_choco, ring(), sign, 1e-12),
    "deepsqueeze": (deepsqueeze(0.05, TopK(2), 0.2), loop_deepsqueeze, ring(), top, 1e-12),
    "beer": (BEER(0.02, Sign(), 0.2), loop_beer, ring(), sign, 1e-11),
    "c_gt": (c_gt(0.02, Sign(), 0.2, 0.4), loop_cgt, ring(), sign, 1e-11),
    "lead": (LEAD(0.05, TopK(2), 0.5), loop_lead, ring(), top, 1e-11),
    "signsgd": (SignSGD(0.01), loop_sign, AVERAGE, sign, 1e-12),
    "signum": (signum(0.01), loop_signum, AVERAGE, sign, 1e-12),
}


@pytest.mark.parametrize("name", CASES)
def test_each_is_its_paper(name: str) -> None:
    algorithm, loop, W, compress, tolerance = CASES[name]
    costs = Costs(7)
    if W is AVERAGE:
        costs.c = np.broadcast_to(costs.c[:1], (N, D)) + 0 * costs.c  # workers around an average start together ...
        costs.a = np.linspace(0.5, 2.0, N)[:, None]  # ... and want different things all the same
        costs.speed = 0.05
    found, *_ = driven(algorithm, algorithm.channel, W, costs)
    lr = getattr(algorithm, "algorithm", algorithm).lr
    expected = np.stack(loop(costs, W, lr, compress))
    assert np.abs(found[0] - found[-1]).max() > 1e-2, "nothing moved"
    assert np.abs(found - expected[: len(found)]).max() < tolerance


@pytest.mark.parametrize("compressor", [Sign(), TopK(1), TopK(3), Identity()])
@pytest.mark.parametrize(
    "make",
    [lambda c: BEER(0.01, c, 0.2), lambda c: c_gt(0.01, c, 0.2, 0.5), lambda c: c_gt(0.01, c, 0.2, direction=Adam())],
)
def test_the_tracking_invariant_holds_under_any_compressor(make: Any, compressor: Any) -> None:
    algorithm = make(compressor)
    _, state, _ = driven(algorithm, algorithm.channel, ring(), Costs(8))
    assert float((state.s - state.g).mean(-2).abs().max()) < 1e-12


def distance(algorithm: Any, rounds: int) -> float:
    """From the minimiser of costs that stand still."""
    costs = Costs(9, speed=0.0)
    found, *_ = driven(algorithm, algorithm.channel, ring(), costs, rounds)
    best = (costs.a * costs.c).sum(0) / costs.a.sum()
    return float(np.abs(found[-1] - best).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [BEER(0.03, Sign(), 0.2), c_gt(0.03, Sign(), 0.2, 0.5), LEAD(0.1, TopK(2), 0.5), CEDAS(0.1, TopK(2), 0.5)],
    ids=["beer", "c_gt", "lead", "cedas"],
)
def test_corrected_methods_converge_linearly_to_the_optimum(algorithm: Any) -> None:
    far, near, end = (distance(algorithm, rounds) for rounds in (300, 900, 4000))
    tracks = isinstance(
        algorithm, BEER | Through
    )  # a dual variable sums up rounding errors of its mean, a tracker forgets them
    assert near < far / 10 and end < (1e-12 if tracks else 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm", [choco_sgd(0.05, Sign(), 0.2), deepsqueeze(0.05, Sign(), 0.2)], ids=["choco_sgd", "deepsqueeze"]
)
def test_methods_without_correction_stop_at_a_bias(algorithm: Any) -> None:
    assert distance(algorithm, 3000) > 1e-3


def test_without_loss_they_are_the_methods_they_compress() -> None:
    for ours, theirs in ((c_gt(0.03, Identity(), 1.0), GT(0.03)), (LEAD(0.1, Identity(), 1.0, 1.0), NIDS(0.1))):
        one, *_ = driven(ours, ours.channel, ring(), Costs(10))
        other, *_ = driven(theirs, Exact(), ring(), Costs(10))
        assert np.abs(one - other).max() < 1e-11


def test_a_vote_is_the_sign_of_the_sum() -> None:
    costs = Costs(11)
    costs.c = np.zeros((N, D))
    found, *_ = driven(SignSGD(0.01, vote=True), SignSGD().channel, AVERAGE, costs, 1)
    g = costs.grad(costs.c / 2 + 0.0, 0)
    assert np.allclose(found[1], -0.01 * np.sign(np.where(g >= 0, 1.0, -1.0).sum(0)))


def test_workers_around_an_average_need_a_star_or_the_complete_graph() -> None:
    ask: dict[str, Any] = {"agents": 6, "scenario": "moving_target", "rounds": 3}
    for topology in ("complete", "star"):
        assert distopt.simulate(topology, algorithm="ef_signsgd:lr=0.1", **ask).status == "done"
    for topology in ("ring", "path", "random_matching"):
        with pytest.raises(InputError, match="averag.*star.*complete graph"):
            distopt.simulate(topology, algorithm="ef_signsgd:lr=0.1", **ask)
    with pytest.raises(InputError, match="links fail or change; use a star or the complete graph, without drop_links"):
        distopt.simulate("star", algorithm="ef_signsgd:lr=0.1", drop_links=0.1, **ask)
    with pytest.raises(
        InputError, match="agent 1 receives from 1 of 5 others"
    ):  # weights that were given are taken at their word
        distopt.simulate(
            np.eye(6) / 2 + np.array([[0.1] * 6, *([[0.5] + [0.0] * 5] * 5)]) * (1 - np.eye(6)),
            algorithm="ef_signsgd:lr=0.1",
            **ask,
        )
    with pytest.raises(InputError, match="brings its own channel"):
        distopt.simulate("complete", algorithm="ef_signsgd:lr=0.1", channel="choco:compressor=sign", **ask)


@pytest.mark.parametrize(
    "algorithm", ["ef_sgd:lr=0.05", "ef_signsgd:lr=0.05", "ef21:lr=0.05", "signsgd:lr=0.02,vote=true", "signum:lr=0.02"]
)
def test_a_star_is_workers_around_its_hub(algorithm: str) -> None:
    """The same bits as where everybody takes the average by itself, whoever the hub is and whatever the weight rule."""
    for agents, dtype in ((2, "float64"), (9, "float64"), (34, "float32")):
        ask: dict[str, Any] = {
            "agents": agents,
            "scenario": "moving_target:dim=6",
            "rounds": 40,
            "trials": 2,
            "record": "x",
            "dtype": dtype,
        }
        around = distopt.simulate("complete", algorithm=algorithm, **ask)
        assert np.abs(around["x"][:, -1]).max() > 0.1, "nothing moved"
        middle = nx.relabel_nodes(nx.star_graph(agents - 1), {0: agents // 2, agents // 2: 0})
        for star, weights in (("star", "metropolis"), ("star", "max_degree"), (middle, "metropolis")):
            run = distopt.simulate(star, algorithm=algorithm, weights=weights, **ask)
            assert list(run) == list(around)
            assert [name for name in run if not np.array_equal(run[name], around[name], equal_nan=True)] == []


def test_only_workers_around_an_average_take_a_star_for_a_server() -> None:
    ask: dict[str, Any] = {"agents": 9, "scenario": "moving_target", "rounds": 20}
    first = build(Experiment("star", algorithm="ef21", **ask))
    beside = build(Experiment("star", algorithm="gt", **ask), first)
    alone = build(Experiment("star", algorithm="gt", **ask))
    t = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    assert torch.equal(beside.network.mixings[0].dense(t), alone.network.mixings[0].dense(t)) and not torch.allclose(
        beside.network.mixings[0].dense(t), first.network.mixings[0].dense(t)
    )


def test_gtadam_is_compressed_by_its_channel_or_as_c_gt_with_adam() -> None:
    ask: dict[str, Any] = {"agents": 8, "scenario": "moving_target:dim=6", "rounds": 50, "record": "x"}
    one = distopt.simulate("ring", algorithm="gtadam:lr=0.02", channel="choco:compressor=sign,gamma=0.3", **ask)
    other = distopt.simulate("ring", algorithm="c_gt:lr=0.02,compressor=sign,gamma=0.3,direction=adam", **ask)
    assert np.array_equal(one["x"], other["x"])
    assert one["bits"][0, -1] == 50 * 2 * (8 + 64)


def test_a_grid_keeps_each_point_to_its_own_channel() -> None:
    ask: dict[str, Any] = {"agents": 8, "scenario": "moving_target:dim=6", "rounds": 20, "record": "x"}
    grid = distopt.simulate("ring", algorithm="c_gt:lr=[0.01,0.02],gamma=[0.1,0.3]", **ask)
    for label, run in grid.items():
        assert np.array_equal(run["x"], distopt.simulate("ring", algorithm=label, **ask)["x"]), label
