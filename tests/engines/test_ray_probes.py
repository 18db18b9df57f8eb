"""Probes have the same bits on Ray actors. conftest.py keeps the tests of a cluster in one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distopt
from distopt.catalog import registry

pytestmark = pytest.mark.usefixtures("cluster_is_free")
PROBES = (
    "sharpness:every=8",
    "spectrum:every=4,steps=3,vectors=2",
    "flow_distance:every=8,parts=2",
    "mini_batch_edge:every=8,size=3",
    "preconditioned_sharpness:every=8",
    "spherical_sharpness:every=8",
)


@pytest.mark.slow
def test_all_probes_have_the_bits_of_one_block_on_actors() -> None:
    assert sorted(each.partition(":")[0] for each in PROBES) == sorted(registry.names("probes"))
    ask: dict[str, Any] = {
        "agents": 6,
        "scenario": "normalised(drifting_logistic,radius=2)",
        "algorithm": "gt:lr=0.05,direction=adam",
        "rounds": 21,
        "mode": "eager",
        "probe": PROBES,
        "record": "x",
    }
    alone, shared = (
        distopt.simulate("ring", **ask, engine=engine) for engine in ("local", "ray:workers=3,timeout=300")
    )
    for name in alone:
        assert np.array_equal(alone[name], shared[name], equal_nan=True), name
    for name in registry.names("probes"):
        series = "spectrum_mean" if name == "spectrum" else name
        assert np.isfinite(alone[series]).any() and alone[series].any(), name
