"""Names on the command line become objects: the folders are the registry, the signatures are the schema.

A spec is ``name``, ``name:key=value,key=value`` or ``name(key=value)``, which can stand inside another where a parameter is
such an object, as in ``gt:direction=adam(b1=0.5)``. A list ``[a,b,c]`` in place of a value of an algorithm is a grid: one
algorithm for each (``points``). Instead of a name, the path of a Python file works too; it ends at the
first ``.py`` before ``:`` or ``(``, and may hold blanks and brackets. A value may stand in single or double quotes: commas,
brackets, colons and equals signs inside are then part of it, as in ``stream:path="data/a,b.csv",label=y``. Keys may be left
out, in the order of the parameters. Listing reads the files as text, so nothing heavy is imported.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distopt.errors import InputError

KINDS = ("topologies", "scenarios", "algorithms", "directions", "channels", "compressors")
_USERS = "distopt_user_"
_NESTED = {"Direction": "directions", "Compressor": "compressors"}


@dataclass(frozen=True)
class Spec:
    """A parsed spec: a name (or path of a .py file), positional values and keyword values, all as text without quotes."""

    name: str
    args: tuple[str, ...] = ()
    kwargs: tuple[tuple[str, str], ...] = ()


def parse(text: str) -> Spec:
    """Parse ``name:key=value,key=other(a=1)``.

    >>> parse("gt:lr=0.1,direction=adam(b1=0.5)").kwargs[1][1]
    'adam(b1=0.5)'
    >>> parse("stream:'a,b.csv',label=y").args
    ('a,b.csv',)

    Raises:
        InputError: unbalanced brackets or quotes, an empty name, or an empty value.
    """
    text = text.strip()
    head = _head(text)
    name, rest = head.strip(), text[len(head) :].lstrip()
    if rest.startswith("("):
        if not rest.endswith(")"):
            raise InputError(f"{text!r}: the brackets after the name must close at the end")
        rest = rest[1:-1]
    else:
        rest = rest[1:]
    if not name:
        raise InputError(f"{text!r}: no name before the parameters; write name:key=value,key=value")
    args: list[str] = []
    kwargs: list[tuple[str, str]] = []
    for part in _split(rest, text):
        match = re.match(r"([A-Za-z_]\w*)\s*=(.*)", part, re.S)
        value = _unquoted((match.group(2) if match else part).strip(), text, part)
        if match:
            if any(key == match.group(1) for key, _ in kwargs):
                raise InputError(f"{text!r}: {match.group(1)} is given twice")
            kwargs.append((match.group(1), value))
        else:
            args.append(value)
    return Spec(name, tuple(args), tuple(kwargs))


def _head(text: str) -> str:
    """The part of a spec before its parameters: the path of a .py file, which may hold brackets, else up to ``:`` or ``(``."""
    paths = [text[: match.end()] for match in re.finditer(r"\.py(?=\s*(?:[:(]|$))", text)]
    for path in paths:
        if _file(path):
            return path
    for path in paths:  # no such file: what looks like one, so that an error can name it
        if ":" not in path and path.count("(") == path.count(")"):
            return path
    match = re.match(r"[^:(]*", text)
    return match.group() if match else ""


def _split(text: str, whole: str) -> list[str]:
    """The parts of ``text`` between the commas outside brackets and quotes; a quote opens only where a value begins."""
    parts: list[str] = []
    depth, start, quote, begins = 0, 0, "", True
    for position, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
            continue
        if char in "'\"" and begins:
            quote, begins = char, False
            continue
        depth += (char in "([") - (char in ")]")
        if depth < 0:
            raise InputError(f"{whole!r}: unexpected {char!r}; a value with brackets in it goes in quotes")
        if char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
        begins = char in "=,([" or (begins and char.isspace())
    if quote:
        raise InputError(f"{whole!r}: the quote {quote} is not closed")
    if depth:
        raise InputError(f"{whole!r}: a bracket is not closed; a value with brackets in it goes in quotes")
    parts.append(text[start:])
    return [part.strip() for part in parts] if text.strip() else []


def points(spec: str) -> list[str]:
    """The specs of a grid, one for each choice from the lists ``[a,b,c]`` in place of values; the first list varies slowest.

    >>> points("gt:lr=[0.1,0.2],direction=momentum(b=[0.5,0.9])")[1]
    'gt:lr=0.1,direction=momentum(b=0.9)'
    >>> points("gt:lr=0.1")
    ['gt:lr=0.1']

    Raises:
        InputError: a list that is empty, has an empty entry, or is not closed.
    """
    spec = spec.strip()
    quote, begins, position = "", False, len(_head(spec))
    while position < len(spec):
        char = spec[position]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and begins:
            quote = char
        elif char == "[" and begins:
            end = spec.find("]", position)
            values = [value.strip() for value in spec[position + 1 : end].split(",")]
            if end < 0 or not all(values) or "[" in spec[position + 1 : end]:
                raise InputError(f"{spec!r}: a grid is a list of values such as lr=[0.01,0.02]; a value with brackets in it goes in quotes")
            return [point for value in values for point in points(spec[:position] + value + spec[end + 1 :])]
        begins = char in "=,(:" or (begins and char.isspace())
        position += 1
    return [spec]


def values(listed: str) -> list[str]:
    """The values of a list ``a,b,c``: what holds commas of its own stands in quotes or in brackets.

    >>> values("sea,'moving_target:dim=3,kappa=2',gt(lr=0.1,form=atc)")
    ['sea', 'moving_target:dim=3,kappa=2', 'gt(lr=0.1,form=atc)']
    """
    return [_unquoted(part, listed, listed) for part in _split(listed, listed)]


def with_value(spec: str, key: str, value: str) -> str:
    """A spec with a parameter set, in the place where it was or after the others.

    >>> with_value("gt:lr=0.1,form=atc", "lr", "0.2"), with_value("gtadam(b1=0.5)", "direction", "adam(b1=0.5)")
    ('gt:lr=0.2,form=atc', 'gtadam:b1=0.5,direction=adam(b1=0.5)')

    Raises:
        InputError: a malformed spec.
    """
    spec = spec.strip()
    parse(spec)
    head = _head(spec)
    rest = spec[len(head) :].strip()
    parts = _split(rest[1:-1] if rest.startswith("(") else rest[1:], spec)
    mark = '"' if "'" in value else "'"
    new = f"{key}={value}" if _one(value) else f"{key}={mark}{value}{mark}"
    there = [bool(re.match(rf"{re.escape(key)}\s*=", part)) for part in parts]
    settled = [new if mine else part for part, mine in zip(parts, there, strict=True)]
    return f"{head.strip()}:{','.join(settled if any(there) else [*parts, new])}"


def _one(value: str) -> bool:
    """Whether a value stands for itself, without quotes."""
    try:
        return _split(value, value) == [value]
    except InputError:
        return False


def _unquoted(value: str, whole: str, part: str) -> str:
    if not value:
        raise InputError(f"{whole!r}: empty value in {part!r}; write key=value,key=value")
    if value[0] not in "'\"":
        return value
    if value.index(value[0], 1) != len(value) - 1:
        raise InputError(f"{whole!r}: something follows the closing quote in {part!r}; quote the whole value")
    return value[1:-1]


def _file(text: str) -> Path | None:
    """The file that a text names, ``~`` expanded, if there is one."""
    path = Path(os.path.expanduser(text))  # leaves an unknown ~user alone, where Path.expanduser raises
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):  # too long to be a path
        return None


def paths(spec: str) -> list[Path]:
    """The existing files that a spec names, as its maker or in a value, nested ones included; ``~`` is expanded.

    What cannot be parsed names none.

    >>> paths("ring"), [path.name for path in paths(f"stream:path='{__file__}',label=y")]
    ([], ['catalog.py'])
    """
    try:
        parsed = parse(spec)
    except InputError:
        return []
    found = [_file(parsed.name) if parsed.name.endswith(".py") else None]
    for value in (*parsed.args, *(value for _, value in parsed.kwargs)):
        file = _file(value)
        found += [file] if file else paths(value) if "(" in value or ":" in value else []
    return [path for path in found if path]


def brief(spec: str) -> str:
    """A spec for a title: the path of a Python file shrinks to its stem.

    >>> brief("experiments/mine.py:lr=0.1")
    'mine:lr=0.1'
    """
    head = _head(spec.strip())
    return (Path(head).stem if head.endswith(".py") else head) + spec.strip()[len(head) :]


def folder(kind: str) -> Path:
    """Where the files of a kind lie."""
    here = Path(__file__).parent
    return next((p for p in (here / kind, here.parent / kind) if p.is_dir()), here / kind)


def names(kind: str) -> list[str]:
    """The catalogue of a kind, sorted."""
    if kind not in KINDS:
        raise InputError(f"no kind {kind!r}{_nearest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
    return sorted(path.stem for path in folder(kind).glob("*.py") if not path.stem.startswith("_"))


def describe(kind: str, name: str) -> tuple[str, str]:
    """(signature, first sentence) of a catalogue entry, read from its text without importing it."""
    tree = ast.parse((folder(kind) / f"{name}.py").read_text())
    makers = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and _key(n.name) == _key(name)]
    if not makers:
        return "", (ast.get_docstring(tree) or "").split("\n")[0]
    maker = makers[0]
    if isinstance(maker, ast.FunctionDef):
        arguments = maker.args.args + maker.args.kwonlyargs
        defaults = [None] * (len(maker.args.args) - len(maker.args.defaults)) + [*maker.args.defaults, *maker.args.kw_defaults]
        pairs = [(a.arg, d) for a, d in zip(arguments, defaults, strict=True)]
    else:
        fields = [n for n in maker.body if isinstance(n, ast.AnnAssign) and "ClassVar" not in ast.unparse(n.annotation)]
        pairs = [(ast.unparse(n.target), n.value) for n in fields]
    pairs = [(name, value) for name, value in pairs if name not in ("agents", "key")]  # set by options of their own
    signature = ", ".join(key if value is None else f"{key}={ast.unparse(value)}" for key, value in pairs)
    return signature, (ast.get_docstring(maker) or ast.get_docstring(tree) or "").split("\n")[0]


def _key(name: str) -> str:
    return name.replace("_", "").lower()


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def maker(kind: str, name: str) -> Callable[..., Any]:
    """The class or function behind a catalogue name or the path of a user's Python file."""
    if name.endswith(".py"):
        path = _file(name)
        if path is None:
            raise InputError(f"no file {name!r} for {kind}; give the path of a Python file or one of: {', '.join(names(kind))}")
        module = _import_file(path)
        stem = path.stem
    else:
        known = names(kind)
        if name not in known and name.replace("-", "_") in known:
            name = name.replace("-", "_")
        if name not in known:
            raise InputError(f"no {name!r} among the {kind}{_nearest(name, known)}; known: {', '.join(known)}, or a path of a .py file")
        module = importlib.import_module(f"distopt.{kind}.{name}")
        stem = name
    found = {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
        and not (inspect.isclass(value) and issubclass(value, tuple))
    }
    exact = [value for key, value in found.items() if _key(key) == _key(stem)]
    if exact:
        return typing.cast(Callable[..., Any], exact[0])
    method = {"algorithms": "update", "scenarios": "batch", "compressors": "encode", "directions": "__call__", "channels": "init"}
    fitting = [v for v in found.values() if inspect.isclass(v) and kind in method and hasattr(v, method[kind])]
    candidates: list[Any] = [*fitting] or [*found.values()]
    if len(candidates) == 1:
        return typing.cast(Callable[..., Any], candidates[0])
    raise InputError(
        f"{name}: {'nothing' if not candidates else 'more than one thing'} in it could be meant for {kind}; name one class or function "
        f"{stem!r} (found: {', '.join(found) or 'none'})"
    )


def imported() -> list[types.ModuleType]:
    """The users' files that were imported."""
    return [module for name, module in sys.modules.items() if name.startswith(_USERS)]


def _import_file(path: Path) -> types.ModuleType:
    digest = hashlib.sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"{_USERS}{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being executed
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def make(kind: str, spec: str | Spec, given: Mapping[str, Any] | None = None) -> Any:
    """Build the object a spec names. ``given`` (agents, key) is passed where the maker has such a parameter.

    >>> make("algorithms", "gtadam:lr=0.01,b2=0.99").direction.b2
    0.99

    Raises:
        InputError: an unknown name or parameter (with the nearest known ones), or a value of the wrong type.
    """
    if isinstance(spec, str):
        spec = parse(spec)
    build = maker(kind, spec.name)
    signature = inspect.signature(build)
    hints = typing.get_type_hints(build if inspect.isfunction(build) else build.__init__)
    where = f"{kind[:-3] + 'y' if kind.endswith('ies') else kind[:-1]} {spec.name}"
    own = {key: value for key, value in (given or {}).items() if key in signature.parameters}
    free = [key for key in signature.parameters if key not in own]
    if len(spec.args) > len(free):
        raise InputError(f"{where}: unexpected value {spec.args[len(free)]!r}; parameters: {', '.join(free) or 'none'}")
    values: dict[str, str] = dict(zip(free, spec.args, strict=False))
    for key, value in spec.kwargs:
        if key in own:
            raise InputError(f"{where}: {key} is set by its own option, not inside the spec")
        if key not in free:
            raise InputError(f"{where}: no parameter {key!r}{_nearest(key, free)}; parameters: {', '.join(free) or 'none'}")
        if key in values:
            raise InputError(f"{where}: {key} is given twice")
        values[key] = value
    arguments = {key: _convert(value, hints.get(key, str), f"{where}: {key}") for key, value in values.items()}
    missing = [
        key
        for key, parameter in signature.parameters.items()
        if parameter.default is parameter.empty and key not in arguments and key not in own
    ]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} must be given, as in {spec.name}:{missing[0]}=...")
    return build(**own, **arguments)


def _convert(value: str, hint: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    nested = _NESTED.get(getattr(origin or hint, "__name__", ""))
    if nested:
        return make(nested, value)
    if origin is Literal:
        if value in options:
            return value
        raise InputError(f"{where}={value} is not one of {', '.join(map(str, options))}")
    if origin in (typing.Union, types.UnionType):
        if type(None) in options and value in ("none", "None"):
            return None
        choices = [option for option in options if option is not type(None)]
        for option in choices[:-1]:
            try:
                return _convert(value, option, where)
            except InputError:  # the next alternative may fit; the last one speaks for all
                continue
        return _convert(value, choices[-1], where)
    if hint is bool:
        if value.lower() in ("true", "yes", "1", "on"):
            return True
        if value.lower() in ("false", "no", "0", "off"):
            return False
        raise InputError(f"{where}={value} is not true or false")
    if hint in (int, float):
        try:
            return hint(value)
        except ValueError:
            raise InputError(f"{where}={value} is not {'a whole number' if hint is int else 'a number'}") from None
    return value
