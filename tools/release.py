"""A release without the upload: builds the wheel and the source archive, and uses each as a user would. ``make release`` runs it.

In a clean tree, whose changelog names the version, it

1. builds both into ``build/dist`` and lets ``twine`` check them;
2. compares the files of the package in both with those that git knows, byte by byte;
3. installs each in a new environment outside the checkout, with the versions of ``constraints.txt``, and runs four commands there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "build" / "dist"
FOLDERS = {"distopt": "distopt", "topologies": "distopt/topologies", "scenarios": "distopt/scenarios"}
"""The folders of the package in the checkout, and where they are once installed."""

PYTHON_LINE = """
import distopt
assert "site-packages" in distopt.__file__, distopt.__file__
run = distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="gt", rounds=50)
print(distopt.__version__, run["dynamic_regret"][0, -1])
"""
COMMANDS = (
    ["distopt", "simulate", "ring", "--agents", "16", "--rounds", "50"],
    ["distopt", "list", "algorithms"],
    ["distopt", "export", "runs", "--out", "all.csv"],
    ["python", "-c", PYTHON_LINE],
)


def main() -> None:
    """Build, check, install and run; the first thing that is wrong ends it with a line that says what."""
    version = checked_version()
    wheel, archive = built(version)
    compare(wheel, archive, version)
    said = [installed(file) for file in (wheel, archive)]
    if said[0] != said[1]:
        sys.exit(f"the wheel and the source archive compute different numbers: {said[0]} and {said[1]}")
    print(f"ready: {wheel.relative_to(ROOT)} and {archive.relative_to(ROOT)}; nothing was uploaded")


def checked_version() -> str:
    """The version, where git has nothing uncommitted and the newest heading of the changelog names it."""
    if changed := output(["git", "status", "--porcelain"], ROOT):
        sys.exit(f"commit or remove these first:\n{changed}")
    version = re.findall(r'__version__ = "(.+)"', (ROOT / "distopt" / "_version.py").read_text())[0]
    headings: list[str] = re.findall(r"^## (?:Unreleased \()?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    if headings[:1] != [version]:
        sys.exit(f"CHANGELOG.md: the newest heading is not that of {version}, the version in distopt/_version.py")
    return str(version)


def built(version: str) -> tuple[Path, Path]:
    """The wheel and the source archive, both made of the checkout: the wheel by way of the archive."""
    for old in DIST.glob("*"):
        old.unlink()
    run([sys.executable, "-m", "build", "--outdir", str(DIST)], ROOT)
    wheel, archive = DIST / f"distopt-{version}-py3-none-any.whl", DIST / f"distopt-{version}.tar.gz"
    run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(archive)], ROOT)
    return wheel, archive


def compare(wheel: Path, archive: Path, version: str) -> None:
    """Both hold each file of the package that git knows, as it is, and the wheel holds nothing else of ours."""
    tracked = output(["git", "ls-files", *FOLDERS], ROOT).splitlines()
    with zipfile.ZipFile(wheel) as inside:
        wrong = [name for name in tracked if moved(name) not in inside.namelist()]
        wrong += [name for name in tracked if name not in wrong and inside.read(moved(name)) != content(name)]
        more = {name for name in inside.namelist() if f"distopt-{version}.dist-info/" not in name}
        wrong += sorted(more - {moved(name) for name in tracked})
    with tarfile.open(archive) as packed:
        there = {entry.name.partition("/")[2]: entry for entry in packed if entry.isfile()}
        for name in tracked:
            file = packed.extractfile(there[name]) if name in there else None
            wrong += [] if file is not None and file.read() == content(name) else [f"{name} (source archive)"]
    if wrong:
        sys.exit("these are missing, changed or too many:\n" + "\n".join(wrong))
    print(f"both hold the {len(tracked)} files of the package")


def moved(name: str) -> str:
    """Where a file of the checkout is in a wheel."""
    folder, _, rest = name.partition("/")
    return f"{FOLDERS[folder]}/{rest}"


def content(name: str) -> bytes:
    """A file of the checkout."""
    return (ROOT / name).read_bytes()


def installed(file: Path) -> str:
    """What Python prints in a new environment in which a file, and nothing of the checkout, is installed."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        venv.create(place / "env", with_pip=True)
        tools = place / "env" / "bin"
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        run([str(tools / "python"), "-m", "pip", "install", "--quiet", *constraints, str(file)], place)
        said = ""
        for name, *words in COMMANDS:
            said = output([str(tools / name), *words], place)
            print(f"{file.name}: {name} {words[0]}: {said.splitlines()[-1].strip()}")
        return said


def run(command: Sequence[str], where: Path) -> None:
    """Run a command that has to succeed, and show what it prints."""
    print("+", *command, flush=True)
    if subprocess.run(command, cwd=where, env=surroundings(), check=False).returncode:
        sys.exit(f"failed: {' '.join(command)}")


def output(command: Sequence[str], where: Path) -> str:
    """What a command that has to succeed prints."""
    done = subprocess.run(command, cwd=where, env=surroundings(), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout.rstrip()


def surroundings() -> dict[str, str]:
    """The environment, without what would lead Python to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


if __name__ == "__main__":
    main()
