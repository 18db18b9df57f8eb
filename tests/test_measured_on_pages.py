"""The figures in docs/online.md, docs/simulate.md and docs/losses.md are those of the commands beside them."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from test_readme import PAGES, PYTHON, say

import distopt
from distopt.numerics.random import Key
from distopt.scenarios.portfolio import ASSETS, Portfolio

ONLINE, SIMULATE, LOSSES = (PAGES[f"docs/{name}.md"] for name in ("online", "simulate", "losses"))

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line(page: str, *words: str, absent: str = "nowhere") -> str:
    """The one command of a page in which these words are, and ``absent`` is not."""
    commands = [each for each in re.findall(r"^distopt .*$", page, re.M) if absent not in each]
    (found,) = [each for each in commands if all(word in each for word in words)]
    return found


def first_figures(command: str, place: Path) -> dict[str, str]:
    """The first figure of each row of the table that a command prints: the average regret, or the median."""
    rows = (re.split(r"\s{2,}", each.replace(" *", "  ")) for each in say(command, place).splitlines())
    return {row[0]: row[1].split(" ")[0] for row in rows if len(row) > 1}


def cells(title: str, page: str = ONLINE) -> list[list[str]]:
    """The rows of the table of a page whose head begins with ``title``."""
    lines = page[page.index(f"| {title}") :].partition("\n\n")[0].splitlines()[2:]
    return [[each.strip(" *") for each in row.strip("|").split("|")] for row in lines]


def test_prediction_and_correction(place: Path) -> None:
    found = first_figures(line(ONLINE, "prediction_correction"), place)
    labels = {"`gt`": "gt:lr=0.1"}
    for _, option, _, _, regret in cells("method | option"):
        assert found[labels.get(option, f"prediction_correction:lr=0.1,{option.strip('`')}")] == regret


def test_bandit_feedback(place: Path) -> None:
    command = line(ONLINE, "one_point")
    found = first_figures(command, place)
    asked = [word for word in shlex.split(command) if re.match(r"dgd|bandit", word)]
    assert [found[name] for name in asked] == [regret for _, _, regret in cells("what agents see")]


def test_experts(place: Path) -> None:
    commands = [each for each in re.findall(r"^distopt .*$", ONLINE, re.M) if "0.0125" in each]
    for command, (_, experts, descent) in zip(commands, cells("target"), strict=True):
        found = first_figures(command, place)
        assert found["ader"] == experts
        assert [found[f"dgd:lr={lr}"] for lr in ("0.0125", "0.025", "0.05", "0.1", "0.2")] == descent.split(", ")


def test_the_worst_agent_among_experts(place: Path) -> None:
    mean = first_figures(line(ONLINE, "--out runs/experts"), place)
    worst = first_figures(line(ONLINE, "compare runs/experts"), place)
    names = ["ader", "ader:tracking=true,eps=0.1"]
    assert [mean[name] for name in names] == ["0.099", "4.21"]
    assert [float(worst[name]) for name in names] == [18000, 4189]


def test_two_scenarios_with_a_use(place: Path) -> None:
    rows = cells("`dispatch`")
    for scenario, column in (("dispatch", 0), ("sensor_fusion", 2)):
        found = first_figures(line(ONLINE, f"--scenario {scenario}"), place)
        told = {row[column].split("`")[1]: row[column + 1] for row in rows if row[column]}
        assert {name: found[name] for name in told} == told
        assert scenario != "dispatch" or found["best fixed point"] == "0.00727"


def test_frank_wolfe(place: Path) -> None:
    found = first_figures(line(ONLINE, "form=ball"), place)
    (_, several), (_, one) = cells("method | average dynamic regret")
    assert [found[f"online_frank_wolfe:lr={lr}"] for lr in ("0.01", "0.03", "0.1", "0.2")] == several.split(", ")
    assert found["domd:lr=0.1"] == one


def test_portfolios(place: Path) -> None:
    say(line(ONLINE, "--out runs/portfolio"), place)
    found = first_figures(line(ONLINE, "compare runs/portfolio"), place)
    assert {name: found[name.split("`")[1]] for name, _ in cells("method | average static regret")} == dict(
        cells("method | average static regret")
    )
    best = Portfolio(apart=0).best_fixed(389, Key(0, range(1), range(1), 1))[0]
    shares = {name: f"{100 * share:.0f} %" for name, share in zip(ASSETS, best.tolist(), strict=True) if share > 0.005}
    assert shares == {name: share for share, name in re.findall(r"(\d\d %) ([A-Z]{4})", ONLINE)}


def test_the_gap_on_a_simplex() -> None:
    words = shlex.split(line(ONLINE, "form=simplex"))
    run = distopt.simulate(
        "ring", agents=8, scenario=words[words.index("--scenario") + 1], algorithm="gt:lr=0.02", rounds=300
    )
    assert 0 < run["average_regret_gap"].max() < 1e-11
    assert torch.isfinite(torch.from_numpy(run["dynamic_regret_high"])).all()


def test_what_rare_messages_and_few_rows_cost(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("runs/rare", "runs/rows"):
        say(line(SIMULATE, f"--out {folder}"), place)
    exec(f"import distopt\n{PYTHON['docs/simulate.md'][1]}", {})
    found = {name: values for name, *values in (each.split() for each in capsys.readouterr().out.splitlines())}
    told = re.findall(r"^\| `(\w+):.*` \| (\d+) \| (\d+) \|$", SIMULATE, re.M)
    assert len(told) == 7
    for name, messages, gradients in told:
        (label,) = [each for each in found if each.split(":")[0] == name]
        assert [round(float(each)) for each in found[label]] == [int(messages), int(gradients)], name


def agree(told: str, found: str) -> bool:
    """The same figure. What rounding leaves is small in both, and what "grows" is large."""
    if told == "grows":
        return float(found) > 1e30
    return found == told if float(told) > 1e-10 else float(found) < 1e-11


def test_what_churn_costs(place: Path) -> None:
    rows = cells("algorithm | average regret", LOSSES)
    lasting = first_figures(line(LOSSES, "join=0.05", "--rounds 1000", "extra", absent="until"), place)
    say(line(LOSSES, "--out runs/leaving"), place)
    ended = first_figures(line(LOSSES, "compare runs/leaving"), place)
    assert len(rows) == 5
    for name, regret, error in rows:
        assert lasting[name.strip("`")] == regret and agree(error, ended[name.strip("`")]), name


def under(option: str) -> str:
    """Where push_diging ends; infinitely far away where it diverges, which would end a command with exit code 1."""
    name, value = option.removeprefix("--").replace("-", "_").split(" ")
    fault: dict[str, Any] = {name: value if name == "delay" else float(value)}
    run = distopt.simulate(
        "ring", agents=8, scenario="quadratic:kappa=2", algorithm="push_diging:lr=0.05", rounds=1000, **fault
    )
    return "inf" if run.status == "diverged" else f"{run['tracking_error'][0, -1]:.3g}"


def test_which_methods_stay_right(place: Path) -> None:
    head, rows = re.findall(r"^\| algorithm \| (`--drop.*) \|$", LOSSES, re.M)[0], cells("algorithm | `--drop", LOSSES)
    first, compare = line(LOSSES, "--out runs/lossy"), line(LOSSES, "compare runs/lossy")
    assert len(rows) == 7
    for column, option in enumerate(head.split(" | "), 1):
        say(first.replace("--drop-messages 0.3", option.strip("`")).replace("lossy", f"lossy{column}"), place)
        found = first_figures(compare.replace("lossy", f"lossy{column}"), place)
        found["push_diging:lr=0.05"] = under(option.strip("`"))
        for row in rows:
            assert agree(row[column], found[row[0].strip("`")]), (row[0], option)


def test_both_faults_and_none() -> None:
    ask: dict[str, Any] = {"agents": 8, "scenario": "quadratic:kappa=2", "rounds": 1000}
    both = distopt.simulate("ring", algorithm="robust_push_diging:lr=0.05", delay="0..3", drop_messages=0.3, **ask)
    assert both["tracking_error"][0, -1] < 1e-11
    none = distopt.simulate("ring", algorithm="dgd:lr=0.05", **ask)
    assert f"{none['tracking_error'][0, -1]:.3g}" == "0.524" and "ends at 0.524" in LOSSES
