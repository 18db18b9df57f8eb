"""Options of the command line, read: the experiments, the engine's spec, the mode, and which process runs the command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distopt.errors import InputError

if TYPE_CHECKING:
    from distopt.engines.local import Mode
    from distopt.experiment import Experiment


NAMED = {"scenario", "channel", "feedback", "feasible"}
"""Settings that rule out the default comparison: its step sizes were tuned without them."""


def mode(eager: bool, compiled: bool) -> Mode:
    """How the rounds are to run."""
    if eager and compiled:
        raise click.UsageError("--eager and --compiled exclude each other; leave one of them out")
    return "eager" if eager else "compiled" if compiled else "auto"


@contextmanager
def leading(engine: str, workers: int | None, address: str | None) -> Iterator[bool]:
    """Whether this process runs the command. Among the ranks of torchrun only the first does; the others work for it in here."""
    if engine == "local" and workers is not None:
        raise InputError("--workers needs an engine that has workers; add --engine threads, ranks or ray")
    if engine != "ray" and address is not None:
        raise InputError("--address names a Ray cluster; add --engine ray")
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 0
    if started > 1 and engine != "ranks":
        raise InputError(
            f"torchrun started {started} ranks, and each would run everything; add --engine ranks, so that they share the agents"
        )
    if engine == "ray":
        from distopt.engines.ray import cluster

        with cluster.cluster(address or "", workers or 2):  # for all algorithms
            yield True
        return
    if engine != "ranks" or not started:
        yield True
        return
    from distopt.engines import ranks

    with ranks.torchrun_group() as leads:
        yield leads


def engine_spec(
    engine: str, device: str, workers: int | None, partition: str | None, backend: str | None, address: str | None
) -> str:
    """The spec of the engine that the options choose."""
    if device != "cpu" and engine != "local":
        raise click.UsageError("--device works with the local engine only; leave out --device or --engine")
    asked = [f"device={device}"] if device != "cpu" else []
    if partition is not None and engine == "local":
        raise click.UsageError("--partition needs an engine that has workers; add --engine threads, ranks or ray")
    if backend is not None and engine != "ranks":
        raise click.UsageError("--backend needs ranks; add --engine ranks")
    asked += [] if workers is None else [f"workers={workers}"]
    asked += [] if partition is None else [f"partition={partition}"]
    asked += [] if backend is None else [f"backend={backend}"]
    asked += [] if address is None else [f"address={address}"]
    return f"{engine}:{','.join(asked)}" if asked else engine


def experiments(topology: str, algorithms: tuple[str, ...], given: dict[str, Any]) -> list[Experiment]:
    """The experiments of the options (see ``each``), one for each point of a grid. If only a network is named, three methods are compared."""
    from distopt.experiment import COMPARED, compared

    if not algorithms and not topology.endswith(".toml") and not NAMED & given.keys():
        algorithms = COMPARED
    return compared(each(topology, algorithms, given))


def each(topology: str, algorithms: tuple[str, ...], given: dict[str, Any]) -> list[Experiment]:
    """One experiment for each algorithm: from options, or from a TOML file whose settings the options override."""
    from distopt.catalog.spec_files import rebased
    from distopt.experiment import settings, several, start

    values: dict[str, Any]
    if topology.endswith(".toml"):
        values, where = settings(Path(topology)), topology
        if "x0" in given:
            given["x0"] = start(given["x0"])
        # paths in options are relative to the current folder, paths in the TOML file to the file's folder
        given = {
            key: rebased(value, values["folder"])
            if key in ("scenario", "channel", "x0") and isinstance(value, str)
            else value
            for key, value in given.items()
        }
        for key in {"metrics", "probe"} & given.keys():
            given[key] = [rebased(each, values["folder"]) for each in given[key]]
        algorithms = tuple(rebased(each, values["folder"]) for each in algorithms)
    else:
        values, where = {"topology": topology}, "the command line"
    values |= given
    named = list(algorithms) or values.get("algorithm")
    if named is not None:
        named = named if isinstance(named, list) else [named]
        values["algorithm"] = [name.strip() if isinstance(name, str) else name for name in named]
    return several(values, where)
