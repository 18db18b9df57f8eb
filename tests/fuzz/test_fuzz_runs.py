"""Run folders by the thousand: manifests, chunks, experiments and checkpoints that are damaged, exchanged or made up.

What is loaded, or gone on with, has the numbers of the run that was written; all else is refused.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fuzzing import Kinds, Outcome, asked, hunt, retry, typed
from helpers.mutation import NUMBERS, damage, mutate

import distopt
from distopt.experiment import Experiment
from distopt.runs import checkpoint
from distopt.runs.execution import execute
from distopt.runs.loading import load
from distopt.runs.results import Run

PARTS: dict[str, Any] = {
    "topology": "ring",
    "agents": 4,
    "scenario": "quadratic:dim=2",
    "algorithm": "gtadam:lr=0.02",
    "rounds": 12,
    "record": ("x", "s"),
    "channel": "choco:compressor=qsgd",
}
JUNK: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    1.5,
    float("nan"),
    float("inf"),
    10**30,
    -(10**30),
    2**63,
    "",
    "x",
    "1",
    "../x",
    "/etc/passwd",
    "..",
    ".",
    "a\0b",
    "\x1b[31m",
    "é",
    [],
    [[]],
    {},
    {"a": 1},
    [None],
    [1],
    ["x"],
    "x" * 5000,
    ["x"] * 300,
)


@lru_cache
def made(name: str) -> dict[str, bytes]:
    """The files of a run: finished, interrupted, of another seed, or of two algorithms. The clock stands, so that they are the same each time."""
    ticks = itertools.count(10**18)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: next(ticks))
        patch.setattr(time, "perf_counter", lambda: 1.0)
        return _made(name)


def _made(name: str) -> dict[str, bytes]:
    folder = Path(f"made-{name}").resolve()
    if name == "two":
        for part, algorithm in (("gt", "gt:lr=0.02"), ("dgd", "dgd:lr=0.02")):
            distopt.simulate(
                "ring", agents=4, scenario="quadratic:dim=2", algorithm=algorithm, rounds=12, mode="eager"
            ).save(folder / part)
        manifest = {
            "format": json.loads((folder / "gt" / "manifest.json").read_text())["format"],
            "label": "gt:lr=0.02, dgd:lr=0.02",
            "runs": ["gt", "dgd"],
            "fingerprint": "f",
            "asked": {},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
    else:
        experiment = Experiment(**{**PARTS, "seed": 3 if name == "other" else 0})

        def stop(phase: str, done: int, total: int) -> None:
            if name == "interrupted" and phase == "rounds" and done >= 4:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            execute(experiment, folder=folder, progress=stop, checkpoint_every=4, mode="eager")
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
    shutil.rmtree(folder)
    return files


def lay(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@lru_cache
def truth(name: str) -> dict[str, Any]:
    """The numbers of a run: {label: {array: values}}."""
    loaded = load(lay(made(name), Path(f"truth-{name}")))
    return {run.label: numbers(run) for run in ([loaded] if isinstance(loaded, Run) else loaded.values())}


def numbers(run: Run) -> dict[str, Any]:
    return {"rounds": run.rounds, **run.metrics, **run.trajectories}


def equal(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return list(mine) == list(theirs) and all(
        np.asarray(mine[name]).dtype == theirs[name].dtype
        and np.array_equal(mine[name], theirs[name], equal_nan=theirs[name].dtype.kind == "f")
        for name in theirs
    )


def compare(found: Run | dict[str, Run], name: str) -> list[str]:
    """What is wrong with runs that were accepted."""
    runs = [found] if isinstance(found, Run) else list(found.values())
    known = list(truth(name).values())
    if len(runs) > len(known) or (len(runs) < len(known)):
        return [f"holds {len(runs)} runs, not {len(known)}"]
    faults = [
        f"loads other numbers ({[key for key in theirs if key not in numbers(run) or not equal({key: numbers(run)[key]}, {key: theirs[key]})][:3]})"
        for run, theirs in zip(runs, known, strict=True)
        if not equal(numbers(run), theirs)
    ]
    for run in runs:
        used = asked(lambda run=run: (repr(run), list(run), run.to_pandas(), run.get("nothing"), run.trials))
        faults += [f"is loaded and of no use: {fault}" for fault in used.faults] + (
            [f"is loaded and of no use: {used.line}"] if used.line else []
        )
        if run.status not in ("done", "interrupted", "diverged"):
            faults.append(f"has status {run.status!r}")
    return faults


# ----------------------------------------------------------------------------------------------------------------- what is done to it


def tree(rng: random.Random, value: Any) -> Any:
    """The JSON value with one node in it replaced, dropped, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        way = rng.random()
        if way < 0.12:
            return {k: v for k, v in value.items() if k != key}
        if way < 0.2:
            return {
                rng.choice(("x", "", "runs", "chunks", "label", "format")) if k == key else k: v
                for k, v in value.items()
            }
        return {**value, key: tree(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        k, way = rng.randrange(len(value)), rng.random()
        if way < 0.15:
            return value[:k] + value[k + 1 :]
        if way < 0.3:
            return [*value, value[k]]
        if way < 0.4:
            return rng.sample(value, len(value))
        return [*value[:k], tree(rng, value[k]), *value[k + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.3:
        return value + rng.choice((-1, 1, 2, 1000))
    return rng.choice(JUNK)


def text(rng: random.Random, data: bytes) -> bytes:
    """A JSON or TOML text, changed as text."""
    way = rng.random()
    if way < 0.3:
        return damage(rng, data)
    if way < 0.4:
        return rng.choice(
            (
                b"",
                b"{}",
                b"[]",
                b"null",
                b"1",
                b'"x"',
                b"\xff\xfe",
                b"{" * 100_000,
                b"[" * 100_000,
                b'{"a":' * 50_000,
                b"9" * 10_000,
                data.decode().encode("utf-16"),
                b"\xef\xbb\xbf" + data,
                data + data,
            )
        )
    return mutate(
        rng, data.decode(), (*NUMBERS, *'{}[],:"', "NaN", "null", "1e999", "\\u0000", "\\ud800", '"format":1,')
    ).encode("utf-8", "surrogatepass")


def arrays(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """An archive of arrays: damaged, another run's, or packed anew with something else in it."""
    way = rng.random()
    if way < 0.4:
        return damage(rng, data)
    if way < 0.5:
        return other
    with np.load(io.BytesIO(data)) as archive:
        held: dict[str, Any] = {name: archive[name] for name in archive.files}
    key = rng.choice(list(held))
    value = held[key]
    changes: list[Callable[[], Any]] = [
        lambda: value[..., :-1],
        lambda: value[:1],
        lambda: value.astype(np.float32),
        lambda: value.astype(np.int8),
        lambda: value.astype(str),
        lambda: value.astype(object),
        lambda: value[None],
        lambda: value.ravel()[0],
        lambda: value * np.nan if value.dtype.kind == "f" else value + 1,
        lambda: np.concatenate([value, value], -1),
        lambda: np.zeros(0),
        lambda: value.astype(complex),
        lambda: np.zeros(value.shape, dtype=[("a", "f8")]),
        lambda: value[..., ::-1],
        lambda: value.astype(">f8"),
        lambda: np.asfortranarray(value),
    ]
    if rng.random() < 0.6:
        held[key] = rng.choice(changes)()
    elif rng.random() < 0.5:
        del held[key]
    else:
        held[rng.choice(("m.x", "t.x", "m.", "rounds2", "x", "m.dynamic_regret/../y", "t.é"))] = held.pop(key)
    out = io.BytesIO()
    np.savez(out, **{name.replace("/", "_"): each for name, each in held.items()})
    raw = out.getvalue()
    if rng.random() < 0.15:  # claims of sizes that are not there
        raw = raw.replace(b"'shape': (", b"'shape': (9", 1)
    if rng.random() < 0.1:
        with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(
                rng.choice(("m.big.npy", "rounds.npy", "../x.npy", "notes")), b"\x93NUMPY" + b"\0" * 3_000_000
            )
        raw = out.getvalue()
    return raw


def carry(rng: random.Random, data: bytes) -> bytes:
    """A checkpoint: bytes flipped, or a header of its own under a check sum that is right."""
    if rng.random() < 0.25:
        return damage(rng, data)
    start = len(checkpoint.MAGIC)
    (size,) = struct.unpack("<Q", data[start : start + 8])
    header, rest = json.loads(data[start + 8 : start + 8 + size]), data[start + 8 + size : -32]
    way = rng.random()
    if way < 0.35 and header.get("leaves"):
        k = rng.randrange(len(header["leaves"]))
        names = (
            "float32",
            "float16",
            "int64",
            "int8",
            "bool",
            "complex64",
            "Tensor",
            "load",
            "nn",
            "__name__",
            "float8_e5m2",
            "quint8",
            "strided",
            "",
            "float64.x",
            1,
            None,
            ["float64"],
        )
        sizes = (
            [],
            [0],
            [-1],
            [1, 4, 2],
            [8],
            [1, 4, 3],
            [10**12],
            [2**63],
            [1.0, 4, 2],
            [True, 4, 2],
            ["1"],
            None,
            [[1]],
            [1] * 70,
        )
        new = rng.choice(
            (
                [rng.choice(sizes), "float64"],
                [header["leaves"][k][0] if isinstance(header["leaves"][k], list) else [], rng.choice(names)],
                {"value": rng.choice(JUNK)},
                {"value": 1.0},
                {},
                [],
                None,
                [[1, 4, 2]],
            )
        )
        header["leaves"][k] = new
    elif way < 0.5:
        header["t"] = rng.choice((0, -1, 1.5, 4.0, True, "4", None, 12, 13, 10**30, float("nan"), [4]))
    else:
        before = header["t"]
        header = tree(rng, header)
        if isinstance(header, dict) and header.get("t") != before:
            header["t"] = "t"  # another round in its place is as true as this one
    if rng.random() < 0.1:
        rest = rng.choice((rest + b"\0" * 8, rest[:-8], b"", rest + rest))
    raw = json.dumps(header).encode()
    if rng.random() < 0.05:
        raw = rng.choice((b"[" * 100_000, b"{}", b"\xff", b"nan", raw[:-1], b"9" * 10_000))
    length = len(raw) if rng.random() < 0.9 else rng.choice((0, 2**63, 2**64 - 1, len(raw) + 1, len(raw) - 1, 10**9))
    body = checkpoint.MAGIC + struct.pack("<Q", length) + raw + rest
    return body + sha256(body).digest()


def spoilt(rng: random.Random, name: str, part: str) -> dict[str, bytes]:
    """The files of a run of which one is not as it was."""
    files = dict(made(name))
    places = [path for path in files if path.rpartition("/")[2].startswith(part)]
    place = rng.choice(places)
    if part == "manifest":
        files[place] = (
            json.dumps(tree(rng, json.loads(files[place]))).encode() if rng.random() < 0.7 else text(rng, files[place])
        )
    elif part == "experiment":
        files[place] = text(rng, files[place]) if rng.random() < 0.9 else made("other")[place]
    elif part == "checkpoint":
        files[place] = carry(rng, files[place])
    else:
        others = made("other") if name != "two" else made("two")
        files[place] = arrays(
            rng,
            files[place],
            rng.choice([data for path, data in others.items() if path.rpartition("/")[2].startswith(part)]),
        )
    if rng.random() < 0.03:
        del files[place]
    return files


def loaded(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    """Load a run of which a file is spoilt."""
    name = rng.choice(("done", "done", "interrupted", "two"))
    part = rng.choice(("manifest", "manifest", "chunk", "chunk", "last") if name == "done" else ("manifest", "chunk"))
    if name == "done" and not any(path.startswith("last") for path in made("done")):
        part = "chunk" if part == "last" else part
    files = spoilt(rng, name, part)
    folder = lay(files, Path(f"{rng.getrandbits(48):x}"))
    outcome = asked(lambda: load(folder), names=(folder.name,))
    if outcome.line is None and not outcome.faults:
        outcome.faults += compare(outcome.value, name)
    return told(files, name), outcome


def resumed(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    """Go on with a run of which a file is spoilt; where that ends well, the numbers are those of a run that nothing disturbed."""
    name = rng.choice(("interrupted", "interrupted", "interrupted", "done"))
    part = (
        "checkpoint"
        if kind == "checkpoints"
        else rng.choice(("manifest", "chunk", "experiment") if name == "interrupted" else ("manifest", "experiment"))
    )
    name = "interrupted" if kind == "checkpoints" else name
    files = spoilt(rng, name, part)
    folder = lay(files, Path(f"{rng.getrandbits(48):x}"))
    force = rng.random() < 0.3
    outcome = typed("resume", str(folder), *(["--force"] if force else []), names=(folder.name,))
    if outcome.line is None and not outcome.faults:
        after = asked(lambda: load(folder))
        outcome.faults += after.faults + ([f"ends well, and cannot be loaded: {after.line}"] if after.line else [])
        if after.value is not None and not (force and part == "experiment"):  # with --force another experiment goes on
            outcome.faults += compare(after.value, "done")
    return ("--force" if force else "", *told(files, name)), outcome


def told(files: dict[str, bytes], name: str) -> tuple[Any, ...]:
    """What is another file than it was."""
    gone = [path for path in made(name) if path not in files]
    return (
        name,
        *(f"{path}: gone" for path in gone),
        *(
            (path, data if len(data) < 3000 else data[:200])
            for path, data in files.items()
            if data != made(name).get(path)
        ),
    )


KINDS: Kinds = {
    "run folders to load": (900, loaded),
    "run folders to resume": (400, resumed),
    "checkpoints": (500, resumed),
}


def again(kind: str, number: int, seed: int) -> None:
    """Try one input again, as it was tried."""
    retry(KINDS, kind, number, seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("own_folder", "no_figures")
def test_a_run_is_what_was_written_or_is_refused_in_a_line(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    hunt(KINDS, kind, "test_fuzz_runs", record_property)
