"""GTAdam against other methods, each at the step size that is best for it: tuned on some trials, compared on others [carnevale2023]."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distopt.experiment import Experiment
from distopt.report import statistics
from distopt.report.claims import Outcome, Verdict
from distopt.report.page.columns import ENOUGH, TAIL
from distopt.report.series import drawn
from distopt.report.tables import number
from distopt.report.titles import heading
from distopt.reproduce import Results, Say
from distopt.reproduce.store import Store
from distopt.runs import tuning
from distopt.runs.execution import Progress
from distopt.runs.results import Run
from distopt.runs.tuned import Tuned

Floats = NDArray[np.float64]

METHODS = {
    "gtadam": "gtadam",
    "gt": "gt",
    "gt with momentum": "gt:direction=momentum",
    "dgd": "dgd",
    "dadam": "dadam",
}
OURS = "gtadam"
LATE = "relative_cost_error"
POINTS = 200  # in a curve
PAUSE = 5.0  # seconds between two lines of progress, at least


@dataclass(frozen=True)
class Setup:
    """A set-up of OUR own, with every constant.

    Attributes:
        words: what it is.
        topology, agents, scenario, rounds, x0, dtype, every: as in ``distopt.simulate``.
        trials, report_trials: on which step sizes are chosen, and on which methods are compared.
        grid: of step sizes; it is continued where the best one stands at its end.
        seed: of the trials on which step sizes are chosen.
        why: what to say of the number of trials.
    """

    words: str
    scenario: str
    topology: str = "erdos_renyi:p=0.2"
    agents: int = 50
    rounds: int = 1000
    x0: float | None = None
    dtype: str = "float64"
    every: int = 1
    trials: int = 5
    report_trials: int = 30
    grid: str = "1e-4..1,3"
    seed: int = 0
    why: str = ""

    @property
    def said(self) -> str:
        """The set-up in words, with its constants."""
        start = "" if self.x0 is None else f", start at {self.x0:g} in every coordinate"
        tuned = f"lr of each method tuned on {self.grid} with {self.trials} {'trial' if self.trials == 1 else 'trials'}"
        compared = f"compared on {self.report_trials} others{f' ({self.why})' if self.why else ''}"
        place = f"{self.scenario}, {self.agents} agents, {self.topology}, {self.rounds:,} rounds{start}"
        return f"{self.words}: {place}; {tuned}, {compared}"

    def experiments(self) -> list[Experiment]:
        """One for each method."""
        return [
            Experiment(
                self.topology,
                self.agents,
                self.scenario,
                spec,
                rounds=self.rounds,
                trials=self.trials,
                seed=self.seed,
                dtype=self.dtype,
                every=self.every,
                x0=self.x0,
            )
            for spec in METHODS.values()
        ]


SETUPS = {
    "different": Setup(
        "logistic regression on points that run on circles, z = c + (cos(t/100), sin(t/100)); the agents' classes lie far apart",
        "drifting_logistic:rows=10,spread=2",
    ),
    "alike": Setup(
        "logistic regression on points that run on circles, z = c + (cos(t/100), sin(t/100)); the agents' classes lie close together",
        "drifting_logistic:rows=10,spread=0.5",
    ),
    "still": Setup(
        "a target that stands still, from noisy ranges",
        "localization:radius=0,noise=0.01",
        agents=30,
        x0=0.5,
    ),
    "moving": Setup(
        "a target that moves on a circle, from noisy ranges",
        "localization:radius=0.5,period=1000,noise=0.01",
        agents=30,
    ),
    "digits": Setup(
        "a perceptron with one hidden layer on the digits; few classes at each agent; mini-batches",
        "network:model=mlp,data=digits,alpha=0.1,batch_size=16",
        topology="erdos_renyi:p=0.5",
        agents=8,
        rounds=300,
        dtype="float32",
        every=5,
        trials=2,
        report_trials=10,
        grid="1e-3..1,2",
        why="few, since networks are slow to train; 4 comparisons need at least 8",
    ),
}


def measure(names: Sequence[str], store: Store, data: Path | None, say: Say) -> Results:
    """For each set-up: the chosen step sizes, and the figures and curves of each method."""
    asked = {name: {**asdict(SETUPS[name]), "methods": METHODS, "points": POINTS} for name in names}
    return [store.get(f"gtadam-{name}", asked[name], partial(_one, name, store, say)) for name in names]


class Pace:
    """Progress of a tuning in lines, with the time that is left by what was done so far."""

    def __init__(self, name: str, total: float, say: Say) -> None:
        self.name, self.total, self.say = name, total, say
        self.done, self.began, self.last = 0.0, time.perf_counter(), -math.inf

    def reporting(self, batch: str) -> Progress:
        """What a batch reports its rounds to."""
        before = 0

        def report(phase: str, done: int, total: int) -> None:
            nonlocal before
            if phase != "rounds" or not done:
                return
            self.done += (done - before) / max(total, 1)
            before = done
            now = time.perf_counter()
            if now - self.last >= PAUSE or done == total:
                self.last, seconds = now, now - self.began
                left = max(self.total - self.done, 0.0) * seconds / self.done
                self.say(f"{self.name}: {batch}, round {done:,} of {total:,}; {seconds:.0f} s, about {left:.0f} s left")

        return report


def _one(name: str, store: Store, say: Say) -> dict[str, Any]:
    setup = SETUPS[name]
    question = tuning.asked(setup.experiments(), report_trials=setup.report_trials, steps=setup.grid, agentwise=False)
    folder = f"{name}-{question.fingerprint[:8]}"
    question = question.placed(store.folder / folder)
    pace = Pace(name, 2.0 * len(METHODS), say)
    tuned = question.run(pace.reporting, lambda text: say(f"{name}: {text}"))
    for doubt in question.doubts:
        say(f"{name}: warning: {doubt}")
    return {"setup": name, "said": setup.said, "folder": folder, **_found(tuned)}


def _found(tuned: Tuned) -> dict[str, Any]:
    """What is kept: for each method its step size, its figures in each trial, tuned and not, and its curves."""
    methods = {}
    for name, spec in METHODS.items():
        each = tuned.algorithms[spec]
        run = tuned.runs[each.tuned] if each.tuned is not None else None
        methods[name] = {
            "spec": each.tuned,
            "lr": each.winner.lr if each.winner else None,
            "stable": each.stable,
            "edge": each.edge,
            "default": each.usual,
            "figures": _figures(run),
            "untuned": _figures(tuned.runs.get(each.defaults or "")),
            "curves": {} if run is None else {series: _curve(run, series) for series in _drawn(run)},
        }
    ran = next(run for run in tuned.runs.values())
    heads = {
        each: metric.title if metric.smoothed else heading(each, metric)
        for each in dict.fromkeys([*_series(ran), *_drawn(ran)])
        for metric in (ran.about(each),)
    }
    rises = {each: ran.about(each).rises for each in heads}
    return {"methods": methods, "heads": heads, "rises": rises, "trials": tuned.report_trials}


def _figures(run: Run | None) -> dict[str, list[float]]:
    """What is compared: for each figure its value in each trial, inf (-inf where larger is better) where the trial has diverged."""
    return {} if run is None else {series: _closing(run, series).tolist() for series in _series(run)}


def _closing(run: Run, series: str) -> Floats:
    """A figure of each trial: the value at the end or, for the relative cost error, which is of one round only, the mean of the second half."""
    if series != LATE:
        return statistics.closing(run, series)
    mean = run[series][:, len(run.rounds) // 2 :].mean(1)
    return np.where(statistics.diverged(run) | ~np.isfinite(mean), math.inf, mean)


def _series(run: Run) -> list[str]:
    """The figures that are compared. The first chose the step sizes."""
    return [run.leading, LATE if LATE in run else "accuracy"]


def _drawn(run: Run) -> list[str]:
    return [LATE, "average_dynamic_regret"] if LATE in run else ["cost", "accuracy"]


def _curve(run: Run, series: str) -> dict[str, list[float]]:
    """The median over the trials at some rounds, and the middle 90 % of them; of fewer than ``ENOUGH`` the smallest and the largest."""
    marks = np.unique(np.linspace(0, len(run.rounds) - 1, min(len(run.rounds), POINTS)).round().astype(int))
    values, tail = drawn(run, series)[:, marks], TAIL if run.trials >= ENOUGH else 0.0
    low, middle, high = np.nanquantile(values, (tail, 0.5, 1 - tail), axis=0)
    return {
        "rounds": (run.rounds[marks] + 1).tolist(),
        "low": low.tolist(),
        "median": middle.tolist(),
        "high": high.tolist(),
    }


def folders(results: Results) -> list[str]:
    """The folders of the runs that were compared."""
    return [f"{each['folder']}/{tuning.REPORT}" for each in results]


class Against:
    """GTAdam against the other methods in one figure of a set-up, trial by trial.

    Attributes:
        rises: whether larger values are better.
        figures: of each method, float64 [trials]; +inf (-inf where larger is better) where a trial, or the whole method, has diverged.
        pairs: how GTAdam differs from each other method.
        p: the p-values, corrected by Holm for the comparisons of the figure.
    """

    def __init__(self, each: Mapping[str, Any], series: str) -> None:
        self.rises: bool = each["rises"][series]
        worst = [-math.inf if self.rises else math.inf] * each["trials"]
        self.figures = {
            name: np.asarray(method["figures"].get(series, worst), dtype=np.float64)
            for name, method in each["methods"].items()
        }
        ours = self.figures[OURS]
        self.pairs = {name: statistics.paired(ours, other) for name, other in self.figures.items() if name != OURS}
        self.p = dict(zip(self.pairs, statistics.holm([pair.p for pair in self.pairs.values()]), strict=True))

    def outcome(self, name: str) -> str:
        """Whether GTAdam is "better" or "worse" than another method, "equal", or that is "open"."""
        p = self.p[name]
        if p is not None and p <= statistics.ALPHA:
            signs = np.sign(statistics.differences(self.figures[OURS], self.figures[name])).sum()
            return "better" if (signs > 0) == self.rises else "worse"
        enough = len(self.pairs) * statistics.smallest_p(self.pairs[name].unequal) <= statistics.ALPHA
        return "equal" if enough or not self.pairs[name].unequal else "open"

    def amount(self, name: str) -> str:
        """By how much the two differ, with the interval."""
        value, *ends = (abs(each) for each in self.pairs[name].difference)
        if not math.isfinite(value):
            return "(it diverges)" if self.outcome(name) == "better" else "(gtadam diverges)"
        interval = f" [{number(min(ends))}, {number(max(ends))}]" if np.isfinite(ends).all() else ""
        return f"by {number(value)}{interval}"

    def median(self, name: str) -> str:
        """A method's median in brackets; nothing where it diverges."""
        value = float(np.median(self.figures[name]))
        return f" ({number(value)})" if math.isfinite(value) else ""


