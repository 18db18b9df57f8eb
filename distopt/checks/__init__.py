"""The conformance battery: checks that an algorithm, direction, schedule, scenario, topology, channel, compressor, metric or
probe keeps its promises.

Each check runs in well under a second. It raises AssertionError with one line that names the broken promise and how it was
broken, and returns None if all are kept. Call them from your own tests: ``check_algorithm(MyAlgorithm())``.
"""

from __future__ import annotations

from distopt.checks.compressors import check_compressor
from distopt.checks.methods import check_algorithm, check_channel, check_direction
from distopt.checks.metrics import check_metric
from distopt.checks.probes import check_probe
from distopt.checks.scenarios import check_scenario
from distopt.checks.schedules import check_schedule
from distopt.checks.topologies import check_topology

__all__ = [
    "check_algorithm",
    "check_channel",
    "check_compressor",
    "check_direction",
    "check_metric",
    "check_probe",
    "check_scenario",
    "check_schedule",
    "check_topology",
]
