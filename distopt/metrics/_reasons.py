"""Reasons why a run lacks some metrics, shared by several metrics."""

from distopt import metrics

NO_COMPARATOR = "the minimisers of the scenario are unknown (comparator = False)"
AWAY = "agents leave and join (churn), so an agent has no point in rounds in which it is away"
NO_FIXED_POINT = "no best fixed point could be certified (the costs are not smooth, or their sum has no minimiser)"


def too_large(agents: int, dim: int) -> str:
    """The cost of the agent-wise regrets, and how to enable them."""
    return (
        f"it evaluates {agents}^2 costs of {dim} coordinates a round, over the limit of {metrics.AGENTWISE_LIMIT:,}; "
        "ask with agentwise=True"
    )
