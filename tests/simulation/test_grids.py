"""Grids: many points in one batch, each with the bits of the same experiment run alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import distopt
from distopt.catalog.spec import Spec
from distopt.cli.main import cli
from distopt.errors import InputError
from distopt.experiment import Experiment, read_toml
from distopt.report import tables
from distopt.runs.execution import Comparison, execute_together
from distopt.simulation import grid, runner
from distopt.simulation.problem import build


def equal(one: distopt.Run, other: distopt.Run) -> None:
    """Every metric and trajectory bit for bit, and how the runs ended."""
    assert list(one) == list(other)
    for name in one:
        assert np.array_equal(one[name], other[name], equal_nan=True), name
    assert np.array_equal(one.rounds, other.rounds)
    for key in ("fingerprint", "completed", "certificate", "experiment"):
        assert one.info[key] == other.info[key], key
    assert one.status == other.status
    for key in ("diverged_at", "diverged_trials"):
        assert one.info.get(key) == other.info.get(key), key


def alone(topology: str, algorithm: str, points: int, **ask: Any) -> dict[str, distopt.Run]:
    """The runs of a grid, after comparing each with the single run of its label."""
    runs = distopt.simulate(topology, algorithm=algorithm, **ask)
    assert len(runs) == points
    for label, run in runs.items():
        assert run.label == label
        equal(run, distopt.simulate(topology, algorithm=label, **ask))
    return runs


@pytest.fixture
def batched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many points each batch had."""
    sizes: list[int] = []
    together = runner.together
    monkeypatch.setattr(
        runner, "together", lambda problems, *a, **k: sizes.append(len(problems)) or together(problems, *a, **k)
    )
    return sizes


CASES = [
    (
        "ring",
        "gtadam:lr=[0.01,0.03],b1=[0.5,0.9],b2=[0.9,0.99],eps=[1e-8,1e-2],cap=[0.5,2]",
        32,
        {"scenario": "moving_target:dim=3"},
    ),
    (
        "ring",
        "gt:lr=[0.01,0.02],direction=adam(b1=[0.3,0.9],bias_correction=true,eps_inside=false)",
        4,
        {"scenario": "sea", "drop_links": 0.3},
    ),
    ("random_matching", "dadam:lr=[0.01,0.02],b3=[0.1,0.7]", 4, {"scenario": "rbf_drift"}),
    ("resampled_erdos_renyi", "nids:lr=[0.01,0.02]", 2, {"scenario": "moving_target:motion=walk"}),
    ("complete", "aug_dgm:lr=[0.001,0.002],direction=nesterov(b=[0.1,0.9])", 4, {"scenario": "quadratic"}),
    ("star", "exact_diffusion:lr=[0.001,0.002]", 2, {"scenario": "drifting_logistic"}),
    ("path", "dgd:lr=[0.01,0.02],direction=momentum(b=[0.1,0.9])", 4, {"scenario": "localization"}),
    ("ring", "extra:lr=[0.001,0.002]", 2, {"scenario": "hyperplane"}),
    (
        "ring",
        "dgd:lr=[0.01,0.02],direction=aida(p=[1.0,1.5,2.0],q=[1.0,2.0],decay=[0.0,0.1])",
        24,
        {"scenario": "moving_target:dim=3"},
    ),
    (
        "ring",
        "gt:lr=[0.01,0.02],direction=padam(p=[0.125,0.3],decay=[0.0,0.1])",
        8,
        {"scenario": "moving_target:dim=3"},
    ),
    ("ring", "gt:lr=[0.01,0.02],direction=adamw(b1=[0.8,0.9],decay=[0.0,0.1])", 8, {"scenario": "drifting_logistic"}),
    (
        "ring",
        "gt:lr=[0.01,0.02],direction=adan(b1=[0.9,0.98],decay=[0.01,0.1],clip=[0.5,2.0])",
        16,
        {"scenario": "moving_target:dim=3"},
    ),
    ("path", "dgd:lr=[0.1,0.2],direction=superadam(k=[0.5,1.0],m=[50.0,100.0],c=[1.0,40.0])", 16, {"scenario": "sea"}),
    (
        "ring",
        "lt_admm:lr=[0.02,0.05],dual=[0.5,1.0],relaxation=[0.5,0.8],local=3",
        8,
        {"scenario": "moving_target:dim=3"},
    ),
    ("ring", "admm:lr=[0.02,0.05],rho=[0.5,2.0],relaxation=[0.5,0.8],local=3", 8, {"scenario": "moving_target:dim=3"}),
    ("ring", "dlm:lr=[0.02,0.05],rho=[0.5,2.0]", 4, {"scenario": "moving_target:dim=3"}),
    (
        "ring",
        "atg:lr=[0.02,0.05],rho=[0.5,2.0],gamma=[0.2,0.5],relaxation=[0.5,0.8]",
        16,
        {"scenario": "moving_target:dim=3"},
    ),
    ("ring", "led:lr=[0.02,0.05],dual=[0.5,1.0],local=3", 4, {"scenario": "moving_target:dim=3"}),
    ("ring", "prox_skip:lr=[0.1,0.2],p=[0.3,0.6],chi=[1.0,1.5]", 8, {"scenario": "moving_target:dim=3"}),
    ("ring", "gt_vr:lr=[0.1,0.2],p=[0.2,0.6]", 4, {"scenario": "drifting_logistic"}),
    ("ring", "gt_saga:lr=[0.1,0.2],direction=momentum(b=[0.5,0.9])", 4, {"scenario": "drifting_logistic"}),
    ("ring", "gt_storm:lr=[0.1,0.2],k=[0.5,1.0],m=[50.0,100.0],c=[5.0,40.0]", 16, {"scenario": "moving_target:dim=3"}),
]


