"""The mean of an algorithm's points as its answer: against plain loops, around any algorithm, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.surviving import ASK, call, same_folders, short, struck
from helpers.trained import Small, row, steps
from numpy.typing import NDArray
from torch import Tensor

import distopt
from distopt.algorithms.averaged import Averaged
from distopt.algorithms.dgd import DGD
from distopt.catalog import registry
from distopt.checks import check_algorithm
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.random import Key
from distopt.numerics.trees import tensors
from distopt.optim import Decentralized
from distopt.report.page.setup import step
from distopt.runs.candidates import USUAL, Family, grid
from distopt.simulation.grid import faithful
from distopt.simulation.problem import build

Floats = NDArray[np.float64]
N, D, ROUNDS = 6, 3, 24
PLACES = ["local", "threads:workers=3", pytest.param("ranks:workers=2", marks=needs.forks)]


def asked(algorithm: Any, **settings: Any) -> Any:
    given: dict[str, Any] = {"agents": N, "scenario": f"moving_target:dim={D}", "rounds": ROUNDS, "mode": "eager"}
    return distopt.simulate("ring", algorithm=algorithm, **(given | {"record": "x,output"} | settings))


def by_hand(points: Floats, start: int, every: int) -> Floats:
    """The answers before each round, from the points [R, T, N, d]."""
    found, chosen = [], []
    for t in range(points.shape[1]):
        if t >= start and (t - start) % every == 0:
            chosen.append(points[:, t])
        found.append(np.mean(chosen, axis=0) if chosen else points[:, t])
    return np.stack(found, 1)


@pytest.mark.parametrize("engine", PLACES)
@pytest.mark.parametrize(("start", "every"), [(0, 1), (5, 1), (4, 3), (0, 7), (ROUNDS + 1, 1)])
def test_the_answer_is_the_mean_of_the_points_and_the_points_are_as_without_it(
    start: int, every: int, engine: str
) -> None:
    run = asked(f"averaged(gtadam(lr=0.05),start={start},every={every})", engine=engine, trials=2)
    assert np.array_equal(run["x"], asked("gtadam:lr=0.05", record="x", trials=2)["x"])
    assert np.abs(run["output"] - by_hand(run["x"][:, :-1], start, every)).max() < 1e-14
    assert np.array_equal(run["output"][:, : start + 1], run["x"][:, : min(start + 1, ROUNDS)])  # bit for bit
    local = asked(f"averaged(gtadam(lr=0.05),start={start},every={every})", trials=2)
    assert all(np.array_equal(local[name], run[name], equal_nan=True) for name in local)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_compiled_rounds_take_the_same_mean(dtype: str) -> None:
    ask = {"algorithm": "averaged(gtadam(lr=0.05),start=4,every=3)", "dtype": dtype}
    eager, compiled, cut = (
        asked(mode=mode, engine=engine, **ask)
        for mode, engine in (("eager", "local"), ("compiled", "local"), ("compiled", "threads:workers=2"))
    )
    for name in eager:
        assert np.array_equal(compiled[name], cut[name], equal_nan=True), name
    assert np.abs(eager["output"] - compiled["output"]).max() < (1e-12 if dtype == "float64" else 1e-4)


class Halves(NamedTuple):
    half: Tensor


@dataclass(frozen=True)
class Halved:
    """Gradient descent whose answer is half its point, of a user who inherits nothing."""

    channels: ClassVar[tuple[str, ...]] = ("x",)

    def init(self, x: Tensor) -> Halves:
        return Halves(x / 2)

    def update(self, g: Tensor, state: Halves, x: Tensor, mix: Any) -> tuple[Tensor, Halves]:
        x = mix("x", x) - 0.05 * g
        return x, Halves(x / 2)

    def output(self, x: Tensor, state: Halves) -> Tensor:
        return state.half


def test_the_mean_is_of_the_answers_where_the_algorithm_has_some() -> None:
    run = asked(Averaged(Halved(), start=3, every=2))
    assert np.abs(run["output"] - by_hand(run["x"][:, :-1] / 2, 3, 2)).max() < 1e-14
    twice = asked("averaged(averaged(dgd(lr=0.05),start=2),start=3,every=2)")
    assert np.abs(twice["output"] - by_hand(by_hand(twice["x"][:, :-1], 2, 1), 3, 2)).max() < 1e-14


def test_projected_points_are_averaged_after_their_projection() -> None:
    run = distopt.simulate(
        "ring", agents=1, scenario="reddi", algorithm="averaged(dgd(lr=0.1),start=1)", rounds=30, record="x,output"
    )
    assert np.abs(run["x"]).max() == 1
    assert np.abs(run["output"] - by_hand(run["x"][:, :-1], 1, 1)).max() < 1e-14


def test_means_over_time_and_over_the_network_commute() -> None:
    run = asked("averaged(dgd(lr=0.05),start=3)")
    network = run["x"][:, :-1].mean(2, keepdims=True)
    assert np.abs(run["output"].mean(2, keepdims=True) - by_hand(network, 3, 1)).max() < 1e-14


# What others find in it


@pytest.mark.parametrize("engine", PLACES[:2])
def test_leaves_of_the_algorithm_keep_their_names(engine: str) -> None:
    names = "s,direction.m"
    run = asked("averaged(gtadam(lr=0.05),start=3)", engine=engine, record=f"x,{names},inner.s,mean,output")
    plain = asked("gtadam:lr=0.05", engine=engine, record=f"x,{names}")
    for name in ("x", "s", "direction.m", "tracker_invariant", "bits", "gradients"):
        assert np.array_equal(run[name], plain[name]), name
    assert np.array_equal(run["inner.s"], run["s"]) and np.array_equal(run["mean"], run["output"])
    with pytest.raises(InputError, match="record=q: .*the state has: inner, mean, share, inner.s, inner.g, inner.dir"):
        asked("averaged(gtadam)", record="q")


def test_a_state_that_is_one_tensor_is_found() -> None:
    class Summed(Halved):
        output: ClassVar[Any] = None

        def init(self, x: Tensor) -> Any:
            return torch.zeros_like(x)

        def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
            return mix("x", x) - 0.05 * g, state + g

    run = asked(Averaged(Summed()), record="state")
    assert run["state"].shape == (1, ROUNDS, N, D) and np.abs(run["state"]).max() > 0


@pytest.mark.parametrize("spec", ["averaged", "averaged(choco_sgd,start=2)", "averaged(dgd,start=1,every=2)"])
def test_it_keeps_the_promises_of_an_algorithm(spec: str) -> None:
    check_algorithm(registry.make("algorithms", spec))


def test_compressed_algorithms_bring_their_channels() -> None:
    run = asked("averaged(choco_sgd(lr=0.05),start=3)")
    plain = asked("choco_sgd:lr=0.05", record="x")
    assert np.array_equal(run["x"], plain["x"]) and np.array_equal(run["bits"], plain["bits"])
    assert np.abs(run["output"] - by_hand(run["x"][:, :-1], 3, 1)).max() < 1e-14
    with pytest.raises(InputError, match=r"algorithm averaged\(choco_sgd\) brings its own channel"):
        asked("averaged:choco_sgd", channel="naive:sign")
    with pytest.raises(InputError, match=r"averaged\(ef_sgd\) needs averaging weights, but .*; use a star"):
        asked("averaged(ef_sgd(lr=0.1),start=2)")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("averaged(gtadam(lr=-1))", "^algorithm averaged: gtadam: lr must be positive, got -1"),
        ("averaged(gtadm)", "^algorithm averaged: no 'gtadm' among the algorithms .did you mean gtadam"),
        ("averaged(gt(form=x),every=2)", "^algorithm averaged: algorithm gt: form=x is not one of cta, atc"),
        ("averaged:every=0", "^averaged: every must be a whole number from 1 to"),
        ("averaged:start=-1", "^averaged: start must be a whole number from 0 to"),
        ("averaged:lr=0.1", "^algorithm averaged: no parameter 'lr'.*parameters: algorithm, start, every"),
    ],
)
def test_faults_name_the_part(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        registry.make("algorithms", spec)


# Grids, tuning, reports


@pytest.mark.parametrize(
    ("spec", "together"),
    [
        ("averaged(gtadam(lr=[0.01,0.05],b1=[0.5,0.9]),start=4,every=3)", True),
        ("averaged(gt(lr=inverse_sqrt([0.05,0.1])),start=4)", True),
        ("averaged(dgd(lr=0.05),start=[0,5],every=[1,3])", False),
    ],
)
def test_points_of_a_grid_have_the_bits_they_have_alone(spec: str, together: bool) -> None:
    runs = asked(spec, trials=2)
    assert len(runs) in (2, 4)
    for label, run in runs.items():
        alone = asked(label, trials=2)
        assert all(np.array_equal(run[name], alone[name], equal_nan=True) for name in run)
    problems = [build(point) for point in Experiment("ring", N, "moving_target", spec).points()]
    assert not together or faithful(problems)


def test_tuning_sets_the_step_size_of_the_algorithm_inside() -> None:
    given = "averaged(dgd(form=atc),start=5)"
    family = Family.of(given, grid(USUAL), {"every": ["1", "2"], "direction": ["momentum(b=0.5)"]})
    assert family.defaults == given and family.usual == 0.01
    first = family.candidates(grid("0.1"))
    assert [each.spec for each in first] == [
        f"averaged:dgd(form=atc,lr=0.1,direction=momentum(b=0.5)),start=5,every={every}" for every in (1, 2)
    ]
    assert first[0].rest != first[1].rest and first[0].rest == family.candidates(grid("0.2"))[0].rest
    plain = Family.of("averaged", grid("0.1"), {})
    assert [each.spec for each in plain.candidates(plain.grid)] == ["averaged:algorithm=gtadam(lr=0.1)"]
    listed = Family.of("averaged(dgd(lr=[0.1,0.2],form=atc),start=5)", grid(USUAL), {})
    assert listed.grid.values == ("0.1", "0.2") and listed.defaults == "averaged:algorithm=dgd(form=atc),start=5"
    scheduled = Family.of("averaged(dgd(lr=inverse_sqrt(0.3)))", grid("0.1"), {})
    assert scheduled.usual == 0.3
    assert scheduled.candidates(scheduled.grid)[0].spec == "averaged:dgd(lr=inverse_sqrt(0.1))"


def test_a_tuned_winner_is_the_best_of_the_runs(own_folder: None) -> None:
    spec = "averaged(dgd(form=atc),start=5)"
    tuned = distopt.tune(
        "ring", agents=4, scenario="quadratic", algorithm=spec, rounds=40, trials=2, report_trials=2, grid=[0.01, 0.1]
    )
    ends = {
        lr: np.median(
            distopt.simulate(
                "ring",
                agents=4,
                scenario="quadratic",
                algorithm=f"averaged(dgd(form=atc,lr={lr}),start=5)",
                rounds=40,
                trials=2,
            )["average_dynamic_regret"][:, -1]
        )
        for lr in (0.01, 0.1)
    }
    winner = tuned.algorithms[spec].winner
    assert winner is not None and winner.lr == min(ends, key=lambda lr: ends[lr])
    assert winner.median == pytest.approx(min(ends.values()), rel=1e-9)
    assert {step(run) for run in tuned.runs.values()} == {str(winner.lr), "0.01"}


def test_an_interrupted_run_goes_on_with_its_mean(own_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*ASK, "--algorithm", "averaged(gtadam(lr=0.05),start=4,every=3)", "--record", "x,output", "--eager"]
    assert call(*words, "--out", "a").exit_code == 0
    short(monkeypatch)
    with struck(18):
        assert call(*words, "--out", "b", "--checkpoint-every", "5").exit_code == 143
    done = call("resume", "b", "--engine", "threads", "--workers", "3")
    assert done.exit_code == 0 and "goes on from round" in done.stdout, done.output
    same_folders("a", "b")


# In training scripts


@pytest.mark.parametrize("mode", ["auto", "eager"])
def test_a_training_script_evaluates_the_mean(mode: str) -> None:
    models = [Small().double() for _ in range(2)]
    specs = ("averaged(gtadam(lr=0.01),start=4,every=2)", "gtadam:lr=0.01")
    optimizers = [
        Decentralized(model.named_parameters(), spec, mode=mode) for model, spec in zip(models, specs, strict=True)
    ]
    rows = [steps(model, optimizer, 0, range(9)) for model, optimizer in zip(models, optimizers, strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(*rows, strict=True))
    with optimizers[0].averaged(models[0]):
        found = row(models[0])
    assert (found - torch.stack([rows[0][t] for t in (4, 6, 8)]).mean(0)).abs().max() < 1e-15
    assert optimizers[0].param_groups[0]["lr"] == 0.01 and optimizers[0].tracker_violation() < 1e-15
    twin = Small().double()
    after = Decentralized(twin.named_parameters(), specs[0], mode=mode)
    after.load_state_dict(optimizers[0].state_dict())
    for model, optimizer in ((models[0], optimizers[0]), (twin, after)):
        steps(model, optimizer, 0, range(9, 14))
    assert torch.equal(row(models[0]), row(twin))
    held = [tensors(optimizer._buckets[0].held) for optimizer in (optimizers[0], after)]
    assert all(torch.equal(one, other) for one, other in zip(*held, strict=True))


# What it is for


class NoisyQuadratic:
    """f(x) = sum_k a_k x_k^2 / 2, a_k from 0.1 to 10, whose gradients have noise of standard deviation 2."""

    dim, comparator = 50, False
    curvature = torch.logspace(-1, 1, 50, dtype=torch.float64)

    def batch(self, t: Tensor, key: Key) -> Tensor:
        return 2 * key.normal("noise", self.dim, t)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        return (self.curvature * x * x / 2 + b * x).sum(-1)

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        return self.curvature * x + b

    def start(self, key: Key) -> Tensor:
        return torch.ones(1, 1, self.dim, dtype=torch.float64)

    def objective(self, x: Floats) -> float:
        return float((self.curvature.numpy() * x**2 / 2).sum(-1).mean())


ADAMW = "adam(eps_inside=false,cap=none,bias_correction=true)"


@pytest.mark.parametrize(
    ("inner", "last", "mean"), [("dgd(lr=0.05)", 2.67, 0.068), (f"dgd(lr=0.05,direction={ADAMW})", 1.18, 0.064)]
)
def test_averaging_takes_the_noise_away(inner: str, last: float, mean: float) -> None:
    """The last 3,000 of 6,000 points: the last one and their mean, over 20 trials, within 15 % of the figures of the reference run."""
    problem = NoisyQuadratic()

    def ends(every: int) -> tuple[float, float]:
        run = distopt.simulate(
            "ring",
            agents=1,
            scenario=problem,
            algorithm=f"averaged({inner},start=3000,every={every})",
            rounds=6001,
            trials=20,
            record="x,output",
        )
        return problem.objective(run["x"][:, 6000, 0]), problem.objective(run["output"][:, 6000, 0])

    found = ends(1)
    assert found == (pytest.approx(last, rel=0.15), pytest.approx(mean, rel=0.15))
    assert found[0] / found[1] == pytest.approx(last / mean, rel=0.15)
    rare = ends(100)[1]
    assert mean < rare < 2 * mean  # less often is nearly as good


def test_before_the_points_are_stationary_it_lags_behind() -> None:
    for scenario in ("quadratic", "moving_target:motion=line"):
        plain, mean = (
            asked(spec, scenario=scenario, rounds=200, record="x")["dynamic_regret"][:, -1]
            for spec in ("gt:lr=0.02", "averaged(gt(lr=0.02))")
        )
        assert (mean > plain).all()


def test_an_object_is_as_good_as_a_spec() -> None:
    run, spec = asked(Averaged(DGD(lr=0.05), 3, 2)), asked("averaged(dgd(lr=0.05),start=3,every=2)")
    assert np.array_equal(run["output"], spec["output"])
