"""The files of a run: damaged, swapped, crafted or none at all, they are refused in one line, or the numbers are the right ones."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.crafted import CRAFTED
from helpers.surviving import call
from runs.test_checkpoint import struck

import distopt
from distopt.errors import InputError, RunError
from distopt.runs import manifest, reading, results, writing
from distopt.runs.files import write_text

ASK = [
    "simulate",
    "ring",
    "--agents",
    "4",
    "--scenario",
    "moving_target",
    "--rounds",
    "20",
    "--algorithm",
    "gt",
    "--record",
    "x",
]
Damage = Callable[[Path, Path], None]
"""What is done to a file, and the file of the same role in another run."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, "a" and "b", and "half", of which a checkpoint is there."""
    place = tmp_path_factory.mktemp("runs")
    for name, seed in (("a", "0"), ("b", "1")):
        assert call(*ASK, "--seed", seed, "--out", str(place / name)).exit_code == 0
    with pytest.MonkeyPatch.context() as patch, struck(8):
        patch.setattr("distopt.engines.local.eager.room", lambda x: 4)
        assert call(*ASK, "--checkpoint-every", "4", "--out", str(place / "half")).exit_code == 143
    return place


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """What waits for a pipe is ended."""

    def late(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def one(folder: Path) -> distopt.Run:
    run = distopt.load(folder)
    assert isinstance(run, distopt.Run)
    return run


def alike(run: distopt.Run, other: distopt.Run) -> bool:
    told = [
        (each.label, each.status, {k: v for k, v in each.info.items() if k in manifest.SAYS}) for each in (run, other)
    ]
    return (
        told[0] == told[1]
        and list(run) == list(other)
        and all(np.array_equal(run[name], other[name], equal_nan=True) for name in run)
    )


def refused_or_right(folder: Path, like: distopt.Run) -> bool:
    """Whether ``load`` refuses it; else it gives the right run."""
    try:
        run = distopt.load(folder)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 600 and "unexpected" not in str(error)
        return True
    assert isinstance(run, distopt.Run) and alike(run, like)
    return False


def replaced(text: bytes) -> Damage:
    return lambda path, other: path.write_bytes(text) and None


def instead(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path, other: Path) -> None:
        path.unlink()
        make(path)

    return damage


NO_FILES: dict[str, Damage] = {
    "folder": instead(Path.mkdir),
    "pipe": instead(os.mkfifo),
    "device": instead(lambda path: path.symlink_to("/dev/zero")),
    "dangling": instead(lambda path: path.symlink_to("nowhere")),
    "loop": instead(lambda path: path.symlink_to(path.name)),
}
CONTENTS: dict[str, Damage] = {
    "empty": replaced(b""),
    "zeros": replaced(bytes(1000)),
    "list": replaced(b"[]"),
    "object": replaced(b"{}"),
    "number": replaced(b"1e999"),
    "format": replaced(b'{"format": 1}'),
    "true": replaced(b'{"format": true, "label": "gt", "status": "done", "chunks": []}'),
    "deep": replaced(b"[" * 100_000),
    "bytes": replaced(bytes(range(256))),
    "pickle": replaced(b"\x80\x04cos\nsystem\n"),
    "other run's": lambda path, other: shutil.copy(other, path) and None,
}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def role(name: str) -> str:
    return name.split("-", maxsplit=1)[0]


def of_role(folder: Path, name: str) -> Path:
    return next(path for path in folder.iterdir() if role(path.name) == role(name))


@pytest.mark.parametrize("name", ["manifest.json", "chunk", "last"])
def test_a_damaged_file_is_refused_or_harmless(runs: Path, tmp_path: Path, name: str) -> None:
    like, folder = one(runs / "a"), tmp_path / "r"
    shutil.copytree(runs / "a", folder)
    path = of_role(folder, name)
    whole, chance, refused = path.read_bytes(), random.Random(1), 0
    for length in [0, 1, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(25))]:
        path.write_bytes(whole[:length])
        assert refused_or_right(folder, like), length
    for bit in [0, 8 * len(whole) - 1, *(chance.randrange(8 * len(whole)) for _ in range(150))]:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        refused += refused_or_right(folder, like)
    assert refused > (150 if name != "manifest.json" else 120)
    for what, damage in (CONTENTS | NO_FILES).items():
        damage(path, of_role(runs / "b", name))
        if what == "other run's" and name == "manifest.json":
            with pytest.raises(InputError, match="No such file"):
                distopt.load(folder)
        else:
            assert refused_or_right(folder, like), what
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(whole)
    assert alike(one(folder), like)


