"""PowerGossip against a loop over links in numpy, and what it promises: means, both ends of a link alike, exact gossip at full rank."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers.driving import Floats

import distopt
from distopt.catalog import registry
from distopt.channels.powergossip import PerLink, powergossip
from distopt.checks import check_channel
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.links import slots
from distopt.network.net import Net, Whole
from distopt.numerics.trees import at
from distopt.simulation.problem import Problem, build

ROUNDS = 200
ASK: dict[str, Any] = {"scenario": "moving_target:dim=10", "rounds": ROUNDS, "seed": 3}


def start(length: int, rank: int) -> Floats:
    return np.cos(np.arange(1.0, length * rank + 1) ** 2).reshape(rank, length).T


def orthonormal(U: Floats) -> Floats:
    Q, T = np.linalg.qr(U)
    return Q * np.sign(np.diag(T))


def gossiped(
    y: Floats, kept: dict[tuple[int, int], Floats], t: int, shape: tuple[int, int], gamma: float
) -> tuple[Floats, Any]:
    """Points y after round t, link by link, and what the links then keep."""
    (N, d), (a, b) = y.shape, shape
    degree = np.bincount(np.array(list(kept)).ravel(), minlength=N)
    matrices = [np.append(row, np.zeros(a * b - d)).reshape(a, b) for row in y]
    after, keep = [Z.copy() for Z in matrices], {}
    for (i, j), U in kept.items():
        Z, V = matrices[i] - matrices[j], orthonormal(U)
        keep[i, j] = Z @ V if t % 2 == 0 else Z.T @ V
        D = keep[i, j] @ V.T if t % 2 == 0 else V @ keep[i, j].T
        w = 1 / (1 + max(degree[i], degree[j]))
        after[i] -= gamma * w * D
        after[j] += gamma * w * D
    return np.stack([Z.ravel()[:d] for Z in after]), keep


def loop(
    edges: Floats, gradient: Any, x: Floats, lr: float, shape: tuple[int, int], rank: int, gamma: float
) -> list[Floats]:
    """The points x_0 .. x_T."""
    kept = {(i, j): start(shape[1], rank) for i, j in edges.tolist()}
    out = [x]
    for t in range(ROUNDS):
        x, kept = gossiped(x - lr * gradient(t, x), kept, t, shape, gamma)
        out.append(x)
    return out


def costs(topology: str, agents: int) -> tuple[Any, Any, Any]:
    """The links of a network, the gradients [N, d] at (t, points [N, d]), and points to start from."""
    built = build(Experiment(topology, agents, algorithm="dgd", **ASK))
    data = built.scenario.batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), built.key)
    x0 = np.random.default_rng(1).normal(size=built.x0.shape[1:])
    return (
        built.network.mixings[0].graph.edges,
        lambda t, x: built.scenario.grad(torch.tensor(x)[None], at(data, t))[0].numpy(),
        x0,
    )


@pytest.mark.parametrize(
    ("topology", "agents", "rank", "rows", "gamma"),
    [
        ("ring", 6, 2, 0, 1.0),
        ("erdos_renyi:p=0.5", 8, 2, 0, 0.8),
        ("star", 36, 1, 2, 1.0),
        ("complete", 5, 2, 5, 1.0),
        ("path", 2, 1, 1, 1.0),
    ],
)
def test_it_is_the_loop_over_links_and_keeps_the_mean(
    topology: str, agents: int, rank: int, rows: int, gamma: float
) -> None:
    edges, gradient, x0 = costs(topology, agents)
    a = rows or 4
    spec = f"powergossip:lr=0.05,rank={rank},rows={rows},gamma={gamma}"
    found = distopt.simulate(topology, agents=agents, algorithm=spec, x0=x0, record="x", **ASK)["x"][0]
    expected = loop(edges, gradient, x0, 0.05, (a, -(-10 // a)), min(rank, a, -(-10 // a)), gamma)
    assert np.abs(found[-1] - found[0]).max() > 0.1, "nothing moved"
    assert np.abs(found - expected).max() < 1e-12
    for t, (before, after) in enumerate(itertools.pairwise(found)):
        assert np.abs((after - before + 0.05 * gradient(t, before)).mean(0)).max() < 1e-12


def test_each_round_is_that_of_the_loop_where_rounding_grows() -> None:
    """Links of rank 1 on a ring that is driven: two runs of the loop itself drift apart as about 1.1^t, so every round is compared by itself."""
    edges, gradient, x0 = costs("ring", 6)
    built = build(Experiment("ring", 6, algorithm="powergossip:lr=0.05,rank=1", **ASK))
    link, x, memory = linked(built), torch.tensor(x0)[None], {}
    kept = {(i, j): start(3, 1) for i, j in edges.tolist()}
    for t in range(ROUNDS):
        net = Net(built.channels, link, memory)
        g = gradient(t, x[0].numpy())
        expected, keep = gossiped(x[0].numpy() - 0.05 * g, kept, t, (4, 3), 1.0)
        x, _ = built.algorithm.update(torch.tensor(g)[None], built.algorithm.init(x), x, net.mix)
        memory = net.memory
        assert np.abs(x[0].numpy() - expected).max() < 1e-13
        for (i, j), U in keep.items():
            slot = sorted(sum(edge) - i for edge in keep if i in edge).index(j)
            kept[i, j] = memory["x"].vectors.reshape(6, 2, 4)[i, slot, : 4 if t % 2 == 0 else 3].numpy()[:, None]
            assert np.abs(kept[i, j] - U).max() < 1e-13


@pytest.mark.parametrize("algorithm", ["gt:lr=0.02", "gt:lr=0.02,form=atc", "gtadam:lr=0.01"])
def test_trackers_keep_the_mean_of_the_gradients_through_it(algorithm: str) -> None:
    run = distopt.simulate("erdos_renyi", agents=9, trials=2, algorithm=algorithm, channel="powergossip:rank=1", **ASK)
    assert run["tracker_invariant"].shape[-1] == ROUNDS and run["tracker_invariant"].max() < 1e-12


def linked(built: Problem) -> Whole:
    """The network of a problem that does not change."""
    return Whole(at(built.network.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64)), 0))


def gossip(
    channel: PerLink, topology: Any, agents: int, z: torch.Tensor, rounds: int
) -> tuple[torch.Tensor, Any, Whole]:
    """z after rounds of nothing but gossip, the memory, and the network."""
    built = build(Experiment(topology, agents, "moving_target", "dgd", channel))
    link, memory = linked(built), {"x": built.channels["x"].init(z)}
    for _ in range(rounds):
        net = Net(built.channels, link, memory)
        z, memory = net.mix("x", z), net.memory
    return z, memory["x"], link


def drawn(agents: int, d: int) -> torch.Tensor:
    return torch.randn(2, agents, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_square_and_full_rank_it_is_exact_gossip() -> None:
    for gamma in (1.0, 0.5):
        ask = {**ASK, "scenario": "moving_target:dim=9", "agents": 8, "record": "x", "x0": drawn(8, 9)[0].numpy()}
        found = distopt.simulate("erdos_renyi", algorithm=f"powergossip:lr=0.05,rank=3,gamma={gamma}", **ask)["x"]
        exact = distopt.simulate(
            "erdos_renyi", algorithm="dgd:lr=0.05,form=atc", channel=f"choco:compressor=identity,gamma={gamma}", **ask
        )["x"]
        assert np.abs(found - exact).max() < 1e-12
    # Of a matrix [4, 3] a right turn sees all, and a left turn a part: the first round is exact, the second is not.
    z = drawn(6, 12)
    _, _, link = gossip(powergossip(rank=3), "ring", 6, z, 0)
    for rounds, exact_too in ((1, True), (2, False)):
        before, after = (gossip(powergossip(rank=3), "ring", 6, z, k)[0] for k in (rounds - 1, rounds))
        assert (float((after - link.weigh("x", before)).abs().max()) < 1e-12) == exact_too


@pytest.mark.parametrize(("rank", "rows"), [(1, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize("topology", ["ring", "star", "complete"])
def test_gossip_alone_reaches_the_mean(topology: str, rank: int, rows: int) -> None:
    z = drawn(7, 10)
    end, _, _ = gossip(powergossip(rank, rows), topology, 7, z, 1500)
    assert float((end - z.mean(-2, keepdim=True)).abs().max()) < 1e-11
    assert float((end.mean(-2) - z.mean(-2)).abs().max()) < 1e-12


def test_both_ends_of_a_link_hold_the_same_bits() -> None:
    for rounds in (1, 2, 25):
        _, memory, link = gossip(powergossip(rank=2), "barabasi_albert", 12, drawn(12, 10), rounds)
        index, weight, side = link.slots("x")
        vectors = memory.vectors.reshape(2, index.numel(), -1)
        assert torch.equal(vectors, vectors[:, index.flatten()])
        assert torch.equal(weight.flatten(), weight.flatten()[index.flatten()]) and torch.equal(
            side.flatten(), -side.flatten()[index.flatten()]
        )
        assert (weight > 0).sum() == 2 * len(
            build(Experiment("barabasi_albert", 12, "moving_target", "dgd")).network.mixings[0].graph.edges
        )


def test_agents_that_agree_start_again() -> None:
    z = torch.ones(2, 5, 10, dtype=torch.float64)
    for rounds in (1, 2):
        end, memory, _ = gossip(powergossip(rank=2), "ring", 5, z, rounds)
        side = 4 if rounds == 1 else 3  # of a matrix [4, 3], the columns after a right turn and after a left one
        assert torch.equal(end, z)
        vectors = memory.vectors.reshape(2, 5, 2, 2, 4)[..., :side].numpy()
        np.testing.assert_allclose(vectors, np.broadcast_to(start(side, 2).T, vectors.shape), atol=1e-15)


def test_slots_lead_back() -> None:
    index, weight, side = slots(4, np.array([0, 1, 1]), np.array([1, 2, 3]), np.array([0.1, 0.2, 0.3]))
    assert index[0, 0].tolist() == [[3, 1, 2], [0, 6, 9], [4, 7, 8], [5, 10, 11]]
    assert weight[0, 0].tolist() == [[0.1, 0, 0], [0.1, 0.2, 0.3], [0.2, 0, 0], [0.3, 0, 0]]
    assert side[0, 0].tolist() == [[1, 0, 0], [-1, 1, 1], [-1, 0, 0], [-1, 0, 0]]


def test_bits_are_those_of_the_largest_degree() -> None:
    for topology, degree in (("ring", 2), ("star", 5), ("complete", 5)):
        run = distopt.simulate(topology, agents=6, algorithm="powergossip:rank=2", **{**ASK, "rounds": 3})
        assert run["bits"][0].tolist() == [degree * 2 * 4 * 64 * k for k in (1, 2, 3)]  # matrices [4, 3]
    assert distopt.simulate("ring", agents=1, algorithm="powergossip", **{**ASK, "rounds": 3})["bits"].max() == 0
    channel = powergossip(rank=2).for_degree(3)
    z = drawn(4, 10).float()
    payload = channel.encode(z, channel.init(z), None)
    assert payload[0, 0].numel() * 32 == channel.bits(10, 4)


def test_it_is_refused_where_it_would_not_work() -> None:
    ask: dict[str, Any] = {**ASK, "agents": 6, "rounds": 3}
    for topology, drop in (("random_matching", 0.0), ("one_peer_exponential", 0.0), ("ring", 0.2)):
        with pytest.raises(InputError, match="links fail or change|needs symmetric"):
            distopt.simulate(topology, algorithm="powergossip", drop_links=drop, **ask)
    with pytest.raises(InputError, match="channel powergossip:rank=2 keeps vectors for each link"):
        distopt.simulate("ring", algorithm="dgd", channel="powergossip:rank=2", drop_links=0.2, **ask)
    turned = np.roll(np.eye(6), 1, 0) / 2 + np.eye(6) / 2  # doubly stochastic, not symmetric
    with pytest.raises(InputError, match="needs symmetric weights"):
        distopt.simulate(turned, algorithm="gt", channel="powergossip", **ask)
    for wrong in ("rank=0", "rows=-1", "gamma=0", "gamma=1.5"):
        for kind in ("channels", "algorithms"):
            with pytest.raises(InputError, match="powergossip"):
                registry.make(kind, f"powergossip:{wrong}")


def test_given_weights_that_are_nearly_symmetric_keep_the_mean() -> None:
    W = np.full((4, 4), 0.25)
    W[0] += [0.0, 4e-9, -4e-9, 0.0]
    z = drawn(4, 10)
    end, _, _ = gossip(powergossip(), W, 4, z, 50)
    assert float((end.mean(-2) - z.mean(-2)).abs().max()) < 1e-13


@pytest.mark.parametrize("spec", ["powergossip", "powergossip:rank=2,rows=2,gamma=0.5"])
def test_it_passes_the_battery(spec: str) -> None:
    check_channel(registry.make("channels", spec))


def test_a_grid_has_the_bits_of_its_points() -> None:
    ask = {**ASK, "agents": 6, "rounds": 20, "record": "x", "trials": 2}
    for label, run in distopt.simulate("ring", algorithm="powergossip:lr=[0.02,0.05],gamma=[0.5,1]", **ask).items():
        assert np.array_equal(run["x"], distopt.simulate("ring", algorithm=label, **ask)["x"]), label
