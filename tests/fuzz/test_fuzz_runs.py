"""Run folders by the thousand: manifests, chunks, experiments and checkpoints that are damaged, exchanged or made up.

What is loaded, or gone on with, has the numbers of the run that was written; all else is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fuzzing import Kinds, Outcome, asked, hunt, hunts, retry, typed
from helpers.spoiling import arrays, carry, text, tree

import distopt
from distopt.experiment import Experiment
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", hunts(KINDS))
@pytest.mark.usefixtures("own_folder", "no_figures")
def test_a_run_is_what_was_written_or_is_refused_in_a_line(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    hunt(KINDS, kind, "test_fuzz_runs", record_property)
