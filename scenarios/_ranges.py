"""The allowed ranges of scenarios' parameters, and of numbers in files."""

from __future__ import annotations

from typing import Any

import numpy as np

from distopt.errors import InputError
from distopt.numerics.room import memory

LARGEST = 1e100  # so that squares stay finite
SMALLEST = 1e-100  # for values that must be positive: their squares stay positive
_BYTES = 32  # memory for each number, with the copies that are made on the way
WHOLE = 2**53  # beyond it whole numbers are not exact in float64


def _who(scenario: Any) -> str:
    return type(scenario).__module__.rpartition(".")[2]


def whole(scenario: Any, *names: str, low: int = 1, high: int = WHOLE, where: str = "") -> None:
    """Refuse a scenario with a field that is not a whole number in low .. high; ``where`` names what sets ``high``."""
    for name in names:
        value = getattr(scenario, name)
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
            most = where or ("2^53" if high == WHOLE else high)
            raise InputError(
                f"{_who(scenario)}: {name}={shown(value)} must be a whole number of at least {low} and at most {most}"
            )


def real(scenario: Any, *names: str, low: float = 0.0, high: float = LARGEST, above: bool = False) -> None:
    """Refuse a scenario with a field that is not a number in low .. high, or that equals ``low`` if it must be ``above``.

    What must be above 0 is at least ``SMALLEST``.
    """
    for name in names:
        value = getattr(scenario, name)
        fits = (
            isinstance(value, int | float | np.integer | np.floating)
            and not isinstance(value, bool)
            and low <= value <= high
        )
        if not fits or (above and not value >= low + SMALLEST):
            lowest = (
                f"above {low:g}"
                if above and high < LARGEST
                else f"at least {SMALLEST:g}"
                if above
                else f"at least {low:g}"
            )
            raise InputError(
                f"{_who(scenario)}: {name}={shown(value)} must be a number of {lowest} and at most {high:g}"
            )


def one_of(scenario: Any, name: str, known: tuple[str, ...]) -> None:
    """Refuse a scenario whose field is not one of the known words."""
    value = getattr(scenario, name)
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{_who(scenario)}: {name}={shown(value)} must be one of {', '.join(known)}")


def room(scenario: Any, count: int, *names: str) -> None:
    """Refuse a scenario whose fields ``names`` need ``count`` numbers at once, if memory is too small."""
    asked = ", ".join(f"{name}={getattr(scenario, name)}" for name in names)
    memory(_BYTES * count, f"{_who(scenario)}: {asked}", " or ".join(names))


def shown(value: Any) -> str:
    """A value in an error: short, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
