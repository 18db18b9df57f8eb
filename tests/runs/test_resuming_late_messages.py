"""What is under way, and what sleepers hold, goes into checkpoints: a resumed run has the bits of an undisturbed one."""

from __future__ import annotations

import pytest
from helpers.surviving import ASK, call, same_folders, short, struck

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.parametrize("words", [["--delay", "0..3", "--drop-messages", "0.2"], ["--sleep", "0.3"]], ids=" ".join)
def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    ask = [*ASK, "--rounds", "40", "--algorithm", "robust_push_diging:lr=0.02", "--record", "x,w", *words]
    assert call(*ask, "--out", "a").exit_code == 0
    short(monkeypatch)
    with struck(18):
        assert call(*ask, "--out", "b", "--checkpoint-every", "5").exit_code == 143
    last = call("resume", "b")
    assert last.exit_code == 0 and "goes on from round" in last.stdout, last.output
    same_folders("a", "b")
