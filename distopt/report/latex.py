"""Tables of a comparison for papers, as LaTeX (booktabs, siunitx) and Markdown, and texts that LaTeX takes as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from distopt.errors import printable
from distopt.report.statistics import Estimate
from distopt.report.tables import number
from distopt.report.titles import short
from distopt.report.verdict import Row, Verdict, interval

PREAMBLE = r"\usepackage{booktabs,siunitx}"
"""What a paper needs for the tables."""

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    **{char: f"\\{char}" for char in "{}$&#%_"},
}


def escaped(text: str) -> str:
    r"""A text as LaTeX prints it: what has a meaning there is spelled out, and control characters are shown as escapes.

    >>> print(escaped("my_rule:lr=50%"))
    my\_rule:lr=50\%
    """
    plain = "".join(_ESCAPES.get(char, char) for char in printable(text))
    return plain.replace("--", "-{}-{}")  # two in a row would be a dash


def cited(text: str) -> str:
    r"""A text that names papers by their keys in square brackets, as LaTeX prints and cites it.

    >>> print(cited("Corrected by Holm [holm1979], at 5 %."))
    Corrected by Holm~\cite{holm1979}, at 5 \%.
    """
    return re.sub(r" \[([a-z]+\d{4}[a-z]?)\]", r"~\\cite{\1}", escaped(text))


def figures(values: Iterable[float]) -> list[str]:
    r"""The cells of a column of numbers: what siunitx reads, braces around what it cannot.

    >>> figures([0.01234, 1e-7, 2e30, math.inf, math.nan])
    ['0.0123', '1.0e-7', '2.0e30', '{$\\infty$}', '{}']
    """
    infinite = {math.inf: r"{$\infty$}", -math.inf: r"{$-\infty$}"}
    return [
        "{}" if math.isnan(each) else infinite.get(each) or re.sub(r"e\+?(-?)0?", r"e\1", number(each))
        for each in values
    ]


def column(cells: Sequence[str]) -> str:
    """The siunitx column that such cells fit into.

    >>> column(["0.0123", "12", "{}", "-1.5e-17"])
    'S[table-format=-2.4e-2]'
    """
    parts = [match for cell in cells if (match := re.fullmatch(r"(-?)(\d+)(?:\.(\d+))?(?:e(-?)(\d+))?", cell))]
    if not parts:
        return "c"
    sign = "-" if any(part[1] for part in parts) else ""
    whole = max(len(part[2]) for part in parts)
    decimals = max(len(part[3] or "") for part in parts)
    digits = max(len(part[5] or "") for part in parts)
    exponent = f"e{'-' if any(part[4] == '-' for part in parts) else ''}{digits}" if digits else ""
    return f"S[table-format={sign}{whole}.{decimals}{exponent}]"


def table(verdict: Verdict, problems: Sequence[str]) -> str:
    """The rows of some problems as a tabular. Bold: the best of a problem, and methods that do not differ significantly from it."""
    rows = [(problem, row) for problem in problems for row in verdict.of(problem)]
    nothing = Estimate(math.nan, math.nan, math.nan)
    against = [row.difference or nothing for _, row in rows]
    columns = [
        figures(row.median.value for _, row in rows),
        figures(row.median.low for _, row in rows),
        figures(row.median.high for _, row in rows),
        figures(each.value for each in against),
        figures(each.low for each in against),
        figures(each.high for each in against),
        figures(math.nan if row.corrected is None else row.corrected for _, row in rows),
    ]
    percent = f"{100 * verdict.level:g}\\,\\%"
    named = verdict.reference(*problems)
    lines = [
        f"% needs {PREAMBLE}",
        r"{\sisetup{detect-weight=true,group-digits=none,table-align-text-post=false}%",
        f"\\begin{{tabular}}{{@{{}}l{''.join(map(column, columns))}r@{{}}}}",
        r"\toprule",
        f"Method & {{Median}} & \\multicolumn{{2}}{{c}}{{{percent} interval}} & {{Minus {escaped(named)}}} & "
        f"\\multicolumn{{2}}{{c}}{{{percent} interval}} & {{$p$ (Holm)}} & Div. \\\\",
    ]
    last = None
    for k, (problem, row) in enumerate(rows):
        if problem != last:
            lines.append(r"\midrule")
            if len(problems) > 1:
                lines.append(f"\\multicolumn{{9}}{{@{{}}l}}{{\\emph{{{escaped(problem)}}}}} \\\\")
            last = problem
        lines.append(_line(row, [each[k] for each in columns]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", ""])


def _line(row: Row, cells: Sequence[str]) -> str:
    name, median = escaped(short(row.method)), cells[0]
    if row.marked:
        name = f"\\textbf{{{name}}}"
        median = f"\\bfseries {median}" if not median.startswith("{") else f"{{\\bfseries {median[1:-1]}}}"
    diverged = f"{row.diverged}/{row.trials}"
    return " & ".join([name, median, *cells[1:], diverged]) + " \\\\"


def markdown(verdict: Verdict, problems: Sequence[str]) -> str:
    """The same as a Markdown table; bold as in ``table``."""
    percent = f"{100 * verdict.level:g} %"
    heads = [
        *(["problem"] if len(problems) > 1 else []),
        "method",
        f"median [{percent}]",
        "trials",
        "diverged",
        f"minus {verdict.reference(*problems)} [{percent}]",
        "p (Holm)",
        "verdict",
    ]
    lines = [heads, ["---" for _ in heads]]
    for problem in problems:
        for row in verdict.of(problem):
            bold = "**" if row.marked else ""
            lines.append(
                [
                    *([problem] if len(problems) > 1 else []),
                    f"{bold}{row.method}{bold}",
                    f"{bold}{interval(row.median)}{bold}",
                    f"{row.trials}",
                    f"{row.diverged}",
                    "" if row.difference is None else interval(row.difference),
                    "" if row.corrected is None else f"{row.corrected:.2g}",
                    row.verdict,
                ]
            )
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"([\\|<>`_])", r"\\\1", printable(text))
