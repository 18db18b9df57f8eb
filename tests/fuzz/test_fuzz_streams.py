"""CSV streams by the thousand: every marker, role, separator, line end, quoting and encoding, and damaged bytes."""

from __future__ import annotations

import csv
import io
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.fuzzing import Kinds, Outcome, asked, hunt, hunts, retry, typed
from helpers.mutation import damage

from distopt.experiment import Experiment
from distopt.simulation.problem import build

MISSING = (
    "",
    " ",
    "NA",
    "N/A",
    "n/a",
    "na",
    "<NA>",
    "None",
    "none",
    "NONE",
    "null",
    "NULL",
    "nan",
    "NaN",
    "-",
    "?",
    "#N/A",
    "#NA",
    "#N/A N/A",
    "-nan",
    "-NaN",
    "NaT",
)
SURELY = {"", "na", "<na>", "null", "nan", "-", "?", "#n/a", "n/a"}  # whatever their case, and blanks around them
LABELS = (
    ("dry", "rain"),
    ("a", "b", "c"),
    ("0", "1"),
    ("1", "2", "3"),
    ("0.0", "1.0"),
    ("ja", "nein"),
    ("5e9120", "7a", "1e400"),
    ("über", "unter"),
    ("inf", "fin"),
    ("no", "yes"),
    ("-1", "1"),
)
DEVICES = (
    ("d1", "d2", "d3", "d4"),
    ("5e9120", "1e5", "0b1", "9a"),
    ("inf", "in", "nan1", "x"),
    ("01", "1", "001", "1.0"),
    ("1_0", "10", "100", "0_10"),
    ("A", "a", "B", "b"),
    ("9007199254740993", "9007199254740992", "18446744073709551615", "18446744073709551614"),
    ("é", "è", "ê", "ë"),
    ("a b", "ab", "a-b", "a_b"),
)
KIND = (("sunny", "cloudy", "fog"), ("A1", "B2"), ("1a", "2b", "3c"), ("x", "y"), ("5e9x", "7x"))
ODD = (
    "1_0",
    "１２",
    "1,5",
    "0x10",
    "1e309",
    "-1e400",
    "inf",
    "-inf",
    "Infinity",
    "1e101",
    "٣",
    "1 0",
    "12°",
    "abc",
    "true",
    "$5",
    "1.2.3",
    "--1",
    "1e",
    "²",
    "5%",
)
CODES = ("utf-8", "utf-8", "utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-32")


def surely(text: str) -> bool:
    """Whether a text says that there is no value, in every column; none, in small letters, may be a name."""
    return text.strip().lower() in SURELY or text.strip() == "None"


