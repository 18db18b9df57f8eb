"""The files that a spec names: Python files of classes, and data."""

from __future__ import annotations

import os
from pathlib import Path

from distopt.catalog.places import place, rooted, whereabouts
from distopt.catalog.spec import DEEPEST, Spec, Value
from distopt.errors import InputError


def files(spec: str) -> list[tuple[str, Path]]:
    """The existing files that a spec names, as its maker or in a value, nested ones included: as they are written there, and the paths.

    What cannot be parsed names none.
    """
    return _files(spec, DEEPEST)


def _files(spec: str, deepest: int) -> list[tuple[str, Path]]:
    try:
        parsed = Spec.parse(spec)
    except InputError:
        return []
    found: list[tuple[str, Path]] = []
    if parsed.name.endswith(".py") and (file := place(parsed.name)):
        found.append((parsed.name, file))
    for value in (*parsed.args, *(value for _, value in parsed.kwargs)):
        if file := place(value):
            found.append((value, file))
        elif deepest and ("(" in value or ":" in value):
            found += _files(value, deepest - 1)
    return found


def paths(spec: str) -> list[Path]:
    """The existing files that a spec names (see ``files``); ``~`` is expanded.

    >>> paths("ring"), [path.name for path in paths(f"stream:path='{__file__}',label=y")]
    ([], ['spec_files.py'])
    """
    return [path for _, path in files(spec)]


def rebased(spec: str, folder: str) -> str:
    """A spec of files in the present folder, as one whose relative paths are of another ``folder``. What names no such file stays.

    >>> rebased("gt:lr=0.1", "elsewhere"), rebased("quadratic(dim=3)", "elsewhere")
    ('gt:lr=0.1', 'quadratic(dim=3)')
    """
    relative = {text for text, _ in files(spec) if not rooted(text)}
    if not relative:
        return spec
    base = whereabouts(".").resolve()

    def moved(text: str) -> str:
        return os.path.relpath(base / text, Path(folder).resolve()) if text in relative else text

    def inner(value: str) -> str:
        return moved(value) if value in relative else rebased(value, folder) if "(" in value or ":" in value else value

    parsed = Spec.parse(spec)
    values = [*(each for each in parsed.values if not each.key), *(each for each in parsed.values if each.key)]
    return str(Spec(moved(parsed.name), tuple(Value(inner(each.text), each.key, each.listed) for each in values)))
