"""Shared by the checks: sizes, a small network, and comparing trees of tensors bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.network.properties import SPELLINGS, Properties
from distopt.numerics.trees import tensors, tree_map

R, N, D, ROUNDS = 2, 5, 3, 6
LINKS = ((0, 1), (1, 2), (2, 3), (3, 4), (1, 4))


def require(condition: bool, what: str) -> None:
    """Raise AssertionError(what) unless ``condition`` holds."""
    if not condition:  # not an assert statement: those vanish under python -O
        raise AssertionError(what)


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees have the same structure and the same bits (nan equals nan)."""
    if pytree.tree_structure(a) != pytree.tree_structure(b):
        return False
    pairs = zip(tensors(a), tensors(b), strict=True)
    return all(
        p.dtype == q.dtype and p.shape == q.shape and torch.equal(p.nan_to_num(1e300), q.nan_to_num(1e300))
        for p, q in pairs
    )


def alike(a: Any, b: Any) -> bool:
    """Whether two trees have the same structure and shapes."""
    shapes = [[leaf.shape for leaf in tensors(tree)] for tree in (a, b)]
    return pytree.tree_structure(a) == pytree.tree_structure(b) and shapes[0] == shapes[1]


def sliced(tree: Any, *index: Any) -> Any:
    """``leaf[index]`` of every leaf, for slices and lists along the first axes."""

    def cut(leaf: Tensor) -> Tensor:
        for axis, chosen in enumerate(index):
            leaf = leaf[(slice(None),) * axis + (chosen,)]
        return leaf

    return tree_map(cut, tree)


def copied(tree: Any) -> Any:
    """A copy of the tree, to see later whether the original was changed in place."""
    return tree_map(Tensor.clone, tree)


def normals(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, the same for the same seed in every dtype."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weights(needs: Properties = SPELLINGS["symmetric"]) -> Tensor:
    """A matrix [N, N] with these properties and no others; no relabelling leaves one alone that is not 1/N everywhere."""
    if "average" in needs:
        return torch.full((N, N), 1 / N, dtype=torch.float64)
    w = torch.zeros(N, N, dtype=torch.float64)
    for i, j in LINKS:
        w[i, j] = w[j, i] = 0.25
    w = w + torch.diag(1 - w.sum(1))
    if "symmetric" in needs:
        return w
    w = (w + torch.eye(N, dtype=torch.float64).roll(1, 1)) / 2  # a directed cycle on top
    if needs >= {"row", "column"}:
        return w
    w = w * torch.arange(1.0, N + 1, dtype=torch.float64)
    w = w / w.sum(1, keepdim=True)
    return w if "row" in needs else w.T


def mixed(w: Tensor, z: Tensor) -> Tensor:
    """W z term by term, so that no number depends on the number of trials."""
    out = torch.zeros_like(z)
    for j in range(w.shape[0]):
        out = out + w[:, j, None].to(z.dtype) * z[..., j : j + 1, :]
    return out


def check_leaves(tree: Any, lead: tuple[int, int], dtype: torch.dtype, who: str) -> None:
    """Require leaves [*lead, *] that are tensors, in ``dtype`` where they are floating point."""
    for leaf in pytree.tree_leaves(tree):
        require(isinstance(leaf, Tensor), f"{who}: every leaf must be a tensor, found {type(leaf).__name__}")
        shape = list(leaf.shape)
        require(
            leaf.dim() >= 3 and tuple(leaf.shape[:2]) == lead,
            f"{who}: a leaf has shape {shape}, not [{lead[0]}, {lead[1]}, *]",
        )
        require(
            not leaf.is_floating_point() or leaf.dtype == dtype, f"{who}: a leaf is {leaf.dtype} although x is {dtype}"
        )
