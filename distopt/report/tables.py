"""Tables as text and as CSV, above all the closing one of a comparison, which fits a terminal. Imports neither torch nor plotting."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from distopt.metrics import Metric, catalogue


class Column(NamedTuple):
    """A column of the closing table: its key in a summary, the lines over it, the unit, and its baselines by label."""

    key: str
    head: tuple[str, ...]
    unit: str = ""
    baselines: Mapping[str, str] = {}


RANKING, STAR = ("average_dynamic_regret", "radius", "cost"), " *"
"""The figures whose smallest value is marked (the first that exists counts), and the mark."""

HEAD_LINES = 2
"""How many lines of ``text`` are its head."""


def number(value: float, digits: int = 3) -> str:
    """A figure in few characters; nothing for nan.

    >>> [number(v) for v in (0.012345, 2.2e-16, 1234567.0, 0.0, float("nan"))]
    ['0.0123', '2.2e-16', '1.2e+06', '0', '']
    """
    if math.isnan(value):
        return ""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        text = f"{value:.{digits}g}"
        return f"{value:.0f}" if "e" in text else text
    return f"{value:.{digits - 2}e}"


def amount(value: float) -> str:
    """A count with a decimal prefix.

    >>> [amount(v) for v in (640.0, 128_000.0, 2.5e9)]
    ['640', '128 k', '2.5 G']
    """
    if math.isnan(value):
        return ""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def closing_key(name: str, metric: Metric) -> str:
    """What a metric's closing figure is called."""
    return metric.key or (f"average_{name}" if metric.averaged else name)


def closing(users: Mapping[str, Metric] | None = None) -> list[Column]:
    """The columns of the closing table: those of the metrics and of the users' metrics, the spread and the speed.

    >>> [column.key for column in closing()][:3]
    ['average_dynamic_regret', 'cost', 'spread']
    """
    every = {**catalogue(), **(users or {})}
    named = {each: closing_key(each, metric) for each, metric in every.items()}
    found = [
        (
            metric.column,
            Column(
                named[name],
                ("", *metric.head)[-HEAD_LINES:],
                metric.unit,
                {every[each].label: named[each] for each in metric.baselines if each in every},
            ),
        )
        for name, metric in every.items()
        if metric.head
    ]
    found += [
        (2, Column("spread", ("", "spread"), "±")),
        (6, Column("rounds_per_second", ("rounds", "per s"), "rounds")),
    ]
    return [column for _, column in sorted(found, key=lambda each: each[0])]


def figure(value: float, unit: str) -> str:
    """A figure with its unit, in few characters; nothing for nan.

    >>> figure(0.791, "fraction"), figure(128_000.0, "bits"), figure(0.5, "")
    ('79.1 %', '128 k', '0.5')
    """
    if math.isnan(value):
        return ""
    if unit == "fraction":
        return f"{100 * value:.1f} %"
    if unit == "±":
        return f"±{number(value, 2)}" if math.isfinite(value) else ""
    return number(value) if unit in ("", "cost") else amount(value)


def cells(summaries: Sequence[Mapping[str, Any]], shown: Sequence[Column], baselines: bool = True) -> list[list[str]]:
    """The body of the closing table: a row per algorithm, then the baselines, every row as long as ``shown`` and the names.

    ``summaries`` are ``summary.summary`` of the runs. Of several, a star marks the smallest average regret (or radius, or cost) among those that ran
    to the end. The baselines are those of the longest run: others saw fewer rounds.
    """
    rows = []
    done = [row for row in summaries if row["status"] == "done"]
    ranking = next((key for key in RANKING if any(not math.isnan(row.get(key, math.nan)) for row in done)), RANKING[0])
    ended = [value for row in done if math.isfinite(value := row.get(ranking, math.nan))]
    best = min(ended) if len(summaries) > 1 and ended else math.nan
    for row in summaries:
        label = (
            row["algorithm"]
            if row["status"] == "done"
            else f"{row['algorithm']} ({row['status']}, {row['rounds']:,} rounds)"
        )
        star = {ranking: STAR} if row["status"] == "done" and row.get(ranking) == best else {}
        rows.append(
            [label, *(figure(row.get(each.key, math.nan), each.unit) + star.get(each.key, "") for each in shown)]
        )
    longest = max(summaries, key=lambda row: int(row["rounds"]), default={})
    labels = dict.fromkeys(label for each in shown for label in each.baselines) if baselines else {}
    for label in labels:
        found = [figure(longest.get(each.baselines.get(label, ""), math.nan), each.unit) for each in shown]
        if any(found):
            rows.append([label, *found])
    return rows


