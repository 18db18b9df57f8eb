"""What compression costs and what it saves, in four parts.

Usage: python benchmarks/compression.py [--log] [speed] [bytes] [regret] [link]    all parts where none is named

- ``speed``: encode and decode of the scaled sign on one long row, one thread, compiled as in a run and eager, next to numpy.packbits
  with the scale, and to a plain copy of the same array. The copy reads and writes each number once, at the machine's bandwidth. Best
  of interleaved repetitions.
- ``bytes``: what an agent sends in a round of gtadam through choco, x and s: the payload, and the bytes on the loopback
  interface between two ranks, with all headers (ours, gloo's, TCP's, IP's) and acknowledgements.
- ``regret``: average dynamic regret of gtadam on a ring of 16, float32, against the bits an agent has broadcast. Step size and gamma of each
  method are those of the least R_T / T in a grid, for the trials of seed 0; the curve is that of the trials of seed 1.
- ``link``: seconds of a round of two ranks in network namespaces, on a link of so many Mbit/s. Needs root, iproute2 and tc.

--log writes benchmarks/results/compression.json; parts that did not run keep what they have there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import hosts
import numpy as np
import torch
from engines import Quadratics, forked, interface
from machine import header, log_parts, machine
from problems import ONE_THREAD
from regret import Stream, final
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.catalog.registry import make
from distopt.checks.compressors import there_and_back
from distopt.codegen.function import compiled
from distopt.compressors.sign import Sign
from distopt.engines.transports.gloo import GlooTransport, Group, dist
from distopt.engines.workers.partition import Partition
from distopt.engines.workers.worker import Worker
from distopt.experiment import Experiment
from distopt.numerics.trees import default_dtype
from distopt.simulation.problem import build

NUMBERS = 2**24
REPEATS = 7
DIM = 10_000  # of the table of bytes
WALK = 32  # its rounds
SPECS = (
    "identity",
    "cast",
    "cast:to=bf16",
    "natural",
    "dither:precision=8",
    "dither:precision=2",
    "qsgd:levels=4",
    "qsgd:levels=1",
    "sign",
    "unscaled_sign",
    "topk:fraction=0.01",
    "randomk:fraction=0.01",
    "lowrank:rank=1",
)

METHODS = {"exact": "", "sign": "sign", "top-k 1 %": "topk(fraction=0.01)", "QSGD": "qsgd(levels=4,contraction=true)"}
STREAMS = ("moving_target:dim=100", "flights:step=160")
LRS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
GAMMAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
HORIZON, ROUNDS, TRIALS = 1000, 2000, 3
WITHIN = 1.1  # the level is this many times the regret of exact messages after HORIZON rounds
KEPT = 80  # points of a curve

LINKED = 2**17  # float32 numbers: x and s are a message of 1 MiB
RATES = (10, 100, None)  # Mbit/s; None: as fast as the machine
TURNS, LASTS = 3, 4.0  # repetitions, and seconds of each


def by_numpy(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The scaled sign there and back with numpy."""
    packed, scale = np.packbits(z >= 0), np.abs(z).sum() / len(z)
    bits = np.unpackbits(packed, count=len(z))
    return np.where(bits, scale, -scale).astype(z.dtype)


def written(do: Callable[[list[Tensor]], list[Tensor]], data: list[Tensor]) -> Callable[[], list[Tensor]]:
    """What computes ``do(data)`` as one compiled function, always into the same memory."""
    leaves = [each[None] for each in data]
    function = compiled(lambda _, given: ([], do(given)), [], leaves)
    rows = [torch.empty(1, *shape, dtype=kind) for shape, kind in function.rows]
    bound = function.bound([], leaves, rows)

    def run() -> list[Tensor]:
        bound(0, 1)
        return [each[0] for each in rows]

    return run


