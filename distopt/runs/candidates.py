"""The candidates of tuning: a grid of step sizes, and the specs of an algorithm with these step sizes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from distopt.catalog import entries, registry
from distopt.catalog.spec import Spec, Value, real, shown
from distopt.catalog.spec import values as listed
from distopt.errors import InputError, either
from distopt.experiment import repeated

MOST = 1000
"""Step sizes of a grid."""

GREATEST = 1e100
"""The largest step size that is tried; the smallest is one over it."""

USUAL = "1e-4..1,3"
"""The default grid."""


@dataclass(frozen=True)
class Grid:
    """Step sizes as text: a logarithmic grid, which can be extended on both sides, or a list, which cannot.

    Attributes:
        low: the smallest step size of a logarithmic grid.
        each: how many step sizes it has in each decade; 0 for a list.
        steps: which of low 10^(j / each) it holds.
        entries: those of a list.

    >>> grid(USUAL).values[:5]
    ('0.0001', '0.000215', '0.000464', '0.001', '0.00215')
    >>> grid(USUAL).below().values, grid("0.01,0.03").values
    (('1e-05', '2.15e-05', '4.64e-05'), ('0.01', '0.03'))
    """

    low: float
    each: int
    steps: range
    entries: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[str, ...]:
        """The step sizes in rising order, to three digits; those of a list as they were given."""
        return self.entries or tuple(f"{self.low * 10 ** (j / self.each):.3g}" for j in self.steps)

    def below(self) -> Grid:
        """The decade below it."""
        return replace(self, steps=range(self.steps.start - self.each, self.steps.start))

    def above(self) -> Grid:
        """The decade above it."""
        return replace(self, steps=range(self.steps.stop, self.steps.stop + self.each))


def grid(asked: Any) -> Grid:
    """The grid of a text ``"lr=LOW..HIGH,PER_DECADE"``, or of a list ``"lr=0.01,0.03"`` or ``[0.01, 0.03]``.

    Raises:
        InputError: it is neither, or holds a number that is no step size, or one twice, or too many.
    """
    said = either("--grid ", "grid=") + either(str(asked), shown(asked))
    how = "write lr=LOW..HIGH,POINTS_PER_DECADE, as in lr=1e-4..1,3, or a list, as in lr=0.01,0.03"
    if isinstance(asked, np.ndarray):
        asked = asked.tolist()
    if isinstance(asked, list | tuple):
        if any(isinstance(each, bool) or not isinstance(each, int | float | np.number | str) for each in asked):
            raise InputError(f"{said}: step sizes must be numbers; {how}")
        return _list([str(each) for each in asked], said, how)
    if not isinstance(asked, str):
        raise InputError(f"{said}: {how}")
    key, equals, text = asked.partition("=")
    text = text.strip() if equals else asked.strip()
    if equals and key.strip() != "lr":
        raise InputError(f"{said}: a grid holds values of lr; for another parameter use {either('--over', 'over=')}")
    match = re.fullmatch(r"([^,]+?)\.\.([^,]+)(?:,([^,]+))?", text)
    if not match:
        return _list(listed(text), said, how)
    low, high = (_size(each, said) for each in match.group(1, 2))
    per_decade = match.group(3) or "3"
    if not re.fullmatch(r"\s*[1-9][0-9]?\s*", per_decade):
        raise InputError(f"{said}: the points per decade must be a whole number from 1 to 99; {how}")
    if low >= high:
        raise InputError(f"{said}: the first step size must be below the second; {how}")
    each = int(per_decade)
    count = int(np.floor(each * (np.log10(high) - np.log10(low)) + 1e-9)) + 1
    found = Grid(low, each, range(min(count, MOST + 1)))
    return _checked(found, said, how)


def _list(entries: Sequence[str], said: str, how: str) -> Grid:
    if not entries:
        raise InputError(f"{said}: no step sizes; {how}")
    for each in entries:
        _size(each, said)
    return _checked(Grid(0.0, 0, range(0), tuple(sorted(entries, key=float))), said, how)


def _checked(found: Grid, said: str, how: str) -> Grid:
    if len(found.values) > MOST:
        raise InputError(f"{said}: more than {MOST:,} step sizes; {how}")
    if (twice := repeated([float(each) for each in found.values])) is not None:
        raise InputError(f"{said}: {found.values[twice]} is given twice")
    return found


def _size(text: str, said: str) -> float:
    try:
        value = real(text)
    except ValueError as error:
        raise InputError(f"{said}: {text.strip()!r} {error}") from None
    if value <= 0:
        raise InputError(f"{said}: {text.strip()}: a step size must be above 0")
    if not 1 / GREATEST <= value <= GREATEST:  # extending a grid beyond these would overflow
        raise InputError(f"{said}: {text.strip()}: a step size must lie between {1 / GREATEST:g} and {GREATEST:g}")
    return value


def constants(asked: Sequence[str] | Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The values of other parameters by name, as text, of ``["b1=0.5,0.9"]`` or ``{"b1": [0.5, 0.9]}``.

    Raises:
        InputError: a name that is none, or that is lr or there twice; no values.
    """
    if isinstance(asked, Mapping):
        pairs = [
            (key, [str(one) for one in (each if isinstance(each, list | tuple) else [each])])
            for key, each in asked.items()
        ]
    elif isinstance(asked, list | tuple) and all(isinstance(each, str) for each in asked):
        cut = [each.partition("=") for each in asked]
        pairs = [(key, listed(values) if equals else []) for key, equals, values in cut]
    else:
        raise InputError(f"over={shown(asked)}: must be a dict of lists, as in {{'b1': [0.5, 0.9]}}")
    found: dict[str, tuple[str, ...]] = {}
    for key, values in pairs:
        key = key.strip() if isinstance(key, str) else key
        said = f"{either('--over ', 'over: ')}{key if isinstance(key, str) else shown(key)}"
        if not isinstance(key, str) or not key.isidentifier() or not values:
            raise InputError(
                f"{said}: {either('write NAME=VALUE,VALUE, as in b1=0.5,0.9', 'write {NAME: [VALUE, VALUE]}')}"
            )
        if key == "lr":
            raise InputError(f"{said}: step sizes belong into the grid; use {either('--grid', 'grid=')}")
        if key in found or repeated(values) is not None:
            raise InputError(f"{said} is given twice; write all values in one list")
        found[key] = tuple(values)
    return found


