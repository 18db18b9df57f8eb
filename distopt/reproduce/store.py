"""Results of experiments, one JSON file each, so that an interrupted run computes only what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distopt.errors import InputError, RunError, either
from distopt.runs.files import write_text


class Store:
    """A folder of results, each under a name and with the settings that made it.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write to {folder}: {error.strerror}; choose another folder with {either('--out', 'out=')}"
            ) from error

    def has(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether results of these settings are there."""
        return self._read(name, settings) is not None

    def get(self, name: str, settings: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """The results ``name``: stored ones if they were made with the same ``settings``, else those of ``make``.

        They are JSON, and come back as JSON has them: tuples are lists. Files are whole or not there at all.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = Store(Path(folder)).get("squares", {"n": 3}, lambda: [0, 1, 4])
        ...     again = Store(Path(folder)).get("squares", {"n": 3}, lambda: "not asked")
        ...     other = Store(Path(folder)).get("squares", {"n": 2}, lambda: [0, 1])
        >>> first, again, other
        ([0, 1, 4], [0, 1, 4], [0, 1])
        """
        found = self._read(name, settings)
        if found is None:
            found = {"settings": dict(settings), "results": make()}
            try:
                write_text(self.folder / f"{name}.json", json.dumps(found))
            except RunError as error:
                raise RunError(f"{error}; re-run the command to resume") from error
        return json.loads(json.dumps(found["results"]))

    def _read(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        path = self.folder / f"{name}.json"
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not what distopt reproduce wrote ({error}); remove it") from error
        same = isinstance(found, dict) and found.get("settings") == json.loads(json.dumps(settings))
        return found if same and "results" in found else None
