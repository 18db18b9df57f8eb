"""The parts of an experiment as a user gives them: a spec of the catalogue, or an object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distopt.catalog import registry
from distopt.catalog.spec import quoted
from distopt.errors import InputError
from distopt.optional import DEFAULTS, completed


def part(kind: str, spec: Any, needs: tuple[str, ...], given: dict[str, Any]) -> Any:
    """The object that a spec of a kind makes, with the arguments ``given`` to its maker; or the object itself.

    What it may leave out it has afterwards (see ``distopt.optional``).

    Raises:
        InputError: a class in place of an object, or an object that lacks one of the attributes that it ``needs``.

    >>> part("algorithms", "dgd:lr=0.5", ("init",), {}).lr
    0.5
    """
    built = registry.make(kind, spec, given) if isinstance(spec, str) else spec
    if isinstance(built, type):
        raise InputError(f"{built.__name__} was given as a class; give an object of it, as in {built.__name__}()")
    for need in needs:
        if not hasattr(built, need):
            raise InputError(f"{label(spec)} cannot be used among the {kind}: it has no {need!r}")
    return completed(DEFAULTS[kind], built)


def label(spec: Any) -> str:
    """A part in messages: its spec, or the type of the object.

    >>> label("gt:lr=0.1"), label(1.5)
    ('gt:lr=0.1', 'float')
    """
    return spec if isinstance(spec, str) else type(spec).__name__


def called(kind: str, spec: Any) -> str:
    """The name of a part in messages: its name in the spec, with the name of a part of the same kind inside it, or its type.

    >>> called("algorithms", "averaged(dgd(lr=0.5),start=3)"), called("algorithms", "gt:lr=0.1"), called("algorithms", 1.5)
    ('averaged(dgd)', 'gt', 'float')
    """
    if not isinstance(spec, str):
        return type(spec).__name__.lower()
    parsed = registry.Spec.parse(spec)
    given = {**dict(zip(registry.free(kind, parsed.name), parsed.args, strict=False)), **dict(parsed.kwargs)}
    inner = given.get(registry.wrapped(kind, parsed.name) or "")
    return parsed.name if inner is None else f"{parsed.name}({called(kind, inner)})"


def of_path(part: str, path: Path) -> str:
    """The spec of a part that is given as a path: a Python file is its maker, and what a topology is read from is a file.

    >>> of_path("algorithm", Path("d/mine.py")), of_path("topology", Path("a,b.edges"))
    ('d/mine.py', "file:path='a,b.edges'")
    """
    if path.suffix != ".py" and part != "topology":
        raise InputError(f"{part}={str(path)!r}: the path of a {part} must end in .py")
    return str(path) if path.suffix == ".py" else f"file:path={quoted(str(path))}"
