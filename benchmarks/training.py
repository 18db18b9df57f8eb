"""Training one model on several ranks: what a step costs on a slow link, how accurate the model is when, and what the optimiser itself takes.

Usage: python benchmarks/training.py [--log] [accuracy] [link] [overlap] [overhead] [memory]    all parts where none is named

- ``accuracy``: test accuracy of the averaged model after so many steps, for each of the methods of trainers.py, on equal shares of the data and
  on shares drawn from Dirichlet(0.1). The same number of settings is tried for each method, on a held-out fifth of the training data, with seed 0.
  The setting with the highest mean accuracy over its steps then runs with the other seeds. No time is taken here, and no link matters.
- ``link``: seconds, bytes on the wire and seconds waiting of a step of two ranks in network namespaces, on a link of so many Mbit/s. Needs
  root, iproute2 and tc.
- ``overlap``: the share of the exchange that is hidden behind a computing phase that is longer, on the slowest link.
- ``overhead``: a step of the optimiser itself, one rank, beside ``torch.optim.Adam``.
- ``memory``: bytes beyond the parameters on a ring of four.

--log writes benchmarks/results/training.json; parts that did not run keep what they have there. The page puts accuracy and link together.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hosts
import numpy as np
import torch
import torch.distributed as dist
from engines import forked
from machine import header, log_parts, machine
from torch import nn
from trainers import ALPHA, METHODS, Agent, Shard, Trainer, join, leave, network, pictures

from distopt.optim import GTAdam

HIDDEN, BATCH = 512, 32  # of a rank
STEPS, SHORT = 240, 120  # of a run that counts, and of one that is tried
EVERY = 4  # steps from one look at the accuracy to the next, or a whole cycle
TRIED, SEEDS = 0, (1, 2, 3)
KINDS: dict[str, float | None] = {"equal shares": None, f"Dirichlet({ALPHA})": ALPHA}

RATES = (10, 100, None)  # Mbit/s; None: as fast as the machine
LASTS, WARM, FEWEST, MOST = 8.0, 4, 5, 60  # seconds of a measurement, cycles before it, and in it
SMALL, SLEPT, NAPS = 64, 1.5, 8  # of the overlap: hidden units, the computing phase in exchanges, steps

TENSORS, SIDE = 10, 1000  # of overhead and memory: as many square matrices of so many rows
REPEATS = 15
RING = 4


# Ranks --------------------------------------------------------------------------------------------------------------------


def curve(job: dict[str, Any], me: int, hidden: int) -> list[float]:
    """Accuracies of the averaged model along one run."""
    data = pictures()
    data = data.held_out() if job["tried"] else data
    trainer = METHODS[job["method"]][0](network(data, hidden), **job["settings"])
    shard = Shard(data, job["alpha"], me, 2, job["seed"])
    every = max(EVERY, trainer.cycle)
    found = []
    for step in range(1, job["steps"] + 1):
        trainer.step(*shard.batch(BATCH))
        if step % every == 0:
            found.append(trainer.accuracy(data.x_test, data.y_test))
    return found


def running(port: int, me: int, jobs: list[dict[str, Any]], hidden: int, report: Any) -> None:
    """The life of a rank that runs jobs one after the other."""
    join(port, me, 2)
    curves = [curve(job, me, hidden) for job in jobs]
    if me == 0:
        report.send(curves)
    leave(me)


def counters(interface: str) -> int:
    """Bytes that an interface has sent and received."""
    (line,) = [
        each for each in Path("/proc/net/dev").read_text().splitlines() if each.strip().startswith(f"{interface}:")
    ]
    words = line.split(":")[1].split()
    return int(words[0]) + int(words[8])


def timing(port: int, me: int, pair: tuple[hosts.Host, ...], hidden: int, lasts: float, report: Any) -> None:
    """The life of a rank that sees how long a step of each method takes."""
    interface = join(port, me, 2, pair)
    data, found = pictures(), []
    for make, settings in METHODS.values():
        trainer, shard = make(network(data, hidden), **settings[0]), Shard(data, None, me, 2, 0)

        def cycle(trainer: Trainer = trainer, shard: Shard = shard) -> tuple[float, float]:
            began, waited = time.perf_counter(), trainer.waiting
            for _ in range(trainer.cycle):
                trainer.step(*shard.batch(BATCH))
            return time.perf_counter() - began, trainer.waiting - waited

        took = [cycle()[0] for _ in range(WARM)][-1]  # these also use up what the link may send in a burst
        count = torch.tensor([min(MOST, max(FEWEST, int(lasts / took)))])
        dist.broadcast(count, 0)
        cycle()
        before = counters(interface)
        times = [cycle() for _ in range(int(count))]
        sent = (counters(interface) - before) / 2 / len(times)
        took, waited = (statistics.median(each) for each in zip(*times, strict=True))
        found.append((trainer.cycle, took / trainer.cycle, sent / trainer.cycle, waited / trainer.cycle))
        dist.barrier()
    if me == 0:
        report.send(found)
    leave(me)


def napping(port: int, me: int, pair: tuple[hosts.Host, ...], hidden: int, report: Any) -> None:
    """The life of a rank that sees how long a step waits, with and without overlap, where computing takes longer than the exchange."""
    join(port, me, 2, pair)
    data, waits, nap = pictures(), {}, 0.0
    for overlap in (False, True):
        trainer, shard = Agent(network(data, hidden), 1e-3, overlap=overlap), Shard(data, None, me, 2, 0)
        for k in range(NAPS + 2):
            if k == 2:
                before = trainer.waiting
            trainer.step(*shard.batch(BATCH))
            time.sleep(nap)
        waits[overlap] = (trainer.waiting - before) / NAPS
        longest = torch.tensor([SLEPT * waits[overlap]])
        dist.broadcast(longest, 0)
        nap = nap or float(longest)
    if me == 0:
        report.send((nap, waits[False], waits[True]))
    leave(me)


def matrices(count: int, side: int) -> nn.ParameterList:
    """A model's parameters, with gradients."""
    torch.manual_seed(0)
    params = nn.ParameterList(torch.randn(side, side) for _ in range(count))
    for each in params:
        each.grad = torch.randn_like(each)
    return params