def canonical(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


class Sheet:
    """A table of which everything is known: what its cells mean, and whether it is to be accepted."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, rows = rng, rng.randint(20, 40)
        labels, devices, kinds = rng.choice(LABELS), rng.choice(DEVICES), rng.choice(KIND)
        self.header = [
            "speed",
            rng.choice(("load", "Last in %", "größe")),
            "kind",
            rng.choice(("device", "id")),
            rng.choice(("state", "label", "Zu stand")),
        ]
        self.cells = [
            [
                f"{rng.uniform(-5, 50):.{rng.randrange(4)}f}",
                str(rng.randrange(100)),
                kinds[r % len(kinds)],
                devices[r % 4],
                labels[rng.randrange(len(labels)) if r > 3 else r % len(labels)],
            ]
            for r in range(rows)
        ]
        self.target, self.owner = 4, rng.choice((None, 3))
        self.broken: tuple[int, int] | None = None  # the cell that must be refused
        self.doubt = False  # whether it may be taken or not
        way = rng.random()
        row = rng.choice((0, 0, rows - 1, rng.randrange(rows)))
        column = rng.randrange(5)
        if way < 0.4:
            self.cells[row][column], self.broken = rng.choice(MISSING), (row, column)
        elif way < 0.5:  # a number column of which a few cells are texts
            self.cells[row][column % 2], self.broken = rng.choice(ODD), (row, column % 2)
        elif way < 0.55:
            for r in rng.sample(range(rows), rows // 2):
                self.cells[r][2] = "7"
            self.doubt = True
        looks = {number(name) or name.lower() in ("inf", "-inf") for name in devices} | {
            "1_0" in devices,
            "5e9120" in devices,
        }
        if self.owner is None and len(looks) > 1:  # a feature of which some texts look like numbers
            self.doubt = True
        if len({c[3] for c in self.cells}) < 4:
            self.doubt = True

    @property
    def dim(self) -> int:
        """The dimension of the model: a constant, numbers as they are, and a column for each text."""
        width = 3 + len({canonical(row[2]) for row in self.cells})
        if self.owner is None:
            texts = [canonical(row[3]) for row in self.cells]
            width += 1 if all(number(text) for text in texts) else len(set(texts))
        labels = [canonical(row[4]) for row in self.cells]
        classes = len(set(map(float, labels) if all(map(number, labels)) else labels))
        return width * (1 if classes == 2 else classes)

    def rows(self) -> list[tuple[float, ...]]:
        """The features and the class of each row, sorted."""
        columns: list[list[Any]] = [[1.0] * len(self.cells)]
        for k in range(5):
            texts = [canonical(row[k]) for row in self.cells]
            if k in (self.target, self.owner):
                continue
            if k < 2 or (k == 3 and all(map(number, texts))):
                columns.append([float(text) for text in texts])
            else:
                columns += [[float(text == each) for text in texts] for each in dict.fromkeys(texts)]
        labels: list[Any] = [canonical(row[4]) for row in self.cells]
        labels = [float(label) for label in labels] if all(map(number, labels)) else labels
        order = sorted(set(labels))
        columns.append([order.index(label) for label in labels])
        return sorted(zip(*columns, strict=True))


def held(problem: Any) -> list[tuple[float, ...]]:
    """The same, as the scenario deals them out in its only round."""
    batch = problem.scenario.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), problem.key)
    mine = batch.w[0, 0] > 0
    y = batch.y[0, 0][mine].double()
    y = (y + 1) / 2 if batch.y.is_floating_point() else y
    return sorted(tuple(row) for row in torch.cat([batch.X[0, 0][mine], y[:, None]], 1).tolist())


def number(text: str) -> bool:
    try:
        return "_" not in text and text.isascii() and abs(float(text)) < 1e100
    except ValueError:
        return False


def written(rng: random.Random, sheet: Sheet, plain: bool) -> tuple[bytes, bool]:
    """The table as a file, and whether its dialect is one that must be read."""
    separator = "," if plain else rng.choice((",", ",", ";", "\t", "|", " "))
    end = rng.choice(("\n", "\n", "\r\n")) if plain else rng.choice(("\n", "\r\n", "\r", "\n\n", " \n"))
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
    code = rng.choice(("utf-8", "utf-8-sig")) if plain else rng.choice(CODES)
    normal = rng.choice(("NFC", "NFC", "NFD"))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([sheet.header, *sheet.cells])
    text = unicodedata.normalize(normal, out.getvalue())
    if rng.random() < 0.2:
        text = text.rstrip("\r\n")
    if not plain and rng.random() < 0.1:
        text = rng.choice(("sep=,\n", "# made by\n", "\n", "﻿")) + text
    try:
        return text.encode(code), plain
    except UnicodeEncodeError:  # a code that lacks one of the letters
        return text.encode(), plain


def ask(path: str, sheet: Sheet, label: str) -> Outcome:
    owner = "" if sheet.owner is None else f",agents_by={sheet.header[3]}"
    spec = f"stream:'{path}',label='{label}',window=60,step={len(sheet.cells)},standardise=no{owner}"
    return asked(
        lambda: build(Experiment("ring", 4, spec, "gt:lr=0.02", rounds=1)), names=(path, "label", "agents_by", "rounds")
    )


def one(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    """A table in some dialect: taken with the meaning that it was written with, or refused with line and column."""
    sheet = Sheet(rng)
    data, regular = written(rng, sheet, kind == "streams")
    path = f"{rng.getrandbits(40):x}.csv"
    Path(path).write_bytes(data)
    label = unicodedata.normalize(rng.choice(("NFC", "NFD")), sheet.header[4])
    outcome = ask(path, sheet, label)
    row, column = sheet.broken or (0, 0)
    cell, name = sheet.cells[row][column], sheet.header[column]
    wrong = surely(cell) or (column < 2 and not number(cell))  # no other reading of it is right
    if outcome.line is None and not outcome.faults:
        if sheet.broken and wrong:
            outcome.faults.append(f"accepts {cell!r} in column {name!r}, {'first' if row == 0 else 'later'} row")
        elif not sheet.broken and not sheet.doubt and outcome.value.scenario.dim != sheet.dim:
            outcome.faults.append(f"takes it for dim {outcome.value.scenario.dim}, not {sheet.dim}")
        elif not sheet.broken and not sheet.doubt and held(outcome.value) != sheet.rows():
            outcome.faults.append("takes other numbers out of it")
    elif outcome.line is not None and regular:
        told = f"line {row + 2}" in outcome.line and canonical(name) in canonical(outcome.line)
        if not sheet.broken and not sheet.doubt:
            outcome.faults.append("refuses a regular file")
        elif sheet.broken and wrong and not told and not sheet.doubt:
            outcome.faults.append(f"refuses {cell!r} without line {row + 2} and column {name!r}")
    return (label, sheet.owner, data), outcome


def mangled(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    """Damaged bytes: refused, or without a missing value as an independent reader sees it."""
    sheet = Sheet(rng)
    data = damage(rng, written(rng, sheet, rng.random() < 0.7)[0])
    path = f"{rng.getrandbits(40):x}.csv"
    Path(path).write_bytes(data)
    if rng.random() < 0.1:
        owner = "" if sheet.owner is None else f",agents_by={sheet.header[3]}"
        spec = f"stream:'{path}',label='{sheet.header[4]}',window=4{owner}"
        outcome = typed(
            "simulate",
            "ring",
            "--agents",
            "4",
            "--scenario",
            spec,
            "--algorithm",
            "gt:lr=0.02",
            "--rounds",
            "3",
            "--eager",
            "--out",
            path[:-4],
            names=(path, "label", "agents_by"),
        )
    else:
        outcome = ask(path, sheet, sheet.header[4])
    if outcome.line is None and not outcome.faults:
        text = data.decode("utf-8-sig", "replace")
        if text.count(",") > 40:
            cells = [cell for row in csv.reader(io.StringIO(text, newline="")) if len(row) > 1 for cell in row]
            outcome.faults += [f"accepts a cell {cell!r}" for cell in cells if surely(cell)][:1]
    return (sheet.header[4], sheet.owner, data), outcome


KINDS: Kinds = {
    "streams": (900, one),
    "streams in odd dialects": (600, one),
    "damaged streams": (900, mangled),
}


def again(kind: str, number: int, seed: int) -> None:
    """Try one input again, as it was tried."""
    retry(KINDS, kind, number, seed)


@pytest.mark.parametrize("kind", hunts(KINDS))
@pytest.mark.usefixtures("own_folder", "no_figures")
def test_a_stream_means_what_it_says_or_is_refused_in_a_line(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    hunt(KINDS, kind, "test_fuzz_streams", record_property)
