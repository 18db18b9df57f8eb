"""Sums over agents: the same bits from one block and from any others."""

import itertools
import random

import pytest
import torch

from distopt.numerics.sums import combine, node_sums, nodes, tree_sum


def plain(z: list[float]) -> float:
    """The tree by recursion, on Python floats: agents lo .. hi - 1 of the n given, hi - lo a power of two."""

    def node(lo: int, hi: int) -> float:
        if hi - lo == 1:
            return z[lo]
        middle = (lo + hi) // 2
        return node(lo, middle) + node(middle, hi) if middle < len(z) else node(lo, middle)

    width = 1
    while width < len(z):
        width *= 2
    return node(0, width)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 64, 65, 100, 513])
def test_the_order_of_summation_is_the_binary_tree(n: int) -> None:
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * 10.0 ** torch.arange(3)
    assert tree_sum(z).flatten().tolist() == [plain(column) for column in z.T.tolist()]
    assert torch.equal(tree_sum(torch.stack([z, 2 * z]))[1], 2 * tree_sum(z)), "leading axes are independent"


def test_a_sum_of_negative_zeros_keeps_its_sign() -> None:
    assert tree_sum(torch.full((5, 1), -0.0)).signbit().all()


@pytest.mark.parametrize("n", [2, 7, 13, 16, 50, 129])
def test_blocks_of_any_agents_add_up_to_the_same_bits(n: int) -> None:
    draw = random.Random(n)
    z = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    for blocks in (2, 3, 5, n):
        cuts = sorted({0, n, *(draw.randrange(n) for _ in range(blocks - 1))})
        contiguous = [list(range(a, b)) for a, b in itertools.pairwise(cuts)]
        owner = [draw.randrange(blocks) for _ in range(n)]
        scattered = [ids for b in range(blocks) if (ids := [i for i in range(n) if owner[i] == b])]
        for partition in (contiguous, scattered):
            parts = torch.cat([node_sums(z[:, ids], ids, n) for ids in partition], -2)
            places = [node for ids in partition for node in nodes(ids, n)]
            assert torch.equal(combine(parts, places, n), tree_sum(z)), partition
        assert all(len(nodes(ids, n)) <= 2 * n.bit_length() for ids in contiguous)


def test_another_order_of_summation_gives_other_bits() -> None:
    """What the tests above rest on: with these numbers the order shows."""
    z = torch.randn(129, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert not torch.equal(tree_sum(z), z.flip(0).cumsum(0)[-1:])
    shifted = torch.cat([z[1:], z[:1]])
    assert not torch.equal(tree_sum(z), tree_sum(shifted))
