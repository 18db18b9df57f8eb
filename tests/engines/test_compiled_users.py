"""Algorithms of users in compiled rounds: what may stand in them, and what is refused by name."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from helpers.compiled import SMALL, differ, eagerly, on, posed, with_algorithm
from helpers.users import InPlace
from torch import Tensor

from distopt.codegen import objects
from distopt.codegen.folder import CompileWarning
from distopt.engines.local import local
from distopt.engines.local.compiled import Compiled, obstacle
from distopt.engines.local.eager import Eager
from distopt.errors import InputError
from distopt.runs.execution import Comparison, execute


class Looking:
    """Gradient descent that looks at a number."""

    channels: ClassVar[tuple[str, ...]] = ("x",)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Any) -> tuple[Tensor, tuple[()]]:
        return mix("x", x) - (0.1 if bool(g.sum() > 0) else 0.2) * g, state


class Counting(Looking):
    """Gradient descent whose step falls with the calls that Python counts."""

    calls = 0

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Any) -> tuple[Tensor, tuple[()]]:
        self.calls += 1
        return mix("x", x) - 0.1 / self.calls * g, state


class Seldom(Looking):
    """Gradient descent with a restart at every hundredth call, which two recorded rounds do not see."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {"calls": 0}

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Any) -> tuple[Tensor, tuple[()]]:
        self.seen["calls"] += 1
        return mix("x", x) - (0.5 if self.seen["calls"] % 100 == 0 else 0.1) * g, state


@pytest.mark.parametrize(
    ("method", "why"),
    [(Looking, "__bool__"), (Counting, "changes algorithm.calls"), (Seldom, "changes algorithm.seen.calls")],
)
def test_what_cannot_be_written_out_runs_eagerly_and_says_why(method: Any, why: str) -> None:
    problem = posed(SMALL)
    comparison = Comparison.of(problem)
    eager = on(with_algorithm(problem, method()), comparison, eagerly)
    with pytest.warns(CompileWarning, match=f"run many times slower: .*{why}"):
        written = on(with_algorithm(problem, method()), comparison)
    assert not written.engine.compiled
    assert all(np.array_equal(eager.run[name], written.run[name]) for name in eager.run)
    forced = with_algorithm(problem, method())
    with pytest.raises(InputError, match=f'cannot be compiled: .*{why}.*; leave mode="compiled" out$'):
        execute(forced.experiment, problem=forced, comparison=comparison, mode="compiled")
    assert why in (obstacle(forced, comparison.blocks) or "")


def test_without_llvmlite_rounds_run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "fault", lambda: "llvmlite cannot be used here; pip install 'llvmlite>=0.46'")
    problem = posed(SMALL)
    with pytest.warns(CompileWarning, match="pip install"):
        assert not on(problem, Comparison.of(problem)).engine.compiled
    with pytest.raises(InputError, match='pip install .*; leave mode="compiled" out'):
        execute(problem.experiment, problem=problem, mode="compiled")


def test_a_users_class_that_works_in_place_is_written_out() -> None:
    problem = with_algorithm(posed(SMALL), InPlace())
    comparison = Comparison.of(problem)
    eager, written = on(problem, comparison, eagerly), on(problem, comparison)
    assert written.engine.compiled and differ(written, eager, 1e-12) == []


def test_rounds_are_compiled_unless_they_are_asked_to_be_eager() -> None:
    problem = posed(SMALL)
    blocks = Comparison.of(problem).blocks
    assert isinstance(local(problem, blocks), Compiled)
    assert isinstance(local(problem, blocks, "compiled"), Compiled)
    assert isinstance(local(problem, blocks, "eager"), Eager)


class Pair(NamedTuple):
    old: Tensor
    sum: Tensor


class Twins:
    """Begins with one tensor in both leaves, which is the very x it was given."""

    channels = ("x",)

    def init(self, x: Tensor) -> Pair:
        return Pair(x, x)

    def update(self, g: Tensor, state: Pair, x: Tensor, mix: Any) -> tuple[Tensor, Pair]:
        return mix("x", x) - 0.05 * g - 0.01 * state.old, Pair(g, state.sum + g)


def test_states_whose_leaves_share_memory_come_apart_before_they_are_written_in_place() -> None:
    problem = with_algorithm(posed(SMALL), Twins())
    comparison = Comparison.of(problem)
    eager, written = on(problem, comparison, eagerly), on(problem, comparison)
    assert written.engine.compiled and differ(written, eager, 1e-12) == []
