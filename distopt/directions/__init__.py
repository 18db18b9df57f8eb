"""Local rules that turn a (tracked) gradient into a step direction, one file each, found by file name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from distopt.protocols import Direction, Mix

_asks: dict[type, bool] = {}


def direct(rule: Direction[Any], s: Tensor, state: Any, mix: Mix) -> tuple[Tensor, Any]:
    """(d_t, the rule's state) from s_t [..., n, d]. A rule whose ``__call__`` takes a third parameter is given the round too.

    >>> import torch
    >>> from distopt.directions import direct
    >>> from distopt.directions.sgd import SGD
    >>> direct(SGD(), torch.tensor([[2.5]]), (), None)[0].item()
    2.5
    """
    kind = type(rule)
    if kind not in _asks:
        _asks[kind] = _takes_round(rule)
    if not _asks[kind]:
        return rule(s, state)
    asking: Callable[[Tensor, Any, Mix], tuple[Tensor, Any]] = rule  # type: ignore[assignment]  # asked for above: it takes three
    return asking(s, state, mix)


def _takes_round(rule: Any) -> bool:
    parameters = inspect.signature(rule).parameters.values()
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters) > 2
