"""Finished, interrupted and diverged runs: in memory, and on disk as a TOML experiment, a JSON manifest and npz chunks."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distopt import manifest, reading
from distopt.errors import InputError, RunError
from distopt.manifest import manifest_text

if TYPE_CHECKING:
    from distopt.experiment import Experiment

FORMAT, MANIFEST, read_manifest = manifest.FORMAT, manifest.MANIFEST, manifest.read_manifest
Status = manifest.Status
LOCK, EXPERIMENT, CHECKPOINT = ".lock", "experiment.toml", "checkpoint"
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
    metrics: dict[str, Array]
    trajectories: dict[str, Array] = field(default_factory=dict)
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

    def save(self, folder: str | Path) -> Path:
        """Write the run so that ``distopt.load`` reads it back; returns the folder.

        Raises:
            InputError: the folder cannot be written, or holds another run.
        """
        writer = Writer(Path(folder), self.label, self.info)
        writer.add(Part(self.rounds, self.metrics, {n: (v[:, :-1] if n == "x" else v) for n, v in self.trajectories.items()}))
        tail = self.trajectories["x"][:, -1] if "x" in self.trajectories else None
        writer.finish(self.status, self.info, tail)
        return Path(folder)

    def before(self, t: int) -> Part:
        """The rounds before round ``t``.

        Raises:
            InputError: they are not all here.
        """
        k = int(np.searchsorted(self.rounds, t))
        every = int(self.info.get("experiment", {}).get("every", 1))
        trajectories = {name: value[:, :t] for name, value in self.trajectories.items()}
        if k != t // every or any(value.shape[1] != t for value in trajectories.values()):
            raise InputError(f"{self.path}: results before round {t} are missing; begin anew with distopt simulate")
        return Part(self.rounds[:k], {name: value[:, :k] for name, value in self.metrics.items()}, trajectories)


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


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file beside ``path`` that takes its place when it is whole and on the disk: whatever happens, ``path`` is the old one or the new one.

    Raises:
        RunError: it cannot be written; the old one stays.
    """
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK, 0o666)) as file:  # a pipe would wait
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}; what was written before is kept") from error


def write_text(path: Path, text: str) -> None:
    """A small file, as ``written`` writes it."""
    with written(path) as file:
        file.write(text.encode())


class Writer:
    """Writes a run while it goes: chunks first, then a manifest that names them, so what the manifest names is whole.

    Earlier results of the same experiment in the folder are replaced when the first rounds are there, not before. One
    writer at a time holds the folder's lock, which dies with its process. ``id`` names the run in its manifest and in its
    checkpoint, so that a checkpoint is known to belong to the results beside it; a resumed run goes on under its ``id``.

    Raises:
        InputError: the folder cannot be written, holds something else, or is being written by another run.
        RunError: the disk is full, or fails otherwise; what was written before stays.
    """

    def __init__(self, folder: Path, label: str, info: Mapping[str, Any], toml: str | None = None, id: str | None = None) -> None:
        self.folder, self.label, self.info = folder, label, dict(info)
        self._since = time.monotonic()
        self._chunks: list[str] = []
        self._pending: list[Part] = []
        self._last: Part | None = None  # the last chunk, while it is small
        self._files: dict[str, Any] = {}  # what was written, by name: see ``reading.described``
        self._token, self._count = f"{time.time_ns():x}", 0
        self.id = id or self._token
        claim(folder, str(self.info.get("fingerprint", "")))
        with reading.regular(folder / LOCK) if os.path.lexists(folder / LOCK) else nullcontext():  # a pipe would wait
            self._lock = (folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise InputError(f"{folder} is being written by another run; wait for it, or choose another folder with --out") from error
        if toml is not None:
            write_text(folder / EXPERIMENT, toml)
        if not (folder / MANIFEST).exists():
            self._manifest("running", {}, None)
        self._files.update(read_manifest(folder).get("files", {}))

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

    def finish(self, status: Status, info: Mapping[str, Any], x_last: Array | None = None) -> None:
        """Write the rest and the final manifest, and let the folder go. Without any rounds, earlier results stay."""
        self.flush()
        if self._chunks or read_manifest(self.folder).get("status") == "running":
            last = None if x_last is None else self._save(f"last-{self._token}.npz", {"x": x_last})
            self._manifest(status, info, last)
            if status != "interrupted":
                for name in (CHECKPOINT, CHECKPOINT + ".part"):
                    _remove(self.folder / name)
        self.close()

    def close(self) -> None:
        """Let the folder go."""
        self._lock.close()

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
    parts: list[Part] = []
    for name in content["chunks"]:
        parts.append(_part(folder, content, name))
        if said := misfit(parts[0], parts[-1], parts[-2] if len(parts) > 1 else None):
            raise InputError(f"{folder / name}: damaged or not a chunk of this run ({said})")
    last = _last(folder, content, parts)
    rounds, metrics, trajectories = collect(parts, last)
    info = {key: value for key, value in content.items() if key not in ("format", "label", "id", "status", "chunks", "last", "files", "sha256")}
    status: Status = "interrupted" if content["status"] == "running" else content["status"]
    return Run(content["label"], status, rounds, metrics, trajectories, info, folder)


def _part(folder: Path, content: Mapping[str, Any], name: str) -> Part:
    """A chunk that the manifest names."""
    arrays = reading.arrays(folder / name, content["files"][name] if "files" in content else None)
    if "rounds" not in arrays:
        raise InputError(f"{folder / name}: damaged or not a chunk of a run (it names no rounds)")
    named = {key: {k[2:]: v for k, v in arrays.items() if k.startswith(key)} for key in ("m.", "t.")}
    return Part(arrays["rounds"], named["m."], named["t."])


def _last(folder: Path, content: Mapping[str, Any], parts: Sequence[Part]) -> Array | None:
    """The last x."""
    if not content.get("last"):
        return None
    path = folder / content["last"]
    last = reading.arrays(path, content["files"][content["last"]] if "files" in content else None).get("x")
    before = parts[0].trajectories.get("x") if parts else None
    if last is None or (before is not None and (last.dtype != before.dtype or last.shape != (*before.shape[:1], *before.shape[2:]))):
        raise InputError(f"{path}: damaged or not the last x of this run")
    return last


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
