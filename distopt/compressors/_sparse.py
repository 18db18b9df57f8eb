"""How many numbers a sparse message keeps."""

from __future__ import annotations

from distopt.ranges import share, whole


def check(who: str, k: int, fraction: float) -> None:
    """Check that at least one number is kept: k numbers, or a fraction of them if k is 0."""
    whole(who, 0, k=k)
    share(who, fraction=fraction)


def count(k: int, fraction: float, d: int) -> int:
    """k of d numbers, or the fraction of them, at least one."""
    return min(k, d) if k else max(1, round(fraction * d))
