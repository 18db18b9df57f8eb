"""Numbers that bear on claims: what is expected, what was measured, and whether they agree. A table row for each, a verdict for each claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from distopt.report.claims import Outcome, Verdict
from distopt.report.tables import number
from distopt.reproduce import Measure, Part, Results

DIGITS = 4
NAMED = 5
"""Numbers as expected that a verdict names; the table has them all, and those that are not as expected are always named."""


class Number(NamedTuple):
    """One number that bears on a claim. Make it with ``near``, ``below``, ``above`` or ``diverges``.

    Attributes:
        claim: of the paper, in a sentence; numbers of the same claim share it to the letter.
        setup: OUR set-up, in words.
        what: was measured.
        expected: the number, with its tolerance or as a bound, in words.
        measured: the number that came out; inf or nan where the run diverged.
        good: whether it is as expected.
    """

    claim: str
    setup: str
    what: str
    expected: str
    measured: float
    good: bool


def near(
    claim: str, setup: str, what: str, *, expected: float, measured: float, within: float, source: str = ""
) -> Number:
    """A number that should be ``expected``, up to ``within``; ``source`` is the source of the expectation.

    >>> near("x ends at 1", "lr = 0.1", "last x", expected=1.0, measured=0.998, within=0.01, source="derived").expected
    '1 ± 0.01 (derived)'
    """
    words = f"{number(expected, DIGITS)} ± {number(within)}" if within else number(expected, DIGITS)
    good = math.isfinite(measured) and abs(measured - expected) <= within
    return Number(claim, setup, what, _from(words, source), measured, good)


def below(claim: str, setup: str, what: str, *, bound: float, measured: float, source: str = "") -> Number:
    """A number that should be smaller than ``bound``.

    >>> below("the error vanishes", "noise", "error", bound=0.1, measured=0.2).good
    False
    """
    return Number(
        claim, setup, what, _from(f"< {number(bound)}", source), measured, math.isfinite(measured) and measured < bound
    )


def above(claim: str, setup: str, what: str, *, bound: float, measured: float, source: str = "") -> Number:
    """A number that should be larger than ``bound``. One that diverges is not."""
    return Number(
        claim, setup, what, _from(f"> {number(bound)}", source), measured, math.isfinite(measured) and measured > bound
    )


def diverges(claim: str, setup: str, what: str, *, measured: float, source: str = "") -> Number:
    """A number that should not be finite."""
    return Number(claim, setup, what, _from("diverges", source), measured, not math.isfinite(measured))


def _from(words: str, source: str) -> str:
    return f"{words} ({source})" if source else words


def rows(numbers: Sequence[Number]) -> list[dict[str, Any]]:
    """The table of a part: a row for each number.

    >>> rows([below("it falls", "lr = 0.1", "error", bound=0.1, measured=0.01)])[0]["number expected"]
    '< 0.1'
    """
    return [
        {
            "claim": each.claim,
            "our set-up": f"{each.setup}: {each.what}",
            "number expected": each.expected,
            "number measured": shown(each.measured),
            "verdict": "as expected" if each.good else "NOT as expected",
        }
        for each in numbers
    ]


def shown(value: float) -> str:
    """A measured number in words.

    >>> shown(0.123456), shown(float("inf"))
    ('0.1235', 'diverges')
    """
    return number(value, DIGITS) if math.isfinite(value) else "diverges"


def of(count: int, total: int) -> Outcome:
    """A claim holds where it does in all cases, and in part where it does in some."""
    return "open" if not total else "holds" if count == total else "holds in part" if count else "does not hold"


def verdicts(numbers: Sequence[Number]) -> list[Verdict]:
    """A verdict for each claim: it holds where all of its numbers are as expected.

    >>> one = near("x ends at 1", "lr = 0.1", "last x", expected=1, measured=0.5, within=0.1)
    >>> verdicts([one])[0].words
    'does not hold: not as expected: last x 0.5, expected 1 ± 0.1'
    """
    found = []
    for claim in dict.fromkeys(each.claim for each in numbers):
        own = [each for each in numbers if each.claim == claim]
        setups = list(dict.fromkeys(each.setup for each in own))
        several = len(setups) > 1
        good, bad = ([_told(each, several) for each in own if each.good == wanted] for wanted in (True, False))
        why = [f"not as expected: {'; '.join(bad)}"] if bad else []
        if good:
            more = f"; and {len(good) - NAMED} more" if len(good) > NAMED else ""
            why.append(f"as expected: {'; '.join(good[:NAMED])}{more}")
        found.append(Verdict(claim, "; ".join(setups), of(len(good), len(own)), ". ".join(why)))
    return found


def _told(each: Number, several: bool) -> str:
    where = f"{each.setup}: " if several else ""
    return f"{where}{each.what} {shown(each.measured)}, expected {each.expected}"


def part(measure: Measure, numbers: Callable[[Results], Sequence[Number]], figure: str, claim: str) -> Part:
    """A part whose table and verdicts follow from its numbers."""
    return Part(
        measure, lambda results: rows(numbers(results)), figure, claim, lambda results: verdicts(numbers(results))
    )
