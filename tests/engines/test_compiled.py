"""Compiled rounds give what eager rounds give: every algorithm, channel, scenario and kind of network."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
import torch
from helpers.compiled import SMALL, VECTORS, Case, cases, differ, eagerly, on, posed, solved

import distopt
from distopt.codegen.leaves import Leaves
from distopt.engines.local import local
from distopt.engines.local.compiled import Compiled, Rounds, leaves_of
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.trees import default_dtype, tensors
from distopt.runs import checkpoint
from distopt.runs.execution import Comparison, MakeEngine
from distopt.simulation import runner
from distopt.simulation.problem import Problem, build
from distopt.simulation.round import copied


def placed() -> list[Any]:
    """The cases, one of each algorithm for those who cannot wait for all: its channel, network and scenario go round."""
    found, before = [], 0
    for _, mine in itertools.groupby(cases(), lambda case: case.algorithm):
        own = list(mine)
        chosen, before = own[before % len(own)], before + 1
        found += [
            pytest.param(case, marks=[] if case is chosen else [pytest.mark.battery], id=str(case)) for case in own
        ]
    return found


@pytest.mark.parametrize("case", placed())
def test_compiled_rounds_are_eager_ones_to_rounding(case: Case) -> None:
    problem = posed(case)
    comparison = solved(case.scenario, problem.agents)
    eager, written = on(problem, comparison, eagerly), on(problem, comparison)
    assert written.engine.compiled
    rounding = 1e-12 if case.dtype == "float64" else 1e-5
    if case.algorithm == "lanczos_rate":
        rounding = 1e-8  # it divides differences of gradients by their width, 1e-4
    assert differ(written, eager, rounding) == []
    assert np.abs(eager.run["x"][:, -1] - eager.run["x"][:, 0]).max() > 1e-6


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        (SMALL, {"trials": 3, "drop_links": 0.2}),
        (SMALL, {"agents": 1}),
        (SMALL, {"agents": 2}),
        (SMALL, {"agents": 13, "topology": "complete"}),
        (SMALL, {"agents": 40, "topology": "star"}),
        (SMALL, {"agents": 12, "topology": "resampled_erdos_renyi", "trials": 2}),
        (Case("gt:lr=cosine:lr=0.02", "exact", VECTORS, "constant"), {}),
        (Case("gt:lr=step:lr=0.02", "exact", VECTORS, "constant"), {}),
        (Case("gt", "choco(natural)", VECTORS, "constant"), {}),
        (Case("gt", "comm(qsgd)", VECTORS, "constant"), {}),
        (Case("gt", "naive(dither)", VECTORS, "constant"), {}),
        (Case("gt", "choco(cast)", VECTORS, "constant"), {}),
        (Case("gt", "choco(randomk)", VECTORS, "constant", "float32"), {}),
        (Case("gt", "choco(lowrank)", VECTORS, "constant"), {}),
        (Case("gt", "choco:compressor=sign,resync=2", VECTORS, "constant"), {}),
        (Case("gtadam", "exact", "drifting_logistic", "constant"), {}),
        (Case("gtadam", "exact", "quadratic", "constant"), {}),
        (Case("gtadam", "exact", "localization", "constant"), {}),
    ],
    ids=str,
)
def test_other_parts_are_written_out_too(case: Case, settings: dict[str, Any]) -> None:
    problem = posed(case, **settings)
    comparison = Comparison.of(problem)
    eager, written = on(problem, comparison, eagerly), on(problem, comparison)
    assert written.engine.compiled
    assert differ(written, eager, 1e-11 if case.dtype == "float64" else 1e-5) == []


def test_a_run_in_pieces_has_the_bits_of_one_in_one_piece(tmp_path: Any) -> None:
    problem = posed(SMALL, rounds=12)
    comparison = Comparison.of(problem)
    whole = on(problem, comparison)

    class Short(Compiled):
        def advance(self, block: Any, rounds: range, keep: tuple[str, ...]) -> Any:
            return super().advance(block, rounds[:3], keep)

    pieces = on(problem, comparison, lambda *_: Short())
    assert all(np.array_equal(whole.run[name], pieces.run[name]) for name in whole.run)
    assert all(torch.equal(a, b) for a, b in zip(whole.held, pieces.held, strict=True))


def stopping(engine: MakeEngine) -> MakeEngine:
    """An engine that is interrupted before its tenth round."""

    def make(problem: Problem, blocks: Any, mode: Any) -> Any:
        made: Any = engine(problem, blocks, mode)
        advance = made.advance

        def stop(block: Any, rounds: range, keep: tuple[str, ...]) -> Any:
            if block.start + rounds.start >= 10:
                raise KeyboardInterrupt
            return advance(block, rounds[:5], keep)

        made.advance = stop
        return made

    return make


@pytest.mark.parametrize("engine", [local, eagerly])
def test_a_run_goes_on_as_it_began(engine: MakeEngine, tmp_path: Any) -> None:
    asked: dict[str, Any] = {"agents": 4, "scenario": "moving_target", "algorithm": "gtadam", "rounds": 20}
    whole = distopt.simulate("ring", engine=engine, **asked)
    with pytest.raises(KeyboardInterrupt):
        distopt.simulate("ring", engine=stopping(engine), out=tmp_path / "run", checkpoint_every=5, **asked)
    run: Any = distopt.resume(tmp_path / "run", engine="local")
    assert run.status == "done" and run["tracking_error"].shape == (1, 20)
    assert all(np.array_equal(run[name], whole[name]) for name in whole)


@pytest.mark.parametrize("theirs", [None, "0"])
def test_rounds_of_other_bits_do_not_go_on(theirs: str | None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that torch compiled for an earlier version, and those of another version of the functions."""
    right = checkpoint.versions

    def older(compiled: bool) -> dict[str, str]:
        return right(False) | ({"codegen": theirs} if theirs and compiled else {})

    asked: dict[str, Any] = {"agents": 4, "scenario": "moving_target", "algorithm": "gtadam", "rounds": 20}
    monkeypatch.setattr(checkpoint, "versions", older)
    with pytest.raises(KeyboardInterrupt):
        distopt.simulate("ring", engine=stopping(local), out=tmp_path / "run", checkpoint_every=5, **asked)
    monkeypatch.setattr(checkpoint, "versions", right)
    with pytest.raises(InputError, match="codegen 0, whose bits may differ" if theirs else "torch compiled its rounds"):
        distopt.resume(tmp_path / "run")
    run: Any = distopt.resume(tmp_path / "run", force=True)
    assert run.status == "done"


