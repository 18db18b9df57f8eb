"""Dynamic regret and its companions: plain functions on the snapshots of a block of rounds. Formulas: docs/metrics.md.

Everything is float64. F_t = sum_i f_{i,t}; xbar_t is the network average; x*_t minimises F_t. Sums over agents follow the
tree of ``distopt.numerics.sums``, so that they have the same bits whichever block holds which agents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distopt.costs.data import evaluate
from distopt.numerics.sums import tree_sum

AGENTWISE_LIMIT = 10**6
"""Agent-wise regrets evaluate N^2 costs of d coordinates a round: by default they are kept while N^2 d is at most this."""


NARROW = 64
"""Rows of at most this many coordinates are summed over agents first, in one vectorised pass: sums of short rows are slow. Either code
rounds alike. Longer rows are summed over coordinates first, so that workers send one number for each."""


def per_agent(scenario: Any, x: Tensor, mean: Tensor, data: Any, best: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each agent's terms of the network's measurements, [R, n, *] each: |x_i - x*|^2, |x_i - xbar|^2, and its values at xbar.

    For x [R, n, d], the network average xbar [R, 1, d], the agents' data and x*_t [R|1, d], all float64. Squares are left by
    coordinate where d is small (see ``NARROW``). The values [R, n, q] are f_i(xbar) and, of a classification, the accuracy (0 where
    no sample arrived) and whether any did. One round or many folded into the trials axis, eager or inside a compiled loop, for any
    block of agents: this is the only place that measures.
    """
    values = [scenario.loss(mean.expand_as(x), data)]
    if hasattr(scenario, "accuracy"):
        accuracy = scenario.accuracy(mean.expand_as(x), data)
        values += [accuracy.nan_to_num(nan=0.0), (~accuracy.isnan()).to(x.dtype)]
    return (
        _squares(x - best.unsqueeze(-2)),
        _squares(x - mean),
        torch.stack([value.expand(x.shape[:-1]) for value in values], -1),
    )


def _squares(z: Tensor) -> Tensor:
    return z.square() if z.shape[-1] <= NARROW else z.square().sum(-1, keepdim=True)


def summed(terms: tuple[Tensor, ...], add: Callable[[Tensor], Tensor]) -> Tensor:
    """Sums over agents of ``per_agent`` side by side [R, m, c]: over all of them (``add`` is ``tree_sum``, m = 1) or node by node."""
    return torch.cat([add(each) for each in terms], -1)


def totals(scenario: Any, sums: Tensor, agents: int) -> dict[str, Tensor]:
    """The sums over all agents [K, R, 1, c] as measurements, name -> [K, R].

    Roots are NumPy's, which are correctly rounded; torch's own are not, unless compiled.
    """
    count = 3 if hasattr(scenario, "accuracy") else 1
    width = (sums.shape[-1] - count) // 2
    squares = (sums[..., :width], sums[..., width : 2 * width])
    cost, *accuracy = sums[..., 0, 2 * width :].unbind(-1)
    tracking, consensus = (
        torch.from_numpy(np.sqrt((tree_sum(each.mT)[..., 0, 0] / agents).cpu().numpy())) for each in squares
    )
    found = {"cost": cost, "tracking_error": tracking, "consensus_error": consensus}
    return found | ({"accuracy": accuracy[0] / accuracy[1]} if accuracy else {})  # 0 / 0 is nan: nobody had a sample


def sums(scenario: Any, x: Tensor, data: Any, best: Tensor) -> Tensor:
    """The sums of ``per_agent`` [R, 1, c] of a round where one block holds all agents, for ``totals``."""
    return summed(per_agent(scenario, x, tree_sum(x) / x.shape[-2], data, best), tree_sum)


def agentwise_costs(scenario: Any, xs: Tensor, batch: Any) -> Tensor:
    """F_t at every agent's own point: xs [K, R, N, d] -> [K, R, N]."""
    costs = [evaluate(scenario.loss, xs[:, :, j : j + 1].expand_as(xs), batch) for j in range(xs.shape[2])]
    return torch.cat([tree_sum(each.unsqueeze(-1)).squeeze(-1) for each in costs], -1)


def tracker_violation(s: Tensor, g: Tensor) -> Tensor:
    """s_i - g_i in float64, [..., n, d]: its sum over all agents is zero while the tracker tracks."""
    return s.double() - g.double()


def tracker_invariant(total: Tensor, agents: int) -> Tensor:
    """Largest |mean_i s_i - mean_i g_i| over coordinates, from the sum of ``tracker_violation`` [..., 1, d]: [...]."""
    return total.abs().amax((-2, -1)) / agents


def accumulate(total: Tensor | None, increments: Tensor) -> Tensor:
    """Running sums [K, ...] continued from ``total`` [...], added one round after the other whatever the block length."""
    start = torch.zeros_like(increments[:1]) if total is None else total[None]
    return torch.cat([start, increments]).cumsum(0)[1:]
