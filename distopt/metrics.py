"""Dynamic regret and its companions: plain functions on the snapshots of a block of rounds. Formulas: docs/metrics.md.

Everything is float64. F_t = sum_i f_{i,t}; xbar_t is the network average; x*_t minimises F_t.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distopt.comparator import Reference
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


def total_cost(scenario: Any, points: Tensor, batch: Any, agents: int) -> Tensor:
    """F_t at one point per round and trial: points [K, R, d] -> [K, R]."""
    return evaluate(scenario.loss, points[:, :, None, :].expand(*points.shape[:2], agents, -1), batch).sum(-1)


def accuracy(scenario: Any, points: Tensor, batch: Any, agents: int) -> Tensor:
    """Accuracy of one model per round and trial on all agents' new samples: mean over the agents that have some, [K, R]."""
    return evaluate(scenario.accuracy, points[:, :, None, :].expand(*points.shape[:2], agents, -1), batch).nanmean(-1)


def regret_increments(scenario: Any, xs: Tensor, batch: Any, reference: Reference, fixed: Tensor, agentwise: bool) -> dict[str, Tensor]:
    """What a block of rounds adds to each regret: [K, R], and [K, R, N] for the agents' own.

    Args:
        xs: x_t before f_t is seen, float64 [K, R, N, d].
        batch, reference: the block's data and comparator.
        fixed: the best fixed point [R|1, d].
        agentwise: whether to evaluate the global cost at every agent's point.
    """
    rounds, trials, agents = xs.shape[:3]
    best = reference.cost.expand(rounds, trials)
    at_average = total_cost(scenario, xs.mean(2), batch, agents)
    at_fixed = total_cost(scenario, fixed.expand(rounds, *fixed.shape), batch, agents).expand(rounds, trials)
    out = {
        "dynamic_regret": at_average - best,
        "static_regret": at_average - at_fixed,
        "regret_best_fixed": at_fixed - best,
        "regret_no_change": reference.no_change.expand(rounds, trials),
        "path_length": reference.path.expand(rounds, trials),
        "gradient_variation": reference.gradient_variation.expand(rounds, trials),
        "function_variation": reference.function_variation.expand(rounds, trials),
    }
    if agentwise:
        out["agents"] = torch.stack([total_cost(scenario, xs[:, :, j], batch, agents) - best for j in range(agents)], -1)
    return out


def snapshots(scenario: Any, xs: Tensor, batch: Any, reference: Reference, fixed: Tensor) -> dict[str, Tensor]:
    """The metrics of a block that do not accumulate: each [K, R]."""
    rounds, trials, agents = xs.shape[:3]
    mean = xs.mean(2, keepdim=True)
    out = {
        "tracking_error": (xs - reference.x[:, :, None]).square().sum(-1).mean(-1).sqrt(),
        "consensus_error": (xs - mean).square().sum(-1).mean(-1).sqrt(),
    }
    if hasattr(scenario, "accuracy"):
        out["accuracy"] = accuracy(scenario, mean[:, :, 0], batch, agents)
        out["accuracy_best_fixed"] = accuracy(scenario, fixed.expand(rounds, *fixed.shape), batch, agents).expand(rounds, trials)
    if reference.persistence is not None:
        out["accuracy_no_change"] = reference.persistence.expand(rounds, trials)
    return out


def tracker_invariant(s: Tensor, g: Tensor) -> Tensor:
    """Largest |mean_i s_i - mean_i g_i| over coordinates: [..., N, d] -> [...]."""
    return (s.double().mean(-2) - g.double().mean(-2)).abs().amax(-1)


def accumulate(total: Tensor | None, increments: Tensor) -> Tensor:
    """Running sums [K, ...] continued from ``total`` [...], added one round after the other whatever the block length."""
    start = torch.zeros_like(increments[:1]) if total is None else total[None]
    return torch.cat([start, increments]).cumsum(0)[1:]


