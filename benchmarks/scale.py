"""How time and memory grow with the network: GTAdam on quadratics in 10 dimensions, 10^3 to 10^6 agents, one thread.

Usage: python benchmarks/scale.py [--log] [WORD ...]    WORD selects cases by title; --log writes benchmarks/results/scale.json

Each case is a separate process with the steps of a run: topology and weights, data and comparator, compiled rounds with measurements,
and then the bare recursion on the same data. The rounds are run again after the first run, and the best of those is timed, so that
compilation is not. Memory is the highest resident set (VmHWM, reset between phases) of all these runs, minus the memory after
importing distopt and torch, minus the state: x and the algorithm's values. Part of it, the same for every N, is the compiler's.

Exponents are least-squares slopes of log figure against log number of links over N >= 10^4; of memory, what is above N = 10^3.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import header, log, machine
from problems import ONE_THREAD

SIZES = (10**3, 10**4, 10**5, 10**6)
TOPOLOGIES = ("ring", "random_regular:degree=4")
SCENARIO, ALGORITHM = "quadratic:dim=10", "gtadam:lr=0.01"
AGAIN = ("second run", "third run", "fourth run")
FITTED = 10**4  # agents from which on fixed costs are small


class Phases:
    """Seconds and highest resident memory of one phase after the other, above what was held at the start."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, int] = {}
        self._base = resident("VmRSS")
        self._start()

    def _start(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is held now
        self._began = time.perf_counter()

    def end(self, name: str) -> None:
        self.seconds[name] = time.perf_counter() - self._began
        self.peak[name] = resident("VmHWM") - self._base
        self._start()


def resident(name: str) -> int:
    """A figure of /proc/self/status in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def case(topology: str, agents: int) -> dict[str, Any]:
    """The figures of one case, measured in this process."""
    import torch

    from distopt.codegen.leaves import Leaves
    from distopt.engines.local.compiled import Compiled, Rounds, leaves_of
    from distopt.experiment import Experiment
    from distopt.numerics.trees import tensors
    from distopt.runs.execution import Comparison
    from distopt.simulation import runner
    from distopt.simulation.problem import build

    phases = Phases()
    rounds = max(16, min(1024, 2 * 10**6 // agents))
    problem = build(Experiment(topology, agents, SCENARIO, ALGORITHM, rounds=rounds))
    problem.network.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64))
    phases.end("topology and weights")
    comparison = Comparison.of(problem)
    comparison.comparator.prepare(lambda done, total: None)
    phases.end("data and comparator")
    engine = Compiled()
    for name in ("first run", *AGAIN):
        for _ in runner.run(problem, comparison.comparator, comparison.blocks, engine, agentwise=False):
            pass
        phases.end(name)
    held = engine.fetch()
    state = sum(leaf.numel() * leaf.element_size() for leaf in tensors((held.x, held.state)))
    links = len(problem.network.mixings[0].graph.edges)
    peak = max(phases.peak.values())

    block = runner._block(problem, comparison.comparator, comparison.blocks, 0, comparison.blocks.length)
    own, leaves = Leaves(held), leaves_of(block)
    function = Rounds(problem, (), own, leaves, observe=False).function
    bound = function.bound(own.tensors, leaves.tensors, [])
    times = []
    for _ in range(4):
        began = time.perf_counter()
        bound(0, block.count)
        times.append((time.perf_counter() - began) / block.count)
    return {
        "topology": topology,
        "agents": agents,
        "links": links,
        "topology_and_weights": phases.seconds["topology and weights"],
        "bare": min(times),
        "measured": min(phases.seconds[name] for name in AGAIN) / rounds,
        "state_bytes": state,
        "beyond_bytes": peak - state,
        "seconds": phases.seconds,
        "peak_bytes": phases.peak,
    }


def exponents(cases: list[dict[str, Any]]) -> dict[str, float]:
    """Slopes over the cases of one topology with at least ``FITTED`` agents; nothing where they are fewer than two."""
    large = [each for each in cases if each["agents"] >= FITTED]
    fixed = min((each["beyond_bytes"] for each in cases if each["agents"] < FITTED), default=0)
    links = np.log([each["links"] for each in large])
    if len(large) < 2:
        return {}
    found = {name: np.polyfit(links, np.log([each[name] for each in large]), 1)[0] for name in ("bare", "measured")}
    growth = np.array([each["beyond_bytes"] - fixed for each in large])
    if (growth > 0).all():
        found["beyond_bytes"] = np.polyfit(links, np.log(growth), 1)[0]
    return {name: round(float(slope), 3) for name, slope in found.items()}


def main() -> None:
    """Run the cases, each in a child of its own, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", action="store_true")
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    about = machine()
    print(header(about))
    print(
        f"{'':32s}{'build s':>9s}{'bare /s':>11s}{'measured /s':>13s}{'state MiB':>11s}{'beyond MiB':>12s}", flush=True
    )
    cases, slopes = [], {}
    for topology in TOPOLOGIES:
        for agents in SIZES:
            title = f"{topology} {agents}"
            if asked.words and not any(word in title for word in asked.words):
                continue
            command = [sys.executable, __file__, "--case", topology, str(agents)]
            run = subprocess.run(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(run.stdout.splitlines()[-1])
            cases.append(found)
            print(
                f"{title:32s}{found['topology_and_weights']:9.2f}{1 / found['bare']:11.1f}{1 / found['measured']:13.1f}"
                f"{found['state_bytes'] / 2**20:11.1f}{found['beyond_bytes'] / 2**20:12.1f}",
                flush=True,
            )
        slopes[topology] = exponents([each for each in cases if each["topology"] == topology])
        print(f"  exponents over N >= {FITTED}: {slopes[topology]}", flush=True)
    if asked.log:
        log("scale", {"cases": cases, "exponents": slopes}, about)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(case(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
