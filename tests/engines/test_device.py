"""The same experiment on another device, and the data of the next rounds made while these ones run."""

import threading
from typing import Any

import numpy as np
import pytest
from helpers import needs
from torch import Tensor

import distopt
from distopt.engines.local.device import OnDevice
from distopt.engines.local.eager import Eager
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.runs.execution import execute
from distopt.simulation import runner
from distopt.simulation.problem import Problem


@pytest.mark.cuda
@needs.gpu
@pytest.mark.parametrize("scenario", ["moving_target:dim=5", "drifting_logistic", "quadratic"])
@pytest.mark.parametrize("network", ["ring", "star", "random_matching"])
def test_cuda_gives_the_numbers_of_the_host(scenario: str, network: str) -> None:
    ask = {
        "agents": 40,
        "scenario": scenario,
        "algorithm": "gtadam:lr=0.01,eps=1e-4",
        "rounds": 30,
        "record": ("x", "s"),
    }
    here = distopt.simulate(network, mode="eager", **ask)
    there = distopt.simulate(network, engine="local:device=cuda", **ask)
    for name in ("x", "s", "dynamic_regret", "consensus_error"):
        assert np.allclose(here[name], there[name], rtol=1e-9, atol=1e-11), name


def test_what_moves_to_a_device_comes_back_as_it_was() -> None:
    """The host itself in the part of the device: every leaf makes the way there and back."""
    experiment = Experiment("random_matching", 6, "drifting_logistic", "gtadam:lr=0.01", rounds=20, record=("x",))
    plain = execute(experiment, mode="eager")
    moved = execute(experiment, engine=lambda *_: OnDevice(Eager(), "cpu"))
    assert [name for name in plain if not np.array_equal(plain[name], moved[name], equal_nan=True)] == []


def test_rounds_on_a_device_are_eager() -> None:
    with pytest.raises(InputError, match='device=cuda: rounds there run eagerly; leave mode="compiled" out'):
        distopt.simulate(
            "ring",
            agents=4,
            scenario="quadratic",
            algorithm="gt",
            rounds=2,
            mode="compiled",
            engine="local:device=cuda",
        )


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=f"device={device}: torch cannot use it"):
        distopt.simulate(
            "ring", agents=4, scenario="quadratic", algorithm="gt", rounds=2, engine=f"local:device={device}"
        )


class Watched:
    """Quadratics around a jump; tells when the data of the second block of rounds are made."""

    dim = 2

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.armed = False

    def batch(self, t: Tensor, key: Any) -> Tensor:
        if self.armed and t.numel() > 1 and int(t[0]) > 0:
            self.asked.set()
        return (t / 7.0).sin() + key.uniform("watched", 2, t)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        return (x - b).square().sum(-1) / 2

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        return x - b


class Waiting(Eager):
    """Does not begin its rounds before somebody has asked for the next block's data."""

    def __init__(self, asked: threading.Event) -> None:
        self.asked = asked
        self.in_time: list[bool] = []

    def advance(self, block: runner.Block, *rest: Any) -> runner.Segment:
        if not self.in_time:
            self.in_time.append(self.asked.wait(30))
        return super().advance(block, *rest)


@pytest.mark.slow
@pytest.mark.usefixtures("usual_blocks")
def test_the_data_of_the_next_block_are_made_while_the_rounds_of_this_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distopt.costs.data.CACHE_BYTES", 0)  # nothing is remembered from the comparator's pass
    scenario = Watched()
    engines = []

    def make(problem: Problem, *_: Any) -> Waiting:
        scenario.armed = False
        engines.append(Waiting(scenario.asked))
        return engines[0]

    experiment = Experiment("ring", 4, scenario, "gt", rounds=600)

    def armed(phase: str, done: int, total: int) -> None:
        scenario.armed = phase == "rounds"

    run = execute(experiment, engine=make, progress=armed)
    assert engines[0].in_time == [True]
    alone = execute(Experiment("ring", 4, Watched(), "gt", rounds=600), mode="eager")
    assert np.array_equal(run["dynamic_regret"], alone["dynamic_regret"])