@pytest.mark.parametrize("trials", [1, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("topology", "algorithm", "points", "ask"), CASES)
def test_every_point_has_the_bits_it_has_alone(
    topology: str, algorithm: str, points: int, ask: dict[str, Any], dtype: str, trials: int, batched: list[int]
) -> None:
    alone(
        topology, algorithm, points, agents=5, trials=trials, dtype=dtype, rounds=12, record=("x",), mode="eager", **ask
    )
    assert batched == [points, *[1] * points]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "ask"),
    [
        ("gtadam:lr=[0.01,0.02]", {"scenario": "moving_target", "trials": 1}),
        (
            "gt:lr=[0.01,0.02]",
            {"agents": 200, "scenario": "moving_target:dim=500", "rounds": 5},
        ),  # large together, not alone
        (
            "gt:lr=0.02,direction=adam(b1=[0.5,0.9])",
            {"scenario": "sea", "trials": 3, "drop_links": 0.3, "dtype": "float32"},
        ),
    ],
)
def test_compiled_points_have_the_bits_they_have_alone(algorithm: str, ask: dict[str, Any], batched: list[int]) -> None:
    alone("ring", algorithm, 2, **{"agents": 6, "rounds": 20, "record": ("x",), "mode": "compiled", **ask})
    assert batched == [2, 1, 1]


def test_blocks_cut_for_the_repeated_data_change_no_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    ask: dict[str, Any] = {
        "agents": 4,
        "scenario": "sea",
        "rounds": 40,
        "trials": 2,
        "drop_links": 0.2,
        "mode": "eager",
    }
    whole = distopt.simulate("ring", algorithm="gt:lr=[0.01,0.02,0.03]", **ask)
    lengths: list[int] = []
    block = runner._block
    monkeypatch.setattr(runner, "_block", lambda *a: lengths.append(a[-1]) or block(*a))
    monkeypatch.setattr(runner, "BLOCK_BYTES", 2**17)
    for label, run in distopt.simulate("ring", algorithm="gt:lr=[0.01,0.02,0.03]", **ask).items():
        equal(run, whole[label])
    assert max(lengths) < 40


@pytest.mark.parametrize("trials", [1, 2])
@pytest.mark.usefixtures("usual_blocks")
def test_a_diverged_point_stops_no_other(trials: int) -> None:
    runs = alone(
        "ring",
        "gt:lr=[0.01,0.5,3,0.02]",
        4,
        agents=5,
        scenario="moving_target",
        rounds=600,
        trials=trials,
        record=("x",),
    )
    assert [run.status for run in runs.values()] == ["done", "diverged", "diverged", "done"]
    first, second = (runs[f"gt:lr={lr}"].info["diverged_at"] for lr in ("3", "0.5"))
    assert first < second < 600 and max(runs["gt:lr=3"].info["diverged_trials"].values()) == len(runs["gt:lr=3"].rounds)


