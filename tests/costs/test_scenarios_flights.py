"""The flights as data: the year that was, who flies, and what a model can learn from them."""

from __future__ import annotations

import importlib
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import rounds

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios import _windows
from distopt.scenarios.flights import FEATURES, Flights, _agents, _columns, features


def test_flights_are_the_year_that_was() -> None:
    c, (X, y) = _columns(), features()
    assert X.shape == (336_776 - 9_430, len(FEATURES)) and int(c["dropped"]) == 9_430
    assert (np.diff(c["day"].astype(int) * 1440 + c["minute"]) >= 0).all()
    assert np.abs(X).max() < 3  # physical scales keep every feature near unit size
    month = np.searchsorted(np.cumsum([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30]), c["day"], side="right")
    late = [float((y[month == m] > 0).mean()) for m in range(12)]
    assert late[8] < 0.15 and max(late) > 0.30  # September is punctual, the year drifts
    # the hour in universal time and the local clock agree: 5 hours apart in winter, 4 in summer
    apart = (c["hour"].astype(int) + 5 - c["minute"].astype(int) // 60) % 24
    assert set(apart[(c["day"] < 60) | (c["day"] > 310)]) == {5} and set(apart[(c["day"] > 75) & (c["day"] < 300)]) == {
        4
    }


def test_flights_weather_is_of_the_hour_before() -> None:
    c, (X, _) = _columns(), features()
    rng = random.Random(0)
    for row in rng.sample(range(len(X)), 200):
        seen = c["weather"][c["origin"][row], c["hour"][row] - 1]
        assert X[row, FEATURES.index("temperature")] == (seen[0] - 55) / 30
        assert X[row, FEATURES.index("haze")] == 1 - seen[6] / 100
    # nothing later can enter: with every observation from hour h on erased, flights up to hour h keep their features
    h = 4000
    kept = c["weather"].copy()
    try:
        features.cache_clear()
        c["weather"][:, h:] = 0
        changed, _ = features()
        early = c["hour"] <= h
        assert np.array_equal(changed[early], X[early]) and not np.array_equal(changed[~early], X[~early])
    finally:
        c["weather"][:] = kept
        features.cache_clear()


def test_missing_weather_is_carried_forward_only() -> None:
    make_flights: Any = importlib.import_module("distopt.scenarios.data.make_flights")

    table_ = np.full((3, 5, len(make_flights.QUANTITIES)), np.nan)
    table_[1, 2] = 7.0
    whole = np.full((3, make_flights.HOURS, len(make_flights.QUANTITIES)), np.nan)
    whole[:, :5] = table_
    filled = make_flights.carried_forward(whole)
    assert (filled[1, 2:] == 7).all() and (
        filled[1, :2] == [make_flights.BLANK[q] for q in make_flights.QUANTITIES]
    ).all()
    assert (filled[0] == [make_flights.BLANK[q] for q in make_flights.QUANTITIES]).all()


def test_flights_agents_split_and_join() -> None:
    names = _columns()["carriers"].tolist()
    sizes = np.bincount(_columns()["carrier"])
    whole = _agents("carrier", 16)
    assert (whole == _columns()["carrier"]).all()
    few = _agents("carrier", 5)
    for k in range(16):  # joining never cuts an airline
        assert len(set(few[_columns()["carrier"] == k])) == 1
    assert len(set(few)) == 5
    left = sorted(sizes.tolist())
    while len(left) > 5:
        left = sorted([left[0] + left[1], *left[2:]])
    assert sorted(np.bincount(few).tolist()) == left
    many = _agents("carrier", 40)
    left = sorted(sizes.tolist())
    while len(left) < 40:
        big = left.pop()
        left = sorted([*left, big // 2, big - big // 2])
    assert sorted(np.bincount(many).tolist()) == left
    united = many[_columns()["carrier"] == names.index("UA")]
    pieces = len(set(united.tolist()))
    assert pieces > 1 and united[:pieces].tolist() == united[pieces : 2 * pieces].tolist()  # flights alternate


@pytest.mark.parametrize("total", [1, 2, 3, 5, 8, 13])
def test_groups_cover_every_row_once(total: int) -> None:
    sizes = {"a": 11, "b": 3, "c": 1, "d": 29, "e": 3}
    seen = [
        (name, row)
        for agent in _windows.grouped(sizes, total)
        for name, k, by in agent
        for row in range(k, sizes[name], by)
    ]
    assert sorted(seen) == [(name, row) for name, size in sizes.items() for row in range(size)]
    assert len(_windows.grouped(sizes, total)) == total


def test_flights_trials_differ_and_keep_the_asked_fraction() -> None:
    s = Flights(window=2000, step=2000, agents_by="shard", keep=0.6)
    b = s.batch(rounds(0, 1), Key(0, [0], range(40), 1))
    held = (b.w > 0).sum(-1).flatten().to(torch.float64)
    assert len(set(held.tolist())) > 10
    spread = math.sqrt(2000 * 0.6 * 0.4)
    assert abs(float(held.mean()) - 1200) < 4 * spread / math.sqrt(40) and 0.7 < float(held.std()) / spread < 1.3
    assert len({Flights(keep=1.0).batch(rounds(3, 4), Key(0, [1], [r], 16)).X.sum().item() for r in range(3)}) == 1


def test_flights_last_the_year() -> None:
    s = Flights()
    assert s.rounds == 327_346 // 320 == 1022
    s.batch(rounds(1021, 1022), Key(0, [0], [0], 16))
    with pytest.raises(InputError, match=r"there is no round 1022: .*1022 rounds"):
        s.batch(rounds(1022, 1023), Key(0, [0], [0], 16))


@pytest.mark.slow
def test_an_online_model_beats_the_best_fixed_one_on_the_flights() -> None:
    """One model for all; each round it is judged on flights it has not seen, then takes one gradient step."""
    X, y = features()
    step, fixed, x, right = 320, np.zeros(18), np.zeros(18), 0
    for _ in range(8):  # Newton on the whole year: hindsight
        p = 1 / (1 + np.exp(-X @ fixed))
        fixed -= np.linalg.solve(X.T @ (X * (p * (1 - p))[:, None]), X.T @ (p - (y > 0)))
    for t in range(len(y) // step):
        a, label = X[t * step : (t + 1) * step], y[t * step : (t + 1) * step]
        z = a @ x
        right += int(((z >= 0) == (label > 0)).sum())
        x = x + 0.5 * (label / (1 + np.exp(label * z))) @ a / step
    online, hindsight, never = (
        right / (len(y) // step * step),
        float(((X @ fixed > 0) == (y > 0)).mean()),
        float((y < 0).mean()),
    )
    assert online > 0.78
    assert 0.775 > hindsight > never > 0.76
