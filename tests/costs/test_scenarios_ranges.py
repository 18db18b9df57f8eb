"""Every scenario at the ends of its parameters: a batch, or one line that names the parameter."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from helpers.synthetic import leaves, rounds

from distopt.catalog import registry
from distopt.errors import InputError
from distopt.numerics import room
from distopt.numerics.random import Key
from distopt.scenarios.flights import Flights, _kept
from distopt.scenarios.moving_target import MovingTarget

NAMES = registry.names("scenarios")
NO_NUMBER: list[Any] = ["a", True, [1], torch.ones(2), {}, 1j]
WHOLE: list[Any] = [0, -1, 1, 2, 3, 2.5, 2**31, 2**53, 2**53 + 1, 2**63, 10**30, math.nan, math.inf, *NO_NUMBER]
REAL: list[Any] = [
    0,
    -1,
    -1e-320,
    1e-320,
    1e-300,
    1e-100,
    1e-9,
    1,
    2,
    1e100,
    1e101,
    1e308,
    10**400,
    math.inf,
    -math.inf,
    math.nan,
    *NO_NUMBER,
]


def fields(name: str) -> list[tuple[str, list[Any]]]:
    makes = registry.maker("scenarios", name)
    kinds = [(field.name, str(field.type)) for field in dataclasses.fields(makes)]
    return [(key, WHOLE if "int" in kind else REAL) for key, kind in kinds if "int" in kind or kind == "float"]


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in NAMES for key, _ in fields(name)])
def test_a_scenario_at_the_ends_of_a_parameter_is_finite_or_one_line(
    name: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available", lambda: 2**28)  # of a small machine, so that what is accepted is soon made
    makes, outcomes = registry.maker("scenarios", name), set()
    for value in dict(fields(name))[key]:
        for given in (
            [{"motion": each} for each in ("circle", "line", "walk", "jump")] if name == "moving_target" else [{}]
        ):
            try:
                scenario = makes(**{key: value}, **given)
                batch = scenario.batch(rounds(0, 1, 2), Key(0, range(3), range(2), 3))
                assert all(bool(torch.isfinite(leaf.double()).all()) for leaf in leaves(batch)), (value, given)
                outcomes.add("made")
            except InputError as error:
                assert str(error).startswith(f"{name}: ") and "\n" not in str(error) and len(str(error)) < 300
                assert key in str(error) or "rounds" in str(error), str(error)
                outcomes.add("refused")
            except Exception as error:
                raise AssertionError(f"{key}={value!r} {given}") from error
    assert outcomes == {"made", "refused"}


@pytest.mark.parametrize("value", NO_NUMBER)
def test_words_must_be_words(value: Any) -> None:
    for make in (lambda: MovingTarget(motion=value), lambda: Flights(agents_by=value)):
        with pytest.raises(InputError, match="must be one of"):
            make()


def test_a_trial_without_flights_is_refused_and_one_with_few_is_not() -> None:
    with pytest.raises(InputError, match=r"keep=1e-09 leaves none of 327346 flights to trial 0; raise keep"):
        Flights(keep=1e-9).batch(rounds(0), Key(0, range(4), range(1), 4))
    few = Flights(keep=1e-5)
    assert 1 <= len(_kept(0, 0, 1e-5, "carrier", 4)) < 20
    b = few.batch(rounds(0, 500), Key(0, range(4), range(1), 4))
    assert bool(((b.w.sum(-1) - 1).abs() < 1e-12).logical_or(b.w.sum(-1) == 0).all())


def test_what_does_not_fit_is_said_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available", lambda: 10**6)
    with pytest.raises(
        InputError, match=r"moving_target: dim=100000 would need at least .* of memory, and 1.0 MB are free; lower dim"
    ):
        MovingTarget(dim=100_000)
    with pytest.raises(
        InputError, match="moving_target: dim=1000 would need at least 6.4 MB of memory, and 1.0 MB are free; lower dim"
    ):
        MovingTarget(dim=1000).batch(rounds(0), Key(0, range(100), range(1), 100))
