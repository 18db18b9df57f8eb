"""What the TAB key offers: asked as the scripts ask, and typed in real shells."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
import typing
from pathlib import Path

import click
import pytest
from helpers.asking import call

from distopt.algorithms.bandit import Form
from distopt.catalog import registry
from distopt.cli import completing, installing
from distopt.cli.main import cli
from distopt.network import weights
from distopt.scenarios._sets import Form as Set

BREAKS = " \t\n\"'@><=;|&(:"  # those of bash


def offered(line: str, monkeypatch: pytest.MonkeyPatch, breaks: str = "") -> list[str]:
    """The answer to the script of bash for a line up to the cursor."""
    for name, value in (("COMP_WORDS", line), ("COMP_CWORD", "-1"), ("COMP_BREAKS", breaks)):
        monkeypatch.setenv(name, value)
    answer = completing.Bash(cli, {}, "distopt", "_DISTOPT_COMPLETE").complete()
    return [each.partition(",")[2] for each in answer.splitlines()]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("distopt sim", ["simulate"]),
        ("distopt simulate rin", ["ring"]),
        ("distopt simulate ring --algo", ["--algorithm"]),
        ("distopt simulate ring --algorithm gtad", ["gtadam"]),
        ("distopt simulate ring --algorithm=gtad", ["gtadam"]),
        ("distopt simulate ring --algorithm gtadam:l", ["gtadam:lr="]),
        ("distopt simulate ring --algorithm gtadam:lr=0.1,b", ["gtadam:lr=0.1,b1=", "gtadam:lr=0.1,b2="]),
        ("distopt simulate ring --algorithm gtadam:b1=0.5,b", ["gtadam:b1=0.5,b2="]),  # b1 is given
        ("distopt simulate ring --algorithm gt:form=", ["gt:form=cta", "gt:form=atc"]),
        ("distopt simulate ring --algorithm gt:lr=inv", ["gt:lr=inverse", "gt:lr=inverse_sqrt"]),
        ("distopt simulate ring --algorithm 'gt:form=[cta,a", ["gt:form=[cta,atc"]),
        ("distopt simulate ring --algorithm 'gt:direction=adam(b1=0.5,b2", ["gt:direction=adam(b1=0.5,b2="]),
        ("distopt simulate ring --algorithm 'gt:direction=adam(b1=0.5),fo", ["gt:direction=adam(b1=0.5),form="]),
        ("distopt simulate ring --algorithm no_such:l", []),
        ("distopt simulate ring --algorithm gt:lr=(((", []),
        ("distopt simulate ring --scenario digits_m", ["digits_mlp"]),
        (
            "distopt simulate ring --scenario stream:standardise=",
            ["stream:standardise=true", "stream:standardise=false"],
        ),
        ("distopt simulate ring --channel choco:compressor=top", ["choco:compressor=topk"]),
        ("distopt simulate ring --engine ra", ["ranks", "ray"]),
        ("distopt simulate ring --weights lazy", ["lazy_metropolis"]),
        ("distopt simulate ring --feedback two", ["two_point"]),
        ("distopt simulate ring --feedback two_point:", ["two_point:delta="]),
        ("distopt simulate ring --feasible ball:", ["ball:radius="]),
        ("distopt simulate ring --probe sharp", ["sharpness"]),
        ("distopt tune ring --dtype float3", ["float32"]),
        ("distopt list gtadam", ["gtadam"]),
        ("distopt list directio", ["directions"]),
        ("distopt show erdos_renyi:", ["erdos_renyi:p="]),
        ("distopt compare --metric consensus", ["consensus_error"]),
        ("distopt reproduce ef", ["ef-signsgd"]),
        ("distopt --install-completion ", ["bash", "zsh", "fish"]),
        ("distopt --install-completion z", ["zsh"]),
    ],
)
def test_what_is_offered(line: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered(line, monkeypatch) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("distopt simulate ring --algorithm gtadam:l", ["lr="]),
        ("distopt simulate ring --algorithm=gtadam:l", ["lr="]),
        ("distopt simulate ring --algorithm=gtad", ["gtadam"]),
        ("distopt simulate ring --algorithm gtadam:lr=0.1,b", ["0.1,b1=", "0.1,b2="]),
        ('distopt simulate ring --algorithm "gtadam:l', ["gtadam:lr="]),  # bash leaves a quoted word whole
        ("distopt simulate ring --algorithm 'gt' --scenario 'stream':wi", ["window="]),
    ],
)
def test_bash_is_told_the_part_of_a_word_that_it_replaces(
    line: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offered(line, monkeypatch, BREAKS) == found


def test_files_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "rule.py").write_text(
        "class Rule:\n    '''Mine.'''\n    def __init__(self, lr: float = 0.1, width: int = 3): ...\n"
        "    def init(self, x): ...\n    def update(self, g, state, x, mix): ...\n"
    )
    for name in ("my own.py", "my.toml", "my.txt", "broken.py"):
        (tmp_path / name).write_text("class (")
    assert offered("distopt simulate my", monkeypatch) == ["my/", "my\\ own.py", "my.toml"]
    assert offered("distopt simulate 'my o", monkeypatch) == ["my own.py"]
    assert offered("distopt simulate my\\ o", monkeypatch) == ["my\\ own.py"]
    assert offered("distopt simulate ring --algorithm my", monkeypatch) == ["my/", "my\\ own.py"]
    assert offered("distopt simulate ring --algorithm ./my/", monkeypatch) == ["./my/rule.py"]
    assert offered("distopt simulate ring --algorithm my/rule.py:w", monkeypatch) == ["my/rule.py:width="]
    assert offered("distopt simulate ring --algorithm broken.py:w", monkeypatch) == []
    assert offered("distopt simulate ring --algorithm gone/", monkeypatch) == []
    monkeypatch.setenv("HOME", str(tmp_path))
    assert offered("distopt simulate ring --algorithm ~/my/", monkeypatch) == ["~/my/rule.py"]
    assert offered("distopt resume my", monkeypatch) == ["my"]  # click asks the shell for files
    assert "my/" not in offered("distopt simulate ring --algorithm ", monkeypatch)


def test_words_that_stand_here_are_those_of_the_modules() -> None:
    assert (*weights.RULES, *weights.DEGREES) == completing.WEIGHTS
    context = click.Context(cli)
    for setting, known in (("feedback", Form), ("feasible", Set)):
        (option,) = [each for each in cli.commands["simulate"].params if each.name == setting]
        assert [each.value for each in option.shell_complete(context, "")] == list(typing.get_args(known))


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_entry_offers_its_parameters(kind: str) -> None:
    for name in registry.names(kind):
        found = completing.specs(kind, f"{name}:")
        assert [each.removeprefix(f"{name}:").removesuffix("=") for each in found] == registry.free(kind, name)


# ------------------------------------------------------------------------------------------------- in a process


def asked(shell: str, **told: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"_DISTOPT_COMPLETE": f"{shell}_complete", **told}
    command = [sys.executable, "-X", "importtime", "-m", "distopt"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("shell", completing.SHELLS)
def test_the_protocol_of_click_and_nothing_heavy(shell: str) -> None:
    line, word = "distopt simulate ring --algorithm gtadam:lr=0.1,ca", "gtadam:lr=0.1,ca"
    done = asked(shell, COMP_WORDS=line, COMP_CWORD=word if shell == "fish" else "4")
    assert (
        done.stdout.split()
        == {
            "bash": ["plain,gtadam:lr=0.1,cap="],
            "zsh": ["plain", "gtadam:lr=0.1,cap="],
            "fish": ["plain,gtadam:lr=0.1,cap="],
        }[shell]
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "distopt.catalog.entries" in imported
    assert not {"torch", "numpy", "scipy", "networkx", "matplotlib", "ray", "pandas"} & imported


# ----------------------------------------------------------------------------------------------- in real shells

STARTS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--private", "--no-config", "-i"],
}


def typed(shell: str, home: Path, *keys: str) -> str:
    """What a terminal shows while keys are pressed in a shell; None of the keys waits longer than it must."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "TERM": "xterm",
        "PS1": "> ",
    }
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(STARTS[shell][0], STARTS[shell], environment)
    termios.tcsetwinsize(terminal, (50, 200))  # no line is broken
    shown = b""
    try:
        for key in keys:
            os.write(terminal, key.encode())
            shown += _quiet(terminal)
        os.write(terminal, b"\x04")
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return shown.decode(errors="replace")


