"""What the site makes of formulas, docstrings, links and keys of papers. ``make docs`` builds and checks the site itself."""

import doctest
import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra docs is not installed; make docs installs it")
pytest.importorskip("latex2mathml", reason="the extra docs is not installed; make docs installs it")

import docstrings
import hooks
import mathematics
import methods
import places
from markdown import Markdown
from mathematics import mathml, with_formulas

from distopt.catalog import registry
from distopt.catalog.entries import references


@pytest.mark.parametrize("module", [docstrings, mathematics, methods, places], ids=lambda module: module.__name__)
def test_the_examples_of_a_module_hold(module: object) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


def html(text: str) -> str:
    """A page's Markdown as the site shows it."""
    math = {"generic": True, "inline_syntax": ["dollar"], "block_syntax": ["dollar"]}
    made = Markdown(
        extensions=["tables", "sane_lists", "pymdownx.arithmatex", "pymdownx.betterem", hooks.PlainText()],
        extension_configs={"pymdownx.arithmatex": math, "pymdownx.betterem": {"smart_enable": "all"}},
    )
    return with_formulas(made.convert(text))


def test_formulas_with_subscripts_norms_and_sums_become_mathml() -> None:
    page = html(r"Costs $\sum_{i=1}^{N} \| x_{i,t} - x^*_t \|_2^2$, $a < b$ and `$HOME`.")
    sum_of_norms, less = re.findall(r"<math .*?</math>", page)
    pieces = [
        "<msubsup><mo>&#x02211;</mo><mrow><mi>i</mi><mo>&#x0003D;</mo><mn>1</mn></mrow><mrow><mi>N</mi></mrow></msubsup>",
        '<mo fence="false" stretchy="false">&#x02016;</mo>',
        "<msub><mi>x</mi><mrow><mi>i</mi><mo>&#x0002C;</mo><mi>t</mi></mrow></msub>",
        "<msubsup><mi>x</mi><mi>t</mi><mo>&#x0002A;</mo></msubsup>",
        '<msubsup><mo fence="false" stretchy="false">&#x02016;</mo><mn>2</mn><mn>2</mn></msubsup>',
    ]
    where = [sum_of_norms.find(piece) for piece in pieces]
    assert -1 not in where and where == sorted(where)
    assert "<mi>a</mi><mo>&#x0003C;</mo><mi>b</mi>" in less
    assert "\\" not in re.sub(r'alttext="[^"]*"', "", page) and "<code>$HOME</code>" in page


def test_a_formula_of_its_own_line_is_a_block() -> None:
    assert 'display="block"' in html("Text\n\n$$\nx_{t+1} = W x_t\n$$\n")


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\\nosuch is not known"):
        mathml(r"\nosuch x", block=False)


@pytest.mark.parametrize(
    "text", ["the points x*_t and y*_t", "x̄_t, f_{i,t} and x_{j,t}", "minimise <s, v> over <b>", "_a_ and __b__"]
)
def test_notation_in_a_line_is_text(text: str) -> None:
    assert html(text) == "<p>" + text.replace("<", "&lt;").replace(">", "&gt;") + "</p>"
    assert html("*emphasis*") == "<p><em>emphasis</em></p>"


def test_a_docstring_becomes_markdown() -> None:
    text = """What it is [kingma2015, nosuch2000].

    x_{t+1} = x_t - ``lr`` * g_t

Two kinds:
- one: for
  both
- two: ``a*b``, and x*_t

Args:
    one, two: numbers in
        [0, 1].

Returns:
    The sum: 2. See docs/clock.md.

Raises:
    InputError: never.

>>> 1 + 1
2"""
    assert docstrings.markdown(text).split("\n") == [
        r"What it is \[[kingma2015](methods.md#kingma2015), nosuch2000\].",
        "",
        "    x_{t+1} = x_t - lr * g_t",
        "",
        "Two kinds:",
        "",
        "- one: for",
        "    both",
        r"- two: ``a*b``, and x\*\_t",
        "",
        "",
        "**Parameters**",
        "",
        "- `one`, `two`: numbers in",
        "    [0, 1].",
        "",
        "",
        "**Returns**",
        "",
        "The sum: 2. See [Simulated seconds](../clock.md).",
        "",
        "",
        "**Errors**",
        "",
        "- `InputError`: never.",
        "",
        "",
        "```pycon",
        ">>> 1 + 1",
        "2",
        "```",
    ]


def test_files_and_folders_that_pages_link_to_are_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ROOT", tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one.py").write_text('text = """\n```sh\n```\n"""\n')
    (tmp_path / "runs" / "two.npz").write_bytes(b"\xff\xfe")
    (tmp_path / "README.md").write_text("# Read me\n")
    text = "[a](../runs), [b](../runs/one.py#top), [c](../README.md), [d](clock.md), [e](#here), `[f](../no.py)`"
    pages = places.source_pages(places.links(text, "docs/page.md"))
    assert sorted(pages) == ["source/runs/index.md", "source/runs/one.py.md"]
    assert "````python\ntext =" in pages["source/runs/one.py.md"], "a fence longer than those inside"
    assert "- [`one.py`](one.py.md)\n- `two.npz`, 2 bytes" in pages["source/runs/index.md"]
    assert places.relinked(text, "docs/page.md") == (
        "[a](source/runs/index.md), [b](source/runs/one.py.md#top), [c](project/README.md), [d](clock.md), [e](#here), "
        "`[f](../no.py)`"
    )
    with pytest.raises(ValueError, match="is no text"):
        places.source_pages(iter(["runs/two.npz"]))
    with pytest.raises(ValueError, match="outside the repository"):
        places.source_pages(iter(["../etc/passwd"]))
    with pytest.raises(FileNotFoundError):
        places.source_pages(iter(["runs/three.py"]))


def test_the_lists_have_all_methods_and_papers() -> None:
    made = methods.lists()
    for kind in registry.KINDS:
        for name in registry.names(kind):
            assert f"| [`{name}`][distopt.{kind}.{name}] |" in made
    assert re.findall(r"^\{: #(\w+) \}$", made, re.M) == sorted(references())
    assert re.search(
        r"\| \[`gtadam`\]\[distopt.algorithms.gtadam\] \| .*\| \[carnevale2023\]\(#carnevale2023\) \|", made
    )
    assert methods.KINDS.keys() == set(registry.KINDS)
