"""The check of a built site finds what it says it finds."""

from pathlib import Path

import pytest
from check import faults

GOOD = """<!doctype html><title>{title}</title><link rel="stylesheet" href="a.css"><h1 id="top">A</h1>
<a href="{link}">x</a> <a href="https://example.org">out</a> {more}"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site of two pages without a fault."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.css").write_text("body { color: black }")
    (tmp_path / "sub" / "a.css").write_text("")
    write(tmp_path / "index.html", title="One", link="sub/two.html#top")
    write(tmp_path / "sub" / "two.html", title="Two", link="../index.html")
    return tmp_path


def write(path: Path, title: str = "One", link: str = "#top", more: str = "") -> None:
    path.write_text(GOOD.format(title=title, link=link, more=more))


def test_a_good_site_has_no_faults(site: Path) -> None:
    assert list(faults(site)) == []


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ({"link": "three.html"}, "index.html: three.html: no such file"),
        ({"link": "sub/two.html#bottom"}, "index.html: sub/two.html#bottom: no such anchor"),
        ({"link": "#bottom"}, "index.html: #bottom: no such anchor"),
        ({"link": "../../etc/passwd"}, "index.html: ../../etc/passwd: outside the site"),
        ({"title": " "}, "index.html: no title"),
        ({"title": "Two"}, "2 pages have the title 'Two'"),
        ({"more": '<img src="none.png">'}, "index.html: none.png: no such file"),
        ({"more": '<script src="https://cdn/x.js"></script>'}, "index.html: loads https://cdn/x.js from the network"),
        ({"more": '<link rel="stylesheet" href="//cdn/x.css">'}, "index.html: loads //cdn/x.css from the network"),
        ({"more": '<span class="arithmatex">\\(x\\)</span>'}, "index.html: 1 formulas are not MathML"),
    ],
    ids=lambda each: each.split(": ", 1)[-1] if isinstance(each, str) else "",
)
def test_a_fault_is_found(site: Path, page: dict[str, str], fault: str) -> None:
    write(site / "index.html", **page)
    assert list(faults(site)) == [fault]


def test_a_style_that_loads_a_font_is_found(site: Path) -> None:
    (site / "a.css").write_text("@font-face { src: url(https://fonts/x.woff) }")
    assert list(faults(site)) == ["a.css: loads something from the network"]


def test_a_folder_without_pages_is_a_fault(tmp_path: Path) -> None:
    assert list(faults(tmp_path)) == [f"{tmp_path}: no pages"]
