"""Curves in the terminal while rounds run."""

import io
import os
import re
import signal
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.asking import ASK, call, one
from helpers.terminals import in_terminal, resized
from rich.console import Console

from distopt.cli.live import KEPT, Chart

BRAILLE = re.compile("[\u2801-\u28ff]")
LONG = ["simulate", "ring", "--agents", "16", "--scenario", "moving_target", "--rounds", "1000000", "--every", "100"]
TWO = ["--algorithm", "gt:lr=0.01", "--algorithm", "gtadam:lr=0.02"]


def take(chart: Chart, label: str, start: int, **metrics: Any) -> None:
    arrays = {name: np.atleast_2d(np.asarray(values, dtype=float)) for name, values in metrics.items()}
    count = next(iter(arrays.values())).shape[1]
    chart.take(label, np.arange(start, start + count), arrays)


def drawn(chart: Chart, width: int = 60, height: int = 30, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width, height=height, force_terminal=True, color_system=None).print(chart)
    file.seek(0)
    return file.read().splitlines()


def test_the_line_is_the_average_regret_of_the_trials_that_go_on() -> None:
    chart = Chart()
    take(chart, "gt", 0, dynamic_regret=[[1.0, 4.0], [3.0, nan]])
    take(chart, "gt", 2, dynamic_regret=[[9.0], [nan]])
    assert chart.lines["gt"].x.tolist() == [1.0, 2.0, 3.0] and chart.lines["gt"].y.tolist() == [2.0, 2.0, 3.0]


def test_of_a_cost_it_is_the_mean_so_far() -> None:
    chart = Chart()
    take(chart, "gt", 0, cost=[[1.0, 3.0]])
    take(chart, "gt", 2, cost=[[5.0, 7.0]])
    assert chart.lines["gt"].y.tolist() == [1.0, 2.0, 3.0, 4.0] and chart.title.startswith("cost")


def test_the_picture_has_axes_and_names() -> None:
    chart = Chart()
    chart.rounds = 100
    take(chart, "gt:lr=0.1", 0, dynamic_regret=[100.0 * np.ones(50)])
    take(chart, "dgd", 0, dynamic_regret=[np.arange(1.0, 51.0) * 10])
    lines = drawn(chart)
    assert (
        lines[0].strip() == "average dynamic regret"
        and lines[1].startswith("      100│")
        and all(len(each) <= 60 for each in lines)
    )
    assert lines[-3].split() == ["1", "round", "100"] and lines[-2].strip() == "-- gt:lr=0.1  2"
    plot = [line.split("│")[1] for line in lines if "│" in line]
    half = max(len(row.rstrip()) for row in plot)
    assert 20 <= half <= 30  # 50 of 100 rounds, on 50 columns
    assert BRAILLE.search(plot[0]) and not BRAILLE.search(plot[-1][30:])


@pytest.mark.parametrize(("width", "height"), [(20, 10), (200, 60), (40, 12)])
def test_the_picture_fits_the_terminal(width: int, height: int) -> None:
    chart = Chart()
    for k in range(12):
        take(chart, f"a_long_name_of_an_algorithm:lr={k}", 0, dynamic_regret=[np.geomspace(1, 1e3, 30)])
    lines = drawn(chart, width, height)
    assert all(len(line) <= width for line in lines) and any("and 4 more" in line for line in lines)


def test_without_unicode_there_are_stars() -> None:
    chart = Chart()
    take(chart, "gt", 0, dynamic_regret=[[5.0, 4.0, 3.0]])
    text = "\n".join(drawn(chart, encoding="ascii"))
    assert text.isascii() and "*" in text


@pytest.mark.parametrize(
    "values", [[0.0], [1.0], [-1.0, 2.0], [inf, nan], [1.0, inf], [1e-300, 1e300], [0.0, 0.0, 0.0], [5.0, 5.0]]
)
def test_odd_values_are_drawn(values: list[float]) -> None:
    chart = Chart()
    take(chart, "gt", 0, dynamic_regret=[values])
    assert len(drawn(chart)) >= 5


