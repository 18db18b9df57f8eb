"""Makes the pictures of docs/gallery.md again, by the commands that stand there.

Usage: python benchmarks/gallery.py [NAME ...]

A section with a picture gallery-NAME has a block of commands, and names the file that they write. The commands run in build/gallery.
Of a page Chromium makes a picture, without any network; #... behind its name says what the page shows. Other pictures are left as they are.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGE = DOCS / "gallery.md"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SIZE = "1320,1385"  # of the picture of a page
STARTS = {
    "distopt": [sys.executable, "-m", "distopt"],
    "python": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}


class Section(NamedTuple):
    """A picture of the page: its file in docs/, the commands above it, and the file that they write, with # and more if it is a page."""

    picture: str
    commands: list[str]
    made: str

    @property
    def name(self) -> str:
        return self.picture.removeprefix("gallery-").partition(".")[0]


def sections(text: str) -> list[Section]:
    """The sections whose pictures are this page's own."""
    found = []
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        for picture in re.findall(r"!\[[^\]]+\]\((gallery-[\w.-]+)\)", part):
            (block,) = re.findall(r"```sh\n(.*?)```", part, re.S)
            made = re.search(r"`(\S+\.(?:png|gif|html)(?:#\S+)?)`", part)
            assert made is not None, f"{picture}: the section names no file that its commands write"
            found.append(Section(picture, block.splitlines(), made.group(1)))
    return found


def run(command: str, where: Path) -> None:
    first, *words = shlex.split(command)
    done = subprocess.run([*STARTS[first], *words], cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command}\n{done.stdout}{done.stderr}")


def photograph(page: Path, shown: str, picture: Path) -> None:
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        sys.exit(f"{picture.name} needs Chromium: make browser, or apt-get install chromium")
    options = [
        "--headless",
        "--no-sandbox",
        "--hide-scrollbars",
        "--virtual-time-budget=20000",
        f"--window-size={SIZE}",
    ]
    address = f"file://{page.resolve()}" + (f"#{shown}" if shown else "")
    subprocess.run([browser, *options, f"--screenshot={picture}", address], check=True, capture_output=True)


def make(section: Section, where: Path, docs: Path = DOCS) -> Path:
    """Run the commands in the folder ``where``, and put the picture into ``docs``."""
    for each in ("examples", "launch"):
        if not (where / each).exists():
            (where / each).symlink_to(ROOT / each)
    for command in section.commands:
        run(command, where)
    made, _, shown = section.made.partition("#")
    picture = docs / section.picture
    if made.endswith(".html"):
        photograph(where / made, shown, picture)
    else:
        shutil.copy(where / made, picture)
    return picture


def main(names: Sequence[str]) -> None:
    known = {section.name: section for section in sections(PAGE.read_text())}
    for name in names:
        if name not in known:
            sys.exit(f"no picture {name!r}; there are: {', '.join(known)}")
    where = ROOT / "build" / "gallery"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    for name in names or known:
        print(make(known[name], where), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
