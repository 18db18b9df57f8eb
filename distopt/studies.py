"""The Python API of studies, which run many experiments: ``sweep`` and ``tune``."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distopt.catalog.spec import shown
from distopt.engines import local
from distopt.errors import InputError
from distopt.experiment import Experiment, settings
from distopt.runs import sweep as sweeps
from distopt.runs import tuning
from distopt.runs.candidates import USUAL
from distopt.runs.execution import Asked, MakeEngine, whole
from distopt.runs.results import Run
from distopt.runs.signals import stopping
from distopt.runs.tuned import Tuned
from distopt.simulation import surroundings

__all__ = ["sweep", "tune"]


def sweep(
    file: str | Path | Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    out: str | Path,
    mode: local.Mode = "auto",
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
) -> dict[str, Run]:
    """Run many experiments in parallel, as ``distopt sweep`` does: all combinations of lists of values, each in its own folder.

    Finished experiments in ``out`` are not run again, so the same call, or ``resume(out)``, continues a sweep that was
    interrupted. A call with other values may have the same ``out``. The table and ``resume(out)`` then belong to the
    last call; earlier runs stay in their folders.

    Args:
        file: a TOML file, or its settings as a dict, such as ``{"topology": "ring", "agents": 8, "algorithm": "gt"}``.
        values: the lists by key, such as ``{"algorithm.lr": [0.01, 0.02], "seed": [1, 2, 3]}``: settings of the file, or
            parameters of its topology, scenario, algorithm or channel. The first varies slowest.
        out: a folder to write to. It gets a folder for each experiment, and the table of all, sweep.csv.
        mode: as in ``simulate``.
        engine: "local" for processes of this machine, or "ray" for tasks of a Ray cluster.
        workers: how many experiments run at once; None for one per core, or as many as the cluster has room for.
        address: the address of a running Ray cluster, or "auto"; None starts a cluster on this machine.

    Returns:
        The runs by the values that were set in them, each bitwise as ``simulate`` gives it. An experiment that fails is
        left out, with a warning; the others go on.

    Raises:
        InputError: an unknown key or a wrong value, or ``out`` holds anything but sweeps.
        KeyboardInterrupt: Ctrl-C; finished experiments are in ``out``.

    >>> import tempfile
    >>> settings = {"topology": "ring", "agents": 4, "scenario": "moving_target", "algorithm": "gt", "rounds": 9}
    >>> with tempfile.TemporaryDirectory() as out:
    ...     list(sweep(settings, {"algorithm.lr": [0.01, 0.02], "seed": 1}, out=out, workers=1))
    ['algorithm.lr=0.01 seed=1', 'algorithm.lr=0.02 seed=1']
    """
    if not isinstance(values, Mapping):
        raise InputError(f'values={shown(values)}: must be a dict of lists, as in {{"seed": [1, 2, 3]}}')
    folder = _folder(out)
    if isinstance(file, str | Path):
        given, where = settings(Path(file)), str(file)
    elif isinstance(file, Mapping):
        given, where = dict(file), "the settings"
    else:
        raise InputError(f"{shown(file)}: must be the path of a TOML file, or its settings as a dict")
    return swept(sweeps.asked(given, values, where, folder, mode, engine, workers, address))


@surroundings.set_aside()
def tune(
    topology: Any,
    *,
    agents: int | None = None,
    scenario: Any,
    algorithm: str | Path | Sequence[str | Path],
    channel: Any = "exact",
    weights: str = "metropolis",
    rounds: int | None = None,
    trials: int = tuning.TRIALS,
    report_trials: int = tuning.REPORT_TRIALS,
    grid: str | Sequence[float] = USUAL,
    over: Mapping[str, Any] | None = None,
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
    metrics: str | Sequence[Any] = (),
    probe: Any = (),
    mode: local.Mode = "auto",
    engine: str | MakeEngine = "local",
    out: str | Path | None = None,
    checkpoint_every: int | None = None,
) -> Tuned:
    """Choose the step size ``lr`` of each algorithm on a grid, and compare the winners on other random seeds, as ``distopt tune`` does.

    All algorithms get the same grid, the same number of gradients and the same trials. The winner has the smallest
    median of the final average dynamic regret over the TUNE trials. If the minimisers are unknown, the mean cost counts
    instead. A trial that diverges counts as +inf. If the winner is at an end of the grid, the grid is extended by a
    decade, at most three times. Then the winners and the algorithms without tuning run on REPORT trials, whose seed is
    ``seed + 1000``.

    Args:
        algorithm: one spec, or a list of several. A list for ``lr`` in a spec replaces the grid. For a schedule, such
            as ``"gtadam:lr=inverse_sqrt(0.1)"``, the scale is tuned.
        rounds: T, in tuning and in the report. An algorithm that takes k times as many gradients in a round runs T / k
            rounds, rounded down.
        trials: number of TUNE trials, on which step sizes are compared.
        report_trials: number of REPORT trials, on which the winners are compared.
        grid: ``"lr=LOW..HIGH,PER_DECADE"``, a logarithmic grid, or a list of step sizes, which is never extended.
        over: values of other parameters, such as ``{"b1": [0.5, 0.9]}``. Algorithms that have them try each with every
            step size.
        out: a folder to write to: the runs of the report (in ``report``), tuning.json, tuning.csv, tuned.csv and sensitivity.png.
        checkpoint_every: rounds from one checkpoint of the report's runs to the next. topology, agents, scenario,
            channel, weights, seed, dtype, every, x0, record, drop_links, drop_messages, sleep, delay, clock, churn,
            feedback, feasible, agentwise, metrics, probe, mode, engine: as in ``simulate``. Trajectories, your own
            metrics and probes are recorded in the runs of the report only.

    Returns:
        The results: ``tuned.winners``, ``tuned.rows()`` (the verdict), ``tuned.algorithms`` (how each depends on its
        step size), ``tuned.runs`` (the report's runs by label) and ``tuned.plot()``.

    Raises:
        InputError: the request cannot be served; the message says what to change.
        KeyboardInterrupt: Ctrl-C. With ``out``, finished points are kept, and the same call continues.

    >>> tuned = tune("ring", agents=4, scenario="moving_target", algorithm="gt", rounds=60, trials=2, report_trials=2, grid=[0.02, 0.05])
    >>> tuned.winners, list(tuned.runs)
    ({'gt': 'gt:lr=0.02'}, ['gt:lr=0.02', 'gt'])
    """
    folder = None if out is None else _folder(out)
    algorithms = algorithm if isinstance(algorithm, list | tuple) else [algorithm]
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
    asked = tuning.asked(
        each,
        report_trials=report_trials,
        steps=grid,
        over=over or {},
        how=Asked(mode, engine, checkpoint_every),
        agentwise=agentwise,
    )
    asked = asked if folder is None else asked.placed(folder)
    try:
        tuned = asked.run()
    except KeyboardInterrupt:
        if asked.stop.signal == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        raise
    warn(asked.doubts, 4)
    return replace(tuned, runs={label: whole(run) for label, run in tuned.runs.items()})


def _folder(out: Any) -> Path:
    if not isinstance(out, str | Path):
        raise InputError(f"out={shown(out)}: not the path of a folder")
    return Path(out)


def swept(sweep: sweeps.Sweep) -> dict[str, Run]:
    """Run the unfinished experiments of a sweep and write its table. Returns the runs by name."""
    with stopping() as stop:
        try:
            runs, failed = sweep.run()
            stop.patient = True  # the table is soon written
            sweep.table(runs)
        except KeyboardInterrupt:
            if stop.signal is None:
                raise
    if stop.signal is not None:  # the signal is meant for the process, too
        signal.raise_signal(stop.signal)
        raise KeyboardInterrupt
    warn([f"{sweep.points[k].name} failed: {reason}" for k, reason in failed.items()])
    return {sweep.points[k].name: whole(run) for k, run in runs.items()}


def warn(notes: Sequence[str | None], above: int = 5) -> None:
    """Warn the caller of a function of the Python API."""
    for note in notes:
        if note is not None:
            warnings.warn(note, stacklevel=above)
