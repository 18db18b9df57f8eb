"""Finished, interrupted and diverged runs: in memory, and on disk as a TOML experiment, a JSON manifest and npz chunks."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distopt import manifest, reading
from distopt.errors import InputError, RunError
from distopt.files import LOCK, locked, write_text, written
from distopt.manifest import manifest_text

if TYPE_CHECKING:
    from distopt.experiment import Experiment

FORMAT, MANIFEST, read_manifest = manifest.FORMAT, manifest.MANIFEST, manifest.read_manifest
Status = manifest.Status
EXPERIMENT, CHECKPOINT = "experiment.toml", "checkpoint"
SMALL_CHUNK = 2**20  # bytes; to a smaller file what comes next is added
Array = NDArray[Any]


class Part(NamedTuple):
    """Some consecutive rounds of a run: the recorded ones [k], metrics [R, k] and trajectories [R, T, ...] by name."""

    rounds: NDArray[np.int64]
    metrics: Mapping[str, Array]
    trajectories: Mapping[str, Array]


@dataclass(repr=False)
class Run(Mapping[str, Array]):
    """One algorithm on one scenario: metrics and trajectories by name.

    ``run["dynamic_regret"]`` is float64 [trials, recorded rounds]; ``run["x"]``, where recorded, is [trials, rounds + 1, N, d]
    (x_0 first) and a recorded state leaf [trials, rounds, N, d] (its value after round t at index t).

    Attributes:
        label: the algorithm's spec.
        status: "done", "interrupted" or "diverged".
        rounds: the recorded rounds, int64 [k]; round t is the t-th cost seen, from 0.
        metrics, trajectories: arrays by name.
        info: experiment, fingerprint, versions, seconds, and what else the manifest holds.
    """

    label: str
    status: Status
    rounds: NDArray[np.int64]
    metrics: Mapping[str, Array]
    trajectories: Mapping[str, Array] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def __getitem__(self, name: str) -> Array:
        """A metric, its average over time (``average_dynamic_regret``: divided by t + 1), or a trajectory."""
        for store in (self.metrics, self.trajectories):
            if name in store:
                return store[name]
        base = name.removeprefix("average_")
        if base != name and base in self.metrics and "regret" in base:
            return self.metrics[base] / (self.rounds + 1)
        note = self.info.get("left_out", {}).get(base)
        have = ", ".join(self)
        raise KeyError(f"{name} is not in this run{f': {note}' if note else ''}; it has: {have}")

    def __iter__(self) -> Iterator[str]:
        averages = [f"average_{name}" for name in self.metrics if "regret" in name]
        return iter([*self.metrics, *averages, *self.trajectories])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        k = len(self.rounds)
        return f"<Run {self.label}: {self.status}, {self.trials} trials, {k} recorded rounds; {', '.join([*self.metrics, *self.trajectories])}>"

    @property
    def trials(self) -> int:
        """R."""
        return int(next(iter(self.metrics.values())).shape[0]) if self.metrics else 0

    def to_pandas(self) -> Any:
        """A long table: one line per trial and recorded round, one column per metric (a pandas DataFrame)."""
        import pandas as pd

        trials, k = self.trials, len(self.rounds)
        columns: dict[str, Array] = {"trial": np.repeat(np.arange(trials), k), "round": np.tile(self.rounds, trials)}
        columns.update({name: self[name].reshape(-1) for name in self if name not in self.trajectories})
        return pd.DataFrame(columns)

    def plot(self, path: str | Path | None = None, metric: str = "average_dynamic_regret") -> Any:
        """Draw a metric against rounds (log axes, band over trials); writes ``path`` where given, returns the figure."""
        from distopt.report.curves import figure

        fig = figure({self.label: self}, metric)
        if path is not None:
            fig.savefig(path)
        return fig

    def save(self, folder: str | Path, toml: str | None = None) -> Path:
        """Write the run so that ``distopt.load`` reads it back, with the text of its experiment where given; returns the folder.

        Raises:
            InputError: the folder cannot be written, or holds another run.
        """
        writer = Writer(Path(folder), self.label, self.info, toml)
        writer.add(Part(self.rounds, self.metrics, {n: (v[:, :-1] if n == "x" else v) for n, v in self.trajectories.items()}))
        tail = self.trajectories["x"][:, -1] if "x" in self.trajectories else None
        writer.finish(self.status, self.info, tail)
        return Path(folder)


def collect(
    parts: Sequence[Part], x_last: Array | None
) -> tuple[NDArray[np.int64], dict[str, Array], dict[str, Array]]:
    """Join the chunks of a run: rounds, metrics [R, k], trajectories [R, T, ...] (x with its last point, T + 1)."""
    if not parts:
        return np.empty(0, dtype=np.int64), {}, {}
    rounds = np.concatenate([p.rounds for p in parts])
    metrics = {name: np.concatenate([p.metrics[name] for p in parts], axis=1) for name in parts[0].metrics}
    trajectories = {name: np.concatenate([p.trajectories[name] for p in parts], axis=1) for name in parts[0].trajectories}
    if "x" in trajectories and x_last is not None:
        trajectories["x"] = np.concatenate([trajectories["x"], x_last[:, None]], axis=1)
    return rounds, metrics, trajectories


def folder_name(label: str) -> str:
    """A label as a folder name."""
    return re.sub(r"[^A-Za-z0-9_.=,-]+", "-", label).strip("-.") or "run"


class Writer:
    """Writes a run while it goes: chunks first, then a manifest that names them, so what the manifest names is whole.

    Earlier results of the same experiment in the folder are replaced when the first rounds are there, not before. One
    writer at a time has the folder (see ``locked``), unless ``mine`` says that the caller has it. ``id`` names the run in its
    manifest and in its checkpoint, so that a checkpoint is known to belong to the results beside it; a resumed run goes on under
    its ``id``.

    Raises:
        InputError: the folder cannot be written, holds something else, or is being written by another run.
        RunError: the disk is full, or fails otherwise; what was written before stays.
    """

    def __init__(
        self, folder: Path, label: str, info: Mapping[str, Any], toml: str | None = None, id: str | None = None, mine: bool = False
    ) -> None:
        self.folder, self.label, self.info = folder, label, dict(info)
        self._since = time.monotonic()
        self._chunks: list[str] = []
        self._pending: list[Part] = []
        self._last: Part | None = None  # the last chunk, while it is small
        self._files: dict[str, Any] = {}  # what was written, by name: see ``reading.described``
        self._token, self._count = f"{time.time_ns():x}", 0
        self.id = id or self._token
        claim(folder, str(self.info.get("fingerprint", "")))
        self._held = ExitStack()
        if not mine:
            self._held.enter_context(locked(folder, _above(folder)))
        if toml is not None:
            write_text(folder / EXPERIMENT, toml)
        if not (folder / MANIFEST).exists():
            self._manifest("running", {}, None)
        self._files.update(read_manifest(folder).get("files", {}))

    def keep(self, t: int, every: int) -> Part | None:
        """Go on after the results in the folder that are of rounds before ``t``, of which every ``every``-th is recorded.

        Returns:
            Some of them, whose names tell what is recorded.

        Raises:
            InputError: they are not all there.
        """
        content = read_manifest(self.folder)
        some, recorded, reached, lengths = None, 0, 0, set[int]()
        for entry, part in zip(content["chunks"], _parts(self.folder, content), strict=True):
            k = int(np.searchsorted(part.rounds, t))
            cut = Part(
                part.rounds[:k], {name: value[:, :k] for name, value in part.metrics.items()},
                {name: value[:, : max(t - reached, 0)] for name, value in part.trajectories.items()},
            )  # fmt: skip
            lengths = {value.shape[1] for value in part.trajectories.values()}
            if k == len(part.rounds) and reached + max(lengths, default=0) <= t:
                self._chunks.append(entry)
            else:
                self._pending.append(cut)
            some, recorded, reached = some or cut, recorded + k, reached + max(lengths, default=0)
            if len(lengths) > 1:
                reached = -1
                break
        if recorded != t // every or (lengths and reached < t):
            raise InputError(f"{self.folder}: results before round {t} are missing; begin anew with distopt simulate")
        return some

    def add(self, part: Part) -> None:
        """Take some rounds; they reach the disk at once or within two seconds."""
        self._pending.append(part)
        if time.monotonic() - self._since > 2 or any(v.nbytes > 2**24 for v in part.trajectories.values()):
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        whole = Part(*collect([*([self._last] if self._last else []), *self._pending], None))
        arrays = {"rounds": whole.rounds, **{f"m.{k}": v for k, v in whole.metrics.items()}, **{f"t.{k}": v for k, v in whole.trajectories.items()}}
        name = self._save(f"chunk-{self._token}-{self._count:06d}.npz", arrays)
        self._chunks[len(self._chunks) - (self._last is not None) :] = [name]
        self._last = whole if sum(v.nbytes for v in arrays.values()) < SMALL_CHUNK else None
        self._pending, self._since, self._count = [], time.monotonic(), self._count + 1
        self._manifest("running", {}, None)

    def finish(self, status: Status, info: Mapping[str, Any], x_last: Array | None = None) -> bool:
        """Write the rest and the final manifest, and let the folder go. Without any rounds, earlier results stay; whether there are any."""
        self.flush()
        if self._chunks or read_manifest(self.folder).get("status") == "running":
            last = None if x_last is None else self._save(f"last-{self._token}.npz", {"x": x_last})
            self._manifest(status, info, last)
            if status != "interrupted":
                for name in (CHECKPOINT, CHECKPOINT + ".part"):
                    _remove(self.folder / name)
        self.close()
        return bool(self._chunks)

    def close(self) -> None:
        """Let the folder go."""
        self._held.close()

    def _save(self, name: str, arrays: Mapping[str, Array]) -> str:
        with written(self.folder / name) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own options
            file.flush()
            self._files[name] = reading.described(Path(file.name), arrays)
        return name

    def _manifest(self, status: str, info: Mapping[str, Any], last: str | None) -> None:
        content = {"format": FORMAT, "label": self.label, "id": self.id, "status": status, "chunks": self._chunks, "last": last, **self.info, **info}
        named = [*self._chunks, *([last] if last else [])]
        self._files = {name: self._files.get(name) or _described(self.folder / name) for name in named}
        write_text(self.folder / MANIFEST, manifest_text({**content, "files": self._files}))
        for old in [*self.folder.glob("chunk-*"), *self.folder.glob("last-*")]:
            if old.name not in (*self._chunks, last):
                _remove(old)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot remove {path}, which does not belong to the run: {error.strerror}; remove it yourself") from error


def _described(path: Path) -> dict[str, Any]:
    """What a manifest says of a file that was written before manifests said it."""
    return reading.described(path, reading.arrays(path))


def above(folder: Path) -> Path | None:
    """The folder of several runs that this one is of, if it is."""
    with suppress(InputError):
        return folder.parent if folder.name in read_manifest(folder.parent).get("runs", ()) else None
    return None


def claim(folder: Path, fingerprint: str) -> None:
    """Make ``folder`` ours: new, empty, or holding a run of the same fingerprint."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another folder with --out") from error
    if (folder / MANIFEST).exists():
        old = read_manifest(folder)
        if old.get("fingerprint") != fingerprint:
            raise InputError(f"{folder} holds another run ({old.get('label', 'unknown')}); choose another folder with --out, or remove it")
    elif any(path.name not in (LOCK, EXPERIMENT) and path.suffix != ".part" for path in folder.iterdir()):  # begun, and killed at once
        raise InputError(f"{folder} is not empty and holds no run; choose another folder with --out")


