"""The Python API: ``simulate``, ``compare``, ``resume`` and ``load``. ``distopt.studies`` has ``sweep`` and ``tune``, which run many experiments."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from distopt.catalog.spec import shown
from distopt.codegen.keeping import keeping
from distopt.engines import local
from distopt.errors import InputError
from distopt.experiment import Experiment, compared, read_toml
from distopt.report import statistics, study, verdict
from distopt.report.summary import drift, weakness
from distopt.report.verdict import Verdict
from distopt.runs import sweep as sweeps
from distopt.runs.execution import Asked, Comparison, Comparisons, MakeEngine, batched, execute, whole
from distopt.runs.folder import Folder, opened, reopened
from distopt.runs.loading import load
from distopt.runs.results import Run
from distopt.simulation import surroundings
from distopt.simulation.problem import build, doubts
from distopt.studies import swept, warn

__all__ = ["Comparison", "compare", "execute", "load", "resume", "simulate"]


@surroundings.set_aside()
def simulate(
    topology: Any,
    *,
    agents: int | None = None,
    scenario: Any,
    algorithm: Any,
    channel: Any = "exact",
    weights: str = "metropolis",
    rounds: int | None = None,
    trials: int = 1,
    seed: int = 0,
    dtype: str = "float64",
    every: int = 1,
    x0: Any = None,
    record: str | Sequence[str] = (),
    drop_links: float = 0.0,
    drop_messages: float = 0.0,
    sleep: float = 0.0,
    delay: int | str = "",
    feedback: str = "",
    feasible: str = "",
    clock: str = "",
    churn: float | str = "",
    agentwise: bool | None = None,
    metrics: Any = (),
    probe: Any = (),
    mode: local.Mode = "auto",
    engine: str | MakeEngine = "local",
    out: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep_code: str | Path | None = None,
) -> Run | Any:
    """Simulate one or several algorithms, or a grid of their parameters, on one scenario over one network.

    Args:
        topology: a spec string (``distopt list topologies``), the path of a graph file, a networkx graph, or an [N, N]
            weight matrix. A dict gives each channel its own, as in ``{"x": R, "s": C}``.
        agents: N; leave it out if the topology fixes it.
        scenario, algorithm: a spec string, or any object with the Protocol's methods (``distopt.protocols``). Lists in the
            algorithm's spec, as in ``"gtadam:lr=[0.01,0.02],b1=[0.5,0.9]"``, are a grid: all combinations run in one batch.
            ``algorithm`` may be a list of several, which are compared on the same data.
        channel: how values are sent, such as "choco:compressor=sign"; "exact" sends them as they are.
        weights: metropolis, lazy_metropolis, max_degree, best_constant or fastest; for directed graphs in_degree or
            out_degree, which the algorithm decides.
        rounds: T; None for 1000, or fewer if the data end.
        trials: R, the number of independent repetitions, run in one batch.
        seed: the random seed.
        dtype: precision of the iterates, "float64" or "float32"; metrics are float64.
        every: record metrics every ``every`` rounds. The last round is always recorded.
        x0: None (the scenario's own start, or zeros), a number, [d] or [N, d], or the path of a file that ``numpy.save`` wrote.
        record: trajectories to keep: "x", fields of the algorithm's state, such as "s", and of a channel's memory, such as "memory.x.e".
        drop_links: probability with which a link fails in a round.
        drop_messages: probability with which a message is lost in a round, in one direction, independently of others
            (see docs/losses.md).
        sleep: probability with which an agent skips a round.
        delay: how many rounds late messages arrive: a number, or a range such as "0..3", from which each message draws
            its delay. "length": delays follow from the lengths of links and from ``clock="compute=..."``, the time of a
            gradient.
        feedback: how gradients are estimated from values of the costs, such as "two_point:delta=0.01", one_point or
            residual. Each algorithm then runs as ``bandit(ALGORITHM,form=two_point,delta=0.01)``. "" for exact
            gradients.
        feasible: the set of allowed points, such as "ball:radius=1", box, simplex or l1. The scenario is then
            ``feasible(SCENARIO,form=ball,radius=1)``. "" for all points.
        clock: how long computing and sending take, such as "compute=1e-3,latency=1e-3,bandwidth=1e9" (see
            docs/clock.md). The run then has the metric ``simulated_seconds``.
        churn: probabilities per round that an agent leaves and joins, such as "leave=0.01,join=0.1"; "until=500" stops
            this at round 500 (see docs/losses.md).
        agentwise: whether to keep the regrets at each agent's own point; None keeps them while N^2 d <= 10^6.
        metrics: what to measure besides the metrics that every run has: the path of a Python file, an object, or a list of these (see
            ``distopt.metrics``).
        probe: what to measure once in several rounds, such as "sharpness:every=100", or a list (``distopt list
            probes``): specs, paths of Python files, or objects. ``run.readings("sharpness")`` has the rounds in which
            it was measured.
        mode: "auto" compiles the rounds if it can; "compiled" raises an error if it cannot; "eager" runs them one by
            one in Python.
        engine: where the rounds run, such as "ranks:workers=4", or a function of (problem, blocks, mode) that returns an engine.
            Results are bitwise the same on every engine.
        out: a folder for the runs, a table (summary.csv) and a figure (regret.png), as ``distopt simulate`` writes
            them. All parts must then be specs, so that ``resume`` can build them again.
        checkpoint_every: rounds from one checkpoint in ``out`` to the next.
        keep_code: a folder to which every compiled function is written as C, for reading.

    Returns:
        The run. ``run.status`` is "done" or "diverged"; a diverged run keeps all rounds before that. A grid or a list
        gives a dict of runs by label ("gtadam:lr=0.01,b1=0.5", ...). Each has the bits of a run on its own, and one
        that diverges does not stop the others.

    Raises:
        InputError: the request cannot be served; the message says what to change.
        KeyboardInterrupt: Ctrl-C. With ``out`` the run is saved first, and ``resume(out)`` continues it. SIGTERM also
            saves the run before it ends the process.

    >>> run = simulate("ring", agents=8, scenario="moving_target", algorithm="gtadam:lr=0.05", rounds=50)
    >>> run["dynamic_regret"].shape
    (1, 50)
    >>> list(simulate("ring", agents=8, scenario="moving_target", algorithm="gtadam:lr=[0.05,0.1]", rounds=50))
    ['gtadam:lr=0.05', 'gtadam:lr=0.1']
    """
    algorithms = algorithm if isinstance(algorithm, list) else [algorithm]
    if not algorithms:
        raise InputError('algorithm is an empty list; write algorithm=["gtadam", "dgd"]')
    each = [
        Experiment.from_mapping(
            {
                "topology": topology,
                "agents": agents,
                "scenario": scenario,
                "algorithm": one,
                "channel": channel,
                "weights": weights,
                "drop_links": drop_links,
                "rounds": rounds,
                "trials": trials,
                "seed": seed,
                "dtype": dtype,
                "every": every,
                "x0": x0,
                "record": record,
                "metrics": metrics,
                "probe": probe,
                "drop_messages": drop_messages,
                "sleep": sleep,
                "delay": delay,
                "churn": churn,
                "clock": clock,
                "feedback": feedback,
                "feasible": feasible,
            },
            "the arguments",
        )
        for one in algorithms
    ]
    points = compared(each)
    several = isinstance(algorithm, list) or points[0] is not each[0]
    asked = Asked(mode, engine, checkpoint_every)
    with keeping(keep_code):
        if out is None:
            runs = _in_memory(points, asked, agentwise)
        else:
            runs = _through(opened(points, Path(out), asked, agentwise=agentwise))
    return runs if several else next(iter(runs.values()))


@surroundings.set_aside()
def resume(
    folder: str | Path,
    *,
    engine: str | MakeEngine | None = None,
    checkpoint_every: int | None = None,
    force: bool = False,
) -> Run | Any:
    """Continue runs that were interrupted or killed from their last checkpoints, as ``distopt resume`` does.

    Args:
        folder: the folder that ``distopt simulate`` or ``simulate(..., out=folder)`` wrote, or the folder of a sweep.
        engine: where the remaining rounds run; None for where they ran before. All engines give the same bits.
        checkpoint_every: rounds from one checkpoint to the next; None for as many as before.
        force: continue even if a file of the experiment, a version or the device has changed. The results may then
            differ.

    Returns:
        The run; for a folder of several runs, a dict of runs by label. They are bitwise identical to runs that nothing
        interrupted. The table and the figure are made again if they are missing or old.

    Raises:
        InputError: the folder holds no runs, or something has changed and ``force`` is False.
        KeyboardInterrupt: as ``simulate``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = simulate("ring", agents=4, scenario="moving_target", algorithm="gt", rounds=9, out=out)
    ...     bool((resume(out)["dynamic_regret"] == run["dynamic_regret"]).all())
    True
    """
    if not isinstance(folder, str | Path):
        raise InputError(f"{shown(folder)}: not the path of a folder")
    if sweeps.there(Path(folder)):
        return swept(sweeps.reopened(Path(folder), engine is not None or checkpoint_every is not None or force))
    runs = _through(reopened(Path(folder), engine=engine, checkpoint_every=checkpoint_every, force=force))
    return runs if len(runs) > 1 else next(iter(runs.values()))


def compare(
    *runs: Any, metric: str | None = None, baseline: str | None = None, level: float = statistics.LEVEL
) -> Verdict:
    """Compare methods on the trials that they share, as ``distopt compare`` does: medians, differences, p-values, verdicts.

    docs/comparing.md explains the figures.

    Args:
        runs: runs, dicts or lists of runs, as ``simulate`` and ``load`` return them, folders of runs, or TOML files. A
            TOML file without finished runs is run first, into the folder that ``distopt simulate FILE.toml`` writes to.
        metric: the metric to compare; None for the average dynamic regret, or the cost if there are no regrets.
        baseline: the method that the others are compared with; None for the one with the best median.
        level: the level of the intervals.

    Returns:
        The verdict. ``print`` shows it; ``.to_pandas()``, ``.plot()`` and ``.write(folder)`` give it in other forms.

    Raises:
        InputError: something that is no run, runs without the metric, or the same run twice.

    >>> runs = simulate("ring", agents=4, scenario="moving_target", algorithm=["gt", "dgd"], rounds=20, trials=3)
    >>> [(row.method, row.verdict) for row in compare(runs).rows]
    [('gt', 'cannot be significant: 3 trials'), ('dgd', 'best')]
    """
    found = list(_runs_of(runs))
    places = [each for each in found if isinstance(each, Path)]
    inside = [*(study.read(places) if places else []), *(each for each in found if isinstance(each, Run))]
    return verdict.compared(study.groups(inside), metric, baseline, level)


def _runs_of(given: Any) -> Iterator[Run | Path]:
    """The runs and folders in the arguments of ``compare``: runs, folders, TOML files, and dicts or lists of these."""
    if isinstance(given, Run):
        yield given
    elif isinstance(given, str | Path):
        if Path(given).suffix != ".toml" or Path(given).is_dir():
            yield Path(given)
            return
        done = _through(opened(compared(read_toml(Path(given))), None, Asked(), resume=True))
        yield from (run.path for run in done.values() if run.path is not None)
    elif isinstance(given, Mapping | Sequence):
        for each in given.values() if isinstance(given, Mapping) else given:
            yield from _runs_of(each)
    else:
        raise InputError(f"{shown(given)}: neither a run, nor a folder of runs, nor a TOML file")


def _through(opening: AbstractContextManager[Folder]) -> dict[str, Run]:
    """Run the unfinished experiments of a folder and write its report. Returns all runs by label, in memory."""
    folder = None
    try:
        with opening as folder:
            if not (folder.resumed and folder.finished):
                warn([*folder.problems[0].network.notes, *folder.doubts])
                try:
                    folder.run()
                finally:
                    failures = folder.report()[1] if folder.runs else []
                warn([weakness(folder.certificate), *map(drift, folder.runs.values()), *failures])
            return {label: whole(run) for label, run in folder.labelled.items()}
    except KeyboardInterrupt:
        if folder is not None and folder.stop.signal == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)  # the folder is complete now, so the process may end
        raise


def _in_memory(experiments: Sequence[Experiment], asked: Asked, agentwise: bool | None) -> dict[str, Run]:
    """Run the experiments without a folder. Returns the runs by label."""
    first = build(experiments[0])
    problems = [first, *(build(each, first) for each in experiments[1:])]
    warn([*first.network.notes, *doubts(problems)])
    comparisons = Comparisons()
    runs: dict[int, Run] = {}
    for batch, done in batched(problems, comparisons, asked, agentwise=agentwise):
        runs.update(zip(batch, done, strict=True))
    warn([weakness(comparisons.certificate() or 0.0), *map(drift, runs.values())])
    return {runs[k].label: runs[k] for k in range(len(experiments))}
