"""Problems for several processes, algorithms that fail among them, and commands under torchrun."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.simulation.problem import Problem, build


def made(
    network: str = "ring", scenario: Any = "moving_target:dim=3", algorithm: Any = "gtadam:lr=0.01", **settings: Any
) -> Problem:
    ask = {"agents": 16, "rounds": 6, "x0": 0.3, **settings}
    return build(Experiment(network, scenario=scenario, algorithm=algorithm, record=("x",), **ask))


class Sparing:
    """Gradient descent that mixes every third round: what other rounds expect is left out."""

    channels = ("x",)

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :1])

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        moved = x - 0.1 * g
        return mix("x", moved) if int(state.max()) % 3 == 0 else moved, state + 1


class Fails:
    """The last agent fails in the third round, as ``how`` says."""

    channels = ("x",)

    def __init__(self, how: Any) -> None:
        self.how = how

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :1])

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        if x.shape[-2] == 5 and int(state.max()) == 2 and multiprocessing.current_process().name == "rank 2":
            self.how()
        return mix("x", x), state + 1


def divide() -> None:
    raise ZeroDivisionError("agent 15 has enough")


def refuse() -> None:
    raise InputError("agent 15 was given nonsense")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep() -> None:
    time.sleep(3600)


END = "gave up after 3 restarts without progress"


class Mortal:
    """Gradient descent in which the rank that holds agent 15 is killed in the rounds that a file lists, once in each."""

    channels = ("x",)

    def __init__(self, file: Path) -> None:
        self.file = file

    def init(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :1])

    def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
        due = self.file.read_text().split()
        if str(int(state.max())) in due and multiprocessing.current_process().name == "rank 2":
            self.file.write_text(" ".join(due[1:]))
            die()
        return mix("x", x) - 0.01 * g, state + 1


def torchrun(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    paths = os.pathsep.join([str(Path(distopt.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command,
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
