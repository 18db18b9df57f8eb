"""The local engine: all agents in one block of this process.

Rounds are compiled as one function (``compiled``). They run eagerly on request, on devices other than the CPU, and if they cannot be
compiled. They are never chosen by a clock or by sizes: the same experiment has the same bits on every run.
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import numpy as np

from distopt.catalog.spec import shown
from distopt.codegen import objects
from distopt.codegen.folder import CompileWarning
from distopt.costs.data import Blocks
from distopt.engines.local.eager import Eager
from distopt.errors import InputError, either
from distopt.simulation.problem import Problem
from distopt.simulation.runner import Engine

Mode = Literal["auto", "eager", "compiled"]
MODES = get_args(Mode)


def local(problem: Problem, blocks: Blocks, mode: Mode = "auto", device: str = "cpu") -> Engine:
    """All agents in this process.

    On the CPU rounds are compiled. If they cannot be compiled, a warning says why, and they run one by one in Python. With mode
    "compiled" this is an error. With mode "eager", and on other devices, they run one by one.

    Raises:
        InputError: ``mode`` is none, torch has no such ``device``, or the mode is "compiled" there.
    """
    check(mode)
    if device != "cpu":
        from distopt.engines.local.device import OnDevice

        if mode == "compiled":
            raise InputError(f"device={device}: rounds there run eagerly; {_unforced()}")
        return OnDevice(Eager(), device)
    if mode == "eager":
        return Eager()
    from distopt.engines.local.compiled import Compiled

    return Compiled(forced=mode == "compiled")


def compiles(problem: Problem, blocks: Blocks, mode: Mode = "auto") -> bool:
    """Whether workers compile the rounds of a problem: all of them, or none, and as the local engine does.

    If the rounds cannot be compiled, a warning says why.

    Raises:
        InputError: an unknown ``mode``, or "compiled" for rounds that cannot be compiled.
    """
    check(mode)
    if mode == "eager":
        return False
    from distopt.engines.local.compiled import obstacle, obstacle_of_updates

    if (why := obstacle(problem, blocks)) is None:
        return True
    if objects.fault() is None and obstacle_of_updates(problem) is None:
        costs_not_compiled(problem, why)
        return True
    not_compiled(why, mode == "compiled")
    return False


def not_compiled(why: object, forced: bool) -> None:
    """Say why rounds are not compiled: a warning, or an error where they must be."""
    if forced:
        raise InputError(f"the rounds cannot be compiled: {why}; {_unforced()}")
    warnings.warn(f"the rounds are not compiled and run many times slower: {why}", CompileWarning, stacklevel=4)


def costs_not_compiled(problem: Problem, why: object) -> None:
    """Warn that torch computes the gradients, unless the scenario declares it."""
    if problem.scenario.eager is None:
        warnings.warn(
            f"the costs are not compiled, only the algorithm's update: {why}",
            CompileWarning,
            stacklevel=4,
        )


def _unforced() -> str:
    return "leave " + either("--compiled out", 'mode="compiled" out')


def check(mode: object, engine: object = "local", agentwise: object = None) -> None:
    """Refuse an unknown mode."""
    if not isinstance(mode, str) or mode not in MODES:
        raise InputError(f"mode={shown(mode)}: must be one of {', '.join(MODES)}")
    if not isinstance(engine, str) and not callable(engine):
        raise InputError(
            f'engine={shown(engine)}: must be a spec such as "local" or "threads:workers=3", or a function that makes an engine'
        )
    if agentwise is not None and not isinstance(agentwise, bool | np.bool_):
        raise InputError(f"agentwise={shown(agentwise)}: must be True, False or None")
