"""Claims of papers, what was done to test them, and what came out: one page of HTML that needs neither a network nor a script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from distopt._version import __version__

Outcome = Literal["holds", "holds in part", "does not hold", "open"]
MARKS: dict[str, str] = {"holds": "yes", "holds in part": "part", "does not hold": "no", "open": "open"}
"""What an outcome is called in the page's style sheet."""

HERE = Path(__file__).parent


class Verdict(NamedTuple):
    """What came out of a claim.

    Attributes:
        claim: of the paper, in a sentence.
        setup: OUR set-up, in words.
        outcome: whether the claim holds there; "open" where the runs are too few to say.
        why: the numbers that say so.
    """

    claim: str
    setup: str
    outcome: Outcome
    why: str

    @property
    def words(self) -> str:
        """The outcome and the numbers in a sentence.

        >>> Verdict("a < b", "30 draws", "holds in part", "a < b in 20 of them").words
        'holds in part: a < b in 20 of them'
        """
        return f"{self.outcome}: {self.why}" if self.why else self.outcome


class Place(NamedTuple):
    """A file with the evidence for a verdict: its name on the page, and its path from there."""

    name: str
    path: str


class Shown(NamedTuple):
    """One experiment of a paper on the page.

    Attributes:
        name: of the experiment.
        title: what the experiment is about.
        verdicts: one for each claim; none where it has not been run.
        files: its report, table and figure.
        figure: the path of its figure; "" where there is none.
        command: what runs it.
    """

    name: str
    title: str
    verdicts: Sequence[Verdict]
    files: Sequence[Place]
    figure: str
    command: str


class Paper(NamedTuple):
    """A paper on the page: its reference, notes on our set-ups, and its experiments."""

    name: str
    reference: str
    note: str
    parts: Sequence[Shown]


def html(papers: Sequence[Paper]) -> str:
    """The page, as text. All texts of a claim are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    room: Any = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    every = [verdict for paper in papers for part in paper.parts for verdict in part.verdicts]
    missing = sum(not part.verdicts for paper in papers for part in paper.parts)
    text: str = room.get_template("claims.html.j2").render(
        papers=papers,
        marks=MARKS,
        counts=[(each, sum(verdict.outcome == each for verdict in every)) for each in MARKS],
        missing=missing,
        version=__version__,
        style=Markup((HERE / "claims.css").read_text(encoding="utf-8")),
    )
    return text