def test_files_of_runs_without_digests_are_checked_by_what_they_hold(runs: Path, tmp_path: Path) -> None:
    like, folder = one(runs / "a"), tmp_path / "r"
    shutil.copytree(runs / "a", folder)
    plain(folder)
    assert alike(one(folder), like), "an old run is not read"
    for name in ("chunk", "last"):
        path, chance = of_role(folder, name), random.Random(2)
        whole = path.read_bytes()
        for bit in (chance.randrange(8 * len(whole)) for _ in range(150)):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            refused_or_right(folder, like)
        path.write_bytes(whole)


def plain(folder: Path) -> None:
    """Let the manifest be as it was before it held digests."""
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(
        json.dumps({key: value for key, value in content.items() if key not in ("files", "sha256")})
    )


def test_an_older_version_of_a_chunk_and_a_swapped_one_are_refused(tmp_path: Path) -> None:
    writer = writing.Writer(tmp_path / "r", "gt", {"fingerprint": "f"})
    parts = [results.Part(np.arange(k, k + 1), {"bits": np.full((1, 1), float(k))}, {}) for k in range(3)]
    writer.add(parts[0])
    writer.flush()
    first = next((tmp_path / "r").glob("chunk*")).read_bytes()
    writer._last = None  # as if it were long
    writer.add(parts[1])
    writer.flush()
    writer._last = None
    writer.add(parts[2])
    writer.finish("done", {})
    chunks = sorted((tmp_path / "r").glob("chunk*"))
    kept = [path.read_bytes() for path in chunks]
    assert len(chunks) == 3 and one(tmp_path / "r")["bits"].tolist() == [[0.0, 1.0, 2.0]]
    for contents in ([kept[1], kept[0], kept[2]], [kept[0], kept[1], kept[1]], [kept[0], first, kept[2]]):
        for path, content in zip(chunks, contents, strict=True):
            path.write_bytes(content)
        with pytest.raises(InputError, match="not the file that the run wrote"):
            distopt.load(tmp_path / "r")
        shutil.copytree(tmp_path / "r", tmp_path / "old")
        plain(tmp_path / "old")
        with pytest.raises(InputError, match="its rounds are not those that come next"):
            distopt.load(tmp_path / "old")
        shutil.rmtree(tmp_path / "old")


@pytest.mark.parametrize("what", CRAFTED)
@pytest.mark.parametrize("told", [False, True])
def test_a_crafted_chunk_is_refused_even_with_its_digest(runs: Path, tmp_path: Path, what: str, told: bool) -> None:
    folder = tmp_path / "r"
    shutil.copytree(runs / "a", folder)
    path = of_role(folder, "chunk")
    path.write_bytes(CRAFTED[what])
    content = manifest.read_manifest(folder)
    if told:
        content["files"][path.name] |= {"bytes": len(CRAFTED[what]), "sha256": reading.described(path, {})["sha256"]}
    else:
        del content["files"]
    (folder / "manifest.json").write_text(manifest.manifest_text(content))
    with pytest.raises(InputError, match="damaged or not a chunk") as refused:
        distopt.load(folder)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


WRONG: list[Any] = [
    None,
    True,
    -1,
    1.5,
    float("nan"),
    "x",
    "",
    [],
    [1],
    ["a", "a"],
    [".."],
    ["a/b"],
    ["/etc/passwd"],
    ["a\0b"],
    {},
    {"a": None},
]


