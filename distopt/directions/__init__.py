"""Local rules that turn a (tracked) gradient into a step direction, one file each, found by file name."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from distopt.directions._round import DirectedRound
from distopt.protocols import Direction, Mix

_asks: dict[type, bool] = {}


def direct(
    rule: Direction[Any], s: Tensor, state: Any, mix: Mix, lr: Any, x: Tensor | None = None
) -> tuple[Tensor, Any]:
    """(d_t, the rule's state) from s_t [..., n, d]. The algorithm will move by ``lr`` d_t, from x or, without it, from ``mix.x``.

    A rule whose ``__call__`` has a third parameter receives all of this.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.sgd import SGD
    >>> direct(SGD(), torch.tensor([[2.5]]), (), None, lr=0.1)[0].item()
    2.5
    """
    kind = type(rule)
    if kind not in _asks:
        _asks[kind] = _takes_round(rule)
    return rule(s, state, DirectedRound(mix, lr, x)) if _asks[kind] else rule(s, state)


def _takes_round(rule: Any) -> bool:
    parameters = inspect.signature(rule).parameters.values()
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters) > 2
