"""The pages of the catalogue: what is read from the text of a file is what its class or function says when it is imported."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.asking import call

from distopt.catalog import entries, registry
from distopt.errors import InputError

CASES = [pytest.param(kind, name, id=f"{kind}-{name}") for kind in registry.KINDS for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_page_says_what_the_maker_says(kind: str, name: str) -> None:
    page = entries.entry(kind, name)
    maker = registry.maker(kind, name)
    known = inspect.signature(maker).parameters
    assert [each.name for each in page.parameters] == registry.free(kind, name)
    assert [each.name for each in page.parameters if each.default is None] == [
        key for key in registry.free(kind, name) if known[key].default is inspect.Parameter.empty
    ]
    assert page.text.split() and page.sentence.endswith(".")
    assert all(heading not in page.text for heading in ("Raises:", "Args:", "Attributes:", ">>>"))
    assert page.example.startswith(">>>") or kind in ("metrics", "engines")  # which need a whole run
    cited = re.findall(r"\[([a-z]+\d{4}[a-z]?)\]", inspect.getdoc(maker) or "")
    assert {paper.split("]")[0][1:] for paper in page.papers} == set(cited), "a paper is not in references.bib"


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_spec_of_a_page_is_the_entry_with_its_defaults(kind: str, name: str) -> None:
    page = entries.entry(kind, name)
    free = registry.free(kind, name)
    known = inspect.signature(registry.maker(kind, name)).parameters
    if kind in ("scenarios", "algorithms", "directions", "channels", "compressors") and "..." not in page.spec:
        given = {"agents": 4}
        made, plain = registry.make(kind, page.spec, given), registry.make(kind, name, given)
        assert made == plain
    else:
        spelled = registry.Spec.parse(page.spec)
        assert [key for key, _ in spelled.kwargs] == free
        for key, value in spelled.kwargs:
            default: Any = known[key].default
            assert value == "..." if default is inspect.Parameter.empty else value == str(default)


def test_the_papers_are_lines_without_marks_of_tex() -> None:
    for key, line in entries.references().items():
        assert re.fullmatch(r"[^{}$\\\n]+: [^{}$\\\n]+\. [^{}$\\\n]*\d{4}[^{}$\\\n,]*(, (doi|arXiv):\S+)?", line), (
            key,
            line,
        )
    assert entries.references()["horvath2022"].startswith("Horváth, Ho, Horváth, Sahu, Canini, Richtárik: ")


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="no 'gtadm' among the algorithms .did you mean gtadam"):
        entries.entry("algorithms", "gtadm")
    with pytest.raises(InputError, match="no kind 'algorithm' .did you mean algorithms"):
        entries.entry("algorithm", "gt")
    with pytest.raises(InputError, match="'powergosip' is neither a kind nor a name .did you mean powergossip.."):
        entries.find("powergosip")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_shipped_file_reads_as_a_users_own(kind: str) -> None:
    for name, path in registry.files(kind).items():
        page = entries.entry(kind, name)
        if path.name == "__init__.py":
            continue  # a folder is no file of a user's
        assert entries.own(str(path)) == [replace(page, name=str(path))]


OWN = '''"""Two parts in a file."""
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple
class State(NamedTuple):
    s: float
class _Base:
    def update(self, g, state, x, mix):
        return x, state
class Step(_Base):
    """Go downhill [kingma2015].

    Args:
        lr: how far.
    """
    channels: ClassVar = ("x",)
    note: str = "no parameter"
    def __init__(self, lr: float = 0.1, *, mode: str = "a"): ...
    def init(self, x): ...
@dataclass
class Rule:
    b: float
    def init(self, x): ...
    def __call__(self, s, state): ...
class Plain:
    note: str = "no parameter"
    def __call__(self, t): ...
class _Hidden(_Base): ...
def helper(): ...
'''


def test_the_class_of_the_files_name_is_the_first_of_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("step.py").write_text(f"{OWN}class Other(_Base): ...\n")
    found = {each.kind: registry.maker(each.kind, "step.py").__name__ for each in entries.own("step.py")}
    assert found == {"algorithms": "Step", "directions": "Rule", "schedules": "Plain"}
    direction = registry.make("algorithms", "gt:direction=step.py(b=1)").direction
    assert type(direction).__name__ == "Rule" and direction.b == 1
    Path("rest.py").write_text(f"{OWN}class Rest:\n    tracks = True\n")  # of no kind by its methods, so of any
    assert registry.maker("directions", "rest.py").__name__ == "Rest"
    with pytest.raises(InputError, match="the kind of Rest is not clear from the text"):
        entries.own("rest.py")


def test_a_users_own_file_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two parts.py").write_text(OWN)
    step, rule, plain = entries.find("two parts.py:lr=1")
    assert [each.kind for each in (step, rule, plain)] == ["algorithms", "directions", "schedules"]
    assert [(each.name, each.default, each.values, each.meaning) for each in step.parameters] == [
        ("lr", "0.1", "float", "how far."),
        ("mode", "a", "str", ""),
    ]
    assert step.papers[0].startswith("[kingma2015] Kingma")
    assert [each.name for each in rule.parameters] == ["b"] and plain.parameters == ()
    for kind, each in (("algorithms", step), ("directions", rule), ("schedules", plain)):
        assert registry.free(kind, "two parts.py") == [parameter.name for parameter in each.parameters]
    page = call("list", "two parts.py").stdout
    assert page.startswith("two parts.py, one of your own algorithms\n\nGo downhill [kingma2015].\n")
    assert "  distopt simulate ring --agents 16 --algorithm 'two parts.py:lr=0.1'\n" in page
    assert "  distopt simulate ring --agents 16 --algorithm 'gt:direction=two parts.py(b=...)'\n" in page
    Path("net.py").write_text('def net(agents: int, width: int = 3):\n    """A net."""\n')
    (net,) = entries.own("net.py")
    assert (net.kind, net.spec) == ("topologies", "net.py:width=3")


HEIRS = '''
import dataclasses
from dataclasses import KW_ONLY, dataclass, field
import distopt.algorithms.gt
import distopt.algorithms.gt as house
from distopt.algorithms import gt as here
from distopt.algorithms.gt import GT, GT as Base
from distopt.directions.adam import Adam
def step(self, g, state, x, mix): return x, state
class Assigned:
    update = step
class Plain(GT): ...
class Alias(Base): ...
class Module(house.GT): ...
class Package(here.GT): ...
class Dotted(distopt.algorithms.gt.GT): ...
class Taking:
    """Taking.

    Args:
        lr: how far.
    """
    def __init__(self, lr: float = 0.1, *, b: int): ...
    update = lambda self, g, state, x, mix: (x, state)
class Heir(Taking): ...
@dataclass
class Fields:
    """Fields.

    Attributes:
        lr: how far.
        b: what for.
    """
    lr: float
    b: float = 0.5
    def update(self, g, state, x, mix): ...
@dataclass
class More(Fields):
    """More.

    Attributes:
        b: not that.
    """
    _: KW_ONLY
    b: float = 0.9
    c: float = dataclasses.field(default=0.2, repr=False)
    kept: int = field(default=3, init=False)
    tags: list = field(default_factory=list)
    direction: "Direction" = field(default_factory=Adam)
    other: "Direction" = field(default_factory=lambda: Adam(0.5))
    needed: int = field()
class Both(More): ...
'''


@pytest.mark.parametrize("name", re.findall(r"^class (\w+)", HEIRS, re.MULTILINE))
def test_what_a_class_inherits_or_assigns_is_explained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.py").write_text(HEIRS)
    (page,) = entries.own(f"{name}.py")
    assert page.kind == "algorithms"
    known = inspect.signature(registry.maker("algorithms", f"{name}.py")).parameters
    assert [each.name for each in page.parameters] == list(known)
    assert {each.name for each in page.parameters if each.default is None} == {
        key for key, each in known.items() if each.default is inspect.Parameter.empty
    }
    meanings = {each.name: each.meaning for each in page.parameters}
    if name in ("Taking", "Heir", "Fields", "More", "Both"):
        assert meanings["lr"] == "how far."
    if name in ("More", "Both"):
        assert meanings["b"] == "not that."
        defaults = {each.name: each.default for each in page.parameters}
        assert defaults == {
            "lr": None,
            "b": "0.9",
            "c": "0.2",
            "tags": "[]",
            "direction": "adam",
            "other": "adam(0.5)",
            "needed": None,
        }
        assert "tags" not in page.spec and "other=adam(0.5)" in page.spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no file 'own.py' in .*; give the path of a Python file, or a name of the catalogue"),
        ("class A:\n  def", "own.py: line 2: not Python .invalid syntax."),
        ("\0", "own.py: .*not Python"),
        ("class A(B): ...\nclass B(A): ...", "own.py: not Python .maximum recursion"),
        ("x = 1", "nothing in it can be used; name one class or function 'own' .found: none."),
        (
            "class A:\n  update = 1",
            "nothing in it can be used: the kind of A is not clear from the text; write its methods",
        ),
        (
            "class A:\n  def update(s): ...\nclass B:\n  def update(s): ...",
            "more than one thing in it can be used; name one class or function 'own' .found: A, B.",
        ),
    ],
)
def test_a_file_that_explains_nothing_is_told_of(
    text: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("own.py").write_text(text)
    result = call("list", "own.py")
    assert result.exit_code == 2 and re.search(says, result.stderr) and result.stderr.count("\n") == 1, result.output
