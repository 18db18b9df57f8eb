"""The local engine: all agents in one block of this process, compiled where that pays.

The choice depends on sizes alone, never on a clock, so that the same experiment has the same bits on every run.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch

from distopt.catalog.spec import shown
from distopt.codegen.folder import CompileWarning
from distopt.costs.data import Blocks
from distopt.engines.local import compiler
from distopt.engines.local.eager import Eager
from distopt.errors import InputError, either, first_line
from distopt.numerics.trees import moved, tensors, tree_map
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, begun
from distopt.simulation.runner import Block, Engine, Segment

Mode = Literal["auto", "eager", "compiled"]
MODES = get_args(Mode)

COMPILE_SECONDS = 25.0  # a cold compilation on two cores; a warm cache takes about a third
OPERATION_SECONDS = 3.5e-6  # an eager operation on a small tensor
OPERATIONS = 70  # in an eager round with its measurements
LOOP_SECONDS = 1e-5  # a compiled round of a small problem
PASS_SECONDS = 1.2e-10  # reading or writing one byte
EAGER_PASSES, COMPILED_PASSES = (35, 10), (10, 3)  # over the state vector, over the round's data


def predicted_seconds(state_bytes: int, data_bytes: int, rounds: int) -> tuple[float, float]:
    """(eager, compiled) seconds of a run: state vector and data bytes of one round, all trials. The model behind "auto".

    eager     rounds (70 operations x 3.5 us + 35 passes over the state + 10 over the data)
    compiled  25 s + rounds (10 us + 10 passes over the state + 3 over the data)

    >>> predicted_seconds(16 * 2 * 8, 0, 1000)[0] < 1 < predicted_seconds(16 * 2 * 8, 0, 1000)[1]
    True
    """

    def passes(over_state: int, over_data: int) -> float:
        return PASS_SECONDS * (over_state * state_bytes + over_data * data_bytes)

    eager = rounds * (OPERATIONS * OPERATION_SECONDS + passes(EAGER_PASSES[0], EAGER_PASSES[1]))
    return eager, COMPILE_SECONDS + rounds * (LOOP_SECONDS + passes(COMPILED_PASSES[0], COMPILED_PASSES[1]))


def local(problem: Problem, blocks: Blocks, mode: Mode = "auto", device: str = "cpu") -> Engine:
    """All agents in this process.

    Rounds are compiled where ``predicted_seconds`` says that it is sooner done, or as ``mode`` forces.

    Raises:
        InputError: ``mode`` is none, or it is "compiled" and there is no C++ compiler that works; torch has no such ``device``.
    """
    if compiles(problem, blocks, mode):
        from distopt.engines.local.compiled import Compiled  # imports the compiler's front end: seconds

        chosen: Engine = EagerFallback(Compiled(), forced=mode == "compiled")
    else:
        chosen = Eager()
    return chosen if device == "cpu" else OnDevice(chosen, device)


def compiles(problem: Problem, blocks: Blocks, mode: Mode = "auto") -> bool:
    """Whether the rounds of a problem are compiled: where ``predicted_seconds`` says that it is sooner done, or as ``mode`` forces.

    Every engine decides by it, so that an experiment has the same bits on all of them.

    Raises:
        InputError: ``mode`` is none, or it is "compiled" and there is no C++ compiler that works.
    """
    check(mode)
    if mode == "eager":
        return False
    if mode == "auto":
        data = sum(leaf.numel() * leaf.element_size() // leaf.shape[0] for leaf in tensors(blocks.get(0)))
        state = (
            problem.x0.numel() // max(1, len(problem.points)) * problem.x0.element_size()
        )  # a grid point has the bits it has alone
        eager, compiled = predicted_seconds(state, data, problem.rounds)
        if eager <= compiled:
            return False
    if (fault := compiler.fault()) is not None:
        if mode == "compiled":
            raise InputError(
                f"the rounds cannot be compiled: {fault}, or leave " + either("--compiled out", 'mode="compiled" out')
            )
        warnings.warn(
            f"the rounds are not compiled and run several times slower: {fault}", CompileWarning, stacklevel=3
        )
        return False
    return True


def check(mode: object, engine: object = "local", agentwise: object = None) -> None:
    """Refuse an unknown mode."""
    if not isinstance(mode, str) or mode not in MODES:
        raise InputError(f"mode={shown(mode)}: must be one of {', '.join(MODES)}")
    if not isinstance(engine, str) and not callable(engine):
        raise InputError(
            f'engine={shown(engine)}: must be such as "local" or "threads:workers=3", or what makes an engine'
        )
    if agentwise is not None and not isinstance(agentwise, bool | np.bool_):
        raise InputError(f"agentwise={shown(agentwise)}: must be True, False or None")


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
        ) as error:  # a build without CUDA says so by an assertion
            raise InputError(
                f"device={device}: torch cannot use it ({first_line(error)}); {either('leave --device out', 'leave it out')} to run on the CPU"
            ) from None

    @property
    def compiled(self) -> bool:
        """See ``distopt.simulation.runner.Engine``."""
        return self._engine.compiled

    def _moved(self, block: Block) -> Block:
        exact, best, tables, drawn = moved((block.exact, block.reference.x, block.tables, block.uniforms), self.device)
        twin = replace(block, exact=exact, reference=block.reference._replace(x=best))
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


class EagerFallback:
    """Compiled rounds. Where the algorithm or the scenario cannot be compiled: eager ones with a warning, or an InputError if ``forced``."""

    def __init__(self, compiled: Engine, forced: bool = False) -> None:
        self._engine, self._forced = compiled, forced
        self._placed: tuple[Problem, AgentState | None] | None = None  # until the first rounds have run

    @property
    def compiled(self) -> bool:
        """See ``distopt.simulation.runner.Engine``."""
        return self._engine.compiled

    def prepare(self, block: Block) -> None:
        """See ``distopt.simulation.runner.Engine``."""
        self._engine.prepare(block)

    def place(self, problem: Problem, held: AgentState | None) -> None:
        """See ``distopt.simulation.runner.Engine``."""
        self._engine.place(problem, held)
        self._placed = problem, held

    def fetch(self) -> AgentState:
        """See ``distopt.simulation.runner.Engine``."""
        return self._engine.fetch()

    def advance(self, block: Block, rounds: range, keep: tuple[str, ...]) -> Segment:
        """See ``distopt.simulation.runner.Engine``."""
        try:
            segment = self._engine.advance(block, rounds, keep)
        except (InputError, KeyboardInterrupt):
            raise
        except Exception as error:
            from torch._dynamo.exc import TorchDynamoException

            if self._placed is None or isinstance(self._engine, Eager):
                raise
            if self._forced or block.start + rounds.start:  # eager rounds would have other bits
                if isinstance(error, TorchDynamoException):
                    raise compiler.refused(error) from error
                raise
            quiet = either("--eager", 'mode="eager"')
            message = f"the rounds could not be compiled and run several times slower ({compiler.told(error)}); {quiet} leaves this warning out"
            warnings.warn(message, CompileWarning, stacklevel=2)
            self._engine = Eager()
            self._engine.place(*self._placed)
            segment = self._engine.advance(block, rounds, keep)
        self._placed = None
        return segment
