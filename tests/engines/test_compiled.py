"""Compiled rounds give what eager rounds give: every algorithm, channel, scenario and kind of network."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.codegen import objects
from distopt.codegen.folder import CompileWarning
from distopt.engines.local import local
from distopt.engines.local.compiled import Compiled, Leaves, Rounds, leaves_of, obstacle
from distopt.engines.local.eager import Eager
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.trees import tensors
from distopt.runs import checkpoint
from distopt.runs.execution import Comparison, MakeEngine, execute
from distopt.simulation import runner
from distopt.simulation.problem import Problem, build
from distopt.simulation.round import copied

FORMS = ("gt:form=atc", "dgd:form=atc", "gt:direction=amsgrad", "gt:direction=nesterov")
CHANNELS = ("exact", "choco(sign)", "error_feedback(topk)")
MATRICES, VECTORS = "rbf_drift:features=4,classes=3,window=2", "moving_target:dim=3"
NETWORKS: dict[str, dict[str, Any]] = {
    "constant": {},
    "one-peer": {"topology": "one_peer_exponential", "agents": 8},
    "dropped links": {"drop_links": 0.2},
}


class Case(NamedTuple):
    algorithm: str
    channel: str
    scenario: str
    network: str
    dtype: str = "float64"

    def __str__(self) -> str:
        return "/".join([self.algorithm, self.channel, self.scenario.partition(":")[0], self.network, self.dtype])


def cases() -> list[Case]:
    """Every algorithm and form with every channel, scenario and network that it can be asked with; precisions go round."""
    found = []
    for algorithm in [*registry.names("algorithms"), *FORMS]:
        method = registry.make("algorithms", algorithm)
        weights = method.weights
        average, networks = (
            weights == "average",
            [each for each in NETWORKS if each != "one-peer" or weights != "symmetric"],
        )
        constant = average or method.channel is not None  # a star, or a channel that keeps sums
        for channel in CHANNELS if method.channel is None else ("exact",):
            for scenario in (MATRICES, VECTORS):
                for network in ("constant",) if constant or channel.startswith("choco") else networks:
                    dtype = ("float64", "float32")[len(found) % 3 == 2]
                    found.append(Case("star/" * average + algorithm, channel, scenario, network, dtype))
    return found


@functools.cache
def solved(scenario: str, agents: int, trials: int = 1) -> Comparison:
    return Comparison.of(build(Experiment("ring", agents, scenario, "dgd", rounds=8, trials=trials)))


def posed(case: Case, **settings: Any) -> Problem:
    """A few rounds from a random start, where no numbers are equal: which of equal ones is the largest is nobody's promise."""
    network = {"topology": "ring", "agents": 5, **NETWORKS[case.network], **settings}
    star, _, algorithm = case.algorithm.rpartition("/")
    topology = "star" if star else network.pop("topology")
    network.pop("topology", None)
    agents, rounds = network.pop("agents"), network.pop("rounds", 8)
    asked = Experiment(
        topology,
        agents,
        case.scenario,
        algorithm,
        rounds=rounds,
        channel=case.channel,
        dtype=case.dtype,
        **network,
        record=("x",),
    )
    problem = build(asked)
    start = torch.randn(problem.x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return dataclasses.replace(problem, x0=start.to(problem.x0.dtype))


def eagerly(problem: Problem, blocks: Any, mode: Any) -> Any:
    return local(problem, blocks, "eager")


class Outcome(NamedTuple):
    run: distopt.Run
    held: list[Tensor]
    engine: Any


def on(problem: Problem, comparison: Comparison, engine: MakeEngine = local) -> Outcome:
    """The run on an engine; by default compiled on the local one."""
    made: list[Any] = []

    def make(problem: Problem, blocks: Any, mode: Any) -> Any:
        made.append(engine(problem, blocks, mode))
        return made[0]

    run = execute(problem.experiment, problem=problem, comparison=comparison, engine=make)
    return Outcome(run, tensors(made[0].fetch()), made[0])


def differ(one: Outcome, other: Outcome, close: float) -> list[str]:
    """Metrics, trajectories and leaves that differ by more than rounding, measured by the largest number of each."""
    pairs = {name: (np.asarray(one.run[name]), np.asarray(other.run[name])) for name in one.run}
    pairs |= {f"leaf {k}": (a.numpy(), b.numpy()) for k, (a, b) in enumerate(zip(one.held, other.held, strict=True))}
    found = []
    for name, (a, b) in pairs.items():
        a, b = (np.nan_to_num(each.astype(np.float64)) for each in (a, b))
        scale = 1.0 if name == "tracker_invariant" else max(np.abs(b).max(initial=0), 1e-300)
        if np.abs(a - b).max(initial=0) > close * scale:
            found.append(f"{name} {np.abs(a - b).max() / scale:.0e}")
    return found


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
    assert differ(written, eager, 1e-12 if case.dtype == "float64" else 1e-5) == []
    assert np.abs(eager.run["x"][:, -1] - eager.run["x"][:, 0]).max() > 1e-6


SMALL = Case("gtadam", "exact", VECTORS, "constant")


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
def test_other_parts_of_the_house_are_written_out_too(case: Case, settings: dict[str, Any]) -> None:
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


def with_algorithm(problem: Problem, algorithm: Any) -> Problem:
    return build(dataclasses.replace(problem.experiment, algorithm=algorithm))


@pytest.mark.parametrize(("method", "why"), [(Looking, "__bool__"), (Counting, "something else each time")])
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


class InPlace:
    """Gradient tracking by operations that write over their tensors."""

    channels: ClassVar[tuple[str, ...]] = ("x", "s")

    def init(self, x: Tensor) -> dict[str, Tensor]:
        return {"s": torch.zeros_like(x), "g": torch.zeros_like(x)}

    def update(self, g: Tensor, state: dict[str, Tensor], x: Tensor, mix: Any) -> tuple[Tensor, dict[str, Tensor]]:
        s = mix("s", state["s"]).add_(g).sub_(state["g"])
        after = mix("x", x).add_(s, alpha=-0.0625)
        state["g"].copy_(g)
        state["s"].copy_(s)
        return after, state


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
