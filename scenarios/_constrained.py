"""Minimisers of sums of convex costs over a set, or of costs with a part that has no gradient, by accelerated proximal gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.numerics.random import Key

MOST = 5000
"""Steps of a search."""

ROUNDING = 1e-10
PATIENCE, LONG_PATIENCE = 100, 1000
"""Steps without a step that is a tenth shorter, after which a search ends: where steps are as short as ``ROUNDING``, and before that."""

KEPT_BYTES = 2**28
"""The largest data of a whole run that are kept during the search of the best fixed point; larger data are made again in each step."""

AT_ONCE = 2**10
"""Rounds whose data are made together."""

Gradient = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Tensor], Tensor]
"""Where a step of size lr [P, 1, 1] that has led to y [P, 1, d] ends: at the nearest allowed point, or the proximal one."""


def tensors(batch: Any) -> list[Tensor]:
    """The leaves of a batch that are tensors."""
    return [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]


def sizes(batch: Any) -> tuple[int, int, int]:
    """Rounds, trials and agents of a batch, each 1 where no leaf has more."""
    leaves = tensors(batch)
    return max(len(x) for x in leaves), max(x.shape[1] for x in leaves), max(x.shape[2] for x in leaves)


def onto(project: Gradient) -> Step:
    """The step to the nearest allowed points, which no step size changes."""
    return lambda y, lr: project(y)


def folded(batch: Any) -> Any:
    """A batch [K|1, R|1, n|1, ...] as that of one round with K R trials."""
    rounds, trials, _ = sizes(batch)

    def fold(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.shape[0] == leaf.shape[1] == 1:
            return leaf[0]
        return leaf.expand(rounds, trials, *leaf.shape[2:]).reshape(rounds * trials, *leaf.shape[2:])

    return pytree.tree_map(fold, batch)


def summed(scenario: Any, data: Any, agents: int, x: Tensor) -> Tensor:
    """sum_i grad f_i [P, d] at x [P, d], of P problems that are folded into the trials axis."""
    points = x.unsqueeze(1).expand(len(x), agents, x.shape[-1]).contiguous()
    g: Tensor = scenario.grad(points, data).sum(1)
    return g


def each_round(scenario: Any, batch: Any, step: Step, smooth: Tensor | None, start: Tensor) -> Tensor:
    """The minimisers [K, R, d] of the rounds of a batch, from ``start`` [K|1, R|1, d]; ``smooth`` [K|1, R|1] are Lipschitz constants."""
    rounds, trials, agents = sizes(batch)
    data, d = folded(batch), start.shape[-1]
    x = start.expand(rounds, trials, d).reshape(-1, d)
    constant = None if smooth is None else smooth.expand(rounds, trials).reshape(-1)
    return minimised(lambda y: summed(scenario, data, agents, y), step, x, constant).reshape(rounds, trials, d)


def whole_run(scenario: Any, rounds: int, key: Key, step: Step, start: Tensor) -> Tensor:
    """The minimiser [R|1, d] of the sum of all costs of so many rounds, from ``start`` [d]."""
    spans = [range(t, min(t + AT_ONCE, rounds)) for t in range(0, rounds, AT_ONCE)]

    def made(span: range) -> tuple[Any, int, int]:
        batch = scenario.batch(torch.arange(span.start, span.stop).reshape(-1, 1, 1, 1), key)
        count, trials, agents = sizes(batch)
        return folded(batch), trials, agents * (len(span) // count)

    first, trials, _ = made(spans[0])
    small = len(spans) * sum(x.numel() * x.element_size() for x in tensors(first)) <= KEPT_BYTES
    kept = [made(span) for span in spans] if small else []

    def pieces() -> Iterator[tuple[Any, int, int]]:
        return iter(kept) if small else map(made, spans)

    def gradient(y: Tensor) -> Tensor:
        total = torch.zeros_like(y)
        for data, _, agents in pieces():
            count = max(len(x) for x in tensors(data)) // trials  # rounds of which the data differ
            points = y.expand(count, *y.shape).reshape(-1, y.shape[-1])
            total = total + summed(scenario, data, agents, points).reshape(count, *y.shape).sum(0)
        return total

    return minimised(gradient, step, start.expand(trials, -1).clone(), None)


def minimised(gradient: Gradient, prox: Step, x: Tensor, smooth: Tensor | None) -> Tensor:
    """The minimisers [P, d] of P convex costs, from x: FISTA [beck2009] that starts again where its momentum leads up [odonoghue2015].

    ``smooth`` [P] are Lipschitz constants of the gradients; without them they are found by doubling. A constant that is too small for
    the observed gradients is doubled, too.
    """

    def step(z: Tensor, lr: Tensor) -> Tensor:
        return prox(z.unsqueeze(1), lr.unsqueeze(1)).squeeze(1)

    x = step(x, torch.zeros(len(x), 1, dtype=x.dtype))
    y, g, momentum = x, gradient(x), torch.ones(len(x), 1, dtype=x.dtype)
    lowest = 1e-3 * g.norm(dim=-1, keepdim=True) / (1 + x.norm(dim=-1, keepdim=True)) + 1e-300
    constant = lowest if smooth is None else torch.maximum(smooth.unsqueeze(-1).to(x.dtype), lowest)
    best, since = torch.full_like(lowest, torch.inf), 0
    for _ in range(MOST):
        while True:
            moved = step(y - g / constant, 1 / constant)
            way = moved - y
            ahead = gradient(moved)
            bend, size = ((ahead - g) * way).sum(-1, keepdim=True), way.square().sum(-1, keepdim=True)
            steep = bend > (constant * size) * (1 + 1e-9) + 1e-13 * g.norm(dim=-1, keepdim=True) * size.sqrt()
            if not bool(steep.any()):
                break
            constant = torch.where(steep, 2 * constant, constant)
        # the step starts at the point itself, not at the momentum's point, to measure its distance from optimality
        left = (moved - step(moved - ahead / constant, 1 / constant)).norm(dim=-1, keepdim=True)
        left = left / (1 + moved.norm(dim=-1, keepdim=True))
        since = 0 if bool((left < 0.9 * best).any()) else since + 1
        best = torch.minimum(best, left)
        if bool((left <= 1e-15).all()) or since >= (PATIENCE if bool((best <= ROUNDING).all()) else LONG_PATIENCE):
            return moved
        again = ((y - moved) * (moved - x)).sum(-1, keepdim=True) > 0
        later = torch.where(again, 1.0, (1 + (1 + 4 * momentum * momentum).sqrt()) / 2)
        y = moved + torch.where(again, 0.0, (momentum - 1) / later) * (moved - x)
        x, momentum, g = moved, later, gradient(y)
    return x
