"""The online methods, and direction rules with constants of their own, on every engine: the same bits wherever they run."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from helpers import needs
from helpers.battery import PARTITIONS, VECTORS, Case, differences, moves, on, posed, threads

from distopt.engines import ranks
from distopt.engines.workers.partition import Partition

SPECS = [
    "prediction_correction:lr=0.01,steps=2",
    "prediction_correction:lr=0.01,steps=1,direction=adam",
    "bandit(gtadam(lr=0.01))",
    "domd:lr=0.01,geometry=pnorm,p=1.2",
    "online_frank_wolfe:lr=0.02",
    "ader:lr=0.01,experts=3",
    "ader:lr=0.01,experts=4,tracking=true",
    "bandit(dgd(lr=0.01),form=residual,delta=0.1)",
    "averaged(bandit(k_gt(lr=0.01,local=2),form=one_point,delta=0.5))",
]
RULES = [
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
    "gt:lr=0.05,form=atc,direction=proximal",
]
CASES = [
    Case(spec, "exact", VECTORS[k % 2], ("float64", "float32")[k // 2 % 2], 1 + k % 2)
    for k, spec in enumerate([*SPECS, *RULES])
]
ON_SETS = [
    Case("domd:lr=0.05,geometry=entropy", "exact", "portfolio:apart=3", "float64", 1),
    Case("online_frank_wolfe:lr=0.05", "exact", "dispatch:period=7", "float64", 2),
    Case("gt:lr=0.1", "exact", "sensor_fusion:rows=2", "float32", 2),
    Case("online_frank_wolfe:lr=0.05", "exact", "feasible(moving_target(dim=3),form=l1)", "float32", 2),
    Case("gtadam:lr=0.05", "exact", "feasible(moving_target(dim=3),form=simplex)", "float64", 2),
    Case("ader:lr=0.01,experts=3", "exact", "feasible(drifting_logistic,form=l1,radius=0.3)", "float32", 1),
]
CASES += ON_SETS
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
    assert differences(alone, on(problems, threads(Partition.even(6, 2 + k % 2)), mode="compiled")) == []
