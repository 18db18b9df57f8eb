"""Settings that put a part of an experiment inside another one: ``feedback`` around algorithms, ``feasible`` around scenarios.

They are short for specs. ``feedback = "two_point:delta=0.01"`` turns the algorithm ``dgd:lr=0.02`` into
``bandit(dgd(lr=0.02),form=two_point,delta=0.01)``. The experiment holds the specs that they stand for. Labels, files
and fingerprints show these specs only.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distopt.catalog import registry
from distopt.catalog.parts import of_path, part
from distopt.catalog.places import looking_in
from distopt.catalog.spec import Spec, Value, shown
from distopt.errors import InputError, either, printable


@dataclass(frozen=True)
class Wrapping:
    """A setting that stands for a spec around another part, such as ``--feedback`` for ``bandit``.

    Attributes:
        part: of the experiment, "algorithm" or "scenario".
        name: of the entry that goes around it. It has a parameter ``form``.
        example: a value of the setting.
        needs: what an object in the place of a spec must have.
    """

    part: str
    name: str
    example: str
    needs: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Where the entry is found."""
        return f"{self.part}s"


WRAPPINGS = {
    "feedback": Wrapping("algorithm", "bandit", "two_point:delta=0.01", ("init", "update", "channels")),
    "feasible": Wrapping("scenario", "feasible", "ball:radius=1", ("batch", "loss", "grad", "dim")),
}
"""By the name of the setting."""


def bare(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an experiment without those of this module."""
    return {key: value for key, value in values.items() if key not in WRAPPINGS}


def wrapped(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an experiment, with ``feedback`` and ``feasible`` replaced by the specs that they stand for; "" and None are ignored.

    >>> wrapped({"algorithm": "dgd:lr=[0.1,0.2]", "feedback": "two_point:delta=0.1"})
    {'algorithm': 'bandit(dgd(lr=[0.1,0.2]),form=two_point,delta=0.1)'}

    Raises:
        InputError: a setting that is none, or a part that is inside such another one already.
    """
    found, folder = bare(values), values.get("folder")
    with looking_in(str(folder) if isinstance(folder, str | Path) else None):
        for setting, wrapping in WRAPPINGS.items():
            asked = values.get(setting)
            if asked is not None and not (isinstance(asked, str) and not asked):
                found[wrapping.part] = _around(setting, wrapping, asked, found[wrapping.part])
    return found


def _around(setting: str, wrapping: Wrapping, asked: Any, given: Any) -> Any:
    """The spec of a part, or the object, inside the wrapping entry."""
    if not isinstance(asked, str):
        raise InputError(f'{setting}={shown(asked)}: must be a text such as "{wrapping.example}"')
    told = f"{either(f'--{setting} ', f'{setting}=')}{printable(asked)}"
    name, kind = wrapping.name, wrapping.kind
    values = _values(told, wrapping, asked)
    inner = registry.wrapped(kind, name)
    assert inner is not None
    if isinstance(given, Path):
        given = of_path(wrapping.part, given)
    if not isinstance(given, str):
        alone = Spec.parse(Spec(name, values).inside)
        if alone.grids:
            raise InputError(f"{told}: a list of values needs each {wrapping.part} to be a spec")
        return dataclasses.replace(registry.make(kind, alone), **{inner: part(kind, given, wrapping.needs, {})})
    spec = Spec.parse(given)
    if spec.name != name:
        return Spec(name, (Value(spec.inside), *values)).inside
    # tuned algorithms are given with the whole spec, which may repeat the setting
    named = {each.key: each.text for each in registry.normal(kind, given).values}
    meant = Spec.parse(Spec(name, (Value(named[inner], inner), *values)).inside) if inner in named else None
    if meant is None or registry.normal(kind, given) not in [registry.normal(kind, each) for each in _points(meant)]:
        raise InputError(
            f"{told}: {wrapping.part} {printable(given)} already sets this to something else; leave one of them out"
        )
    return given


def _points(spec: Spec) -> list[str]:
    """The points of the lists in a spec, and itself."""
    return [str(spec), *spec.spelled()]


def _values(told: str, wrapping: Wrapping, asked: str) -> tuple[Value, ...]:
    """The form and the parameters of a setting, as values of the entry, after each has been checked."""
    name, kind = wrapping.name, wrapping.kind
    spec = Spec.parse(asked)
    forms = typing.get_args(typing.get_type_hints(registry.maker(kind, name))["form"])
    if spec.name not in forms:
        near = registry.nearest(spec.name, forms)
        raise InputError(f"{told}: must be one of {', '.join(forms)}, as in {wrapping.example}{near}")
    free = [key for key in registry.free(kind, name) if key not in ("form", registry.wrapped(kind, name))]
    if spec.args or any(key not in free for key, _ in spec.kwargs):
        raise InputError(f"{told}: parameters of {spec.name}: {', '.join(free)}, as in {wrapping.example}")
    values = (Value(spec.name, "form"), *spec.values)
    try:
        for point in Spec.parse(Spec(name, values).inside).points():
            registry.make(kind, point)
    except InputError as error:
        why = re.sub(rf"^({wrapping.part} )?{name}: ", "", str(error))
        raise InputError(f"{told}: {why}") from None
    return values
