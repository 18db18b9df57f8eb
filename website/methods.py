"""Lists of all methods and of the papers that they come from, as the docstrings name them and references.bib has them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from docstrings import markdown

from distopt.catalog import entries, registry
from distopt.catalog.entries import Entry, references

KINDS = {
    "algorithms": "Algorithms",
    "directions": "Directions",
    "channels": "Channels",
    "compressors": "Compressors",
    "schedules": "Schedules",
    "scenarios": "Scenarios",
    "topologies": "Topologies",
    "metrics": "Metrics",
    "probes": "Probes",
    "engines": "Engines",
}


def lists() -> str:
    """All entries by kind, and all papers, in Markdown."""
    return "\n".join([*_methods(), "## Papers", "", *_papers()])


def with_papers(text: str, prefix: str) -> str:
    r"""The text of a page with the keys of papers as links to their entries; ``prefix`` leads from the page to the folder of the API.

    >>> with_papers("GTAdam [carnevale2023], `[carnevale2023]`", "api/")
    'GTAdam \\[[carnevale2023](api/methods.md#carnevale2023)\\], `[carnevale2023]`'
    """
    known = r"\[(" + "|".join(references()) + r")\](?![(\[])"
    return re.sub(
        rf"(?P<code>^(?:`{{3,}}).*?^`{{3,}}|`[^`\n]*`)|{known}",
        lambda match: match[0] if match["code"] else rf"\[[{match[2]}]({prefix}methods.md#{match[2]})\]",
        text,
        flags=re.M | re.S,
    )


def _methods() -> Iterator[str]:
    for kind, title in KINDS.items():
        yield from (f"## {title}", "", "| name | what it is | papers |", "| --- | --- | --- |")
        yield from (_row(entries.entry(kind, name)) for name in registry.names(kind))
        yield ""


def _row(entry: Entry) -> str:
    keys = ", ".join(f"[{key}](#{key})" for key in entry.keys)
    sentence = re.split(r"(?<=\.) ", markdown(entry.sentence))[0].replace("|", r"\|")
    return f"| [`{entry.name}`][distopt.{entry.kind}.{entry.name}] | {sentence} | {keys} |"


def _papers() -> Iterator[str]:
    """Each entry of references.bib is a paragraph whose anchor is its key."""
    for key, paper in sorted(references().items()):
        linked = re.sub(r"doi:(\S+)", r"[doi:\1](https://doi.org/\1)", paper)
        linked = re.sub(r"arXiv:([\w./-]+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", linked)
        yield from (f"**{key}**: {linked}", f"{{: #{key} }}", "")