def judged(against: Against, claim: str, setup: str) -> Verdict:
    """The verdict on "GTAdam is better than each of the others".

    It holds where GTAdam is significantly better than all of them, and in part where it is so than some, and no more are better than it.
    """
    sorted_by: dict[str, list[str]] = {"better": [], "worse": [], "equal": [], "open": []}
    for name in against.pairs:
        sorted_by[against.outcome(name)].append(name)
    better, worse, equal, undecided = sorted_by.values()
    words, ours = [], f"gtadam{against.median(OURS)}"
    if better:
        each = [f"{name}{against.median(name)} {against.amount(name)}" for name in better]
        words.append(f"{ours} is better than {', '.join(each)}")
    than = "it" if better else ours
    words += [f"{name}{against.median(name)} is better than {than} {against.amount(name)}" for name in worse]
    if equal:
        each = [f"{name}{against.median(name)}, {_p(against.p[name])}" for name in equal]
        words.append(f"no difference {'' if better or worse else f'of {ours} '}was found from {'; '.join(each)}")
    if undecided:
        words.append(f"the trials are too few to tell {ours} from {', '.join(undecided)}")
    outcome: Outcome
    if len(better) == len(against.pairs):
        outcome = "holds"
    elif better and len(worse) <= len(better):
        outcome = "holds in part"
    else:
        outcome = "does not hold" if worse or equal else "open"
    tested = [p for name, p in against.p.items() if p is not None and name in (*better, *worse)]
    tail = (
        f" (medians; difference with its 90 % interval; largest p {max(tested):.2g}, Wilcoxon with Holm)"
        if tested
        else ""
    )
    return Verdict(claim, setup, outcome, "; ".join(words) + tail)


