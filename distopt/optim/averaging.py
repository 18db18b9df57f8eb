"""The mean of the agents: what is evaluated, and how far the agents are from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import update_bn

from distopt.errors import InputError
from distopt.numerics.trees import leaf
from distopt.optim.bucket import Bucket
from distopt.optim.ranks import Ranks


def means(buckets: Sequence[Bucket], ranks: Ranks) -> list[Tensor]:
    """The mean over the agents of each bucket's parameters as they are now, in the precision of its row. Summed in float64."""
    ranks.meet("averaging")
    found = []
    for bucket in buckets:
        total = bucket.answer().double()
        ranks.sum([total])
        found.append((total / ranks.size).to(bucket.dtype))
    return found


@contextmanager
def averaged(
    buckets: Sequence[Bucket], ranks: Ranks, model: torch.nn.Module, data: Iterable[Any] | None = None
) -> Iterator[torch.nn.Module]:
    """The model with the mean of all agents' parameters and buffers.

    Floating buffers are averaged. The variance of a BatchNorm layer becomes that of all agents' data together: the mean of var + mean^2, less
    the square of the mean's mean. Counters become the largest, other buffers stay. With ``data``, batches of inputs,
    ``torch.optim.swa_utils.update_bn`` computes the statistics of BatchNorm layers again.

    Raises:
        InputError: the model has none of the optimiser's parameters.
    """
    own = {id(each) for bucket in buckets for each in bucket.params}
    if own.isdisjoint(id(each) for each in model.parameters()):
        raise InputError(
            "the model has none of the optimiser's parameters; give averaged() the model that the optimiser trains"
        )
    mean = means(buckets, ranks)
    kept = [(each, each.detach().clone()) for bucket in buckets for each in bucket.params]
    kept += [(each, each.clone()) for each in model.buffers()]
    for bucket in buckets:
        bucket.lent += 1
    try:
        with torch.no_grad():
            for bucket, row in zip(buckets, mean, strict=True):
                torch._foreach_copy_(bucket.params, bucket.parted(row))
            _average_buffers(model, ranks)
        if data is not None:
            _update_statistics(model, data)
        yield model
    finally:
        for bucket in buckets:
            bucket.lent -= 1
        with torch.no_grad():
            for each, before in kept:
                each.copy_(before)


def _update_statistics(model: torch.nn.Module, data: Iterable[Any]) -> None:
    """Compute the statistics of BatchNorm layers again. torch leaves all layers in one mode, and after an error without momentum."""
    kept = [(each, each.training, getattr(each, "momentum", None)) for each in model.modules()]
    try:
        update_bn(data, model)
    finally:
        for each, training, momentum in kept:
            each.training = training
            if hasattr(each, "momentum"):
                each.momentum = momentum  # type: ignore[assignment]  # torch declares modules' attributes as tensors or modules


def _average_buffers(model: torch.nn.Module, ranks: Ranks) -> None:
    """Put the agents' buffers together."""
    form = [(name, [list(each.shape), str(each.dtype)]) for name, each in model.named_buffers()]
    ranks.same("averaging the buffers", form)
    variances = {
        id(layer.running_var): layer.running_mean
        for layer in model.modules()
        if isinstance(layer, _NormBase) and layer.running_var is not None and layer.running_mean is not None
    }
    means = {id(each): each.double() for each in model.buffers() if each.is_floating_point()}
    squares = {place: means[id(mean)].square() for place, mean in variances.items()}
    wholes = [each for each in model.buffers() if each.dtype == torch.int64]
    for each in model.buffers():
        if each.is_floating_point():
            total = means[id(each)] + squares[id(each)] if id(each) in squares else means[id(each)].clone()
            ranks.sum([total])
            means[id(each)] = total / ranks.size
    for place, mean in variances.items():
        means[place] = (means[place] - means[id(mean)].square()).clamp(min=0)
    for each in model.buffers():
        if each.is_floating_point():
            each.copy_(means[id(each)])
    counts = [each.cpu().reshape(-1).clone() for each in wholes]
    # Also where there are none: after a meeting that no message follows, rank 0 may end, and its store with it, while others still read there.
    ranks.largest(counts or [torch.zeros(1, dtype=torch.int64)])
    for each, count in zip(wholes, counts, strict=True):
        each.copy_(count.reshape(each.shape))


def consensus_error(buckets: Sequence[Bucket], ranks: Ranks) -> float:
    """See ``Decentralized.consensus_error``."""
    total = torch.zeros(1, dtype=torch.float64)
    for bucket, mean in zip(buckets, means(buckets, ranks), strict=True):
        total += (bucket.answer().double() - mean.double()).square().sum().cpu()
    ranks.sum([total])
    return math.sqrt(float(total) / ranks.size)


def tracker_violation(buckets: Sequence[Bucket], ranks: Ranks, algorithm: Any) -> float:
    """See ``Decentralized.tracker_violation``."""
    if algorithm.tracks is None:
        raise InputError(f"{type(algorithm).__name__.lower()} has no tracker")
    ranks.meet("the trackers' sum")
    worst = 0.0
    for bucket in buckets:
        total = leaf(bucket.held.state, algorithm.tracks).double() - bucket.gradient.double()
        ranks.sum([total])
        worst = max(worst, float(total.abs().max()) / ranks.size)
    return worst
