"""``make release`` refuses what should not be released. That it passes is shown by running it."""

import importlib.util
import subprocess
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
FILES = {
    "distopt/_version.py": '__version__ = "0.3.0"\n',
    "distopt/references.bib": "@article{a}\n",
    "scenarios/data/weather.csv": "1,2\n",
    "topologies/ring.py": "",
    "CHANGELOG.md": "# Changelog\n\n## Unreleased (0.3.0)\n\n## 0.2.0 (2026-01-31)\n",
}


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, at work on a small checkout without uncommitted changes."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for words in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "--message", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    return script


def packed(place: Path, wheel_lacks: str = "", archive_lacks: str = "", more: str = "") -> tuple[Path, Path]:
    """A wheel and a source archive of the small checkout, without some file or with one more."""
    names = [name for name in FILES if name != "CHANGELOG.md"]
    wheel, archive = place / "a.whl", place / "a.tar.gz"
    with zipfile.ZipFile(wheel, "w") as file:
        for name in names:
            if name != wheel_lacks:
                file.write(place / name, name if name.startswith("distopt/") else f"distopt/{name}")
        file.writestr("distopt-0.3.0.dist-info/METADATA", "")
        if more:
            file.writestr(more, "")
    with tarfile.open(archive, "w:gz") as packing:
        for name in names:
            if name != archive_lacks:
                packing.add(place / name, f"distopt-0.3.0/{name}")
    return wheel, archive


def test_a_clean_tree_with_its_version_in_the_changelog_passes(release: ModuleType, tmp_path: Path) -> None:
    assert release.checked_version() == "0.3.0"
    release.compare(*packed(tmp_path), "0.3.0")


def test_uncommitted_files_are_refused(release: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "new.py").touch()
    with pytest.raises(SystemExit, match="new.py"):
        release.checked_version()


def test_a_changelog_without_the_version_is_refused(release: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.2.0 (2026-01-31)\n")
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "b"], cwd=tmp_path, check=True
    )
    with pytest.raises(SystemExit, match="not that of 0.3.0"):
        release.checked_version()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"wheel_lacks": "scenarios/data/weather.csv"}, "scenarios/data/weather.csv"),
        ({"wheel_lacks": "topologies/ring.py"}, "topologies/ring.py"),
        ({"archive_lacks": "distopt/references.bib"}, r"distopt/references.bib \(source archive\)"),
        ({"more": "distopt/notes.txt"}, "distopt/notes.txt"),
    ],
)
def test_files_that_are_missing_or_too_many_are_named(
    release: ModuleType, tmp_path: Path, wrong: dict[str, str], told: str
) -> None:
    with pytest.raises(SystemExit, match=told):
        release.compare(*packed(tmp_path, **wrong), "0.3.0")


def test_a_changed_file_is_named(release: ModuleType, tmp_path: Path) -> None:
    files = packed(tmp_path)
    (tmp_path / "distopt" / "references.bib").write_text("@article{b}\n")
    with pytest.raises(SystemExit, match="references.bib"):
        release.compare(*files, "0.3.0")
