"""GTAdam's experiments: trajectories against plain loops, verdicts against figures made for them, and the page of claims."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
import torch

from distopt import Run, reproduce, simulate
from distopt.cli.main import cli
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.report.claims import Paper, Place, Shown, Verdict, html
from distopt.reproduce import contest, counterexamples, ef_signsgd, static
from distopt.reproduce.contest import Against, judged
from distopt.scenarios.drifting_logistic import DriftingLogistic

Floats = Any

# -------------------------------------------------------------------------------------------------- trajectories by hand

AGENTS, ROUNDS, SEED = 6, 120, 3
EDGES = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (1, 4)]


def metropolis() -> Floats:
    """w_ij = 1 / (1 + max(deg_i, deg_j)) on the links, w_ii = 1 - the rest."""
    degree = [sum(i in edge for edge in EDGES) for i in range(AGENTS)]
    W = np.zeros((AGENTS, AGENTS))
    for i, j in EDGES:
        W[i, j] = W[j, i] = 1 / (1 + max(degree[i], degree[j]))
    return W + np.diag(1 - W.sum(1))


def circling(scenario: DriftingLogistic) -> tuple[Floats, Floats]:
    """Where the points of each agent are in round 0 without their circles [N, m, 2], and their labels [m]."""
    data = scenario.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), Key(SEED, range(AGENTS), range(1), AGENTS))
    return data.X[0, 0, :, :, :2].numpy() - np.array([scenario.radius, 0.0]), data.y.reshape(-1).numpy()


def slopes(x: Floats, t: int, centres: Floats, labels: Floats, ridge: float) -> Floats:
    """The gradients of mean_k log(1 + exp(-y_k (w . z_k + b))) + ridge / 2 |x|^2, with z_k = c_k + (cos(t/100), sin(t/100))."""
    found = np.zeros_like(x)
    for i in range(AGENTS):
        for c, y in zip(centres[i], labels, strict=True):
            z = np.array([c[0] + math.cos(t / 100), c[1] + math.sin(t / 100), 1.0])
            found[i] -= y * z / (1 + math.exp(y * float(x[i] @ z))) / len(labels)
        found[i] += ridge * x[i]
    return found


def by_hand(method: str, lr: float, centres: Floats, labels: Floats, ridge: float) -> Floats:
    """The points of all rounds [T + 1, N, 3] by the recursions as papers write them."""
    W, x = metropolis(), np.zeros((AGENTS, 3))
    g = slopes(x, 0, centres, labels, ridge)
    s, m, v, out = g.copy(), np.zeros_like(x), np.zeros_like(x), [x]
    for t in range(ROUNDS):
        followed = s if method in ("gtadam", "gt", "gt with momentum") else g
        if method in ("gtadam", "dadam"):
            m = 0.9 * m + 0.1 * followed
            v = np.minimum(0.999 * v + 0.001 * followed**2, 1e6)
            step = m / np.sqrt(v + 1e-8)
        elif method == "gt with momentum":
            m = 0.9 * m + followed
            step = m
        else:
            step = followed
        x = W @ x - lr * step
        new = slopes(x, t + 1, centres, labels, ridge)
        s = W @ s + new - g
        g = new
        out.append(x)
    return np.stack(out)


@pytest.mark.parametrize("method", list(contest.METHODS))
def test_trajectories_against_a_plain_loop(method: str) -> None:
    scenario, lr = DriftingLogistic(rows=4, spread=2.0), 0.03
    centres, labels = circling(scenario)
    expected = by_hand(method, lr, centres, labels, scenario.l2)
    spec = contest.METHODS[method]
    run = simulate(
        metropolis(),
        scenario=scenario,
        algorithm=f"{spec}{',' if ':' in spec else ':'}lr={lr}",
        rounds=ROUNDS,
        seed=SEED,
        record="x",
    )
    assert np.abs(expected[-1] - expected[0]).max() > 0.1
    np.testing.assert_allclose(run["x"][0], expected, rtol=1e-9, atol=1e-11)


# ------------------------------------------------------------------------------------------------------------- verdicts


def outcome_of(**figures: list[float]) -> Verdict:
    """The verdict on figures of some trials, of which smaller ones are better."""
    each: dict[str, Any] = {
        "trials": len(figures["gtadam"]),
        "rises": {"cost": False},
        "methods": {name: {"figures": {"cost": values} if values else {}} for name, values in figures.items()},
    }
    return judged(Against(each, "cost"), "a claim", "a set-up")


LOW, HIGH = [1.0 + 0.01 * k for k in range(10)], [2.0 + 0.011 * k for k in range(10)]
MIXED = [value + (0.001 if k % 2 else -0.0011) * (k + 1) for k, value in enumerate(LOW)]


def test_verdicts_follow_from_the_figures() -> None:
    good = outcome_of(gtadam=LOW, gt=HIGH, dgd=HIGH)
    assert good.outcome == "holds" and good.words.startswith(
        "holds: gtadam (1.04) is better than gt (2.05) by 1 [1, 1.01], dgd (2.05) by 1 "
    )
    part = outcome_of(gtadam=HIGH, gt=LOW, dgd=[3 * value for value in HIGH])
    assert part.outcome == "holds in part"
    assert part.why.startswith("gtadam (2.05) is better than dgd (6.15) by 4.1 [")
    assert "; gt (1.04) is better than it by 1 [" in part.why
    bad = outcome_of(gtadam=HIGH, gt=LOW, dgd=LOW)
    assert bad.outcome == "does not hold" and bad.why.startswith("gt (1.04) is better than gtadam (2.05) by 1 [")
    mostly = outcome_of(gtadam=HIGH, gt=LOW, dgd=LOW, dadam=[3 * value for value in HIGH])
    assert mostly.outcome == "does not hold" and mostly.why.startswith("gtadam (2.05) is better than dadam (6.15) by")
    same = outcome_of(gtadam=LOW, gt=MIXED)
    assert same.outcome == "does not hold" and same.why.startswith(
        "no difference of gtadam (1.04) was found from gt (1.04), p = "
    )
    assert outcome_of(gtadam=LOW[:5], gt=HIGH[:5]).outcome == "open"
    assert outcome_of(gtadam=LOW[:6], gt=HIGH[:6], dgd=HIGH[:6]).outcome == "open"  # two comparisons need 7 trials
    assert outcome_of(gtadam=LOW[:7], gt=HIGH[:7], dgd=HIGH[:7]).outcome == "holds"


def test_the_difference_is_named_with_its_interval_and_the_medians() -> None:
    """All differences are 1: the Hodges-Lehmann estimate and its interval are, too. The smallest p of 10 pairs is 2^-9."""
    words = outcome_of(gtadam=LOW, gt=[value + 1 for value in LOW]).why
    assert words == (
        "gtadam (1.04) is better than gt (2.04) by 1 [1, 1] "
        "(medians; difference with its 90 % interval; largest p 0.002, Wilcoxon with Holm)"
    )


def test_a_method_that_diverges_has_lost() -> None:
    lost = outcome_of(gtadam=LOW, gt=[math.inf] * 10)
    assert lost.outcome == "holds" and "better than gt (it diverges)" in lost.why
    ours = outcome_of(gtadam=[math.inf] * 10, gt=LOW)
    assert ours.outcome == "does not hold" and "gt (1.04) is better than gtadam (gtadam diverges)" in ours.why
    never = outcome_of(gtadam=LOW, gt=[])  # it has no winner, so no figures
    assert never.outcome == "holds" and "(it diverges)" in never.why


def test_larger_accuracies_are_better() -> None:
    each: dict[str, Any] = {
        "trials": 10,
        "rises": {"accuracy": True},
        "methods": {"gtadam": {"figures": {"accuracy": HIGH}}, "gt": {"figures": {"accuracy": LOW}}},
    }
    assert judged(Against(each, "accuracy"), "", "").outcome == "holds"


def results(*each: list[Any]) -> list[dict[str, Any]]:
    """Results of a step size of each method: two trials of these errors, recorded in every fifth round."""
    found = []
    for name, error in zip(static.METHODS, each, strict=True):
        trial = static._trial(np.asarray(error) / error[0], 5 * np.arange(len(error)))
        found.append({"method": name, "spec": "x:lr=0.1", "trials": [trial] * 2})
    return found


FALLS = np.maximum(3 * 0.95 ** (5 * np.arange(400)), 1e-14)
FASTER = np.maximum(np.exp(-((np.arange(400) / 40) ** 2)), 1e-14)
BURSTS = np.where(np.arange(400) > 300, 1e-3, FALLS)
SLOWER = 1 / (1 + np.arange(400.0)) ** 4  # below 1e-9 in the end, but not at a linear rate
NEVER = np.maximum(0.9 ** np.arange(400), 1e-4)


def test_linear_convergence_is_asked_to_last() -> None:
    (verdict,) = static.verdicts(results(FALLS, NEVER, FALLS))
    assert (
        verdict.outcome == "holds"
        and "by the factor 0.9500 a round" in verdict.why
        and "in 2 of 2 trials" in verdict.why
    )
    (verdict,) = static.verdicts(results(FASTER, NEVER, FALLS))
    assert verdict.outcome == "holds"
    (verdict,) = static.verdicts(results(BURSTS, FALLS, FALLS))
    assert verdict.outcome == "holds in part" and verdict.why.startswith("with eps = 0.0001 it does: at lr = 0.1")
    assert "in 2 of 2 trials and stays there in 0; its largest value in the last fifth is 3.3e-04" in verdict.why
    (verdict,) = static.verdicts(results(BURSTS, NEVER, FALLS))
    assert verdict.outcome == "holds in part" and "it does:" not in verdict.why
    for slow in (SLOWER, NEVER):
        (verdict,) = static.verdicts(results(slow, slow, FALLS))
        assert verdict.outcome == "does not hold"


def test_rates_are_those_of_the_curves() -> None:
    straight, curved, slow = (static._trial(each / each[0], 5 * np.arange(400)) for each in (FALLS, FASTER, SLOWER))
    assert straight["rate"] == pytest.approx(0.95) and straight["straight"]
    assert curved["rate"] is not None and not curved["straight"] and slow["rate"] is None
    assert straight["least"] == pytest.approx(1e-14 / 3) and slow["end"] == pytest.approx(1 / 321**4)


def test_verdicts_on_error_feedback_read_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"data": "digits", "lr": 0.1, "accuracy %": 97.0}
    table = [
        {**row, "batch": batch, "method": method, "to SGDM": gap}
        for batch in (128, 8)
        for method, gap in (("SGDM", ""), ("signSGD", -batch / 4), ("Signum", 0.5), ("EF-signSGD", -0.4 - 8 / batch))
    ]
    monkeypatch.setattr(ef_signsgd.images, "rows", lambda results: table)
    close, scaled, signum = ef_signsgd.images_say([])
    assert (close.outcome, scaled.outcome, signum.outcome) == ("holds in part", "does not hold", "does not hold")
    assert close.why == "it is -1.4 to -0.5 points from SGDM" and scaled.why.startswith("there they are -2.0 points")
    dense = [{"data": "digits", "steps above %": 97.0, "holds": "NO", "phi least": 0.05}]
    monkeypatch.setattr(ef_signsgd.density, "rows", lambda results: dense)
    (verdict,) = ef_signsgd.density_say([])
    assert verdict.words == "holds in part: in 97.0 to 97.0 % of the steps; its least value is 0.050"
    monkeypatch.setattr(ef_signsgd.density, "rows", lambda results: [{**dense[0], "holds": "yes"}])
    assert ef_signsgd.density_say([])[0].outcome == "holds"


@pytest.mark.parametrize("trials", [19, 20])
def test_a_band_of_few_trials_is_from_the_smallest_to_the_largest(trials: int) -> None:
    values = np.random.default_rng(0).normal(size=(trials, 3)) ** 2
    curve = contest._curve(Run("gt", "done", np.arange(3), {"relative_cost_error": values}), "relative_cost_error")
    expected = (values.min(0), values.max(0)) if trials < 20 else np.quantile(values, (0.05, 0.95), axis=0)
    np.testing.assert_allclose((curve["low"], curve["high"]), expected)
    assert curve["rounds"] == [1, 2, 3] and curve["median"] == pytest.approx(np.median(values, axis=0))


def test_the_relative_cost_error_is_that_of_the_second_half() -> None:
    values = np.array([[9.0, 9.0, 1.0, 3.0], [9.0, 9.0, 2.0, np.nan]])
    run = Run("gt", "done", np.arange(4), {"relative_cost_error": values, "dynamic_regret": np.ones((2, 4))})
    assert contest._figures(run)["relative_cost_error"] == [2.0, math.inf]


# --------------------------------------------------------------------------------------------------------- page of claims


class Links(HTMLParser):
    """What a page loads or points to, and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.places: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.places += [value or "" for key, value in attrs if key in ("href", "src")]
        self.ids += [value or "" for key, value in attrs if key == "id"]


