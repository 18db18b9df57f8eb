"""What agents follow, apart from the costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distopt.optional import AlgorithmDefaults, completed
from distopt.protocols import Channel
from distopt.simulation.plan import Plan


@dataclass(frozen=True)
class Method:
    """What agents follow, apart from the costs: an algorithm, and the channels of what it sends.

    Attributes:
        algorithm: see ``distopt.protocols.Algorithm``.
        channels: the channel of each name that it sends.
        agents: N, of the whole network.
        plan: what a round asks for.
        sleep: probability that an agent sleeps in a round.

    >>> import torch
    >>> from distopt.algorithms.gt import GT
    >>> from distopt.channels.exact import Exact
    >>> method = Method.of(GT(), {"x": Exact(), "s": Exact()}, 4, torch.zeros(1, 2, 5))
    >>> method.plan.widths, method.plan.gradients
    ({'s': 5, 'x': 5}, 1)
    """

    algorithm: Any
    channels: Mapping[str, Channel[Any]]
    agents: int
    plan: Plan
    sleep: float = 0.0

    @classmethod
    def of(cls, algorithm: Any, channels: Mapping[str, Channel[Any]], agents: int, x: Tensor) -> Method:
        """The method of agents that begin at points like x [R, n, d]. Found by one round without costs.

        Raises:
            InputError: a value that the algorithm sends is not [R, n, *].
        """
        algorithm = completed(AlgorithmDefaults, algorithm)
        return cls(algorithm, channels, agents, Plan.of(algorithm, channels, x))
