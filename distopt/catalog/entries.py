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

from distopt.catalog import registry, source
from distopt.catalog.places import missing, place
from distopt.catalog.spec import Spec
from distopt.errors import InputError, either

_HEADING = re.compile(r"[A-Z][a-z]+:")
_KEY = re.compile(r"\[([a-z]+\d{4}[a-z]?)\]")
_ACCENTS = dict(zip("`'^\"~=.ucvH", "\u0300\u0301\u0302\u0308\u0303\u0304\u0307\u0306\u0327\u030c\u030b", strict=True))


NOTES = {
    "scenarios": {"comparator = False": "Its minimisers are unknown: runs have the cost in place of regrets."},
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
        values: its type, or its possible values, as in ``"cta" | "atc"``; empty if it has no annotation.
        default: None if it must be given.
        meaning: its text in the docstring.
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
        values = ",".join(
            f"{name}={value}" for name, value in given if value not in source.EMPTY
        )  # which cannot be typed
        return f"{self.name}:{values}" if values else self.name

    @property
    def keys(self) -> list[str]:
        """The keys in references.bib of the papers that it names."""
        return [key for key in dict.fromkeys(_KEY.findall(self.text)) if key in references()]

    @property
    def papers(self) -> list[str]:
        """The papers that it names, as lines of a list of references."""
        return [f"[{key}] {references()[key]}" for key in self.keys]


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
    return _entry(
        kind, name, tree, next((n for n in source.definitions(tree) if registry.same_name(n.name, name)), None)
    )


def own(name: str) -> list[Entry]:
    """What a user's own file holds, as entries: the class or function that a spec of its path means, for each kind that it can be.

    The methods decide the kind: a class with ``update`` is an algorithm, a class with ``batch`` a scenario.

    Raises:
        InputError: the file does not exist, is not Python, or holds nothing that can be used.
    """
    if (path := place(name)) is None:
        raise InputError(f"{missing(name)}; give the path of a Python file, or a name of the catalogue")
    try:
        tree = ast.parse(path.read_bytes())
        public = [node for node in source.definitions(tree) if not node.name.startswith("_")]
        classes = [node for node in public if isinstance(node, ast.ClassDef)]
        meant = classes or public
        if (exact := next((node for node in public if registry.same_name(node.name, path.stem)), None)) is not None:
            its = source.kind(
                exact, tree
            )  # it comes first among those of its kind; if its kind is not clear, among all
            others = classes if exact in classes and its is not None else []
            meant = [exact, *(node for node in others if source.kind(node, tree) != its)]
        kinds = [(kind, node) for node in meant if (kind := source.kind(node, tree)) is not None]
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    except (SyntaxError, ValueError, RecursionError) as error:  # classes that inherit from one another, for one
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        raise InputError(f"{name}: {line}not Python ({getattr(error, 'msg', error)})") from error
    alone = [(kind, node) for kind, node in kinds if [each for each, _ in kinds].count(kind) == 1]
    if not alone:
        if meant and not kinds:
            raise InputError(
                f"{name}: nothing in it can be used: the kind of {', '.join(node.name for node in meant)} is not clear "
                "from the text; write its methods, such as update, in the class itself"
            )
        found = ", ".join(node.name for node in public) or "none"
        raise InputError(
            f"{name}: {'more than one thing' if public else 'nothing'} in it can be used; name one class or function "
            f"{path.stem!r} (found: {found})"
        )
    return [_entry(kind, name, tree, node) for kind, node in alone]


def _entry(kind: str, name: str, tree: ast.Module, maker: ast.FunctionDef | ast.ClassDef | None) -> Entry:
    text, sections, example = _parts((maker and ast.get_docstring(maker)) or ast.get_docstring(tree) or "")
    text += "".join(
        f"\n\n{note}" for says, note in NOTES.get(kind, {}).items() if maker and says in source.attributes(maker)
    )
    above = [*source.lineage(maker, tree)][:0:-1] if isinstance(maker, ast.ClassDef) else []
    said = [*(_parts(ast.get_docstring(node) or "")[1] for node, _ in above), sections]
    meanings = {
        key: text
        for each in said
        for part in ("Args", "Attributes")
        for key, text in _meanings(each.get(part, "")).items()
    }
    given = registry.OPTIONS.get(kind, ())
    parameters = tuple(
        Parameter(
            each,
            source.values(annotation, there),
            None if value is None else source.default(value, there),
            meanings.get(each, ""),
        )
        for each, annotation, value, there in (source.fields(maker, tree) if maker else ())
        if each not in given
    )
    return Entry(kind, name, text, parameters, example)


def find(name: str) -> list[Entry]:
    """The entries of a name, of all kinds, or the entries in the user's file of that path.

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
        if plain == "weights":
            rules = either("--weights", "weights=")
            raise InputError(
                f"'weights' is neither a kind nor a name; the rules are values of {rules}, see docs/simulate.md"
            )
        known = {*registry.KINDS, *(each for kind in registry.KINDS for each in registry.names(kind))}
        raise InputError(
            f"{name!r} is neither a kind nor a name{registry.nearest(name, sorted(known))}; kinds: {', '.join(registry.KINDS)}"
        )
    return found


def cited(kind: str, spec: str) -> list[str]:
    """The keys in references.bib of the papers that a part names, and the parts inside it; defaults count.

    >>> cited("algorithms", "gtadam:lr=0.1"), cited("channels", "choco:compressor=sign")
    (['carnevale2023'], ['koloskova2019', 'karimireddy2019'])

    Raises:
        InputError: there is no such part.
    """
    parsed = Spec.parse(spec)
    mine = [parsed.name] if parsed.name in registry.names(kind) else []
    found = entry(kind, *mine) if mine else next((each for each in own(parsed.name) if each.kind == kind), None)
    if found is None:
        return []
    keys, free = found.keys, iter(parsed.args)
    given = dict(parsed.kwargs)
    for parameter in found.parameters:
        value = given[parameter.name] if parameter.name in given else next(free, parameter.default) or ""
        for inner in registry.NESTED.values():
            name = value.partition("(")[0].strip()
            if source.one_of(inner) in parameter.values and (name in registry.names(inner) or ".py" in value):
                keys += cited(inner, value)
    return list(dict.fromkeys(keys))


@cache
def references() -> Mapping[str, str]:
    """The papers of references.bib by key, each as a line.

    >>> references()["kingma2015"][:31]
    'Kingma, Ba: Adam: A Method for '
    """
    return {
        key: _reference(dict(_bib_fields(text.removesuffix("\n}").partition(",")[2])))
        for key, text in bibliography().items()
    }


@cache
def bibliography() -> Mapping[str, str]:
    """The entries of references.bib by key, unchanged."""
    text = (Path(__file__).parent.parent / "references.bib").read_text(encoding="utf-8")
    return {key: whole for whole, key in re.findall(r"(@\w+\{([^,]+),.*?\n\})", text, re.S)}


# ------------------------------------------------------------------------------------------------------- of a docstring


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
    """The text about each parameter in a section of a docstring: ``name: text`` or ``one, other: text``, with continuation lines."""
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
