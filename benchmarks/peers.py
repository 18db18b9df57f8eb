"""The same small problem in other packages: CPU seconds per round, next to a final iterate that must agree with ours.

The problem is static, since most of them know nothing else: f_i(x) = 1/2 sum_k a_ik (x_k - c_ik)^2 with N = 16 agents and d = 10
on a ring, x_0 = 0, each of the three weights 1/3. The offsets make all agents' first gradients equal. Packages disagree on
whether Aug-DGM mixes the first gradient, and so this does not matter here.

    decent-bench   AugDGM                               our aug_dgm             simulated agent by agent in one process
    tvopt          aug_dgm                              our aug_dgm             the same
    disropt        GradientTracking                     our gt                  one MPI process per agent; with fewer cores than
                                                                                agents they wait for one another's time slices
    nvflare        GTADAMExecutor, one thread per agent our gtadam              its messages handed over in memory by a stub of its
                                                                                engine, without its network: its time is flattered

CPU seconds are those of all threads and processes of a run, per round and trial. Ours are those of distopt's compiled rounds of the
fastest package's method, bare and with measurements. They run once, and as a batch of 100 trials, each with its own data in memory.

Usage: DISTOPT_PEERS=/path/to/python python benchmarks/peers.py [--log]    --log writes benchmarks/results/peers.json

where that Python, or one of several with ":" between them, has any of the four packages (3.13 or later for decent-bench; 3.11 does for
the others): pip install decent-bench tvopt disropt nvflare, and torch for nvflare, and an MPI for disropt, such as mpich, with mpiexec
beside that Python or on the path. It must not be the environment of distopt: their pins differ from ours. Without the variable, one line
and no figures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import other_packages
from other_packages import LR, PEERS, Array, D, N, Peer, problem_data

BATCH = 100
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Answer:
    """What a package found: x [N, D] after ``peer.rounds`` rounds, its best seconds and CPU seconds per round, its version."""

    peer: Peer
    x: Array
    seconds: float
    cpu: float
    version: str


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
    """Each peer's answer, or a line with the reason for none."""
    pythons = [each for each in os.environ.get("DISTOPT_PEERS", "").split(os.pathsep) if each]
    if not pythons:
        yield "peers: skipped; DISTOPT_PEERS must name a Python (3.13 for all four) with decent-bench, tvopt, disropt or nvflare"
        return
    for peer in PEERS:
        found = [answer(peer, python) for python in pythons]
        yield next((each for each in found if isinstance(each, Answer)), found[-1])


def answer(peer: Peer, python: str) -> Answer | str:
    """A peer's answer by one of the Pythons, or a line with the reason for none."""
    ranks = N if peer.package == "disropt" else 0
    z = elsewhere(
        peer.package, [python, str(Path(other_packages.__file__).resolve()), peer.package, "answer.npz"], ranks
    )
    if isinstance(z, str):
        return z
    return Answer(peer, z["x"], float(z["seconds"][0]), float(z["seconds"][1]), str(z["version"]))


def elsewhere(
    package: str, command: list[str], ranks: int, given: Mapping[str, Any] | None = None
) -> dict[str, Any] | str:
    """The arrays that a command of another Python writes to answer.npz in a new folder, or a line with the reason for none.

    Args:
        package: the name of the package, for that line.
        command: the path of a Python, and its arguments.
        ranks: the number of MPI ranks; 0 for a process without MPI.
        given: arrays that the command finds in its folder as streams.npz, if any.
    """
    with tempfile.TemporaryDirectory() as folder:
        if given is not None:
            np.savez(Path(folder, "streams.npz"), **given)
        if ranks:
            beside = Path(command[0]).with_name("mpiexec")
            mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
            if mpiexec is None:
                return f"{package}: skipped; it needs mpiexec"
            command = [mpiexec, "-n", str(ranks), *command]
        quiet = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        try:
            run = subprocess.run(
                command, cwd=folder, env=quiet, capture_output=True, text=True, timeout=300, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{package}: skipped; {error}"
        left = Path(folder, "answer.npz")
        if run.returncode or not left.exists():
            lines = run.stderr.strip().splitlines() or ["no answer"]
            why = next((line for line in lines if "Error" in line), lines[-1])
            return f"{package}: skipped; {why.strip()}"
        with np.load(left, allow_pickle=False) as z:
            return dict(z)


def compiled(peer: Peer, trials: int, observe: bool, expected: Array) -> float:
    """CPU seconds per round and trial of distopt's compiled rounds; exits where any trial's x is not the expected one."""
    import speed
    from problems import Ring

    problem = Ring(*problem_data(), np.zeros((1, D)), rounds=peer.rounds)
    name, _, rest = peer.ours.partition(":")
    algorithm = f"{name}:lr={LR}" + (f",{rest}" if rest else "")
    x, seconds = speed.ours(problem, observe, 1024, algorithm, trials, time.process_time)
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


if __name__ == "__main__":
    main()
