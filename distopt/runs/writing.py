"""Writing runs while they go: chunks first, then a manifest that names them."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distopt.errors import InputError, RunError, either
from distopt.runs import reading
from distopt.runs.files import LOCK, locked, write_text, written
from distopt.runs.manifest import CHECKPOINT, EXPERIMENT, FORMAT, MANIFEST, Status, manifest_text, read_manifest

if TYPE_CHECKING:
    from distopt.experiment import Experiment
from distopt.runs.loading import parts
from distopt.runs.results import Array, Part, collect

SMALL_CHUNK = 2**20  # bytes; to a smaller file what comes next is added
LARGE_CHUNK = 2**23  # bytes; as soon as so many are pending they are written, so that a long run takes no more memory


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
        self,
        folder: Path,
        label: str,
        info: Mapping[str, Any],
        toml: str | None = None,
        id: str | None = None,
        mine: bool = False,
    ) -> None:
        self.folder, self.label, self.info = folder, label, dict(info)
        self._since = time.monotonic()
        self._chunks: list[str] = []
        self._pending: list[Part] = []
        self._bytes, self._unnamed = 0, False  # what is pending, and whether the manifest lacks a chunk
        self._last: Part | None = None  # the last chunk, while it is small
        self._files: dict[str, bytes] = {}  # written files by name: ``reading.described``, packed
        self._token, self._count = f"{time.time_ns():x}", 0
        self.id = id or self._token
        claim(folder, str(self.info.get("fingerprint", "")))
        self._held = ExitStack()
        if not mine:
            self._held.enter_context(locked(folder, above(folder)))
        if toml is not None:
            write_text(folder / EXPERIMENT, toml)
        if not (folder / MANIFEST).exists():
            self._manifest("running", {}, None)
        self._files.update({name: _packed(told) for name, told in read_manifest(folder).get("files", {}).items()})

    def keep(self, t: int, every: int) -> Part | None:
        """Go on after the results in the folder that are of rounds before ``t``, of which every ``every``-th is recorded.

        Returns:
            Some of them, whose names are the recorded series.

        Raises:
            InputError: they are not all there.
        """
        content = read_manifest(self.folder)
        some, recorded, reached, lengths = None, 0, 0, set[int]()
        for entry, part in zip(content["chunks"], parts(self.folder, content), strict=True):
            k = int(np.searchsorted(part.rounds, t))
            cut = Part(
                part.rounds[:k],
                {name: value[:, :k] for name, value in part.metrics.items()},
                {name: value[:, : max(t - reached, 0)] for name, value in part.trajectories.items()},
            )
            lengths = {value.shape[1] for value in part.trajectories.values()}
            if k == len(part.rounds) and reached + max(lengths, default=0) <= t:
                self._chunks.append(entry)
            else:
                self._take(cut)
            some, recorded, reached = some or cut, recorded + k, reached + max(lengths, default=0)
            if len(lengths) > 1:
                reached = -1
                break
        if recorded != t // every or (lengths and reached < t):
            raise InputError(
                f"{self.folder}: results before round {t} are missing; start again with {either('distopt simulate', 'simulate(...)')}"
            )
        return some

    def add(self, part: Part) -> None:
        """Take some rounds; they reach the disk at once or within two seconds, and the manifest names them within two seconds."""
        self._take(part)
        if time.monotonic() - self._since > 2:
            self.flush()
        elif self._bytes >= LARGE_CHUNK:
            self._write()

    def flush(self) -> None:
        """Write what is pending, and name it in the manifest."""
        self._write()
        if self._unnamed:
            self._manifest("running", {}, None)
            self._unnamed, self._since = False, time.monotonic()

    def _take(self, part: Part) -> None:
        self._pending.append(part)
        self._bytes += sum(value.nbytes for value in (*part.metrics.values(), *part.trajectories.values()))

    def _write(self) -> None:
        """Write what is pending into a chunk, which the manifest does not name yet."""
        if not self._pending:
            return
        whole = Part(*collect([*([self._last] if self._last else []), *self._pending], None))
        arrays = {
            "rounds": whole.rounds,
            **{f"m.{k}": v for k, v in whole.metrics.items()},
            **{f"t.{k}": v for k, v in whole.trajectories.items()},
        }
        name = self._save(f"chunk-{self._token}-{self._count:06d}.npz", arrays)
        self._chunks[len(self._chunks) - (self._last is not None) :] = [name]
        self._last = whole if sum(v.nbytes for v in arrays.values()) < SMALL_CHUNK else None
        self._pending, self._bytes, self._unnamed, self._count = [], 0, True, self._count + 1

    def finish(self, status: Status, info: Mapping[str, Any], x_last: Array | None = None) -> bool:
        """Write the rest and the final manifest, and release the folder. Without any rounds, earlier results stay. Returns whether there are any."""
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
        """Release the folder."""
        self._held.close()

    def _save(self, name: str, arrays: Mapping[str, Array]) -> str:
        with written(self.folder / name) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own options
            file.flush()
            self._files[name] = _packed(reading.described(Path(file.name), arrays))
        return name

    def _manifest(self, status: str, info: Mapping[str, Any], last: str | None) -> None:
        content = {
            "format": FORMAT,
            "label": self.label,
            "id": self.id,
            "status": status,
            "chunks": self._chunks,
            "last": last,
            **self.info,
            **info,
        }
        named = [*self._chunks, *([last] if last else [])]
        self._files = {name: self._files.get(name) or _packed(_described(self.folder / name)) for name in named}
        files = {name: _unpacked(told) for name, told in self._files.items()}
        write_text(self.folder / MANIFEST, manifest_text({**content, "files": files}))
        for old in [*self.folder.glob("chunk-*"), *self.folder.glob("last-*")]:
            if old.name not in (*self._chunks, last):
                _remove(old)


def _packed(told: Any) -> bytes:
    """A file's entry, in few bytes: there is one for every chunk, and a run may have many."""
    return zlib.compress(json.dumps(told, separators=(",", ":")).encode())


