"""The catalogue for readers: what each entry is, its parameters, papers and example, read from the text of its file.

Nothing is imported, so listing stays light.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from distopt.catalog import registry
from distopt.catalog.places import missing, place
from distopt.catalog.spec import Spec
from distopt.errors import InputError

_HEADING = re.compile(r"[A-Z][a-z]+:")
_KEY = re.compile(r"\[([a-z]+\d{4}[a-z]?)\]")
_ACCENTS = dict(zip("`'^\"~=.ucvH", "\u0300\u0301\u0302\u0308\u0303\u0304\u0307\u0306\u0327\u030c\u030b", strict=True))


NOTES = {
    "scenarios": {
        "comparator = False": "Nobody knows its minimisers: a run has no regrets, and the cost in their place."
    },
    "metrics": {
        "compares = True": "It compares with minimisers, so a scenario with ``comparator = False`` has no such metric."
    },
}
"""What an attribute of a class adds to its text, by kind."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a catalogue entry, as text.

    Attributes:
        name: its key in a spec.
        values: its type, or the values that it can have, as in ``"cta" | "atc"``; empty where it says none.
        default: None where it must be given.
        meaning: what the docstring says of it.
    """

    name: str
    values: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Entry:
    """One entry of the catalogue.

    Attributes:
        kind, name: as in ``distopt list``.
        text: the docstring without its sections and its example; the recursion is indented.
        parameters: those that a spec may set, in order.
        example: the doctest, which a test runs.
    """

    kind: str
    name: str
    text: str
    parameters: tuple[Parameter, ...]
    example: str

    @property
    def sentence(self) -> str:
        """The first line: what it is."""
        return self.text.split("\n")[0]

    @property
    def spec(self) -> str:
        """The entry with its defaults, as it is typed; ``...`` stands for what must be given.

        >>> entry("directions", "momentum").spec, entry("channels", "naive").spec
        ('momentum:b=0.9', 'naive:compressor=...')
        """
        given = [(each.name, "..." if each.default is None else each.default) for each in self.parameters]
        values = ",".join(f"{name}={value}" for name, value in given if value != "()")  # which nobody can type
        return f"{self.name}:{values}" if values else self.name

    @property
    def papers(self) -> list[str]:
        """The papers that it names, as lines of a list of references."""
        known = references()
        return [f"[{key}] {known[key]}" for key in dict.fromkeys(_KEY.findall(self.text)) if key in known]


def entry(kind: str, name: str) -> Entry:
    """A catalogue entry, from the text of its file.

    >>> [each.values for each in entry("algorithms", "gt").parameters]
    ['float | a schedule', '"cta" | "atc"', 'a direction']

    Raises:
        InputError: an unknown kind or name, with the nearest ones.
    """
    if name not in registry.names(kind):
        raise InputError(f"no {name!r} among the {kind}{registry.nearest(name, registry.names(kind))}")
    tree = ast.parse(registry.files(kind)[name].read_text())
    return _entry(kind, name, tree, next((n for n in _definitions(tree) if registry.same_name(n.name, name)), None))


def own(name: str) -> list[Entry]:
    """What a user's own file holds, as entries: the class or function that a spec of its path means, for each kind that it can be.

    A kind is told by the methods: who has ``update`` is an algorithm, who has ``batch`` a scenario.

    Raises:
        InputError: there is no such file, it is no Python, or nothing in it could be meant.
    """
    if (path := place(name)) is None:
        raise InputError(f"{missing(name)}; give the path of a Python file, or a name of the catalogue")
    try:
        tree = ast.parse(path.read_bytes())
        public = [node for node in _definitions(tree) if not node.name.startswith("_")]
        classes = [node for node in public if isinstance(node, ast.ClassDef)]
        meant = classes or public
        if (exact := next((node for node in public if registry.same_name(node.name, path.stem)), None)) is not None:
            its = _kind(exact, tree)  # it comes first among those of its kind; where its kind cannot be told, among all
            others = classes if exact in classes and its is not None else []
            meant = [exact, *(node for node in others if _kind(node, tree) != its)]
        kinds = [(kind, node) for node in meant if (kind := _kind(node, tree)) is not None]
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    except (SyntaxError, ValueError, RecursionError) as error:  # classes that inherit from one another, for one
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        raise InputError(f"{name}: {line}not Python ({getattr(error, 'msg', error)})") from error
    alone = [(kind, node) for kind, node in kinds if [each for each, _ in kinds].count(kind) == 1]
    if not alone:
        if meant and not kinds:
            raise InputError(
                f"{name}: nothing in it could be meant: the kind of {', '.join(node.name for node in meant)} cannot be told "
                "from the text; write its methods, such as update, in the class itself"
            )
        found = ", ".join(node.name for node in public) or "none"
        raise InputError(
            f"{name}: {'more than one thing' if public else 'nothing'} in it could be meant; name one class or function "
            f"{path.stem!r} (found: {found})"
        )
    return [_entry(kind, name, tree, node) for kind, node in alone]


def _entry(kind: str, name: str, tree: ast.Module, maker: ast.FunctionDef | ast.ClassDef | None) -> Entry:
    text, sections, example = _parts((maker and ast.get_docstring(maker)) or ast.get_docstring(tree) or "")
    text += "".join(f"\n\n{note}" for says, note in NOTES.get(kind, {}).items() if maker and says in _attributes(maker))
    meanings = {**_meanings(sections.get("Args", "")), **_meanings(sections.get("Attributes", ""))}
    given = registry.OPTIONS.get(kind, ())
    parameters = tuple(
        Parameter(
            each, _values(annotation, tree), None if value is None else _default(value, tree), meanings.get(each, "")
        )
        for each, annotation, value in (_fields(maker) if maker else ())
        if each not in given
    )
    return Entry(kind, name, text, parameters, example)


def find(name: str) -> list[Entry]:
    """The entries of a name, of whatever kinds, or what the user's own file of that path holds.

    >>> [each.kind for each in find("powergossip")]
    ['algorithms', 'channels']

    Raises:
        InputError: an unknown name, with the nearest ones; or the file explains nothing (see ``own``).
    """
    if ".py" in name and (file := Spec.parse(name).name).endswith(".py"):
        return own(file)
    plain = name.partition(":")[0].partition("(")[0].strip().replace("-", "_")
    found = [entry(kind, plain) for kind in registry.KINDS if plain in registry.names(kind)]
    if not found:
        known = {*registry.KINDS, *(each for kind in registry.KINDS for each in registry.names(kind))}
        raise InputError(
            f"{name!r} is neither a kind nor a name{registry.nearest(name, sorted(known))}; kinds: {', '.join(registry.KINDS)}"
        )
    return found


@cache
def references() -> Mapping[str, str]:
    """The papers of references.bib by key, each as a line.

    >>> references()["kingma2015"][:31]
    'Kingma, Ba: Adam: A Method for '
    """
    text = (Path(__file__).parent.parent / "references.bib").read_text(encoding="utf-8")
    return {
        key: _reference(dict(_bib_fields(body))) for key, body in re.findall(r"@\w+\{([^,]+),(.*?)\n\}", text, re.S)
    }


# --------------------------------------------------------------------------------------------------------- of one file


def _definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    yield from (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))


def _kind(node: ast.FunctionDef | ast.ClassDef, tree: ast.Module) -> str | None:
    """What a class is, or what a function makes, if it is of a kind; a function that says nothing of it makes a network."""
    if isinstance(node, ast.ClassDef):
        return registry.told(_methods(node, tree))
    given = {each.arg for each in (*node.args.args, *node.args.kwonlyargs)}
    if {"problem", "blocks"} <= given:
        return "engines"
    made = _class(ast.unparse(node.returns), tree) if node.returns else None
    return (made and registry.told(_methods(*made))) or "topologies"


def _methods(node: ast.ClassDef, tree: ast.Module) -> set[str]:
    """The methods of a class, inherited ones included."""
    above = [_class(ast.unparse(base), tree) for base in node.bases]
    own = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    return own.union(*(_methods(*each) for each in above if each is not None))


def _class(name: str, tree: ast.Module) -> tuple[ast.ClassDef, ast.Module] | None:
    """The class of a name, where the module defines it or takes it from another module of ours."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, tree
        if (there := _imported(node, name)) is not None:
            return _class(name, there)
    return None


