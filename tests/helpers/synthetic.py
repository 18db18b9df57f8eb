"""Synthetic scenarios and what their tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.numerics.random import Key
from distopt.scenarios.drifting_logistic import DriftingLogistic
from distopt.scenarios.hyperplane import Hyperplane
from distopt.scenarios.localization import Localization
from distopt.scenarios.moving_target import MovingTarget
from distopt.scenarios.quadratic import Quadratic
from distopt.scenarios.rbf_drift import RbfDrift
from distopt.scenarios.sea import Sea
from distopt.scenarios.sensor_fusion import SensorFusion
from distopt.scenarios.switching import Switching
from distopt.scenarios.teacher_student import TeacherStudent

N, R = 6, 3
STREAMS = {
    "sea": Sea(period=3, rows=3, window=4),
    "sea-one-row": Sea(rows=1, window=1),
    "hyperplane": Hyperplane(features=4, drifting=3, reversal=0.3, window=3),
    "hyperplane-all": Hyperplane(window=1),
    "rbf-binary": RbfDrift(noise=0.3, speed=0.2),
    "rbf-softmax": RbfDrift(features=3, classes=3, centroids=7, noise=0.3, rows=2, window=3, speed=0.05),
}
SCENARIOS: dict[str, Any] = {
    "quadratic": Quadratic(),
    "switching": Switching(rate=30.0, samples=5, dim=3),
    "teacher-linear": TeacherStudent(dim=5, alpha=3.0),
    "teacher-logistic": TeacherStudent(dim=5, alpha=3.0, model="logistic"),
    **{f"moving-{motion}": MovingTarget(motion, dim=3, period=5) for motion in ("circle", "line", "walk", "jump")},
    "moving-default": MovingTarget(),
    "sensor-circle": SensorFusion(dim=3),
    "sensor-rows": SensorFusion(dim=5, rows=2, motion="jump", period=2),
    "localization": Localization(),
    "drifting_logistic": DriftingLogistic(rows=5),
    **STREAMS,
}


def rounds(*t: int) -> Tensor:
    return torch.tensor(t, dtype=torch.int64).reshape(-1, 1, 1, 1)


def key(agents: Any = range(N), trials: Any = range(R), seed: int = 11) -> Key:
    return Key(seed, agents, trials, N)


def leaves(batch: Any) -> list[Tensor]:
    out: list[Tensor] = pytree.tree_leaves(batch)
    return out


def at(batch: Any, k: int) -> Any:
    return pytree.tree_map(lambda leaf: leaf[k if leaf.shape[0] > 1 else 0], batch)


def cut(leaf: Tensor, axis: int, index: Any) -> Tensor:
    return leaf if leaf.shape[axis] == 1 else leaf.index_select(axis, torch.as_tensor(list(index)))


def points(dim: int, scale: float = 1.0, agents: int = N, trials: int = R) -> Tensor:
    return scale * torch.randn(trials, agents, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def same(a: Any, b: Any) -> None:
    for one, other in zip(leaves(a), leaves(b), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(one, other)