def _unpacked(told: bytes) -> Any:
    return json.loads(zlib.decompress(told))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot remove {path}, which does not belong to the run: {error.strerror}; remove it yourself"
        ) from error


def _described(path: Path) -> dict[str, Any]:
    """The manifest's entry for a file of an older version without one."""
    return reading.described(path, reading.arrays(path))


def above(folder: Path) -> Path | None:
    """The folder of several runs that this one is of, if it is."""
    with suppress(InputError):  # the folder above holds no runs
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
        raise InputError(
            f"cannot write to {folder}: {error.strerror}; choose another folder with {either('--out', 'out=')}"
        ) from error
    if (folder / MANIFEST).exists():
        old = read_manifest(folder)
        if old.get("fingerprint") != fingerprint:
            raise InputError(
                f"{folder} holds another run ({old.get('label', 'unknown')}); choose another folder with {either('--out', 'out=')}, or remove it"
            )
    elif any(
        path.name not in (LOCK, EXPERIMENT) and path.suffix != ".part" for path in folder.iterdir()
    ):  # begun, and killed at once
        raise InputError(
            f"{folder} is not empty and holds no run; choose another folder with {either('--out', 'out=')}"
        )


def adopt(folder: Path, fingerprint: str) -> None:
    """Assign the results in ``folder``, if any, to another experiment: the same files in another form."""
    if (folder / MANIFEST).exists():
        write_text(folder / MANIFEST, manifest_text({**read_manifest(folder), "fingerprint": fingerprint}))


def manifest_info(experiment: Experiment, rounds: int) -> dict[str, Any]:
    """What every manifest holds of an experiment: its description, fingerprint, length and the versions that ran it."""
    import platform

    import torch

    from distopt._version import __version__

    return {
        "experiment": {**experiment.describe(), "rounds": rounds},
        "fingerprint": experiment.fingerprint(),
        "rounds": rounds,
        "versions": {
            "distopt": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