def _quiet(terminal: int, pause: float = 3.0, limit: float = 30.0) -> bytes:
    """What comes until nothing has come for a while."""
    shown, begun = b"", time.monotonic()
    while time.monotonic() - begun < limit and select.select([terminal], [], [], pause)[0]:
        shown += os.read(terminal, 65536)
    return shown


@pytest.mark.slow
@pytest.mark.parametrize("shell", completing.SHELLS)
def test_the_tab_key_in_a_real_shell(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(completing.script(cli, shell))
    shown = typed(
        shell,
        tmp_path,
        f"source {script}\r",
        "distopt simul\t",
        "ring --algorithm gtad\t",
        "--algorithm gtadam:l\t",
        "0.5,b1\t",
        "\x0c",  # draw the line again
    )
    drawn = re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|\(B)|\a", "", shown)
    assert "distopt simulate ring --algorithm gtadam --algorithm gtadam:lr=0.5,b1=" in drawn, shown


# --------------------------------------------------------------------------------------------------- installing


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(("shell", "settings"), [("bash", ".bashrc"), ("zsh", ".zshrc")])
def test_it_is_installed_once(shell: str, settings: str, home: Path) -> None:
    (home / settings).write_text("alias ll='ls -l'")  # without an end of line
    done = call("--install-completion", shell)
    place = home / ".local" / "share" / "distopt" / f"completion.{shell}"
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"written: {place}",
        f"written: {home / settings}",
        f"{shell} completes distopt in new terminals",
    ]
    text = (home / settings).read_text()
    assert text.splitlines() == ["alias ll='ls -l'", f"[ -r {place} ] && . {place}  {installing.NOTE}"]
    assert place.read_text() == call("--show-completion", shell).stdout
    again = call("--install-completion", shell)
    assert again.stdout == f"{shell} completes distopt in new terminals; it was installed already\n"
    assert (home / settings).read_text() == text
    place.write_text("old")
    assert call("--install-completion", shell).stdout.splitlines()[0] == f"written: {place}"
    assert (home / settings).read_text() == text


