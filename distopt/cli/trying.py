"""What must be tried out: torch, compiled rounds, two processes, GPUs. It is tried in a process of its own, which may crash or hang.

``python -m distopt.cli.trying NAME...`` tries each of these and prints a finding for each as a line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from distopt.cli.findings import Finding, watched

LIMIT = 180
"""Seconds that a process which tries things may take in all; it needs about five on an idle machine."""

GLOO_LIMIT = 10
ROUNDS = 20
MARK = "finding: "
SILENT = "no answer within"
MISSES = 1e-9
"""The largest relative difference between compiled and eager rounds that is rounding."""


def torch_() -> Finding:
    """The build of torch."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a build for CPUs"
    threads = torch.get_num_threads()
    return Finding("torch", "ok", f"{torch.__version__}, {build}, {threads} thread{'s' * (threads > 1)}")


def rounds() -> Finding:
    """A tiny run, round by round, and compiled from nothing."""
    from distopt.cli import asking
    from distopt.codegen import objects
    from distopt.runs.execution import execute

    given = {"agents": 4, "scenario": "moving_target", "rounds": ROUNDS}
    (experiment,) = asking.each("ring", ("gtadam:lr=0.05",), given)
    eager = execute(experiment, mode="eager")["average_dynamic_regret"][0, -1]
    if (why := objects.fault()) is not None:
        return Finding("rounds", "note", f"they run, but cannot be compiled: {why}", "without it runs take far longer")
    import llvmlite

    with tempfile.TemporaryDirectory() as place, patched("XDG_CACHE_HOME", place):  # else earlier ones are read
        begun = time.perf_counter()
        fast = execute(experiment, mode="compiled")["average_dynamic_regret"][0, -1]
        seconds = time.perf_counter() - begun
    if not abs(fast - eager) <= MISSES * abs(eager):
        told = f"compiled rounds give the regret {fast}, and eager ones {eager}"
        return Finding("rounds", "fail", told, "add --eager to commands, and report this with your processor's name")
    return Finding(
        "rounds",
        "ok",
        f"{ROUNDS} rounds of gtadam compiled and run in {seconds:.2f} s, llvmlite {llvmlite.__version__}",
    )


@contextmanager
def patched(variable: str, value: str) -> Iterator[None]:
    """Within it, a variable of the environment has this value."""
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        os.environ.pop(variable)
        os.environ.update({} if before is None else {variable: before})


def gpus() -> Finding:
    """GPUs, and NCCL between them."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        why = "this build of torch is for CPUs" if not torch.version.cuda else "torch sees no GPU"
        return Finding("GPUs", "none", f"{why}; distopt needs none")
    ones = float(torch.ones(1000, device="cuda").sum())
    if ones != 1000:
        return Finding("GPUs", "note", f"a sum of 1000 ones is {ones} there", "check the driver with nvidia-smi")
    from distopt.engines.transports import nccl

    nccl.check(1)
    return Finding("GPUs", "ok", f"{count} x {torch.cuda.get_device_name(0)}, with NCCL")


def tex() -> Finding:
    """LaTeX, for figures whose texts it sets."""
    from distopt.report.paper import TEX

    found = next((each for each in TEX if shutil.which(each)), None)
    if found is None:
        return Finding("LaTeX", "none", f"none of {', '.join(TEX)}; only pgf figures need one", "install TeX Live")
    return Finding("LaTeX", "ok", f"{found}, for pgf figures")


def gloo() -> Finding:
    """Two processes that add their numbers over loopback."""
    from distopt.engines.transports.meeting import meet

    return Finding(
        "processes", "ok", f"two processes added their numbers by gloo over loopback in {meet(GLOO_LIMIT):.2f} s"
    )


def ray() -> Finding:
    """A Ray cluster of one actor's size, started and stopped."""
    from distopt.engines.ray import cluster

    begun = time.perf_counter()
    with cluster.cluster(cpus=1):
        seconds = time.perf_counter() - begun
    return Finding("Ray", "ok", f"a cluster of its own started in {seconds:.1f} s")


NO_RANKS = (
    "--engine ranks will not work here: use --engine threads; if a firewall guards loopback, let 127.0.0.1 through"
)
TRIALS: dict[str, tuple[Callable[[], Finding], bool, str]] = {
    "torch": (torch_, True, "pip install --force-reinstall torch"),
    "rounds": (rounds, True, "run distopt simulate ring --agents 4 --traceback to see where"),
    "GPUs": (gpus, False, "leave out --device cuda and --backend nccl, or check the driver with nvidia-smi"),
    "LaTeX": (tex, False, ""),
    "processes": (gloo, False, NO_RANKS),  # after what must be known even if it crashes
    "Ray": (ray, False, "pip install 'distopt[ray]'"),
}
"""By the name of the finding: what tries it, whether the core needs it, and what to do if it fails."""


def tried(names: Sequence[str], limit: float = LIMIT) -> Iterator[Finding]:
    """The findings of these names, tried in one process that is ended after ``limit`` seconds, with all that it started."""
    out, why = _answer([sys.executable, "-P", "-m", "distopt.cli.trying", *names], limit)
    found = dict(_read(out))
    for name in names:
        _, core, advice = TRIALS[name]
        if why.startswith(SILENT):
            advice = "; ".join(("try again when the machine is idle", advice)[: 1 + bool(advice)])
        yield found.get(name) or Finding(name, "fail" if core else "note", why, advice)


def _answer(command: Sequence[str], limit: float) -> tuple[str, str]:
    """What a process prints, and how it ended. No file of the user's may hide a library from it: hence ``-P`` in its command."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:  # no memory, or no processes left
        return "", f"no process can be started ({error.strerror or error})"
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0], f"{SILENT} {limit:g} s"
    except BaseException:  # Ctrl-C
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    code = process.returncode
    said = (err.strip().splitlines() or ["it said nothing"])[-1]
    return out, f"the process ended {f'by {signal.Signals(-code).name}' if code < 0 else f'with code {code}'}: {said}"


def _read(out: str) -> Iterator[tuple[str, Finding]]:
    """The findings among the lines that a process printed; libraries print, too."""
    for line in out.splitlines():
        if line.startswith(MARK):
            finding = Finding(**json.loads(line.removeprefix(MARK)))
            yield finding.name, finding


def main(names: Sequence[str]) -> None:
    """Try each and print what was found."""
    for name in names:
        look, core, advice = TRIALS[name]
        print(MARK + json.dumps(dataclasses.asdict(watched(name, look, core, advice))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