class Candidate(NamedTuple):
    """A spec that is tried, its step size (or the scale of its schedule), and its spec without the step size."""

    spec: str
    lr: float
    rest: str


@dataclass(frozen=True)
class Family:
    """An algorithm as it was given, and its candidates.

    Attributes:
        given: the spec, as it was typed.
        defaults: the algorithm without tuning: the spec without its lists; None if it needs a value that only a list
            gives.
        usual: its step size then, or the scale of its schedule.
        grid: of its step sizes.
        bases: the specs that differ in other parameters, each with some step size.
    """

    given: str
    defaults: str | None
    usual: float | None
    grid: Grid
    bases: tuple[Spec, ...]

    @classmethod
    def of(cls, given: str, usual: Grid, over: Mapping[str, Sequence[str]]) -> Family:
        """The family of a spec. A list for lr in the spec replaces the grid; other lists count like those of ``over``.

        >>> family = Family.of("gtadam:lr=[0.1,0.2]", grid(USUAL), {"b1": ["0.5", "0.9"]})
        >>> family.defaults, [each.spec for each in family.candidates(family.grid)][1]
        ('gtadam', 'gtadam:lr=0.2,b1=0.5')

        Raises:
            InputError: a malformed spec, an unknown parameter, or none that could be tuned.
        """
        spec = Spec.parse(given)
        registry.normal("algorithms", given)  # raises InputError for an unknown parameter
        if "lr" not in parameters(spec):
            raise InputError(f"algorithm {given}: has no parameter lr, so there is nothing to tune; leave it out")
        steps = _steps(spec, given)
        own = replace(usual, entries=steps) if steps else usual
        if steps:
            own = _list(steps, f"algorithm {given}: lr", "write lr=[0.01,0.03]")
        base = _at(spec, own.values[0])
        there = {key: values for key, values in over.items() if key in parameters(spec)}
        bases = []
        for chosen in product(*([(key, value) for value in values] for key, values in there.items())):
            each = base
            for key, value in chosen:
                each = _set(each, key, value)
            bases += each.points()
        return cls(given, *_defaults(spec), own, tuple(bases))

    def candidates(self, steps: Grid) -> list[Candidate]:
        """Its candidates with these step sizes."""
        return [
            Candidate(str(_at(base, lr)), float(lr), _rest(str(base))) for base in self.bases for lr in steps.values
        ]


def parameters(spec: Spec) -> list[str]:
    """The parameters of an algorithm, and those of one inside it.

    >>> parameters(Spec.parse("averaged(dgd)"))
    ['algorithm', 'start', 'every', 'lr', 'form', 'direction']
    """
    inner = _inside(spec)
    return [*registry.free("algorithms", spec.name), *(parameters(inner[1]) if inner else ())]


def _inside(spec: Spec) -> tuple[str, Spec] | None:
    """The inner algorithm, as in ``averaged``: its parameter and its spec; None if there is none."""
    key = registry.wrapped("algorithms", spec.name)
    if key is None:
        return None
    value = _value(spec, key)
    known = (each for entry in entries.find(spec.name) if entry.kind == "algorithms" for each in entry.parameters)
    default = next(each.default for each in known if each.name == key)
    text = default if value is None else value.text
    return None if text is None else (key, Spec.parse(text))