def test_a_point_of_a_grid_has_the_bits_that_it_has_alone() -> None:
    asked: dict[str, Any] = {"agents": 5, "scenario": "drifting_logistic", "rounds": 10, "trials": 2}
    both: Any = distopt.simulate("ring", algorithm="gtadam:lr=[0.01,0.03]", record="x", **asked)
    for run, lr in zip(both.values(), (0.01, 0.03), strict=True):
        alone = distopt.simulate("ring", algorithm=f"gtadam:lr={lr}", record="x", **asked)
        assert all(np.array_equal(run[name], alone[name]) for name in [*alone, "x"])


def test_the_bits_do_not_depend_on_where_a_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 1e9)
    problem = build(Experiment("ring", 6, "moving_target", "gtadam:lr=0.02", rounds=40, trials=2))
    comparison = Comparison.of(problem)
    monkeypatch.setattr(comparison.blocks, "length", 16)
    comparison.blocks.count = 3
    engine = Compiled()
    whole = kept(problem, comparison, engine)
    again = kept(problem, comparison, engine, whole[0][1])
    assert [chunk.start for chunk, _ in again] == [16, 32]
    for (one, stood), (other, stands) in zip(whole[1:], again, strict=True):
        assert torch.equal(stood.x, stands.x)
        for name in one.metrics:
            assert np.array_equal(one.metrics[name], other.metrics[name]), name
    assert len(engine._rounds) == 1, "a shorter last block must not compile again"
    block = runner._block(problem, comparison.comparator, comparison.blocks, 0, 16)
    held = Leaves(runner.begin(problem).held)
    bare = Rounds(problem, (), held, leaves_of(block), observe=False)
    assert torch.equal(bare(held, leaves_of(block), range(block.count))[1].x, whole[0][1].x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_are_made_in_another_thread_only_where_both_have_one_precision(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default precision is the process's: two threads that set it and set it back leave the wrong one behind."""
    problem = build(Experiment("ring", 6, "moving_target", "gtadam:lr=0.02", rounds=40))
    comparison, block, threads = Comparison.of(problem), runner._block, set()
    monkeypatch.setattr(comparison.blocks, "length", 16)
    comparison.blocks.count = 3

    def watched(*args: Any) -> Any:
        threads.add(threading.current_thread().name.rstrip("_0123456789"))
        return block(*args)

    monkeypatch.setattr(runner, "_block", watched)
    with default_dtype(dtype):
        kept(problem, comparison, Compiled())
        assert torch.get_default_dtype() == dtype
    assert threads == ({"MainThread", "distopt-data"} if dtype == torch.float64 else {"MainThread"})


def kept(
    problem: Any, comparison: Comparison, engine: Compiled, start: runner.Carry | None = None
) -> list[tuple[runner.Chunk, runner.Carry]]:
    """The chunks of a run, each with a copy of what the agents hold, which is written over when the run goes on."""
    out = []
    for chunk in runner.run(problem, comparison.comparator, comparison.blocks, engine, start=start):
        out.append((chunk, chunk.carry(copied(engine.fetch()))))
    return out


def test_leaves_that_nobody_hears_are_written_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 1e9)
    problem = build(Experiment("ring", 6, "moving_target:dim=3", "gtadam:lr=0.02", rounds=20))
    comparison, engine = Comparison.of(problem), Compiled()
    monkeypatch.setattr(comparison.blocks, "length", 8)
    comparison.blocks.count = 3
    places = []
    for _ in runner.run(problem, comparison.comparator, comparison.blocks, engine):
        state = engine.fetch().state
        places.append(tuple(leaf.data_ptr() for leaf in tensors((state.g, state.direction))))
    assert len(set(places)) == 1 and len(places) == 3
    assert engine.fetch().x.shape == (1, 6, 3)