def text(
    summaries: Sequence[Mapping[str, Any]],
    width: int | None = None,
    first: str = "algorithm",
    shown: Sequence[Column] | None = None,
    baselines: bool = True,
) -> str:
    """The closing table as lines. With a ``width`` names are broken after ``:`` and ``,`` so that it fits; columns without
    any entry are left out. ``first`` is the head of the names, ``shown`` the columns (by default those of the metrics that every run has).

    >>> row = dict(algorithm="gt", status="done", rounds=9, average_dynamic_regret=0.5, spread=float("nan"), consensus_error=0.1,
    ...            tracker_invariant=0.0, bits_per_agent=640.0, rounds_per_second=100.0)
    >>> print(text([row]).splitlines()[2])
    gt             0.5        0.1          0       640     100
    """
    shown = closing() if shown is None else shown
    rows = cells(summaries, shown, baselines)
    for c in {c for row in rows for c in range(1, len(row)) if row[c].endswith(STAR)}:
        for row in rows:
            row[c] += "" if row[c].endswith(STAR) else " " * len(STAR)  # figures stay below each other
    heads = [("", first), *(each.head for each in shown)]
    used = [c for c in range(len(heads)) if c == 0 or any(row[c] for row in rows)]
    widths = {c: max([len(part) for part in heads[c]] + [len(row[c]) for row in rows]) for c in used}
    if width is not None:
        widths[0] = min(widths[0], max(12, width - sum(widths[c] + 2 for c in used if c)))
    lines = []
    for part in range(HEAD_LINES):
        head = [heads[c][part].rjust(widths[c]) if c else heads[c][part].ljust(widths[c]) for c in used]
        lines.append("  ".join(head))
    for row in rows:
        for k, piece in enumerate(broken(row[0], widths[0])):
            lines.append(
                "  ".join([piece.ljust(widths[0]), *((row[c] if not k else "").rjust(widths[c]) for c in used[1:])])
            )
    return "\n".join(line.rstrip() for line in lines)


def broken(label: str, width: int) -> list[str]:
    """A label in lines of at most ``width`` characters, broken after ``:``, ``,`` and spaces, or else ``(`` and ``=``, where it can be.

    >>> broken("gtadam:lr=0.05,b1=0.9,cap=100", 19)
    ['gtadam:lr=0.05,', 'b1=0.9,cap=100']
    >>> broken("dgd:lr=inverse_sqrt(0.1)", 19)
    ['dgd:', 'lr=inverse_sqrt(', '0.1)']
    """
    lines = [""]
    for piece in re.findall(r"[^:,\s]*[:,\s]?", label):
        while len(piece.rstrip()) > width:
            end = max(piece.rfind(sign, 0, width) for sign in "(=") + 1 or width
            lines, piece = [*lines, piece[:end]], piece[end:]
        if len(lines[-1]) + len(piece.rstrip()) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return [line.strip() for line in lines if line.strip()]


def columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """Any rows as aligned lines under their names; figures to the right, in few characters.

    >>> print(columns([{"method": "sign", "loss": 0.51234}, {"method": "EF", "loss": 1.2e-9}]))
    method     loss
    sign      0.512
    EF      1.2e-09
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = [
        [number(value) if isinstance(value, float) else str(value) for value in (row.get(name, "") for name in names)]
        for row in rows
    ]
    right = [any(isinstance(row.get(name), int | float) for row in rows) for name in names]
    widths = [max(len(each[c]) for each in [names, *shown]) for c in range(len(names))]
    lines = (
        [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(each, widths, right, strict=True)]
        for each in [names, *shown]
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def to_csv(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The summaries as CSV at full precision: a header, a line per algorithm; what a run lacks is left empty.

    >>> print(to_csv([{"algorithm": "gt", "spread": float("nan")}]), end="")
    algorithm,spread
    gt,
    """
    names = list(dict.fromkeys(name for row in summaries for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in summaries:
        values = (row.get(name, "") for name in names)
        writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in values])
    return out.getvalue()
