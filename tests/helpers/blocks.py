"""Problems of a few rounds, alone and on workers in threads."""

from typing import Any

from helpers import battery
from helpers.battery import N, Outcome, Problems, threads

from distopt.engines import local
from distopt.engines.workers.partition import Partition
from distopt.experiment import Experiment
from distopt.runs.execution import Comparison
from distopt.simulation.problem import build

NETWORKS: dict[str, dict[str, Any]] = {
    "ring": {},
    "star": {"agents": 40},
    "complete": {},
    "erdos_renyi": {},
    "random_matching": {},
    "ring dropping": {"drop_links": 0.3},
}


def made(
    network: str = "ring", scenario: Any = "moving_target:dim=3", algorithm: Any = "gtadam:lr=0.01", **settings: Any
) -> Problems:
    """A problem of a few rounds that records what it can."""
    ask = {"agents": N, "rounds": 5, "x0": 0.3, **NETWORKS.get(network, {}), **settings}
    problem = build(
        Experiment(network.removesuffix(" dropping"), scenario=scenario, algorithm=algorithm, record=("x",), **ask)
    )
    return Problems(problem, Comparison.of(problem))


def on(problems: Problems, partition: Partition | None = None, mode: local.Mode = "eager", **delays: Any) -> Outcome:
    """The run on workers, or local where there is no partition."""
    return battery.on(problems, threads(partition, **delays) if partition else local.local, mode)
