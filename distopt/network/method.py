"""What agents follow, apart from the costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distopt.network.net import tried, widths
from distopt.numerics.trees import default_dtype
from distopt.protocols import Channel


@dataclass(frozen=True)
class Method:
    """What agents follow, apart from the costs: an algorithm, and the channels of what it sends.

    Attributes:
        algorithm: see ``distopt.protocols.Algorithm``.
        channels: the channel of each name that it sends.
        agents: N, of the whole network.
        widths: how many numbers an agent sends through each channel (see ``distopt.network.net.widths``).
        gradients: how many an agent takes in a round.

    >>> import torch
    >>> from distopt.algorithms.gt import GT
    >>> from distopt.channels.exact import Exact
    >>> method = Method.of(GT(), {"x": Exact(), "s": Exact()}, 4, torch.zeros(1, 2, 5))
    >>> method.widths, method.gradients
    ({'s': 5, 'x': 5}, 1)
    """

    algorithm: Any
    channels: Mapping[str, Channel[Any]]
    agents: int
    widths: Mapping[str, int]
    gradients: int = 1

    @classmethod
    def of(cls, algorithm: Any, channels: Mapping[str, Channel[Any]], agents: int, x: Tensor) -> Method:
        """The method of agents that begin at points like x [R, n, d]. Found by one round without costs.

        Raises:
            InputError: a value that the algorithm sends is not [R, n, *].
        """
        with default_dtype(x.dtype):
            asked = tried(algorithm, x)
        return cls(algorithm, channels, agents, widths(asked, channels, x.shape[-1]), asked.gradients)