def adopt(folder: Path, fingerprint: str) -> None:
    """Let the results in ``folder``, if there are any, be those of another experiment: of the same files in another form."""
    if (folder / MANIFEST).exists():
        write_text(folder / MANIFEST, manifest_text({**read_manifest(folder), "fingerprint": fingerprint}))


def load(folder: str | Path) -> Run | dict[str, Run]:
    """Read a run, or the runs of a folder that ``distopt simulate`` wrote for several algorithms, by label.

    Raises:
        InputError: no run there, or a file that is damaged or foreign.
    """
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"{folder!r}: not the path of a folder")
    folder = Path(folder)
    content = read_manifest(folder)
    if "runs" in content:
        runs: dict[str, Run] = {}
        for name in content["runs"]:
            if not (folder / name / MANIFEST).exists():
                continue  # killed before it began
            inner = read_manifest(folder / name)
            if "runs" in inner or inner["label"] in runs:
                raise InputError(f"{folder / name / MANIFEST}: damaged or of another folder (it holds {inner.get('label', 'runs')})")
            runs[inner["label"]] = _loaded(folder / name, inner)
        return runs
    return _loaded(folder, content)


def _loaded(folder: Path, content: Mapping[str, Any]) -> Run:
    rounds, metrics, trajectories = collect(list(_parts(folder, content)), _last(folder, content))
    return _run(folder, content, rounds, metrics, trajectories)


