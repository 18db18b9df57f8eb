"""Weights that differ from channel to channel: AB / Push-Pull on directed networks, push-sum, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.networks import key, mixing, rounds
from torch import Tensor

import distopt
from distopt.engines.workers.halo import halo
from distopt.engines.workers.partition import Partition
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.graphs import Arcs, graph_from_matrix
from distopt.network.network import Network
from distopt.network.rows import Table, apply
from distopt.numerics.random import Key
from distopt.numerics.trees import at
from distopt.simulation.problem import build
from distopt.topologies.complete import complete
from distopt.topologies.random_matching import RandomMatching
from distopt.topologies.ring import ring
from distopt.topologies.star import star

PUSH_SUM = '''
from dataclasses import dataclass
from typing import NamedTuple

import torch


class State(NamedTuple):
    u: torch.Tensor
    w: torch.Tensor


@dataclass(frozen=True)
class PushSum:
    """u <- C u - lr g, w <- C w, x = u / w."""

    lr: float = 0.05
    channels = ("u", "w")
    weights = "column"

    def init(self, x):
        return State(x.clone(), torch.ones_like(x[..., :1]))

    def update(self, g, state, x, mix):
        u, w = mix("u", state.u) - self.lr * g, mix("w", state.w)
        return u / w, State(u, w)
'''

N, D, ROUNDS, SEED, LR = 7, 3, 40, 2, 0.05
SCENARIO = f"moving_target:dim={D},kappa=3"
PLACES = [
    "local",
    "threads:workers=3",
    pytest.param("ranks:workers=2", marks=needs.forks),
    pytest.param("ray:workers=2", marks=pytest.mark.slow),
]


def directed(links: list[tuple[int, int]], seed: int) -> np.ndarray:
    """Positive weights of a directed cycle, of these further links (receiver, sender), and of every agent itself."""
    rng = np.random.default_rng(seed)
    W = np.zeros((N, N))
    for i, j in [*((i, (i + 1) % N) for i in range(N)), *links, *((i, i) for i in range(N))]:
        W[i, j] = rng.uniform(0.2, 1.0)
    return W


R = directed([(0, 3), (5, 2), (6, 1)], 0)
R /= R.sum(1, keepdims=True)
C = directed([(3, 0), (2, 6), (4, 1)], 1)
C /= C.sum(0)


@pytest.fixture
def push_pull() -> str:
    return f"{Path(__file__).parents[2] / 'examples' / 'push_pull.py'}:lr={LR}"


@pytest.fixture
def push_sum(tmp_path: Path) -> str:
    (tmp_path / "push_sum.py").write_text(PUSH_SUM)
    return f"{tmp_path / 'push_sum.py'}:lr={LR}"


def run(topology: Any, algorithm: Any, engine: str = "local", **settings: Any) -> Any:
    ask: dict[str, Any] = {
        "scenario": SCENARIO,
        "rounds": ROUNDS,
        "seed": SEED,
        "x0": 0.5,
        "record": "x",
        "mode": "eager",
    }
    return distopt.simulate(topology, algorithm=algorithm, engine=engine, **(ask | settings))


def costs() -> tuple[list[Any], list[Any]]:
    """The curvatures [N][D] and the targets [T][N][D] of the run, as plain numbers."""
    scenario = build(Experiment("ring", N, SCENARIO, "gt", rounds=ROUNDS, seed=SEED)).scenario
    batch = scenario.batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), Key(SEED, range(N), range(1), N))
    return batch.a[0, 0].tolist(), batch.c[:, 0].tolist()


def by_hand(pull: Any, push: Any) -> list[list[list[float]]]:
    """The points x_0 .. x_T of AB, number by number; ``pull(t)`` and ``push(t)`` are the weights of round t."""
    curvature, targets = costs()
    x = [[0.5] * D for _ in range(N)]
    s, old = [[0.0] * D for _ in range(N)], [[0.0] * D for _ in range(N)]
    out = []
    for t in range(ROUNDS):
        out.append(x)
        g = [[curvature[i][k] * (x[i][k] - targets[t][i][k]) for k in range(D)] for i in range(N)]
        s = [[sum(push(t)[i][j] * s[j][k] for j in range(N)) + g[i][k] - old[i][k] for k in range(D)] for i in range(N)]
        x = [[sum(pull(t)[i][j] * x[j][k] for j in range(N)) - LR * s[i][k] for k in range(D)] for i in range(N)]
        old = g
    return out


def points(made: Any) -> np.ndarray:
    return np.asarray(made["x"])[0, :ROUNDS]


@pytest.mark.parametrize("engine", PLACES)
def test_push_pull_is_the_loop_on_a_directed_pair(push_pull: str, engine: str, tmp_path: Path) -> None:
    topology: Any = {"x": R, "s": C}
    if engine.startswith("ranks"):  # told of by specs
        for name, W in topology.items():
            np.save(tmp_path / f"{name}.npy", W)
        topology = {name: tmp_path / f"{name}.npy" for name in topology}
    found = run(topology, push_pull, engine)
    assert np.abs(points(found) - np.array(by_hand(lambda t: R.tolist(), lambda t: C.tolist()))).max() < 1e-12
    assert found["tracker_invariant"].max() < 1e-12
    alone = run({"x": R, "s": C}, push_pull)
    assert all(np.array_equal(found[name], alone[name]) for name in alone.metrics)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "threads:workers=2"])
def test_push_pull_is_the_loop_in_compiled_rounds(push_pull: str, engine: str) -> None:
    found = run({"x": R, "s": C}, push_pull, engine, mode="compiled")
    assert np.abs(points(found) - np.array(by_hand(lambda t: R.tolist(), lambda t: C.tolist()))).max() < 1e-12


@dataclass(frozen=True)
class Turning:
    """Every agent hears another one, at a distance that changes with the round, and every second agent one more."""

    agents: int = N
    random = False

    def arcs(self, t: Tensor, key: Key) -> Arcs:
        k, i = (axis.ravel() for axis in np.meshgrid(np.arange(t.numel()), np.arange(N), indexing="ij"))
        now = t.flatten().numpy()[k]
        near = (i + 1 + now % 3) % N
        more = i % 2 == now % 2
        receiver, sender = np.concatenate([i, i[more]]), np.concatenate([near, (near[more] + 2) % N])
        place = np.concatenate([k, k[more]])
        return Arcs(place, np.zeros_like(place), receiver, sender, 0.2 + 0.01 * (receiver + sender))

    def dense(self, t: int) -> np.ndarray:
        """The weights off the diagonal."""
        arcs = self.arcs(torch.tensor(t).reshape(1, 1, 1, 1), key(N))
        W = np.zeros((N, N))
        W[arcs.receiver, arcs.sender] = arcs.weight
        return W


@pytest.mark.slow
@pytest.mark.parametrize("engine", PLACES[:2])
def test_one_list_of_arcs_gives_each_channel_the_self_weights_that_it_needs(push_pull: str, engine: str) -> None:
    def pull(t: int) -> Any:
        W = Turning().dense(t)
        return W + np.diag(1 - W.sum(1))

    def push(t: int) -> Any:
        W = Turning().dense(t)
        return W + np.diag(1 - W.sum(0))

    found = run(Turning(), push_pull, engine)
    assert np.abs(points(found) - np.array(by_hand(pull, push))).max() < 1e-12
    mixed = run({"x": R, "s": Turning()}, push_pull, engine)
    assert np.abs(points(mixed) - np.array(by_hand(lambda t: R, push))).max() < 1e-12


class Sends(NamedTuple):
    """What the network asks of an algorithm."""

    channels: tuple[str, ...]
    weights: Any


def network(topology: Any, weights: Any, drop_links: float = 0.0) -> Network:
    first = next(iter(topology.values())) if isinstance(topology, dict) else topology
    return Network.of(topology, "metropolis", Sends(("x", "s"), weights), "exact", key(first.agents), drop_links, "ab")


BOTH = {"x": "row", "s": "column"}


def test_undirected_networks_share_one_matrix() -> None:
    for topology in (ring(6), complete(5), RandomMatching(6)):
        for drop in (0.0, 0.3):
            for weights in (BOTH, "doubly", {"x": "doubly", "s": "symmetric"}):
                assert len(network(topology, weights, drop).mixings) == 1
    assert len(network({"x": ring(6), "s": ring(6)}, BOTH).mixings) == 2


@pytest.mark.parametrize(
    "tables",
    [
        (ring(N), graph_from_matrix(R), graph_from_matrix(C)),
        (complete(N), graph_from_matrix(C)),
        (graph_from_matrix(R), Turning()),
        (complete(N), Turning()),
    ],
    ids=["three", "complete", "switching", "complete and switching"],
)
def test_one_halo_serves_all_tables(tables: Any) -> None:
    whole = tuple(mixing(each).rows(rounds(0, 6)) for each in tables)
    partition = Partition(((0, 3, 4), (1, 2), (5, 6)))
    parts = [halo(whole, partition, me) for me in range(3)]
    z = torch.randn(1, N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def of(entries: Any, k: int) -> Any:
        return entries[k if len(entries) > 1 else 0]

    for k in range(6):
        for me, part in enumerate(parts):
            ids = list(partition.blocks[me])
            arrived = [
                z[:, list(partition.blocks[b])][:, of(parts[b].send, k)[me]] for b in sorted(of(part.receive, k))
            ]
            heard, order = torch.cat([z[:, ids], *arrived], 1), of(part.order, k)
            heard = heard if order is None else heard[:, order]
            for table, own in zip(whole, part.tables, strict=True):
                right = apply(Table(*at(tuple(table), k)), z)[:, ids]
                assert torch.equal(apply(Table(*at(tuple(own), k)), heard), right), (k, me)


def test_column_stochastic_weights_serve_who_asks_for_them(push_sum: str) -> None:
    found = run(C, push_sum)
    u, w = np.full((N, D), 0.5), np.ones((N, 1))
    curvature, targets = map(np.array, costs())
    for t in range(ROUNDS):
        assert np.abs(points(found)[t] - u / w).max() < 1e-12
        u, w = C @ u - LR * curvature * (u / w - targets[t]), C @ w
    assert np.array_equal(points(run(C, push_sum, "threads:workers=3")), points(found))
    single = graph_from_matrix(C.astype(np.float32)).matrix
    assert single is not None and np.abs(np.bincount(single[1], single[2]) - 1).max() < 1e-14


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("dgd", r"dgd needs row-stochastic weights, but row \d of W sums to .*; divide each row by its sum"),
        (
            "gt",
            r"gt needs doubly stochastic weights, but row \d of W sums to .*; give weights whose columns also sum to 1",
        ),
        ("extra", r"extra needs symmetric weights, but row \d of W"),
        ("ef21", r"ef21 needs averaging weights"),
    ],
)
def test_column_stochastic_weights_are_refused_elsewhere(algorithm: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(C, algorithm)


def test_what_cannot_serve_a_channel_is_refused(push_pull: str, push_sum: str) -> None:
    hint = r"or give each channel its own, as in topology=\{'x': R, 's': C\}"
    with pytest.raises(
        InputError, match=rf"push_pull.py \(channel 's'\) needs column-stochastic .*column \d of W.*{hint}"
    ):
        run(R, push_pull)
    with pytest.raises(
        InputError, match=rf"push_pull.py \(channel 'x'\) needs row-stochastic weights, but row \d.*{hint}"
    ):
        run(C, push_pull)
    with pytest.raises(InputError, match=r"push_pull.py \(channel 'x'\) needs row-stochastic weights, but row \d of W"):
        run({"x": C, "s": R}, push_pull)
    with pytest.raises(InputError, match="push_sum.py needs column-stochastic weights, but column"):
        run(R, push_sum)
    with pytest.raises(InputError, match="topology is given for 'x', 'z', but .*push_pull.py sends 'x', 's'"):
        run({"x": R, "z": C}, push_pull)
    with pytest.raises(InputError, match="5 agents, not 7"):
        run({"x": R, "s": np.full((5, 5), 0.2)}, push_pull)
    with pytest.raises(InputError, match="empty dict"):
        run({}, push_pull)
    periodic = np.eye(N)[[*range(1, N), 0]]
    with pytest.raises(InputError, match=r"push_pull.py \(channel 's'\) needs weights whose powers converge"):
        run({"x": R, "s": periodic}, push_pull)
    with pytest.raises(InputError, match="drop_links needs symmetric weights"):
        run({"x": R, "s": C}, push_pull, drop_links=0.1)
    with pytest.raises(InputError, match=r"gt \(channel 'x'\) needs doubly stochastic weights"):
        run({"x": R, "s": C}, "gt")


def test_an_averaged_star_has_slots_for_all_links_of_its_complete_graph() -> None:
    hub, whole = (mixing(each).require("average", "ab").with_link_slots("ab") for each in (star(5), complete(5)))
    assert hub.slots == whole.slots == 4
    tables = zip(hub.rows(rounds(0, 1)), whole.rows(rounds(0, 1)), strict=True)
    assert all(torch.equal(one, other) for one, other in tables)


def test_weights_are_words_or_sets_of_them() -> None:
    same = [
        network(ring(5), each) for each in ("doubly", {"row", "column"}, ["column", "row"], {"x": "row", "s": ("row",)})
    ]
    assert all(len(each.mixings) == 1 for each in same)
    with pytest.raises(InputError, match="column 2 of W sums to"):
        mixing(graph_from_matrix([[0.5, 0.5, 0], [0, 0.25, 0.75], [0.2, 0, 0.8]])).require({"row", "column"}, "ab")
    for wrong in ("stochastic", 3, set(), {"row", "sums"}, {"x": "row", "s": "rows"}):
        with pytest.raises(InputError, match="weights must be one of row, column, doubly, symmetric, average"):
            network(ring(5), wrong)
    with pytest.raises(InputError, match="weights are given for 'x', but the algorithm sends 'x', 's'"):
        network(ring(5), {"x": "row"})


def test_a_run_with_two_matrices_is_written_and_resumed(push_pull: str, tmp_path: Path) -> None:
    for name, W in (("R", R), ("C", C)):
        np.save(tmp_path / f"{name}.npy", W)
    pair = {"x": tmp_path / "R.npy", "s": tmp_path / "C.npy"}
    whole = run(pair, push_pull, out=tmp_path / "out")
    again = distopt.resume(tmp_path / "out")
    assert np.array_equal(again["x"], whole["x"]) and np.array_equal(
        points(whole), points(run({"x": R, "s": C}, push_pull))
    )
    asked = Experiment(pair, None, SCENARIO, push_pull)
    assert "[topology]" in asked.to_toml()
    before = asked.fingerprint()
    np.save(tmp_path / "C.npy", 0.5 * C + 0.5 * np.eye(N))
    assert asked.fingerprint() != before
