from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distopt.catalog import registry
from distopt.catalog.registry import brief, make
from distopt.catalog.spec import Spec
from distopt.catalog.spec_files import paths
from distopt.errors import InputError


@pytest.mark.parametrize(
    ("text", "name", "args", "kwargs"),
    [
        ("ring", "ring", (), {}),
        (" ring : 3 ", "ring", ("3",), {}),
        ("grid:width=3,height=4", "grid", (), {"width": "3", "height": "4"}),
        ("grid(width=3)", "grid", (), {"width": "3"}),
        ("gt:direction=adam(b1=0.5,b2=0.9),lr=1", "gt", (), {"direction": "adam(b1=0.5,b2=0.9)", "lr": "1"}),
        ('stream:path="/d/a,b.csv",label=y', "stream", (), {"path": "/d/a,b.csv", "label": "y"}),
        ("stream:'a=b:c).csv', label = \"it's\"", "stream", ("a=b:c).csv",), {"label": "it's"}),
        ("stream(path='(,',label='')", "stream", (), {"path": "(,", "label": ""}),
        ("stream:path=/d/it's,label=5'", "stream", (), {"path": "/d/it's", "label": "5'"}),
        ("a:b=c(d='x,)y',e=1),f=2", "a", (), {"b": "c(d='x,)y',e=1)", "f": "2"}),
        ("stream:path=data(1)", "stream", (), {"path": "data(1)"}),
        ("stream:path=x.py", "stream", (), {"path": "x.py"}),
        ("gt:direction=my.py(b=1)", "gt", (), {"direction": "my.py(b=1)"}),
        ("gt(direction=my.py(b=1))", "gt", (), {"direction": "my.py(b=1)"}),
        ("d (x)/a.py:lr=.2", "d (x)/a.py", (), {"lr": ".2"}),
        ("d (x)/a.py(lr=.2)", "d (x)/a.py", (), {"lr": ".2"}),
        ("d [1] b/a.py", "d [1] b/a.py", (), {}),
        ("~/d(1)/a.py", "~/d(1)/a.py", (), {}),
        ("x.pyz/a.python:1", "x.pyz/a.python", ("1",), {}),
    ],
)
def test_parse(text: str, name: str, args: tuple[str, ...], kwargs: dict[str, str]) -> None:
    spec = Spec.parse(text)
    assert (spec.name, spec.args, dict(spec.kwargs)) == (name, args, kwargs)
    assert list(kwargs) == [key for key, _ in spec.kwargs]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no name"),
        (":lr=1", "no name"),
        ("gt:lr=", "empty value"),
        ("gt:lr=1,,b=2", "empty value"),
        ("gt:lr=1,lr=2", "lr is given twice"),
        ("gt:direction=adam(b1=1", "a bracket is not closed; a value with brackets in it goes in quotes"),
        ("gt:direction=adam)", "unexpected '[)]'"),
        ("gt(lr=1)x", "must close at the end"),
        ("gt(lr=1),b(2)", "unexpected '[)]'"),
        ("stream:path='a,b", "the quote ' is not closed"),
        ("stream:path='a'b", "quote the whole value"),
        ("stream:path='a' 'b'", "quote the whole value"),
    ],
)
def test_parse_refuses(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Spec.parse(text)


def test_a_path_that_exists_is_taken_whole_however_odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "from dataclasses import dataclass\n@dataclass\nclass Odd:\n    lr: float = 0.1\n    channels = ('x',)\n    update = init = None\n"
    for folder in ("d(", "e:f", "g.py(h)"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "odd.py").write_text(text)
        for spec in (f"{folder}/odd.py:lr=0.5", f"~/{folder}/odd.py(lr=0.5)", f"{tmp_path}/{folder}/odd.py:'0.5'"):
            assert make("algorithms", spec).lr == 0.5
            assert paths(spec) == [Path(Spec.parse(spec).name.replace("~", str(tmp_path)))]
            assert brief(spec) == "odd" + spec[spec.index("odd.py") + 6 :]
    with pytest.raises(InputError, match="there is no file 'd [(]x[)]/a.py' in /.* for algorithms"):
        make("algorithms", "d (x)/a.py:lr=.2")


def test_only_a_nested_kind_is_built_from_brackets() -> None:
    assert make("scenarios", "stream:path=data(1),label='p(q)'").path == "data(1)"
    assert make("algorithms", "gt:direction='momentum(b=0.25)'").direction.b == 0.25
    assert make("algorithms", "gt:direction=momentum(0.25)").direction.b == 0.25
    with pytest.raises(InputError, match=r"lr=adam\(\) is not a number"):
        make("algorithms", "gt:lr=adam()")


def test_paths_are_the_files_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.csv", "b,c.csv", "rule.py", "mine.py", "plain"):
        (tmp_path / name).write_text("")
    cases: dict[str, list[Any]] = {
        "stream:path=a.csv,label=y": ["a.csv"],
        "stream:path='b,c.csv',label=y": ["b,c.csv"],
        "stream:path=~/a.csv": [tmp_path / "a.csv"],
        "stream:path=plain": ["plain"],
        "mine.py:direction=rule.py(b=1),lr=1": ["mine.py", "rule.py"],
        "gt:direction=rule.py": ["rule.py"],
        "gt:direction='rule.py:b=1'": ["rule.py"],
        "plain:lr=1": [],  # a name of the catalogue
        "stream:path=gone.csv": [],
        "stream:path=" + 5000 * "x": [],
        "~nobody_of_this_name/a.py": [],
        "stream:path='a.csv": [],
        "": [],
    }
    for spec, found in cases.items():
        assert paths(spec) == [Path(each) for each in found], spec


def test_brief() -> None:
    assert brief("gt:lr=0.1") == "gt:lr=0.1"
    assert brief(" a b/mine.py ") == "mine"
    assert brief("d (x)/mine.py(lr=1)") == "mine(lr=1)"
    assert registry.brief("stream:path=x.py") == "stream:path=x.py"
