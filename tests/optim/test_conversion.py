"""The ordinary script of examples/ becomes a decentralised one by the diff that docs/training-script.md shows."""

import re
from pathlib import Path

import pytest
from helpers import needs
from helpers.launching import ROOT, Ended, started

pytestmark = needs.forks

SCRIPT = ROOT / "examples" / "train_digits.py"


def difference() -> list[list[str]]:
    """The hunks of the page's diff."""
    (text,) = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "training-script.md").read_text(), re.S)
    return [hunk.strip("\n").splitlines() for hunk in re.split(r"^@@\n", text, flags=re.M)]


def converted(text: str) -> str:
    """The script with each hunk applied; its lines must be there once, one after the other."""
    for hunk in difference():
        old, new = ("".join(f"{line[1:]}\n" for line in hunk if line[:1] != sign) for sign in "+-")
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def run(text: str, world: int, place: Path) -> tuple[list[Ended], list[float]]:
    """Train in one epoch; the accuracies that rank 0 prints."""
    script = place / "script.py"
    assert text.count("epochs = 10") == 1
    script.write_text(text.replace("epochs = 10", "epochs = 2"))
    ended = started(script, [], world, place)
    assert [each.code for each in ended] == [0] * world, ended
    return ended, [float(found) for found in re.findall(r"accuracy ([\d.]+)%", ended[0].said)]


def test_the_diff_has_the_lines_that_the_page_counts() -> None:
    plain, changed = SCRIPT.read_text(), converted(SCRIPT.read_text())
    assert "distopt" not in plain.split('"""')[2] and "distributed" not in plain
    added = [line[1:] for hunk in difference() for line in hunk if line.startswith("+") and line[1:].strip()]
    ours = [line for line in added if "GTAdam" in line]
    torchruns = [line for line in added if re.search(r"import torch.distributed|DistributedSampler|init_process", line)]
    testing = added[-4:]
    assert (len(ours), len(torchruns)) == (2, 4) and sorted(added) == sorted([*ours, *torchruns, *testing])
    loop = plain[plain.index("def train") : plain.index("@torch.no_grad")]
    assert loop in changed, "the training loop stays as it is"


def test_both_scripts_learn(tmp_path: Path) -> None:
    _, alone = run(SCRIPT.read_text(), 1, tmp_path)
    ended, together = run(converted(SCRIPT.read_text()), 2, tmp_path)
    assert len(alone) == len(together) == 2 and ended[1].said == ""
    assert alone[-1] > 75 and together[-1] > 75


@pytest.mark.slow
def test_the_page_says_where_it_ends(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    for text, world in ((SCRIPT.read_text(), 1), (converted(SCRIPT.read_text()), 4)):
        script.write_text(text)
        last = started(script, [], world, tmp_path)[0].said.split("accuracy ")[-1]
        assert 94 < float(last.split("%")[0]) < 97
