"""The pages of the catalogue: what is read from the text of a file is what its class or function says when it is imported."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

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