def _value(spec: Spec, key: str, kind: str = "algorithms") -> Value | None:
    """The value that a spec has for a parameter."""
    unnamed = iter(registry.free(kind, spec.name))
    return next((each for each in spec.values if (each.key or next(unnamed, "")) == key), None)


def _with(spec: Spec, key: str, changed: Callable[[Value | None], str]) -> Spec:
    """The spec with another value of a parameter, which may belong to the inner algorithm. ``changed`` computes it from the old value."""
    names = registry.free("algorithms", spec.name)
    inner = None if key in names else _inside(spec)
    if inner is None:
        return spec.replace(key, changed(_value(spec, key)), names)
    return spec.replace(inner[0], _with(inner[1], key, changed).inside, names)


def _set(spec: Spec, key: str, value: str) -> Spec:
    """The spec with a parameter set, which may belong to the inner algorithm."""
    return _with(spec, key, lambda _: value)


def _scheduled(value: Value | None) -> Spec | None:
    """The schedule that a value for lr is; None for a number or a list."""
    if value is None or value.listed:
        return None
    try:
        real(value.text)
    except ValueError:
        return Spec.parse(value.text)
    return None


def _rate(spec: Spec) -> Value | None:
    """The value for lr, of the algorithm or of its inner algorithm."""
    inner = None if "lr" in registry.free("algorithms", spec.name) else _inside(spec)
    return _rate(inner[1]) if inner else _value(spec, "lr")


def _steps(spec: Spec, given: str) -> tuple[str, ...]:
    """The list for lr in a spec, or for the scale of its schedule; empty where there is none."""
    value = _rate(spec)
    schedule = _scheduled(value)
    if schedule is not None:
        if "lr" not in registry.free("schedules", schedule.name):
            raise InputError(
                f"algorithm {given}: the schedule {schedule.name} has no parameter lr to tune; give a number, or another schedule"
            )
        value = _value(schedule, "lr", "schedules")
    return tuple(listed(value.text[1:-1])) if value is not None and value.listed else ()


def _at(spec: Spec, lr: str) -> Spec:
    """The spec with another step size, or another scale of its schedule."""

    def changed(value: Value | None) -> str:
        schedule = _scheduled(value)
        return lr if schedule is None else schedule.replace("lr", lr, registry.free("schedules", schedule.name)).inside

    return _with(spec, "lr", changed)


def _rest(spec: str) -> str:
    """A spec without its step size: equal for specs that differ only in the step size."""
    return str(_without(Spec.parse(spec)))


def _without(spec: Spec) -> Spec:
    """The normal form of a spec, without its step size."""
    found = registry.normal("algorithms", str(spec))
    inner = None if "lr" in registry.free("algorithms", found.name) else _inside(found)
    if inner is not None:
        others = [each for each in found.values if each.key != inner[0]]
        return Spec(found.name, (Value(_without(inner[1]).inside, inner[0]), *others))
    schedule = _scheduled(_value(found, "lr"))
    lr = []
    if schedule is not None:
        other = (each for each in registry.normal("schedules", str(schedule)).values if each.key != "lr")
        lr = [Value(Spec(schedule.name, tuple(other)).inside, "lr")]
    return Spec(found.name, (*lr, *(each for each in found.values if each.key != "lr")))


def _plain(spec: Spec) -> Spec:
    """The spec without parameters that are lists. The inner algorithm stays, without its lists."""
    unnamed = iter(registry.free("algorithms", spec.name))
    keyed = [replace(each, key=each.key or next(unnamed, ""), typed="") for each in spec.values]
    inner, kept = _inside(spec), []
    for each in keyed:
        if not Spec.parse(f"x:{each}").grids:
            kept.append(each)
        elif inner is not None and each.key == inner[0]:
            kept.append(Value(_plain(inner[1]).inside, each.key))
    return spec if kept == keyed else Spec(spec.name, tuple(kept))


def _defaults(spec: Spec) -> tuple[str | None, float | None]:
    """The spec without lists, and its step size; None if the algorithm then lacks a value that it needs."""
    plain = _plain(spec)
    try:
        registry.bound("algorithms", plain)
    except InputError:
        return None, None
    lr = _usual(plain)
    scale = getattr(lr, "lr", lr)
    return str(plain), float(scale) if isinstance(scale, int | float) else None


def _usual(spec: Spec) -> Any:
    """The step size that an algorithm has as it is spelled, or the one inside it."""
    known = inspect.signature(registry.bound("algorithms", spec)).parameters
    inner = None if "lr" in known else _inside(spec)
    return _usual(inner[1]) if inner else known["lr"].default
