"""Each direction rule on tracked gradients (gt) and on local ones (dgd), with tuned step sizes, on two streams.

Usage: python benchmarks/rules.py [--log]    --log writes benchmarks/results/rules.json and the tables of docs/choosing.md; takes half an hour or more

Finished runs are kept in build/rules, and the same command continues from there.

``distopt.tune`` chooses the step sizes: the same grid, trials and number of gradients for all. The figures come from other trials: medians
of the average dynamic regret with bootstrap intervals, and paired Hodges-Lehmann differences. Holm's method corrects the p-values for their
number on the stream.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import header, log, machine, written

import distopt
from distopt.report.statistics import holm, median_interval, paired
from distopt.runs.tuned import Tuned, finals

AGENTS, TRIALS, REPORT_TRIALS, ALPHA = 16, 5, 30, 0.05
PAGE = Path(__file__).parent.parent / "docs" / "choosing.md"


@dataclass(frozen=True)
class Stream:
    """A scenario on a ring, how many rounds it has, and what it is."""

    scenario: str
    rounds: int
    title: str


STREAMS = (
    Stream("drifting_logistic", 500, "drifting logistic regression"),
    Stream("flights", 1000, "flights, real data"),
)
RULES = {
    "the gradient": "sgd",
    "heavy ball": "momentum",
    "Nesterov": "nesterov",
    "losing momentum": "losing_momentum",
    "INNA": "inna",
    "Adam": "adam(eps_inside=false,cap=none,bias_correction=true)",
    "Adam, as in GTAdam": "adam",
    "AMSGrad": "amsgrad",
    "padam": "padam",
    "AIDA (1, 2)": "aida(p=1,q=2)",
    "Super-Adam": "superadam",
    "AdaBelief": "adabelief",
    "ACProp": "acprop",
    "AdaShift": "adashift",
    "Adan": "adan",
    "diffGrad": "diffgrad",
    "TheoPouLa": "theopoula(eps=0.01)",
}
"""The rules by the names of their papers. Constants are the rules' defaults, without weight decay."""
FORMS = {"gt": "tracked", "dgd": "local"}


def pairs() -> dict[str, dict[str, str]]:
    """The specs of each rule, by form; STORM, which needs a second gradient, has algorithms of its own."""
    found = {
        name: {form: f"{algorithm}:direction={rule}" for algorithm, form in FORMS.items()}
        for name, rule in RULES.items()
    }
    return {**found, "Super-Adam, STORM": {"tracked": "gt_storm", "local": "storm"}}


def measured(stream: Stream) -> dict[str, Any]:
    """The figures of all rules on a stream."""
    began, specs = time.perf_counter(), pairs()
    every = [spec for forms in specs.values() for spec in forms.values()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*diverged", UserWarning)  # large step sizes of the grid do
        tuned = distopt.tune(
            "ring",
            agents=AGENTS,
            scenario=stream.scenario,
            algorithm=every,
            rounds=stream.rounds,
            trials=TRIALS,
            report_trials=REPORT_TRIALS,
            every=stream.rounds,
            agentwise=False,
            out=Path("build") / "rules" / stream.scenario,
        )
    rules = {name: {form: _figure(tuned, spec) for form, spec in forms.items()} for name, forms in specs.items()}
    differences = {name: paired(*(forms[form]["figures"] for form in FORMS.values())) for name, forms in rules.items()}
    corrected = dict(zip(differences, holm([each.p for each in differences.values()]), strict=True))
    for name, forms in rules.items():
        value, low, high = differences[name].difference
        ends = (value, low, high) if all(map(math.isfinite, (value, low, high))) else (None, None, None)
        forms["difference"] = {**dict(zip(("value", "low", "high"), ends, strict=True)), "p": corrected[name]}
        for form in FORMS.values():
            del forms[form]["figures"]
    return {"rounds": stream.rounds, "title": stream.title, "seconds": time.perf_counter() - began, "rules": rules}


def _figure(tuned: Tuned, spec: str) -> dict[str, Any]:
    found = tuned.algorithms[spec]
    if found.winner is None or found.tuned is None:
        return {"spec": spec, "lr": None, "figures": [math.inf] * REPORT_TRIALS}
    figures = finals(tuned.runs[found.tuned])
    middle = median_interval(figures)
    return {
        "spec": spec,
        "lr": found.winner.lr,
        "figures": figures,
        "median": middle.value,
        "low": middle.low,
        "high": middle.high,
    }


def table(figures: Mapping[str, Any]) -> str:
    """The tables of the page, one for each stream, the best rule first.

    >>> each = {"spec": "gt", "lr": 0.1, "median": 0.5, "low": 0.4, "high": 0.6}
    >>> row = {"tracked": each, "local": {**each, "median": 1.0}, "difference": {"value": -0.5, "low": -0.6, "high": -0.4, "p": 0.001}}
    >>> print(table({"sea": {"title": "a sea", "rounds": 9, "rules": {"Adam": row}}}).splitlines()[-1])
    | Adam | **0.500** (0.400 to 0.600), lr 0.1 | 1.000 (0.400 to 0.600), lr 0.1 | -0.500 (-0.600 to -0.400) * |
    """
    parts = []
    for stream in figures.values():
        rows = sorted(
            stream["rules"].items(),
            key=lambda row: min(row[1][form].get("median", math.inf) for form in FORMS.values()),
        )
        best = min(row[form].get("median", math.inf) for _, row in rows for form in FORMS.values())
        lines = [
            f"### {stream['title'][0].upper()}{stream['title'][1:]}, {stream['rounds']:,} rounds",
            "",
            "| rule | tracked (`gt`) | local (`dgd`) | tracked - local |",
            "|---|---|---|---|",
            *(
                f"| {name} | {_cell(row['tracked'], best)} | {_cell(row['local'], best)} | {_difference(row['difference'])} |"
                for name, row in rows
            ),
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(figure: Mapping[str, Any], best: float) -> str:
    if figure["lr"] is None:
        return "diverges at every step size"
    middle = f"{figure['median']:.3f}"
    middle = f"**{middle}**" if figure["median"] == best else middle
    return f"{middle} ({figure['low']:.3f} to {figure['high']:.3f}), lr {figure['lr']:g}"


def _difference(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "one of them diverges"
    mark = " *" if found["p"] is not None and found["p"] < ALPHA else ""
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f}){mark}"


def main() -> None:
    """Measure, print the tables, and log them."""
    about = machine()
    print(header(about))
    found = {}
    for stream in STREAMS:
        print(f"{stream.title}: {len(RULES) + 1} rules in two forms ...", flush=True)
        found[stream.scenario] = measured(stream)
    print(table(found))
    if "--log" in sys.argv[1:]:
        log("rules", {"streams": found}, about)
        PAGE.write_text(written(PAGE.read_text(), "rules.py", table(found)))


if __name__ == "__main__":
    main()