def stored(folder: Path) -> Run:
    """The run in a folder, whose arrays are read when they are asked for, each time anew.

    Raises:
        InputError: as ``load``; of a damaged file, when it is read.
    """
    content = read_manifest(folder)
    if "chunks" not in content:
        raise InputError(f"{folder}: holds several runs, where one is asked for")
    rounds, _, _ = collect([*_parts(folder, content, lambda name: name == "rounds")], None)
    metrics, trajectories = Stored(folder, content, "m."), Stored(folder, content, "t.")
    return _run(folder, content, rounds, metrics, trajectories)


class Stored(Mapping[str, Array]):
    """The metrics (``kind`` "m.") or trajectories ("t.") of the run in a folder, read when they are asked for."""

    def __init__(self, folder: Path, content: Mapping[str, Any], kind: str) -> None:
        self._folder, self._content, self._kind = folder, content, kind
        first = {**content, "chunks": content["chunks"][:1]}
        self._names = [name for part in _parts(folder, first) for name in (part.metrics if kind == "m." else part.trajectories)]

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        parts = list(_parts(self._folder, self._content, lambda each: each in ("rounds", self._kind + name)))
        _, metrics, trajectories = collect(parts, _last(self._folder, self._content) if name == "x" else None)
        return (metrics if self._kind == "m." else trajectories)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _parts(folder: Path, content: Mapping[str, Any], wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Part]:
    """The chunks that a manifest names, one after the other, with those of their arrays that are ``wanted``."""
    first: Part | None = None
    before: Part | None = None
    for name in content["chunks"]:
        arrays = reading.arrays(folder / name, _told(content, name), wanted)
        if "rounds" not in arrays:
            raise InputError(f"{folder / name}: damaged or not a chunk of a run (it names no rounds)")
        named = {key: {k[2:]: v for k, v in arrays.items() if k.startswith(key)} for key in ("m.", "t.")}
        part = Part(arrays["rounds"], named["m."], named["t."])
        first = first or part
        if said := misfit(first, part, before):
            raise InputError(f"{folder / name}: damaged or not a chunk of this run ({said})")
        yield part
        before = Part(part.rounds[-1:], {}, {})


