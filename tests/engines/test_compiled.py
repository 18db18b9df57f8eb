"""Compiled rounds: every part of the house compiles without a graph break, and the numbers are those of the eager rounds."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import needs
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.codegen.folder import CompileWarning
from distopt.engines import local
from distopt.engines.local import compiled
from distopt.engines.local.compiled import Compiled
from distopt.engines.local.eager import Eager
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.trees import tensors
from distopt.runs.execution import Comparison
from distopt.simulation import runner
from distopt.simulation.problem import build
from distopt.simulation.round import AgentState, copied

DIRECTIONS = [f"gt:lr=0.01,direction={name}()" for name in registry.names("directions")]
EXAMPLE = {"stream": f"stream:{Path(__file__).parents[2] / 'examples' / 'stream.csv'},label=rain"}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile with its front end only: a graph break is an error there, and no C++ is compiled."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **_: compile_(f, dynamic=False, fullgraph=True, backend="aot_eager")
    )


def both(topology: str, agents: int, scenario: Any, algorithm: Any, rounds: int = 20, **settings: Any) -> None:
    """Compiled equals eager to rounding, in iterates and in every metric."""
    ask: dict[str, Any] = {
        "agents": agents,
        "scenario": scenario,
        "algorithm": algorithm,
        "rounds": rounds,
        "record": ("x",),
        **settings,
    }
    eager, compiled = (distopt.simulate(topology, mode=mode, **ask) for mode in ("eager", "compiled"))
    tolerance = 1e-11 if settings.get("dtype", "float64") == "float64" else 1e-4
    assert list(eager) == list(compiled)
    for name in eager:
        scale = max(1.0, float(np.nanmax(np.abs(eager[name]))))
        np.testing.assert_allclose(compiled[name], eager[name], rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize(
    "algorithm",
    needs.slow_but(
        "gtadam",
        [*registry.names("algorithms"), *DIRECTIONS, "dgd:form=atc", "gt:form=atc", "dadam:b3=0.5"],
    ),
)
def test_every_algorithm_and_direction_compiles_whole(algorithm: str, traced: None) -> None:
    around_average = registry.make("algorithms", algorithm).weights == "average"
    both("star" if around_average else "ring", 5, "moving_target", algorithm, trials=2)


@pytest.mark.parametrize("scenario", needs.slow_but("flights", registry.names("scenarios")))
def test_every_scenario_compiles_whole(scenario: str, traced: None) -> None:
    both("ring", 4, EXAMPLE.get(scenario, scenario), "gt:lr=0.001", rounds=5)


@pytest.mark.parametrize(
    ("topology", "settings"),
    needs.slow_but(
        ("ring", {"drop_links": 0.4, "trials": 2}),
        [
            ("star", {}),
            ("complete", {}),
            ("path", {}),
            ("resampled_erdos_renyi", {}),
            ("random_matching", {"trials": 2}),
            ("ring", {"drop_links": 0.4, "trials": 2}),
        ],
    ),
)
def test_every_kind_of_network_compiles_whole(topology: str, settings: dict[str, Any], traced: None) -> None:
    both(topology, 40 if topology == "star" else 6, "moving_target", "gt:lr=0.001", **settings)


@needs.compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "agents", "scenario", "algorithm", "settings"),
    [
        ("ring", 6, "flights", "gtadam", {"rounds": 12}),
        ("star", 40, "moving_target:dim=3", "nids:lr=0.02", {"trials": 2, "drop_links": 0.3}),
        ("random_matching", 5, "rbf_drift", "gt:lr=0.02,direction=adam(bias_correction=true)", {"dtype": "float32"}),
    ],
)
def test_compiled_rounds_equal_eager_ones(
    topology: str, agents: int, scenario: str, algorithm: str, settings: dict[str, Any]
) -> None:
    both(topology, agents, scenario, algorithm, **settings)


@needs.compiler
@pytest.mark.slow
def test_the_bits_do_not_depend_on_where_a_compiled_run_starts_or_on_the_unrolling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 1e9)
    from distopt.engines.local.compiled import Rounds

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
    start = runner.begin(problem)
    loop = Rounds(problem, (), start.held, block, observe=False, unroll=3)
    assert torch.equal(loop(start.held, block, range(block.count))[1].x, whole[0][1].x)


def kept(
    problem: Any, comparison: Comparison, engine: Compiled, start: runner.Carry | None = None
) -> list[tuple[runner.Chunk, runner.Carry]]:
    """The chunks of a run, each with a copy of what the agents hold, which is written over when the run goes on."""
    out = []
    for chunk in runner.run(problem, comparison.comparator, comparison.blocks, engine, start=start):
        out.append((chunk, chunk.carry(copied(engine.fetch()))))
    return out


@pytest.mark.slow
def test_the_state_of_a_large_network_is_held_once_and_not_computed_to_see_its_form(
    traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No round runs before the compiled ones, leaves that nobody hears are written in place, and chunks hold none of it."""
    monkeypatch.setattr(runner, "PATIENCE", 1e9)
    monkeypatch.setattr("distopt.engines.local.while_loop.LARGE", 10)
    real = []
    step = compiled.step

    def watched(problem: Any, held: AgentState, *rest: Any) -> Any:
        if not torch.compiler.is_compiling():
            real.append(type(held.x))
        return step(problem, held, *rest)

    monkeypatch.setattr(compiled, "step", watched)
    problem = build(Experiment("ring", 6, "moving_target:dim=3", "gtadam:lr=0.02", rounds=20))
    comparison, engine = Comparison.of(problem), Compiled()
    monkeypatch.setattr(comparison.blocks, "length", 8)
    comparison.blocks.count = 3
    places = []
    for _ in runner.run(problem, comparison.comparator, comparison.blocks, engine):
        state = engine.fetch().state
        places.append(tuple(leaf.data_ptr() for leaf in tensors((state.g, state.direction))))
    assert real and torch.Tensor not in real
    assert len(set(places)) == 1 and len(places) == 3
    assert engine.fetch().x.shape == (1, 6, 3)


