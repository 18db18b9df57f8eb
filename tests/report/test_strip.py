"""What a page says of theory: the drift of the problem, and rates and floors of the methods."""

import numpy as np
import pytest

import distopt
from distopt.report import study
from distopt.report.page.columns import Pool
from distopt.report.page.strip import strip

ASKED = {"agents": 4, "trials": 3}


def strip_of(**asked: object) -> tuple[str, dict[str, list[str]], dict[str, distopt.Run]]:
    """The words, the cells by method, and the runs."""
    runs = distopt.simulate("ring", algorithm=["gt:lr=0.01", "dgd:lr=0.02"], **ASKED, **asked)
    (group,) = study.groups(list(runs.values()))
    found = strip(group)
    assert found is not None
    return found.words, {name: list(cells) for name, cells in found.rows}, runs


def test_costs_that_stand_still_have_rates() -> None:
    words, rows, runs = strip_of(scenario="quadratic", rounds=600)
    assert "do not change" in words
    error = np.median(runs["gt:lr=0.01"]["tracking_error"], axis=0)
    start, stop = 60, 160  # well before rounding errors
    slope = (np.log(error[stop]) - np.log(error[start])) / (stop - start)
    assert float(rows["gt:lr=0.01"][0]) == pytest.approx(np.exp(slope), abs=5e-3)
    assert rows["dgd:lr=0.02"] == ["not linear"]  # it ends beside the minimiser: a constant step, and no tracking


def test_costs_that_move_have_floors() -> None:
    words, rows, runs = strip_of(scenario="moving_target", rounds=600)
    path = np.median(runs["dgd:lr=0.02"]["path_length"][:, -1])
    assert f"moves by {path:.3g} in all" in words
    level, behind = map(float, rows["dgd:lr=0.02"])
    error = np.median(runs["dgd:lr=0.02"]["tracking_error"], axis=0)
    assert level == pytest.approx(np.median(error[-150:]), rel=1e-3)
    assert behind == pytest.approx(level / (runs["dgd:lr=0.02"]["path_length"][:, -1].mean() / 599), rel=1e-3)


def test_nobody_knows_the_minimisers_of_a_network() -> None:
    run = distopt.simulate("ring", agents=2, scenario="network:data=digits", algorithm="dgd", rounds=3)
    assert strip(study.groups([run])[0]) is None


def test_arrays_that_are_alike_are_packed_once() -> None:
    pool = Pool()
    first, other, again = pool.add(np.arange(3.0)), pool.add(np.arange(4.0)), pool.add(np.arange(3.0))
    assert first == again == [0, 3] and other == [3, 4]