def test_a_folder_that_has_moved_is_named_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("--install-completion", "bash")
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "my data"))
    call("--install-completion", "bash")
    _, line = (home / ".bashrc").read_text().splitlines()  # the user's file is only added to
    assert f"'{home / 'my data'}/distopt/completion.bash'" in line
    assert subprocess.run(["bash", "-n", home / ".bashrc"], check=True).returncode == 0


def test_settings_are_kept_to_the_byte(home: Path) -> None:
    mine = b"printf 'a\rb'\r\n# completion of distopt is nice\r\n\xff"
    (home / ".bashrc").write_bytes(mine)
    call("--install-completion", "bash")
    after = (home / ".bashrc").read_bytes()
    assert after.startswith(mine + b"\n[ -r ") and after.endswith(f"{installing.NOTE}\n".encode())


def test_fish_reads_its_folder_by_itself(home: Path) -> None:
    done = call("--install-completion", "fish")
    place = home / ".config" / "fish" / "completions" / "distopt.fish"
    assert done.stdout.splitlines()[0] == f"written: {place}" and place.exists()


def test_what_cannot_be_installed(home: Path) -> None:
    done = call("--install-completion", "tcsh")
    assert done.exit_code == 2 and "no completion for 'tcsh'" in done.stderr
    (home / ".local").write_text("a file")
    done = call("--install-completion", "bash")
    assert done.exit_code == 2 and str(home) in done.stderr and "--show-completion" in done.stderr


def test_the_shell_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"{sys.executable} -c 'from distopt.cli.installing import current; print(current())'; true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "bash\n"
    monkeypatch.setattr(installing.os, "getppid", lambda: 1)
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert installing.current() == "fish"
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    done_here = call("--show-completion")
    assert done_here.exit_code == 2 and "not known (tcsh)" in done_here.stderr
