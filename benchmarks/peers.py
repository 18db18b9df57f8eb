"""The same small problem in other packages: CPU seconds per round, next to a final iterate that must agree with ours.

The problem is static, since most of them know nothing else: f_i(x) = 1/2 sum_k a_ik (x_k - c_ik)^2 with N = 16 agents and d = 10
on a ring, x_0 = 0, each of the three weights 1/3. The offsets are such that all agents' first gradients are equal, because
packages disagree on whether Aug-DGM mixes the first gradient or not, and so need not be told apart here.

    decent-bench   AugDGM                               our aug_dgm             simulated agent by agent in one process
    tvopt          aug_dgm                              our aug_dgm             the same
    disropt        GradientTracking                     our gt                  one MPI process per agent; with fewer cores than
                                                                                agents they wait for one another's time slices
    nvflare        GTADAMExecutor, one thread per agent our gtadam              its messages handed over in memory by a stub of its
                                                                                engine, without its network: its time is flattered

CPU seconds are those of all threads and processes of a run, ours too: distopt's compiled rounds, bare and with their measurements, of
the fastest package's method, as one run and as a batch of 100 trials, each with data of its own in memory, per round and trial.

Usage: DISTOPT_PEERS=/path/to/python python benchmarks/peers.py [--log]    --log writes benchmarks/results/peers.json

where that Python has any of the four packages (3.13 or later for decent-bench; 3.11 does for the others): pip install decent-bench
tvopt disropt nvflare, and torch for nvflare, and an MPI for disropt, such as mpich, with mpiexec beside that Python or on the path.
It must not be the environment of distopt: their pins differ from ours. Without the variable, one line and no figures.
"""

# mypy: disable-error-code="import-not-found,import-untyped,misc"

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
N, D, LR, REPEATS, BATCH = 16, 10, 0.05, 3, 100
TOLERANCE = 1e-9


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


@dataclass(frozen=True)
class Answer:
    """What a package found: x [N, D] after ``peer.rounds`` rounds, its best seconds and CPU seconds per round, its version."""

    peer: Peer
    x: Array
    seconds: float
    cpu: float
    version: str


def problem_data() -> tuple[Array, Array]:
    """Curvatures a and offsets c, both [N, D]; a c is the same for every agent."""
    rng = np.random.default_rng(0)
    a = rng.uniform(0.5, 1.5, (N, D))
    return a, rng.normal(size=D) / a


# On our side ----------------------------------------------------------------------------------------------------------------


def ours(peer: Peer) -> Array:
    """x [N, D] after the same rounds of distopt's own algorithm, mixed by a plain matrix product."""
    import torch

    from distopt.algorithms.aug_dgm import AugDGM
    from distopt.algorithms.gt import GT
    from distopt.algorithms.gtadam import gtadam
    from distopt.network.net import Rehearsal

    algorithm = {"gt": GT(LR), "aug_dgm": AugDGM(LR), "gtadam": gtadam(LR)}[peer.ours]
    a, c = (torch.from_numpy(z) for z in problem_data())
    one = torch.eye(N, dtype=torch.float64)
    W = (one + one.roll(1, 0) + one.roll(-1, 0)) / 3
    x = torch.zeros(1, N, D, dtype=torch.float64)
    state = algorithm.init(x)
    for t in range(peer.rounds):
        x, state = algorithm.update(a * (x - c), state, x, Rehearsal(lambda name, z: W @ z, x, t))
    return np.asarray(x[0])


