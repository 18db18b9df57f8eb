"""What a round costs beyond its exchange: a round of the ranks engine beside the bare gloo exchange of the same bytes, and Ray beside ranks.

Usage: python benchmarks/engines.py [--log] [--no-ray]    --log writes benchmarks/results/engines.json

Agents on a ring take gradient steps on quadratics (``dgd``), one thread each process. With 2 ranks each holds 2 agents, and both their rows
go to the other rank in one message; with 4 ranks each holds 2, and one row goes to either side. The *boundary* is the bytes of rows in one
message. The compute is small beside the exchange: a gradient, three terms of W and a copy of x for the measurements, some 70 bytes moved for
each byte of a row. *bare* only sends and receives as many bytes between the same processes, all works at once, like a handwritten loop.
*alike* is the same with gloo's threads as they are during rounds (``Group.busy``). *round* is one of ``Worker.walk``, eager or compiled,
*local* the same walk of all agents in one process. They take turns; each is the best of its repetitions. *wire* is what the loopback
interface counted (rows, our headers, gloo's, TCP's and IP's, acknowledgements) over the rows alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from machine import header, log, machine
from problems import ONE_THREAD
from torch import Tensor

from distopt.engines import local, ranks, ray
from distopt.engines.local.eager import room
from distopt.engines.transports.gloo import GlooTransport, Group, dist
from distopt.engines.workers.partition import Partition
from distopt.engines.workers.worker import Worker
from distopt.experiment import Experiment
from distopt.numerics.trees import default_dtype
from distopt.runs.execution import Comparison
from distopt.runs.signals import begin, follow
from distopt.simulation.problem import Problem, build

RANKS = (2, 4)
BOUNDARIES = (2**10, 2**12, 2**14, 2**16, 2**18, 2**20)
REPEATS, SHORTEST = 30, 0.1  # turns, and seconds of one
LENGTH = 256  # rounds of a stretch, if it has room for them
WORKERS, STRETCH = 2, 256  # of Ray beside ranks
MODES: tuple[local.Mode, ...] = ("eager", "compiled")
KIB = 2**10


class Quadratics:
    """f_i(x) = ||x - p_t||^2 / 2, the same number p_t in all coordinates: next to no data."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def batch(self, t: Tensor, key: Any) -> Tensor:
        return torch.cos(t.double() / 10)

    def loss(self, x: Tensor, p: Tensor) -> Tensor:
        return (x - p).square().sum(-1) / 2

    def grad(self, x: Tensor, p: Tensor) -> Tensor:
        return x - p

    def optimum(self, p: Tensor) -> Tensor:
        return p.expand(*p.shape[:-1], self.dim)


