"""Names on the command line become objects: the folders are the registry, the signatures are the schema.

``distopt.catalog.spec`` defines specs; ``distopt.catalog.entries`` reads the entries' texts.
"""

from __future__ import annotations

import collections.abc
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from distopt.catalog.hints import elsewhere, nearest, parameter
from distopt.catalog.places import missing, place, rooted, whereabouts
from distopt.catalog.spec import Spec, Value, brief, real, whole
from distopt.errors import USERS, InputError, either, slip

__all__ = ["Spec", "brief", "nearest"]  # re-exported, so that callers import names and entries from one module

KINDS = (
    "topologies",
    "scenarios",
    "algorithms",
    "directions",
    "schedules",
    "channels",
    "compressors",
    "metrics",
    "probes",
    "engines",
)
OPTIONS = {"topologies": ("agents", "key"), "scenarios": ("agents",), "engines": ("problem", "blocks", "mode")}
"""Parameters that no spec sets: they have options of their own."""
SIGNS = (
    ("algorithms", {"update"}),
    ("scenarios", {"batch"}),
    ("compressors", {"encode", "decode"}),
    ("channels", {"encode", "init"}),
    ("directions", {"init", "__call__"}),
    ("schedules", {"__call__"}),
    ("metrics", {"term"}),
    ("metrics", {"round_term"}),
    ("metrics", {"value"}),
    ("probes", {"measure"}),
    ("topologies", {"arcs"}),
)
"""The methods that decide a class's kind: the first kind whose methods it all has."""
NESTED = {k[:-1].capitalize(): k for k in ("algorithms", "scenarios", "directions", "schedules", "compressors")}


def folder(kind: str) -> Path:
    """Where the files of a kind lie."""
    here = Path(__file__).parent.parent
    return next((p for p in (here / kind, here.parent / kind) if p.is_dir()), here / kind)


def names(kind: str) -> list[str]:
    """The catalogue of a kind, sorted."""
    if kind not in KINDS:
        raise InputError(f"no kind {kind!r}{nearest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
    return sorted(files(kind))


def files(kind: str) -> dict[str, Path]:
    """The file of each entry: ``NAME.py``, or ``NAME/__init__.py`` where that defines NAME and is no helper of other entries."""
    found = {path.stem: path for path in folder(kind).glob("*.py") if not path.stem.startswith("_")}
    for path in folder(kind).glob("*/__init__.py"):
        name = path.parent.name
        if re.search(rf"^(?:def|class) {re.escape(name)}\b", path.read_text(), re.MULTILINE):
            found[name] = path
    return found


def same_name(one: str, other: str) -> bool:
    """Whether a file and a class or function in it have the same name, as ``gtadam`` and ``GTAdam``, or ``c_gt`` and ``CGT``."""
    return one.replace("_", "").lower() == other.replace("_", "").lower()


def unknown(kind: str, name: str) -> str:
    """The message for an unknown name of a kind."""
    known = names(kind)
    if meant := elsewhere(kind, name, names("compressors")):
        return f"no {name!r} among the {kind}; {meant}"
    listed = either("distopt list", "distopt.catalog.registry.names of") + f" {kind}"
    some = f"known: {', '.join(known)}, or" if len(known) <= 40 else f"see {listed}, or give"
    return f"no {name!r} among the {kind}{nearest(name, known)}; {some} a path of a .py file"


def maker(kind: str, name: str) -> Callable[..., Any]:
    """The class or function behind a catalogue name or the path of a user's Python file.

    The one that is called as the file comes first. If its methods say that it is of another kind, a class of this kind does.
    """
    if name.endswith(".py"):
        path = place(name)
        if path is None:
            raise InputError(f"{missing(name)} for {kind}; give the path of a Python file, or a name of the catalogue")
        module = _import_file(path)
        stem = path.stem
    else:
        known = names(kind)
        if name not in known and name.replace("-", "_") in known:
            name = name.replace("-", "_")
        if name not in known:
            raise InputError(unknown(kind, name))
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
    classes = [value for value in found.values() if inspect.isclass(value)]
    fitting = [each for each in classes if told(dir(each)) == kind]
    exact = [value for key, value in found.items() if same_name(key, stem)]
    if exact and (exact[0] in fitting or not fitting or exact[0] not in classes or told(dir(exact[0])) is None):
        return typing.cast(Callable[..., Any], exact[0])
    some = set().union(*(needed for each, needed in SIGNS if each == kind))
    fitting = fitting or [each for each in classes if some & {*dir(each)}]
    candidates: list[Any] = fitting or [*found.values()]
    if len(candidates) == 1:
        return typing.cast(Callable[..., Any], candidates[0])
    raise InputError(
        f"{name}: {'nothing' if not candidates else 'more than one thing'} in it can be used for {kind}; name one class or function "
        f"{stem!r} (found: {', '.join(found) or 'none'})"
    )


def told(methods: typing.Iterable[str]) -> str | None:
    """The kind that a class is of, by its methods.

    >>> told(["init", "update"]), told(["init", "__call__"]), told(["run"])
    ('algorithms', 'directions', None)
    """
    there = set(methods)
    return next((kind for kind, needed in SIGNS if needed <= there), None)


def imported() -> list[types.ModuleType]:
    """The users' files that were imported."""
    return [module for name, module in sys.modules.items() if name.startswith(USERS)]


def _import_file(path: Path) -> types.ModuleType:
    try:
        digest = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape") + path.read_bytes()).hexdigest()[
            :12
        ]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    name = f"{USERS}{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"
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
        line = slip(error).rpartition(", line ")[2]
        at = f", line {line}" if line else ""
        raise InputError(f"{path}{at}: {type(error).__name__}: {error}") from error
    return module


