"""Every command and every block of docs/training-script.md runs, on two ranks and in few steps."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from helpers import needs
from helpers.launching import ROOT, started

pytestmark = needs.forks

PAGE = (ROOT / "docs" / "training-script.md").read_text()
OTHERS = ("README.md", "docs/cluster.md", "docs/gallery.md", "docs/quick-start.md")
PAGES = [PAGE, *((ROOT / name).read_text() for name in OTHERS)]
SHELL = [
    line.split(" #")[0].strip()
    for page in PAGES
    for text in re.findall(r"```sh\n(.*?)```", page, re.S)
    for line in text.splitlines()
]
HERE = list(dict.fromkeys(line for line in SHELL if re.match(r"torchrun .*launch/train\.py", line)))
ELSEWHERE = list(dict.fromkeys(line for line in SHELL if "SCRIPT=launch/train.py" in line))
BLOCKS = [
    text
    for page in PAGES[:2]
    for text in re.findall(r"```python\n(.*?)```", page, re.S)
    if (page is PAGE and "register_comm_hook" not in text) or "distopt.optim" in text
]

BEFORE = """
import torch
import torch.distributed as dist
from torch import nn

from distopt.optim import GTAdam

dist.init_process_group("gloo")
rank = dist.get_rank()
loss_fn = nn.CrossEntropyLoss()
draw = torch.Generator().manual_seed(rank)
loader = [(torch.randn(8, 6, generator=draw), torch.randint(0, 3, (8,), generator=draw)) for _ in range(4)]


def evaluate(model):
    model.eval()
    right = (model(loader[0][0]).argmax(1) == loader[0][1]).float().mean()
    model.train()
    return float(right)


def begun():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = GTAdam(model.named_parameters(), lr=0.01)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    return model, optimizer

"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", ROOT / "launch" / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_commands_and_blocks() -> None:
    assert len(HERE) >= 5 and len(ELSEWHERE) >= 2 and len(BLOCKS) >= 7


@pytest.mark.parametrize("line", [HERE[0], *(pytest.param(line, marks=pytest.mark.slow) for line in HERE[1:])])
def test_a_command_of_the_page_runs(line: str, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    words = shlex.split(line.split("launch/train.py ")[1])
    ended = started(ROOT / "launch" / "train.py", [*words, "--steps", "6", "--report-every", "3"], 2, tmp_path)
    assert [each.code for each in ended] == [0, 0], ended
    assert "step 6 " in ended[0].said


@pytest.mark.parametrize("line", ELSEWHERE)
def test_the_options_of_commands_for_several_machines_exist(line: str, script: ModuleType) -> None:
    assert script.ask(shlex.split(re.split(r"launch/(?:torchrun.sh|slurm.sbatch) ", line)[1])).optimizer


def test_the_blocks_of_the_page_run(tmp_path: Path) -> None:
    text = BEFORE + "\n".join(f"model, optimizer = begun()\n{block}" for block in BLOCKS)
    (tmp_path / "blocks.py").write_text(f"{text}\nprint('end')\n")
    ended = started(tmp_path / "blocks.py", [], 2, tmp_path)
    assert [each.code for each in ended] == [0, 0], ended[0].said
    assert all(each.said.endswith("end\n") for each in ended)


def test_a_resumed_run_with_dropout_has_the_same_bits(tmp_path: Path) -> None:
    """The block of the page, with two steps between its two halves and after them."""
    (block,) = (each for each in BLOCKS if "get_rng_state" in each)
    saving, loading = re.split(r"^(?=content = torch.load)", block, flags=re.M)
    text = BEFORE.replace("nn.ReLU()", "nn.Dropout()")
    steps = """
for x, y in loader[:2]:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
ends.append([each.detach().clone() for each in model.parameters()])
"""
    equal = "print(all(torch.equal(a, b) for a, b in zip(*ends)))"
    (tmp_path / "resumed.py").write_text(
        f"{text}\nends = []\nmodel, optimizer = begun()\n{saving}{steps}{loading}{steps}{equal}\n"
    )
    ended = started(tmp_path / "resumed.py", [], 2, tmp_path)
    assert [(each.code, each.said) for each in ended] == [(0, "True\n")] * 2, ended[0].said


def test_the_memory_is_what_the_page_says(tmp_path: Path) -> None:
    """In copies of the model."""
    (tmp_path / "memory.py").write_text(
        BEFORE.replace("GTAdam(model.named_parameters(), lr=0.01)", "None").partition("def begun")[0]
        + """
for channel in ("exact", "choco:compressor=sign(segments=tensors),gamma=0.4"):
    model = nn.Linear(600, 300, bias=False)
    optimizer = GTAdam(model.named_parameters(), lr=0.01, channel=channel)
    for t in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 600, generator=draw)).square().sum().backward()
        optimizer.step()
    print({name: round(count / (4 * 600 * 300), 1) for name, count in optimizer.memory().items()})
"""
    )
    ended = started(tmp_path / "memory.py", [], 3, tmp_path)  # on a ring of three each has two neighbours
    assert [each.code for each in ended] == [0] * 3, ended
    exact, signs = (eval(line) for line in ended[0].said.splitlines() if line.startswith("{"))
    assert exact == {"x": 1, "state": 4, "memory of compression": 0, "gradient": 1, "compiled rounds": 0, "messages": 6}
    assert signs["memory of compression"] == 4 and signs["messages"] == 0.2 and round(signs["compiled rounds"]) == 4


@pytest.mark.slow
def test_a_figure_of_the_table_is_what_the_script_says(tmp_path: Path) -> None:
    """The mean accuracy of DADAM over three seeds, where ranks have different data."""
    found = []
    for seed in range(3):
        words = ["--optimizer", "dadam", "--alpha", "0.1", "--seed", str(seed)]
        ended = started(ROOT / "launch" / "train.py", words, 4, tmp_path)
        assert [each.code for each in ended] == [0] * 4, ended
        found.append(float(re.findall(r"accuracy ([\d.]+)%", ended[0].said)[-1]))
    (told,) = re.findall(r"^\| `dadam` \| .* \| ([\d.]+) % \|", PAGE, re.M)
    assert float(told) == pytest.approx(sum(found) / 3, abs=0.1)
