"""The report page on small and dark screens, with strangers' names, in old browsers, and paths in the plane; driven in a headless browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import Tab, browser, needs_browser, range_of
from helpers.drawn import NAMES, made_up

import distopt
from distopt.report import page
from distopt.report.theory import bound_for

pytestmark = [needs_browser, pytest.mark.slow]

HOSTILE = '</script><script>window.hacked=1</script>"><img src=x onerror=window.hacked=1>'

# ------------------------------------------------------------------------------------------- screens, colours, strangers


def test_a_phone_never_scrolls_sideways(file: Path) -> None:
    with browser(390, 844, phone=True) as tab:
        tab.open(file)
        assert tab.js("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        tab.choose("single", True)
        for each in tab.all("summary"):
            tab.js("arguments[0].parentElement.open = true", each)
        tab.settle()
        assert tab.js("return document.documentElement.scrollWidth") == 390
        boxes = [canvas.rect for canvas in tab.all(".canvas")]
        assert boxes[0]["width"] > 300 and boxes[1]["y"] > boxes[0]["y"] + 300, "one below the other"
        assert tab.console() == []


def test_dark_follows_the_system_and_the_switch(file: Path) -> None:
    def ground(tab: Tab) -> list[int]:
        text = tab.js("return getComputedStyle(document.body).backgroundColor")
        figure = tab.js("return Bokeh.documents.filter(one => one.roots().length)[0].roots()[0].background_fill_color")
        sums = [sum(map(int, re.findall(r"\d+", each)[:3])) for each in (text, figure)]
        return sums

    with browser(dark=True) as tab:
        tab.open(file)
        assert max(ground(tab)) < 150
        bright = tab.drawn("lines")["colour"]
        tab.js(
            "const theme = document.getElementById('theme'); theme.value = 'light'; theme.dispatchEvent(new Event('change'))"
        )
        tab.settle()
        assert min(ground(tab)) > 700 and tab.drawn("lines")["colour"] != bright
        tab.until(lambda: "theme=light" in tab.driver.current_url)
        assert tab.console() == []


def test_strangers_names_stay_names(window: Tab, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = [made_up(name, 2, 30, rng, scenario=HOSTILE) for name in (HOSTILE, "n" * 300, "a\u202eb", "$x^2$")]
    runs[0].metrics["own"] = rng.random((2, 30))
    runs[0].info["metrics"] = {"own": {"title": HOSTILE, "take": "last"}}
    window.open(page.write(runs, tmp_path))
    window.choose("y0", "own")
    window.point(0.5)
    window.one(".charts summary").click()
    window.settle()
    assert window.js("return window.hacked === undefined && !document.querySelector('img')")
    assert list(window.read(1)) == [HOSTILE, "n" * 300, "a\\u202eb", "$x^2$"]
    assert window.js("return document.documentElement.scrollWidth <= innerWidth")
    assert window.console() == []


def test_every_switch_is_a_control_with_a_name(tab: Tab) -> None:
    nameless = tab.js(
        "return [...document.querySelectorAll('select, input, button')].filter(each => !each.labels?.length && !each.getAttribute('aria-label')"
        " && !each.textContent.trim()).length"
    )
    assert nameless == 0 and len(tab.all(".switches select, .switches input, .switches button")) == 8


def test_copying_gives_the_text(tab: Tab) -> None:
    button = tab.one(".copy")
    tab.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()
    tab.until(lambda: button.text in ("copied", "marked"))
    if button.text == "marked":
        assert tab.js("return getSelection().toString()").startswith("distopt simulate ring --algorithm gtadam:lr=0.05")


def test_several_problems_draw_when_they_come_into_sight(window: Tab, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    window.open(
        page.write(
            [made_up("gt", 2, 30, rng, scenario=name) for name in ("sea", "digits", "flights", "quadratic")], tmp_path
        )
    )
    ready = "return document.querySelectorAll('.charts[data-ready]').length"
    assert window.js(ready) < 4
    window.all("nav a")[3].click()
    window.until(lambda: window.js("return document.querySelectorAll('.charts')[3].dataset.ready === 'yes'"))
    window.choose("ys", "linear", group=3)
    window.until(lambda: "3.ys=linear" in window.driver.current_url)
    assert window.console() == []


def test_trials_that_diverged_count_as_infinite_and_flatten_nothing(window: Tab, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    calm, wild = made_up("calm", 5, 80, rng), made_up("wild", 5, 80, rng)
    for name in ("dynamic_regret", "consensus_error", "tracking_error"):
        wild.metrics[name][:2, 30:] *= 10.0 ** np.arange(0, 300, 6)
        wild.metrics[name][:2, 70:] = np.nan
    window.open(page.write([calm, wild], tmp_path))
    low, high = range_of(window, 1, "y_range")
    assert high - low < 10
    found = window.read(1)["wild"]
    assert found["high"] == np.inf and found["value"] == pytest.approx(
        np.median(np.sort(wild["tracking_error"][2:, -1])[-1]), rel=1e-6
    )
    window.choose("single", True)
    assert len(window.drawn("bands", 1)["xs"]) == 2 and window.console() == []


def test_bounds_and_certified_intervals_are_drawn_and_said(window: Tab, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"agents": 8, "scenario": "moving_target:motion=line", "rounds": 200, "trials": 6}
    run = distopt.simulate("complete", algorithm="dgd:lr=0.05,form=atc", **settings)
    bound, said = bound_for(run)
    assert bound is not None
    window.open(page.write(run, tmp_path))
    label = f"dgd:lr=0.05,form=atc: {said}, mean over the trials"
    window.point(0.5)
    found = window.read(0)[label]
    place = int(found["round"]) - 1
    assert found["value"] == pytest.approx(bound[place] / (place + 1), rel=1e-6)
    assert found["value"] >= run["average_dynamic_regret"][:, place].mean()
    part = re.search(r"Certified at the end to (\S+) of the value", window.one(".panel .note").text)
    width = np.max((run["dynamic_regret_high"] - run["dynamic_regret_low"])[:, -1] / run["dynamic_regret"][:, -1])
    assert part is not None and 0 < width < 1e-6
    plain = part.group(1).translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    assert float(plain.replace("·10", "e") if "·" in plain else f"1e{plain[2:]}") == pytest.approx(width, rel=0.5)
    window.choose("y0", "dynamic_regret")
    assert window.read(0)[label]["value"] == pytest.approx(bound[place], rel=1e-6)
    assert len(window.drawn("bands")["xs"]) == 2
    window.choose("burn", 20)
    assert label not in window.read(0) and len(window.drawn("bands")["xs"]) == 1
    assert "Certified" not in window.one(".panel .note").text and window.console() == []


def test_an_old_browser_is_told_and_keeps_the_tables(file: Path) -> None:
    with browser() as tab:
        tab.driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": "delete window.DecompressionStream"}
        )
        tab.go(f"file://{file}")
        tab.until(lambda: tab.one("#fault").is_displayed())
        assert "The tables stand" in tab.one("#fault").text and NAMES[0] in tab.one(".verdict").text
        assert not tab.all(".loading")


# ---------------------------------------------------------------------------------------------------------------- paths


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plane") / "runs"
    distopt.simulate(
        "ring",
        agents=5,
        scenario="moving_target:dim=2",
        algorithm=["gt:lr=0.05", "dgd:lr=0.05"],
        rounds=60,
        trials=2,
        record="x",
        out=folder,
    )
    return folder


def test_paths_are_those_that_were_recorded(window: Tab, plane: Path, tmp_path: Path) -> None:
    window.open(page.write(plane, tmp_path))
    run = distopt.load(plane)["dgd:lr=0.05"]
    window.js(
        "const choice = document.querySelector('.player select'); choice.value = '1'; choice.dispatchEvent(new Event('change'))"
    )
    window.js("const s = document.querySelector('.player input'); s.value = 41; s.dispatchEvent(new Event('input'))")
    dots = np.array(
        window.js(
            "return [...document.querySelectorAll('.stage circle')].map(dot => [+dot.getAttribute('cx'), -dot.getAttribute('cy')])"
        )
    )
    x = run["x"][0, 41]
    assert window.one(".player output").text == "after round 41"
    assert np.allclose(
        dots - dots[0], (x - x[0]) * np.linalg.norm(dots[1] - dots[0]) / np.linalg.norm(x[1] - x[0]), atol=0.05
    )
    assert "Cross and dashed line" in window.one(".paths .note").text
    cross = np.array(
        [*map(float, re.findall(r"M(\S+) (\S+)h4", window.one(".stage .cross").get_attribute("d"))[0])]
    ) * (1, -1) + (2, 0)
    unit = np.linalg.norm(dots[1] - dots[0]) / np.linalg.norm(x[1] - x[0])
    error = np.linalg.norm((cross - dots) / unit, axis=1)
    assert np.sqrt((error**2).mean()) == pytest.approx(run["tracking_error"][0, 41], rel=0.02)
    window.one("[data-key=play]").click()
    window.until(
        lambda: window.one(".player output").text == "after round 60" and window.one("[data-key=play]").text == "Play"
    )
    assert window.console() == []


def test_little_motion_leaves_the_slider(plane: Path, tmp_path: Path) -> None:
    file = page.write(plane, tmp_path)
    with browser(calm=True) as tab:
        tab.open(file)
        assert not tab.all("[data-key=play]") and tab.one(".player input").is_displayed()
        assert "little motion" in tab.one(".paths .note").text
