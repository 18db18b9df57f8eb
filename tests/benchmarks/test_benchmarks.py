"""The benchmarks page says what the logs say."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("page")


def test_the_page_is_made_from_the_logs(tables: ModuleType) -> None:
    regret = (ROOT / "benchmarks" / "results" / "regret.txt").read_text()
    assert tables.page(tables.logs(), regret) == (ROOT / "docs" / "benchmarks.md").read_text(), (
        "run python benchmarks/plots.py"
    )


def test_the_page_of_rules_has_the_tables_of_the_log(tables: ModuleType) -> None:
    rules = importlib.import_module("rules")
    log = json.loads((ROOT / "benchmarks" / "results" / "rules.json").read_text())
    page = rules.PAGE.read_text()
    assert rules.written(page, "rules.py", rules.table(log["streams"])) == page, "run python benchmarks/rules.py --log"


def test_the_readme_says_how_fast_rounds_are(tables: ModuleType) -> None:
    ratios = [each["seconds"]["bare"] / each["seconds"]["C"] for each in tables.logs()["speed"]["problems"]]
    assert 0.35 < min(ratios) < 0.45 and 0.65 < max(ratios) < 0.75
    assert "A round takes 0.4 to 0.7 of the time of a plain C loop" in (ROOT / "README.md").read_text()


def test_the_guide_says_what_the_regrets_are() -> None:
    text = (ROOT / "benchmarks" / "results" / "regret.txt").read_text()
    found = {
        stream: {name: float(value) for name, value in re.findall(r"(\w+) +best lr \S+ +R_T/T (\S+)", block)}
        for stream, block in re.findall(r"^(\S+) on ring, .*\n((?:.+\n)+)", text, re.M)
    }
    assert len(found) == 5
    ahead = sum(each[name] < each["dgd"] for each in found.values() for name in ("gt", "gtadam"))
    curved = found["moving_target:kappa=30"]
    guide = (ROOT / "docs" / "choosing.md").read_text()
    assert ahead == 9 and "in nine of ten comparisons" in guide
    assert f"it has {curved['gtadam'] / curved['gt']:.2f} of `gt`'s regret" in guide
    assert all(each["dadam"] > each["dgd"] for each in found.values())


@pytest.mark.slow
def test_the_log_of_regrets_has_a_table_of_each_stream(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regret = importlib.import_module("regret")
    committed = (ROOT / "benchmarks" / "results" / "regret.txt").read_text()
    for name, value in {"RESULTS": tmp_path, "GRID": [0.01, 0.1], "DEFAULTS": ("", "ring", "4", "20", "2")}.items():
        monkeypatch.setattr(regret, name, value)
    monkeypatch.setattr("sys.argv", ["regret.py", "--log"])
    regret.main()
    log = (tmp_path / "regret.txt").read_text()
    shape = [re.sub(r"on ring, .*|best lr .*|^# .*", "", text, flags=re.M) for text in (log, committed)]
    assert shape[0] == shape[1]
    assert len(tables.regret_table(log).splitlines()) == 2 + len(regret.STREAMS)


def test_the_page_of_clocks_has_the_table_of_the_log(tables: ModuleType) -> None:
    path = ROOT / "benchmarks" / "networks.py"  # other tests have a module of this name
    spec = importlib.util.spec_from_file_location("benchmarks_networks", path)
    assert spec is not None and spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    log = json.loads((ROOT / "benchmarks" / "results" / "networks.json").read_text())
    page = networks.PAGE.read_text()
    table = networks.table(log["networks"])
    assert networks.written(page, "networks.py", table) == page, "run python benchmarks/networks.py --log"
    assert len(table.splitlines()) == 2 + len(networks.NETWORKS) * len(networks.METHODS)


def test_another_log_makes_another_page(tables: ModuleType) -> None:
    found = tables.logs()
    regret = (ROOT / "benchmarks" / "results" / "regret.txt").read_text()
    before = tables.page(found, regret)
    for part in (
        found["speed"]["problems"][0]["seconds"],
        found["engines"]["cases"][0],
        found["engines"]["ray"]["eager"],
        found["compression"]["speed"]["seconds"]["float32"],
        found["compression"]["bytes"]["rows"][0],
        found["compression"]["regret"]["streams"][0]["methods"][1],
        found["compression"]["link"]["cases"][0],
        found["parts"]["command"],
        found["parts"]["minimisers"],
    ):
        names = ("bare", "ranks", "encode", "wire", "bits", "seconds", "cpu_seconds", "flights")
        name = next(name for name in names if name in part)
        value, part[name] = part[name], part[name] * 2
        assert tables.page(found, regret) != before, part
        part[name] = value
    assert tables.page(found, regret) == before


def test_a_target_that_is_missed_is_named_with_its_reason(tables: ModuleType) -> None:
    targets = importlib.import_module("page_targets")
    found = tables.logs()
    seconds = found["speed"]["problems"][0]["seconds"]
    what = f"bare over tight C, {found['speed']['problems'][0]['title']}"

    def said(bare: float) -> tuple[str, str]:
        seconds["bare"] = bare * seconds["tight C"]
        text = targets.summary(found)
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {what} |")]
        return row, text

    row, text = said(2.004)
    assert row == f"| {what} | ≤ 2 | 2.00 | yes |"
    few, _, every = text.split(" are met")[0].rpartition("\n")[-1].partition(" of ")
    assert text.count("| yes |") == int(few)
    assert text.count("| yes |") + text.count("| **no** |") == int(every)
    row, text = said(2.01)
    assert row == f"| {what} | ≤ 2 | 2.01 | **no** |"
    assert text.splitlines().count(f"- {targets.WHY_BARE}") == 1
    assert all(each.why in text for each in targets.targets(found) if not each.met)
    assert not targets.at_least("a", 3, 2.9, "").met and targets.at_least("a", 3, 3.0, "").met


def test_figures_of_the_page_exist(tables: ModuleType) -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    named = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(named) == 4
    assert all((ROOT / "docs" / name).stat().st_size > 0 for name in named)


def test_missing_figures_of_a_log_are_dashes(tables: ModuleType) -> None:
    seconds = {"bare": 2e-6, "measured": 4e-6, "C": 1e-6, "tight C": 5e-7, "NumPy": 6e-6}
    row = tables.speed_table({"problems": [{"title": "a", "seconds": seconds}]}).splitlines()[-1]
    assert row == "| a | 2.00 | 4.00 | 1.00 | 0.500 | 6.00 | - | 2.00 | 4.00 | 3.00 |"


def test_bits_to_a_level_are_compared_where_both_reach_it(tables: ModuleType) -> None:
    exact, sign = {"reached": {"rounds": 4, "bits": 4000.0}}, {"reached": {"rounds": 8, "bits": 500.0}}
    never = {"reached": None}
    assert tables.fewer({"methods": [exact, sign]}, sign) == 8
    measured = tables.logs()["compression"]["regret"]["streams"]
    told = [
        round(tables.fewer(stream, next(m for m in stream["methods"] if m["method"] == "sign"))) for stream in measured
    ]
    assert (
        f"{told[0]} times fewer bits on `moving_target:dim=100`, {told[1]} times fewer on the flights"
        in (ROOT / "README.md").read_text()
    )
    assert (
        tables.fewer({"methods": [exact, never]}, never) is None
        and tables.fewer({"methods": [never, sign]}, sign) is None
    )


def test_a_link_that_could_not_be_made_says_why(tables: ModuleType) -> None:
    assert tables.link_table({"refused": "no namespaces"}) == "Not measured: no namespaces."
    cases = [
        {"mbit": 10, "method": name, "bytes": size, "seconds": took}
        for name, size, took in (("exact", 1e6, 0.9), ("sign", 5e4, 0.06))
    ]
    assert tables.link_table({"cases": cases}).splitlines()[-1] == "| 10 Mbit/s | sign | 50,000 | 60.0 | 40.0 | 15.0 |"


def test_parts_of_a_log_are_merged(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = importlib.import_module("machine")
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    machine.log_parts("a", {"one": {"x": 1}, "two": {"y": 2}}, {"load": 0})
    machine.log_parts("a", {"two": {"y": 3}}, {"load": 5})
    content = json.loads((tmp_path / "a.json").read_text())
    assert [(name, each["machine"]["load"]) for name, each in content.items()] == [("one", 0), ("two", 5)]
    assert content["one"]["x"] == 1 and content["two"]["y"] == 3


def test_the_figures_are_drawn_from_the_logs(tables: ModuleType) -> None:
    plots, found = importlib.import_module("plots"), tables.logs()
    for name in ("speed", "scale", "peers"):
        assert getattr(plots, f"{name}_figure")(found[name]).axes
    assert plots.compression_figure(found["compression"]["regret"]).axes
