"""Experiments in TOML by the thousand: each key with each type, encodings, duplicates, and damaged bytes."""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.fuzzing import Kinds, Outcome, hunt, hunts, retry, typed
from helpers.mutation import CHARS, NUMBERS, damage, mutate

from distopt.runs.loading import load
from distopt.runs.results import Run

GOOD = {
    "topology": '"ring"',
    "agents": "4",
    "scenario": '"quadratic:dim=2"',
    "algorithm": '"gt:lr=0.02"',
    "channel": '"exact"',
    "weights": '"lazy"',
    "drop_links": "0.1",
    "rounds": "3",
    "trials": "2",
    "seed": "5",
    "dtype": '"float32"',
    "every": "2",
    "x0": "0.5",
    "record": '["x", "s"]',
}
KEPT = {"topology", "agents", "scenario", "rounds", "algorithm"}
VALUES = (
    *GOOD.values(),
    '""',
    '" "',
    '"ring "',
    '"gt:lr=[0.01,0.02]"',
    '["gt:lr=0.01", "dgd"]',
    "[]",
    "[[]]",
    '[""]',
    "[1, 2]",
    "[0.5, 0.5]",
    "[[0.5, 0.5], [0.5, 0.5]]",
    "[[1, 0], [0]]",
    "{}",
    "{a = 1}",
    "true",
    "false",
    "0",
    "-1",
    "1.0",
    "4.0",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1_0",
    "0x4",
    "0o4",
    "0b100",
    str(2**63),
    str(2**64),
    "9" * 400,
    "1979-05-27",
    "07:32:00",
    "1979-05-27T07:32:00Z",
    "'''ring'''",
    '"""\nring"""',
    '"\\u0000"',
    '"\\u001b[31m"',
    '"é"',
    '"../x.csv"',
    '"x.py"',
    '"stream:x.csv"',
    '"file:"',
    '"complete"',
    '"x,s"',
    '"x,x"',
    '["x", "x"]',
    '["x", 1]',
    "[" * 400 + "]" * 400,
    "[" * 5_000 + "]" * 5_000,
    "{a=" * 400 + "1" + "}" * 400,
    "[true]",
    "[{a = 1}]",
    '"none"',
    '"10"',
    '"１"',
)
CODES = (
    "utf-8",
    "utf-8",
    "utf-8",
    "utf-8",
    "utf-8",
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-32",
    "latin-1",
    "cp1252",
    "utf-7",
)


def text(rng: random.Random) -> str:
    """An experiment, some of it of the wrong type."""
    keys = [key for key in GOOD if key in KEPT or rng.random() < 0.3]
    settings = {key: GOOD[key] for key in keys}
    for key in rng.sample(list(GOOD), rng.choice((0, 1, 1, 1, 2))):
        settings[key] = rng.choice(VALUES)
    lines = [f"{key} = {value}" for key, value in settings.items()]
    way = rng.random()
    if way < 0.06:
        lines.append(rng.choice(lines))
    elif way < 0.12:
        lines.append(
            rng.choice(
                (
                    '"topology "="ring"',
                    "Agents = 4",
                    "agent = 4",
                    "[agents]",
                    "[[algorithm]]",
                    "a.b = 1",
                    '"" = 1',
                    '"\\u001b[2J" = 1',
                    "run = 4",
                    "topology.x = 1",
                    "= 1",
                    "mode = 'eager'",
                )
            )
        )
    elif way < 0.18:
        lines.pop(rng.randrange(len(lines)))
    elif way < 0.24:
        lines = [f"# {rng.choice(CHARS)}", *lines]
    ends = rng.choice(("\n", "\n", "\n", "\r\n", "\r", "\n\n"))
    whole = ends.join(lines) + rng.choice((ends, ""))
    return mutate(rng, whole, (*CHARS, *NUMBERS, *VALUES)) if rng.random() < 0.3 else whole


def expected(data: bytes) -> dict[str, Any] | None:
    """What a tolerant reader makes of the file."""
    try:
        return tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n"))
    except (ValueError, RecursionError):
        return None


def compare(data: bytes, out: Path) -> list[str]:
    """What is wrong with runs that an accepted file gave."""
    read = expected(data)
    if read is None:
        return ["accepts what is no TOML in UTF-8"]
    loaded = load(out)
    runs = [loaded] if isinstance(loaded, Run) else list(loaded.values())
    faults = []
    for run in runs:
        asked = run.info["experiment"]
        for key in ("seed", "trials", "rounds", "drop_links", "x0", "dtype", "every"):
            if key in read and not (
                read[key] == asked[key] and isinstance(read[key], bool) == isinstance(asked[key], bool)
            ):
                faults.append(f"takes {key}={read[key]!r} for {asked[key]!r}")
        if run.status == "done" and not all(math.isfinite(v) for v in run["dynamic_regret"].ravel()):
            faults.append("is done, with a regret that is no number")
    return faults


def one(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    code = rng.choice(CODES)
    data = text(rng).encode(code, "replace")
    if rng.random() < 0.2:
        data = damage(rng, data)
    name = rng.choice(("e.toml", "e.toml", "e.toml", "ü.toml", "a b.toml", "1.toml"))
    Path(name).write_bytes(data)
    out = Path(f"out-{rng.getrandbits(64):x}")
    outcome = typed("simulate", name, "--eager", "--out", str(out), names=())
    if outcome.line is None and not outcome.faults:
        outcome.faults += compare(data, out)
    elif outcome.line is not None and expected(data) is None and name not in outcome.line:
        outcome.faults.append("does not name the file")
    return (name, data), outcome


KINDS: Kinds = {"experiments in TOML": (900, one)}


def again(kind: str, number: int, seed: int) -> None:
    """Try one input again, as it was tried."""
    retry(KINDS, kind, number, seed)


@pytest.mark.parametrize("kind", hunts(KINDS))
@pytest.mark.usefixtures("own_folder", "no_figures")
def test_an_experiment_is_read_as_it_stands_or_refused_in_a_line(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    hunt(KINDS, kind, "test_fuzz_toml", record_property)
