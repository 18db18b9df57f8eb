"""What the ranks settle among themselves before they begin, and when one of them ends."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distopt.catalog.parts import label
from distopt.errors import InputError, RunError
from distopt.optim.bucket import Bucket
from distopt.optim.ranks import Ranks

PATIENCE = 10
"""Seconds that a rank which ends waits for its neighbours to take what it sent."""


def level() -> int:
    """The ``stacklevel`` of a warning that is given where this is called, so that it names the line of the training script."""
    frame, found = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("distopt", "torch"):
        frame, found = frame.f_back, found + 1
    return found


def called(maker: type, algorithm: Any) -> str:
    """The name of an algorithm that was given as an object: that of the optimiser that made it, or of its own class.

    >>> from distopt.optim import Decentralized, GTAdam
    >>> called(GTAdam, 1.5), called(Decentralized, 1.5)
    ('GTAdam', 'float')
    """
    return label(algorithm) if maker.__name__ == "Decentralized" else maker.__name__


def same_parameters(names: Sequence[str], params: Sequence[Tensor], ranks: Ranks, numbers: Mapping[str, float]) -> None:
    """See that all ranks train the same parameters by the same numbers, and give them the values of rank 0.

    Raises:
        InputError: a parameter that cannot be trained, one that is given twice, or the ranks have different ones.
    """
    if len({id(each) for each in params}) < len(params):
        raise InputError("a parameter is given twice; give each once, as model.parameters() does")
    form: list[tuple[str, Any]] = [
        (name, [list(each.shape), str(each.dtype), "trained" if each.requires_grad else "frozen"])
        for name, each in zip(names, params, strict=True)
    ]
    ranks.same("sharing the parameters", [*form, *numbers.items()])
    for name, each in zip(names, params, strict=True):
        if not each.is_floating_point() or each.layout is not torch.strided:
            raise InputError(
                f"{name} is {each.dtype} and {each.layout}; only dense parameters of real numbers can be trained"
            )
    with torch.no_grad():
        ranks.spread(params)


def same_round(buckets: Sequence[Bucket], ranks: Ranks, t: int, elsewhere: int | None) -> None:
    """See that all ranks are in round t. Those that were not there when it was saved begin at the mean of the others.

    ``elsewhere`` is how many ranks saved it, if they were others or had another network; else None.

    Raises:
        InputError: the ranks are in different rounds.
    """
    texts = [json.loads(each) for each in ranks.meet("the first step", json.dumps([t, elsewhere]))]
    for rank, found in enumerate(texts):
        if found != texts[0]:
            raise InputError(
                f"rank 0 is in round {texts[0][0]} and rank {rank} in round {found[0]}; load the states of one round on all ranks"
            )
    if elsewhere is None or elsewhere >= ranks.size:
        return
    new = ranks.rank >= elsewhere
    for bucket in buckets:
        x = bucket.held.x.double()
        total = torch.zeros_like(x) if new else x
        ranks.sum([total])
        if new:
            bucket.place((total / elsewhere).to(bucket.dtype), t)
            bucket.write()


def still_frozen(frozen: Sequence[tuple[str, Tensor]], buckets: Sequence[Bucket]) -> None:
    """Refuse a parameter that was frozen when it was given, and is to be trained now."""
    if woken := {id(each): name for name, each in frozen if each.requires_grad}:
        for each in (each for bucket in buckets for each in bucket.params):
            woken.pop(id(each), None)
        for name in woken.values():
            raise InputError(f"{name} was frozen when the optimiser was made; to train it, add it by add_param_group")


def own_gradients(buckets: Sequence[Bucket], ranks: Ranks) -> None:
    """Warn if all ranks have the same gradients, as with DistributedDataParallel, which averages them."""
    rows = [bucket.gradient.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for bucket in buckets]
    digests = ranks.meet("comparing gradients", hashlib.sha256(b"".join(rows)).hexdigest())
    same = len(set(digests)) == 1 and any(bucket.gradient.any() for bucket in buckets)
    if ranks.size > 1 and same and ranks.rank == 0:  # the others would say the same
        warnings.warn(
            "all ranks have the same gradients (shuffle=True with equal seeds?); give each its own data, and do not wrap the model in "
            "DistributedDataParallel",
            stacklevel=level(),
        )


def drop(buckets: Sequence[Bucket]) -> None:
    """Close the connections at once, so that ranks that wait for this one see that no message will come."""
    for bucket in buckets:
        bucket.exchange.drop()


def leave(buckets: Sequence[Bucket]) -> None:
    """Let the neighbours take what was sent, and drop the connections. After an error no rank waits."""
    if getattr(sys, "last_value", None) is None:
        try:
            for bucket in buckets:
                bucket.exchange.settle(PATIENCE)
        except RunError:
            pass  # a rank that has ended or stopped needs no more messages
    drop(buckets)
