"""The random numbers of a round: uniforms of the channels and the algorithm, the coin, and which agents sleep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distopt.network.churn import JOIN, Handover
from distopt.network.faults import SLEEP
from distopt.numerics.random import Key

Uniforms = dict[str, Tensor]
"""The uniforms that channels draw, by channel: [K, R, n, words], or one round's slice of them. The algorithm's own are under ``OWN``."""

OWN = "mix.uniform"
"""The entry of ``Uniforms``, and of ``widths``, for what the algorithm itself draws."""

COIN = "mix.coin"
"""The entry for the network's coin, one number for all agents of a trial [K, R, 1, 1] (see ``AlgorithmDefaults.coin``)."""


def uniforms(channels: Mapping[str, Any], key: Key, widths: Mapping[str, int], t: Tensor) -> Uniforms:
    """The uniforms of rounds ``t`` [K, 1, 1, 1] for the agents and trials of ``key``: {channel: [K, R, n|1, words]}.

    A channel draws as many numbers as its width in ``widths`` needs, and the algorithm as many as ``widths[OWN]`` says.
    ``COIN`` is one number. ``SLEEP`` decides whether an agent sleeps, if agents do. With churn, ``JOIN`` holds which
    agents are present (``Churn.told``).
    """
    drawn: Uniforms = {OWN: key.uniform("uniform", widths[OWN], t)} if OWN in widths else {}
    if COIN in widths:
        drawn[COIN] = key.shared.uniform("coin", 1, t)
    if SLEEP in widths:
        drawn[SLEEP] = key.uniform(SLEEP, widths[SLEEP], t)
    if isinstance(joining := channels.get(JOIN), Handover):
        drawn[JOIN] = joining.churn.told(t, key)
    for name, channel in channels.items():
        words = channel.words(widths[name]) if name in widths else 0
        if words:
            drawn[name] = (key.shared if channel.shared else key).uniform(f"channel/{name}", words, t)
    return drawn


def falls(u: Tensor, probability: Any, dtype: torch.dtype) -> Tensor:
    """Where a coin falls on True, from its uniforms u. The probability is a number, or a number of a grid.

    The difference is taken in the precision of a run, so that a grid and its points alone have the same coins.

    >>> falls(torch.tensor([0.2, 0.4]), 0.3, torch.float32).tolist()
    [True, False]
    """
    found: Tensor = u.to(dtype) - probability < 0
    return found
