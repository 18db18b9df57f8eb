"""The Python API: ``simulate`` and ``load``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from distopt.engines import local
from distopt.experiment import Experiment
from distopt.report.summary import drift, weakness
from distopt.runs.execution import Comparison, MakeEngine, execute, execute_together
from distopt.runs.loading import load
from distopt.runs.results import Run
from distopt.simulation import grid, surroundings
from distopt.simulation.problem import build

__all__ = ["Comparison", "execute", "load", "simulate"]


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
    agentwise: bool | None = None,
    metrics: str | Sequence[Any] = (),
    mode: local.Mode = "auto",
    engine: str | MakeEngine = "local",
) -> Run | Any:
    """Simulate one algorithm, or a grid of its parameters, on one scenario over one network.

    Args:
        topology: a spec string (``distopt list topologies``), the path of a graph file, a networkx graph, or an [N, N] weight matrix.
        agents: N; leave it out if the topology fixes it.
        scenario, algorithm: a spec string, or any object with the Protocol's methods (``distopt.protocols``). Lists in the
            algorithm's spec, as in ``"gtadam:lr=[0.01,0.02],b1=[0.5,0.9]"``, are a grid: all combinations run in one batch.
        channel: how values are sent, such as "choco:compressor=sign"; "exact" sends them as they are.
        weights: metropolis, lazy_metropolis, max_degree, best_constant or fastest.
        rounds: T; None for 1000, or fewer if the data end.
        trials: R, the number of independent repetitions, run in one batch.
        seed: the random seed.
        dtype: precision of the iterates, "float64" or "float32"; metrics are float64.
        every: record metrics every ``every`` rounds. The last round is always recorded.
        x0: None (the scenario's own start, or zeros), a number, [d] or [N, d], or the path of a file that ``numpy.save`` wrote.
        record: trajectories to keep: "x", and fields of the algorithm's state, such as "s".
        drop_links: probability with which a link fails in a round.
        agentwise: whether to keep the regrets at each agent's own point; None keeps them while N^2 d <= 10^6.
        metrics: what to measure besides the metrics that every run has: paths of Python files, or objects (see ``distopt.metrics``).
        mode: "eager" or "compiled" rounds; "auto" compiles where that saves time (see ``distopt.engines.local``).
        engine: where the rounds run, such as "ranks:workers=4", or a function of (problem, blocks, mode) that returns an engine.
            Results are bitwise the same on every engine.

    Returns:
        The run. ``run.status`` is "done", or "diverged" with everything up to that round kept. For a grid, a dict of runs by
        label ("gtadam:lr=0.01,b1=0.5", ...), each bitwise as if run on its own. One that diverges does not stop the others.

    Raises:
        InputError: the request cannot be served; the message says what to change.

    >>> run = simulate("ring", agents=8, scenario="moving_target", algorithm="gtadam:lr=0.05", rounds=50)
    >>> run["dynamic_regret"].shape
    (1, 50)
    >>> list(simulate("ring", agents=8, scenario="moving_target", algorithm="gtadam:lr=[0.05,0.1]", rounds=50))
    ['gtadam:lr=0.05', 'gtadam:lr=0.1']
    """
    experiment = Experiment(
        topology,
        agents,
        scenario,
        algorithm,
        channel,
        weights,
        drop_links,
        rounds,
        trials,
        seed,
        dtype,
        every,
        x0,
        record,  # type: ignore[arg-type]  # a string is split there
        metrics,  # type: ignore[arg-type]  # a single one is put in a tuple there
    )
    points = experiment.points()
    first = build(points[0])
    problems = [first, *(build(point, first) for point in points[1:])]
    for note in first.mixing.notes:
        warnings.warn(note, stacklevel=2)
    comparison = Comparison.of(first)
    runs: dict[int, Run] = {}
    for batch in grid.batches(problems):
        together = [problems[k] for k in batch]
        done = execute_together(
            together, comparison, folders=[None] * len(batch), agentwise=agentwise, mode=mode, engine=engine
        )
        runs.update(zip(batch, done, strict=True))
    if (doubt := weakness(comparison.comparator.certificate())) is not None:
        warnings.warn(doubt, stacklevel=3)
    for run in runs.values():
        if (left := drift(run)) is not None:
            warnings.warn(left, stacklevel=3)
    return runs[0] if points[0] is experiment else {runs[k].label: runs[k] for k in range(len(points))}
