"""Shell completion is set up: which shell runs here, the script in a folder of the user's, and the line that reads it.

``--install-completion`` may be given again: what stands there already is written over or left.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import click

from distopt.cli.completing import SHELLS, script, words
from distopt.cli.options import Command
from distopt.cli.polite import polite
from distopt.errors import InputError, printable

NOTE = "# completion of distopt"


def current() -> str:
    """The shell that runs this process: the nearest among its parents, or else the one of $SHELL.

    Raises:
        InputError: it is none for which there is a script.
    """
    asked = os.getppid()
    while asked > 1:
        try:
            name = Path(f"/proc/{asked}/comm").read_text().strip().removeprefix("-")
            parent = int(Path(f"/proc/{asked}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # no Linux
            break
        if name in SHELLS:
            return name
        asked = parent
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise InputError(
            f"this shell is not known ({name or 'no $SHELL'}); name it: --install-completion {'|'.join(SHELLS)}"
        )
    return name


def checked(shell: str) -> str:
    """The shell asked for; ``""`` for the current one.

    Raises:
        InputError: there is no script for it.
    """
    if shell and shell not in SHELLS:
        raise InputError(f"no completion for {shell!r}; there is one for {', '.join(SHELLS)}")
    return shell or current()


def install(cli: click.Command, shell: str) -> list[Path]:
    """Write the script of a shell, and have the shell read it. Returns the files that were changed; none where all is there.

    Raises:
        InputError: a file cannot be read or written.
    """
    text = script(cli, shell)
    home = Path.home()
    if shell == "fish":  # reads this folder by itself
        place = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "completions" / "distopt.fish"
        return [place] if _written(place, text) else []
    place = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "distopt" / f"completion.{shell}"
    settings = home / ".bashrc" if shell == "bash" else Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"
    line = f"[ -r {shlex.quote(str(place))} ] && . {shlex.quote(str(place))}  {NOTE}"
    changed = [place] if _written(place, text) else []
    return [*changed, settings] if _appended(settings, line) else changed


def _appended(settings: Path, line: str) -> bool:
    """Add a line at the end of the user's settings, unless it is there; whether it was added. Nothing else in the file is touched.

    A line of an earlier installation stays: it reads its script only where that can be read.
    """
    try:
        before = settings.read_bytes() if settings.exists() else b""
        if line.encode() in before.splitlines():
            return False
        with settings.open("ab") as file:  # what is there is not written again, so it cannot be lost
            file.write((b"\n" if before and not before.endswith(b"\n") else b"") + f"{line}\n".encode())
    except OSError as error:
        raise InputError(f"{settings}: {error.strerror or error}; --show-completion prints the script") from error
    return True


def _written(file: Path, text: str) -> bool:
    """Write a text where it does not stand already; whether that was so."""
    try:
        if file.exists() and file.read_text(errors="replace") == text:
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}; --show-completion prints the script") from error
    return True


def _installed(context: click.Context, _: click.Parameter, shell: str | None) -> None:
    if shell is None or context.resilient_parsing:
        return
    with polite(False):
        shell = checked(shell)
        changed = install(context.command, shell)
        for path in changed:
            click.echo(f"written: {printable(str(path))}")
        click.echo(f"{shell} completes distopt in new terminals" + ("" if changed else "; it was installed already"))
    context.exit()


def _shown(context: click.Context, _: click.Parameter, shell: str | None) -> None:
    if shell is None or context.resilient_parsing:
        return
    with polite(False):
        click.echo(script(context.command, checked(shell)), nl=False)
    context.exit()


def _option(name: str, callback: Callable[..., None], help: str) -> Callable[[Command], Command]:
    return click.option(
        name,
        is_flag=False,
        flag_value="",
        metavar="[bash|zsh|fish]",
        expose_value=False,
        is_eager=True,
        callback=callback,
        shell_complete=words(*SHELLS),
        help=help,
    )


INSTALL = _option(
    "--install-completion",
    _installed,
    "Let the TAB key complete names, parameters and files, in this shell or the one named.",
)
SHOW = _option("--show-completion", _shown, "Print the script that does it.")