def _fields(maker: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """(name, annotation, default) of what a function takes, or of the fields of a dataclass."""
    if isinstance(maker, ast.ClassDef):
        init = next((n for n in maker.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init is None:
            for node in maker.body if any("dataclass" in ast.unparse(each) for each in maker.decorator_list) else ():
                if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
                    yield ast.unparse(node.target), node.annotation, node.value
            return
        maker = init
    free = [each for each in maker.args.args if each.arg != "self"]
    for each, value in zip(free, [*[None] * (len(free) - len(maker.args.defaults)), *maker.args.defaults], strict=True):
        yield each.arg, each.annotation, value
    for each, value in zip(maker.args.kwonlyargs, maker.args.kw_defaults, strict=True):
        yield each.arg, each.annotation, value


def _attributes(maker: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """What the body of a class assigns, as text without types."""
    return [
        f"{ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)} = {ast.unparse(node.value)}"
        for node in maker.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    ]


def _default(value: ast.expr, tree: ast.Module) -> str:
    """A default as it is typed in a spec: an object that the module makes, such as ``sign = Sign()``, by the name of its entry."""
    if isinstance(value, ast.Constant):
        return str(value.value) or "''"
    if isinstance(value, ast.Name) and (meant := _assigned(value.id, tree)) is not None:
        return _default(*meant)
    if isinstance(value, ast.Call):
        called = ast.unparse(value.func)
        names = {name for kind in registry.NESTED.values() for name in registry.names(kind)}
        name = next((name for name in names if registry.same_name(name, called)), called)
        given = [*value.args, *value.keywords]
        return f"{name}({','.join(map(ast.unparse, given))})" if given else name
    return ast.unparse(value).replace("'", "")


def _values(annotation: ast.expr | None, tree: ast.Module) -> str:
    """A type as text: the choices of a ``Literal``, wherever it has its name, and a nested part by its kind."""
    if annotation is None:
        return ""
    if isinstance(annotation, ast.BinOp):
        sides = (_values(annotation.left, tree), _values(annotation.right, tree))
        return " | ".join(side for side in sides if side)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        return " | ".join(
            part.strip().replace("'", '"') for part in ast.unparse(annotation.slice).strip("()").split(",")
        )
    text = ast.unparse(annotation)
    nested = registry.NESTED.get(text.partition("[")[0])
    if nested:
        return f"a {nested[:-1]}"
    if isinstance(annotation, ast.Name) and (meant := _assigned(text, tree)) is not None:
        return _values(*meant)
    return text


def _assigned(name: str, tree: ast.Module) -> tuple[ast.expr, ast.Module] | None:
    """What a module calls ``name``, where it assigns it or takes it from another module of ours."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=False))
                for each, value in pairs:
                    if isinstance(each, ast.Name) and each.id == name:
                        return value, tree
        if (there := _imported(node, name)) is not None:
            return _assigned(name, there)
    return None


def _imported(node: ast.stmt, name: str) -> ast.Module | None:
    """The module of ours that a statement takes ``name`` from."""
    if not isinstance(node, ast.ImportFrom) or name not in (alias.name for alias in node.names):
        return None
    package, *inner = (node.module or "").split(".")
    base = Path(__file__).parent.parent.joinpath(*inner)
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return ast.parse(path.read_text()) if package == "distopt" and path.is_file() else None


def _parts(docstring: str) -> tuple[str, dict[str, str], str]:
    """The text of a docstring, its sections by heading, and its doctest."""
    blocks: dict[str, list[str]] = {"": []}
    heading = ""
    for line in docstring.splitlines():
        if line.startswith(">>>") or (heading == ">>>" and line.startswith("...")):
            heading = ">>>"
        elif _HEADING.fullmatch(line):
            heading = line[:-1]
            blocks.setdefault(heading, [])
            continue
        elif line and not line.startswith(" ") and heading not in ("", ">>>"):
            heading = ""  # a section has ended
        blocks.setdefault(heading, []).append(line)
    texts = {key: "\n".join(lines).strip("\n") for key, lines in blocks.items()}
    return re.sub(r"\n{3,}", "\n\n", texts.pop("")), texts, texts.pop(">>>", "")


def _meanings(section: str) -> dict[str, str]:
    """What a section of parameters says of each: ``name: text`` or ``one, other: text``, with lines that go on."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        match = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        names = match.group(1).split(", ") if match else names
        for name in names:
            found[name] = f"{found.get(name, '')} {match.group(2) if match else line.strip()}".strip()
    return found


# ---------------------------------------------------------------------------------------------------------- of a paper


def _bib_fields(body: str) -> Iterator[tuple[str, str]]:
    """The fields of a BibTeX entry, without braces and with their accents."""
    for line in re.split(r",\s*\n", body):
        key, equals, value = line.strip().partition("=")
        if equals:
            yield key.strip(), _plain(value.strip().rstrip(","))


def _plain(value: str) -> str:
    r"""A BibTeX value as text.

    >>> _plain(r"{Erd{\H{o}}s, Paul and R{\'e}nyi, Alfr{\'e}d}")
    'Erdős, Paul and Rényi, Alfréd'
    """
    accented = re.sub(
        r"\\([`'^\"~=.ucvH])\s*\{?(\w)\}?", lambda match: match.group(2) + _ACCENTS[match.group(1)], value
    )
    return unicodedata.normalize("NFC", re.sub(r"[{}\\$]", "", accented)).replace("--", "-")


def _reference(fields: Mapping[str, str]) -> str:
    """Authors, title, where and when."""
    authors = [each.partition(",")[0].strip() for each in fields.get("author", "").split(" and ")]
    place = next((fields[key] for key in ("journal", "booktitle", "institution", "publisher") if key in fields), "")
    number = f"{fields.get('volume', '')}{'(' + fields['number'] + ')' if 'number' in fields else ''}"
    link = f"doi:{fields['doi']}" if "doi" in fields else f"arXiv:{fields['eprint']}" if "eprint" in fields else ""
    pieces = [f"{place} {number}".strip(), fields.get("year", ""), link]
    return f"{', '.join(authors)}: {fields.get('title', '')}. {', '.join(piece for piece in pieces if piece)}"
