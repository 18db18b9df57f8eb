"""Grids: algorithms that differ only in numbers run as one batch, one after the other along the trials axis.

With G grid points and R trials x is [G R, N, d]; point g holds rows g R .. (g + 1) R - 1. The algorithm is ONE object
whose differing numbers are ``GridScalar``. So a round of 100 points takes as many operations as a round of one, on
longer tensors, instead of 100 times as many.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.numerics.trees import default_dtype, tensors, tree_map
from distopt.simulation.plan import tried
from distopt.simulation.problem import Problem


class GridScalar:
    """A number per grid point in place of one float of an algorithm; arithmetic with it acts on every point.

    Arithmetic with numbers stays in Python's float64. So ``1 - b1`` is rounded to a run's float32 only when it meets a
    tensor, like a Python number. A float32 tensor would have rounded b1 before. With a tensor it is [G R, 1, 1] of its
    dtype.

    >>> b = GridScalar((0.25, 0.5), repeat=1)
    >>> ((1 - b) * torch.ones(2, 1, 1)).flatten().tolist()
    [0.75, 0.5]
    """

    __hash__ = None  # type: ignore[assignment]  # unhashable, as Python itself writes it

    def __init__(self, values: Sequence[float], repeat: int) -> None:
        self.values, self.repeat = tuple(values), repeat
        column = torch.tensor(self.values, dtype=torch.float64).repeat_interleave(repeat).reshape(-1, 1, 1)
        self.columns = {torch.float64: column, torch.float32: column.to(torch.float32)}

    @classmethod
    def __torch_function__(
        cls, f: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        met = [
            value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dtype.is_floating_point
        ]
        dtype, device = (met[0].dtype, met[0].device) if met else (torch.get_default_dtype(), torch.device("cpu"))

        def column(value: Any) -> Any:
            return value.columns[dtype].to(device) if isinstance(value, GridScalar) else value

        return f(*[column(value) for value in args], **{name: column(value) for name, value in kwargs.items()})

    def _with(self, f: Callable[[Any, Any], Any], other: Any) -> Any:
        if isinstance(other, Tensor):
            return GridScalar.__torch_function__(f, (), (self, other))
        others = other.values if isinstance(other, GridScalar) else (other,) * len(self.values)
        return GridScalar([f(a, b) for a, b in zip(self.values, others, strict=True)], self.repeat)

    def __add__(self, other: Any) -> Any:
        return self._with(operator.add, other)

    def __radd__(self, other: Any) -> Any:
        return self._with(lambda a, b: b + a, other)

    def __sub__(self, other: Any) -> Any:
        return self._with(operator.sub, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with(lambda a, b: b - a, other)

    def __mul__(self, other: Any) -> Any:
        return self._with(operator.mul, other)

    def __rmul__(self, other: Any) -> Any:
        return self._with(lambda a, b: b * a, other)

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, Tensor):
            return self * other.reciprocal()  # so torch divides a Python number by a tensor: not the bits of a division
        return self._with(operator.truediv, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with(lambda a, b: b / a, other)

    def __neg__(self) -> GridScalar:
        return GridScalar([-value for value in self.values], self.repeat)

    def __bool__(self) -> bool:
        raise TypeError("numbers of several grid points have no single truth value")

    def __eq__(self, other: object) -> bool:
        raise TypeError("numbers of several grid points do not compare as one")


def batches(problems: Sequence[Problem]) -> list[list[int]]:
    """Which problems of one comparison can run as one, by place: their algorithms differ in floats alone, and they have as many rounds.

    An algorithm that uses such a number outside of arithmetic with tensors (``if self.lr > 1``, ``x ** self.p``) may
    fail on ``GridScalar`` or round differently. So three rounds of the update are tried. If they do not give the bits
    of each point alone, the points run one after the other.
    """
    found: list[list[int]] = []
    for k, problem in enumerate(problems):
        fitting = [
            batch
            for batch in found
            if problems[batch[0]].rounds == problem.rounds
            and alike(problems[batch[0]].algorithm, problem.algorithm)
            and _same(problems[batch[0]].channels, problem.channels)
        ]
        if fitting:
            fitting[0].append(k)
        else:
            found.append([k])
    out: list[list[int]] = []
    for batch in found:
        together = len(batch) == 1 or faithful([problems[k] for k in batch])
        out += [batch] if together else [[k] for k in batch]
    return out


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two problems send through the same channels: a batch has one of each."""
    return list(a) == list(b) and all(
        a[name] == b[name]
        or (type(a[name]) is type(b[name]) and getattr(a[name], "__dict__", 0) == getattr(b[name], "__dict__", 1))
        for name in a
    )


