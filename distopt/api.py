"""The Python API: ``simulate``, ``compare``, ``resume`` and ``load``. Many experiments at a time are in ``distopt.studies``."""

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
        topology: a spec string (``distopt list topologies``), the path of a graph file, a networkx graph, or an [N, N] weight matrix; or a
            dict of these by channel, as in ``{"x": R, "s": C}``, where an algorithm asks other weights of each channel.
        agents: N; leave it out if the topology fixes it.
        scenario, algorithm: a spec string, or any object with the Protocol's methods (``distopt.protocols``). Lists in the
            algorithm's spec, as in ``"gtadam:lr=[0.01,0.02],b1=[0.5,0.9]"``, are a grid: all combinations run in one batch.
            ``algorithm`` may be a list of several, which are compared on the same data.
        channel: how values are sent, such as "choco:compressor=sign"; "exact" sends them as they are.
        weights: metropolis, lazy_metropolis, max_degree, best_constant or fastest; for directed graphs in_degree or out_degree, found by itself.
        rounds: T; None for 1000, or fewer if the data end.
        trials: R, the number of independent repetitions, run in one batch.
        seed: the random seed.
        dtype: precision of the iterates, "float64" or "float32"; metrics are float64.
        every: record metrics every ``every`` rounds. The last round is always recorded.
        x0: None (the scenario's own start, or zeros), a number, [d] or [N, d], or the path of a file that ``numpy.save`` wrote.
        record: trajectories to keep: "x", fields of the algorithm's state, such as "s", and of a channel's memory, such as "memory.x.e".
        drop_links: probability with which a link fails in a round.
        drop_messages: probability with which a message is lost in a round, one way and by itself (see docs/losses.md).
        sleep: probability with which an agent sleeps in a round.
        delay: how many rounds late messages are: a number, or a range such as "0..3", of which each message draws one; or "length": as many
            as the lengths of links make, where ``clock="compute=..."`` says how long a gradient takes.
        feedback: how costs are observed where there are no gradients, such as "two_point:delta=0.01", one_point or residual: each algorithm
            then runs as ``bandit(ALGORITHM,form=two_point,delta=0.01)``. "" for gradients.
        feasible: the set of allowed points, such as "ball:radius=1", box, simplex or l1: the scenario is then
            ``feasible(SCENARIO,form=ball,radius=1)``. "" for all points.
        clock: what computing and sending cost, such as "compute=1e-3,latency=1e-3,bandwidth=1e9" (see docs/clock.md): the run then has
            ``simulated_seconds``.
        churn: how agents leave and join: probabilities per round, such as "leave=0.01,join=0.1", and "until=500", which ends it (see docs/losses.md).
        agentwise: whether to keep the regrets at each agent's own point; None keeps them while N^2 d <= 10^6.
        metrics: what to measure besides the metrics that every run has: the path of a Python file, an object, or a list of these (see
            ``distopt.metrics``).
        probe: what to measure every so many rounds, such as "sharpness:every=100", or a list (``distopt list probes``): specs, paths of
            Python files, or objects. ``run.readings("sharpness")`` has the rounds in which it was measured.
        mode: "eager" for rounds one by one in Python; "compiled" refuses rounds that cannot be compiled, and "auto" runs them eagerly.
        engine: where the rounds run, such as "ranks:workers=4", or a function of (problem, blocks, mode) that returns an engine.
            Results are bitwise the same on every engine.
        out: a folder to write to as the runs go on: the runs, a table (summary.csv) and a figure (regret.png), as ``distopt simulate``
            writes them. All parts must be specs then, so that ``resume`` can build them again.
        checkpoint_every: rounds from one checkpoint in ``out`` to the next.
        keep_code: a folder to which every compiled function is written as C, for reading.

    Returns:
        The run. ``run.status`` is "done", or "diverged" with everything up to that round kept. For a grid or a list, a dict of runs by
        label ("gtadam:lr=0.01,b1=0.5", ...), each bitwise as if run on its own. One that diverges does not stop the others.

    Raises:
        InputError: the request cannot be served; the message says what to change.
        KeyboardInterrupt: Ctrl-C. With ``out`` the run saves itself first, and ``resume(out)`` goes on. SIGTERM saves the run, too,
            before it ends the process.

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
    """Go on with runs that were interrupted or killed, from their last checkpoints, as ``distopt resume`` does.

    Args:
        folder: the folder that ``distopt simulate`` or ``simulate(..., out=folder)`` wrote, or that of a sweep, which goes on as it
            was asked for.
        engine: where the rounds to come run; None for where they ran before. No engine changes a number.
        checkpoint_every: rounds from one checkpoint to the next; None for as many as before.
        force: go on although a file that the experiment names, the program or the device has changed. The bits are then others.

    Returns:
        The run, or for a folder of several a dict of the runs by label. They are the same to the bit as runs that nothing
        disturbed, and so are the table and the figure, which are made again where they are missing or old.

    Raises:
        InputError: the folder holds no runs, or what it holds has changed and there is no ``force``.
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
        runs: runs, dicts or lists of runs, as ``simulate`` and ``load`` return them, folders of runs, or TOML files. A TOML file is run first,
            into the folder that ``distopt simulate FILE.toml`` writes to, unless its runs are there already.
        metric: what is compared; None for what ranks the runs: the average dynamic regret, or the cost where there are no regrets.
        baseline: the method that the others are compared with; None for the one with the best median.
        level: of the intervals.

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
    """The runs and folders that a run, a folder, a TOML file, or any dict or list of these stand for."""
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
    """Run what is left in a folder and report on it; the runs by label, in memory."""
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
            signal.raise_signal(signal.SIGTERM)  # the folder is whole now, and the process is asked to end
        raise


def _in_memory(experiments: Sequence[Experiment], asked: Asked, agentwise: bool | None) -> dict[str, Run]:
    """The runs of experiments by label."""
    first = build(experiments[0])
    problems = [first, *(build(each, first) for each in experiments[1:])]
    warn([*first.network.notes, *doubts(problems)])
    comparisons = Comparisons()
    runs: dict[int, Run] = {}
    for batch, done in batched(problems, comparisons, asked, agentwise=agentwise):
        runs.update(zip(batch, done, strict=True))
    warn([weakness(comparisons.certificate() or 0.0), *map(drift, runs.values())])
    return {runs[k].label: runs[k] for k in range(len(experiments))}
