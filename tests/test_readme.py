"""Every command and every Python block of the README runs, as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
SHELL = [
    line.split("#")[0].strip()
    for kind, text in BLOCKS
    if kind == "sh"
    for line in text.splitlines()
    if line.split("#")[0].strip()
]
COMMANDS = [line for line in SHELL if line.startswith("distopt ")]
MAKE = [line.split()[1] for line in SHELL if line.startswith("make ")]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


def run(arguments: list[str], where: Path) -> str:
    done = subprocess.run(arguments, cwd=where, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the checkout's examples in it, where runs may be written."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 8 and len(PYTHON) == 4 and MAKE == ["simulate", "test"]
    assert len(COMMANDS) + len(MAKE) == len(SHELL), "a shell line that no test runs"


@pytest.mark.parametrize("target", MAKE)
def test_make_targets_do_what_the_readme_says(target: str) -> None:
    recipe = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"simulate": "distopt simulate ring --agents 16", "test": "pytest -n 2\n"}[target] in recipe


@pytest.mark.parametrize("command", ["distopt simulate ring --agents 16", *COMMANDS])
def test_command_runs(command: str, place: Path) -> None:
    if command.startswith("distopt resume "):
        wrote = next(
            each
            for each in COMMANDS
            if each.startswith("distopt simulate ") and each.endswith(f"--out {command.rsplit(maxsplit=1)[-1]}")
        )
        run([sys.executable, "-m", *shlex.split(wrote)], place)
    out = run([sys.executable, "-m", *shlex.split(command)], place)
    assert out.startswith("nothing to resume") == command.startswith("distopt resume ")
    if command.startswith("distopt simulate"):
        folders = [path.parent for path in place.rglob("summary.csv")]
        assert len(folders) == 1 and (folders[0] / "regret.png").stat().st_size > 10_000
        assert "regret.png" in out


def test_python_blocks_run(place: Path) -> None:
    """The ten lines, the loading of a run that a command has written, the example of an own algorithm, and the hook for a training script."""
    first, second, third, fourth = PYTHON
    run([sys.executable, "-c", first], place)
    assert (place / "regret.png").stat().st_size > 10_000
    assert len([line for line in first.splitlines() if line.strip()]) <= 10
    wrote = next(command for command in COMMANDS if "runs/karate" in command)
    run([sys.executable, "-m", *shlex.split(wrote)], place)
    shapes = run(
        [sys.executable, "-c", "import distopt\n" + second + "\nprint(run['x'].shape, run['dynamic_regret'].shape)"],
        place,
    )
    assert shapes.strip() == "(1, 201, 34, 2) (1, 200)"
    assert third.removeprefix("# examples/heavy_ball.py\n") in (ROOT / "examples" / "heavy_ball.py").read_text()
    check = "import sys; sys.path.insert(0, 'examples'); from heavy_ball import HeavyBall; from distopt.checks import check_algorithm"
    run([sys.executable, "-c", f"{check}; check_algorithm(HeavyBall())"], place)
    group = "import torch; torch.distributed.init_process_group('gloo', 'file://' + __import__('os').path.abspath('store'), rank=0, world_size=1)"
    model = "model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1)); x = torch.ones(1, 3)"
    step = "model(x).sum().backward(); print(next(model.parameters()).grad.tolist()); torch.distributed.destroy_process_group()"
    assert run([sys.executable, "-c", f"{group}; {model}\n{fourth}\n{step}"], place).strip() == "[[1.0, 1.0, 1.0]]"
