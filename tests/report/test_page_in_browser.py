"""The report page driven in a headless browser that finds no host: every switch, the readout, zoom, keys, small and dark screens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import Tab, needs_browser, range_of
from helpers.drawn import NAMES, ROUNDS, TRIALS, made_up

from distopt.report import page
from distopt.report.series import AXES, offered
from distopt.report.tables import amount
from distopt.runs.results import Run

pytestmark = [needs_browser, pytest.mark.slow]


def quantiles(values: Any) -> tuple[float, float, float]:
    """The low end, the median and the high end of trials, by NumPy."""
    return (
        float(np.quantile(values, 0.05, method="lower")),
        float(np.median(values)),
        float(np.quantile(values, 0.95, method="higher")),
    )


def series_of(tab: Tab, panel: int = 0) -> list[str]:
    return [option.get_attribute("value") for option in tab.all(f"[data-key=y{panel}] option")]


def axes_of(tab: Tab) -> list[str]:
    return [option.get_attribute("value") for option in tab.all("[data-key=x] option")]


def entry(tab: Tab, k: int | str) -> Any:
    return tab.one(f"[data-entry='{k}']")


# ------------------------------------------------------------------------------------------------------------- switches


def test_every_series_axis_and_scale_draws_lines(tab: Tab, runs: dict[str, Run]) -> None:
    assert axes_of(tab) == [axis.name for axis in AXES]
    assert series_of(tab) == offered(runs) and len(offered(runs)) > 9
    for name in series_of(tab):
        tab.choose("y0", name)
        for axis in axes_of(tab):
            tab.choose("x", axis)
            for scale in ("linear", "log", "symlog", "auto"):
                tab.choose("ys", scale)
                drawn = tab.drawn("lines")
                assert len(drawn["xs"]) >= len(NAMES), (name, axis, scale)
                for xs, ys in zip(drawn["xs"], drawn["ys"], strict=True):
                    seen = [y for x, y in zip(xs, ys, strict=True) if x is not None and y is not None]
                    assert len(xs) == len(ys) and len(seen) > 0.5 * len(xs), (name, axis, scale)
        assert tab.one(".panel select").get_attribute("value") == name


def test_bands_trials_and_the_second_chart_can_be_switched(tab: Tab) -> None:
    assert len(tab.drawn("bands")["xs"]) == len(NAMES) and tab.drawn("trials")["xs"] == []
    tab.choose("single", True)
    tab.choose("bands", False)
    assert len(tab.drawn("trials")["xs"]) == len(NAMES) * TRIALS and tab.drawn("bands")["xs"] == []
    assert tab.all(".panel")[1].is_displayed()
    tab.choose("two", False)
    assert not tab.all(".panel")[1].is_displayed()
    assert tab.all(".legend tbody tr")[0].find_elements("css selector", "td")[1].get_attribute("hidden")


def test_scales_are_said(tab: Tab) -> None:
    remark = tab.one(".panel .note")
    assert "Logarithmic axis." in remark.text and "5 % to 95 % of the trials" in remark.text
    assert f"median of {TRIALS} trials" in remark.text
    tab.choose("y0", "static_regret")
    inner = re.search(r"linear between ±(\S+), since there are values of 0 or less", remark.text)
    assert inner is not None and float(inner.group(1).replace(",", "")) > 0
    tab.choose("ys", "linear")
    assert "axis" not in remark.text


def test_a_spike_is_drawn(window: Tab, tmp_path: Path) -> None:
    run = made_up("gt", 1, 20_000, np.random.default_rng(0))
    run.metrics["consensus_error"][0, 12_345] = 1e3
    window.open(page.write(run, tmp_path))
    window.choose("y0", "consensus_error")
    assert max(y for y in window.drawn("lines")["ys"][-1] if y is not None) == 3.0
    assert range_of(window, 0, "y_range")[1] > 3.0


# -------------------------------------------------------------------------------------------------------------- readout


@pytest.mark.parametrize("axis", [axis.name for axis in AXES])
def test_the_readout_says_what_the_data_say(tab: Tab, runs: dict[str, Run], axis: str) -> None:
    tab.choose("x", axis)
    tab.choose("y0", "dynamic_regret")
    tab.choose("y1", "average_static_regret")
    seen = set()
    for across in (0.2, 0.45, 0.7, 0.85):
        tab.point(across)
        for panel, name in enumerate(("dynamic_regret", "average_static_regret")):
            found = tab.read(panel)
            for label, run in runs.items():
                place = int(found[label]["round"]) - 1
                low, middle, high = quantiles(run[name][:, place])
                for key, expected in (("low", low), ("value", middle), ("high", high)):
                    assert found[label][key] == pytest.approx(expected, rel=1e-6), (label, key, place)
                assert float(str(found[label]["text"]).replace(",", "")) == pytest.approx(middle, rel=5.1e-4)
                seen.add(place)
            if panel == 0:
                base = runs[NAMES[0]]["regret_best_fixed"][:, int(found["best fixed point"]["round"]) - 1]
                assert found["best fixed point"]["value"] == pytest.approx(np.median(base), rel=1e-6)
    assert len(seen) >= 4
    head = tab.one(".legend thead th").text
    assert head.startswith("round ") if axis == "rounds" else head.endswith(f" {axis}")


def test_the_cursor_is_in_both_charts_with_a_dot_on_each_line(tab: Tab, runs: dict[str, Run]) -> None:
    tab.point(0.6)
    place = int(tab.read(0)[NAMES[0]]["round"]) - 1
    assert tab.drawn("cursor", 0) == tab.drawn("cursor", 1) != {"x": []}
    dots = tab.drawn("dots", 1)
    expected = [np.log10(np.median(run["tracking_error"][:, place])) for run in runs.values()]
    assert dots["x"] == pytest.approx([np.log10(place + 1)] * 3) and dots["y"] == pytest.approx(expected, rel=1e-5)


def test_keys_move_the_cursor_and_it_is_said(tab: Tab, runs: dict[str, Run]) -> None:
    from selenium.webdriver.common.keys import Keys

    canvas = tab.one(".canvas")
    assert canvas.get_attribute("tabindex") == "0" and "Arrow keys" in canvas.get_attribute("aria-label")
    canvas.send_keys(Keys.HOME)
    rounds = [int(tab.read(0)[NAMES[0]]["round"])]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.PAGE_DOWN, Keys.END):
        canvas.send_keys(key)
        rounds.append(int(tab.read(0)[NAMES[0]]["round"]))
    assert rounds == [1, 2, 3, 2, 12, ROUNDS]
    said = tab.one("[aria-live]").get_attribute("textContent")
    middle = np.median(runs[NAMES[0]]["average_dynamic_regret"][:, -1])
    assert said.startswith(f"round {ROUNDS}: {NAMES[0]} ")
    assert float(said.split(NAMES[0] + " ")[1].split(";")[0]) == pytest.approx(middle, rel=5.1e-4)


def test_the_table_holds_the_values(tab: Tab, runs: dict[str, Run]) -> None:
    tab.one(".charts summary").click()
    tab.settle()
    rows = [
        [cell.text for cell in row.find_elements("css selector", "th, td")] for row in tab.all("details table tbody tr")
    ]
    assert len(rows) == 40 and rows[0][0] == "1" and rows[-1][0] == str(ROUNDS)
    for row in (rows[0], rows[17], rows[-1]):
        place = int(row[0]) - 1
        for cell, run in zip(row[1:4], runs.values(), strict=True):
            assert float(cell) == pytest.approx(np.median(run["average_dynamic_regret"][:, place]), rel=5.1e-4)


# ------------------------------------------------------------------------------------------------------ legend and zoom


def test_a_click_hides_and_a_double_click_isolates(tab: Tab) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    before = len(tab.drawn("lines")["xs"])
    entry(tab, 1).click()
    tab.settle()
    assert len(tab.drawn("lines")["xs"]) == before - 1 and NAMES[1] not in tab.read(0)
    assert entry(tab, 1).get_attribute("aria-pressed") == "false"
    entry(tab, 1).click()
    tab.settle()
    assert len(tab.drawn("lines")["xs"]) == before
    for expected in (1, before):
        ActionChains(tab.driver).double_click(entry(tab, 2)).perform()
        tab.settle()
        assert len(tab.drawn("lines")["xs"]) == expected
    entry(tab, 0).send_keys(" ")
    tab.settle()
    assert NAMES[0] not in tab.read(0) and NAMES[2] in tab.read(0)


def test_a_zoom_moves_both_charts_and_goes_back(tab: Tab) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    home = [range_of(tab, p, "x_range") for p in (0, 1)]
    heights = [range_of(tab, p, "y_range") for p in (0, 1)]
    assert home[0] == home[1]
    canvas = tab.one(".canvas")
    tab.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvas)
    drag = ActionChains(tab.driver, duration=50).move_to_element_with_offset(canvas, -80, -60).click_and_hold()
    drag.move_by_offset(60, 50).move_by_offset(60, 50).release().perform()
    tab.settle()
    zoomed = [range_of(tab, p, "x_range") for p in (0, 1)]
    assert zoomed[0] == zoomed[1] != home[0] and home[0][0] < zoomed[0][0] < zoomed[0][1] < home[0][1]
    assert range_of(tab, 0, "y_range") != heights[0] and range_of(tab, 1, "y_range") == heights[1]
    tab.until(lambda: "0.zx=" in tab.driver.current_url)
    tab.one("[data-key=reset]").click()
    tab.settle()
    assert [range_of(tab, p, "x_range") for p in (0, 1)] == home
    assert range_of(tab, 0, "y_range") == heights[0]


def test_the_address_remembers_and_restores(tab: Tab, file: Path) -> None:
    chosen = {
        "y0": "dynamic_regret",
        "y1": "accuracy",
        "x": "bits",
        "xs": "linear",
        "ys": "symlog",
        "single": True,
        "burn": 7,
    }
    for key, value in chosen.items():
        tab.choose(key, value)
    entry(tab, 1).click()
    tab.until(lambda: "0.hide=1" in tab.driver.current_url)
    address = tab.driver.current_url
    tab.open(file, "#" + address.split("#")[1])
    for key, value in chosen.items():
        control = tab.one(f"[data-key={key}]")
        now = control.is_selected() if isinstance(value, bool) else control.get_attribute("value")
        assert now == (value if isinstance(value, bool) else str(value)), key
    assert entry(tab, 1).get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize(
    "hash",
    [
        "#0.y0=<script>window.hacked=1</script>&0.x=javascript:1&0.burn=99999999&0.hide=9,x,__proto__",
        "#0.zx=NaN,Infinity&0.z0=5,1&theme=</style>&0.ys=__proto__&__proto__.x=1",
        "#%E0%A4%A&0.y0=constructor&0.burn=-1&9.x=bits&=&&&",
    ],
)
def test_a_hostile_address_changes_nothing(tab: Tab, file: Path, hash: str) -> None:
    before = [tab.drawn("lines"), range_of(tab, 0, "x_range")]
    tab.open(file, hash)
    assert [tab.drawn("lines"), range_of(tab, 0, "x_range")] == before
    assert tab.js("return window.hacked === undefined")


# -------------------------------------------------------------------------------------------------------------- burn-in


@pytest.mark.parametrize("rounds", [60, 5000])
def test_regrets_counted_from_a_later_round_are_those_of_numpy(window: Tab, tmp_path: Path, rounds: int) -> None:
    rng = np.random.default_rng(1)
    runs = {name: made_up(name, 7, rounds, rng, 1e6) for name in NAMES[:2]}
    window.open(page.write(list(runs.values()), tmp_path))
    window.choose("y0", "dynamic_regret")
    window.choose("y1", "average_static_regret")
    most = int(window.one("[data-key=burn]").get_attribute("max"))
    for burn in (1, most // 3, most - 2):
        window.choose("burn", burn)
        text = window.one(".burn output").text
        before = int(text.split(" ")[0].replace(",", ""))
        assert f"Counted from round {before + 1:,} on." in window.one(".panel .note").text
        for across in (0.4, 0.8):
            window.point(across)
            for panel, name in enumerate(("dynamic_regret", "static_regret")):
                found = window.read(panel)
                for label, run in runs.items():
                    last = int(found[label]["round"])
                    sums = run[name][:, last - 1] - run[name][:, before - 1]
                    sums = sums / (last - before) if panel else sums
                    expected = (sums.min(), np.median(sums), sums.max())
                    assert (found[label]["low"], found[label]["value"], found[label]["high"]) == pytest.approx(
                        expected, rel=1e-5
                    )
                base = runs[NAMES[0]]["regret_best_fixed"]
                if panel == 0:
                    sums = base[:, last - 1] - base[:, before - 1]
                    assert found["best fixed point"]["value"] == pytest.approx(np.median(sums), rel=1e-5)
    assert window.console() == []


def test_amounts_are_written_as_in_tables(tab: Tab) -> None:
    tab.choose("x", "bits")
    tab.point(0.7)
    run = int(tab.read(0)[NAMES[0]]["round"])
    assert tab.one(".legend thead th").text == f"at {amount(640.0 * run)} bits"
