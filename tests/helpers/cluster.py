"""A Ray cluster of two nodes on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from distopt.engines.ray.cluster import library

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
