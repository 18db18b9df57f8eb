"""What a training script can ask of its optimiser: the mean of the agents, how far they are from it, and what they have sent."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch

from distopt.optim import averaging
from distopt.optim.bucket import Bucket
from distopt.optim.ranks import Ranks


class Observed:
    """The part of ``distopt.optim.Decentralized`` that only reads, except for ``average_``."""

    _buckets: list[Bucket]
    _ranks: Ranks
    _algorithm: Any
    _t: int

    def _meet(self) -> None:
        """See that all ranks are in the same round."""
        raise NotImplementedError

    @property
    def round(self) -> int:
        """How many rounds there have been."""
        return self._t

    @property
    def bits_sent(self) -> int:
        """The bits of all messages that this rank has sent so far, once for each neighbour; without headers of 64 bytes."""
        return 8 * sum(bucket.exchange.bytes_sent for bucket in self._buckets)

    @property
    def seconds_waiting(self) -> float:
        """How long ``step`` has waited for messages so far."""
        return sum(bucket.exchange.seconds_waiting for bucket in self._buckets)

    def memory(self) -> dict[str, int]:
        """Bytes that the optimiser takes on this rank, by what they are for; gradients of the parameters are not among them."""
        found: dict[str, int] = {}
        for bucket in self._buckets:
            for name, count in bucket.bytes().items():
                found[name] = found.get(name, 0) + count
        return found

    def averaged(
        self, model: torch.nn.Module, data: Iterable[Any] | None = None
    ) -> AbstractContextManager[torch.nn.Module]:
        """Within it, the model has the mean of all agents' parameters and buffers; afterwards its own, bit for bit. All ranks do so at once.

        See ``distopt.optim.averaging.averaged``.
        """
        self._meet()
        return averaging.averaged(self._buckets, self._ranks, model, data)

    def average_(self) -> None:
        """Put the mean of all agents' parameters into the parameters, for good: at the end of training. All ranks do so at once."""
        self._meet()
        means = averaging.means(self._buckets, self._ranks)
        for bucket, mean in zip(self._buckets, means, strict=True):
            bucket.place(bucket.held._replace(x=mean), self._t)
            bucket.write()

    def consensus_error(self) -> float:
        """sqrt( (1/N) sum_i |x_i - mean x|^2 ), the same on all ranks. All ranks do so at once."""
        self._meet()
        return averaging.consensus_error(self._buckets, self._ranks)

    def tracker_violation(self) -> float:
        """The largest coordinate of |mean s - mean g| after the last round: rounding only, while gradient tracking tracks. All ranks do so at once.

        Raises:
            InputError: the algorithm tracks nothing.
        """
        self._meet()
        return averaging.tracker_violation(self._buckets, self._ranks, self._algorithm)
