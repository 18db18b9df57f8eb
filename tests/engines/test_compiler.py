"""The C++ compiler and the folder of what it makes: code is loaded only from where nobody else can write, and what fails says so."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import needs
from helpers.asking import ASK, call

from distopt.codegen import folder as place
from distopt.codegen.folder import CompileWarning, exposed, own
from distopt.engines import local
from distopt.engines.local import compiler
from distopt.engines.local.compiler import fault, settle

ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home folder of the test's own, and nothing remembered."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv(compiler.VARIABLE, "")
    for name in ("XDG_CACHE_HOME", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compiler, "_settled", set())
    forget()
    yield
    forget()


def forget() -> None:
    place._private.cache_clear()
    compiler._tried.cache_clear()


def test_the_folder_is_the_users_own_with_mode_0700(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for expected in (tmp_path / "home" / ".cache", tmp_path / "x"):
        folder = settle()
        assert folder == expected / "distopt" / "inductor"
        assert os.environ[compiler.VARIABLE] == str(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
        monkeypatch.setenv(compiler.VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv(compiler.VARIABLE, "")
    assert settle() == tmp_path / "home" / ".cache" / "distopt" / "inductor", "a relative one does not count"


def test_a_folder_that_torch_chose_is_not_taken_and_one_of_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Path(tempfile.gettempdir()) / "torchinductor_somebody"
    monkeypatch.setenv(compiler.VARIABLE, str(chosen))
    assert settle() == tmp_path / "home" / ".cache" / "distopt" / "inductor"
    assert not chosen.exists()
    monkeypatch.setenv(compiler.VARIABLE, str(tmp_path / "mine"))
    assert settle() == tmp_path / "mine"


def planted(how: str, home: Path) -> Path:
    """A cache that is not the user's alone."""
    folder = home / ".cache" / "distopt" / "inductor"
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
        found = settle()
    assert "XDG_CACHE_HOME" in str(told[0].message)
    assert found != folder
    assert found.parent == Path(tempfile.gettempdir())
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settle() == found, "one private folder, and one warning"
    shutil.rmtree(found)


def test_a_home_that_cannot_be_written_has_a_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.devnull)
    with pytest.warns(CompileWarning, match="the cache folder cannot be made"):
        found = own("loops")
    assert exposed(found) is None
    shutil.rmtree(found)


def test_a_sticky_folder_above_does_no_harm(tmp_path: Path) -> None:
    above = tmp_path / "shared"
    (above / "mine").mkdir(parents=True)
    above.chmod(0o1777)
    assert exposed(above / "mine") is None
    above.chmod(0o777)
    assert exposed(above / "mine") == f"{above} can be written by others"


SCRIPTS: dict[str, tuple[str, str]] = {
    "fails": (
        "echo 'cc1plus: fatal error: no space left' >&2; exit 1",
        r"does not work: cc1plus: fatal error: no space left \(exit code 1\)",
    ),
    "fails on stdout": ("echo out of licences; exit 3", r"does not work: out of licences \(exit code 3\)"),
    "fails in silence": ("exit 1", r"does not work: it said nothing \(exit code 1\)"),
    "makes nothing": ("exit 0", r"does not work: it said nothing \(exit code 0\)"),
    "makes no library": ('while [ "$1" != -o ]; do shift; done; echo text > "$2"', "cannot be loaded"),
    "no program": ("", "cannot be run"),
}


@pytest.mark.parametrize("how", list(SCRIPTS))
def test_a_compiler_that_does_not_work_is_told_of_in_a_line(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, says = SCRIPTS[how]
    (tmp_path / "bin").mkdir()
    gxx = tmp_path / "bin" / "g++"
    gxx.write_text(f"#!/bin/sh\n{script}\n" if script else "#!/no/such/shell\n")
    gxx.chmod(0o755)
    monkeypatch.setenv("PATH", str(gxx.parent), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    forced = call(*ASK, "--compiled")
    assert forced.exit_code == 2
    (line,) = [line for line in forced.stderr.splitlines() if line.startswith("distopt: ")]
    assert line.startswith("distopt: the rounds cannot be compiled: ")
    assert line.endswith("leave --compiled out")
    monkeypatch.setattr(local, "predicted_seconds", lambda *_: (2.0, 1.0))
    fallen = call(*ASK, "--out", "o")
    assert fallen.exit_code == 0, fallen.output
    (line,) = [line for line in fallen.stderr.splitlines() if line.startswith("distopt: ")]
    assert line.startswith("distopt: warning: the rounds are not compiled and run several times slower: ")
    assert re.search(says, line)


def test_a_compiler_that_cxx_names_and_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert fault() == "there is no C++ compiler 'no-such-compiler', which CXX names; install it, or unset CXX"


@needs.compiler
def test_a_compiler_that_works_has_no_fault_and_leaves_nothing() -> None:
    assert fault() is None
    assert list(settle().iterdir()) == []


@needs.compiler
@pytest.mark.parametrize("where", ["TMPDIR", "XDG_CACHE_HOME"])
def test_blanks_in_names_of_folders(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = tmp_path / "a b"
    blank.mkdir()
    if where == "XDG_CACHE_HOME":
        monkeypatch.setenv("XDG_CACHE_HOME", str(blank))
        with pytest.warns(CompileWarning, match="has a blank or a quote in its name"):
            assert fault() is None
        return
    monkeypatch.setattr(tempfile, "tempdir", str(blank))
    assert fault() is None, "the folder is not there"
    assert compiler.options() == {"cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": True}
    monkeypatch.setenv(compiler.VARIABLE, "")
    monkeypatch.setenv("HOME", os.devnull)
    with pytest.warns(CompileWarning):
        assert (fault() or "").endswith("has a blank or a quote in its name; set XDG_CACHE_HOME to one without")


def script() -> str:
    return (
        "import sys, distopt\n"
        "assert not any(name.startswith(('torch._inductor', 'torch._dynamo')) for name in sys.modules)\n"
        "distopt.simulate('ring', agents=3, scenario='moving_target', algorithm='dgd', rounds=3, mode='compiled')\n"
        "import torch._inductor.codecache as cache\n"
        "print(cache._HEADER_DIR)\n"
        "print(*sorted({line.split(maxsplit=5)[5].strip() for line in open('/proc/self/maps') if '.so' in line}), sep='\\n')\n"
    )


@needs.compiler
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the libraries of a process as Linux shows them")
def test_a_compiled_run_loads_nothing_from_the_temporary_folder(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    bait = temporary / f"torchinductor_{getpass.getuser()}"
    bait.mkdir()
    bait.chmod(0o777)
    environment = {key: value for key, value in os.environ.items() if key != compiler.VARIABLE} | {
        "TMPDIR": str(temporary)
    }
    done = subprocess.run(
        [sys.executable, "-c", script()], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    headers, *libraries = done.stdout.splitlines()
    cache = tmp_path / "home" / ".cache" / "distopt" / "inductor"
    assert headers == str(cache / "precompiled_headers")
    assert [library for library in libraries if library.startswith(str(temporary))] == []
    assert [library for library in libraries if library.startswith(str(cache))], (
        "the rounds were compiled, and loaded from there"
    )
    assert list(bait.iterdir()) == [], "nothing was put there either"
