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

CUMULATIVE = ("dynamic_regret", "dynamic_regret_worst", "dynamic_regret_agents", "static_regret")

DESCRIPTIONS = {
    "dynamic_regret": "sum over rounds of F_t at the network average minus F_t at its minimiser",
    "dynamic_regret_worst": "the same at each agent's own point: the worst agent",
    "dynamic_regret_agents": "the same at each agent's own point: the mean over agents",
    "static_regret": "sum over rounds of F_t at the network average minus F_t at the best fixed point",
    "tracking_error": "root mean square distance of the agents to the minimiser",
    "consensus_error": "root mean square distance of the agents to their average",
    "tracker_invariant": "largest |mean s - mean g| over coordinates",
    "path_length": "sum of the distances between successive minimisers",
    "gradient_variation": "sum of the largest change of a local gradient at the minimiser",
    "function_variation": "sum of the change of F at the minimiser",
    "bits": "bits each agent has broadcast",
    "regret_best_fixed": "dynamic regret of the best fixed point (a baseline)",
    "regret_no_change": "dynamic regret of the previous round's minimiser (a baseline)",
    "accuracy": "fraction of the newly arrived samples that the network average classifies correctly",
    "accuracy_best_fixed": "the same for the best fixed point (a baseline)",
    "accuracy_no_change": "the same for predicting each agent's previous label (a baseline)",
}


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