def alike(a: Any, b: Any) -> bool:
    """Whether two objects are the same but for floats in them.

    >>> from distopt.algorithms.gtadam import gtadam
    >>> alike(gtadam(0.1), gtadam(0.2, b1=0.5)), alike(gtadam(0.1), gtadam(0.1, form="atc"))
    (True, False)
    """
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, Tensor):
        return False
    if isinstance(a, float):
        return True
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, str | int | None):
        return bool(a == b)
    return hasattr(a, "__dict__") and not hasattr(a, "__code__") and not isinstance(a, type) and alike(vars(a), vars(b))


def merge(parts: Sequence[Any], repeat: int) -> Any:
    """``alike`` objects as one, a ``GridScalar`` in the place of each float that differs.

    >>> from distopt.algorithms.gtadam import gtadam
    >>> both = merge([gtadam(0.1), gtadam(0.2)], repeat=3)
    >>> both.lr.values, both.direction.b1
    ((0.1, 0.2), 0.9)
    """
    first = parts[0]
    if all(part is first for part in parts) or isinstance(first, str | int | None):
        return first
    if isinstance(first, float):
        return first if all(part == first for part in parts) else GridScalar(parts, repeat)
    if isinstance(first, dict):
        return {key: merge([part[key] for part in parts], repeat) for key in first}
    if isinstance(first, list | tuple):
        items = [merge(each, repeat) for each in zip(*parts, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    twin = copy.copy(first)
    for name, value in merge([vars(part) for part in parts], repeat).items():
        object.__setattr__(twin, name, value)  # the class may be frozen; its own checks have passed for every point
    return twin


def stack(problems: Sequence[Problem]) -> Problem:
    """The problems as one whose trials axis is [G R]; its key repeats the R trials, so that all points draw the same numbers."""
    first = problems[0]
    if len(problems) == 1:
        return first
    trials = first.key.trials.tolist()
    return dataclasses.replace(
        first,
        algorithm=merge([problem.algorithm for problem in problems], len(trials)),
        key=Key(first.key.seed, range(first.agents), trials * len(problems), first.agents),
        network=first.network.repeated(len(problems)),
        x0=torch.cat([problem.x0 for problem in problems]),
        points=tuple(problem.experiment for problem in problems),
    )


def repeated(tree: Any, times: int) -> Any:
    """Leaves [K|1, R, ...] of a block's data as [K|1, times R, ...]; those that all trials share stay [K|1, 1, ...]."""
    return (
        tree if times == 1 else tree_map(lambda leaf: torch.cat([leaf] * times, 1) if leaf.shape[1] > 1 else leaf, tree)
    )


def faithful(problems: Sequence[Problem], rounds: int = 3) -> bool:
    """Whether some rounds of the stacked update, on random gradients and without a network, have the bits of each point's own."""
    (trials, _, dim), dtype = problems[0].x0.shape, problems[0].x0.dtype
    shape = (trials, -(-4096 // (trials * dim)), dim)  # as many agents as make enough numbers for a rounding to show
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(rounds + 1)]

    def after(algorithm: Any, points: int) -> list[Tensor]:
        x = torch.cat([drawn[0]] * points)
        with default_dtype(dtype):
            held = x, algorithm.init(x.clone())
        for t, g in enumerate(drawn[1:]):
            held, _ = tried(algorithm, held, torch.cat([g] * points), t, grad=torch.sin)
        return tensors(held)

    try:
        whole = after(stack(problems).algorithm, len(problems))
    except Exception:  # any error: an error of the algorithm itself occurs again, and is reported, when it runs alone
        return False
    for g, problem in enumerate(problems):
        rows = slice(g * trials, (g + 1) * trials)
        if not all(torch.equal(leaf[rows], own) for leaf, own in zip(whole, after(problem.algorithm, 1), strict=True)):
            return False
    return True
