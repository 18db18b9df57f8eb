"""The conformance check of metrics: the shipped ones pass, and one that breaks a promise is told which."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checks.test_checks import fails
from torch import Tensor

from distopt.checks import check_metric
from distopt.metrics import Metric, View, catalogue


@pytest.mark.parametrize("name", catalogue())
def test_shipped_metrics(name: str) -> None:
    metric = catalogue()[name]
    renamed = type(f"{type(metric).__name__}Again", (type(metric),), {})()  # a run has one of this name already
    scenario = "sea" if name.startswith("accuracy") else "dirac_gan" if name == "radius" else "moving_target:dim=3"
    check_metric(renamed, scenario)


class Farthest:
    """A user's metric inherits nothing."""

    def term(self, view: View) -> Any:
        return (view.x - view.mean).abs().amax(-1)


class Drifted:
    def columns(self, dim: int) -> int:
        return dim

    def round_term(self, algorithm: Any, state: Any, g: Tensor) -> Any:
        return (state.s - g).double()

    def finish(self, sums: Tensor, agents: int) -> Any:
        return sums.abs().amax(-1) / agents


class Share:
    cumulative = True

    def value(self, seen: Any) -> Any:
        return seen["cost"] / seen.agents


class Reading(Share):
    """A run without agent-wise regrets would not have it."""

    def value(self, seen: Any) -> Any:
        return seen.points.sum((-1, -2))


class Needing(Reading):
    needs_points = True


class Worst(Share):
    """It asks for another metric, and that one reads the points."""

    cumulative = False

    def value(self, seen: Any) -> Any:
        return seen["agents"].amax(-1)


@pytest.mark.parametrize("kind", [Farthest, Drifted, Share, Needing, Worst])
def test_metrics_of_a_user(kind: Any) -> None:
    check_metric(kind())


class Two(Farthest):
    def value(self, seen: Any) -> Any:
        return seen["cost"]


class Titled(Farthest):
    title = 7


class Cumbersome(Drifted):
    def columns(self, dim: int) -> int:
        return 0


class Misshapen(Farthest):
    def term(self, view: View) -> Any:
        return view.x


class Infinite(Farthest):
    def term(self, view: View) -> Any:
        return 1 / (view.x - view.x).sum(-1)


class Counting(Farthest):
    calls = 0

    def term(self, view: View) -> Any:
        self.calls += 1
        return super().term(view) + self.calls


class Clearing(Farthest):
    def term(self, view: View) -> Any:
        view.x.sub_(view.mean)
        return view.x.abs().amax(-1)


class Beside(Farthest):
    """It looks at the agents of the block, whichever they are."""

    def term(self, view: View) -> Any:
        return (view.x - view.x.mean(-2, keepdim=True)).abs().amax(-1)


class Mixing(Farthest):
    """Its trials touch each other."""

    def term(self, view: View) -> Any:
        return (view.x - view.x.mean(0)).abs().amax(-1)


class Averaging(Drifted):
    def round_term(self, algorithm: Any, state: Any, g: Tensor) -> Any:
        return (state.s - g.mean(-2, keepdim=True)).double()


class Writing(Drifted):
    def round_term(self, algorithm: Any, state: Any, g: Tensor) -> Any:
        return g.mul_(2).double()


class Narrow(Share):
    def value(self, seen: Any) -> Any:
        return seen["cost"].mean(-1)


class Starting(Share):
    """It counts from where a segment begins."""

    def value(self, seen: Any) -> Any:
        return seen["cost"] - seen["cost"][:1]


class Together(Share):
    def value(self, seen: Any) -> Any:
        return seen["cost"] - seen["cost"].mean(1, keepdim=True)


class Drawing(Share):
    def value(self, seen: Any) -> Any:
        return torch.rand_like(seen["cost"])


class Scaling(Share):
    needs_points = True

    def value(self, seen: Any) -> Any:
        return seen.points.mul_(2).sum((-1, -2))


class Finishing(Farthest):
    def finish(self, sums: Tensor, agents: int) -> Any:
        return sums.mul_(2)[..., 0]


class Doubling(Share):
    """It changes another metric."""

    def value(self, seen: Any) -> Any:
        return seen["cost"].mul_(2)


class Asking(Share):
    def value(self, seen: Any) -> Any:
        return seen["accuracy"]


class Choosy(Metric):
    def applies(self, scenario: Any, algorithm: Any) -> bool:
        return scenario.accuracy is not None

    def value(self, seen: Any) -> Any:
        return seen["accuracy"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Two, "one of the methods"),
        (Titled, "title must be of the type str"),
        (Cumbersome, "columns must be a whole number above 0, not 0"),
        (Misshapen, r"term gives \[2, 5, 3\], not \[2, 5\] or \[2, 5, 1\]"),
        (Infinite, "term is not finite"),
        (Counting, "term is not pure"),
        (Clearing, "term changes what it sees in place"),
        (Beside, "other bits alone than among others: sums would depend on the engine"),
        (Mixing, "term gives trial 0 alone other bits"),
        (Averaging, "round_term gives agents 0 to 1 other bits alone"),
        (Writing, "round_term changes what it sees in place"),
        (Narrow, r"its value is \[6\], not \[rounds, trials\], \[6, 2\]"),
        (Starting, "depends on where a segment of rounds begins"),
        (Together, "trial 0 alone differs"),
        (Drawing, "not pure"),
        (Scaling, "value changes what it sees in place"),
        (Reading, "it reads seen.points, so it must say needs_points = True"),
        (Finishing, "finish changes what it sees in place"),
        (Doubling, "value changes what it sees in place"),
        (Asking, "it asks for accuracy, which the scenario does not have"),
        (Choosy, "does not apply to this scenario and algorithm"),
    ],
)
def test_a_broken_promise_is_named(kind: Any, told: str) -> None:
    fails(check_metric, kind(), told)


def test_it_is_told_what_to_be_measured_on() -> None:
    check_metric(Choosy(), scenario="sea", algorithm="dgd")
