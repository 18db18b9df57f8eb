"""Tuning chooses a step size for each algorithm on a grid, at the same number of gradients for all, and reports on other seeds.

The points of a grid and all trials run as one batch. Finished points are noted in the folder, so the same call
continues.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from distopt import engines
from distopt._version import __version__
from distopt.catalog import registry
from distopt.catalog.places import looking_in
from distopt.catalog.spec import LARGEST, shown
from distopt.engines import local
from distopt.errors import InputError, either
from distopt.experiment import Experiment, label, repeated, titled
from distopt.fingerprint import plain
from distopt.report.summary import drift, weakness
from distopt.runs.candidates import USUAL, Family, Grid, constants, grid, parameters
from distopt.runs.execution import Asked, Comparisons, Progress, batched
from distopt.runs.files import LOCK, locked, write_text
from distopt.runs.folder import default_path, opened
from distopt.runs.manifest import MANIFEST
from distopt.runs.results import Run
from distopt.runs.signals import Stop, stopping
from distopt.runs.tuned import Point, Sensitivity, Tuned, finals
from distopt.runs.tuning_files import NOTE, content, noted, write
from distopt.simulation.problem import Problem, build, doubts

REPORT = "report"
"""The folder of the runs that are reported, inside that of the tuning."""

APART = 1000
"""The seed of the REPORT trials minus the seed of the TUNE trials."""

TRIALS, REPORT_TRIALS = 5, 30

FURTHER = 3
"""The most decades by which a grid is extended."""

Reporting = Callable[[str], Progress]
Say = Callable[[str], object]


@dataclass
class Tuning:
    """A question of tuning. ``asked`` makes it, ``placed`` gives it a folder, and ``run`` answers it.

    Attributes:
        experiments: the algorithms as they were given, on the same scenario and network.
        families: the candidates of each.
        first: the problem of the TUNE trials, whose scenario and network all share.
        least: the fewest gradients that one of the algorithms takes in a round.
        report_trials: how many repetitions are reported.
        how: how the runs are to run.
        agentwise: as in ``distopt.simulate``, of the runs that are reported.
        fingerprint: of the question.
        path: the folder; None keeps everything in memory.
        stop: asked by Ctrl-C and SIGTERM.
        points: what has been tried so far, by algorithm as it was given and spec.
        doubts: what to warn of.
    """

    experiments: Sequence[Experiment]
    families: Sequence[Family]
    first: Problem
    least: Fraction
    report_trials: int
    how: Asked
    agentwise: bool | None
    fingerprint: str
    path: Path | None = None
    stop: Stop = field(default_factory=Stop)
    points: dict[tuple[str, str], Point] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    @property
    def trials(self) -> int:
        """The number of TUNE trials."""
        return self.first.experiment.trials

    @property
    def seed(self) -> int:
        """The seed of the TUNE trials."""
        return self.first.experiment.seed

    @property
    def report_seed(self) -> int:
        """The seed of the REPORT trials."""
        return self.seed + APART

    def placed(self, path: Path | None) -> Tuning:
        """The question with a folder, including its finished points.
        None takes a folder in ``runs`` that is named after the question.

        Raises:
            InputError: the folder cannot be written, or holds something else.
        """
        if path is None:
            usual = default_path(self.experiments, self.first.agents)
            path = usual.with_name(f"tune-{usual.name.rpartition('-')[0]}-{self.fingerprint[:8]}")
        elsewhere = f"choose another folder with {either('--out', 'out=')}"
        for each in self.experiments:
            each.to_toml(path)  # raises InputError for Python objects, which a TOML file cannot hold
        try:
            path.mkdir(parents=True, exist_ok=True)
            inside = [each for each in path.iterdir() if each.name != LOCK and each.suffix != ".part"]
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error.strerror}; {elsewhere}") from error
        if not inside:
            return replace(self, path=path)
        if not (path / NOTE).exists():
            raise InputError(f"{path} is not empty and holds no tuning; {elsewhere}")
        return replace(self, path=path, points=noted(path / NOTE, self.fingerprint, elsewhere))

    def run(self, reporting: Reporting | None = None, say: Say = lambda text: None) -> Tuned:
        """Choose the winners and run them beside the defaults. Finished points in the folder are not run again.

        ``reporting`` gives the progress function of a batch by its name, ``say`` gets intermediate results as text.

        Raises:
            KeyboardInterrupt: by a signal; finished points are in the folder.
        """
        if self.path is None:
            return self._run(reporting, say)
        with locked(self.path):
            self._note()
            tuned = self._run(reporting, say)
            self.doubts += write(self, tuned)
            return tuned

    def _run(self, reporting: Reporting | None, say: Say) -> Tuned:
        comparisons, found = Comparisons(), {}
        for share in self._shares():
            say(share)
        with stopping() as self.stop:
            for family in self.families:
                found[family.given] = self._sensitivity(family, comparisons, reporting, say)
        runs = self._reported(found.values(), reporting)
        figure = "average_dynamic_regret" if self.first.scenario.comparator else "cost"
        seeds = (self.seed, self.trials, self.report_seed, self.report_trials)
        return Tuned(figure, self.first.rounds, *seeds, found, runs, self.path)

    def _sensitivity(
        self, family: Family, comparisons: Comparisons, reporting: Reporting | None, say: Say
    ) -> Sensitivity:
        """Try the points of a family. If the best one is at an end of the grid, the grid is extended."""
        steps, whole, name, ended = family.grid, family.grid, titled(family.given), {"lower": 0, "upper": 0}
        points: list[Point] = []
        while True:
            points += self._tried(family, steps, comparisons, reporting)
            found = Sensitivity(family.given, family.defaults, in_order(points), ended["lower"], ended["upper"])
            best = found.best
            if not found.edge or not family.grid.each or sum(ended.values()) == FURTHER:
                break
            ended[found.edge] += 1
            steps = whole.below() if found.edge == "lower" else whole.above()
            ends = (*whole.steps, *steps.steps)
            whole = replace(whole, steps=range(min(ends), max(ends) + 1))
            least = "smallest" if found.edge == "lower" else "largest"
            why = f"the best lr, {best.lr:g}, is the {least} of the grid" if found.winner else "every lr diverges"
            say(f"{name}: {why}; it is extended to {steps.values[0 if found.edge == 'lower' else -1]}")
        if found.winner is None:
            low, high = found.curve[0].lr, found.curve[-1].lr
            say(f"{name}: at least half of the trials diverge at every lr from {low:g} to {high:g}; it has no winner")
        elif found.edge:
            least = "smallest" if found.edge == "lower" else "largest"
            say(f"{name}: the best lr, {best.lr:g}, is the {least} that was tried; a better one may lie beyond")
        return replace(found, same=self._same(found), usual=family.usual)

    def _same(self, found: Sensitivity) -> bool:
        """Whether the winner is the algorithm without tuning."""
        if found.winner is None or found.defaults is None:
            return False
        with looking_in(self.experiments[0].folder):
            one, other = (plain(registry.make("algorithms", each)) for each in (found.winner.spec, found.defaults))
        return bool(one == other)

    def _tried(self, family: Family, steps: Grid, comparisons: Comparisons, reporting: Reporting | None) -> list[Point]:
        """The points of a family with these step sizes. Missing points run as one batch if possible."""
        with looking_in(self.experiments[0].folder):
            wanted = family.candidates(steps)
        left = [each for each in wanted if (family.given, each.spec) not in self.points]
        problems = [shortened(self._built(each.spec), self._rounds) for each in left]
        name = f"{titled(family.given)}: {len(left)} points"
        batches = batched(
            problems,
            comparisons,
            replace(self.how, checkpoint_every=None),
            agentwise=False,
            reporting=reporting and (lambda _: reporting(name)),
            stop=self.stop,
        )
        for batch, runs in batches if left else ():
            for k, run in zip(batch, runs, strict=True):
                each = left[k]
                point = Point(each.spec, each.lr, each.rest, problems[k].rounds, tuple(finals(run)))
                self.points[family.given, each.spec] = point
            self._note()
            if self.stop.signal is not None:  # it came with the last rounds of the batch
                raise KeyboardInterrupt
        return [self.points[family.given, each.spec] for each in wanted]

    def _built(self, spec: str) -> Problem:
        return build(replace(self.first.experiment, algorithm=spec), self.first)

    def _rounds(self, problem: Problem) -> int:
        return fair(label(problem.experiment), self.first.rounds, self.least, problem.evaluations)

    def _shares(self) -> Iterator[str]:
        """Notes about algorithms that run fewer rounds than others."""
        for family in self.families:
            counts = {self._built(str(base)).evaluations for base in family.bases} - {self.least}
            for many in sorted(counts):
                count = fair(family.given, self.first.rounds, self.least, many)
                yield (
                    f"{titled(family.given)}: {float(many):g} gradients in a round instead of {float(self.least):g}, "
                    f"so {count:,} rounds instead of {self.first.rounds:,}"
                )

    def _reported(self, found: Any, reporting: Reporting | None) -> dict[str, Run]:
        """The runs of the winners and of the algorithms without tuning, on other seeds, by label."""
        given = {each.algorithm: each for each in self.experiments}
        specs = {spec: each for each in found for spec in (each.tuned, each.defaults) if spec is not None}
        experiments = [
            replace(
                given[each.algorithm],
                algorithm=spec,
                seed=self.report_seed,
                trials=self.report_trials,
                rounds=self._rounds(self._built(spec)),
            )
            for spec, each in specs.items()
        ]
        if not experiments:
            return {}
        if self.path is not None:
            return self._in_folder(experiments, self.path / REPORT, reporting)
        first, comparisons = build(experiments[0]), Comparisons()
        problems = [first, *(build(each, first) for each in experiments[1:])]
        runs: dict[int, Run] = {}
        with stopping() as self.stop:
            for batch, done in batched(
                problems, comparisons, self.how, agentwise=self.agentwise, reporting=reporting, stop=self.stop
            ):
                runs.update(zip(batch, done, strict=True))
        self._doubt(problems, comparisons.certificate() or 0.0, runs.values())
        return {label(experiments[k]): runs[k] for k in sorted(runs)}

    def _in_folder(self, experiments: list[Experiment], path: Path, reporting: Reporting | None) -> dict[str, Run]:
        there = (path / MANIFEST).exists()
        with opened(experiments, path, self.how, agentwise=self.agentwise, resume=there) as folder:
            self.stop = folder.stop
            if not folder.finished:
                try:
                    folder.run(reporting)
                finally:
                    self.doubts += folder.report()[1] if folder.runs else []
            self._doubt(folder.problems, folder.certificate, folder.runs.values())
            return folder.labelled

    def _doubt(self, problems: Sequence[Problem], certificate: float, runs: Any) -> None:
        found = (*problems[0].network.notes, *doubts(problems), weakness(certificate), *map(drift, runs))
        self.doubts += [each for each in found if each is not None]

    def _note(self) -> None:
        if self.path is not None:
            write_text(self.path / NOTE, content(self))


def asked(
    experiments: Sequence[Experiment],
    *,
    report_trials: int = REPORT_TRIALS,
    steps: Any = USUAL,
    over: Sequence[str] | Mapping[str, Any] = (),
    how: Asked | None = None,
    agentwise: bool | None = None,
) -> Tuning:
    """The question of these settings.
    ``experiments`` has one for each algorithm and differs in nothing else; their
    trials are the TUNE trials.

    Raises:
        InputError: something in it cannot be run or tuned.
    """
    how = how or Asked()
    for each in experiments:
        if not isinstance(each.algorithm, str):
            kind = type(each.algorithm).__name__
            raise InputError(
                f"algorithm {kind}: is a Python object; tuning needs a spec such as 'gtadam', to set its lr"
            )
    if (twice := repeated([label(each) for each in experiments])) is not None:
        raise InputError(f"algorithm {label(experiments[twice])} is given twice")
    if isinstance(report_trials, bool) or not isinstance(report_trials, int) or report_trials < 1:
        option = either("--report-trials ", "report_trials=")
        raise InputError(f"{option}{shown(report_trials)}: must be a whole number, at least 1")
    values, usual = constants(over), grid(steps)
    with looking_in(experiments[0].folder):
        families = [Family.of(each.algorithm, usual, values) for each in experiments]
        tried = [[each.spec for each in family.candidates(family.grid)] for family in families]
        for key in values:
            if not any(key in parameters(each.bases[0]) for each in families):
                raise InputError(f"{either('--over ', 'over: ')}{key}: no algorithm has a parameter {key}")
    local.check(how.mode)
    one = replace(experiments[0], algorithm=tried[0][0])
    if one.seed > LARGEST - APART:
        raise InputError(
            f"{either('--seed ', 'seed=')}{one.seed}: must be at most {LARGEST - APART}, as the report uses the seed plus {APART}"
        )
    build(replace(one, seed=one.seed + APART, trials=report_trials))  # raises errors of the report before anything runs
    first = build(replace(one, record=(), metrics=(), probe=()))
    if isinstance(how.engine, str):
        engines.check(how.engine, first.agents)
    defaults = [family.defaults for family in families if family.defaults is not None]
    problems = {spec: build(replace(first.experiment, algorithm=spec), first) for spec in [*chain(*tried), *defaults]}
    gradients = {spec: problem.evaluations for spec, problem in problems.items()}
    least = min(gradients.values())
    for spec, many in gradients.items():
        fair(spec, first.rounds, least, many)
    question = [[each.fingerprint() for each in experiments], report_trials, usual.values, usual.each, values]
    fingerprint = hashlib.sha256(json.dumps([*question, __version__]).encode()).hexdigest()[:16]
    return Tuning(experiments, families, first, least, report_trials, how, agentwise, fingerprint)


def fair(spec: str, rounds: int, least: Fraction, gradients: Fraction) -> int:
    """The number of rounds with this many gradients each that take no more gradients than ``rounds`` rounds of ``least`` each.

    >>> fair("k_gt:local=5", 500, Fraction(1), Fraction(5))
    100

    Raises:
        InputError: not even one.
    """
    if gradients > rounds * least:
        raise InputError(
            f"algorithm {spec}: takes {float(gradients):g} gradients in a round, more than others in {rounds} rounds; give more rounds"
        )
    return rounds * least // gradients


def shortened(problem: Problem, rounds: Callable[[Problem], int]) -> Problem:
    """The problem of a point, with its fair number of rounds. Only what the final figure needs is recorded."""
    count = rounds(problem)
    every = count if problem.scenario.comparator else problem.experiment.every  # a cost is a mean over rounds
    return replace(problem, experiment=replace(problem.experiment, rounds=count, every=every), rounds=count)


def in_order(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points by their other constants, as they came, and by step size."""
    rests = list(dict.fromkeys(point.rest for point in points))
    return tuple(sorted(points, key=lambda point: (rests.index(point.rest), point.lr)))