def test_a_batch_ends_when_every_point_has_diverged() -> None:
    problems = [build(point) for point in Experiment("ring", 4, "moving_target", "gt:lr=[5,8]", rounds=5000).points()]
    runs = execute_together(problems, Comparison.of(problems[0]), folders=[None, None], mode="eager")
    assert [run.status for run in runs] == ["diverged", "diverged"] and max(run.info["completed"] for run in runs) < 256


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("gt:lr=[0.1,0.2]", ["gt:lr=0.1", "gt:lr=0.2"]),
        ("gt:[ 1 , 2 ],form=atc", ["gt:1,form=atc", "gt:2,form=atc"]),
        (
            "gt:lr=[1],direction=adam([2,3],b2=[4,5])",
            [f"gt:lr=1,direction=adam({b1},b2={b2})" for b1 in (2, 3) for b2 in (4, 5)],
        ),
        ("a[1].py:name='[1,2]',lr=3", ["a[1].py:name='[1,2]',lr=3"]),
        ("gt", ["gt"]),
    ],
)
def test_lists_are_taken_apart(spec: str, expected: list[str]) -> None:
    assert [str(point) for point in Spec.parse(spec).points()] == expected


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("gt:lr=[]", "a grid is a list"),
        ("gt:lr=[0.1,]", "a grid is a list"),
        ("gt:lr=[0.1", "a grid is a list"),
        ("gt:lr=[[0.1]]", "a grid is a list"),
        ("gt:lr=[0.1,0.1]", "twice"),
        ("gt:lr=[0.1,x]", "lr=x is not a number"),
        ("gt:lr=[0.1,-0.2]", "lr must be positive, got -0.2"),
        ("gtadam:b1=[0.5,1.5]", "b1 must lie in \\[0, 1\\), got 1.5"),
    ],
)
def test_a_bad_value_is_named(spec: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        distopt.simulate("ring", agents=4, scenario="moving_target", algorithm=spec, rounds=3)


def test_points_are_the_single_experiments(tmp_path: Path) -> None:
    experiment = Experiment("ring", 4, "quadratic", "gt:lr=[0.1,0.2]", rounds=3)
    (tmp_path / "e.toml").write_text(experiment.to_toml())
    singles = [Experiment("ring", 4, "quadratic", f"gt:lr={lr}", rounds=3) for lr in ("0.1", "0.2")]
    assert experiment.points() == read_toml(tmp_path / "e.toml") == singles
    assert singles[0].points() == [singles[0]]


@dataclass(frozen=True)
class Asks:
    """A user's algorithm that uses its number otherwise than in arithmetic with tensors."""

    lr: float
    channels = ("x",)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Any) -> tuple[Tensor, tuple[()]]:
        return mix("x", x) - (self.lr if self.lr < 0.05 else 0.05) * g, ()


@dataclass(frozen=True)
class Powers(Asks):
    """Another one, whose power of a tensor rounds otherwise than that of a number."""

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Any) -> tuple[Tensor, tuple[()]]:
        return mix("x", x) - torch.pow(g.abs(), self.lr) * g.sign(), ()


def test_what_cannot_be_stacked_runs_one_after_the_other() -> None:
    def problems(*algorithms: Any) -> list[Any]:
        return [build(Experiment("ring", 4, "moving_target", each, rounds=3)) for each in algorithms]

    assert grid.batches(problems("gt:lr=0.1", "dgd", "gt:lr=0.2", "gt:lr=0.1,form=atc")) == [[0, 2], [1], [3]]
    assert grid.batches(problems(Asks(0.01), Asks(0.02))) == [[0], [1]]
    stacked = grid.stack(problems("gt:lr=0.1", "gt:lr=0.2"))
    assert stacked.x0.shape == (2, 4, 2) and stacked.algorithm.lr.values == (0.1, 0.2)
    lossy = problems(Powers(0.3), Powers(3.0))
    assert grid.alike(lossy[0].algorithm, lossy[1].algorithm) and grid.batches(lossy) == [[0], [1]]


