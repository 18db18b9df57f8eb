"""CPU seconds, user and system, of the smallest ``distopt simulate``, and where they go; of the README's example, and of NumPy doing it.

Usage: python benchmarks/startup.py [--log]    --log writes benchmarks/results/startup.json

The command, ``simulate ring --agents 16 --rounds 10`` into a temporary folder, runs as a child with warm file caches and no thread setting, as
for a user. The least of a few runs counts. The stages come from another child with the same steps one after the other. The packages' shares
are the self times of ``python -X importtime`` for the command, in wall-clock seconds. The README's example (1,000 rounds of flights, three
methods) is run with nothing compiled before, in an empty cache, and so is the first of its methods alone. It is compared with the
script flights_numpy.py, which has only this method; the figures must agree to 10 digits.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import header, log, machine

REPEATS = 5
ARGUMENTS = ("simulate", "ring", "--agents", "16", "--rounds", "10")
FIGURES = {
    "average_dynamic_regret": "dynamic_regret",
    "average_regret_best_fixed": "regret_best_fixed",
    "accuracy": "accuracy",
    "consensus_error": "consensus_error",
}
"""Columns of summary.csv, and what the NumPy script calls them."""
PACKAGES = ("torch", "numpy", "scipy", "networkx", "pandas", "matplotlib", "distopt")


def spent(command: list[str], **settings: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """CPU seconds of a child and of its children, and what it wrote."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | settings)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, run


def simulate(*python: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """One run of the command."""
    with tempfile.TemporaryDirectory() as folder:
        return spent([sys.executable, *python, "-m", "distopt", *ARGUMENTS, "--out", str(Path(folder, "run"))])


def example() -> dict[str, float]:
    """CPU seconds of the README's example from an empty cache, of its first method alone, and of the NumPy script; exits where figures differ."""
    import torch

    from distopt.experiment import Experiment
    from distopt.simulation.problem import build

    with tempfile.TemporaryDirectory() as folder:
        problem = build(Experiment("ring", 16, "flights", "gtadam", rounds=1000))
        rows = problem.scenario.batch(torch.arange(1000).reshape(-1, 1, 1, 1), problem.key)
        held = {name: getattr(rows, name)[:, 0].numpy() for name in ("X", "y", "w", "fresh")}
        np.savez(Path(folder, "rows.npz"), **held)
        script = [sys.executable, str(Path(__file__).with_name("flights_numpy.py")), str(Path(folder, "rows.npz"))]
        command = [sys.executable, "-m", "distopt", "simulate", "ring", "--agents", "16"]
        alone = [*command, "--algorithm", "gtadam:lr=0.01"]
        times = {"distopt": math.inf, "one method": math.inf, "NumPy": math.inf}
        for k in range(3):
            for name, each in (("distopt", command), ("one method", alone)):
                cache = Path(folder, f"cache {name}{k}")
                cache.mkdir(mode=0o700)
                own, _ = spent([*each, "--out", str(Path(folder, f"{name}{k}"))], XDG_CACHE_HOME=str(cache))
                times[name] = min(times[name], own)
            theirs, said = spent(script, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
            times["NumPy"] = min(times["NumPy"], theirs)
        with Path(folder, "one method0", "summary.csv").open() as file:
            ours = next(csv.DictReader(file))
        figures = json.loads(said.stdout)
        for name, key in FIGURES.items():
            if not math.isclose(float(ours[name]), figures[key], rel_tol=1e-10):
                sys.exit(f"the example's {name} is {ours[name]}, and {figures[key]} by NumPy")
    return times


def packages() -> dict[str, float]:
    """Seconds each package's own modules took to import, the rest together."""
    seconds = dict.fromkeys((*PACKAGES, "others"), 0.0)
    for line in simulate("-X", "importtime")[1].stderr.splitlines():
        if line.startswith("import time:") and "self [us]" not in line:
            own, _, name = line.removeprefix("import time:").split("|")
            package = name.strip().split(".")[0]
            seconds[package if package in PACKAGES else "others"] += int(own) / 1e6
    return seconds


def stages() -> dict[str, float]:
    """The command's steps in this process, CPU seconds each."""
    marks = [("python", time.process_time())]

    def mark(name: str) -> None:
        marks.append((name, time.process_time()))

    import torch  # noqa: F401  # the import is what is timed

    mark("import torch")
    from distopt.experiment import Experiment
    from distopt.report import curves, tables
    from distopt.report.summary import summary
    from distopt.runs.execution import Comparison, execute
    from distopt.runs.files import write_text
    from distopt.simulation.problem import build

    mark("import the rest")
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment("ring", 16, "flights", "gtadam", rounds=10)
        problem = build(experiment)
        comparison = Comparison.of(problem)
        mark("build")
        comparison.comparator.prepare(lambda done, total: None)
        mark("comparator")
        run = execute(experiment, folder=Path(folder, "run"), comparison=comparison, problem=problem)
        mark("rounds")
        write_text(Path(folder, "summary.csv"), tables.to_csv([summary(run)]))
        curves.figure({run.label: run}).savefig(Path(folder, "regret.png"))
        mark("figure")
    before = 0.0
    out = {}
    for name, now in marks:
        out[name], before = now - before, now
    return out


def main() -> None:
    """Print total, stages and packages."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", action="store_true")
    asked = parser.parse_args()
    about = machine()
    simulate()  # warms the caches
    total = min(simulate()[0] for _ in range(REPEATS))
    runs = [
        json.loads(spent([sys.executable, __file__, "--stages"])[1].stdout.splitlines()[-1]) for _ in range(REPEATS)
    ]
    stage = min(runs, key=lambda each: sum(each.values()))
    imported, whole = packages(), example()
    print(header(about), f"distopt {' '.join(ARGUMENTS)}: {total:.2f} CPU seconds", sep="\n")
    for title, shares in (("stages, CPU seconds", stage), ("imports, seconds", imported)):
        print(f"{title}: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in shares.items()))
    print(
        f"distopt simulate ring --agents 16, nothing cached: {whole['distopt']:.2f}; one method: {whole['one method']:.2f}, "
        f"NumPy {whole['NumPy']:.2f} CPU seconds"
    )
    if asked.log:
        figures: dict[str, Any] = {
            "simulate": list(ARGUMENTS),
            "cpu_seconds": total,
            "stages": stage,
            "imports": imported,
            "example": whole,
        }
        log("startup", figures, about)


if __name__ == "__main__":
    if sys.argv[1:] == ["--stages"]:
        print(json.dumps(stages()))
    else:
        main()