def make(kind: str, spec: str | Spec, given: Mapping[str, Any] | None = None) -> Any:
    """Build the object a spec names. ``given`` (agents, key) is passed where the maker has such a parameter.

    >>> make("algorithms", "gtadam:lr=0.01,b2=0.99").direction.b2
    0.99

    Raises:
        InputError: an unknown name or parameter (with the nearest known ones), or a value of the wrong type.
    """
    if isinstance(spec, str):
        spec = Spec.parse(spec)
    build = bound(kind, spec, given)
    try:
        return build()
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a user's own class may raise anything
        raise InputError(f"{_where(kind, spec.name)}: {type(error).__name__}: {error}") from error


def bound(kind: str, spec: str | Spec, given: Mapping[str, Any] | None = None) -> partial[Any]:
    """The maker that a spec names, with its values and with ``given``, not called yet.

    >>> bound("algorithms", "gtadam:lr=0.01,b2=0.99").keywords
    {'lr': 0.01, 'b2': 0.99}

    Raises:
        InputError: as ``make``, without errors of the maker itself.
    """
    if isinstance(spec, str):
        spec = Spec.parse(spec)
    build = maker(kind, spec.name)
    where = _where(kind, spec.name)
    known, hints = _parameters(build, where)
    own = {key: value for key, value in (given or {}).items() if key in known}
    given_values = _named(spec, [key for key in known if key not in own], own, where)
    arguments = {}
    for key, value in given_values.items():
        hint = hints.get(key, str)
        arguments[key] = _convert(_found(key, value, hint, spec), hint, f"{where}: {key}", given)
    left = [
        key
        for key, parameter in known.items()
        if parameter.default is parameter.empty and key not in arguments and key not in own
    ]
    if left:
        raise InputError(f"{where}: {', '.join(left)} must be given, as in {spec.name}:{left[0]}=...")
    return partial(build, **own, **arguments)


def _where(kind: str, name: str) -> str:
    """A part in a message."""
    return f"{kind[:-3] + 'y' if kind.endswith('ies') else kind[:-1]} {name}"


