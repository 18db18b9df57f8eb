"""Malformed input by the thousand, the same on every machine: how it is numbered, judged, and told apart when it fails.

Input number k of a kind is made from ``random.Random("kind/seed/k")`` alone, so its number brings it back. DISTOPT_FUZZ=10 makes
ten times as many.
"""

from __future__ import annotations

import faulthandler
import os
import random
import re
import resource
import signal
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click.testing
import pytest

from distopt.cli.main import cli
from distopt.errors import InputError, RunError

SEED = 7
SECONDS = 10  # of this process's own time; a loaded machine does not shorten it
STUCK = 60  # of the clock: a read that never ends takes no time of its own
ROOM = 3 * 2**30  # bytes that one input may ask for

CLASS = re.compile(
    r"\b[A-Za-z_]*(?:Error|Exception|Warning|Interrupt)\b:?|\[Errno|<class |object at 0x|NoneType|numpy\.|np\.\w|torch\.\w|\bG\."
)
"""What a line for users never holds: names of classes, and the language of the libraries."""

SAID = ("distopt: warning: ", "distopt: note: ")
PROGRESS = re.compile(r": round [\d,]+ of [\d,]+( \(|$)")

TALL = 2_000
"""Characters in a line that can still be read."""


class Hang(BaseException):
    """An input took too long. No ``except Exception`` of the program holds it up."""


@dataclass
class Outcome:
    """What became of an input: its value, or the line that refused it; ``faults`` say what is wrong with either."""

    value: Any = None
    line: str | None = None
    told: list[str] = field(default_factory=list)  # warnings
    faults: list[str] = field(default_factory=list)


@contextmanager
def watched(stuck: float = STUCK) -> Iterator[None]:
    """Raise Hang where the block takes too long, and MemoryError where it takes too much."""

    def late(*_: Any) -> None:
        raise Hang

    main = threading.current_thread() is threading.main_thread()
    timers = (signal.ITIMER_PROF, SECONDS), (signal.ITIMER_REAL, stuck)
    before = [signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)] if main else []
    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, limits[1]))
    faulthandler.dump_traceback_later(3 * STUCK, exit=True)  # compiled code that never comes back to Python
    for which, seconds in timers if main else ():
        signal.setitimer(which, seconds)
    try:
        yield
    finally:
        for which, _ in timers if main else ():
            signal.setitimer(which, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=False):
            signal.signal(number, handler)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, limits)


def wording(line: str, names: tuple[str, ...] = (), printed: bool = False) -> list[str]:
    """What is wrong with a line that refuses an input; one of ``names`` must be in it, and more is asked of what a terminal shows."""
    faults = []
    if not line.strip():
        faults.append("says nothing")
    if "unexpected" in line and re.search(r"unexpected \w*(Error|Exception|Interrupt|Warning)", line):
        faults.append("unexpected")
    elif found := CLASS.search(line):
        faults.append(f"speaks of {found.group()!r}")
    if "Traceback" in line:
        faults.append("traceback")
    if printed and (odd := set(filter(hidden, line))):
        faults.append(f"control characters {sorted(map(hex, map(ord, odd)))[:4]}")
    if printed and len(line) > TALL:
        faults.append(f"a line of over {TALL} characters")
    if names and not any(name in line for name in names):
        faults.append("does not name the file")
    return faults


def hidden(char: str) -> bool:
    """Whether a terminal would obey a character, or show what follows in another order."""
    return (
        unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
        or "\u202a" <= char <= "\u202e"
        or "\u2066" <= char <= "\u2069"
    )


def warned(caught: list[warnings.WarningMessage]) -> tuple[list[str], list[str]]:
    """(what the program warns of, the faults): a library's warning is none of the user's business."""
    told, faults = [], []
    for each in caught:
        if isinstance(
            each.message, ResourceWarning | DeprecationWarning | PendingDeprecationWarning
        ):  # Python shows none of them to users
            continue
        ours = "distopt" in type(each.message).__module__ or type(each.message) is UserWarning
        if ours and not re.search(r"site-packages/(?!distopt)", each.filename):
            told.append(str(each.message))
        else:
            faults.append(f"warning {type(each.message).__name__}: {str(each.message)[:80]}")
    return told, faults


def asked(action: Callable[[], Any], names: tuple[str, ...] = (), stuck: float = STUCK) -> Outcome:
    """Do what a user of the Python interface does, and judge what comes of it."""
    outcome = Outcome()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with watched(stuck):
                outcome.value = action()
        except (InputError, RunError) as error:
            outcome.line = str(error)
            outcome.faults += wording(" ".join(outcome.line.split()), names)
        except Hang:
            outcome.faults.append("hangs")
        except (Exception, SystemExit) as error:
            outcome.faults.append(f"{type(error).__name__}: {str(error)[:120]}")
    outcome.told, faults = warned(caught)
    outcome.faults += faults
    return outcome


