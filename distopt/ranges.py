"""Where a hyper-parameter may lie. Each function raises one line that names the part, the parameter and the value, or returns None.

A number is Python's or NumPy's, or a tensor with one number per trial, each of which is checked; all are compared in float64. Truth values,
texts and what is not finite are no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.optional import AlgorithmDefaults, CompressorDefaults, completed

COUNTED = 2**24
"""Up to here float32 represents all whole numbers."""


def positive(part: str, **values: Any) -> None:
    """Refuse values that are not above 0. In float32, torch's choice for a Python number, 1e-50 would be 0.

    >>> from distopt.ranges import positive
    >>> positive("gt", lr=1e-50)
    >>> positive("gt", lr=torch.tensor([[[0.1]], [[-2.0]]]))
    Traceback (most recent call last):
    distopt.errors.InputError: gt: lr must be positive, got -2.0 in a tensor
    """
    _numbers(part, "must be positive", lambda v: v > 0, values)


def not_negative(part: str, **values: Any) -> None:
    """Refuse values below 0.

    >>> from distopt.ranges import not_negative
    >>> not_negative("inna", alpha=-0.1)
    Traceback (most recent call last):
    distopt.errors.InputError: inna: alpha must be at least 0, got -0.1
    """
    _numbers(part, "must be at least 0", lambda v: v >= 0, values)


def at_least_one(part: str, **values: Any) -> None:
    """Refuse values below 1.

    >>> from distopt.ranges import at_least_one
    >>> at_least_one("prox_skip", chi=0.5)
    Traceback (most recent call last):
    distopt.errors.InputError: prox_skip: chi must be at least 1, got 0.5
    """
    _numbers(part, "must be at least 1", lambda v: v >= 1, values)


def step_size(part: str, lr: Any) -> None:
    """Refuse what can be no step size: neither a number above 0 nor a schedule (``distopt.protocols.Schedule``).

    >>> from distopt.ranges import step_size
    >>> step_size("gt", -1)
    Traceback (most recent call last):
    distopt.errors.InputError: gt: lr must be positive, got -1
    """
    if isinstance(lr, type) or not callable(lr):
        positive(part, lr=lr)


def fraction(part: str, **values: Any) -> None:
    """Refuse values outside [0, 1). In float32, 0.99999999 would be 1.

    >>> from distopt.ranges import fraction
    >>> fraction("adam", b1=0.99999999)
    """
    _numbers(part, "must lie in [0, 1)", lambda v: 0 <= v < 1, values)


def inside(part: str, **values: Any) -> None:
    """Refuse values outside (0, 1).

    >>> from distopt.ranges import inside
    >>> inside("acprop", b1=0)
    Traceback (most recent call last):
    distopt.errors.InputError: acprop: b1 must lie in (0, 1), got 0
    """
    _numbers(part, "must lie in (0, 1)", lambda v: 0 < v < 1, values)


def between(part: str, low: float, high: float, **values: Any) -> None:
    """Refuse values outside (low, high).

    >>> from distopt.ranges import between
    >>> between("domd", 1.0, 2.0, p=2.5)
    Traceback (most recent call last):
    distopt.errors.InputError: domd: p must lie in (1, 2), got 2.5
    """
    _numbers(part, f"must lie in ({low:g}, {high:g})", lambda v: low < v < high, values)


def share(part: str, **values: Any) -> None:
    """Refuse values outside (0, 1].

    >>> from distopt.ranges import share
    >>> share("choco", gamma=5)
    Traceback (most recent call last):
    distopt.errors.InputError: choco: gamma must lie in (0, 1], got 5
    """
    _numbers(part, "must lie in (0, 1]", lambda v: 0 < v <= 1, values)


def whole(part: str, least: int, most: int | None = None, **values: Any) -> None:
    """Refuse what is not a whole number from ``least`` to ``most``, or of at least ``least``.

    >>> from distopt.ranges import whole
    >>> whole("dither", 2, 16, precision=2.5)
    Traceback (most recent call last):
    distopt.errors.InputError: dither: precision must be a whole number from 2 to 16, got 2.5
    """
    for name, value in values.items():
        if not _whole(value) or value < least or (most is not None and value > most):
            bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise InputError(f"{part}: {name} must be a whole number {bounds}, got {_told(value)}")


def flag(part: str, **values: Any) -> None:
    """Refuse what is neither True nor False: the text "false" would count as true."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise InputError(f"{part}: {name} must be true or false, got {_told(value)}")


def choice(part: str, options: tuple[str, ...], **values: Any) -> None:
    """Refuse a text that is not among ``options``."""
    for name, value in values.items():
        if not isinstance(value, str) or value not in options:
            raise InputError(f"{part}: {name} must be one of {', '.join(options)}, got {_told(value)}")


def compressor(part: str, value: Any) -> Any:
    """The compressor with the defaults of missing attributes; other objects are refused."""
    _object(part, "compressor", value, ("encode", "decode", "bits"), "Sign()")
    return completed(CompressorDefaults, value)


def algorithm(part: str, value: Any) -> Any:
    """The algorithm with the defaults of missing attributes; other objects are refused."""
    _object(part, "algorithm", value, ("init", "update"), "GT()")
    return completed(AlgorithmDefaults, value)


def direction(part: str, value: Any) -> None:
    """Refuse objects that are not direction rules."""
    _object(part, "direction", value, ("init", "__call__"), "Adam()")


@contextmanager
def named(part: str) -> Iterator[None]:
    """Name ``part`` in the errors of its inner parts, whose names the user has not written.

    >>> from distopt.ranges import named, share
    >>> with named("choco_sgd"):
    ...     share("choco", gamma=5)
    Traceback (most recent call last):
    distopt.errors.InputError: choco_sgd: gamma must lie in (0, 1], got 5
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{part}: {str(error).partition(': ')[2] or error}") from None


def _numbers(part: str, rule: str, fits: Callable[[float], bool], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Tensor):
            wrong = [each for each in _entries(value) if not (math.isfinite(each) and fits(each))]
            if wrong or not value.numel() or value.dtype == torch.bool or value.is_complex():
                raise InputError(f"{part}: {name} {rule}, got {wrong[0] if wrong else _told(value)} in a tensor")
        elif (number := _number(value)) is None or not fits(number):
            raise InputError(f"{part}: {name} {rule}, got {_told(value)}")


def _entries(value: Tensor) -> list[float]:
    return [] if value.is_complex() else [float(each) for each in value.detach().flatten().tolist()]


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not (isinstance(value, float | int) or _numpy(value)):
        return None
    try:
        number = float(value)
    except (OverflowError, TypeError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or (_numpy(value) and value.dtype.kind in "iu"))


def _numpy(value: Any) -> bool:
    """Whether it is one of NumPy's numbers, no array of them; without an import."""
    return (
        type(value).__module__ == "numpy"
        and getattr(getattr(value, "dtype", None), "kind", "") in "iuf"
        and getattr(value, "ndim", 1) == 0
    )


def _object(part: str, name: str, value: Any, needs: tuple[str, ...], such: str) -> None:
    if isinstance(value, type) or not all(callable(getattr(value, need, None)) for need in needs):
        raise InputError(f"{part}: {name} must be an object such as {such}, got {_told(value)}")


def _told(value: Any) -> str:
    """A value in one short line."""
    text = (
        f"the class {value.__name__}"
        if isinstance(value, type)
        else str(value)
        if _number(value) is not None
        else repr(value)
    ).split("\n")[0]
    return text if len(text) <= 60 else f"{text[:60]}..."
