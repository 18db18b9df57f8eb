"""The driver's side of workers: the runner sees one engine for any number and place of workers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

from distopt.engines.local.eager import room
from distopt.errors import RunError, WorkerLost
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState
from distopt.simulation.runner import Block, Segment

T = TypeVar("T")


class WorkerGroup(Protocol):
    """All workers at once: each method runs the method of that name on every worker, and returns the result of worker 0.

    If a worker fails, the others are stopped and its error is raised here: ``WorkerLost`` if it is lost or silent.
    """

    @property
    def compiled(self) -> bool:
        """Whether the workers compile their rounds."""

    def place(self, held: AgentState | None) -> None:
        """See ``distopt.engines.workers.worker.Worker``."""

    def advance(self, start: int, count: int, rounds: range, keep: tuple[str, ...], best: Tensor) -> Segment:
        """See ``distopt.engines.workers.worker.Worker``."""

    def fetch(self) -> AgentState:
        """See ``distopt.engines.workers.worker.Worker``."""

    def close(self) -> None:
        """End the workers."""


class LossWarning(UserWarning):
    """A worker was lost; others go on with its work."""


Order = tuple[int, int, range, tuple[str, ...], Tensor]
"""The arguments of ``WorkerGroup.advance``."""

PATIENCE = 3
"""A run ends after this many losses in a row without a segment in between: the cause will probably return."""

RARELY, MOST = 50, 100
"""A copy of what the agents hold is renewed when the segments since took RARELY times as long as copying, and after MOST segments."""


class FaultTolerant:
    """A group that continues when it loses workers.

    It remembers what all agents held some segments ago and what was ordered since. A new group, perhaps a smaller one, is placed
    there and does the same again; a segment has the same bits on any workers, so nothing that was reported changes.

    Args:
        workers: the first one.
        renew: ends a group that lost workers, as far as it still is there, and gives another. It may raise ``WorkerLost`` too.
    """

    def __init__(self, workers: WorkerGroup, renew: Callable[[WorkerGroup], WorkerGroup]) -> None:
        self.workers, self._renew = workers, renew
        self._stood: AgentState | None = None
        self._since: list[Order] = []
        self._losses = 0
        self._spent, self._cost = 0.0, 0.0

    @property
    def compiled(self) -> bool:
        """See ``WorkerGroup``."""
        return self.workers.compiled

    def place(self, held: AgentState | None) -> None:
        """See ``WorkerGroup``."""
        self._stood, self._since = held, []
        self._through(lambda workers: workers.place(held))

    def advance(self, start: int, count: int, rounds: range, keep: tuple[str, ...], best: Tensor) -> Segment:
        """See ``WorkerGroup``."""
        order, began = (start, count, rounds, keep, best), time.perf_counter()
        report = self._through(lambda workers: workers.advance(*order))
        self._since.append(order)
        self._losses = 0
        self._spent += time.perf_counter() - began
        if self._spent > RARELY * self._cost or len(self._since) == MOST:
            self.fetch()
        return report

    def fetch(self) -> AgentState:
        """See ``WorkerGroup``."""
        if self._stood is not None and not self._since:
            return self._stood
        began = time.perf_counter()
        self._stood = self._through(lambda workers: workers.fetch())
        self._since, self._spent, self._cost = [], 0.0, time.perf_counter() - began
        return self._stood

    def close(self) -> None:
        """See ``WorkerGroup``."""
        self.workers.close()

    def _through(self, task: Callable[[WorkerGroup], T]) -> T:
        """What a task gives, by this group or by those after it."""
        try:
            return task(self.workers)
        except WorkerLost as loss:
            lost = loss
        while True:
            self._losses += 1
            if self._losses > PATIENCE:
                raise RunError(f"{lost}; gave up after {PATIENCE} restarts without progress") from lost
            where = "".join(f" from round {start + rounds.start}" for start, _, rounds, *_ in self._since[:1])
            warnings.warn(f"{lost}; starting again{where}", LossWarning, stacklevel=2)
            try:
                self.workers = self._renew(self.workers)
                self.workers.place(self._stood)
                for order in self._since:
                    self.workers.advance(*order)
                return task(self.workers)
            except WorkerLost as loss:
                lost = loss


class WorkerEngine:
    """The engine that leads a group of workers, whose rounds run on ``device``. The agents' state stays with the workers."""

    def __init__(self, workers: WorkerGroup, device: str = "cpu") -> None:
        self.workers, self.device = workers, device
        self._fetched: AgentState | None = None

    @property
    def compiled(self) -> bool:
        """See ``distopt.simulation.runner.Engine``."""
        return self.workers.compiled

    def prepare(self, block: Block) -> None:
        """Each worker makes its own agents' data."""

    def place(self, problem: Problem, held: AgentState | None) -> None:
        """See ``distopt.simulation.runner.Engine``. The workers already have the problem."""
        self._fetched = None
        self.workers.place(held)

    def advance(self, block: Block, rounds: range, keep: tuple[str, ...]) -> Segment:
        """See ``distopt.simulation.runner.Engine``."""
        self._fetched = None
        most = room(block.problem.x0)
        return self.workers.advance(block.start, block.count, rounds[:most], keep, block.reference.x)

    def fetch(self) -> AgentState:
        """See ``distopt.simulation.runner.Engine``."""
        if self._fetched is None:
            self._fetched = self.workers.fetch()
        return self._fetched

    def close(self) -> None:
        """No more rounds: the workers may go."""
        self.workers.close()
