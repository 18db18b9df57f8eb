"""Docstrings as Markdown.

Docstrings are written for readers of the code: ``x*_t`` is a point and no emphasis, ``<s, v>`` a product and no tag, lines after
``>>>`` an example, and ``[carnevale2023]`` the key of a paper. Here each of them becomes what a page needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from griffe import Extension, Object
from places import with_titles

from distopt.catalog.entries import references

SECTIONS = {
    "Args:": "Parameters",
    "Attributes:": "Attributes",
    "Raises:": "Errors",
    "Returns:": "Returns",
    "Yields:": "Yields",
}
"""The headings in docstrings, and on the page."""
ENTRIES = ("Parameters", "Attributes", "Errors")
"""Those below which each entry begins with its name."""
_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_KEYS = re.compile(r"\[([a-z]+\d{4}[a-z]*(?:, [a-z]+\d{4}[a-z]*)*)\]")
_ITEM = re.compile(r" {4}(\w+(?:, \w+)*): (.*)")
_LIST = re.compile(r"(- |\d+\. )")


class Docstrings(Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """One object of the package."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    r"""A docstring as Markdown. Formulas are indented already, and that is code in Markdown, too.

    >>> markdown("At x*_t, see [kingma2015].")
    'At x\\*\\_t, see \\[[kingma2015](methods.md#kingma2015)\\].'
    """
    return "\n".join(_lines(docstring.splitlines()))


def _lines(lines: list[str]) -> Iterator[str]:
    example, section, before = False, "", ""
    for line in lines:
        if example and not line:
            yield "```"
            example = False
        if line.startswith(">>>") and not example:
            yield from ("", "```pycon")
            example, section = True, ""
        if example:
            yield line
            continue
        if line and not line.startswith(" "):
            section = SECTIONS.get(line, "")
        if line in SECTIONS:
            yield from ("", f"**{section}**", "")
        elif section in ENTRIES:
            yield _entry(line)
        elif section:
            yield _prose(line.strip())
        elif line.startswith("    "):
            yield line.replace("``", "")  # code already
        else:
            if _LIST.match(line) and before and not before.startswith("  ") and not _LIST.match(before):
                yield ""
            yield f"    {_prose(line.strip())}" if line.startswith("  ") else _prose(line)
        before = line
    if example:
        yield "```"


def _entry(line: str) -> str:
    """A line below a heading such as ``Args:``: names and what is said of them become an entry of a list."""
    match = _ITEM.match(line)
    if match:
        names = ", ".join(f"`{name}`" for name in match[1].split(", "))
        return f"- {names}: {_prose(match[2])}"
    return f"    {_prose(line.strip())}" if line else ""


def _prose(line: str) -> str:
    """Words without what Markdown would take for its own marks, but with code, papers and links to pages."""
    return "".join(piece if k % 2 else _plain(piece) for k, piece in enumerate(_CODE.split(line)))


def _plain(text: str) -> str:
    start = _LIST.match(text)
    head = start[0] if start else ""
    text = re.sub(r"([*_\\])", r"\\\1", text[len(head) :]).replace("<", "&lt;")
    text = re.sub(r"\]\(([\w-]+)\.md([#)])", r"](../\1.md\2", text)
    text = re.sub(r"\bdocs/([\w-]+\.md)", r"[\1](../\1)", text)
    text = with_titles(text, "docs/api/index.md")
    return head + _KEYS.sub(lambda match: rf"\[{', '.join(map(_paper, match[1].split(', ')))}\]", text)


def _paper(key: str) -> str:
    return f"[{key}](methods.md#{key})" if key in references() else key
