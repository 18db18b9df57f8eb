"""Rounds on another device than the CPU."""

from __future__ import annotations

from dataclasses import replace

import torch

from distopt.errors import InputError, either, first_line
from distopt.numerics.trees import moved, tree_map
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, begun
from distopt.simulation.runner import Block, Engine, Segment


class OnDevice:
    """Rounds on another device, such as "cuda". Inputs are sent there block by block, and results are fetched.

    The comparator and the data are made on the host, so an experiment sees the same costs on every device; the iterates equal
    those of the host to rounding.
    """

    def __init__(self, engine: Engine, device: str) -> None:
        self._engine = engine
        self._here: Block | None = None
        self._block: Block | None = None
        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device).cpu()
        except (
            RuntimeError,
            AssertionError,
            NotImplementedError,
        ) as error:  # a build without CUDA raises an AssertionError
            raise InputError(
                f"device={device}: torch cannot use it ({first_line(error)}); {either('leave --device out', 'leave it out')} to run on the CPU"
            ) from None

    @property
    def compiled(self) -> bool:
        """See ``distopt.simulation.runner.Engine``."""
        return self._engine.compiled

    def _moved(self, block: Block) -> Block:
        here = block.exact, block.earlier, block.reference.x, block.tables, block.uniforms
        exact, earlier, best, tables, drawn = moved(here, self.device)
        twin = replace(block, exact=exact, earlier=earlier, reference=block.reference._replace(x=best))
        twin.__dict__.update(tables=tables, uniforms=drawn)  # its cached properties
        return twin

    def prepare(self, block: Block) -> None:
        """See ``distopt.simulation.runner.Engine``."""
        self._engine.prepare(block)

    def place(self, problem: Problem, held: AgentState | None) -> None:
        """See ``distopt.simulation.runner.Engine``."""
        self._engine.place(problem, moved(begun(problem) if held is None else held, self.device))

    def advance(self, block: Block, rounds: range, keep: tuple[str, ...]) -> Segment:
        """See ``distopt.simulation.runner.Engine``."""
        if self._block is None or self._here is not block:
            self._here, self._block = block, self._moved(block)
        segment = self._engine.advance(self._block, rounds, keep)
        observed, kept, finite = tree_map(lambda leaf: leaf.cpu(), (segment.observed, segment.kept, segment.finite))
        return Segment(observed, kept, finite, segment.bits)

    def fetch(self) -> AgentState:
        """See ``distopt.simulation.runner.Engine``."""
        held: AgentState = tree_map(lambda leaf: leaf.cpu(), self._engine.fetch())
        return held
