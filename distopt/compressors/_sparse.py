"""How many numbers a sparse message keeps."""

from __future__ import annotations

from distopt.ranges import share, whole


def check(who: str, k: int, fraction: float) -> None:
    """Refuse what keeps nothing: k is how many numbers to keep, or 0 for the fraction of them."""
    whole(who, 0, k=k)
    share(who, fraction=fraction)


def count(k: int, fraction: float, d: int) -> int:
    """k of d numbers, or the fraction of them, at least one."""
    return min(k, d) if k else max(1, round(fraction * d))
