"""How many numbers a sparse message keeps."""

from __future__ import annotations

from distopt.errors import InputError


def check(who: str, k: int, fraction: float) -> None:
    """Refuse what keeps nothing, or more than everything."""
    if k < 0 or not 0 < fraction <= 1:
        raise InputError(f"{who}: give k, how many numbers to keep, at least 1, or fraction in (0, 1]; got k={k}, fraction={fraction}")


def count(k: int, fraction: float, d: int) -> int:
    """k of d numbers, or the fraction of them, at least one."""
    return min(k, d) if k else max(1, round(fraction * d))
