"""Why the ADMM family may keep sums over its links: they are the links one by one while both ends know what arrived, and not beyond."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import distopt
from distopt.algorithms.lt_admm import LTADMM
from distopt.network.net import Rehearsal

N, D, ROUNDS, LR, LOCAL = 6, 2, 400, 0.05, 3
draw = np.random.default_rng(8)
CURVATURE, CENTRE = draw.uniform(0.5, 1.5, (N, D)), draw.normal(0, 2, (N, D))
BEST = (CURVATURE * CENTRE).sum(0) / CURVATURE.sum(0)
LINKS = [*((i, (i + 1) % N) for i in range(N)), (0, 3)]
FAR = {"agents": 8, "scenario": "quadratic:kappa=2", "rounds": 1500}
METHODS = ("lt_admm:lr=0.03,local=3", "admm:lr=0.05,rho=2.0,local=3", "dlm:lr=0.1,rho=2.0", "atg:lr=0.1")


def network(there: np.ndarray) -> np.ndarray:
    """W where links of weight 1/4 are there or not; the self weight is the rest."""
    w = np.zeros((N, N))
    for (i, j), up in zip(LINKS, there, strict=True):
        w[i, j] = w[j, i] = 0.25 * up
    return w + np.diag(1 - w.sum(1))


def one_by_one(failed: float, lost: float) -> np.ndarray:
    """LT-ADMM with a variable at each end of each link. Links fail in both directions, which both ends know, or messages are lost one way.

    The variables of a failed link go on with the weight 0. That of a lost message waits.
    """
    rng, x = np.random.default_rng(9), np.zeros((N, D))
    pairs = [*((i, j) for a, b in LINKS for i, j in ((a, b), (b, a))), *((i, i) for i in range(N))]
    z, path = {pair: np.zeros(D) for pair in pairs}, [x]
    for _ in range(ROUNDS):
        w, gone = network(rng.random(len(LINKS)) >= failed), rng.random((N, N)) < lost
        r = np.array([x[i] - sum(z[i, j] for j in range(N) if (i, j) in z) for i in range(N)])
        for _ in range(LOCAL):
            x = x - LR * CURVATURE * (x - CENTRE) - r / LOCAL
        told = {(i, j): z[j, i] - 2 * w[i, j] * x[j] for i, j in pairs if i == j or not gone[i, j]}
        z = {pair: 0.5 * old - 0.5 * told[pair] if pair in told else old for pair, old in z.items()}
        path.append(x)
    return np.array(path)


def by_sums(failed: float, lost: float) -> np.ndarray:
    """The same by the algorithm; a receiver puts its own value in the place of a lost message, as in the simulator."""
    rng, x = np.random.default_rng(9), torch.zeros(1, N, D, dtype=torch.float64)
    algorithm, a, c = LTADMM(LR, LOCAL), torch.from_numpy(CURVATURE), torch.from_numpy(CENTRE)
    state, path = algorithm.init(x), [x]
    for t in range(ROUNDS):
        w, gone = network(rng.random(len(LINKS)) >= failed), rng.random((N, N)) < lost
        w = np.where(gone & ~np.eye(N, dtype=bool), 0.0, w)
        matrix = torch.from_numpy(w + np.diag(1 - w.sum(1)))

        def grad(y: Any) -> Any:
            return a * (y - c)

        x, state = algorithm.update(grad(x), state, x, Rehearsal(lambda _, y, w=matrix: w @ y, x, t, grad))
        path.append(x)
    return torch.cat(path).numpy()


def test_sums_are_the_links_one_by_one_where_links_fail_in_both_directions() -> None:
    wanted, found = one_by_one(0.4, 0.0), by_sums(0.4, 0.0)
    assert np.abs(found - wanted).max() < 1e-12
    assert np.abs(found[-1] - BEST).max() < 1e-9 < np.abs(found[20] - BEST).max()


def test_variables_of_single_links_can_wait_for_lost_messages_and_sums_cannot() -> None:
    assert np.abs(one_by_one(0.0, 0.3)[-1] - BEST).max() < 1e-9
    assert np.abs(by_sums(0.0, 0.3)[-1] - BEST).max() > 1e-2


@pytest.mark.parametrize("algorithm", METHODS)
@pytest.mark.parametrize("ask", [{"drop_links": 0.3}, {"sleep": 0.3}, {"drop_messages": 0.3}], ids=str)
def test_who_stays_exact_and_who_is_warned_of(algorithm: str, ask: dict[str, float]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = distopt.simulate("erdos_renyi", algorithm=algorithm, **FAR, **ask)
    last = run["tracking_error"][0, -1]
    if "drop_messages" in ask:
        (line,) = (str(each.message) for each in told)
        assert last > 0.1 and line.startswith(
            f"{algorithm.partition(':')[0]} does not end at the optimum with drop_messages"
        )
    else:
        assert last < 1e-10 and not told
