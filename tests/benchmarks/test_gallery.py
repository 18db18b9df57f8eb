"""The gallery: its pictures are there, its commands are known, and the script makes pictures by them."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "gallery.md").read_text()
PARTS = re.split(r"^## ", TEXT, flags=re.M)[1:]


@pytest.fixture(scope="module")
def gallery() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import gallery

        yield gallery
        del sys.modules["gallery"]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.partition("\n")[0])
def test_a_section_has_a_picture_a_command_and_two_sentences(part: str) -> None:
    (picture,) = re.findall(r"!\[[^\]]+\]\(([\w.-]+)\)", part)
    assert (ROOT / "docs" / picture).stat().st_size > 10_000
    assert re.search(r"```sh\n|`python benchmarks/", part)
    below = re.sub(r"`[^`]*`|\([^)]*\)", "", part.rpartition(".png)")[2] or part.rpartition(".gif)")[2])
    assert len(re.findall(r"[.:;](?=\s)", below)) >= 2


def test_all_pictures_of_the_gallery_are_on_the_page(gallery: ModuleType) -> None:
    made = [section.picture for section in gallery.sections(TEXT)]
    assert sorted(made) == sorted(path.name for path in (ROOT / "docs").glob("gallery-*"))
    assert all(command.split()[0] in gallery.STARTS for each in gallery.sections(TEXT) for command in each.commands)


@pytest.mark.slow
def test_a_picture_is_made_by_its_command(gallery: ModuleType, tmp_path: Path) -> None:
    (section,) = (each for each in gallery.sections(TEXT) if each.name == "network")
    (tmp_path / "docs").mkdir()
    made = gallery.make(section, tmp_path, tmp_path / "docs")
    with Image.open(made) as new, Image.open(ROOT / "docs" / section.picture) as old:
        assert new.size == old.size and made.name == "gallery-network.png"


def test_a_command_that_fails_says_why(gallery: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nowhere.py"):
        gallery.run("python nowhere.py", tmp_path)
    with pytest.raises(SystemExit, match=r"no picture 'sunset'; there are: tracking, report"):
        gallery.main(["sunset"])


@pytest.mark.slow
def test_a_page_is_photographed(gallery: ModuleType, tmp_path: Path) -> None:
    if not any(map(shutil.which, gallery.CHROMIUM)):
        pytest.skip("no browser: make browser, or apt-get install chromium")
    (tmp_path / "page.html").write_text("<body style='background: #0072B2'>")
    gallery.photograph(tmp_path / "page.html", "", tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.convert("RGB").getpixel((5, 5)) == (0, 0x72, 0xB2)


def test_without_a_browser_the_script_says_what_to_install(
    gallery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="needs Chromium: make browser"):
        gallery.photograph(tmp_path / "page.html", "", tmp_path / "picture.png")
