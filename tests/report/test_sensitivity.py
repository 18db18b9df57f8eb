"""The figure of tuning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distopt
from distopt.report import sensitivity
from distopt.runs.tuned import Point, Sensitivity, Tuned

INF = math.inf


def tuned(*curves: list[list[float]], figure: str = "average_dynamic_regret", usual: float | None = 1.0) -> Tuned:
    """Algorithms a, b, ... whose trials end so at lr = 0.1, 1, 10, ..."""
    found = {}
    for name, curve in zip("abcdefghijkl", curves, strict=False):
        points = tuple(
            Point(f"{name}:lr={10.0 ** (k - 1):g}", 10.0 ** (k - 1), name, 9, tuple(each))
            for k, each in enumerate(curve)
        )
        found[name] = Sensitivity(name, name, points, usual=usual)
    return Tuned(figure, 9, 0, 3, 1000, 5, found, {})


def marked(fig: Any, marker: str) -> list[tuple[float, float]]:
    """Where the figure has marks of a kind."""
    return [
        (float(x), float(y))
        for line in fig.axes[0].lines
        if line.get_marker() == marker and (marker != "o" or line.get_markersize() == 8)
        for x, y in zip(*line.get_data(), strict=True)
    ]


def texts(fig: Any) -> str:
    return "\n".join(text.get_text() for text in fig.texts)


def test_the_line_is_the_median_and_marks_say_the_rest() -> None:
    fig = sensitivity.figure(tuned([[5.0, 4.0, 9.0], [1.0, 2.0, 3.0], [7.0, INF, INF], [1e9, 1e9, 1e9]]))
    axes = fig.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    np.testing.assert_array_equal(axes.lines[0].get_ydata()[:2], [5.0, 2.0])
    assert np.isnan(axes.lines[0].get_ydata()[2])
    assert marked(fig, "X") == [(10.0, 1.0)], "on the upper edge"
    assert marked(fig, "^") == [(100.0, 1.0)], "beyond the axis, but finite"
    assert marked(fig, "o") == [(1.0, 2.0)] and marked(fig, "D") == [(1.0, 2.0)]
    assert axes.get_ylim()[1] < 1e5 and "▲ beyond the axis" in texts(fig)
    corners = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert {(float(a), float(b)) for a, b in corners} >= {(0.1, 4.0), (0.1, 9.0), (1.0, 3.0)}
    said = texts(fig)
    assert "lr 1: 2" in said and "stable there alone" in said and "25 % of the grid diverges" in said


def test_the_stable_range_is_drawn_thick_and_a_default_off_the_grid_stands_on_the_axis() -> None:
    fig = sensitivity.figure(tuned([[4.0], [1.5], [1.0], [1.9], [2.5]], usual=3.0))
    (thick,) = [line for line in fig.axes[0].lines if line.get_linewidth() == 5]
    np.testing.assert_array_equal(thick.get_xdata(), [1.0, 10.0, 100.0])
    assert not marked(fig, "D") and marked(fig, "v") == [(3.0, 0.0)] and "stable 1 to 100" in texts(fig)
    assert "▽ step size without tuning, not tried" in texts(fig) and "◇" not in texts(fig)


@pytest.mark.parametrize(
    "curves", [[[[INF], [INF]]], [[[INF], [INF]], [[1.0], [INF]]], [[[0.0], [0.0]]], [[[-3.0], [1.0]]], [[[2.0]]]]
)
def test_anything_can_be_drawn(curves: Any, tmp_path: Path) -> None:
    for figure in ("average_dynamic_regret", "cost"):
        tuned(*curves, figure=figure, usual=None).plot(tmp_path / "s.png")
        assert (tmp_path / "s.png").stat().st_size > 10_000
    text = texts(sensitivity.figure(tuned(*curves)))
    assert ("no winner" in text) == any(math.isinf(curve[0][0]) for curve in curves)


def test_many_algorithms_are_all_named() -> None:
    fig = sensitivity.figure(tuned(*[[[3.0 + k], [1.0 + k], [INF]] for k in range(12)]))
    names = [text for text in fig.texts if text.get_text()[:1] in "abcdefghijkl" and text.get_text().endswith(" 1")]
    assert len(names) == 12 and min(text.get_position()[1] for text in names) > 0.1
    assert (
        len({(line.get_color(), line.get_linestyle()) for line in fig.axes[0].lines if line.get_markersize() == 2.2})
        == 12
    )


def test_marks_of_several_algorithms_at_the_edge_do_not_hide_each_other() -> None:
    fig = sensitivity.figure(tuned([[1.0], [INF]], [[1.0], [INF]]))
    heights = [y for _, y in marked(fig, "X")]
    assert len(set(heights)) == 2 and max(heights) == 1.0


def test_a_tuning_says_what_it_is() -> None:
    found = distopt.tune(
        "ring",
        agents=4,
        scenario="moving_target",
        algorithm="dgd",
        rounds=20,
        trials=1,
        report_trials=1,
        grid="0.02,0.05",
        mode="eager",
    )
    assert repr(found).startswith("<Tuned: dgd:lr=0.05>\n") and "dgd (defaults)" in repr(found)