def test_long_runs_are_thinned_and_keep_their_ends() -> None:
    chart = Chart()
    for k in range(10):
        take(chart, "gt", 1000 * k, dynamic_regret=[np.arange(1000.0) + 1000 * k])
    line = chart.lines["gt"]
    assert len(line.x) <= KEPT and (line.x[0], line.x[-1]) == (1.0, 10_000.0) and (np.diff(line.x) > 0).all()
    np.testing.assert_allclose(line.y, (line.x - 1) / line.x)


def test_nothing_yet() -> None:
    assert "no round yet" in drawn(Chart())[0]


def test_without_a_terminal_there_are_lines_of_progress(own_folder: None) -> None:
    done = call(*ASK, "--algorithm", "gt", "--live", "--out", "mine")
    assert done.exit_code == 0 and "--live needs a terminal" in done.stderr and "round 20 of 20" in done.stderr


@pytest.mark.slow
def test_in_a_terminal_curves_are_drawn_and_numbers_stay_the_same(tmp_path: Path) -> None:
    words = [*ASK[:-1], "3000", *TWO, "--out"]
    said, code = in_terminal([*words, "live", "--live"], tmp_path)
    assert code == 0 and BRAILLE.search(said) and "average dynamic regret" in said and "written: live" in said
    assert said.rstrip().endswith("regret.png") and said.count("\x1b[?25l") == said.count(
        "\x1b[?25h"
    )  # the cursor is back
    last = said[said.rindex("\x1b[?25h") :]
    assert BRAILLE.search(last) and "gtadam:lr=0.02" in last and "━" not in last  # the last picture stays, the bars go
    in_terminal([*words, "quiet"], tmp_path)
    for name in ("gt-lr=0.01", "gtadam-lr=0.02"):
        one_, other = one(tmp_path / "live" / name), one(tmp_path / "quiet" / name)
        assert all(np.array_equal(one_[key], other[key], equal_nan=True) for key in one_.metrics)


@pytest.mark.slow
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(tmp_path: Path) -> None:
    said, code = in_terminal([*ASK, "--live", "--out", "mine", "--algorithm", "gt"], tmp_path, terminal="dumb")
    assert code == 0 and "--live needs a terminal" in said and not BRAILLE.search(said)


@pytest.mark.slow
def test_ctrl_c_leaves_a_clean_terminal_and_a_run(tmp_path: Path) -> None:
    def interrupt(said: str, pid: int, fd: int) -> bool:
        if BRAILLE.search(said):
            os.kill(pid, signal.SIGINT)
        return bool(BRAILLE.search(said))

    said, code = in_terminal([*LONG, "--algorithm", "gt:lr=0.01", "--live", "--out", "mine"], tmp_path, interrupt)
    assert code == 130 and "interrupted; everything before is kept in mine" in said
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") and "Traceback" not in said
    assert one(tmp_path / "mine").status == "interrupted"


@pytest.mark.slow
def test_the_picture_follows_the_size_of_the_terminal(tmp_path: Path) -> None:
    sizes: list[int] = []

    def narrow(said: str, pid: int, fd: int) -> bool:
        wide = {len(line) for line in re.findall("└(─+)\r", said)}
        if not sizes and wide:
            sizes.append(max(wide))
            resized(fd, 24, 50)
            os.kill(pid, signal.SIGWINCH)
        if sizes and any(size < sizes[0] for size in wide):
            os.kill(pid, signal.SIGINT)
            return True
        return False

    said, code = in_terminal([*LONG, "--algorithm", "gt:lr=0.01", "--live", "--out", "mine"], tmp_path, narrow)
    assert code == 130 and sizes == [90]
    assert len(re.findall("└(─+)\r", said)[-1]) == 40