def test_states_whose_leaves_share_memory_come_apart_before_they_are_written_in_place(
    traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distopt.engines.local.while_loop.LARGE", 10)
    both("ring", 5, "moving_target", Twins())


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


class State(NamedTuple):
    count: Tensor


class Breaks:
    """A user's algorithm that leaves the graph: it asks a tensor for its value."""

    channels = ("x",)

    def init(self, x: Tensor) -> State:
        return State(torch.zeros_like(x[..., :1]))

    def update(self, g: Tensor, state: State, x: Tensor, mix: Any) -> tuple[Tensor, State]:
        lr = 0.1 if float(x.sum()) > 0.5 else 0.05
        return mix("x", x) - lr * g, State(state.count + 1)


def test_what_cannot_be_compiled_runs_eagerly_with_a_warning_and_fails_when_forced(
    monkeypatch: pytest.MonkeyPatch, traced: None
) -> None:
    monkeypatch.setattr(local, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(local, "LOOP_SECONDS", 0.0)
    ask: dict[str, Any] = {
        "agents": 4,
        "scenario": "moving_target",
        "algorithm": Breaks(),
        "rounds": 10,
        "record": ("x",),
    }
    with pytest.warns(CompileWarning, match="could not be compiled"):
        fallen = distopt.simulate("ring", **ask)
    assert np.array_equal(fallen["x"], distopt.simulate("ring", mode="eager", **ask)["x"])
    with pytest.raises(
        InputError,
        match=r"(?i)these rounds cannot be compiled; run them eagerly: .*(data.dependent|graph break|unsupported|item)",
    ):
        distopt.simulate("ring", mode="compiled", **ask)


def test_without_a_compiler_rounds_are_eager_and_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    problem = build(Experiment("ring", 4, "moving_target", "gt", rounds=10_000_000))
    with pytest.warns(CompileWarning, match="install g\\+\\+"):
        assert isinstance(local.local(problem, Comparison.of(problem).blocks), Eager)
    with pytest.raises(InputError, match='no C\\+\\+ compiler; install g\\+\\+, or leave mode="compiled" out'):
        local.local(problem, Comparison.of(problem).blocks, "compiled")


def test_the_cost_model_compiles_long_and_large_runs_only() -> None:
    kilo, mega = 1024, 2**20
    cases = {  # (state bytes, data bytes, rounds): compile?
        (16 * 2 * 8, 0, 1_000): False,
        (16 * 18 * 8, 147 * kilo, 1_022): False,
        (16 * 2 * 8, 0, 1_000_000): True,
        (100 * 7850 * 8, 0, 100): False,
        (100 * 7850 * 8, 0, 2_000): True,
        (100_000 * 10 * 8, 0, 2_000): True,
        (100 * 100 * 8, 2 * mega, 20_000): True,
    }
    for (state, data, rounds), expected in cases.items():
        eager, compiled = local.predicted_seconds(state, data, rounds)
        assert (eager > compiled) == expected, (state, data, rounds, eager, compiled)


def test_auto_chooses_by_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build(Experiment("ring", 4, "moving_target", "gt", rounds=50))
    blocks = Comparison.of(problem).blocks
    assert isinstance(local.local(problem, blocks), Eager)
    monkeypatch.setattr(local, "predicted_seconds", lambda *_: (2.0, 1.0))
    monkeypatch.setattr("distopt.engines.local.compiler.fault", lambda: None)
    assert isinstance(local.local(problem, blocks), local.EagerFallback)
    assert isinstance(local.local(problem, blocks, "eager"), Eager)
