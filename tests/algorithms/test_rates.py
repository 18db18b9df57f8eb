"""Schedules by name: their formulas, their spelling, and runs with them wherever they run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.spelling import stepping, suited

import distopt
from distopt.algorithms.gt import GT
from distopt.catalog import registry
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.schedules.inverse_sqrt import InverseSqrt
from distopt.simulation.grid import faithful
from distopt.simulation.problem import build

FORMULAS: dict[str, Callable[[int], float]] = {
    "constant(0.1)": lambda t: 0.1,
    "inverse_sqrt(0.1)": lambda t: 0.1 / math.sqrt(t + 1),
    "inverse_sqrt(0.3,shift=9)": lambda t: 0.3 / math.sqrt(t + 9),
    "inverse(1.0,shift=10)": lambda t: 1 / (t + 10),
    "step(0.1,every=5,factor=0.5)": lambda t: 0.1 * 0.5 ** (t // 5),
    "cosine(0.1,rounds=20)": lambda t: 0.001 + 0.099 * (1 + math.cos(math.pi * min(t, 20) / 20)) / 2,
    "cosine(0.2,rounds=8,least=0.1)": lambda t: 0.1 + 0.1 * (1 + math.cos(math.pi * min(t, 8) / 8)) / 2,
}


def simulated(algorithm: Any, **settings: Any) -> Any:
    given = {"agents": 6, "scenario": "moving_target:dim=3", "rounds": 30, "record": "x", "mode": "eager"}
    average = any(name in str(algorithm) for name in ("ef_s", "ef21", "sign"))
    return distopt.simulate("complete" if average else "ring", algorithm=algorithm, **(given | settings))


@pytest.mark.parametrize("spec", FORMULAS)
def test_a_schedule_is_its_formula(spec: str) -> None:
    schedule = registry.make("algorithms", f"gt:lr={spec}").lr
    for t in range(60):
        found = schedule(torch.tensor(t))
        assert float(found) == pytest.approx(FORMULAS[spec](t), rel=1e-14)
        assert not isinstance(found, torch.Tensor) or (found.dtype == torch.float64 and found.dim() == 0)


def test_every_schedule_of_the_catalogue_is_checked() -> None:
    assert {spec.partition("(")[0] for spec in FORMULAS} == set(registry.names("schedules"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", registry.names("algorithms"))
def test_a_constant_schedule_has_the_bits_of_the_number(name: str, dtype: str) -> None:
    ask = {"dtype": dtype, "scenario": suited(name, "moving_target:dim=3")}
    number, schedule = (simulated(stepping(name, lr), **ask)["x"] for lr in ("0.013", "constant(0.013)"))
    assert np.array_equal(number, schedule)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["gtadam:lr=inverse_sqrt(0.1)", "extra:lr=step(0.1,every=4,factor=0.5)"])
def test_workers_have_the_bits_of_one_block(algorithm: str, dtype: str) -> None:
    runs = [simulated(algorithm, dtype=dtype, engine=engine)["x"] for engine in ("local", "threads:workers=3")]
    assert np.array_equal(*runs) and not np.array_equal(
        runs[0], simulated(algorithm.partition(":")[0], dtype=dtype)["x"]
    )


@pytest.mark.slow
def test_compiled_rounds_follow_schedules() -> None:
    algorithm = "gt:lr=cosine(0.1,rounds=25)"
    eager = simulated(algorithm)["x"]
    runs = [simulated(algorithm, mode="compiled", engine=engine)["x"] for engine in ("local", "threads:workers=2")]
    assert np.abs(runs[0] - eager).max() < 1e-13 and np.array_equal(*runs)


@pytest.mark.parametrize(
    ("grid", "together"),
    [
        ("gt:lr=inverse_sqrt([0.05,0.1])", True),
        ("gt:lr=inverse([0.5,1],shift=[5.0,10.0])", True),
        ("gt:lr=cosine([0.05,0.1],rounds=20)", True),
        ("gt:lr=step(0.1,every=5,factor=[0.3,0.5])", None),
        ("gt:lr=['0.1','inverse_sqrt(0.1)']", None),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_points_of_a_grid_have_the_bits_they_have_alone(grid: str, together: bool | None, dtype: str) -> None:
    runs = simulated(grid, dtype=dtype)
    assert len(runs) in (2, 4)
    for label, run in runs.items():
        assert np.array_equal(run["x"], simulated(label, dtype=dtype)["x"])
    if together:
        ask = Experiment("ring", 6, "moving_target", grid, dtype=dtype)
        assert faithful([build(point) for point in ask.points()])


def test_a_schedule_of_a_users_file_and_of_python(tmp_path: Path) -> None:
    (tmp_path / "halving.py").write_text(
        "class Halving:\n"
        "    def __init__(self, lr: float = 0.1):\n"
        "        self.lr = lr\n"
        "    def __call__(self, t):\n"
        "        return self.lr * 0.5 ** (t // 10)\n"
    )
    mine = simulated(f"gt:lr={tmp_path}/halving.py(0.1)")["x"]
    assert np.abs(mine - simulated("gt:lr=step(0.1,every=10,factor=0.5)")["x"]).max() < 1e-14
    assert np.array_equal(simulated(GT(InverseSqrt(0.1)))["x"], simulated("gt:lr=inverse_sqrt(0.1)")["x"])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("gt:lr=fast", "lr=fast is not a number"),
        (
            "gt:lr=invers(0.1)",
            r"lr=invers\(0.1\) is not a number, and no 'invers' among the schedules \(did you mean inverse",
        ),
        ("gt:lr=inverse_sqrt(-1)", "inverse_sqrt: lr must be positive, got -1"),
        ("gt:lr=inverse_sqrt", "lr must be given"),
        ("gt:lr=step(0.1,every=0)", "step: every must be a whole number of at least 1, got 0"),
        ("gt:lr=cosine(0.1,least=0.2)", "cosine: least must be at most lr"),
        ("gtadam:b1=inverse(0.1)", r"b1=inverse\(0.1\) is not a number"),
    ],
)
def test_a_wrong_schedule_is_refused_in_one_line(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        registry.make("algorithms", spec)


def test_a_class_is_no_step_size() -> None:
    with pytest.raises(InputError, match="gt: lr must be positive, got the class InverseSqrt"):
        GT(InverseSqrt)