HOSTILE = "<script>alert(1)</script>\"'&</style>"


def test_the_page_escapes_what_it_is_told_and_needs_no_script() -> None:
    verdict = Verdict(HOSTILE, HOSTILE, "holds", HOSTILE)
    shown = Shown("part", HOSTILE, [verdict], [Place("table", 'a".csv')], 'a".png', HOSTILE)
    missing = Shown("other", "not yet", [], [], "", "distopt reproduce x --only other")
    text = html([Paper("paper", HOSTILE, HOSTILE, [shown, missing])])
    found = Links(text)
    assert "script" not in found.tags and found.tags.count("style") == 1
    assert text.count("&lt;script&gt;alert(1)") == 8
    assert "not run yet: 1" in text and "distopt reproduce x --only other" in text
    assert not [place for place in found.places if "//" in place]
    assert all(place[1:] in found.ids for place in found.places if place.startswith("#"))


# ------------------------------------------------------------------------------------------------------------ command line


def call(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, ["reproduce", *words])


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short experiments of few agents."""
    few: dict[str, Any] = {"agents": 4, "topology": "ring", "trials": 1, "report_trials": 2, "grid": "0.01,0.05"}
    for name, setup in contest.SETUPS.items():
        rounds = {"rounds": 8, "every": 4} if name == "digits" else {"rounds": 30}
        monkeypatch.setitem(contest.SETUPS, name, replace(setup, **few, **rounds))
    for name, value in (("AGENTS", 4), ("ROUNDS", 200), ("TRIALS", 2), ("TOPOLOGY", "ring")):
        monkeypatch.setattr(static, name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_all_parts_write_what_the_page_links(tmp_path: Path) -> None:
    done = call("gtadam", "--out", str(tmp_path), "--traceback")
    assert done.exit_code == 0, done.output
    counts = {"classification": 20, "static": 8, "localization": 20, "images": 10}
    for name, count in counts.items():
        assert len(list(csv.DictReader((tmp_path / f"{name}.csv").open()))) == count
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert (tmp_path / f"{name}.html").exists() == (name != "static")
    page = Links((tmp_path / "index.html").read_text())
    files = [place for place in page.places if not place.startswith("#")]
    assert {f"{name}.{end}" for name in counts for end in ("csv", "png")} <= set(files)
    assert all((tmp_path / place).is_file() for place in files)
    kept = json.loads((tmp_path / "claims.json").read_text())
    assert {name: len(each) for name, each in kept.items()} == {
        "classification": 4,
        "static": 1,
        "localization": 4,
        "images": 2,
    }
    assert done.output.count("\nverdict:  ") == done.output.count("\nclaim:    ") == 11
    assert re.search(r"different: gtadam: 2 points, round 30 of 30; \d+ s, about \d+ s left", done.output)
    again = call("gtadam", "--out", str(tmp_path), "--only", "classification")
    assert again.exit_code == 0 and " s left" not in again.output  # nothing was computed


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_an_interrupted_contest_goes_on_and_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = call("gtadam", "--only", "localization", "--out", str(tmp_path / "whole"))
    assert whole.exit_code == 0, whole.output
    tried, found = contest.tuning.Tuning._tried, []

    def cut(question: Any, family: Any, *others: Any) -> Any:
        found.append(family.given)
        if len(found) == 3:
            raise KeyboardInterrupt
        return tried(question, family, *others)

    monkeypatch.setattr(contest.tuning.Tuning, "_tried", cut)
    stopped = call("gtadam", "--only", "localization", "--out", str(tmp_path / "cut"))
    assert stopped.exit_code == 130 and "re-run the command to resume" in stopped.output
    monkeypatch.setattr(contest.tuning.Tuning, "_tried", tried)
    assert not (tmp_path / "cut" / "localization.csv").exists()
    resumed = call("gtadam", "--only", "localization", "--out", str(tmp_path / "cut"))
    assert resumed.exit_code == 0 and "still: gtadam: 2 points" not in resumed.output
    assert "still: dgd: 2 points" in resumed.output
    for name in ("localization.csv", "claims.json"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_all_papers_end_in_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two papers here, cut down to a part each."""
    kept = {"ef-signsgd": "counterexamples", "gtadam": "static"}
    monkeypatch.setattr(reproduce, "PAPERS", {name: reproduce.PAPERS[name] for name in kept})
    for name, value in (("ROUNDS", 100), ("RUNS", 2), ("HALVINGS", 1), ("LAST", 20)):
        monkeypatch.setattr(counterexamples, name, value)
    whole = reproduce.parts
    monkeypatch.setattr(reproduce, "parts", lambda paper: {kept[paper]: whole(paper)[kept[paper]]})
    done = call("all", "--out", str(tmp_path), "--traceback")
    assert done.exit_code == 0, done.output
    page = Links((tmp_path / "index.html").read_text())
    assert "gtadam/static.png" in page.places and "ef-signsgd/counterexamples.csv" in page.places
    assert all((tmp_path / place).is_file() for place in page.places if not place.startswith("#"))
    assert str(tmp_path / "index.html") in done.output


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("gtadem",),
            f"there are no experiments of 'gtadem'; papers: {', '.join(reproduce.PAPERS)}; or all",
        ),
        (("gtadam", "--only", "density"), "its parts: classification, static, localization, images"),
        (("all", "--only", "images"), "--only images: is for one paper: ef-signsgd, gtadam"),
    ],
)
def test_a_mistake_is_told_in_one_line(words: tuple[str, ...], line: str) -> None:
    done = call(*words)
    assert done.exit_code == 2 and line in done.output and len(done.output.splitlines()) == 1


def test_claims_that_are_none_get_one_line(tmp_path: Path) -> None:
    (tmp_path / "claims.json").write_text('{"static": [["a", "b", "sure", "c"]]}')
    with pytest.raises(InputError, match=r"claims.json: not what distopt reproduce wrote .* remove it"):
        reproduce._claims(tmp_path)
