"""What else a run is made of: compiling its rounds, the minimisers of its costs, a long command, and the memory of very many rounds.

Usage: python benchmarks/parts.py [--log]    --log writes benchmarks/results/parts.json

- *compiling*: CPU seconds to record, write out and compile the rounds with their measurements, in a process that has an empty cache (*cold*), and
  in others that find the functions there (*warm*, the least of a few): gtadam on two scenarios, every algorithm, gtadam with every
  compressor.
- *minimisers*: rounds for each CPU second of all that the comparator finds: x*_t, the costs there, and the best fixed point.
- *command*: CPU seconds of 20,000 rounds on ``drifting_logistic``, the whole process.
- *memory*: bytes of a process with 10⁶ rounds of 4 agents, at most, and of one with 1,000.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import header, log, machine
from startup import spent

AGENTS = 16
PAIRS = (("gtadam", "moving_target"), ("gtadam", "flights"))
SOUGHT = {"flights": 1000, "digits": 300}
REPEATS = 3
LONG = ("simulate", "ring", "--agents", "16", "--scenario", "drifting_logistic", "--rounds", "20000")
MANY = (1000, 10**6)


def compiling() -> dict[str, float]:
    """CPU seconds of the rounds of each case in this process, without what the first compilation of a process loads."""
    import distopt
    from distopt.catalog import registry
    from distopt.engines.local.compiled import Rounds
    from distopt.errors import InputError
    from distopt.optional import AlgorithmDefaults, completed

    taken, made = [0.0], Rounds.__init__

    def timed(self: Rounds, *given: Any, **named: Any) -> None:
        began = time.process_time()
        made(self, *given, **named)
        taken[0] += time.process_time() - began

    Rounds.__init__ = timed  # type: ignore[method-assign]  # the only place where the rounds of a run are compiled

    def case(algorithm: str, scenario: str, **settings: Any) -> float:
        method = completed(AlgorithmDefaults, registry.make("algorithms", algorithm))
        of, topology = (
            "drifting_logistic" if method.for_rows else scenario,
            "star" if method.weights == "average" else "ring",
        )
        taken[0] = 0.0
        gc.collect()  # a case does not pay for what others have left
        asked = {"agents": AGENTS, "scenario": of, "algorithm": algorithm, "rounds": 2, **settings}
        distopt.simulate(topology, **asked)
        return taken[0]

    case("dgd", "quadratic")
    found = {f"{algorithm} on {scenario}": case(algorithm, scenario) for algorithm, scenario in PAIRS}
    for name in registry.names("algorithms"):
        found[name] = case(name, "moving_target")
    for name in registry.names("compressors"):
        try:
            found[f"choco({name})"] = case("gtadam", "moving_target", channel=f"choco:compressor={name}")
        except InputError:  # those that are unbiased instead of contractions
            found[f"comm({name})"] = case("gtadam", "moving_target", channel=f"comm:compressor={name}")
    return found


def minimisers() -> dict[str, float]:
    """Rounds for each CPU second."""
    from distopt.experiment import Experiment
    from distopt.runs.execution import Comparison
    from distopt.simulation.problem import build

    found = {}
    for scenario, rounds in SOUGHT.items():
        times = []
        for _ in range(REPEATS):
            comparator = Comparison.of(build(Experiment("ring", AGENTS, scenario, "dgd", rounds=rounds))).comparator
            began = time.process_time()
            comparator.prepare(lambda done, total: None)
            times.append(time.process_time() - began)
        found[scenario] = rounds / min(times)
    return found


def memory(rounds: int) -> int:
    """Bytes that this process has had at most."""
    import distopt

    distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="gtadam", rounds=rounds)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def command() -> float:
    """CPU seconds of the long command, the least of a few."""
    times = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            times.append(spent([sys.executable, "-m", "distopt", *LONG, "--out", str(Path(folder, "run"))])[0])
    return min(times)


def child(*arguments: str, **settings: str) -> Any:
    """What a part says in a process of its own."""
    run = [sys.executable, __file__, *arguments]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | settings)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the parts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", action="store_true")
    asked = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        cold, *others = (child("compiling", XDG_CACHE_HOME=folder, OMP_NUM_THREADS="1") for _ in range(1 + REPEATS))
        warm = {
            name: min(each[name] for each in others) for name in cold
        }  # the collector of garbage may strike anywhere
    figures = {
        "compiling": {name: {"cold": cold[name], "warm": warm[name]} for name in cold},
        "minimisers": child("minimisers", OMP_NUM_THREADS="1"),
        "command": {"arguments": list(LONG), "cpu_seconds": command()},
        "memory": {str(rounds): child("memory", str(rounds)) for rounds in MANY},
    }
    slowest = max(cold, key=lambda name: float(cold[name]))
    print(header(about))
    for name in (*cold, "slowest"):
        at = slowest if name == "slowest" else name
        print(f"{name:30} cold {cold[at]:.2f}, warm {warm[at]:.3f} CPU seconds")
    print("minimisers, rounds/s:", {name: round(each) for name, each in figures["minimisers"].items()})
    print(f"distopt {' '.join(LONG)}: {figures['command']['cpu_seconds']:.2f} CPU seconds")
    print("MiB:", {rounds: round(each / 2**20) for rounds, each in figures["memory"].items()})
    if asked.log:
        log("parts", figures, about)


if __name__ == "__main__":
    parts = {"compiling": compiling, "minimisers": minimisers}
    if sys.argv[1:2] == ["memory"]:
        print(json.dumps(memory(int(sys.argv[2]))))
    elif len(sys.argv) == 2 and sys.argv[1] in parts:
        print(json.dumps(parts[sys.argv[1]]()))
    else:
        main()
