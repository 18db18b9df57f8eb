"""Which runs have a tracker: those of algorithms that say so, whatever the leaves of a state are called."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from helpers.spelling import suited
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.checks import check_algorithm
from distopt.errors import InputError

ASK: dict[str, Any] = {"agents": 6, "scenario": "moving_target:dim=3", "rounds": 30}
TRACKING = {
    "gt",
    "aug_dgm",
    "gtadam",
    "c_gt",
    "beer",
    "averaged",
    "ab",
    "push_diging",
    "robust_push_diging",
    "online_frank_wolfe",
}
EXAMPLE = Path(__file__).parents[2] / "examples" / "heavy_ball.py"


class Leaves(NamedTuple):
    s: Tensor
    g: Tensor


@dataclass(frozen=True)
class Momentum:
    """Plain momentum; its leaves happen to be called s and g."""

    lr: float = 0.02
    channels: ClassVar[tuple[str, ...]] = ("x",)

    def init(self, x: Tensor) -> Leaves:
        return Leaves(torch.zeros_like(x), torch.zeros_like(x))

    def update(self, g: Tensor, state: Leaves, x: Tensor, mix: Any) -> tuple[Tensor, Leaves]:
        s = 0.5 * state.s + g
        return mix("x", x) - self.lr * s, Leaves(s, g)


class Inner(NamedTuple):
    follows: Tensor


class Nested(NamedTuple):
    inner: Inner
    old: Tensor
    short: Tensor


class Tracking:
    """Gradient tracking under names of its own, one level down."""

    channels = ("x", "y")
    tracks: Any = "inner.follows"

    def init(self, x: Tensor) -> Nested:
        return Nested(Inner(torch.zeros_like(x)), torch.zeros_like(x), torch.zeros_like(x[..., :1]))

    def update(self, g: Tensor, state: Nested, x: Tensor, mix: Any) -> tuple[Tensor, Nested]:
        s = mix("y", state.inner.follows) + g - state.old
        return mix("x", x) - 0.02 * s, Nested(Inner(s), g, state.short)


@pytest.mark.parametrize("engine", ["local", "threads:workers=2"])
def test_leaves_called_s_and_g_are_no_tracker(engine: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = distopt.simulate("ring", algorithm=Momentum(), engine=engine, **ASK)
    assert "tracker_invariant" not in run.metrics
    assert distopt.simulate("ring", algorithm=Momentum(), record="s,g", **ASK)["s"].shape[-1] == 3
    check_algorithm(Momentum())


@pytest.mark.parametrize("engine", ["local", "threads:workers=2"])
def test_an_algorithm_says_which_leaf_tracks(engine: str) -> None:
    run, house = (
        distopt.simulate("ring", algorithm=each, engine=engine, record="x", **ASK)
        for each in (Tracking(), "gt:lr=0.02")
    )
    assert np.array_equal(run["x"], house["x"])
    assert np.array_equal(run["tracker_invariant"], house["tracker_invariant"])
    assert run["tracker_invariant"].max() < 1e-13
    check_algorithm(Tracking())


@pytest.mark.slow
def test_shipped_trackers_and_no_others_are_measured() -> None:
    for name in registry.names("algorithms"):
        average = registry.make("algorithms", name).weights == "average"
        run = distopt.simulate(
            "complete" if average else "ring", algorithm=name, **{**ASK, "scenario": suited(name, ASK["scenario"])}
        )
        assert ("tracker_invariant" in run.metrics) == (name in TRACKING), name
    for spec in ("gt:form=atc", "aug_dgm", "aug_dgm:direction=adam"):
        assert distopt.simulate("ring", algorithm=spec, **ASK)["tracker_invariant"].max() < 1e-13


def test_the_example_of_the_readme_tracks() -> None:
    assert distopt.simulate("ring", algorithm=str(EXAMPLE), **ASK)["tracker_invariant"].max() < 1e-13


def test_a_tracker_that_leaves_the_mean_is_still_told() -> None:
    class Wrong(Tracking):
        def update(self, g: Tensor, state: Nested, x: Tensor, mix: Any) -> tuple[Tensor, Nested]:
            x, after = super().update(g, state, x, mix)
            return x, after._replace(inner=Inner(1.01 * after.inner.follows))

    with pytest.warns(
        UserWarning,
        match="trackers have left the mean of the gradients .* its update does not keep this mean.*check_algorithm",
    ):
        distopt.simulate("ring", algorithm=Wrong(), **ASK)
    with pytest.raises(AssertionError, match="mean of the trackers is off"):
        check_algorithm(Wrong())


@pytest.mark.parametrize(
    "tracks", ["s", "inner", "inner.", "short", "", True, 3, ("inner", "follows"), "__class__", "old.shape"]
)
def test_a_name_that_is_no_tracker_is_refused_before_the_run(tracks: Any) -> None:
    algorithm = Tracking()
    algorithm.tracks = tracks
    with pytest.raises(
        InputError,
        match=r"algorithm tracking: tracks=.* must name the leaf of its state .* the state has: inner, old, short",
    ):
        distopt.simulate("ring", algorithm=algorithm, **ASK)
