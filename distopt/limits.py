"""What cannot fit is refused before it begins, with the bytes that it would need and what to lower.

Estimates are what a run needs at least, as measured; a run somewhat too large may still pass, and then ends with one line.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distopt import catalog
from distopt.data import default_dtype, tensors
from distopt.errors import InputError
from distopt.random import Key

LARGE = 10**5  # agents from which a network's memory is looked at before it is made
NETWORK = 500  # bytes an agent, with few links each
COMPLETE = 32  # bytes for each of N^2 pairs, while the links of all pairs are made
METRICS = 11  # numbers that are recorded of a trial, at least, with the round


def size(count: float) -> str:
    """Bytes in words.

    >>> size(128e12), size(3.2e9), size(7e5)
    ('128 TB', '3.2 GB', '0.7 MB')
    """
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB")):
        if count >= unit:
            return f"{count / unit:,.3g} {name}"
    return f"{count / 1e6:.1f} MB"


def available() -> int:
    """The bytes of memory that this process may still take: of the machine, of its control group, of its own limit."""
    found = [2**63]
    with contextlib.suppress(OSError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, place = line.split(":", 2)
            if kinds in ("", "memory"):
                base = Path("/sys/fs/cgroup", kinds)
                most, used = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
                for folder in (base / place.lstrip("/"), base):
                    with contextlib.suppress(OSError, ValueError):
                        found.append(int((folder / most).read_text()) - int((folder / used).read_text()))
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(limit - pages * resource.getpagesize())
    return max(min(found), 0)


def memory(needed: float, what: str, lower: str) -> None:
    """Refuse ``what`` where it needs more memory than there is; ``lower`` says which settings to lower.

    Raises:
        InputError: it does.
    """
    if needed > (have := available()):
        raise InputError(f"{what} would need at least {size(needed)} of memory, and {size(have)} are free; lower {lower}")


def disk(needed: float, folder: Path, what: str, lower: str) -> None:
    """Refuse ``what`` where it needs more room than the disk of ``folder`` has.

    Raises:
        InputError: it does.
    """
    there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), None)
    if there is not None and needed > (have := shutil.disk_usage(there).free):
        raise InputError(f"{what} would need at least {size(needed)} in {folder}, and {size(have)} are free; lower {lower}")


def agents(experiment: Any) -> None:
    """Refuse a network of more agents than the memory holds, before it is made.

    Raises:
        InputError: it would not fit.
    """
    count = experiment.agents
    if count is None or count * experiment.trials < LARGE:
        return
    needed, what, lower = float(NETWORK * count), f"{count:,} agents", "agents"
    memory(needed, what, lower)
    memory(needed + 100.0 * count * experiment.trials, f"{what} in {experiment.trials:,} trials", "agents or trials")
    with contextlib.suppress(Exception):  # what is wrong is told where it is made
        needed += count * _each(experiment, count)
    if experiment.trials > 1:
        what, lower = f"{what} in {experiment.trials:,} trials", "agents or trials"
    memory(needed, what, lower)


def _each(experiment: Any, count: int) -> float:
    """Bytes of an agent's data, point and state."""
    scenario, algorithm = experiment.scenario, experiment.algorithm
    if isinstance(scenario, str):
        scenario = catalog.make("scenarios", scenario, {"agents": count})
    if isinstance(algorithm, str):
        algorithm = catalog.make("algorithms", algorithm, {})
    some = range(4)
    width, dim = (4 if experiment.dtype == "float32" else 8), int(scenario.dim)
    leaves = 1
    with default_dtype(torch.float64):
        key = Key(experiment.seed, some, range(experiment.trials), count)
        batch = scenario.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)
        with contextlib.suppress(Exception):  # an algorithm that cannot do without numbers
            leaves = len(tensors(algorithm.init(torch.empty(1, 1, dim, device="meta"))))
    data = sum(leaf.numel() * 8 / len(some) for leaf in tensors(batch) if leaf.ndim > 2 and leaf.shape[2] == len(some))
    return float(2.5 * data + experiment.trials * width * dim * (2 * leaves + 8))


def rounds(problems: Sequence[Any], blocks: Any, folder: Path | None) -> None:
    """Refuse runs whose results have no room, in ``folder`` or without one in memory, or whose comparator has none.

    Raises:
        InputError: they would not fit.
    """
    first = problems[0]
    count, (trials, nodes, dim) = first.rounds, first.x0.shape
    what = f"{count:,} rounds" + (f" in {trials:,} trials" if trials > 1 else "") + (f" of {len(problems):,} runs" if len(problems) > 1 else "")
    recorded = -(-count // first.experiment.every)
    kept = len(first.experiment.record) * count * nodes * dim * first.x0.element_size()
    results = float(len(problems) * trials * (8 * METRICS * recorded + kept))
    lower = "rounds, or record less (every, record)"
    if folder is None:
        memory(results, what, lower)
    else:
        disk(results, folder, what, lower)
    if not blocks.static:
        own = max((leaf.shape[1] for leaf in tensors(blocks.get(0))), default=1)
        disk(float(count * own * 8 * (dim + 7)), Path(tempfile.gettempdir()), f"the comparator of {count:,} rounds", "rounds")


def exhausted(error: BaseException) -> bool:
    """Whether an error says that there is no memory left: Python's, or torch's, which has none of its own for the CPU."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


NO_MEMORY = "there is not enough memory; lower agents, trials or the number of runs at a time, or the scenario's dim"
