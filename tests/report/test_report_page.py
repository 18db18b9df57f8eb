"""The report page as text: sections, escaping, few numbers for long curves, commands that repeat, size."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.asking import ASK, call
from helpers.drawn import made_up
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import distopt
from distopt.errors import InputError
from distopt.report import page, study
from distopt.report.page import columns, data, setup
from distopt.report.page.verdict import verdict
from distopt.report.tables import number

HOSTILE = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "</script><!--",
    "$x^2$ {{ 7*7 }} ${1+1}",
    "a\u202ereversed",
    "n" * 300,
    "'; window.hacked=1; '",
)


class Elements(HTMLParser):
    """The elements of a page, and the text of each script element by its id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or "module"

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


def numbers(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The numbers of a page, as its script unpacks them."""
    planes = np.frombuffer(gzip.decompress(base64.b64decode(Elements(text).scripts["numbers"])), dtype=np.uint8)
    return np.ascontiguousarray(planes.reshape(4, -1).T).view(np.float32).reshape(-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "runs"
    distopt.simulate(
        "ring",
        agents=4,
        scenario="moving_target:dim=2",
        algorithm=["gtadam", "dgd"],
        rounds=40,
        trials=3,
        out=path,
        record="x",
    )
    return path


# ------------------------------------------------------------------------------------------------------------ the page


def test_every_section_is_there(folder: Path, tmp_path: Path) -> None:
    text = page.write(folder, tmp_path / "new" / "one.html").read_text()
    heads = re.findall(r"<h[123]>(?:<bdi>)?([^<]+)", text)
    assert heads == [
        "moving_target:dim=2, 4 agents, ring",
        *(
            "Verdict",
            "Warnings",
            "Curves",
            "What theory reads from this",
            "Network",
            "Paths in the plane",
            "Set-up",
            "Papers of the methods",
        ),
    ]
    shown = json.loads(Elements(text).scripts["data"])["groups"][0]
    assert [run["name"] for run in shown["runs"]] == ["gtadam", "dgd"]
    assert {"average_dynamic_regret", "dynamic_regret", "tracking_error"} <= {each["name"] for each in shown["series"]}
    assert {"rounds", "bits", "gradients", "seconds"} <= {axis["name"] for axis in shown["axes"]}
    assert "[carnevale2023]" in text and "has the smallest average dynamic regret at the end" in text
    assert "spectral gap" in text and "static regret below zero" not in text


def test_several_problems_stand_on_one_page(folder: Path, tmp_path: Path) -> None:
    distopt.simulate("path", agents=3, scenario="quadratic", algorithm="gt", rounds=5, out=tmp_path / "b")
    text = page.write([folder, tmp_path / "b"], tmp_path).read_text()
    assert re.findall(r'<a href="#(problem-\d)"><bdi>([^<]+)', text) == [
        ("problem-1", "moving_target:dim=2, 4 agents, ring"),
        ("problem-2", "quadratic, 3 agents, path"),
    ]
    assert text.count('class="charts"') == 2


def test_a_page_names_nothing_outside_itself(folder: Path, tmp_path: Path) -> None:
    found = Elements(page.write(folder, tmp_path).read_text())
    for tag, attributes in found.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:,")), (tag, attributes)
    assert [attributes.get("type") for tag, attributes in found.tags if tag == "script"] == [
        "application/json",
        "text/plain",
        "text/plain",
        "module",
    ]


def test_hostile_texts_are_only_texts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = []
    for k, name in enumerate(HOSTILE):
        run = made_up(name, 2, 5, rng, scenario=HOSTILE[0])
        run.metrics[f"own{name}"] = rng.random((2, 5))
        run.info["metrics"] = {f"own{name}": {"title": name, "take": "last"}}
        run.info["left_out"] = {"accuracy": f"{name}; because"}
        runs.append(replace(run, label=f"{k}{name}"))
    text = page.write(runs, tmp_path).read_text()
    found = Elements(text)
    assert [tag for tag, _ in found.tags].count("script") == 4 and "img" not in [tag for tag, _ in found.tags]
    shown = json.loads(found.scripts["data"])["groups"][0]
    assert shown["runs"][0]["name"] == f"0{HOSTILE[0]}"
    assert "\u202e" not in text and "{{" not in found.scripts["data"].replace("{{ 7*7 }}", "")
    assert "49" not in re.findall(r'class="name"><bdi>([^<]*)', text)[3]


def test_what_cannot_be_read_or_written_is_one_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="holds no runs"):
        page.write(tmp_path, tmp_path)
    with pytest.raises(InputError, match="give at least one"):
        page.write([], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        page.write(folder, tmp_path / "file")


@pytest.mark.slow
def test_the_commands_say_where_the_report_is(folder: Path, tmp_path: Path) -> None:
    done = call("report", str(folder))
    assert done.stdout.splitlines()[0] == f"written: {folder / 'report' / 'report.html'}"
    assert (folder / "report" / "report.html").stat().st_size > 500_000
    done = call(*ASK, "--report", "--out", str(tmp_path / "run"))
    assert f"written: {tmp_path / 'run' / 'report.html'}" in done.stdout.splitlines()
    again = distopt.load(tmp_path / "run")
    assert again.report(tmp_path / "other.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_figures_and_tables_for_a_paper_lie_beside_the_page(folder: Path, tmp_path: Path) -> None:
    done = call("report", str(folder), "--out", str(tmp_path / "all"))
    names = {line.split("/")[-1] for line in done.stdout.splitlines()}
    assert {"report.html", "bibliography.bib", "captions.txt"} <= names
    places = [Path(line.split()[-1]) for line in done.stdout.splitlines()]
    assert all(place.is_file() or any(place.iterdir()) for place in places), places
    for kind, formats in (("figures", {".pdf", ".svg", ".png"}), ("tables", {".tex", ".csv", ".md"})):
        assert {each.suffix for each in (tmp_path / "all" / kind).iterdir()} >= formats, kind
    assert "carnevale2023" in (tmp_path / "all" / "bibliography.bib").read_text()


def test_the_command_of_a_page_repeats_its_run(folder: Path, tmp_path: Path) -> None:
    text = page.write(folder, tmp_path).read_text()
    (command,) = re.findall(r'<pre id="command-1-1">([^<]+)', text)
    words = shlex.split(command)
    call(*words[1:], "--out", str(tmp_path / "again"))
    first, again = distopt.load(folder), distopt.load(tmp_path / "again")
    assert first.keys() == again.keys()
    for name, run in first.items():
        assert again[name].info["fingerprint"] == run.info["fingerprint"]
        assert np.array_equal(again[name]["dynamic_regret"], run["dynamic_regret"])


@pytest.mark.usefixtures("own_folder")
def test_the_step_size_of_an_own_file_is_its_default_while_the_file_is_unchanged() -> None:
    code = (
        "class Mine:\n    channels = ('x',)\n    def __init__(self, lr: float = 0.04): self.lr = lr\n"
        "    def init(self, x): return ()\n    def update(self, g, state, x, mix): return mix('x', x) - self.lr * g, state\n"
    )
    Path("mine.py").write_text(code)
    run = distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="mine.py", rounds=9, out="o")
    assert setup.step(run) == "0.04"
    Path("mine.py").write_text(code.replace("0.04", "0.05"))
    assert setup.step(run) == ""


def test_warnings_say_what_is_wrong(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lost = made_up("lost", 3, 50, rng)
    for name in ("dynamic_regret", "consensus_error"):
        lost.metrics[name][1, 20:] = np.inf
    stopped = replace(made_up("stopped", 3, 50, rng), status="interrupted")
    weak = made_up("weak", 3, 50, rng)
    for run in (lost, stopped, weak):
        run.info["rounds"] = 200
    weak.info["certificate"] = 1e-3
    text = page.write([lost, stopped, weak], tmp_path).read_text()
    warnings = re.findall(r"<li><bdi>([^<]+)", text)
    assert any(w.startswith("lost diverged: 1 of 3 trials, first in round 21.") for w in warnings)
    assert "stopped is not finished: it is shown as far as it has come, 50 of 200 rounds." in warnings
    assert any("1.0e-03" in w for w in warnings)
    assert "Fewer than 6 trials: differences between methods cannot be significant." in warnings
    for run in (lost, stopped, weak):
        run.metrics["static_regret"] = np.full((3, 50), -1.0)
    text = page.write([lost, stopped, weak], tmp_path).read_text()
    assert '<p class="note">The static regret of every method is below zero at the end.' in text, "a note, no warning"
    assert "1 of 3 runs are not finished" in text


# ----------------------------------------------------------------------------------------------------------- few numbers

curves = arrays.arrays(
    np.float64, st.integers(1, 400), elements=st.floats(-1e6, 1e6) | st.sampled_from([np.inf, -np.inf, np.nan])
)


@settings(max_examples=150, deadline=None)
@given(curves, st.integers(2, 40))
def test_no_column_loses_its_extremes_or_ends(values: Any, count: int) -> None:
    places = columns.edges(np.arange(1.0, len(values) + 1), count)
    assert places[0] == 0 and places[-1] == len(values) and (np.diff(places) > 0).all()
    assert len(places) <= max(count, 1) + 2
    kept = columns.kept(values, places)
    both = columns.extremes(values, places).reshape(-1, 2)
    for (a, b), pair in zip(pairwise(places), both, strict=True):
        inside = kept[(kept >= a) & (kept < b)]
        assert a in inside and b - 1 in inside
        known = values[a:b][~np.isnan(values[a:b])]
        if len(known):
            for some in (values[inside], pair):
                assert np.nanmin(some) == known.min() and np.nanmax(some) == known.max()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 45), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_the_spread_of_trials_is_that_of_numpy(trials: int, diverged: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(trials, 7))
    values[: min(diverged, trials - 1)] = np.inf
    low, middle, high = columns.spread(values)
    q = (0.05, 0.95) if trials >= columns.ENOUGH else (0.0, 1.0)
    assert np.array_equal(low, np.quantile(values, q[0], axis=0, method="lower"))
    assert np.array_equal(high, np.quantile(values, q[1], axis=0, method="higher"))
    assert np.allclose(middle, np.median(values, axis=0), rtol=1e-15)


def test_a_trial_without_a_number_is_left_out_of_the_spread() -> None:
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    assert [each.tolist()[0] for each in columns.spread(values)] == [1.0, 2.0, 3.0]
    assert all(np.isnan(each[1]) for each in columns.spread(values))


def test_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    pool = columns.Pool()
    values = np.array([[1.5, -2.25], [np.inf, 1e-30]], np.float64)
    reference, rising = pool.add(values), pool.add_rising(np.array([3.0, 5.0, 9.0]))
    planes = np.frombuffer(gzip.decompress(base64.b64decode(pool.text())), np.uint8).reshape(4, -1)
    flat = np.ascontiguousarray(planes.T).view(np.float32).reshape(-1)
    assert reference == [0, 4] and np.array_equal(flat[:4], values.astype(np.float32).reshape(-1))
    assert np.array_equal(flat[rising[0] : sum(rising)].cumsum(), [3.0, 5.0, 9.0])


def test_coarse_values_are_close_and_keep_what_is_infinite() -> None:
    values = np.random.default_rng(0).lognormal(0, 10, 1000)
    assert np.allclose(columns.coarse(values), values, rtol=2.0**-12 * 1.001)
    assert np.isinf(columns.coarse(np.array([np.inf, -np.inf]))).all() and np.isnan(
        columns.coarse(np.array([np.nan]))[0]
    )


def test_a_spike_of_one_round_is_on_the_page(tmp_path: Path) -> None:
    run = made_up("gt", 1, 20_000, np.random.default_rng(0))
    run.metrics["consensus_error"][0, 12_345] = 77.0
    text = page.write(run, tmp_path).read_text()
    shown = json.loads(Elements(text).scripts["data"])["groups"][0]
    (series,) = [each for each in shown["series"] if each["name"] == "consensus_error"]
    at, values = (numbers(text)[start : start + length] for start, length in series["curves"][0]["line"])
    assert values.max() == 77.0 and at.astype(np.float64).cumsum()[values.argmax()] == 12_346


@pytest.mark.slow
def test_ten_algorithms_of_thirty_trials_fit_into_three_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = [made_up(f"gtadam:lr={0.01 * (k + 1):.2f}", 30, 10_000, rng, 1 + k / 3) for k in range(10)]
    assert page.write(runs, tmp_path).stat().st_size <= 3_000_000


def test_a_page_of_many_curves_has_fewer_columns_and_never_none() -> None:
    rng = np.random.default_rng(0)
    small = study.groups([made_up("gt", 2, 9, rng)])
    assert data.sizes(small) == (data.COLUMNS[1], data.TRIAL_COLUMNS[1])
    large = study.groups([made_up(f"gt:lr={k}", 40, 9, rng) for k in range(1, 90)])
    assert data.sizes(large) == (data.COLUMNS[0], data.TRIAL_COLUMNS[0])


# -------------------------------------------------------------------------------------------------------------- verdict


def test_the_verdict_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    good, bad = made_up("good", 8, 60, rng), made_up("bad", 8, 60, rng, 9.0)
    bad.metrics["dynamic_regret"][3, 30:] = np.nan
    (group,) = study.groups([bad, good])
    found = verdict(group)
    assert [row.name for row in found.rows] == ["good", "bad"] and [row.mark for row in found.rows] == ["best", ""]
    assert [row.said.diverged for row in found.rows] == [0, 1]
    ends = good["average_dynamic_regret"][:, -1]
    heads = [head for head, _ in found.heads[1:]]
    assert heads[0] == "Average dynamic regret" and {"Tracking error", "Rounds", "Bits", "Diverged"} <= set(heads)
    assert f"{np.median(ends):.3g}" in found.rows[0].cells[0]
    level = 2 * np.median(ends)
    below = good["average_dynamic_regret"] <= level
    first = [next(t + 1 for t in range(60) if below[r, t:].all()) for r in range(8)]
    assert float(found.rows[0].cells[heads.index("Rounds")]) == sorted(first)[4]
    assert (
        found.rows[0].cells[heads.index("Diverged")] == "0/8" and found.rows[1].cells[heads.index("Diverged")] == "1/8"
    )
    assert "Diverged, at least in some trials: bad." in found.sentence


def test_methods_that_are_alike_are_marked_and_few_trials_are_said() -> None:
    rng = np.random.default_rng(0)
    (group,) = study.groups([made_up("one", 8, 60, rng), made_up("two", 8, 60, rng)])
    found = verdict(group)
    assert (
        sorted(row.mark for row in found.rows) == ["best", "tied"] and "Not distinguishable from it: " in found.sentence
    )
    (group,) = study.groups([made_up("one", 3, 60, rng), made_up("two", 3, 60, rng)])
    found = verdict(group)
    assert sorted(row.mark for row in found.rows) == ["", "best"]
    assert any("cannot be significant" in note for note in found.notes)


@pytest.mark.slow
def test_a_tuning_ends_in_a_page_that_shows_its_search(tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    words = "--agents 4 --scenario moving_target --algorithm gt --rounds 30 --trials 2 --report-trials 2 --grid lr=0.01,0.03,3"
    done = call("tune", "ring", *words.split(), "--report", "--out", str(out))
    assert f"written: {out / 'report.html'}" in done.stdout.splitlines()
    text = (out / "report.html").read_text()
    assert text.count("data:image/png;base64,") == 1 and "Step sizes that were tried" in text
    rows = [
        re.findall(r"<bdi>(.*?)</bdi>", row) for row in text.partition("Step sizes that were tried")[2].split("<tr>")
    ]
    tried = {row[0]: row for row in rows if len(row) == 5}
    note = json.loads((out / "tuning.json").read_text())
    assert tried.keys() == {point["spec"] for point in note["points"]}
    for point in note["points"]:
        _, lr, median, diverged, winner = tried[point["spec"]]
        assert float(lr) == point["lr"] and diverged == f"{point['diverged']}/2"
        assert winner == ("yes" if point["spec"] == note["found"][0]["tuned"] else "no")
        assert median == number(math.inf if point["median"] is None else point["median"], 4)
    assert (out / "bibliography.bib").is_file()
