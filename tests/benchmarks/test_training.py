"""Training on a slow link: shares of the data, ways to train, and what the page makes of a log."""

import gc
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import needs

from distopt.reproduce.datasets import digits

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield SimpleNamespace(
            **{name: importlib.import_module(name) for name in ("page_training", "trainers", "training")}
        )


@pytest.fixture
def log() -> dict[str, Any]:
    """Two methods, of which ours takes a tenth of the time of a step and twice the steps."""

    def method(name: str, accuracy: list[float]) -> dict[str, Any]:
        steps = [4 * (k + 1) for k in range(len(accuracy))]
        curve = {"steps": steps, "accuracy": accuracy, "ends": [accuracy[-1]]}
        return {"method": name, "settings": {"lr": 0.001}, "tried": {"lr 0.001": 0.5}, "curve": curve}

    methods = [method("DDP, Adam", [0.5, 0.92, 1.0, 0.9]), method("GTAdam, sign", [0.4, 0.5, 0.6, 0.96])]
    cases = [
        {"mbit": mbit, "method": name, "cycle": 1, "seconds": took, "bytes": 100.0, "waiting": 0.0}
        for mbit, name, took in (
            (10, "DDP, Adam", 1.0),
            (10, "GTAdam, sign", 0.1),
            (None, "DDP, Adam", 0.01),
            (None, "GTAdam, sign", 0.02),
        )
    ]
    return {
        "accuracy": {"short": 8, "steps": 16, "kinds": [{"kind": "equal shares", "methods": methods}]},
        "link": {"cases": cases},
        "overlap": {"mbit": 10, "numbers": 5, "computing": 0.5, "without": 0.4, "with": 0.1},
        "overhead": {
            "cases": [{"threads": 1, "gtadam": {"median": 3.0}, "foreach": {"median": 2.0}, "fused": {"median": 1.0}}]
        },
        "memory": {
            "model": 10,
            "bytes": {"x": 10, "state": 40, "messages": 60, "gradient": 10},
            "kept": 130,
            "peak": 200,
        },
    }


def test_shares_of_the_data_are_disjoint_and_all_of_it(bench: SimpleNamespace) -> None:
    data = digits()
    for alpha in (None, 0.1):
        shards = [bench.trainers.Shard(data, alpha, me, 2, 5) for me in (0, 1)]
        found = torch.cat([each.x for each in shards]).reshape(len(data.y), -1)
        assert torch.equal(found.sort(0).values, data.x.reshape(len(data.y), -1).sort(0).values)
        counts = torch.stack([torch.bincount(each.y, minlength=10) for each in shards]).double()
        worst = float((counts.max(0).values / counts.sum(0)).mean())
        assert worst < 0.65 if alpha is None else worst > 0.8
        x, y = shards[0].batch(7)
        assert x.shape == (7, 1, 8, 8) and len(y) == 7


@pytest.mark.slow
@needs.forks
def test_every_method_trains(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.training, "pictures", digits)
    jobs = [
        {"method": name, "settings": settings[1], "alpha": 0.1, "seed": 0, "steps": 24, "tried": False}
        for name, (_, settings) in bench.trainers.METHODS.items()
    ]
    curves = bench.training.forked(bench.training.running, 2, jobs, 16)
    for job, each in zip(jobs, curves, strict=True):
        assert len(each) in (3, 6) and each[-1] > 0.2, (job, each)


@needs.forks
def test_ranks_leave_the_garbage_of_their_parent_alone(bench: SimpleNamespace) -> None:
    """It may be a connection whose end waits for threads that a fork does not have."""
    ended: list[int] = []

    class Left:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            ended.append(os.getpid())

    def life(port: int, me: int, report: Any) -> None:
        gc.collect()
        if me == 0:
            report.send((gc.isenabled(), ended))

    gc.collect()
    gc.disable()
    try:
        Left()
        assert bench.training.forked(life, 2) == (True, [])
    finally:
        gc.enable()
    gc.collect()
    assert ended == [os.getpid()]


def test_all_methods_are_tried_as_often(bench: SimpleNamespace) -> None:
    assert len({len(settings) for _, settings in bench.trainers.METHODS.values()}) == 1


def test_accuracy_and_seconds_a_step_are_put_together(bench: SimpleNamespace, log: dict[str, Any]) -> None:
    page = bench.page_training
    kind = log["accuracy"]["kinds"][0]
    assert page.levels(kind) == [0.9, 0.97]
    assert page.seconds_to(log, kind, 10, 0.9) == {"DDP, Adam": 8.0, "GTAdam, sign": pytest.approx(1.6)}
    assert page.seconds_to(log, kind, 10, 0.97)["GTAdam, sign"] is None
    assert page.after(kind["methods"][1], 11.9) == 0.5 and page.after(kind["methods"][1], 3) is None
    rows = page.time_table(log).splitlines()
    assert rows[2] == "| 10 Mbit/s | equal shares | DDP, Adam | 8.00 | 1.00 | 12.0 | 1.00 | 0.900 |"
    assert rows[3] == "| 10 Mbit/s | equal shares | GTAdam, sign | 1.60 | 5.00 | - | - | 0.960 |"


def test_targets_that_are_missed_and_lost_races_are_told(bench: SimpleNamespace, log: dict[str, Any]) -> None:
    page = bench.page_training
    told = [line.split(" | ")[-1].strip(" |") for line in page.targets_table(log).splitlines()[2:]]
    assert told == ["**missed**", "reached", "**missed**", "**missed**", "reached", "**missed**", "**missed**"]
    assert page.losses(log).splitlines() == [
        "- 10 Mbit/s, equal shares, 90%: none.",
        "- 10 Mbit/s, equal shares, 97%: DDP, Adam.",
        "- no limit, equal shares, 90%: DDP, Adam (4.00 times sooner).",
        "- no limit, equal shares, 97%: DDP, Adam.",
    ]


def test_links_that_could_not_be_made_say_why(bench: SimpleNamespace, log: dict[str, Any]) -> None:
    page, refused = bench.page_training, {"refused": "no namespaces"}
    without = log | {"link": refused, "overlap": refused}
    assert (
        page.link_table(refused)
        == page.time_table(without)
        == page.overlap_line(refused)
        == "Not measured: no namespaces."
    )
    assert page.losses(without) == "" and len(page.targets_table(without).splitlines()) == 5


def test_another_log_of_training_makes_another_section(bench: SimpleNamespace) -> None:
    page: ModuleType = bench.page_training
    found = json.loads((ROOT / "benchmarks" / "results" / "training.json").read_text())
    before = page.parts(found)
    found["overhead"]["cases"][0]["gtadam"]["median"] *= 2
    assert {name for name, each in page.parts(found).items() if each != before[name]} == {
        "training_targets",
        "training_overhead",
    }
