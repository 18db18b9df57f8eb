"""A Ray cluster of two nodes on this machine, and actors on it that serve one problem after another."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from distopt.costs.data import Blocks
from distopt.engines import local
from distopt.engines import ray as engine_of_ray
from distopt.engines.ray.cluster import library
from distopt.engines.workers.group import FaultTolerant, WorkerEngine
from distopt.engines.workers.partition import divide as shares
from distopt.simulation.problem import Problem

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)
ROOT = Path(__file__).parents[2]


class Nodes:
    """A cluster of two nodes on this machine, with room for two actors each."""

    def __init__(self) -> None:
        ray = library(own=True)
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        self.second: Any = None
        self.grow()
        ray.init(address=self.cluster.address, logging_level="ERROR", log_to_driver=False)

    def grow(self) -> None:
        self.second = self.cluster.add_node(num_cpus=2)

    def shrink(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)


class Lent(WorkerEngine):
    """An engine whose workers stays when it is closed."""

    def close(self) -> None:
        pass


class Kept(engine_of_ray.ActorGroup):
    """A group of workers that is told one problem after another, since actors take seconds to start."""

    def engine(self, problem: Problem, blocks: Blocks, mode: local.Mode) -> Lent:
        self._hear([actor.leave.remote() for actor in self._actors])
        self._problem, self._length, self._share = (
            self._ray.put(engine_of_ray.packed(problem)),
            blocks.length,
            partial(shares, problem.network),
        )
        self._hear([actor.learn.remote(self._problem) for actor in self._actors])
        self._form()
        return Lent(FaultTolerant(self, lambda workers: self.rebuild()))
