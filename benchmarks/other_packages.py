"""The problem of peers.py in other packages. It is run by the Python that has them, and imports nothing of distopt.

Usage: python benchmarks/other_packages.py PACKAGE ANSWER.npz    as peers.py does
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
N, D, LR, REPEATS = 16, 10, 0.05, 3


@dataclass(frozen=True)
class Peer:
    """A package, what of ours it is compared with, and how many rounds a run of it has."""

    package: str
    ours: str
    rounds: int


PEERS = (
    Peer("decent-bench", "aug_dgm", 200),
    Peer("tvopt", "aug_dgm", 200),
    Peer("disropt", "gt", 100),
    Peer("nvflare", "gtadam", 100),
)


def problem_data() -> tuple[Array, Array]:
    """Curvatures a and offsets c, both [N, D]; a c is the same for every agent."""
    rng = np.random.default_rng(0)
    a = rng.uniform(0.5, 1.5, (N, D))
    return a, rng.normal(size=D) / a


def now() -> Array:
    """Seconds of the clock, and CPU seconds of this process with all its threads."""
    return np.array([time.perf_counter(), time.process_time()])


def best(run: Callable[[], tuple[Array, Array]]) -> tuple[Array, Array]:
    """Final x and the least times of a few whole runs, each of which times its own rounds."""
    results = [run() for _ in range(REPEATS)]
    return results[-1][0], np.min([seconds for _, seconds in results], axis=0)


def decent_bench(rounds: int) -> tuple[Array, Array]:
    import networkx as nx
    from decent_array import Array as Wrapped
    from decent_array.interoperability import set_backend, to_numpy
    from decent_bench.agents import Agent
    from decent_bench.algorithms.p2p import AugDGM
    from decent_bench.costs import QuadraticCost
    from decent_bench.networks import P2PNetwork

    set_backend("numpy")
    a, c = problem_data()

    def run() -> tuple[Array, Array]:
        costs = [QuadraticCost(Wrapped(np.diag(a[i])), Wrapped(-a[i] * c[i])) for i in range(N)]
        agents = [Agent(cost, state_snapshot_period=10 * rounds) for cost in costs]
        network, algorithm = P2PNetwork(nx.cycle_graph(N), agents), AugDGM(step_size=LR)
        start = now()
        algorithm.run(network, rounds)
        seconds = now() - start
        return np.array([to_numpy(agent.x) for agent in agents]), seconds

    return best(run)


def tvopt(rounds: int) -> tuple[Array, Array]:
    from tvopt import costs, distributed_solvers, networks

    a, c = problem_data()
    f = costs.SeparableCost([costs.Quadratic(np.diag(a[i]), -a[i] * c[i]) for i in range(N)])
    linked = np.roll(np.eye(N), 1, 0) + np.roll(np.eye(N), -1, 0)
    network = networks.Network(linked, (np.eye(N) + linked) / 3)

    def run() -> tuple[Array, Array]:
        start = now()
        x = distributed_solvers.aug_dgm({"f": f, "network": network}, LR, num_iter=rounds)
        return x.reshape(D, N).T, now() - start

    return best(run)


def disropt(rounds: int) -> tuple[Array, Array]:
    from disropt.agents import Agent
    from disropt.algorithms.gradient_tracking import GradientTracking
    from disropt.functions import QuadraticForm, Variable
    from disropt.problems import Problem
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    i = world.rank
    a, c = problem_data()
    neighbours = [(i - 1) % N, (i + 1) % N]
    weights = [1 / 3 if j in (i, *neighbours) else 0.0 for j in range(N)]

    def run() -> tuple[Array, Array]:
        agent = Agent(in_neighbors=list(neighbours), out_neighbors=list(neighbours), in_weights=weights)
        # Its form is x'P x + q'x, without the half.
        cost = QuadraticForm(Variable(D), np.diag(a[i]) / 2, -(a[i] * c[i])[:, None])
        agent.set_problem(Problem(cost, force_general_problem=True))
        algorithm = GradientTracking(agent, np.zeros((D, 1)))
        world.Barrier()
        start = now()
        algorithm.run(iterations=rounds, stepsize=LR)
        world.Barrier()
        seconds = now() - start
        seconds[1] = world.allreduce(seconds[1])
        return np.array(world.allgather(algorithm.get_result().ravel())), seconds

    return best(run)


def nvflare(rounds: int) -> tuple[Array, Array]:
    import copy

    import torch
    from nvflare.apis.dxo import DXO, DataKind
    from nvflare.apis.event_type import EventType
    from nvflare.apis.fl_constant import ReservedKey
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.signal import Signal
    from nvflare.app_opt.p2p.executors.gtadam import GTADAMExecutor
    from nvflare.app_opt.p2p.types import Neighbor

    torch.set_num_threads(1)
    a, c = (torch.from_numpy(z) for z in problem_data())
    names = [f"site-{i}" for i in range(N)]
    handlers: dict[str, Any] = {}

    class Point(torch.nn.Module):
        """The model is its parameter."""

        def __init__(self) -> None:
            super().__init__()
            self.x = torch.nn.Parameter(torch.zeros(D, dtype=torch.float64))

        def forward(self, _: Any) -> Any:
            return self.x

    class Cost(torch.nn.Module):
        """1/2 sum a (x - c)^2 of one agent; the label is not used."""

        def __init__(self, i: int) -> None:
            super().__init__()
            self.i = i

        def forward(self, x: Any, _: Any) -> Any:
            return 0.5 * (a[self.i] * (x - c[self.i]) ** 2).sum()

    class Node(GTADAMExecutor):
        """Its users are asked to write the constructor."""

        def __init__(self, i: int) -> None:
            empty = torch.utils.data.TensorDataset(torch.zeros(rounds + 2, 1), torch.zeros(rounds + 2, 1))
            data = torch.utils.data.DataLoader(
                empty
            )  # long enough not to be exhausted, where a pass for the loss would follow
            super().__init__(Point(), Cost(i), data, data, data)

    class Mail:
        """Stands in for the engine: a message is copied and handed to its receiver's handler at once."""

        def __init__(self, name: str) -> None:
            self.name = name

        def register_aux_message_handler(self, topic: str, message_handle_func: Any) -> None:
            handlers[self.name] = message_handle_func

        def send_aux_request(self, targets: list[str], topic: str, request: Any, timeout: float, fl_ctx: Any) -> None:
            for target in targets:
                letter = copy.deepcopy(request)
                letter.set_peer_props({ReservedKey.IDENTITY_NAME: self.name})
                handlers[target](topic, letter, fl_ctx)

    def context(name: str) -> Any:
        made = FLContext()
        made.set_prop(ReservedKey.ENGINE, Mail(name), private=True, sticky=False)
        made.set_prop(ReservedKey.IDENTITY_NAME, name, private=True, sticky=False)
        return made

    def run() -> tuple[Array, Array]:
        nodes, contexts = [Node(i) for i in range(N)], [context(name) for name in names]
        # It starts from tracker 0, so its first round moves nothing.
        constants = {"iterations": rounds + 1, "stepsize": LR, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
        for i, (node, own) in enumerate(zip(nodes, contexts, strict=True)):
            node.handle_event(EventType.START_RUN, own)
            node.neighbors = [Neighbor(id=names[j % N], weight=1 / 3) for j in (i - 1, i + 1)]
            node._weight = 1 / 3
            node._pre_algorithm_run(own, DXO(DataKind.WEIGHTS, data=constants).to_shareable(), Signal())
        threads = [
            threading.Thread(target=node.run_algorithm, args=(own, None, Signal()))
            for node, own in zip(nodes, contexts, strict=True)
        ]
        start = now()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = now() - start
        return np.array([node.model.x.detach().numpy() for node in nodes]), seconds * rounds / (rounds + 1)

    return best(run)


def child(package: str, path: str) -> None:
    """Run one package in its own Python and leave what it found in ``path``."""
    from importlib.metadata import version

    rounds = next(peer.rounds for peer in PEERS if peer.package == package)
    x, seconds = {"decent-bench": decent_bench, "tvopt": tvopt, "disropt": disropt, "nvflare": nvflare}[package](rounds)
    if os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0")) == "0":
        np.savez(path, x=x, seconds=seconds / rounds, version=version(package))


if __name__ == "__main__":
    # A script finds its own folder first on the path, where this file's siblings could hide a package of the same name.
    sys.path = [entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)]
    child(*sys.argv[1:])
