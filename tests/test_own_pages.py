"""Each page "your own ...": its file lies in examples/, the check passes, and each mistake is told in the words of the page."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distopt.errors import InputError
from distopt.network.graphs import Graph
from distopt.network.topology import build_topology
from distopt.report.network import portrait

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
KINDS = ("algorithm", "compressor", "direction", "metric", "probe", "scenario", "topology")
PAGES = {kind: (ROOT / "docs" / f"your-own-{kind}.md").read_text() for kind in KINDS}
LONGEST = 40  # lines of a file that a page shows


def blocks(kind: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[kind], re.S)


def shown(kind: str) -> tuple[str, str]:
    """The name and the text of the file that a page shows."""
    first, _, text = blocks(kind, "python")[0].partition("\n")
    found = re.fullmatch(r"# examples/(\w+)\.py", first)
    assert found, first
    return found.group(1), text


def checked(kind: str) -> str:
    """The block of a page that calls the check."""
    (text,) = (each for each in blocks(kind, "python") if f"check_{kind}(" in each)
    return text


MISTAKES = [(kind, *pair) for kind in KINDS for pair in zip(blocks(kind, "diff"), blocks(kind, "text"), strict=True)]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What the blocks import from examples is forgotten afterwards."""
    names = {shown(kind)[0] for kind in KINDS}
    yield monkeypatch
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_of_a_page_is_the_example_and_short(kind: str) -> None:
    name, text = shown(kind)
    assert text == (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < LONGEST


@pytest.mark.parametrize("kind", KINDS)
def test_the_pages_have_one_form(kind: str) -> None:
    heads = re.findall(r"^## (.*)$", PAGES[kind], re.M)
    assert [head for head in heads if head in ("What it promises", "Check it", "Three common mistakes")] == [
        "What it promises",
        "Check it",
        "Three common mistakes",
    ]
    assert len(blocks(kind, "diff")) == len(blocks(kind, "text")) == 3
    assert f"examples/{shown(kind)[0]}.py" in "".join(blocks(kind, "sh"))
    assert len(blocks(kind, "python")) == (3 if kind == "algorithm" else 2)  # that of weights is run in test_readme.py


def test_the_graph_of_the_page_is_a_file_and_is_read() -> None:
    text = (EXAMPLES / "class.edges").read_text()
    assert f"```\n{text}```\n" in PAGES["topology"]
    graph = build_topology(EXAMPLES / "class.edges", None, 0)
    assert isinstance(graph, Graph) and graph.agents == 6
    assert (graph.called(0), graph.called(5)) == ("'Anna'", "'Fatma'")
    gap = portrait(graph).gap
    assert gap is not None and f"The spectral gap is {gap:.3f}." in PAGES["topology"]
    for suffix in re.findall(r"`(\.\w+)`", PAGES["topology"].partition("| name ends in")[2].partition("\n\n")[0]):
        with pytest.raises(InputError, match="does not exist"):
            build_topology(Path(f"missing{suffix}"), None, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_passes_and_the_object_runs(kind: str, alone: pytest.MonkeyPatch) -> None:
    alone.syspath_prepend(str(EXAMPLES))
    said: dict[str, Any] = {}
    exec(checked(kind), said)
    assert said["run"].status == "done" and said["run"]["dynamic_regret"][0, -1] > 0


def mistaken(text: str, diff: str) -> str:
    """The text with the change that a diff shows."""
    lines = diff.splitlines()
    old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] in f" {sign}") for sign in "-+")
    assert text.count(old) == 1, old
    return text.replace(old, new)


@pytest.mark.parametrize(("kind", "diff", "told"), MISTAKES)
def test_a_mistake_is_told_as_the_page_says(
    kind: str, diff: str, told: str, tmp_path: Path, alone: pytest.MonkeyPatch
) -> None:
    name, text = shown(kind)
    (tmp_path / f"{name}.py").write_text(mistaken(text, diff))
    alone.syspath_prepend(str(tmp_path))
    alone.setattr(sys, "dont_write_bytecode", True)
    with pytest.raises(AssertionError) as caught:
        exec(checked(kind), {})
    assert f"AssertionError: {caught.value}\n" == told
