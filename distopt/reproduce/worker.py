"""One worker that runs an algorithm of the house by itself, with a step size that may change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distopt.channels.exact import Exact
from distopt.network.graphs import graph_from_edges
from distopt.network.mixing import ConstantMixing
from distopt.network.net import Memory, Net, Whole
from distopt.numerics.trees import at


def _alone() -> Whole:
    """The link of a network of one: it hears itself, with weight 1."""
    network = ConstantMixing(graph_from_edges(1, []), "metropolis")
    return Whole((at(network.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64)), 0),))


class Step(NamedTuple):
    """What a step leaves: ``x`` after it, the memory ``e`` after it and the one ``before`` it (0 where there is none), the gradient ``g``
    that it took and the step size ``lr``; tensors [R, 1, d]."""

    x: Tensor
    e: Tensor
    before: Tensor
    g: Tensor
    lr: float


def steps(
    algorithm: Any,
    x: Tensor,
    grad: Callable[[Tensor, int], Tensor],
    lrs: Iterable[float],
    project: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Step]:
    """The steps of one worker from ``x`` [R, 1, d]: step t takes ``grad(x, t)`` and the t-th of ``lrs``, then ``project``.

    Where an algorithm sends its step, the step size is inside what is sent, so that memory keeps its size when it changes. Under a
    constant step size this is what ``distopt.simulate`` does with one agent.

    >>> import torch
    >>> from distopt.algorithms.ef_signsgd import ef_signsgd
    >>> path = steps(ef_signsgd(), torch.tensor([[[1.0, -2.0]]]), lambda x, t: x, [0.5] * 200)
    >>> bool(list(path)[-1].x.norm() < 1e-3)
    True
    """
    state, memory, link = algorithm.init(x), Memory(), _alone()
    channels = dict.fromkeys(algorithm.channels, getattr(algorithm, "channel", Exact()))
    e = x.new_zeros(1)
    for t, lr in enumerate(lrs):
        if lr != algorithm.lr:
            algorithm = replace(algorithm, lr=lr)
        net, g, before = Net(channels, link, memory, alone=True), grad(x, t), e
        x, state = algorithm.update(g, state, x, net.mix)
        x = x if project is None else project(x)
        memory = net.memory
        e = getattr(memory.get("step"), "e", e)
        yield Step(x, e, before, g, lr)
