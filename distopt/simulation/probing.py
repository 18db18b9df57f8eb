"""When probes look at a run, and what they are given. They never look inside a segment of rounds (see ``distopt.probes``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt import probes
from distopt.catalog.spec import shown
from distopt.costs.data import Blocks
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.numerics.sums import torch_on_one_thread, tree_sum
from distopt.numerics.trees import at, cast, finite, tree_map
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState
from distopt.simulation.snapshot import Snapshot


class Probing:
    """The probes of the problems of a batch, and their readings of the round at which they have looked last.

    Like a recorded metric, a probe with ``every`` = E reads before the rounds E - 1, 2 E - 1, ... and before the last one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems, self._rounds = problems, problems[0].rounds
        self._every = sorted({probe.every for problem in problems for probe in problem.probes.values()})
        self._memory: dict[tuple[int, str, int], dict[str, Any]] = {}
        self._blocks: Blocks | None = None  # the probes' own: another thread makes those of the rounds
        self._t, self._read = -1, dict[int, dict[str, NDArray[np.float64]]]()

    def due(self, t: int) -> bool:
        """Whether a probe reads before round t."""
        return any(self._reads(every, t) for every in self._every)

    def _reads(self, every: int, t: int) -> bool:
        return (t + 1) % every == 0 or t == self._rounds - 1

    def until(self, t: int) -> int:
        """How many rounds from t on may run before the next reading that comes after the one before round t.

        >>> from distopt.experiment import Experiment
        >>> from distopt.simulation.problem import build
        >>> asked = Experiment("ring", 3, "quadratic", "dgd", rounds=9, probe="sharpness:every=4")
        >>> [Probing([build(asked)]).until(t) for t in range(9)]
        [3, 2, 1, 4, 3, 2, 1, 1, 1]
        """
        following = [((t + 1) // every + 1) * every - 1 for every in self._every]
        last = self._rounds - 1
        return min([*following, last if t < last else self._rounds]) - t if self._every else self._rounds

    def look(self, g: int, t: int, held: AgentState, data: Any, diverged: Collection[int]) -> None:
        """Let the probes of problem g that are due read before round t, of which ``data`` [R|1, n|1, ...] are the costs' data.

        Trials that have diverged, or whose points are not finite, read nan.

        Raises:
            InputError: a probe gives something else than its numbers.
        """
        problem = self._problems[g]
        x, state = held.x.double(), cast(held.state, torch.float64)
        start = tree_sum(problem.x0.double())[:, 0] / problem.agents
        good = finite(x).tolist()
        self._t, found = t, dict[str, NDArray[np.float64]]()
        for name, probe in problem.probes.items():
            if not self._reads(probe.every, t):
                continue
            names = list(probes.series(name, probe))
            found |= {each: np.full(len(x), np.nan) for each in names}
            for r, fine in enumerate(good):
                if r in diverged or not fine:
                    continue
                seen = Snapshot(
                    t,
                    problem.scenario,
                    problem.algorithm,
                    x[r],
                    start[r],
                    _of_trial(state, r),
                    Key(problem.key.seed, range(1), [int(problem.key.trials[r])], 1),
                    self._data_of(problem, t, data, r),
                    self._memory.setdefault((g, name, r), {}),
                )
                with torch_on_one_thread():
                    numbers = _checked(name, probe.measure(seen), len(names))
                for each, number in zip(names, numbers, strict=True):
                    found[each][r] = number
        self._read[g] = found

    def _data_of(self, problem: Problem, t: int, data: Any, r: int) -> Callable[[int], Any]:
        """The data of trial r in a round up to t, leaves [1, n|1, ...]."""

        def of(tau: int) -> Any:
            if not 0 <= tau <= t:
                raise InputError(f"a probe that measures before round {t} cannot have the costs of round {tau}")
            whole = data if tau == t else self._past(problem, tau)
            return tree_map(lambda leaf: leaf[r : r + 1] if len(leaf) > 1 else leaf, whole)

        return of

    def _past(self, problem: Problem, t: int) -> Any:
        """The data of an earlier round. All problems of a batch have the same."""
        if self._blocks is None:
            self._blocks = Blocks(problem.scenario, problem.key, problem.rounds)
        b, k = divmod(t, self._blocks.length)
        return at(self._blocks.get(b), k)

    def columns(self, g: int, rounds: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """The series [R, k] of problem g at recorded rounds [k]: the readings at the round where they were made, and nan elsewhere."""
        problem, found = self._problems[g], dict[str, NDArray[np.float64]]()
        for name, probe in problem.probes.items():
            for each in probes.series(name, probe):
                found[each] = np.full((len(problem.x0), len(rounds)), np.nan)
                if each in self._read.get(g, {}):
                    found[each][:, rounds == self._t] = self._read[g][each][:, None]
        return found


def _of_trial(state: Any, r: int) -> Any:
    """The state of a trial, leaves [n, *]."""
    return tree_map(lambda leaf: leaf[r if len(leaf) > 1 else 0], state)


def _checked(name: str, given: Any, count: int) -> tuple[float, ...]:
    """What a probe has measured, as so many numbers."""
    each = given if isinstance(given, tuple | list) else (given,)
    if len(each) != count or not all(_number(one) for one in each):
        what = "a number" if count == 1 else f"a tuple of {count} numbers"
        raise InputError(f"probe {name}: measure gives {shown(given)}, not {what}")
    return tuple(float(one) for one in each)


def _number(one: Any) -> bool:
    if isinstance(one, Tensor):
        return one.numel() == 1 and not one.is_complex()
    return isinstance(one, int | float | np.integer | np.floating)
