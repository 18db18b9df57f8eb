"""Cells and tables of the page."""

from __future__ import annotations

from collections.abc import Iterable


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits without an exponent; a dash for what is missing.

    >>> number(0.01234), number(1234.5), number(None)
    ('0.0123', '1234', '-')
    """
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}".rstrip(".")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A markdown table."""
    lines = [list(head), ["---"] * len(list(head)), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