def stepping(port: int, me: int, threads: int, side: int, report: Any) -> None:
    """The life of a process that times steps of optimisers in turns."""
    torch.set_num_threads(threads)
    ways: dict[str, torch.optim.Optimizer] = {
        "gtadam": GTAdam(matrices(TENSORS, side).named_parameters()),
        "foreach": torch.optim.Adam(matrices(TENSORS, side), foreach=True),
        "fused": torch.optim.Adam(matrices(TENSORS, side), fused=True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(REPEATS + 2):
        for name, optimizer in ways.items():
            began = time.perf_counter()
            optimizer.step()
            if k >= 2:
                times[name].append(time.perf_counter() - began)
    report.send({name: {"median": statistics.median(each), "least": min(each)} for name, each in times.items()})


def resident(what: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most so far."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(what)]
    return int(line.split()[1]) * 1024


def keeping(port: int, me: int, side: int, report: Any) -> None:
    """The life of a rank that sees what memory the optimiser takes."""
    join(port, me, RING)
    GTAdam(matrices(TENSORS, 8).named_parameters(), topology="ring").step()  # what is loaded once is none of it
    params = matrices(TENSORS, side)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far begins anew
    optimizer = GTAdam(params.named_parameters(), topology="ring")
    for _ in range(4):
        optimizer.step()
    dist.barrier()
    if me == 0:
        report.send((optimizer.memory(), resident("VmRSS") - before, resident("VmHWM") - before))
    leave(me)


# Parts --------------------------------------------------------------------------------------------------------------------


def accuracy(
    hidden: int = HIDDEN, steps: int = STEPS, short: int = SHORT, seeds: tuple[int, ...] = SEEDS
) -> dict[str, Any]:
    """See ``curve``: the settings that are best when tried, and their mean curves over seeds."""
    kinds = []
    for kind, alpha in KINDS.items():
        methods = []
        print(f"{kind}: accuracy of the averaged model")
        for name, (_, settings) in METHODS.items():
            job = {"method": name, "alpha": alpha}
            tried = [job | {"settings": each, "seed": TRIED, "steps": short, "tried": True} for each in settings]
            scores = [statistics.fmean(each) for each in forked(running, 2, tried, hidden)]
            best = settings[max(range(len(settings)), key=lambda k: scores[k])]
            judged = [job | {"settings": best, "seed": seed, "steps": steps, "tried": False} for seed in seeds]
            curves = np.array(forked(running, 2, judged, hidden))
            every = steps // curves.shape[1]
            places = [every * (k + 1) for k in range(curves.shape[1])]
            methods.append(
                {
                    "method": name,
                    "settings": best,
                    "tried": dict(zip(map(told, settings), scores, strict=True)),
                    "curve": {"steps": places, "accuracy": curves.mean(0).tolist(), "ends": curves[:, -1].tolist()},
                }
            )
            print(
                f"  {name:18s}{told(best):24s}"
                + "  ".join(f"{t}: {a:.3f}" for t, a in zip(places, curves.mean(0), strict=True))[-80:],
                flush=True,
            )
        kinds.append({"kind": kind, "methods": methods})
    return {**about(hidden), "steps": steps, "short": short, "seeds": len(seeds), "kinds": kinds}


def about(hidden: int) -> dict[str, Any]:
    """The model and its data."""
    data = pictures()
    numbers = sum(each.numel() for each in network(data, hidden).parameters())
    return {"data": data.name, "numbers": numbers, "batch": BATCH}


def told(settings: dict[str, Any]) -> str:
    """Settings in words.

    >>> told({"lr": 0.001, "gamma": 0.4})
    'lr 0.001, gamma 0.4'
    """
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else value for name, value in settings.items())


def link(hidden: int = HIDDEN, rates: tuple[float | None, ...] = RATES, lasts: float = LASTS) -> dict[str, Any]:
    """See ``timing``, by method and rate; or why there is nothing."""
    if (why := hosts.refusal()) is not None:
        print(f"link: skipped, {why}")
        return {"refused": why}
    cases = []
    print("a step of two ranks: bytes a rank sends, milliseconds, of them waiting")
    for rate in rates:
        with hosts.pair(rate) as pair:
            found = forked(timing, 2, pair, hidden, lasts)
        for name, (cycle, took, sent, waited) in zip(METHODS, found, strict=True):
            cases.append(
                {"mbit": rate, "method": name, "cycle": cycle, "seconds": took, "bytes": sent, "waiting": waited}
            )
            print(
                f"{rate or 'any'} Mbit/s  {name:18s}{sent:10.0f} bytes {1e3 * took:9.2f} ms {1e3 * waited:9.2f} ms  "
                f"{found[0][1] / took:6.1f} times faster",
                flush=True,
            )
    return {**about(hidden), "cases": cases}


def overlap(hidden: int = SMALL, rate: float = RATES[0] or 10) -> dict[str, Any]:
    """See ``napping``."""
    if (why := hosts.refusal()) is not None:
        print(f"overlap: skipped, {why}")
        return {"refused": why}
    with hosts.pair(rate) as pair:
        nap, off, on = forked(napping, 2, pair, hidden)
    print(
        f"{rate} Mbit/s, computing {nap:.3f} s: waiting {off:.4f} s a step without overlap, {on:.4f} s with it, {1 - on / off:.1%} hidden"
    )
    return {**about(hidden), "mbit": rate, "computing": nap, "without": off, "with": on}


def overhead(threads: int, side: int = SIDE) -> dict[str, Any]:
    """See ``stepping``, with one thread and with as many as torch takes."""
    cases = []
    for count in sorted({1, threads}):
        found = forked(stepping, 1, count, side)
        cases.append({"threads": count, **found})
        print(
            f"{count} threads: "
            + ", ".join(f"{name} {1e3 * each['median']:.1f} ms" for name, each in found.items())
            + f"; {found['gtadam']['median'] / found['foreach']['median']:.2f} times foreach",
            flush=True,
        )
    return {"numbers": TENSORS * side**2, "tensors": TENSORS, "cases": cases}


def memory(side: int = SIDE) -> dict[str, Any]:
    """See ``keeping``."""
    found, kept, peak = forked(keeping, RING, side)
    model = 4 * TENSORS * side**2
    print(
        "copies of the model: "
        + ", ".join(f"{name} {count / model:.2f}" for name, count in found.items())
        + f"; of the process {kept / model:.2f}, while compiling {peak / model:.2f}"
    )
    return {"ranks": RING, "model": model, "bytes": found, "kept": kept, "peak": peak}


def main() -> None:
    """Measure and print."""
    threads = torch.get_num_threads()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "accuracy": accuracy,
        "link": link,
        "overlap": overlap,
        "overhead": lambda: overhead(threads),
        "memory": memory,
    }
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[[], *parts], metavar="part")
    parser.add_argument("--log", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pictures()
    print(header(machine()))
    for part in asked.parts or parts:
        before = machine()
        found = parts[part]()
        if asked.log:
            log_parts("training", {part: found}, before)


if __name__ == "__main__":
    main()
