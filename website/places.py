"""Where a file of the repository is on the site, and the pages that are made for files outside docs/.

Links in the pages are written for readers of the repository: ``../launch/train.py`` leads to the file. On the site such a file is
a page of its own, and so is a folder.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 200_000
"""Longer files are named in the list of their folder, but have no page."""

_LINK = re.compile(r"(?P<code>^(`{3,}).*?^\2|`[^`\n]*`)|(?P<open>\]\()(?P<to>[^)\s]+)(?=\))", re.M | re.S)
_HIDDEN = "---\nhide: [toc]\nsearch: {exclude: true}\n---\n\n"


def page_of(path: str) -> str:
    """The page of a file or folder of the repository, as a path among the site's Markdown files.

    >>> page_of("docs/clock.md"), page_of("CHANGELOG.md"), page_of("launch/train.py"), page_of("benchmarks/results")
    ('clock.md', 'project/CHANGELOG.md', 'source/launch/train.py.md', 'source/benchmarks/results/index.md')
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in at_the_top():
        return f"project/{path}"
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def at_the_top() -> list[str]:
    """The Markdown files beside the README, which are pages as they stand."""
    return sorted(path.name for path in ROOT.glob("*.md"))


def links(text: str, origin: str) -> Iterator[str]:
    """The files and folders outside docs/ that a page links to, from the root of the repository; ``origin`` is the page's file."""
    for match in _LINK.finditer(text):
        path = _target(match, origin)
        if path is not None and not path.startswith("docs/") and path not in at_the_top():
            yield path


def relinked(text: str, origin: str) -> str:
    """The text of a page with its links as they are on the site.

    >>> relinked("[a](../launch/train.py) and `[b](../x.py)`, [c](../README.md#install)", "docs/clock.md")
    '[a](source/launch/train.py.md) and `[b](../x.py)`, [c](project/README.md#install)'
    """
    here = posixpath.dirname(page_of(origin))

    def linked(match: re.Match[str]) -> str:
        path = _target(match, origin)
        if path is None:
            return match[0]
        _, hash_, anchor = match["to"].partition("#")
        return match["open"] + posixpath.relpath(page_of(path), here or ".") + hash_ + anchor

    return _LINK.sub(linked, text)


def with_titles(text: str, origin: str) -> str:
    """The text of a page where links that show the name of another page's file show its title.

    >>> with_titles("see [clock.md](clock.md#latency) and [its code](clock.md)", "docs/losses.md")
    'see [Simulated seconds](clock.md#latency) and [its code](clock.md)'
    """

    def titled(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match["name"]))
        title = re.search(r"^# ([^:\n]*)", (ROOT / path).read_text(encoding="utf-8"), re.M)
        return f"[{title[1]}]" if title else match[0]

    return re.sub(r"\[(?:docs/)?(?P<shown>[\w-]+\.md)\](?=\((?P<name>(?:[\w.-]+/)*(?P=shown))[#)])", titled, text)


def _target(match: re.Match[str], origin: str) -> str | None:
    """The file that a link leads to, from the root of the repository; None for addresses, anchors of the page itself and code."""
    if match["code"] is not None:
        return None
    to = match["to"].partition("#")[0]
    if not to or re.match(r"[a-z]+:", to):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), to))


def source_pages(paths: Iterator[str]) -> dict[str, str]:
    """The pages of files and folders, and of what is in the folders: their places on the site and their Markdown.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that is linked to is no text, too long, or outside the repository.
    """
    found: dict[str, str] = {}
    for path in paths:
        if path.startswith(".."):
            raise ValueError(f"{path}: a page links to it, but it is outside the repository")
        if page_of(path) in found:
            continue
        if (ROOT / path).is_dir():
            inside = sorted(each for each in (ROOT / path).iterdir() if each.name[0] not in "._")
            shown = {each: each.is_dir() or _readable(each) for each in inside}
            found[page_of(path)] = _folder(path, shown)
            found |= source_pages(each.relative_to(ROOT).as_posix() for each, readable in shown.items() if readable)
        elif _readable(ROOT / path):
            found[page_of(path)] = _file(path)
        else:
            raise ValueError(f"{path}: a page links to it, but it is no text or has more than {LARGEST} bytes")
    return found


def _readable(path: Path) -> bool:
    data = path.read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return len(data) <= LARGEST


def _file(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    try:
        language = get_lexer_for_filename(path).aliases[0]
    except ClassNotFound:
        language = "text"
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
    return f"{_HIDDEN}# {_escaped(path)}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _folder(path: str, inside: dict[Path, bool]) -> str:
    def line(each: Path, linked: bool) -> str:
        name = f"`{each.name}{'/' if each.is_dir() else ''}`"
        page = posixpath.relpath(page_of(each.relative_to(ROOT).as_posix()), posixpath.dirname(page_of(path)))
        return f"- [{name}]({page})" if linked else f"- {name}, {each.stat().st_size} bytes"

    return "\n".join([f"{_HIDDEN}# {_escaped(path)}/", "", *(line(*each) for each in inside.items()), ""])


def _escaped(path: str) -> str:
    return path.replace("_", r"\_")
