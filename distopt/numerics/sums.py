"""Sums over agents in one fixed order: a binary tree over global ids, so that any set of blocks adds up to the same bits.

Node (l, k) of the tree over N agents covers the ids k 2^l .. (k+1) 2^l - 1 below N, and its sum is that of its two children,
(l-1, 2k) + (l-1, 2k+1); a right child without any agent leaves the left one unchanged. A block returns the sums of the
largest nodes that lie wholly in it. For any blocks, combining these makes the same additions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Node = tuple[int, int]
"""(level l, place k)."""


def tree_sum(z: Tensor) -> Tensor:
    """The sum over axis -2 of z [..., n, d], as [..., 1, d]; the rows are agents 0 .. n-1, or those of one node.

    >>> tree_sum(torch.arange(13.0).reshape(13, 1)).item()
    78.0
    """
    while (n := z.shape[-2]) > 1:
        width = 8 if n > 4 else 4 if n > 2 else 2  # three levels a pass: few passes, and a compiler fuses each into one
        whole = n - n % width
        parts = [_added(z[..., :whole, :], width)] if whole else []
        if whole < n:
            rest = torch.nn.functional.pad(z[..., whole:, :], (0, 0, 0, whole + width - n), value=-0.0)
            parts.append(_added(rest, width))  # adding -0.0 changes no number
        z = parts[0] if len(parts) == 1 else torch.cat(parts, -2)
    return z


def _added(z: Tensor, width: int) -> Tensor:
    """The sums of every ``width`` rows, a power of two."""
    parts = [z[..., k::width, :] for k in range(width)]
    while len(parts) > 1:
        parts = [left + right for left, right in zip(parts[0::2], parts[1::2], strict=True)]
    return parts[0]


def nodes(ids: Sequence[int], total: int) -> tuple[Node, ...]:
    """The largest nodes of the tree over ``total`` agents that lie wholly in the ascending ``ids``, in ascending order.

    At most 2 log2 N of them for a contiguous range.

    >>> nodes(range(3, 9), 16)
    ((0, 3), (2, 1), (0, 8))
    >>> nodes(range(8, 13), 13)
    ((3, 1),)
    """
    held, found, start = set(ids), [], 0
    while start < total:
        if start not in held:
            start += 1
            continue
        level, end = 0, start + 1
        while start % 2 ** (level + 1) == 0 and 2**level < total:
            wider = min(start + 2 ** (level + 1), total)
            if any(i not in held for i in range(end, wider)):
                break
            level, end = level + 1, wider
        found.append((level, start >> level))
        start = end
    return tuple(found)


def node_sums(z: Tensor, ids: Sequence[int], total: int) -> Tensor:
    """The sums of a block's rows z [..., n, d] over the nodes of its ids: [..., len(nodes(ids, total)), d].

    >>> node_sums(torch.ones(6, 1), range(3, 9), 16).flatten().tolist()
    [1.0, 4.0, 1.0]
    """
    sums, start = [], 0
    for level, k in nodes(ids, total):
        count = min((k + 1) << level, total) - (k << level)
        sums.append(tree_sum(z[..., start : start + count, :]))
        start += count
    return torch.cat(sums, -2) if sums else z


def combine(sums: Tensor, places: Sequence[Node], total: int) -> Tensor:
    """The sum over all agents [..., 1, d] from node sums [..., len(places), d] that cover each agent once, in any order.

    >>> z = torch.rand(13, 2)
    >>> blocks = (range(0, 5), range(5, 6), range(6, 13))
    >>> parts = torch.cat([node_sums(z[b.start : b.stop], b, 13) for b in blocks])
    >>> places = [node for b in blocks for node in nodes(b, 13)]
    >>> torch.equal(combine(parts, places, 13), tree_sum(z))
    True
    """
    known = {node: sums[..., i : i + 1, :] for i, node in enumerate(places)}

    def value(level: int, k: int) -> Tensor:
        if (level, k) in known:
            return known[level, k]
        left = value(level - 1, 2 * k)
        return left + value(level - 1, 2 * k + 1) if (2 * k + 1) << (level - 1) < total else left

    return value((total - 1).bit_length(), 0)


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Within it torch computes with one thread: with more it adds in another order, and engines differ in how many they have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
