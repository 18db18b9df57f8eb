"""The folder of compiled code: it is loaded only from where nobody else can write."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from distopt.codegen import folder as place
from distopt.codegen.folder import CompileWarning, exposed, own

ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home folder of the test's own, and nothing remembered."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    place._private.cache_clear()
    yield
    place._private.cache_clear()


def test_the_folder_is_the_users_own_with_mode_0700(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for expected in (tmp_path / "home" / ".cache", tmp_path / "x"):
        folder = own("functions")
        assert folder == expected / "distopt" / "functions"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert own("functions") == tmp_path / "home" / ".cache" / "distopt" / "functions", "a relative one does not count"


def planted(how: str, home: Path) -> Path:
    """A cache that is not the user's alone."""
    folder = home / ".cache" / "distopt" / "functions"
    folder.mkdir(parents=True, mode=0o700)
    if how == "file":
        folder.rmdir()
        folder.write_text("")
    elif how.startswith("owner"):
        os.chown(folder.parent if how == "owner above" else folder, 12345, 12345)
    elif how == "link":
        folder.rmdir()
        elsewhere = home / "elsewhere"
        elsewhere.mkdir()
        elsewhere.chmod(0o777)
        folder.symlink_to(elsewhere)
    else:
        (folder.parent if how == "mode above" else folder).chmod(0o777 if how != "sticky" else 0o1777)
    return folder


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("mode", "can be written by others"),
        ("mode above", "can be written by others"),
        ("sticky", "can be written by others"),
        ("link", "elsewhere can be written by others"),
        ("file", "cannot be made"),
        *(
            pytest.param(
                how,
                "belongs to another user",
                marks=pytest.mark.skipif(not ROOT, reason="only root can give files away"),
            )
            for how in ("owner", "owner above")
        ),
    ],
)
def test_what_others_may_have_written_is_never_used(how: str, says: str, tmp_path: Path) -> None:
    folder = planted(how, tmp_path / "home")
    with pytest.warns(CompileWarning, match=says) as told:
        found = own("functions")
    assert "XDG_CACHE_HOME" in str(told[0].message)
    assert found != folder
    assert found.parent == Path(tempfile.gettempdir())
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert own("functions") == found, "one private folder, and one warning"
    shutil.rmtree(found)


def test_a_home_that_cannot_be_written_has_a_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.devnull)
    with pytest.warns(CompileWarning, match="the cache folder cannot be made"):
        found = own("functions")
    assert exposed(found) is None
    shutil.rmtree(found)


def test_a_sticky_folder_above_does_no_harm(tmp_path: Path) -> None:
    above = tmp_path / "shared"
    (above / "mine").mkdir(parents=True)
    above.chmod(0o1777)
    assert exposed(above / "mine") is None
    above.chmod(0o777)
    assert exposed(above / "mine") == f"{above} can be written by others"
