"""The driver's side of workers: the runner sees one engine, however many workers there are and wherever they live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from distopt.engines.eager import room
from distopt.engines.worker import Report
from distopt.experiment import Problem
from distopt.network import Memory
from distopt.runner import Block, Carry, Held, Stretch, here


class Crew(Protocol):
    """All workers at once: each method tells every worker to run its method of that name, and returns what worker 0 gives.

    Where a worker fails, the others are stopped and its error is raised here.
    """

    @property
    def compiled(self) -> bool:
        """Whether the workers compile their rounds."""

    def place(self, held: Held | None) -> None:
        """See ``distopt.engines.worker.Worker``."""

    def stretch(self, start: int, count: int, rounds: range, keep: tuple[str, ...], best: Tensor) -> Report:
        """See ``distopt.engines.worker.Worker``."""

    def gather(self) -> Held:
        """See ``distopt.engines.worker.Worker``."""

    def close(self) -> None:
        """End the workers."""


class Elsewhere:
    """What the agents hold, while it lies with the workers; fetched when asked for, which must be before they go on."""

    def __init__(self, fetch: Callable[[], Held]) -> None:
        self._fetch: Callable[[], Held] | None = fetch
        self._held: Held | None = None

    def _here(self) -> Held:
        if self._held is None:
            if self._fetch is None:
                raise RuntimeError("the workers have gone on: ask for x, state or memory before the next stretch of rounds")
            self._held = self._fetch()
        return self._held

    def leave(self) -> None:
        """The workers go on."""
        self._fetch = None

    @property
    def x(self) -> Tensor:
        """[R, N, d]."""
        return self._here().x

    @property
    def state(self) -> Any:
        """The algorithm's."""
        return self._here().state

    @property
    def memory(self) -> Memory:
        """The channels'."""
        return self._here().memory


class Led:
    """The engine that leads a crew. x, state and memory stay with the workers until somebody asks for them."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._stands: Elsewhere | None = None

    @property
    def compiled(self) -> bool:
        """See ``distopt.runner.Engine``."""
        return self.crew.compiled

    def prepare(self, block: Block) -> None:
        """Each worker makes its own agents' data."""

    def advance(self, problem: Problem, block: Block, rounds: range, carry: Carry, keep: tuple[str, ...]) -> Stretch:
        """See ``distopt.runner.Engine``."""
        if self._stands is None or carry.held is not self._stands:
            self.crew.place(here(carry.held) if carry.t else None)
        if self._stands is not None:
            self._stands.leave()
        report = self.crew.stretch(block.start, block.count, rounds[: room(problem.x0)], keep, block.reference.x)
        self._stands = Elsewhere(self.crew.gather)
        return Stretch(report.observed, report.kept, self._stands, report.finite, report.bits)

    def close(self) -> None:
        """No more stretches: the workers may go."""
        self.crew.close()
