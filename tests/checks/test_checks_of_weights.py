"""What ``check_algorithm`` promises of weights: those of each channel, with the properties that are asked for and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from torch import Tensor

from distopt.algorithms.gt import GT
from distopt.checks import check_algorithm
from distopt.checks._common import weights
from distopt.errors import InputError
from distopt.network.graphs import graph_from_matrix
from distopt.network.mixing import ConstantMixing
from distopt.network.properties import SPELLINGS, properties


class PushPull:
    """Gradient tracking needs no more than row-stochastic weights for x and column-stochastic ones for s."""

    channels = ("x", "s")
    tracks = "s"
    weights: ClassVar[Any] = {"x": "row", "s": "column"}

    def init(self, x: Tensor) -> Any:
        return GT(0.05).init(x)

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return GT(0.05).update(g, state, x, mix)


class TracksByRows(PushPull):
    weights: ClassVar[Any] = {"x": "row", "s": "row"}


class TracksByRowsForAll(PushPull):
    weights = "row"


class StandsByColumns(PushPull):
    weights: ClassVar[Any] = {"x": "column", "s": "column"}


class OneLeftOut(PushPull):
    weights: ClassVar[Any] = {"x": "row"}


class Strange(PushPull):
    weights: ClassVar[Any] = {"x": "row", "s": "nice"}


def test_weights_by_channel_pass() -> None:
    check_algorithm(PushPull())


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (TracksByRows, "mean of the trackers"),
        (TracksByRowsForAll, "mean of the trackers"),
        (StandsByColumns, "agents that agree and see zero gradients move"),
        (OneLeftOut, "weights are given for 'x', but the algorithm sends 'x', 's'"),
        (Strange, "weights must be one of row, column, doubly, symmetric, average"),
    ],
)
def test_broken_promises_of_weights(broken: Callable[[], Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_algorithm(broken())


@pytest.mark.parametrize("word", SPELLINGS)
def test_the_weights_of_a_check_have_what_is_asked_for_and_no_more(word: str) -> None:
    W = ConstantMixing(graph_from_matrix(weights(properties(word))), "metropolis")
    for other, needs in SPELLINGS.items():
        if needs <= properties(word):
            W.require(other, "the check")
        else:
            with pytest.raises(InputError):
                W.require(other, "the check")