def _p(p: float | None) -> str:
    return "equal in every trial" if p is None else f"p = {p:.2g}"


CLAIMS = {
    "average_dynamic_regret": "GTAdam has a smaller average dynamic regret than {others}",
    LATE: "GTAdam has a smaller relative cost error (mean over the second half of the rounds) than {others}",
    "cost": "GTAdam has a smaller training loss than {others}",
    "accuracy": "GTAdam classifies better during training than {others}",
}


def verdicts(where: Mapping[str, str], results: Results) -> list[Verdict]:
    """One for each set-up and figure; ``where`` names the set-ups."""
    others = [name for name in METHODS if name != OURS]
    listed = f"{', '.join(others[:-1])} and {others[-1]}"
    return [
        judged(
            Against(each, series),
            f"{CLAIMS[series].format(others=listed)}{where[each['setup']]}",
            each["said"],
        )
        for each in results
        for series in each["methods"][OURS]["figures"] or [next(iter(each["heads"]))]
    ]


def rows(results: Results) -> list[dict[str, Any]]:
    """A row for each set-up, figure and method: its step size, median and interval, how GTAdam differs from it, and without tuning."""
    out = []
    for each in results:
        for series in [name for name in each["heads"] if name in CLAIMS]:
            against = Against(each, series)
            for name, method in each["methods"].items():
                middle = statistics.median_interval(against.figures[name])
                untuned = method["untuned"].get(series)
                pair = against.pairs.get(name)
                out.append(
                    {
                        "set-up": each["setup"],
                        "figure": f"{series}, second half" if series == LATE else series,
                        "method": name,
                        "lr": "" if method["lr"] is None else method["lr"],
                        "median": middle.value,
                        "low": middle.low,
                        "high": middle.high,
                        "gtadam minus it": "" if pair is None else pair.difference.value,
                        "from": "" if pair is None else pair.difference.low,
                        "to": "" if pair is None else pair.difference.high,
                        "p (Holm)": "" if pair is None or against.p[name] is None else against.p[name],
                        "gtadam is": "" if pair is None else against.outcome(name),
                        "untuned": "" if untuned is None else float(np.median(untuned)),
                        "at lr": "" if method["default"] is None else method["default"],
                    }
                )
    return out
