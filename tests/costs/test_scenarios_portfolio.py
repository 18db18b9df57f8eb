"""Portfolios of real prices against a loop over the file, and the best constantly rebalanced one against others."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

import distopt
from distopt.checks.scenarios import check_scenario
from distopt.costs.comparator import Comparator
from distopt.costs.data import Blocks
from distopt.numerics.random import Key
from distopt.scenarios.portfolio import ASSETS, FLOOR, Portfolio, relatives


def test_relatives_are_those_of_the_file() -> None:
    lines = (Path(mpl.get_data_path()) / "sample_data" / "Stocks.csv").read_text().splitlines()[1:]
    prices = [row for row in csv.DictReader(lines) if row["Date"][8:] == "01"]
    found = relatives().numpy()
    assert len(found) == len(prices) - 1 == 389 and found.min() > 4 * FLOOR
    for t in (0, 100, 388):
        wanted = [float(prices[t + 1][name]) / float(prices[t][name]) for name in ASSETS]
        np.testing.assert_allclose(found[t], wanted, rtol=1e-15)


def test_agents_are_months_apart() -> None:
    b = Portfolio(apart=5).batch(torch.tensor([0, 7]).reshape(2, 1, 1, 1), Key(0, [0, 2], range(1), 3))
    assert b.shape == (2, 1, 2, len(ASSETS))
    assert torch.equal(b[1, 0, 1], relatives()[17]) and torch.equal(b[0, 0, 0], relatives()[0])
    assert Portfolio(apart=5).length(3) == 379


def test_promises_of_scenarios_hold() -> None:
    check_scenario(Portfolio())


def test_the_best_rebalanced_portfolio_is_better_than_others() -> None:
    scenario, key = Portfolio(apart=0), Key(0, range(1), range(1), 1)
    best, r = scenario.best_fixed(389, key)[0].numpy(), relatives().numpy()
    assert abs(best.sum() - 1) < 1e-12 and best.min() >= 0
    others = np.random.default_rng(0).dirichlet(0.3 * np.ones(len(ASSETS)), 2000)
    assert np.log(r @ best).sum() > np.log(r @ others.T).sum(0).max()
    slope = (r / (r @ best)[:, None]).sum(0)  # at the best point no asset has more than those that are held
    assert slope.max() - slope @ best < 1e-6
    comparator = Comparator(Blocks(scenario, key, 389))
    assert comparator.fixed() is not None and float(comparator.reference(0).residual.max()) < 1e-9


def test_the_wealth_of_a_run_is_that_of_its_points() -> None:
    run = distopt.simulate(
        "path",
        agents=1,
        scenario="portfolio:apart=0",
        algorithm="domd:geometry=entropy,lr=0.05",
        record="x",
        mode="eager",
    )
    x, r = run["x"][0, :-1, 0], relatives().numpy()
    assert len(x) == 389 and x.min() > 0
    best = Portfolio(apart=0).best_fixed(389, Key(0, range(1), range(1), 1))[0].numpy()
    regret = np.log(r @ best).sum() - np.log((r * x).sum(-1)).sum()
    np.testing.assert_allclose(run["static_regret"][0, -1], regret, rtol=1e-9)
