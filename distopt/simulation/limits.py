"""Runs that cannot fit are refused before they begin, with the bytes they would need and what to lower.

Estimates are measured lower bounds. A run somewhat too large may still pass, and then ends with one line.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distopt.catalog import registry
from distopt.numerics.random import Key
from distopt.numerics.room import disk, memory
from distopt.numerics.trees import default_dtype, tensors

LARGE = 10**5  # agents from which a network's memory is looked at before it is made
NETWORK = 500  # bytes an agent, with few links each
METRICS = 11  # numbers that are recorded of a trial, at least, with the round


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
    with contextlib.suppress(Exception):  # errors are reported where the parts are made
        needed += count * _each(experiment, count)
    if experiment.trials > 1:
        what, lower = f"{what} in {experiment.trials:,} trials", "agents or trials"
    memory(needed, what, lower)


def _each(experiment: Any, count: int) -> float:
    """Bytes of an agent's data, point and state."""
    scenario, algorithm = experiment.scenario, experiment.algorithm
    if isinstance(scenario, str):
        scenario = registry.make("scenarios", scenario, {"agents": count})
    if isinstance(algorithm, str):
        algorithm = registry.make("algorithms", algorithm, {})
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
    count, (trials, nodes, dim) = max(problem.rounds for problem in problems), first.x0.shape
    what = (
        f"{count:,} rounds"
        + (f" in {trials:,} trials" if trials > 1 else "")
        + (f" of {len(problems):,} runs" if len(problems) > 1 else "")
    )
    recorded = -(-count // first.experiment.every)
    kept = len(first.experiment.record) * count * nodes * dim * first.x0.element_size()
    results = float(len(problems) * trials * (8 * METRICS * recorded + kept))
    lower = "rounds, or record less (every, record)"
    if folder is None:
        memory(results, what, lower)
    else:
        disk(results, folder, what, lower)
    if blocks.scenario.comparator and not blocks.static:
        own = max((leaf.shape[1] for leaf in tensors(blocks.get(0))), default=1)
        disk(
            float(count * own * 8 * (dim + 7)),
            Path(tempfile.gettempdir()),
            f"the comparator of {count:,} rounds",
            "rounds",
        )
