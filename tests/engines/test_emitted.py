"""Rounds written out as one function give what eager rounds give: every algorithm, channel, scenario and kind of network."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from helpers import needs
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.codegen import objects
from distopt.codegen.folder import CompileWarning
from distopt.engines.local import local
from distopt.engines.local.emitted import Emitted, emitted
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.trees import tensors
from distopt.runs.execution import Comparison, MakeEngine, execute
from distopt.simulation.problem import Problem, build

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


class Outcome(NamedTuple):
    run: distopt.Run
    held: list[Tensor]
    engine: Any


def on(problem: Problem, comparison: Comparison, engine: MakeEngine | None = None) -> Outcome:
    """The run on an engine; by default eager."""
    made: list[Any] = []

    def make(problem: Problem, blocks: Any, mode: Any) -> Any:
        made.append(engine(problem, blocks, mode) if engine else local(problem, blocks, "eager"))
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
def test_emitted_rounds_are_eager_ones_to_rounding(case: Case) -> None:
    problem = posed(case)
    comparison = solved(case.scenario, problem.agents)
    eager, written = on(problem, comparison), on(problem, comparison, emitted)
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
    eager, written = on(problem, comparison), on(problem, comparison, emitted)
    assert written.engine.compiled
    assert differ(written, eager, 1e-11 if case.dtype == "float64" else 1e-5) == []


def test_a_run_in_pieces_has_the_bits_of_one_in_one_piece(tmp_path: Any) -> None:
    problem = posed(SMALL, rounds=12)
    comparison = Comparison.of(problem)
    whole = on(problem, comparison, emitted)

    class Short(Emitted):
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
    eager = on(with_algorithm(problem, method()), comparison)
    with pytest.warns(CompileWarning, match=f"run many times slower: .*{why}"):
        written = on(with_algorithm(problem, method()), comparison, emitted)
    assert not written.engine.compiled
    assert all(np.array_equal(eager.run[name], written.run[name]) for name in eager.run)


def test_without_llvmlite_rounds_run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "fault", lambda: "llvmlite cannot be used here; pip install 'llvmlite>=0.46'")
    problem = posed(SMALL)
    with pytest.warns(CompileWarning, match="pip install"):
        assert not on(problem, Comparison.of(problem), emitted).engine.compiled


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
    eager, written = on(problem, comparison), on(problem, comparison, emitted)
    assert written.engine.compiled and differ(written, eager, 1e-12) == []


def test_the_engine_is_given_to_simulate() -> None:
    asked: dict[str, Any] = {"agents": 4, "scenario": "moving_target", "algorithm": "gtadam", "rounds": 20}
    run = distopt.simulate("ring", engine=emitted, **asked)
    plain = distopt.simulate("ring", mode="eager", **asked)
    np.testing.assert_allclose(run["tracking_error"], plain["tracking_error"], rtol=1e-10)


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


@pytest.mark.parametrize("engine", [local, emitted])
def test_a_run_goes_on_as_it_began(engine: MakeEngine, tmp_path: Any) -> None:
    asked: dict[str, Any] = {"agents": 4, "scenario": "moving_target", "algorithm": "gtadam", "rounds": 20}
    whole = distopt.simulate("ring", engine=engine, **asked)
    with pytest.raises(KeyboardInterrupt):
        distopt.simulate("ring", engine=stopping(engine), out=tmp_path / "run", checkpoint_every=5, **asked)
    run: Any = distopt.resume(tmp_path / "run", engine=emitted)
    assert run.status == "done" and run["tracking_error"].shape == (1, 20)
    assert all(np.array_equal(run[name], whole[name]) for name in whole)


def test_no_other_engine_goes_on_from_rounds_that_are_written_out(tmp_path: Any) -> None:
    asked: dict[str, Any] = {"agents": 4, "scenario": "moving_target", "algorithm": "gtadam", "rounds": 20}
    with pytest.raises(KeyboardInterrupt):
        distopt.simulate("ring", engine=stopping(emitted), out=tmp_path / "run", checkpoint_every=5, **asked)
    for engine in ("local", "threads:workers=2", local):
        with pytest.raises(
            InputError, match=r"ran on cpu, its rounds written out, whose bits differ from those of cpu; .*emitted"
        ):
            distopt.resume(tmp_path / "run", engine=engine)


@needs.compiler
@pytest.mark.slow
def test_rounds_that_torch_compiled_do_not_go_on_written_out(tmp_path: Any) -> None:
    asked: dict[str, Any] = {"agents": 4, "scenario": "moving_target", "algorithm": "gtadam", "rounds": 20}
    with pytest.raises(KeyboardInterrupt):
        distopt.simulate(
            "ring", engine=stopping(local), mode="compiled", out=tmp_path / "run", checkpoint_every=5, **asked
        )
    with pytest.raises(InputError, match="ran on cpu, whose bits differ from those of cpu, its rounds written out"):
        distopt.resume(tmp_path / "run", engine=emitted)


def test_a_point_of_a_grid_has_the_bits_that_it_has_alone() -> None:
    asked: dict[str, Any] = {"agents": 5, "scenario": "drifting_logistic", "rounds": 10, "trials": 2, "engine": emitted}
    both: Any = distopt.simulate("ring", algorithm="gtadam:lr=[0.01,0.03]", record="x", **asked)
    for run, lr in zip(both.values(), (0.01, 0.03), strict=True):
        alone = distopt.simulate("ring", algorithm=f"gtadam:lr={lr}", record="x", **asked)
        assert all(np.array_equal(run[name], alone[name]) for name in [*alone, "x"])
