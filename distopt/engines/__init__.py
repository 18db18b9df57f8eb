"""Where the rounds run: ``local`` (one block, in this process) and engines whose workers hold a block of agents each.

An engine is a file or a folder here that defines a function of its own name. ``distopt list engines`` shows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distopt.catalog import registry
from distopt.ranges import whole

if TYPE_CHECKING:
    from distopt.costs.data import Blocks
    from distopt.engines.local import Mode
    from distopt.simulation.problem import Problem
    from distopt.simulation.runner import Engine


def make(spec: str, problem: Problem, blocks: Blocks, mode: Mode = "auto") -> Engine:
    """The engine that a spec such as ``threads:workers=3`` names, for a problem and its data.

    Raises:
        InputError: an unknown engine or parameter, or a value of the wrong type.
    """
    engine: Engine = registry.bound("engines", spec, {"problem": problem, "blocks": blocks, "mode": mode})()
    return engine


def check(spec: str, agents: int) -> None:
    """Raise the errors of ``make`` early: an unknown engine, partition or backend, or more workers than agents or GPUs."""
    from distopt.engines.workers import partition

    asked = _asked(spec)
    workers = asked.get("workers")
    if "partition" in asked:
        partition.check(asked["partition"])
    if workers is not None:
        partition.Partition.even(agents, workers)
    if "timeout" in asked:
        whole(registry.Spec.parse(spec).name, 1, timeout=asked["timeout"])
    if "backend" in asked:
        from distopt.engines import ranks

        ranks.check(asked["backend"], workers or 2)


def device(engine: Any) -> str:
    """The device of an engine: from a spec such as ``local:device=cuda`` or ``ranks:backend=nccl``, or from the function that makes engines.

    Bits are the same on one device only.
    """
    if not isinstance(engine, str):
        return str(getattr(engine, "device", "cpu"))
    asked = _asked(engine)
    if "backend" in asked:
        from distopt.engines import ranks

        return ranks.DEVICES.get(asked["backend"], "cpu")
    return str(asked.get("device", "cpu"))


def _asked(spec: str) -> dict[str, Any]:
    """The parameters that a spec sets, by name."""
    return registry.bound("engines", spec, dict.fromkeys(registry.OPTIONS["engines"])).keywords