def typed(*words: str, names: tuple[str, ...] = (), stuck: float = STUCK) -> Outcome:
    """Type a command, and judge its exit code and what it prints on stderr; ``value`` is what it prints on stdout."""
    outcome = Outcome()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with watched(stuck):
                result = click.testing.CliRunner().invoke(cli, list(words))
        except Hang:
            outcome.faults.append("hangs")
            return outcome
    if isinstance(result.exception, Hang):
        return Outcome(faults=["hangs"])
    told, faults = warned(caught)
    lines = [line for line in result.stderr.split("\n") if line and not PROGRESS.search(line)]
    outcome.told = told + [line for line in lines if line.startswith(SAID)]
    outcome.faults += faults
    outcome.value = result.stdout
    rest = [line for line in lines if not line.startswith(SAID)]
    if result.exit_code == 0:
        outcome.faults += [f"exits 0 and says {line[:80]!r}" for line in rest[:1]]
    elif result.exit_code == 2 and rest and rest[0].startswith("Usage: "):
        outcome.line = rest[-1]
        outcome.faults += wording(rest[-1].removeprefix("Error: ")[:TALL], printed=True)
    elif result.exit_code in (1, 2) and rest:
        outcome.line = rest[-1]
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            outcome.faults.append(f"{type(result.exception).__name__}: {str(result.exception)[:120]}")
        outcome.faults += ["more than one line"] if len(rest) > 1 and "diverged" not in rest[0] else []
        outcome.faults += [] if rest[0].startswith("distopt: ") else [f"not a line of distopt: {rest[0][:80]!r}"]
        outcome.faults += wording(rest[-1], () if "diverged" in rest[0] else names, printed=True)
    else:
        what = (
            f"{type(result.exception).__name__}: {str(result.exception)[:120]}" if result.exception else "nothing said"
        )
        outcome.faults.append(f"exit {result.exit_code}, {what}")
    if found := [char for char in result.stdout if hidden(char) and char != "\n"]:
        outcome.faults.append(f"control characters on stdout {sorted(set(map(hex, map(ord, found))))[:4]}")
    return outcome


class Hunt:
    """The inputs of a kind, and what failed of them.

    ``count`` is how many there are (times DISTOPT_FUZZ); ``where`` is what to import to bring one back.
    """

    def __init__(self, kind: str, count: int, where: str) -> None:
        self.kind, self.where = kind, where
        self.count = int(count * float(os.environ.get("DISTOPT_FUZZ", "1")))
        self.seed = int(os.environ.get("DISTOPT_FUZZ_SEED", str(SEED)))
        self.failed: list[tuple[int, str, str, str]] = []
        self.accepted = self.refused = 0

    def __iter__(self) -> Iterator[tuple[int, random.Random]]:
        for number in range(self.count):
            yield number, draw(self.kind, number, self.seed)

    def judge(self, number: int, what: Any, outcome: Outcome) -> None:
        """Keep what failed of input ``number``, which is ``what``."""
        self.accepted += outcome.line is None and not outcome.faults
        self.refused += outcome.line is not None and not outcome.faults
        self.failed += [(number, fault, repr(what), outcome.line or "") for fault in outcome.faults]

    @property
    def summary(self) -> str:
        return f"{self.count} {self.kind} (seed {self.seed}): {self.accepted} accepted, {self.refused} refused in a line, {len(self.failed)} failed"

    def report(self) -> str:
        """Each class of failures with its shortest input, ready to be tried again."""
        classes: dict[str, list[tuple[int, str, str, str]]] = {}
        for each in self.failed:
            fault = shape(each[1])
            classes.setdefault(
                fault if each[1].startswith(("a line", "control", "does not name")) else f"{fault} | {shape(each[3])}",
                [],
            ).append(each)
        lines = [self.summary]
        for those in sorted(classes.values(), key=len, reverse=True):
            number, fault, what, line = min(those, key=lambda each: len(each[2]))
            lines += [
                f"- {len(those)} x {fault}",
                f"    input: {what[:300]}",
                *([f"    said:  {line[:250]!r}"] if line else []),
                f"    again: cd tests && python -c \"from fuzz import {self.where} as f; f.again('{self.kind}', {number}, {self.seed})\"",
            ]
        return "\n".join(lines)

    def done(self, record_property: Callable[[str, object], None]) -> None:
        """Print the count in the summary, and fail where anything did, or where all are refused: nothing was tested then."""
        record_property("fuzz", self.summary)
        assert not self.failed, self.report()
        assert self.refused and (self.accepted or self.kind.startswith(("damaged", "crafted"))), self.summary


Kinds = dict[str, tuple[int, Callable[[str, random.Random], tuple[Any, Outcome]]]]
"""How many inputs there are of each kind, and what makes and tries one of them."""

LONG = {
    "checkpoints",
    "command lines",
    "damaged streams",
    "experiments in TOML",
    "run folders to resume",
    "specs of algorithms",
    "specs of channels",
    "specs of scenarios",
    "streams",
    "streams in odd dialects",
    "weight files",
}
"""Hunts that take several seconds."""


def hunts(kinds: Kinds) -> list[Any]:
    """The kinds as cases of a test."""
    return [pytest.param(kind, marks=[pytest.mark.slow] if kind in LONG else []) for kind in kinds]


def hunt(kinds: Kinds, kind: str, where: str, record_property: Callable[[str, object], None]) -> None:
    """Try all inputs of a kind; ``where`` is the module that can bring one back."""
    count, make = kinds[kind]
    found = Hunt(kind, count, where)
    for number, rng in found:
        found.judge(number, *make(kind, rng))
    found.done(record_property)


def retry(kinds: Kinds, kind: str, number: int, seed: int) -> None:
    """Try one input again, as it was tried."""
    print(*kinds[kind][1](kind, draw(kind, number, seed)), sep="\n")


def draw(kind: str, number: int, seed: int = SEED) -> random.Random:
    """What decides input ``number`` of a kind."""
    return random.Random(f"{kind}/{seed}/{number}")


def shape(line: str) -> str:
    """A line without what differs from input to input."""
    return " ".join(re.findall(r"[A-Za-z]{3,}", re.sub(r"'[^']*'|\"[^\"]*\"|/\S*|\S+\.csv|\S+\d\S*", "", line)))[:50]
