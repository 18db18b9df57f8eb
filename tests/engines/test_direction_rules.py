"""The direction rules on every engine, in grids and compiled: the same bits wherever they run."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from helpers import needs
from helpers.battery import PARTITIONS, VECTORS, Case, differences, moves, on, posed, threads

import distopt
from distopt.engines import ranks
from distopt.engines.workers.partition import Partition
from distopt.simulation import runner

SPECS = [
    "gt:lr=0.01,direction=theopoula",
    "dgd:lr=0.01,direction=theopoula(eps=0.01,eta=0.1,r=2,beta=1000.0)",
    "k_gt:lr=0.01,local=2,direction=theopoula(beta=1e4)",
    "gt:lr=0.01,direction=diffgrad",
    "dgd:lr=0.01,direction=adabelief",
    "gt:lr=0.01,direction=acprop",
    "gt:lr=0.01,direction=adashift(n=2)",
    "dgd:lr=0.01,direction=adashift(n=1,b1=0.5,phi=identity)",
    "gt:lr=0.1,direction=losing_momentum(T=0.3)",
    "dgd:lr=inverse_sqrt(0.1),direction=losing_momentum(decay=inverse,p=1.5)",
    "aug_dgm:lr=0.1,direction=losing_momentum(decay=constant)",
    "gt:lr=0.1,direction=inna",
    "dgd:lr=inverse_sqrt(0.1),direction=inna(alpha=1.0,beta=0.5)",
]
CASES = [
    Case(spec, "exact", VECTORS[k % 2], ("float64", "float32")[k // 2 % 2], 1 + k % 2) for k, spec in enumerate(SPECS)
]
PLACED = [pytest.param(k, case, id=case.algorithm) for k, case in enumerate(CASES)]


@pytest.mark.parametrize(("k", "case"), PLACED)
def test_threads_have_the_bits_of_one_block(k: int, case: Case) -> None:
    problems = posed(case)
    alone = on(problems)
    assert moves(alone)
    for name in (("3", "scattered"), ("5", "13"))[k % 2]:
        assert differences(alone, on(problems, threads(PARTITIONS[name], shuffled=True, seed=k))) == [], name


@needs.forks
@pytest.mark.parametrize(("k", "case"), PLACED)
def test_ranks_have_the_bits_of_one_block(k: int, case: Case) -> None:
    problems = posed(case)
    assert differences(on(problems), on(problems, partial(ranks.ranks, workers=2 + k % 2, timeout=60))) == []


@pytest.mark.parametrize(("k", "case"), PLACED)
def test_compiled_rounds_have_the_same_bits_in_threads_and_are_close_to_eager_ones(k: int, case: Case) -> None:
    problems = posed(case, network="ring", agents=6, rounds=5)
    alone, eager = on(problems, mode="compiled"), on(problems)
    x, close = eager.run["x"], 1e-12 if case.dtype == "float64" else 2e-5
    assert np.abs(alone.run["x"] - x).max() < close * np.abs(x).max()
    assert differences(alone, on(problems, threads(Partition.even(6, 2)), mode="compiled")) == []


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