def answers() -> Iterator[Answer | str]:
    """Each peer's answer, or a line that says why there is none."""
    python = os.environ.get("DISTOPT_PEERS")
    if not python:
        yield "peers: skipped; DISTOPT_PEERS must name a Python (3.13 for all four) with decent-bench, tvopt, disropt or nvflare"
        return
    for peer in PEERS:
        with tempfile.TemporaryDirectory() as folder:
            command = [python, str(Path(__file__).resolve()), "--child", peer.package, "answer.npz"]
            if peer.package == "disropt":
                beside = Path(python).with_name("mpiexec")
                mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
                if mpiexec is None:
                    yield "disropt: skipped; it needs mpiexec"
                    continue
                command = [mpiexec, "-n", str(N), *command]
            quiet = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            try:
                run = subprocess.run(
                    command, cwd=folder, env=quiet, capture_output=True, text=True, timeout=300, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                yield f"{peer.package}: skipped; {error}"
                continue
            found = Path(folder, "answer.npz")
            if run.returncode or not found.exists():
                lines = run.stderr.strip().splitlines() or ["no answer"]
                why = next((line for line in lines if "Error" in line), lines[-1])
                yield f"{peer.package}: skipped; {why.strip()}"
                continue
            with np.load(found, allow_pickle=False) as z:
                yield Answer(peer, z["x"], float(z["seconds"][0]), float(z["seconds"][1]), str(z["version"]))


def compiled(peer: Peer, trials: int, observe: bool, expected: Array) -> float:
    """CPU seconds per round and trial of distopt's compiled rounds; exits where any trial's x is not the expected one."""
    import speed
    from problems import Ring

    problem = Ring(*problem_data(), np.zeros((1, D)), rounds=peer.rounds)
    name, _, rest = peer.ours.partition(":")
    algorithm = f"{name}:lr={LR}" + (f",{rest}" if rest else "")
    x, seconds = speed.ours(problem, observe, 4 if observe else 16, 1024, algorithm, trials, time.process_time)
    if not np.abs(x - expected).max() <= TOLERANCE * np.abs(expected).max():
        sys.exit(f"compiled {algorithm} with {trials} trials differs from the rounds one by one")
    return seconds / trials


def main() -> None:
    """Print microseconds per round and the distance from ours; exit 1 where it is above the tolerance."""
    import argparse

    from machine import header, log, machine

    parser = argparse.ArgumentParser()
    parser.add_argument("--log", action="store_true")
    asked = parser.parse_args()
    about = machine()
    print(header(about), flush=True)
    found, wrong, fastest = [], [], None
    for answer in answers():
        if isinstance(answer, str):
            print(answer, flush=True)
            continue
        reference = ours(answer.peer)
        gap = float(np.abs(answer.x - reference).max() / np.abs(reference).max())
        name = f"{answer.peer.package} {answer.version}"
        print(
            f"{name:22s}{answer.cpu * 1e6:12.1f} CPU us per round,{answer.seconds * 1e6:10.1f} us by the clock   "
            f"differs from {answer.peer.ours} by {gap:.1e} (relative)",
            flush=True,
        )
        found.append(
            {
                "package": name,
                "method": answer.peer.ours,
                "cpu": answer.cpu,
                "seconds": answer.seconds,
                "difference": gap,
            }
        )
        if not gap <= TOLERANCE:
            wrong.append(answer.peer.package)
        elif fastest is None or answer.cpu < fastest.cpu:
            fastest = answer
    if wrong:
        sys.exit(f"more than {TOLERANCE:g} from ours, their times do not count: {', '.join(wrong)}")
    if fastest is None:
        return
    import speed

    speed.one_thread()
    own = []
    for trials in (1, BATCH):
        for observe in (False, True):
            cpu = compiled(fastest.peer, trials, observe, ours(fastest.peer))
            own.append({"trials": trials, "measured": observe, "cpu": cpu, "ratio": fastest.cpu / cpu})
            kind = f"{'measured' if observe else 'bare'}, {trials} trial{'s' if trials > 1 else ''}"
            print(
                f"distopt {kind:22s}{cpu * 1e6:10.3f} CPU us per round and trial: {fastest.cpu / cpu:.0f} times fewer than {fastest.peer.package}"
            )
    if asked.log:
        log("peers", {"packages": found, "fastest": fastest.peer.package, "distopt": own}, about)


# On their side: nothing of distopt is imported below --------------------------------------------------------------------------


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
    if sys.argv[1:2] == ["--child"]:
        # A script finds its own folder first on the path, where this file's siblings could hide a package of the same name.
        sys.path = [entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)]
        child(*sys.argv[2:])
    else:
        main()