def problem_of(boundary: int, workers: int) -> Problem:
    """A ring of two agents a worker whose messages have ``boundary`` bytes of rows; as many rounds as a stretch has."""
    rows = 2 if workers == 2 else 1
    problem = build(Experiment("ring", 2 * workers, Quadratics(boundary // 8 // rows), "dgd:lr=0.01", rounds=LENGTH))
    return replace(problem, rounds=min(LENGTH, room(problem.x0)))


def interface() -> int:
    """Bytes that the loopback interface has sent."""
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")]
    return int(line.split(":")[1].split()[8])


def bare(group: Group, peers: tuple[int, ...], boundary: int) -> Callable[[int], None]:
    """Exchanges of ``boundary`` bytes with every peer."""
    out, into = (
        torch.zeros(boundary, dtype=torch.uint8),
        {peer: torch.zeros(boundary, dtype=torch.uint8) for peer in peers},
    )

    def exchange(count: int) -> None:
        for _ in range(count):
            works = [group.pg.recv([into[peer]], peer, 7) for peer in peers] + [
                group.pg.send([out], peer, 7) for peer in peers
            ]
            for work in works:
                work.wait()

    return exchange


def alike(group: Group, one: Callable[[int], None]) -> Callable[[int], None]:
    """The same, with gloo's threads as they are during rounds."""

    def busy(count: int) -> None:
        with group.busy():
            one(count)

    return busy


def walker(worker: Worker, length: int) -> Callable[[int], None]:
    """Rounds of a worker, in stretches of ``length``."""
    worker.load(0, length)
    worker.place(None)

    def walk(count: int) -> None:
        for _ in range(count // length):
            worker.walk(range(length), ())

    return walk


def seconds(one: Callable[[int], None], count: int) -> float:
    """Seconds of one of ``count``."""
    began = time.perf_counter()
    one(count)
    return (time.perf_counter() - began) / count


def rank(port: int, me: int, boundary: int, workers: int, compiled: bool, report: Any) -> None:
    """The life of a rank. All do the same; rank 0 reports."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, workers, me == 0, timedelta(seconds=60), wait_for_workers=False)
    group = Group.connect(store, me, workers, 60, "127.0.0.1")
    problem = problem_of(boundary, workers)
    peers = (1 - me,) if workers == 2 else ((me - 1) % workers, (me + 1) % workers)
    length = problem.rounds
    with default_dtype(problem.x0.dtype):
        exchange = bare(group, peers, boundary)
        walk = alike(
            group,
            walker(
                Worker(problem, Partition.even(problem.agents, workers), me, GlooTransport(group), length, compiled),
                length,
            ),
        )
        jobs = {"bare": exchange, "alike": alike(group, exchange), "round": walk}
        for job in jobs.values():
            job(length)
        counts = {}
        for name, job in jobs.items():  # as many as rank 0 finds to take long enough
            count = torch.tensor([max(1, int(SHORTEST / seconds(job, length) / length)) * length])
            group.pg.broadcast(count, 0).wait()
            counts[name] = int(count)
        best = dict.fromkeys(jobs, float("inf"))
        for _ in range(REPEATS):
            for name, job in jobs.items():
                best[name] = min(best[name], seconds(job, counts[name]))
        group.pg.barrier().wait()
        before = interface()
        group.pg.barrier().wait()
        walk(counts["round"])
        group.pg.barrier().wait()
        sent = interface() - before
        group.pg.barrier().wait()
    if me == 0:
        report.send({**best, "wire": sent / (counts["round"] * boundary * workers * len(peers))})
    os._exit(0)


def among(boundary: int, workers: int, compiled: bool) -> dict[str, float]:
    """Seconds of a bare exchange and of a round, and the bytes on the wire for a byte of rows, among processes forked from here."""
    found: dict[str, float] = forked(rank, workers, boundary, workers, compiled)
    return found


def forked(life: Callable[..., None], workers: int, *asked: Any) -> Any:
    """Rank 0's report from processes that run ``life(port, rank, *asked, report)``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context, parent = multiprocessing.get_context("fork"), os.getpid()
    here, there = context.Pipe(False)

    def live(me: int) -> None:
        follow(parent)
        life(port, me, *asked, there)

    processes = [context.Process(target=live, args=(me,), daemon=True) for me in range(workers)]
    begin(processes)
    there.close()
    try:
        return here.recv()
    except EOFError:
        sys.exit(f"{workers} ranks, {asked}: a rank failed")
    finally:
        for process in processes:
            process.join(10)
            process.kill()


def alone(boundary: int, workers: int, compiled: bool) -> float:
    """Seconds of a round of all agents in one process."""
    problem = problem_of(boundary, workers)
    length = problem.rounds
    with default_dtype(problem.x0.dtype):
        walk = walker(
            Worker(
                problem, Partition.even(problem.agents, 1), 0, GlooTransport(Group(None, None, 0, 1)), length, compiled
            ),
            length,
        )
        walk(length)
        count = max(1, int(SHORTEST / seconds(walk, length) / length)) * length
        return min(seconds(walk, count) for _ in range(REPEATS))


def ray_beside_ranks(mode: local.Mode) -> dict[str, float]:
    """Seconds of a round, measurements and orders included, of whole stretches on Ray and on ranks, by turns."""
    problem = build(Experiment("ring", 16, "quadratic:dim=512", "gtadam:lr=0.01", rounds=STRETCH))
    comparison = Comparison.of(problem)
    best = comparison.comparator.reference(0).x
    groups = {
        name: make(problem, comparison.blocks, mode, WORKERS, timeout=300).workers
        for name, make in (("ranks", ranks.ranks), ("ray", ray.ray))
    }
    found = dict.fromkeys(groups, float("inf"))
    try:
        for workers in groups.values():
            workers.place(None)
        for turn in range(REPEATS):
            for name, workers in groups.items():
                took = seconds(
                    lambda count, workers=workers: workers.advance(0, count, range(count), (), best), STRETCH
                )
                found[name] = min(found[name], took) if turn else found[name]
    finally:
        for workers in groups.values():
            workers.close()
    return found


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    row = f"{found['ranks']:5d} {found['boundary'] // KIB:8d} KiB {found['mode']:>9s}"
    row += "".join(f"{found[name] * 1e6:11.1f}" for name in ("bare", "alike", "round", "local"))
    return row + f"{found['round'] / found['bare']:13.2f}{found['round'] / found['alike']:13.2f}{found['wire']:8.3f}"


def main() -> None:
    """Print the table."""
    if missing := {k: v for k, v in ONE_THREAD.items() if k not in os.environ}:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | missing)
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", action="store_true")
    parser.add_argument("--no-ray", action="store_true")
    asked = parser.parse_args()
    about = machine()
    torch.set_num_threads(1)
    print(header(about), f"# microseconds, best of {REPEATS}", sep="\n")
    print(
        f"{'ranks':5s} {'boundary':>12s} {'mode':>9s}{'bare':>11s}{'alike':>11s}{'round':>11s}{'local':>11s}"
        f"{'round/bare':>13s}{'round/alike':>13s}{'wire':>8s}",
        flush=True,
    )
    cases = []
    for workers in RANKS:
        for boundary in BOUNDARIES:
            for mode in MODES:
                compiled = mode == "compiled"
                found: dict[str, float] = {
                    "local": alone(boundary, workers, compiled),
                    **among(boundary, workers, compiled),
                }
                cases.append({"ranks": workers, "boundary": boundary, "mode": mode, **found})
                print(line(cases[-1]), flush=True)
    figures: dict[str, Any] = {"cases": cases}
    if not asked.no_ray:
        figures["ray"] = {mode: ray_beside_ranks(mode) for mode in MODES}
        for mode, found in figures["ray"].items():
            print(
                f"{WORKERS} workers, {mode}, microseconds: ranks {found['ranks'] * 1e6:.0f}, ray {found['ray'] * 1e6:.0f}, "
                f"ray/ranks {found['ray'] / found['ranks']:.2f}"
            )
    if asked.log:
        log("engines", figures, about)


if __name__ == "__main__":
    main()
