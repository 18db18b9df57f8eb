"""Where the rounds run: ``local`` (one block, in this process) and engines whose workers hold a block of agents each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from distopt.catalog.registry import parse
from distopt.catalog.spec import whole as number
from distopt.errors import InputError

if TYPE_CHECKING:
    from distopt.costs.data import Blocks
    from distopt.engines.local import Mode
    from distopt.simulation.problem import Problem
    from distopt.simulation.runner import Engine

NAMES = ("local", "threads", "ranks", "ray")


def make(spec: str, problem: Problem, blocks: Blocks, mode: Mode = "auto") -> Engine:
    """The engine that a spec such as ``threads:workers=3`` names, for a problem and its data.

    Raises:
        InputError: an unknown engine or parameter, or a value that should be a whole number and is not.
    """
    maker, numbers = _parsed(spec)
    built: Engine = maker(problem, blocks, mode, **numbers)
    return built


def check(spec: str, agents: int) -> None:
    """Refuse early what ``make`` would: a spec that names no engine, partition or backend, or more workers than agents or GPUs."""
    from distopt.engines.workers import partition

    parameters = _parsed(spec)[1]
    partition.check(str(parameters.get("partition", "contiguous")))
    if isinstance(workers := parameters.get("workers"), int):
        partition.Partition.even(agents, workers)
    if isinstance(backend := parameters.get("backend"), str):
        from distopt.engines import ranks

        ranks.check(backend, int(workers or 2))


def device(spec: str) -> str:
    """The device that a spec such as ``local:device=cuda`` or ``ranks:backend=nccl`` names, on which alone its bits are the same."""
    asked = _parsed(spec)[1]
    if "backend" in asked:
        from distopt.engines import ranks

        return ranks.DEVICES.get(str(asked["backend"]), "cpu")
    return str(asked.get("device", "cpu"))


def _parsed(spec: str) -> tuple[Callable[..., Engine], dict[str, int | str]]:
    asked = parse(spec)
    if asked.name not in NAMES:
        raise InputError(f"no engine {asked.name!r}; engines: {', '.join(NAMES)}")
    module = importlib.import_module(f"distopt.engines.{asked.name}")
    known = list(module.engine.__annotations__)[3:-1]  # after problem, blocks and mode, before what it returns
    values = {**dict(zip(known, asked.args, strict=False)), **dict(asked.kwargs)}
    wrong = [key for key in values if key not in known] or list(asked.args[len(known) :])
    if wrong:
        raise InputError(f"engine {asked.name}: no parameter {wrong[0]!r}; parameters: {', '.join(known) or 'none'}")
    typed: dict[str, int | str] = {}
    for key, value in values.items():
        whole = "int" in module.engine.__annotations__[key]
        try:
            typed[key] = number(value) if whole else value
            if whole and key in ("workers", "timeout") and typed[key] == 0:
                raise ValueError("must be at least 1")
        except ValueError as error:
            raise InputError(f"engine {spec}: {key}={value} {error}") from None
    return module.engine, typed
