"""A page in a headless browser without any network, for tests: what it says, draws, and asks of the world."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WAIT = 60.0


@functools.cache
def missing() -> str:
    """Why there is no browser; nothing if there is one."""
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed: pip install selenium"
    if not any(map(shutil.which, CHROMIUM)) or not shutil.which("chromedriver"):
        return "no browser: make browser, or apt-get install chromium chromium-driver"
    return ""


needs_browser = pytest.mark.skipif(bool(missing()), reason=missing())


class Tab:
    """A page in a browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, hash: str = "") -> None:
        """Open a file, and wait for its first charts."""
        self.go("about:blank")
        self.go(f"file://{path}{hash}")
        self.until(lambda: self.js("return document.documentElement.dataset.ready === 'yes'"))
        self.js("document.querySelector('.charts').scrollIntoView()")  # charts are made when they come into sight
        self.until(lambda: self.js("return document.querySelector('.charts').dataset.ready === 'yes'"))
        self.settle()

    def go(self, address: str) -> None:
        """Leave for an address, and wait until it is loaded. The driver does not wait: it misses the end of some loads, for minutes."""
        self.driver.get(address)
        there = address.partition("#")[0]
        self.until(
            lambda: (
                self.js("return document.readyState === 'complete' && decodeURI(location.href.split('#')[0])") == there
            )
        )

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, holds: Callable[[], Any]) -> Any:
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            if found := holds():
                return found
            time.sleep(0.02)
        raise AssertionError(f"not within {WAIT:g} s; the console says: {self.console()}")

    def settle(self) -> None:
        """Wait until what has been asked for is drawn."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30)))"
        )

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def choose(self, key: str, value: Any, group: int = 0) -> None:
        """Set a switch of a group as a user does: an option, a check box, or a place of the slider."""
        self.js(
            "const control = document.querySelectorAll('.charts')[arguments[2]].querySelector(`[data-key=${arguments[0]}]`);"
            "if (control.type === 'checkbox') { if (control.checked !== arguments[1]) control.click(); return; }"
            "control.value = arguments[1]; control.dispatchEvent(new Event(control.type === 'range' ? 'input' : 'change'));",
            key,
            value,
            group,
        )
        self.settle()

    def point(self, across: float, panel: int = 0, down: float = 0.4) -> None:
        """Move the mouse over a chart, to a share of its width."""
        from selenium.webdriver.common.action_chains import ActionChains

        canvas = self.all(".canvas")[panel]
        self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvas)
        size = canvas.size
        move = ActionChains(self.driver, duration=0)
        move.move_to_element_with_offset(
            canvas, round((across - 0.5) * size["width"]), round((down - 0.5) * size["height"])
        )
        move.perform()
        self.settle()

    def read(self, panel: int = 0, group: int = 0) -> dict[str, dict[str, float]]:
        """The readout of a panel: by name value, round, low and high, as far as they are there."""
        found = self.js(
            """
            const rows = [...document.querySelectorAll('.charts')[arguments[1]].querySelectorAll('.legend tbody tr')];
            return rows.filter(row => !row.hidden).map(row => {
              const cell = row.querySelectorAll('td')[arguments[0]], value = cell.querySelector('.value');
              const band = cell.querySelector('small')?.dataset ?? {};
              return [row.querySelector('bdi').textContent,
                value && { value: value.dataset.value, text: value.textContent, round: value.dataset.round, ...band }];
            })""",
            panel,
            group,
        )
        return {
            name: {key: text if key == "text" else float(text.replace("Infinity", "inf")) for key, text in each.items()}
            for name, each in found
            if each
        }

    def drawn(self, source: str, panel: int = 0) -> dict[str, Any]:
        """The columns of a source of a chart, as Bokeh has them."""
        found = self.js(
            "const roots = Bokeh.documents.filter(one => one.roots().length), model = roots[arguments[1]].get_model_by_name(arguments[0]);"
            "return JSON.stringify(Object.fromEntries(Object.entries(model.data_source.data).map(([key, rows]) => "
            "[key, Array.from(rows, row => (row.length !== undefined && typeof row !== 'string' ? Array.from(row) : row))])))",
            source,
            panel,
        )
        columns: dict[str, Any] = json.loads(found)
        return columns

    def console(self) -> list[str]:
        """Warnings and errors of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def requests(self) -> list[str]:
        """What has been asked for by address since the last call, but for the page itself."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [
            url
            for url in asked
            if not url.startswith(("data:", "blob:", "about:")) and not url.split("#")[0].endswith(".html")
        ]


@contextmanager
def browser(
    width: int = 1300, height: int = 950, *, dark: bool = False, phone: bool = False, calm: bool = False
) -> Iterator[Tab]:
    """A browser that finds no host."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, CHROMIUM)))
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--force-device-scale-factor=1",
        f"--window-size={width},{height}",
    ):
        options.add_argument(argument)
    options.page_load_strategy = "none"  # see ``Tab.go``
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(WAIT)
        if phone:
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True},
            )
        features = [("prefers-color-scheme", "dark")] * dark + [("prefers-reduced-motion", "reduce")] * calm
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": name, "value": value} for name, value in features]}
        )
        yield Tab(driver)
    finally:
        driver.quit()


def range_of(tab: Tab, panel: int, which: str) -> list[float]:
    """Where the axis of a chart begins and ends; ``which`` is "x_range" or "y_range"."""
    found: list[float] = tab.js(
        "const figure = Bokeh.documents.filter(one => one.roots().length)[arguments[0]].roots()[0], range = figure[arguments[1]];"
        "return [range.start, range.end]",
        panel,
        which,
    )
    return found
