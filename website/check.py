"""Checks a built site: python website/check.py FOLDER. MkDocs checks links between Markdown files; this checks what came of them.

Every link and picture leads to a file that is there, and to an anchor in it. Nothing is loaded from the network. Each page has a
title of its own, and no formula is left in LaTeX.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""The tags whose address a browser loads by itself."""
LINKS = {"canonical", "next", "prev"}
"""What a <link> may be that loads nothing."""


class Reader(HTMLParser):
    """What a page has: anchors, links to follow, addresses to load, its title, and formulas that were left as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.title = ""
        self.formulas = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag."""
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        self.formulas += "arithmatex" in given.get("class", "").split()
        self._in_title = tag == "title" and not self.title
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif LOADED.get(tag) in given and not (tag == "link" and given.get("rel") in LINKS):
            self.loads.append(given[LOADED[tag]])

    def handle_data(self, data: str) -> None:
        """Text."""
        if self._in_title:
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        """The end of a tag."""
        self._in_title = False


def faults(site: Path) -> Iterator[str]:
    """What is wrong with a site, one line each."""
    pages = {path: _read(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: no pages"
    for path, page in pages.items():
        where = path.relative_to(site)
        if not page.title.strip():
            yield f"{where}: no title"
        if page.formulas:
            yield f"{where}: {page.formulas} formulas are not MathML"
        for link in page.loads:
            if urlsplit(link).scheme in ("http", "https") or link.startswith("//"):
                yield f"{where}: loads {link} from the network"
        for link in dict.fromkeys([*page.links, *page.loads]):
            if (fault := _dead(link, path, site, pages)) is not None:
                yield f"{where}: {link}: {fault}"
    titles = Counter(page.title for path, page in pages.items() if path.name != "404.html")
    yield from (f"{count} pages have the title {title!r}" for title, count in titles.items() if count > 1)
    for path in sorted(site.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        if "url(http" in text or "url(//" in text or "@import" in text:
            yield f"{path.relative_to(site)}: loads something from the network"


def _read(path: Path) -> Reader:
    page = Reader()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _dead(link: str, path: Path, site: Path, pages: dict[Path, Reader]) -> str | None:
    """Why a link leads nowhere; None where it leads somewhere, or out of the site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    target = path
    if parts.path:
        start = site if parts.path.startswith("/") else path.parent
        target = (start / unquote(parts.path).lstrip("/")).resolve()
        if not target.is_relative_to(site):
            return "outside the site"
        if target.is_dir():
            target /= "index.html"
        if not target.exists():
            return "no such file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "no such anchor"
    return None


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1]).resolve()))
    print("\n".join(found) or f"{sys.argv[1]}: every link leads somewhere, and nothing is loaded from the network")
    sys.exit(bool(found))