def test_a_manifest_that_says_what_no_run_can_is_refused(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    shutil.copytree(runs / "a", folder)
    content = json.loads((folder / "manifest.json").read_text())
    like, count = one(folder), 0
    for key in manifest.SAYS.keys() & content.keys():
        for value in WRONG:
            for text in (json.dumps({**content, key: value}), manifest.manifest_text({**content, key: value})):
                (folder / "manifest.json").write_text(text)
                try:
                    run = one(folder)
                except InputError as error:
                    assert "\n" not in str(error) and len(str(error)) < 600
                    count += 1
                else:
                    assert text.endswith("}") and json.loads(text)["sha256"] != content["sha256"], (
                        "taken although the check sum is another"
                    )
                    assert list(run) == list(like) or key in ("chunks", "last"), key
        (folder / "manifest.json").write_text(
            json.dumps({each: value for each, value in content.items() if each != key})
        )
        with pytest.raises(InputError):
            distopt.load(folder)
    assert count > 300


def test_a_manifest_of_several_runs_names_folders_inside_it(runs: Path, tmp_path: Path) -> None:
    for name, key in (("a", "a"), ("b", "b")):
        shutil.copytree(runs / name, tmp_path / "r" / key)
    for names in ([".."], ["."], [""], ["/"], ["a/../a"], ["a", "a"], ["a\0"], "ab", [["a"]], [1], {"a": 1}, None):
        (tmp_path / "r" / "manifest.json").write_text(
            manifest.manifest_text({"format": 1, "label": "x", "runs": names})
        )
        with pytest.raises(InputError, match="runs cannot be"):
            distopt.load(tmp_path / "r")
    (tmp_path / "r" / "manifest.json").write_text(
        manifest.manifest_text({"format": 1, "label": "x", "runs": ["a", "b"]})
    )
    with pytest.raises(InputError, match="of another folder .it holds gt"):  # two runs of one label would be one
        distopt.load(tmp_path / "r")
    (tmp_path / "r" / "a" / "manifest.json").write_text(manifest.manifest_text({"format": 1, "label": "x", "runs": []}))
    with pytest.raises(InputError, match="of another folder"):
        distopt.load(tmp_path / "r")


@pytest.mark.parametrize("folder", [5, None, b"r\0", "r\0", "", "nowhere", "/dev/null", "/dev/zero/r"])
def test_what_is_no_folder_of_a_run_is_one_line(folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        distopt.load(folder)


def asked(folder: Path, *words: str) -> bool:
    """Whether the command line refuses it in a line; else it ends well."""
    result = call(*words)
    told = [line for line in result.stderr.splitlines() if line.startswith("distopt: ")]
    assert (
        result.exit_code in (0, 1, 2) and len(told) == bool(result.exit_code) and "unexpected" not in result.stderr
    ), result.output
    return bool(result.exit_code)


@pytest.mark.parametrize("name", ["manifest.json", "experiment.toml", "checkpoint", "chunk", ".lock"])
def test_the_command_line_refuses_damaged_runs_or_goes_on_with_the_right_numbers(
    runs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTOPT_TRACEBACK", raising=False)
    monkeypatch.setattr("distopt.cli.commands.report", lambda *_, **__: None)  # drawing takes longer than all else
    like, refused = one(runs / "a"), []
    damages = {
        **NO_FILES,
        **{key: CONTENTS[key] for key in ("empty", "object", "bytes", "other run's")},
        "cut": cut,
        "flipped": flipped,
    }
    for what, damage in damages.items():
        for words in (["resume"], ["resume", "--force"], [*ASK, "--out"]):
            folder = tmp_path / "r"
            shutil.copytree(runs / "half", folder)
            other = "a" if name != "checkpoint" else "half"
            damage(of_role(folder, name), of_role(runs / other, name))
            if asked(folder, *words, str(folder)):
                refused.append((what, words[-1]))
            elif name != "experiment.toml":
                run = one(folder)
                assert np.array_equal(run["x"], like["x"]) and np.array_equal(
                    run["dynamic_regret"], like["dynamic_regret"]
                ), what
            shutil.rmtree(folder)
    if name != ".lock":
        assert len(refused) > 8, refused


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes() or b" ")
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize(
    "make",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null"), lambda path: path.symlink_to("/dev/full")],
)
def test_what_cannot_be_written_beside_a_file_is_one_line(tmp_path: Path, make: Callable[[Path], object]) -> None:
    write_text(tmp_path / "f", "before")
    make(tmp_path / "f.part")
    with pytest.raises(RunError, match="cannot write .*; earlier results are kept"):
        write_text(tmp_path / "f", "after")
    assert (tmp_path / "f").read_text() == "before"