def _parameters(build: Callable[..., Any], where: str) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The parameters of a maker that have names, in order, and their declared types."""
    try:
        known = inspect.signature(build).parameters
        hints = typing.get_type_hints(build if inspect.isfunction(build) else build.__init__)
    except Exception as error:  # a type that is not there, for one
        raise InputError(
            f"{where}: its parameters cannot be read ({type(error).__name__}: {error}); correct its annotations"
        ) from error
    return {
        key: each for key, each in known.items() if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }, hints


def _named(spec: Spec, free: list[str], own: Mapping[str, Any], where: str) -> dict[str, str]:
    """The values of a spec by name. Values without a key are the first parameters, in order."""
    if len(spec.args) > len(free):
        raise InputError(f"{where}: unexpected value {spec.args[len(free)]!r}; parameters: {', '.join(free) or 'none'}")
    named: dict[str, str] = dict(zip(free, spec.args, strict=False))
    for key, value in spec.kwargs:
        if key in own:
            raise InputError(f"{where}: {key} is set by its own option, not inside the spec")
        if key not in free:
            raise InputError(
                f"{where}: no parameter {key!r}{parameter(key, free)}; parameters: {', '.join(free) or 'none'}"
            )
        if key in named:
            raise InputError(f"{where}: {key} is given twice")
        named[key] = value
    return named


def free(kind: str, name: str) -> list[str]:
    """The parameters that a spec may set, in order.

    >>> free("topologies", "file"), free("scenarios", "stream")[:2]
    (['path', 'directed'], ['path', 'label'])
    """
    known, _ = _parameters(maker(kind, name), name)
    return [key for key in known if key not in OPTIONS.get(kind, ())]


def normal(kind: str, spec: str) -> Spec:
    """The normal form of a spec, equal for specs of the same meaning: all values by name, sorted.

    >>> str(normal("algorithms", "gt:0.1,form=atc")), str(normal("algorithms", "gt(form = atc, lr='0.1')"))
    ('gt:form=atc,lr=0.1', 'gt:form=atc,lr=0.1')

    Raises:
        InputError: a malformed spec, or an unknown name or parameter.
    """
    parsed = Spec.parse(spec)
    named = _named(parsed, free(kind, parsed.name), {}, parsed.name)
    return Spec(parsed.name, tuple(Value(named[key], key) for key in sorted(named)))


def _found(key: str, value: str, hint: Any, spec: Spec) -> str:
    """A value that names a file, as a path from the folder where the process is.

    A file is what a parameter called ``path``, or of the type ``Path``, names; in a user's own class, any text that looks like the path of one.
    """
    looks, meant = "." in value or "/" in value, key == "path" or _is_path(hint)
    if rooted(value):
        return value
    if (path := place(value)) is None:
        return str(whereabouts(value)) if meant and looks else value  # so that a later error names the full path
    return (
        str(path) if str(path) != value and (meant or (looks and spec.name.endswith(".py") and hint is str)) else value
    )


def _is_path(hint: Any) -> bool:
    return hint is Path or Path in typing.get_args(hint)


def _kind(hint: Any) -> str | None:
    """The kind that a parameter of this type takes a spec of."""
    return NESTED.get(getattr(hint, "__name__", ""))


def wrapped(kind: str, name: str) -> str | None:
    """The parameter of an entry that takes another part, such as the inner algorithm of ``bandit``; None if there is none."""
    hints = _parameters(maker(kind, name), name)[1].items()
    return next((key for key, hint in hints if _kind(typing.get_origin(hint) or hint) == kind), None)


def _names(value: str, kind: str) -> bool:
    """Whether a value is a spec of a kind."""
    name = Spec.parse(value).name
    return name.endswith(".py") or name.replace("-", "_") in names(kind)


def function(text: str, where: str) -> Callable[..., Any]:
    """What a module of the user's defines under a name, from ``FILE.py:NAME``; ``where`` begins the messages.

    Raises:
        InputError: there is no such file, it cannot be imported, or nothing in it that can be called has the name.
    """
    spec = Spec.parse(text)
    path = place(spec.name)
    if not spec.name.endswith(".py") or path is None:
        raise InputError(f"{where}={text}: {missing(spec.name)}; give a function in a Python file, FILE.py:NAME")
    module = _import_file(path)
    found = {key: each for key, each in vars(module).items() if callable(each) and not key.startswith("_")}
    own = [key for key, each in found.items() if getattr(each, "__module__", None) == module.__name__]
    if len(spec.args) != 1 or spec.kwargs or spec.args[0] not in found:
        asked = f"nothing there is called {spec.args[0]}" if spec.args else f"write {spec.name}:NAME"
        raise InputError(
            f"{where}={text}: {asked}{nearest(spec.args[0], own) if spec.args else ''}; it has: {', '.join(own) or 'no function'}"
        )
    return typing.cast(Callable[..., Any], found[spec.args[0]])


def _is_function(hint: Any) -> bool:
    """Whether a parameter of this type takes ``FILE.py:NAME``."""
    return typing.get_origin(hint) is collections.abc.Callable


def _convert(value: str, hint: Any, where: str, given: Mapping[str, Any] | None = None) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    nested = _kind(origin or hint)
    if nested:
        try:
            return make(nested, value, given)
        except InputError as error:
            if nested != "algorithms":
                raise
            raise InputError(f"{where.partition(':')[0]}: {error}") from error  # names both algorithms
    if origin is Literal:
        if value in options:
            return value
        other = next((f"; {value} stands among the {kind}" for kind in KINDS if value in names(kind)), "")
        raise InputError(f"{where}={value} is not one of {', '.join(map(str, options))}{other}")
    if origin in (typing.Union, types.UnionType):
        if type(None) in options and value in ("none", "None"):
            return None
        choices = [each for each in options if each is not type(None) and typing.get_origin(each) is not tuple]
        for option in choices[:-1]:
            try:
                return _convert(value, option, where)
            except InputError as error:  # the next alternative may fit; the last one speaks for all
                fault = error
        if _is_function(choices[-1]) and not Spec.parse(value).name.endswith(".py"):
            raise InputError(f"{fault}, nor a function in a Python file, FILE.py:NAME")
        if _kind(choices[-1]) == "schedules" and not _names(value, "schedules"):
            name = Spec.parse(value).name
            raise InputError(f"{fault}, and {unknown('schedules', name)}" if name != value else str(fault))
        return _convert(value, choices[-1], where)
    if _is_function(hint):
        return function(value, where)
    if hint is bool:
        if value.lower() in ("true", "yes", "1", "on"):
            return True
        if value.lower() in ("false", "no", "0", "off"):
            return False
        raise InputError(f"{where}={value} is not true or false")
    if hint in (int, float):
        try:
            return whole(value) if hint is int else real(value)
        except ValueError as error:
            raise InputError(f"{where}={value} {error}") from None
    return Path(value).expanduser() if hint is Path else value
