"""Checkpoints with a right check sum that no run wrote: every entry of the header is checked, and so is every leaf."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.surviving import BASE, MAYBE, TOTALS, saved

from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.runs import checkpoint, execution
from distopt.runs.checkpoint import LENGTH, MAGIC
from distopt.simulation.problem import build

NOT: list[Any] = [None, True, -1, 0, 2**70, 1.5, float("nan"), float("inf"), "", "x", [], ["x"], [1], {}, {"x": 1}]


def taken(whole: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the leaves."""
    begin = len(MAGIC) + LENGTH.size
    stop = begin + LENGTH.unpack_from(whole, len(MAGIC))[0]
    header: dict[str, Any] = json.loads(whole[begin:stop])
    return header, whole[stop:-32]


def crafted(header: Any, leaves: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    whole = MAGIC + LENGTH.pack(len(text)) + text + leaves
    return whole + hashlib.sha256(whole).digest()


def refused(path: Path, content: bytes, problem: Any, message: str = "checkpoint") -> None:
    path.write_bytes(content)
    for force in (False, True):
        with pytest.raises(InputError, match=message) as told:
            checkpoint.load(path.parent, problem, "a", force)
        assert "\n" not in str(told.value) and len(str(told.value)) < 500


def test_every_entry_of_the_header_is_checked(tmp_path: Path) -> None:
    problem, _, _ = saved(tmp_path, x0=0.3)
    path = tmp_path / "checkpoint"
    header, leaves = taken(path.read_bytes())
    assert crafted(header, leaves) == path.read_bytes()
    for key in header:
        if key != "diverged":  # which earlier versions do not write
            refused(path, crafted({name: value for name, value in header.items() if name != key}, leaves), problem)
        for value in NOT:
            about = key in ("run", "device", "fingerprint", "versions", "compiled") and type(value) is type(header[key])
            seconds = key == "seconds" and type(value) in (int, float) and 0 <= value < float("inf")
            same = key == "memory" and value in ([], ["x"])  # the channel "exact" remembers nothing
            none = key == "diverged" and value == []
            if not (about or seconds or same or none):
                refused(path, crafted({**header, key: value}, leaves), problem)
    refused(path, crafted({**header, "more": 1}, leaves), problem, "other entries")
    for whole in (b"[]", b"null", b"{}", b"{", b"[" * 10**5, b"\xff", b"1e999", b'"a"'):
        refused(path, crafted(whole, leaves), problem)
    for t in (120, 121, 2**62):
        refused(path, crafted({**header, "t": t}, leaves), problem, "does not fit")
    for lost in ([0], [[0]], [[0, -1]], [[0, 1.0]], [[9, 3]], [[0, 8]], {"0": 3}):  # two trials, before round 7
        refused(
            path, crafted({**header, "diverged": lost}, leaves), problem, "no trials with their rounds|does not fit"
        )
    for versions in ({"torch": 1}, {"torch": None}, {"torch": ["x"]}):
        refused(path, crafted({**header, "versions": versions}, leaves), problem, "versions are no texts")


def forms(entry: Any) -> Iterator[Any]:
    """What a leaf's entry cannot be, in a header in which it was ``entry``."""
    shape, dtype = entry
    for other in ("float16", "float32", "int64", "complex64", "bool", "uint8"):
        if other != dtype:
            yield [shape, other]
    for name in ("load", "nn", "Tensor", "__name__", "float8_e4m3fn", "qint8", "strided", "", "torch.float64", "ops"):
        yield [shape, name]
    halves = [float(length) for length in shape]
    for wrong in (
        [],
        [2**40],
        [2**40] * 3,
        [-1, -6, 2],
        [*shape, 1],
        [*shape[:-1], 0],
        shape[::-1],
        halves,
        [True, *shape[1:]],
        "2",
        None,
    ):
        if wrong != shape:
            yield [wrong, dtype]
    yield from (
        [shape],
        [shape, dtype, 1],
        {"value": 1.0},
        {"value": None},
        {"value": [1]},
        {"value": {}},
        {},
        {"values": 1},
        None,
        3,
        "x",
        [[], []],
    )


def test_every_leaf_has_the_shape_and_precision_that_the_problem_begins_with(tmp_path: Path) -> None:
    problem, _, _ = saved(tmp_path, x0=0.3)
    path, count = tmp_path / "checkpoint", 0
    header, leaves = taken(path.read_bytes())
    for k, entry in enumerate(header["leaves"]):
        for other in forms(entry):
            twin = copy.deepcopy(header)
            twin["leaves"][k] = other
            size = 0
            if checkpoint._form(other) and isinstance(other, list) and checkpoint._bytes(other) < 2**20:
                size = checkpoint._bytes(other) - checkpoint._bytes(entry)
            refused(path, crafted(twin, (leaves + bytes(max(size, 0)))[: len(leaves) + size]), problem)
            count += 1
    assert count > 200
    for twin_leaves, data in (
        (header["leaves"][:-1], leaves[:-96]),
        (header["leaves"] * 2, leaves * 2),
        ([], b""),
        (header["leaves"], leaves[:-8]),
    ):
        refused(path, crafted({**header, "leaves": twin_leaves}, data), problem)


@pytest.mark.parametrize("name", sorted(TOTALS))
def test_no_cumulative_metric_may_be_missing(tmp_path: Path, name: str) -> None:
    problem, _, _ = saved(tmp_path, x0=0.3)
    path = tmp_path / "checkpoint"
    header, leaves = taken(path.read_bytes())
    renamed = {**header, "totals": [f"{each}s" if each == name else each for each in header["totals"]]}
    refused(path, crafted(renamed, leaves), problem, "does not fit")
    place = header["totals"].index(name) - len(header["totals"])
    left = {**header, "totals": [each for each in header["totals"] if each != name], "leaves": [*header["leaves"]]}
    del left["leaves"][place]
    refused(path, crafted(left, leaves[:-16]), problem, "does not fit")


def test_a_run_saves_the_cumulative_metrics_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *each: seen.append(set(each[2].totals)) or save(*each))
    for k, scenario in enumerate(("moving_target:dim=2", "sea", "localization")):
        experiment = Experiment(
            **{
                **BASE,
                "scenario": scenario,
                "rounds": 8,
                "algorithm": "gt:lr=0.01",
                "record": (),
                "clock": "compute=1" if k else "",
            }
        )
        execution.execute(experiment, folder=tmp_path / str(k), checkpoint_every=4, agentwise=k < 2)
    assert len(seen) == 3 and all(TOTALS <= each <= TOTALS | MAYBE for each in seen)
    assert set.union(*seen) == TOTALS | MAYBE


