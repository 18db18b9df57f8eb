"""Portfolio selection with real prices: every month the wealth is divided among assets again."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.scenarios import _constrained
from distopt.scenarios._ranges import whole
from distopt.scenarios._sets import least, nearest

ASSETS = ("IBM", "AAPL", "MSFT", "XRX", "ADBE", "^GSPC")
"""The columns: five shares that were traded all the time, and the index S&P 500."""

FLOOR = 0.05
"""No month has a relative below it. Costs are continued linearly where a point, which is then none of the simplex, has less."""


@cache
def relatives() -> Tensor:
    """p_{t+1} / p_t of all assets, month by month, float64 [T, d].

    Raises:
        InputError: Matplotlib is installed without its sample data.
    """
    found = importlib.util.find_spec("matplotlib")
    path = Path(str(found.origin if found else "")).parent / "mpl-data" / "sample_data" / "Stocks.csv"
    if not path.is_file():
        raise InputError(f"portfolio: {path} is missing; install Matplotlib with its sample data")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    months = [row for row in rows if row["Date"].endswith("-01") and all(row[name] for name in ASSETS)]
    prices = torch.tensor([[float(row[name]) for name in ASSETS] for row in months], dtype=torch.float64)
    return prices[1:] / prices[:-1]


@dataclass(frozen=True)
class Portfolio(ScenarioDefaults):
    """Divide wealth among assets at the beginning of each month; lose the logarithm of how it grows [cover1991] [helmbold1998].

        f_{i,t}(x) = -log <r_{i,t}, x>,    x_k >= 0, sum_k x_k = 1

    r_{i,t,k} is the price of asset k at the end of the month by that at its beginning: monthly prices from 1990 to 2022 of five shares and the
    S&P 500, which Matplotlib ships as a sample (Stocks.csv, from Yahoo Finance). Agent i is ``apart`` months ahead of agent i - 1, so that
    agents see unequal markets at a time and must agree on one portfolio. Trials are alike. Splits are in the prices; dividends and costs
    of trading are left out.

    The best fixed point is the best constantly rebalanced portfolio: ``static_regret`` is that of the papers, summed over the agents. Points off the
    simplex, where <r, x> is below 0.05, have the tangent's cost, so that costs are convex everywhere. Agents start with equal shares.

    Attributes:
        apart: months between the markets of one agent and the next; 0: all agents see the same market.

    Raises:
        InputError: ``apart`` is no whole number from 0 to 120, or Matplotlib has no sample data.

    >>> s, key = Portfolio(apart=0), Key(0, range(1), range(1), total=1)
    >>> s.dim, s.length(1), Portfolio().length(2) == s.length(1)
    (6, 389, False)
    >>> [round(v, 2) for v in s.best_fixed(389, key)[0].tolist()]
    [0.0, 0.4, 0.39, 0.0, 0.21, 0.0]
    """

    dim: ClassVar[int] = len(ASSETS)
    apart: int = 12

    def __post_init__(self) -> None:
        whole(self, "apart", low=0, high=120)

    def length(self, agents: int) -> int:
        """Until the agent that is farthest ahead reaches the last month."""
        return len(relatives()) - self.apart * (agents - 1)

    def batch(self, t: Tensor, key: Key) -> Tensor:
        """r_{i,t}, float64 [K, 1, n, d]."""
        month = t + self.apart * key.agents.reshape(1, 1, -1, 1)
        if int(month.max()) >= len(relatives()):
            raise InputError(
                f"portfolio: apart={self.apart}: the prices end before round {int(t.max())} of the last agent"
            )
        return relatives()[month.squeeze(-1)]

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        growth = (b * x).sum(-1)
        inner = growth.clamp(min=FLOOR)
        return -torch.log(inner) - (growth - inner) / FLOOR

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        return -b / (b * x).sum(-1, keepdim=True).clamp(min=FLOOR)

    def project(self, x: Tensor) -> Tensor:
        """The nearest points of the simplex."""
        return nearest("simplex", 1.0, x)

    def lmo(self, s: Tensor) -> Tensor:
        """All wealth in the asset with the least s_k."""
        return least("simplex", 1.0, s)

    def start(self, key: Key) -> Tensor:
        return torch.full((1, 1, self.dim), 1 / self.dim, dtype=torch.float64)

    def optimum(self, b: Tensor) -> Tensor:
        start = torch.full((1, 1, self.dim), 1 / self.dim, dtype=torch.float64)
        return _constrained.each_round(self, b, _constrained.onto(self.project), None, start)

    def best_fixed(self, rounds: int, key: Key) -> Tensor:
        start = torch.full((self.dim,), 1 / self.dim, dtype=torch.float64)
        return _constrained.whole_run(self, rounds, key, _constrained.onto(self.project), start)
