"""How step sizes were searched for, as ``distopt tune`` has left it in a folder."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distopt.report.tables import number
from distopt.runs import reading
from distopt.runs.tuning_files import FIGURE, POINTS

_PICTURE_BYTES = 2**20


class Tuning(NamedTuple):
    """A search on the page: its picture, base64 of a PNG or "" where there is none, and a row for each point that was tried."""

    folder: str
    picture: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def there(folder: Path) -> bool:
    """Whether a folder holds the table of a search."""
    return (folder / POINTS).is_file()


def tuning(folder: Path) -> Tuning:
    """What a folder holds of a search.

    Raises:
        InputError: a file cannot be read.
    """
    points = list(csv.DictReader(io.StringIO(reading.text(folder / POINTS))))
    rows = [
        [each["spec"], each["lr"], _figure(each["median"]), f"{each['diverged']}/{_trials(each)}", each["winner"]]
        for each in points
    ]
    heads = ("spec", "lr", "median of the final figure", "diverged", "winner")
    return Tuning(folder.name, _picture(folder / FIGURE), heads, rows)


def _picture(path: Path) -> str:
    if not path.is_file():
        return ""
    with reading.regular(path) as (file, size):
        return base64.b64encode(file.read(_PICTURE_BYTES)).decode() if size <= _PICTURE_BYTES else ""


def _figure(text: str) -> str:
    try:
        return number(float(text), 4)
    except ValueError:
        return text


def _trials(row: dict[str, str]) -> int:
    return sum(name.startswith("trial_") for name in row)
