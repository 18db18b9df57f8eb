"""Dynamic regret and its companions: plain functions on the snapshots of a block of rounds. Formulas: docs/metrics.md.

Everything is float64. F_t = sum_i f_{i,t}; xbar_t is the network average; x*_t minimises F_t.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distopt.data import evaluate

AGENTWISE_LIMIT = 10**6
"""Agent-wise regrets evaluate N^2 costs of d coordinates a round: by default they are kept while N^2 d is at most this."""


def observed(scenario: Any) -> tuple[str, ...]:
    """What ``observe`` measures, in its order."""
    return ("cost", "tracking_error", "consensus_error", *(("accuracy",) if hasattr(scenario, "accuracy") else ()))


def observe(scenario: Any, x: Tensor, data: Any, best: Tensor) -> Tensor:
    """What is measured at the points of one round: x [R, N, d], its data and x*_t [R|1, d], all float64 -> [R, len(observed)].

    One round or many folded into the trials axis, eager or inside the compiled loop: this is the only place that measures.
    """
    mean, agents = x.mean(-2, keepdim=True), x.shape[-2]
    values = [
        scenario.loss(mean.expand_as(x), data).sum(-1),
        ((x - best.unsqueeze(-2)).square().flatten(-2).sum(-1) / agents).sqrt(),  # one flat sum: row sums first would not vectorise
        ((x - mean).square().flatten(-2).sum(-1) / agents).sqrt(),
    ]
    if hasattr(scenario, "accuracy"):
        values.append(scenario.accuracy(mean.expand_as(x), data).nanmean(-1))
    return torch.stack([value.expand(x.shape[0]) for value in values], -1)


def agentwise_costs(scenario: Any, xs: Tensor, batch: Any) -> Tensor:
    """F_t at every agent's own point: xs [K, R, N, d] -> [K, R, N]."""
    agents = xs.shape[2]
    return torch.stack([evaluate(scenario.loss, xs[:, :, j : j + 1].expand_as(xs), batch).sum(-1) for j in range(agents)], -1)


def tracker_invariant(s: Tensor, g: Tensor) -> Tensor:
    """Largest |mean_i s_i - mean_i g_i| over coordinates: [..., N, d] -> [...]."""
    return (s.double().mean(-2) - g.double().mean(-2)).abs().amax(-1)


def accumulate(total: Tensor | None, increments: Tensor) -> Tensor:
    """Running sums [K, ...] continued from ``total`` [...], added one round after the other whatever the block length."""
    start = torch.zeros_like(increments[:1]) if total is None else total[None]
    return torch.cat([start, increments]).cumsum(0)[1:]