CASES = [
    *[
        {"algorithm": each}
        for each in (
            "dgd",
            "gtadam",
            "nids",
            "extra",
            "exact_diffusion",
            "dadam",
            "gt:direction=amsgrad",
            "gt:form=atc",
        )
    ],
    *[
        {"algorithm": each}
        for each in ("choco_sgd", "deepsqueeze", "beer", "c_gt", "lead", "cedas", "powergossip:rank=1")
    ],
    *[{"algorithm": each, "topology": "complete"} for each in ("ef_sgd", "ef_signsgd", "ef21", "signsgd", "signum")],
    *[
        {"algorithm": "gt:lr=0.01", "channel": each}
        for each in ("naive:compressor=sign", "error_feedback:compressor=lowrank", "powergossip:rank=1")
    ],
    *[
        {"algorithm": "gt:lr=0.01", "channel": f"choco:compressor={each},gamma=0.1"}
        for each in ("lowrank", "randomk(k=1)", "qsgd", "sign")
    ],
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.values()))
def test_every_checkpoint_that_a_run_wrote_fits(tmp_path: Path, case: dict[str, Any]) -> None:
    experiment = Experiment(**{**BASE, "rounds": 9, "trials": 2, "record": (), **case})
    written: list[bytes] = []

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and (tmp_path / "r" / "checkpoint").exists():
            written.append((tmp_path / "r" / "checkpoint").read_bytes())

    execution.execute(experiment, folder=tmp_path / "r", checkpoint_every=4, progress=stop)
    problem = build(experiment)
    header, leaves = taken(written[0])
    (tmp_path / "checkpoint").write_bytes(written[0])
    found = checkpoint.load(tmp_path, problem, header["run"])
    assert found is not None and found.carry.t == 4
    assert len(leaves) == sum(checkpoint._bytes(each) for each in header["leaves"] if isinstance(each, list))
    assert len(written[0]) - LENGTH.unpack_from(written[0], len(MAGIC))[0] <= checkpoint._most(problem)


class Late:
    """Begins with numbers and one row for all, goes on with tensors; one of its values is wider than x."""

    channels = ("x", "wide")

    def init(self, x: Any) -> Any:
        return {"steps": 0, "last": None, "sum": 0.0, "row": torch.zeros(1, 1, 1, dtype=x.dtype)}

    def update(self, g: Any, state: Any, x: Any, mix: Any) -> Any:
        wide = mix("wide", torch.cat([x, g], -1))[..., : x.shape[-1]]
        x = mix("x", wide) - 0.01 * g
        return x, {"steps": state["steps"] + 1, "last": g, "sum": state["sum"] + g.sum(), "row": state["row"] + g}


def test_a_state_that_takes_its_shape_in_the_first_round_goes_on(tmp_path: Path) -> None:
    experiment = Experiment(
        **{**BASE, "algorithm": Late(), "channel": "naive:compressor=lowrank", "record": ("x",), "rounds": 9}
    )
    problem = build(experiment)
    whole = execution.execute(experiment)
    written: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda *each: written.append(each))
        patch.setattr(Experiment, "to_toml", lambda self, folder: "")
        execution.execute(experiment, folder=tmp_path / "r", checkpoint_every=4)
    checkpoint.save(tmp_path, problem, *written[0][2:])
    found = checkpoint.load(tmp_path, problem, written[0][3].run)
    assert found is not None and found.carry.held.state["steps"] == 4
    assert torch.equal(found.carry.x, torch.from_numpy(whole["x"][:, 4]))


MAKE: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("what", MAKE)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, what: str) -> None:
    MAKE[what](tmp_path / "checkpoint")
    with pytest.raises(InputError, match="where a file is expected|No such file|Too many levels"):
        checkpoint.load(tmp_path, build(Experiment(**BASE)), "a")


def test_a_file_larger_than_any_checkpoint_is_refused_by_its_size(tmp_path: Path) -> None:
    problem, _, _ = saved(tmp_path)
    path = tmp_path / "checkpoint"
    header, _ = taken(path.read_bytes())
    text = json.dumps(header).encode()
    for length in (len(text), 2**40 - 2**20, 2**63, 2**64 - 1):
        with path.open("wb") as file:
            file.write(MAGIC + LENGTH.pack(length) + text)
            file.truncate(2**40)  # a hole: it takes no room
        with pytest.raises(InputError, match=r"does not fit .*1,099,511,627,776 bytes|damaged or cut short"):
            checkpoint.load(tmp_path, problem, "a", force=True)