def test_numbers_compute_in_float64_until_they_meet_a_tensor() -> None:
    values = (0.9, 0.999)
    numbers, x = grid.GridScalar(values, 1), torch.linspace(0.1, 3, 8, dtype=torch.float32).reshape(2, 2, 2)
    for f in (
        lambda b: (1 - b) * x,
        lambda b: x / (2 + b),
        lambda b: x - b / 3,
        lambda b: (b - 2) * (b * b) + x,
        lambda b: -b + x,
        lambda b: 1 / (3 * b) * x,
        lambda b: x.clamp(max=b),
        lambda b: b / x,
        lambda b: torch.maximum(x, b * torch.ones_like(x)),
    ):
        together = f(numbers)
        assert together.dtype == torch.float32
        assert all(torch.equal(together[g], f(value)[g]) for g, value in enumerate(values))
    naive = (1 - torch.tensor(values, dtype=torch.float32).reshape(2, 1, 1)) * x
    assert not torch.equal((1 - numbers) * x, naive), "then float64 among numbers would be for nothing"
    with pytest.raises(TypeError):
        bool(numbers)
    with pytest.raises(TypeError):
        _ = numbers == 0.9


def test_the_command_line_lays_a_grid_out_and_marks_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batched: list[int]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        "simulate",
        "ring",
        "--agents",
        "4",
        "--scenario",
        "moving_target",
        "--rounds",
        "300",
        "--out",
        "g",
        "--record",
        "x",
    ]
    result = CliRunner().invoke(cli, [*command, "--algorithm", "gt:lr=[0.01,0.02,9]", "--algorithm", "dgd"])
    assert result.exit_code == 1 and "gt:lr=9 diverged at round" in result.output, result.output
    assert batched == [3, 1]
    runs = distopt.load(tmp_path / "g")
    assert list(runs) == ["gt:lr=0.01", "gt:lr=0.02", "gt:lr=9", "dgd"]
    assert json.loads((tmp_path / "g" / "manifest.json").read_text())["runs"] == [
        "gt-lr=0.01",
        "gt-lr=0.02",
        "gt-lr=9",
        "dgd",
    ]
    for label, run in runs.items():
        equal(
            run, distopt.simulate("ring", agents=4, scenario="moving_target", algorithm=label, rounds=300, record="x")
        )
    ended = {label: run["average_dynamic_regret"][:, -1].mean() for label, run in runs.items() if run.status == "done"}
    starred = [line.split()[0] for line in result.output.splitlines() if " * " in line or line.endswith(" *")]
    assert starred == [min(ended, key=ended.__getitem__)]
    assert (tmp_path / "g" / "regret.png").stat().st_size > 0
    twice = CliRunner().invoke(cli, [*command, "--algorithm", "gt:lr=[0.01,0.02]", "--algorithm", "gt:lr=0.02"])
    assert twice.exit_code == 2 and "gt:lr=0.02 is given twice" in twice.output


def test_an_interrupted_grid_keeps_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distopt.costs.data.LONGEST_BLOCK", 8)

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and done >= 24:
            raise KeyboardInterrupt

    problems = [
        build(point) for point in Experiment("ring", 4, "moving_target", "gt:lr=[0.01,0.02]", rounds=100).points()
    ]
    with pytest.raises(KeyboardInterrupt) as caught:
        execute_together(
            problems, Comparison.of(problems[0]), folders=[tmp_path / "a", tmp_path / "b"], progress=stop, mode="eager"
        )
    for name, run in zip("ab", caught.value.runs, strict=True):
        loaded = distopt.load(tmp_path / name)
        assert isinstance(loaded, distopt.Run) and (loaded.status, len(loaded.rounds)) == ("interrupted", 24)
        equal(loaded, run)


def test_the_star_is_for_the_smallest_regret_of_those_that_ended() -> None:
    row = {
        "rounds": 9,
        "spread": float("nan"),
        "consensus_error": 0.1,
        "tracker_invariant": 0.0,
        "bits_per_agent": 640.0,
        "rounds_per_second": 1.0,
    }
    rows = [
        {**row, "algorithm": name, "status": status, "average_dynamic_regret": regret}
        for name, status, regret in (
            ("a", "done", 2.0),
            ("b", "done", 1.0),
            ("c", "diverged", 0.5),
            ("d", "done", float("nan")),
        )
    ]
    assert [line.split()[0] for line in tables.text(rows).splitlines() if "*" in line] == ["b"]
    assert "*" not in tables.text(rows[:1])
