"""Grids of direction rules: the bits of each point are those that it has alone."""

from __future__ import annotations

import numpy as np
import pytest

import distopt
from distopt.simulation import runner

GRIDS = {
    "dgd:lr=[0.01,0.02],direction=theopoula(eps=[1e-8,1e-2],eta=[0.0,0.1],beta=[10.0,1e3])": 16,
    "gt:lr=[0.01,0.02],direction=diffgrad(b1=[0.5,0.9],b2=[0.9,0.99],eps=[1e-8,1e-2])": 16,
    "dgd:lr=0.01,direction=adabelief(b1=[0.5,0.9],b2=[0.9,0.99],eps=[1e-8,1e-2])": 8,
    "gt:lr=0.01,direction=acprop(b1=[0.5,0.9],b2=[0.9,0.99],eps=[1e-8,1e-2])": 8,
    "gt:lr=0.01,direction=adashift(n=2,b1=[0.5,0.9],b2=[0.9,0.99],eps=[1e-10,1e-2])": 8,
    "dgd:lr=[0.05,0.1],direction=losing_momentum(alpha=[0.5,1.0],m0=[0.5,2.0],T=[0.3,3.0])": 16,
    "dgd:lr=[0.05,0.1],direction=losing_momentum(decay=inverse,T=[0.3,3.0],p=[1.0,1.5])": 8,
    "gt:lr=[0.05,0.1],direction=inna(alpha=[0.0,0.5],beta=[0.1,0.3])": 8,
    "dgd:lr=inverse_sqrt(lr=[0.05,0.1]),direction=inna(alpha=[0.0,0.5])": 4,
    "dgd:lr=inverse_sqrt(lr=[0.05,0.1]),direction=losing_momentum(T=[0.3,3.0])": 4,
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("spec", GRIDS)
def test_the_points_of_a_grid_run_as_one_and_have_the_bits_they_have_alone(
    spec: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    together = runner.together
    monkeypatch.setattr(
        runner, "together", lambda problems, *a, **k: sizes.append(len(problems)) or together(problems, *a, **k)
    )
    ask = {"agents": 5, "scenario": "moving_target:dim=3", "rounds": 8, "trials": 2, "record": "x", "mode": "eager"}
    runs = distopt.simulate("ring", algorithm=spec, dtype=dtype, x0=0.3, **ask)
    assert sizes == [GRIDS[spec]] == [len(runs)]
    for label in [*runs][:: len(runs) // 3]:
        alone = distopt.simulate("ring", algorithm=label, dtype=dtype, x0=0.3, **ask)
        assert np.array_equal(alone["x"], runs[label]["x"]), label
    assert len({run["x"].tobytes() for run in runs.values()}) == len(runs)