def throughput(dtype: torch.dtype) -> dict[str, float]:
    """Seconds there and back for a row of ``NUMBERS``."""
    z = torch.randn(1, NUMBERS, dtype=dtype, generator=torch.Generator().manual_seed(0))
    there, room, sign = z[0].numpy(), torch.empty_like(z), Sign()

    def eager(z: Tensor) -> Tensor:
        return sign.decode(sign.encode(z), NUMBERS, dtype)

    encode = written(lambda data: pytree.tree_leaves(sign.encode(data[0])), [z])
    both = written(lambda data: [eager(data[0])], [z])
    assert torch.allclose(both()[0], eager(z)) and np.allclose(by_numpy(there), eager(z)[0].numpy(), rtol=1e-5)
    ways: dict[str, Callable[[], object]] = {
        "copy": lambda: room.copy_(z),
        "encode": encode,
        "compiled": both,
        "eager": lambda: eager(z),
        "numpy": lambda: by_numpy(there),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(REPEATS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def channel(compressor: str, gamma: float = 0.5) -> str:
    """Choco through a compressor; exact without."""
    return f"choco:compressor={compressor},gamma={gamma}" if compressor else "exact"


def nested(spec: str) -> str:
    """A spec as it stands within another: name(key=value)."""
    name, colon, settings = spec.partition(":")
    return f"{name}({settings})" if colon else name


# Ranks --------------------------------------------------------------------------------------------------------------------


class Pair:
    """This process as one of two ranks with an agent each, gtadam in float32."""

    def __init__(self, port: int, me: int, pair: tuple[hosts.Host, ...], dim: int) -> None:
        if pair:
            pair[me].enter()
        addresses = [host.address for host in pair] or ["127.0.0.1"] * 2
        store = dist.TCPStore(addresses[0], port, 2, me == 0, timedelta(seconds=60), wait_for_workers=False)
        self.group = Group.connect(store, me, 2, 600, addresses[me])
        self.me, self.dim = me, dim

    def walker(self, channel: str) -> Callable[[int], None]:
        """Walks so many rounds through a channel."""
        base = Experiment("complete", 2, Quadratics(self.dim), "gtadam:lr=0.01", channel, rounds=WALK, dtype="float32")
        problem = build(base)
        worker = Worker(problem, Partition.even(2, 2), self.me, GlooTransport(self.group), WALK)
        with default_dtype(torch.float64):
            worker.load(0, WALK)

        def walk(count: int) -> None:
            with default_dtype(torch.float32):
                worker.place(None)
                worker.walk(range(count), ())

        return walk

    def together(self) -> None:
        """Wait for each other."""
        self.group.pg.barrier().wait()


def counting(port: int, me: int, specs: tuple[str, ...], report: Any) -> None:
    """The life of a rank that sees what the interface counts in a round, by agent."""
    torch.set_num_threads(1)
    here, found = Pair(port, me, (), DIM), []
    for spec in specs:
        walk = here.walker(spec)
        walk(2)
        here.together()
        before = interface()
        here.together()
        walk(WALK)
        here.together()
        found.append((interface() - before) / WALK / 2)
        here.together()
    if me == 0:
        report.send(found)
    os._exit(0)


def timing(port: int, me: int, pair: tuple[hosts.Host, ...], specs: tuple[str, ...], report: Any) -> None:
    """The life of a rank that sees how long a round takes; each turn first uses up what the link may send in a burst."""
    torch.set_num_threads(1)
    here = Pair(port, me, pair, LINKED)
    walks = [here.walker(spec) for spec in specs]
    counts = []
    for walk in walks:
        took = clocked(walk, 2)
        count = torch.tensor([min(WALK, max(2, int(LASTS / took)))])
        here.group.pg.broadcast(count, 0).wait()
        counts.append(int(count))
    best = [float("inf")] * len(specs)
    for _ in range(TURNS):
        for k, walk in enumerate(walks):
            walk(counts[k])
            best[k] = min(best[k], clocked(walk, counts[k]))
    if me == 0:
        report.send(best)
    os._exit(0)


def clocked(walk: Callable[[int], None], count: int) -> float:
    """Seconds of one of ``count`` rounds."""
    began = time.perf_counter()
    walk(count)
    return (time.perf_counter() - began) / count


# Parts --------------------------------------------------------------------------------------------------------------------


def speed() -> dict[str, Any]:
    """See ``throughput``, in both precisions."""
    seconds = {}
    print(f"scaled sign of {NUMBERS:,} numbers there and back, milliseconds, and over a plain copy")
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        found = seconds[name] = throughput(dtype)
        print(
            f"{name}  "
            + "  ".join(f"{way} {1e3 * each:.1f} ({each / found['copy']:.2f}x)" for way, each in found.items()),
            flush=True,
        )
    return {"numbers": NUMBERS, "seconds": seconds}


def sizes() -> dict[str, Any]:
    """Bytes of a round by compressor, and what is lost of a normal row, |C(z) - z|^2 / |z|^2."""
    z = torch.randn(4, 1, DIM, generator=torch.Generator().manual_seed(0))
    wire = forked(counting, 2, tuple(channel(nested(spec)) for spec in SPECS))
    rows = []
    print(
        f"bytes an agent sends in a round of gtadam through choco, {DIM:,} float32 numbers, and the part of a normal row that is lost"
    )
    for spec, counted in zip(SPECS, wire, strict=True):
        payload, back = there_and_back(make("compressors", spec), z)
        took = 2 * sum(leaf.shape[-1] * leaf.element_size() for leaf in pytree.tree_leaves(payload))  # x and s
        lost = float((back - z).square().sum() / z.square().sum())
        rows.append({"compressor": spec, "bytes": took, "wire": counted, "times_fewer": 8 * DIM / took, "lost": lost})
        print(
            f"{spec:24s}{took:8d}  {8 * DIM / took:7.1f} times fewer than 2 x 32 d  on the wire {counted:9.0f}  lost {lost:.3g}",
            flush=True,
        )
    return {"dim": DIM, "rows": rows}


def race(scenario: str) -> dict[str, Any]:
    """The curves of all methods on one scenario, and the bits that each took to the level."""
    base = Experiment("ring", 16, scenario, "gtadam", rounds=ROUNDS, trials=TRIALS, dtype="float32")
    tuning, judging = (Stream.of(replace(base, seed=seed)) for seed in (0, 1))
    methods: list[dict[str, Any]] = []
    level = float("nan")
    places = np.unique(np.geomspace(1, ROUNDS, KEPT).round().astype(int))
    print(f"{scenario}: {ROUNDS} rounds, {TRIALS} trials")
    for name, compressor in METHODS.items():
        scores = {}
        for gamma in GAMMAS if compressor else (1.0,):
            for lr, run in zip(LRS, tuning.runs(f"gtadam:lr={LRS}", channel(compressor, gamma)), strict=True):
                scores[lr, gamma] = float(np.nan_to_num(final(run).mean(), nan=np.inf))
        lr, gamma = min(scores, key=lambda each: scores[each])
        run = judging.runs(f"gtadam:lr={lr}", channel(compressor, gamma))[0]
        regret, bits = np.asarray(run["average_dynamic_regret"]).mean(0), np.asarray(run["bits"])[0]
        if name == "exact":
            level = WITHIN * float(regret[HORIZON - 1])
        above = np.nonzero(~(regret <= level))[0]
        after = int(above[-1]) + 2 if len(above) else 1  # the round from which on it stays at the level
        reached = {"rounds": after, "bits": float(bits[after - 1])} if after <= len(regret) else None
        seen = places[places <= len(regret)]
        methods.append(
            {
                "method": name,
                "channel": channel(compressor, gamma),
                "lr": lr,
                "bits": float(bits[0]),
                "tuned": scores[lr, gamma],
                "regret": {str(t): float(regret[t - 1]) for t in (HORIZON, ROUNDS) if t <= len(regret)},
                "reached": reached,
                "curve": {"rounds": seen.tolist(), "regret": regret[seen - 1].tolist()},
            }
        )
        print(
            f"  {name:10s} lr {lr:<6g} {channel(compressor, gamma):60s} R_T/T {methods[-1]['regret']}  level {level:.4g} {reached}",
            flush=True,
        )
    return {"scenario": scenario, "level": level, "methods": methods}


def regrets() -> dict[str, Any]:
    """See ``race``."""
    return {
        "horizon": HORIZON,
        "rounds": ROUNDS,
        "trials": TRIALS,
        "within": WITHIN,
        "lrs": LRS,
        "gammas": GAMMAS,
        "streams": [race(scenario) for scenario in STREAMS],
    }


def link() -> dict[str, Any]:
    """Seconds of a round by method and rate; or why there are none."""
    if (why := hosts.refusal()) is not None:
        print(f"link: skipped, {why}")
        return {"refused": why}
    specs = tuple(channel(compressor) for compressor in METHODS.values())
    sent = [2 * make("channels", spec).bits(LINKED, 4) / 8 for spec in specs]
    cases = []
    print(f"seconds of a round of two ranks, x and s of {LINKED:,} float32 numbers")
    for rate in RATES:
        with hosts.pair(rate) as pair:
            best = forked(timing, 2, pair, specs)
        for name, took, payload in zip(METHODS, best, sent, strict=True):
            cases.append({"mbit": rate, "method": name, "bytes": payload, "seconds": took})
            print(
                f"{rate or 'any'} Mbit/s  {name:10s}{payload:10.0f} bytes  {took:9.4f} s  {best[0] / took:6.1f} times faster",
                flush=True,
            )
    return {"numbers": LINKED, "cases": cases}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {"speed": speed, "bytes": sizes, "regret": regrets, "link": link}


def main() -> None:
    """Measure and print."""
    if missing := {k: v for k, v in ONE_THREAD.items() if k not in os.environ}:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | missing)
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="part")
    parser.add_argument("--log", action="store_true")
    asked = parser.parse_args()
    about = machine()
    print(header(about))
    torch.set_num_threads(1)
    for part in asked.parts or PARTS:
        found = PARTS[part]()
        if asked.log:
            log_parts("compression", {part: found}, about)


if __name__ == "__main__":
    main()
