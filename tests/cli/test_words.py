"""Messages name options after a command, and arguments in Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.asking import ASK, call

import distopt
from distopt.errors import InputError, by_command, either

PACKAGE = Path(distopt.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z]|\bdistopt (simulate|resume|sweep|list|show)\b")
EXEMPT = {
    "runs/sweep.py": "--set ",
    "engines/ray/cluster.py": "pip install --upgrade",
    "reproduce/store.py": "not what distopt",
    "reproduce/__init__.py": " --o",
}
"""Words that only a command uses: the texts of ``--set``, those of another program, and those of ``distopt reproduce``."""


def messages(tree: ast.AST) -> Iterator[str]:
    """The texts of a module, but for docstrings and for what ``either`` gives to a command."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.Constant) or not isinstance(child.value, str) or isinstance(node, ast.Expr):
                continue
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "either" and child is node.args[0]):
                yield child.value


def named(text: str, file: str) -> list[str]:
    return [each for each in messages(ast.parse(text)) if OPTION.search(each) and EXEMPT.get(file, "\0") not in each]


def test_no_message_outside_the_command_line_names_an_option() -> None:
    found = {
        str(path.relative_to(PACKAGE)): texts
        for path in PACKAGE.rglob("*.py")
        if "cli" not in path.parts and (texts := named(path.read_text(), str(path.relative_to(PACKAGE))))
    }
    assert found == {}


def test_the_search_finds_options() -> None:
    assert named('raise E(f"{x}; take --out")', "a.py") == ["; take --out"]
    assert named('raise E("give what distopt simulate wrote")', "a.py")
    assert named('raise E("take " + either("--out", "out="))', "a.py") == []
    assert named('"""See --out."""', "a.py") == []
    assert named('raise E("take " + either("out=", "--out"))', "a.py") == ["--out"]


def test_words_are_those_of_who_asks() -> None:
    with by_command(), by_command():
        assert either("--out", "out=") == "--out"
    assert either("--out", "out=") == "out="


def test_the_same_mistake_is_told_in_both_ways(own_folder: None) -> None:
    ask = {"scenario": "moving_target", "rounds": 20}
    made = call(*ASK, "--algorithm", "gt", "--out", "a")
    assert made.exit_code == 0
    Path("full").mkdir()
    Path("full/else").write_text("")
    Path("e.toml").write_text('topology = "ring"\nagents = 4\nscenario = "moving_target"\nrounds = 20\n')
    Path("b").mkdir()
    Path("b/manifest.json").write_text(Path("a/manifest.json").read_text())
    cases = [
        (
            [*ASK, "--algorithm", "dgd", "--out", "a"],
            lambda: distopt.simulate("ring", agents=4, algorithm="dgd", out="a", **ask),
            "a holds another run (gt); choose another folder with {}, or remove it",
            ("--out", "out="),
        ),
        (
            [*ASK, "--out", "full"],
            lambda: distopt.simulate("ring", agents=4, algorithm="gtadam", out="full", **ask),
            "full is not empty and holds no run; choose another folder with {}",
            ("--out", "out="),
        ),
        (
            ["sweep", "e.toml", "--out", "a"],
            lambda: distopt.sweep("e.toml", {}, out="a"),
            "a holds a run; choose another folder with {}",
            ("--out", "out="),
        ),
        (
            ["resume", "b"],
            lambda: distopt.resume("b"),
            "b: holds no experiment.toml, so the experiment is not known; give the folder that {} wrote",
            ("distopt simulate", "simulate(..., out=folder)"),
        ),
    ]
    for words, ask_python, said, (command, python) in cases:
        result = call(*words)
        assert (result.exit_code, result.stderr) == (2, f"distopt: {said.format(command)}\n")
        with pytest.raises(InputError) as told:
            ask_python()
        assert str(told.value) == said.format(python)
    text = Path("a/experiment.toml").read_text()
    Path("a/experiment.toml").write_text(text.replace("rounds = 20", "rounds = 21"))
    assert "; --force continues anyway, with other bits\n" in call("resume", "a").stderr
    with pytest.raises(InputError, match="; force=True continues anyway, with other bits$"):
        distopt.resume("a")
