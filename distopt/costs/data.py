"""A run's data in aligned blocks of rounds: each made by one call, checked, and kept while they fit in memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.numerics.trees import cast, default_dtype, part, tensors, tree_map
from distopt.optional import entry

BLOCK_BYTES = 64 * 2**20
AT_ONCE_BYTES = (
    4 * 2**20
)  # the size of the pieces of ``evaluate``: larger temporaries are mapped again, page by page, each time that they are made
CACHE_BYTES = 256 * 2**20
CACHE_BLOCKS, SOME_BLOCKS = 64, 16
"""Blocks that are kept at most: of a run with more than the first, no pass over all finds any, and only passes over a sample do."""
USUAL_BLOCK = 256
LONGEST_BLOCK = 4096
"""Rounds of a block. Longer ones than usual are those that fit ``AT_ONCE_BYTES``: what Python does once for a block is then soon paid for."""


def evaluate(f: Callable[[Tensor, Any], Tensor], x: Tensor, batch: Any) -> Tensor:
    """f (a scenario's loss, grad, ...) at points x [K, R, n, d] of a whole block: [K, R, ...] from few calls.

    Rounds are folded into the trials axis, which every scenario batches over anyway; the block is cut where the expanded
    data would outgrow the memory budget.
    """
    rounds, trials = x.shape[:2]
    expanded = (
        sum(leaf[0, 0].numel() * leaf.element_size() for leaf in tensors(batch)) * trials
        + x[0].numel() * x.element_size()
    )
    step = max(1, min(rounds, AT_ONCE_BYTES // max(expanded, 1)))
    out = []
    for start in range(0, rounds, step):
        points = x[start : start + step]
        count = points.shape[0]

        def fold(leaf: Tensor, count: int = count) -> Tensor:
            if leaf.shape[0] == leaf.shape[1] == 1:
                return leaf[0]
            return leaf.expand(count, trials, *leaf.shape[2:]).reshape(count * trials, *leaf.shape[2:])

        value = f(
            points.reshape(count * trials, *points.shape[2:]), tree_map(fold, part(batch, start, start + step))
        ).detach()
        out.append(value.expand(count * trials, *value.shape[1:]).reshape(count, trials, *value.shape[1:]))
    return out[0] if len(out) == 1 else torch.cat(out)


def shifted(before: Tensor, now: Tensor, rounds: int) -> Tensor:
    """A leaf [K|1, ...] of so many rounds as it was one round earlier, from that of the round before the block [1, ...]."""
    if rounds == 1:
        return before
    shape = [max(sizes) for sizes in zip(before.shape[1:], now.shape[1:], strict=True)]  # 1 or the same
    return torch.cat([before.expand(1, *shape), now[: rounds - 1].expand(rounds - 1, *shape)])


class Blocks:
    """Scenario data of the rounds of a run, block by block: block b holds rounds b L .. (b+1) L - 1 (the last is shorter).

    L is a power of two fixed by the sizes alone, so results per block have the same bits in every run. A block of agents takes
    the ``length`` of the whole network. Leaves that no round changes are made and checked once, and all blocks share them.

    Attributes:
        static: whether no leaf changes, so that every round is like the first.

    Raises:
        InputError: a leaf of the wrong shape, or one that is not finite, with its round.
    """

    def __init__(self, scenario: Any, key: Key, rounds: int, length: int | None = None) -> None:
        self.scenario, self.key, self.rounds = scenario, key, rounds
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._bytes = 0
        self._first: Any = ()
        self._first = self._make(0, min(2, rounds))
        first = tensors(self._first)
        self.static = all(leaf.shape[0] == 1 for leaf in first)
        if self.static and rounds > 2:  # data that change rarely may be constant in the first rounds
            last = tensors(self._make(rounds - 2, rounds))
            self.static = len(first) == len(last) and all(map(torch.equal, first, last))
        self.length = length or self._fitting(first)
        self.count = -(-rounds // self.length)

    def _fitting(self, first: list[Tensor]) -> int:
        """The block length L, from the size of a round: its leaves, and the comparator's x*_t, its companions and Hessian."""
        dim, scenario = int(self.scenario.dim), self.scenario
        held = scenario.comparator and scenario.optimum is None and scenario.hessian is not None
        trials = max((leaf.shape[1] for leaf in first), default=1)
        own = sum(leaf[0].numel() * leaf.element_size() for leaf in first if leaf.shape[0] > 1)
        a_round = own + 8 * trials * (dim + 8 + (dim * dim if held else 0))
        usual, points = max(1, BLOCK_BYTES // a_round), 8 * len(self.key.trials) * self.key.total * dim
        long = min(AT_ONCE_BYTES // a_round, 4 * AT_ONCE_BYTES // points)
        fit = max(min(usual, USUAL_BLOCK), long)
        return min(LONGEST_BLOCK, 1 << (fit.bit_length() - 1))

    def span(self, b: int) -> range:
        """The rounds of block b."""
        return range(b * self.length, min((b + 1) * self.length, self.rounds))

    def get(self, b: int) -> Any:
        """The data of block b, leaves [K|1, R|1, n|1, ...], floats in float64."""
        if self.static:
            return self._first
        if b in self._kept:
            self._kept.move_to_end(b)
            return self._kept[b]
        span = self.span(b)
        batch = self._make(span.start, span.stop)
        self._kept[b] = batch
        self._bytes += self._size(batch)
        most = CACHE_BLOCKS if self.count <= CACHE_BLOCKS else SOME_BLOCKS
        while (self._bytes > CACHE_BYTES and len(self._kept) > 1) or len(self._kept) > most:
            self._bytes -= self._size(self._kept.popitem(last=False)[1])
        return batch

    def before(self, b: int) -> Any:
        """The data of the round before block b; before round 0 they are those of round 0."""
        last = len(self.span(b - 1)) if b else 1
        return part(self.get(max(b - 1, 0)), last - 1, last)

    def earlier(self, b: int) -> Any:
        """The data of the round before each round of block b; before round 0 they are those of round 0."""
        batch = self.get(b)
        if self.static:
            return batch
        leaves = zip(tensors(self.before(b)), tensors(batch), strict=True)
        rounds = len(self.span(b))
        found = iter([now if now is before else shifted(before, now, rounds) for before, now in leaves])
        return tree_map(lambda _: next(found), batch)

    def _make(self, start: int, stop: int) -> Any:
        t = torch.arange(start, stop).reshape(-1, 1, 1, 1)
        with default_dtype(torch.float64):
            batch = cast(self.scenario.batch(t, self.key), torch.float64)
        for other in pytree.tree_leaves(batch):
            if not isinstance(other, Tensor | bool | int | float | str | None):
                raise InputError(
                    f"scenario {entry(self.scenario)}: batch holds a {type(other).__name__}; return tensors in tuples, named tuples, "
                    "lists or dicts (a dataclass: make it a NamedTuple; an array: torch.from_numpy)"
                )
        batch = self._with_shared(batch)
        allowed = ((1, stop - start), (1, len(self.key.trials)), (1, len(self.key.agents)))
        for leaf in tensors(batch):
            if self._is_shared(leaf):
                continue
            if leaf.ndim < 3 or any(size not in sizes for size, sizes in zip(leaf.shape, allowed, strict=False)):
                raise InputError(
                    f"scenario {entry(self.scenario)}: batch has a leaf of shape {list(leaf.shape)}; its first three axes must be "
                    f"rounds ({stop - start} or 1), trials ({len(self.key.trials)} or 1), agents ({len(self.key.agents)} or 1)"
                )
            if leaf.is_floating_point() and not _finite(leaf):
                bad = int(torch.nonzero(~torch.isfinite(leaf))[0, 0])
                raise InputError(
                    f"scenario {entry(self.scenario)}: the data of round {start + bad} are not finite (nan or inf); clean them"
                )
        return batch

    def _with_shared(self, batch: Any) -> Any:
        """The batch, where leaves that equal those of the first batch are replaced by them."""
        leaves, form = pytree.tree_flatten(batch)
        known, known_form = pytree.tree_flatten(self._first)
        if form != known_form:
            return batch

        def same(leaf: Any, known: Any) -> bool:
            return (
                isinstance(leaf, Tensor)
                and isinstance(known, Tensor)
                and known.shape[0] == 1
                and torch.equal(leaf, known)
            )

        return pytree.tree_unflatten(
            [old if same(new, old) else new for new, old in zip(leaves, known, strict=True)], form
        )

    def _is_shared(self, leaf: Tensor) -> bool:
        return any(leaf is known for known in tensors(self._first))

    def _size(self, batch: Any) -> int:
        return sum(leaf.untyped_storage().nbytes() for leaf in tensors(batch) if not self._is_shared(leaf))


class Thinned:
    """Each ``step``-th round of a run's blocks, held in memory: what ``Horizon`` reads of blocks. ``rounds`` counts all rounds of the run.

    The step is doubled until what is held is no larger than a block may be.
    """

    def __init__(self, blocks: Blocks, step: int) -> None:
        self.scenario, self.key, self.rounds = blocks.scenario, blocks.key, blocks.rounds
        while blocks._size(blocks.get(0)) * blocks.count > step * BLOCK_BYTES:
            step *= 2
        self.step = step
        self._taken: list[tuple[int, Any]] = []  # rounds, and their data
        for b in range(blocks.count):
            span = blocks.span(b)
            if rounds := list(range(-span.start % step, len(span), step)):

                def thin(leaf: Tensor, rounds: list[int] = rounds) -> Tensor:
                    return leaf[rounds] if leaf.shape[0] > 1 else leaf

                self._add(len(rounds), tree_map(thin, blocks.get(b)))
        self.count = len(self._taken)

    def _add(self, count: int, batch: Any) -> None:
        """Take some rounds more; short blocks become one, for each costs as many calls as a long one."""
        before, last = self._taken[-1] if self._taken else (0, batch)
        old, new = tensors(last), tensors(batch)
        alike = all(a is b or (a.shape[0], b.shape[0]) == (before, count) for a, b in zip(old, new, strict=True))
        if (
            not before
            or before + count > LONGEST_BLOCK
            or not alike
            or any(a.shape[1:] != b.shape[1:] for a, b in zip(old, new, strict=True))
        ):
            self._taken.append((count, batch))
            return
        joined = iter([a if a is b else torch.cat([a, b]) for a, b in zip(old, new, strict=True)])
        self._taken[-1] = before + count, tree_map(lambda _: next(joined), batch)

    def span(self, b: int) -> range:
        """The places of the rounds in their data ``get(b)``."""
        return range(self._taken[b][0])

    def get(self, b: int) -> Any:
        """The data of the rounds of one block."""
        return self._taken[b][1]


def _finite(leaf: Tensor) -> bool:
    """Whether all numbers are. The sum is finite where they are, unless they are huge, and is found much faster."""
    return math.isfinite(float(leaf.sum())) or bool(torch.isfinite(leaf).all())