def _told(content: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What the manifest says of a file; None in those that were written before manifests said it."""
    told: Mapping[str, Any] | None = content["files"][name] if "files" in content else None
    return told


def _last(folder: Path, content: Mapping[str, Any]) -> Array | None:
    """The last x of the run."""
    if not content.get("last"):
        return None
    path = folder / content["last"]
    last = reading.arrays(path, _told(content, content["last"])).get("x")
    some = next(_parts(folder, {**content, "chunks": content["chunks"][:1]}, lambda name: name in ("rounds", "t.x")), None)
    before = some.trajectories.get("x") if some else None
    if last is None or (before is not None and (last.dtype != before.dtype or last.shape != (*before.shape[:1], *before.shape[2:]))):
        raise InputError(f"{path}: damaged or not the last x of this run")
    return last


def _run(
    folder: Path, content: Mapping[str, Any], rounds: NDArray[np.int64], metrics: Mapping[str, Array], trajectories: Mapping[str, Array]
) -> Run:
    info = {key: value for key, value in content.items() if key not in ("format", "label", "id", "status", "chunks", "last", "files", "sha256")}
    status: Status = "interrupted" if content["status"] == "running" else content["status"]
    return Run(content["label"], status, rounds, metrics, trajectories, info, folder)


def misfit(first: Part, part: Part, before: Part | None) -> str | None:
    """Why a part of a run cannot come after the part ``before``, of the run that begins with ``first``; None where it can."""
    if part.rounds.dtype != np.int64 or part.rounds.ndim != 1 or (part.rounds < 0).any() or (np.diff(part.rounds) <= 0).any():
        return "its rounds are no rising numbers"
    if before is not None and len(before.rounds) and len(part.rounds) and part.rounds[0] <= before.rounds[-1]:
        return "its rounds are not those that come next"
    for mine, theirs in ((part.metrics, first.metrics), (part.trajectories, first.trajectories)):
        if mine.keys() != theirs.keys():
            return f"it holds {', '.join(mine) or 'nothing'}, not {', '.join(theirs) or 'nothing'}"
        for name, value in mine.items():
            like = theirs[name]
            if value.ndim < 2 or value.dtype != like.dtype or (value.shape[0], value.shape[2:]) != (like.shape[0], like.shape[2:]):
                return f"{name} is {value.dtype} {list(value.shape)}"
    if any(value.dtype != np.float64 or value.shape != (len(value), len(part.rounds)) for value in part.metrics.values()):
        return "a metric has not a number for every round"
    if len({value.shape[:2] for value in part.trajectories.values()}) > 1:
        return "its trajectories are of several lengths"
    return None


def manifest_info(experiment: Experiment, rounds: int) -> dict[str, Any]:
    """What every manifest holds of an experiment: its description, fingerprint, length and the versions that ran it."""
    import platform

    import torch

    from distopt import __version__

    return {
        "experiment": {**experiment.describe(), "rounds": rounds},
        "fingerprint": experiment.fingerprint(),
        "rounds": rounds,
        "versions": {"distopt": __version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
    }
