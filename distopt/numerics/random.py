"""Addressed randomness: the number at (seed, stream, trial, t, agent, word) is always the same number.

Nothing is consumed and nothing has a state: word ``(t N + agent) words + word`` of one Philox stream per (seed, stream,
trial) [philox2011]. So any block of agents, any chunk of rounds and any order of calls see the same data. A worker
generates its own agents' data instead of receiving it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.numerics.normal import normal

_BLOCK = 4096  # rounds between two remembered prefixes of a running sum
_FEW = 1024  # and of a running maximum, which has the same bits in blocks of any length; shorter ones are sooner made again


def _stream_id(seed: int, stream: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def words(seed: int, stream: str, trial: int, start: int, count: int) -> NDArray[np.float64]:
    """``count`` uniforms in [0, 1) from word ``start`` of the stream (seed, stream, trial).

    >>> bool((words(0, "demo", 0, 5, 3) == words(0, "demo", 0, 0, 8)[5:]).all())
    True
    """
    bits = np.random.Philox(key=[_stream_id(seed, stream), trial], counter=[start // 4, 0, 0, 0])
    skip = start % 4  # one counter step makes four doubles
    drawn: NDArray[np.float64] = np.random.Generator(bits).random(count + skip)[skip:]
    return drawn


def scattered(seed: int, stream: str, *address: NDArray[np.int64]) -> NDArray[np.float64]:
    """A uniform in [0, 1) for each address: single numbers of the stream (seed, stream), without drawing those between.

    The coordinates of an address, such as round, sender, receiver and trial, are arrays that broadcast against each other. They go one after
    the other through the finaliser of SplitMix64 [steele2014]; the upper 53 bits are the number.

    >>> one = scattered(0, "demo", np.array([3]), np.array([1]))
    >>> bool((scattered(0, "demo", np.arange(5), np.array([1]))[3:4] == one).all())
    True
    """
    state = np.full(1, _stream_id(seed, stream), np.uint64)
    for each in address:
        state = _finalised(state + each.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    drawn: NDArray[np.float64] = (_finalised(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def _finalised(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64, after an addition that keeps 0 from being a fixed point."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class Key:
    """The address of a block: the agents and trials of a seeded experiment.

    Attributes:
        seed: the experiment's seed.
        agents: int64 tensor [n], the block's global agent ids, ascending.
        trials: int64 tensor [R], the block's global trial ids.
        total: N, the number of agents in the whole network.
    """

    def __init__(self, seed: int, agents: Sequence[int] | range, trials: Sequence[int] | range, total: int) -> None:
        self.seed, self.total = seed, total
        if isinstance(agents, range):  # a million of them need no list
            self.agents = torch.from_numpy(np.arange(agents.start, agents.stop, agents.step))
        else:
            self.agents = torch.tensor(list(agents), dtype=torch.int64)
        self.trials = torch.tensor(list(trials), dtype=torch.int64)
        self._prefixes: dict[str, list[Tensor]] = {}

    @property
    def shared(self) -> Key:
        """The same trials with one draw for the whole network: its draws have shape [K, R, 1, words]."""
        return Key(self.seed, range(1), self.trials.tolist(), 1)

    def uniform(self, stream: str, words_per_agent: int, t: Tensor | None = None) -> Tensor:
        """Uniforms in [0, 1), float64 [K, R, n, words_per_agent]; ``t`` is [K, 1, 1, 1], or None for a draw that no round changes.

        >>> key = Key(0, range(4), range(2), total=4)
        >>> t = torch.arange(3).reshape(3, 1, 1, 1)
        >>> block = Key(0, [1, 2], [1], total=4)
        >>> whole = key.uniform("demo", 5, t)
        >>> torch.equal(whole[1:, 1:, 1:3], block.uniform("demo", 5, t[1:]))
        True
        """
        rounds = [0] if t is None else t.reshape(-1).tolist()
        agents, width = self.agents.numpy(), words_per_agent
        out = np.empty((len(rounds), len(self.trials), len(agents), width))
        low, span = (int(agents[0]), int(agents[-1] - agents[0]) + 1) if len(agents) else (0, 0)
        pick = None if span == len(agents) else agents - low
        whole = span == self.total and all(b - a == 1 for a, b in pairwise(rounds))
        for r, trial in enumerate(self.trials.tolist()):
            if whole and rounds:  # every agent of consecutive rounds lies contiguously in the stream
                drawn = words(self.seed, stream, trial, rounds[0] * span * width, len(rounds) * span * width)
                rows = drawn.reshape(len(rounds), span, width)
                out[:, r] = rows if pick is None else rows[:, pick]
                continue
            for k, round_ in enumerate(rounds):
                block = words(self.seed, stream, trial, (round_ * self.total + low) * width, span * width).reshape(
                    span, width
                )
                out[k, r] = block if pick is None else block[pick]
        return torch.from_numpy(out)

    def normal(self, stream: str, words_per_agent: int, t: Tensor | None = None) -> Tensor:
        """Standard normals [K, R, n, words_per_agent] by the inverse distribution function (one word each, no rejection)."""
        return normal(self.uniform(stream, words_per_agent, t))

    def integers(self, stream: str, high: int, words_per_agent: int, t: Tensor | None = None) -> Tensor:
        """Integers 0 .. high - 1, int64 [K, R, n, words_per_agent]."""
        return (self.uniform(stream, words_per_agent, t) * high).to(torch.int64)

    def running_sum(self, name: str, t: Tensor, increments: Callable[[Tensor], Tensor]) -> Tensor:
        """sum of ``increments(tau)`` over 1 <= tau <= t, for every round of ``t`` [K, 1, 1, 1]; shape of ``increments(t)``.

        Sums always run in blocks of 4096 rounds from round 0, so the bits do not depend on the chunk. ``name`` must
        be unique to the quantity: prefixes are remembered under it for the life of this key.
        """
        return self._running(name, t, increments, _BLOCK, lambda steps: steps.cumsum(0), torch.add)

    def running_max(self, name: str, t: Tensor, values: Callable[[Tensor], Tensor]) -> Tensor:
        """The largest of 0 and ``values(tau)`` over 1 <= tau <= t, for every round of ``t`` [K, 1, 1, 1]; shape of ``values(t)``.

        If the value is tau where an event happens in round tau, and 0 elsewhere, the result is the round of the last
        event. ``name`` is as that of ``running_sum``.

        >>> key = Key(0, range(1), range(1), total=1)
        >>> key.running_max("demo", torch.tensor([2, 5, 9]).reshape(3, 1, 1, 1), lambda tau: tau * (tau % 4 == 1)).flatten().tolist()
        [1, 5, 9]
        """
        return self._running(name, t, values, _FEW, lambda steps: steps.cummax(0).values, torch.maximum)

    def _running(
        self,
        name: str,
        t: Tensor,
        steps: Callable[[Tensor], Tensor],
        length: int,
        along: Callable[[Tensor], Tensor],
        join: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """What ``along`` makes of the steps of rounds 1 .. t, block by block of ``length`` rounds; ``join`` puts blocks together."""
        rounds = t.reshape(-1)
        prefixes = self._prefixes.setdefault(name, [])
        parts: list[Tensor] = []

        def partial(span: Tensor) -> Tensor:
            own = steps(span)
            if int(span[0]) == 0:
                own = torch.cat([torch.zeros_like(own[:1]), own[1:]])
            return along(own)

        for block in sorted({int(b) for b in (rounds // length).tolist()}):
            while len(prefixes) <= block:
                start = len(prefixes) * length
                if start == 0:
                    prefixes.append(torch.zeros_like(steps(torch.zeros(1, 1, 1, 1, dtype=torch.int64))))
                else:
                    span = torch.arange(start - length, start).reshape(-1, 1, 1, 1)
                    prefixes.append(join(prefixes[-1], partial(span)[-1:]))
            inside = rounds[rounds // length == block] - block * length
            span = torch.arange(block * length, block * length + int(inside.max()) + 1).reshape(-1, 1, 1, 1)
            whole = join(prefixes[block], partial(span))
            if len(span) == length and len(prefixes) == block + 1:  # a caller that goes round by round needs it next
                prefixes.append(whole[-1:].clone())
            parts.append(whole[inside])
        order = torch.argsort(rounds // length, stable=True)
        out = torch.cat(parts)
        return out[torch.argsort(order)]
