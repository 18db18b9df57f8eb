"""launch/train.py: what it writes, and what is left when it is ended or killed."""

import csv
import importlib.util
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import needs
from helpers.launching import ROOT, Ended, started

import distopt
from distopt.optim import Decentralized

pytestmark = needs.forks

SCRIPT = ROOT / "launch" / "train.py"
STEPS = 24
WORDS = ["--channel", "sign", "--schedule", "cosine", "--clip", "1", "--report-every", "5", "--checkpoint-every", "8"]


def train(place: Path, *words: str, world: int = 2, prepare: Callable[[int], None] = lambda rank: None) -> list[Ended]:
    return started(SCRIPT, words, world, place, prepare)


def fine(ended: list[Ended]) -> list[Ended]:
    assert [each.code for each in ended] == [0] * len(ended), ended
    return ended


def checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob("checkpoints/*/*"))


def kept(out: Path) -> list[Any]:
    """What the ranks' next steps depend on, without seconds, and bits: what was sent ahead of a kill is sent again."""
    found = []
    for file in checkpoints(out):
        content = torch.load(file, weights_only=True)
        rows = [row[:-3] for row in content["rows"]]
        found.append([content[name] for name in ("step", "rank", "kept", "losses", "random")] + [rows])
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def signalled(number: int, rank: int, step: int) -> Callable[[int], None]:
    """A rank gets a signal in the middle of a step."""

    def prepare(me: int) -> None:
        if me == rank:
            plain = Decentralized.step

            def stepping(self: Any, closure: Any = None) -> Any:
                if self.round == step:
                    os.kill(os.getpid(), number)
                return plain(self, closure)

            Decentralized.step = stepping

    return prepare


@pytest.mark.slow
def test_two_ranks_learn_to_read_digits(tmp_path: Path) -> None:
    first, second = fine(train(tmp_path, *WORDS, "--steps", "40", "--out", "out"))
    out = tmp_path / "out"
    assert second.said == ""
    lines = first.said.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("step")] == [f"step {5 * k}" for k in range(1, 9)]
    assert any("pip install tensorboard" in line for line in lines) == (importlib.util.find_spec("tensorboard") is None)
    assert lines[-1] == "written: out/model.pt, the mean of all ranks, curve.csv and curve.png"
    with (out / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(5, 41, 5))
    assert float(rows[-1]["accuracy"]) > 0.8 and float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["bits_sent"]) > 40 * 2 * 4810 and float(rows[-1]["consensus_error"]) > 0
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in checkpoints(out)] == ["rank-0.pt", "rank-1.pt"]
    states = [torch.load(path, weights_only=True)["kept"][0] for path in checkpoints(out)]
    mean = torch.load(out / "model.pt", weights_only=True)
    for name, value in mean.items():
        assert torch.allclose(value, (states[0][name] + states[1][name]) / 2, atol=1e-6)


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGTERM, signal.SIGINT))],
)
def test_a_run_that_was_interrupted_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path, number: int) -> None:
    words = [*WORDS, "--steps", str(STEPS)] if number == signal.SIGKILL else [*WORDS[:6], "--steps", "150"]
    fine(train(tmp_path, *words, "--out", "whole", world=3))
    ended = train(tmp_path, *words, "--out", "out", world=3, prepare=signalled(number, rank=1, step=12))
    steps = {path.parent.name for path in checkpoints(tmp_path / "out")}
    if number == signal.SIGKILL:
        assert ended[1].code == -number and "rank 1 was lost in round 1" in ended[0].said, ended
        assert steps == {"step-000000008-of-3-ranks"}
    else:
        assert [each.code for each in ended] == [128 + number] * 3, ended
        assert "the same command goes on from here" in ended[0].said
        assert len(steps) == 1 and len(checkpoints(tmp_path / "out")) == 3, "all stopped at the same step"
    said = fine(train(tmp_path, *words, "--out", "out", world=3))[0].said
    assert "goes on from step " in said
    assert same(kept(tmp_path / "out"), kept(tmp_path / "whole"))
    assert same(*(torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("out", "whole")))


@pytest.mark.slow
def test_half_a_checkpoint_does_not_count(tmp_path: Path) -> None:
    """One rank was killed before it had written what the other has."""
    words = [*WORDS, "--out", "out"]
    fine(train(tmp_path, *words, "--steps", "8"))
    older = {path: path.read_bytes() for path in checkpoints(tmp_path / "out")}
    fine(train(tmp_path, *words, "--steps", "8"))  # nothing is left to do
    fine(train(tmp_path, *words[:2], *words[4:], "--steps", "8", "--out", "constant"))
    (tmp_path / "out/checkpoints/step-000000016-of-2-ranks").mkdir()
    half = tmp_path / "out/checkpoints/step-000000016-of-2-ranks/rank-0.pt"
    half.write_bytes(next(iter(older.values())))
    said = fine(train(tmp_path, *words, "--steps", "9"))[0].said
    assert "goes on from step 8" in said and "step 9 " in said


def test_other_options_are_refused(tmp_path: Path) -> None:
    fine(train(tmp_path, *WORDS, "--steps", "5", "--out", "out"))
    ended = train(tmp_path, *WORDS, "--steps", "5", "--out", "out", "--batch", "16")
    assert [each.code for each in ended] == [1, 1]
    assert "out has a run with batch=32, not 16; give another --out" in ended[0].said
    ended = train(tmp_path, *WORDS, "--steps", "5", "--out", "out", "--lr", "0.02")
    assert "out has a run with the default lr, not 0.02; give another --out" in ended[0].said


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_another_number_of_ranks_goes_on(tmp_path: Path, world: int) -> None:
    words = ["--optimizer", "gtadam", "--out", "out", "--report-every", "20"]
    fine(train(tmp_path, *words, "--steps", "40", world=3))
    said = fine(train(tmp_path, *words, "--steps", "60", world=world))[0].said
    assert f"goes on from step 40 of out\ntrackers and memories begin again with {world} ranks\n" in said
    with (tmp_path / "out" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    counted = [[float(row[name]) for row in rows] for name in ("step", "epoch", "bits_sent")]
    assert all(each == sorted(each) and each[-1] > each[0] for each in counted), "nothing falls"
    epochs = [round(40 / 15 + (step - 40) / {2: 23, 4: 12}[world], 6) for step in (40, 60)]
    assert [round(each, 6) for each in counted[1]][-2:] == epochs
    last = next(line for line in said.splitlines() if line.startswith("step 60"))
    assert float(last.split("accuracy ")[1].split("%")[0]) > 85
    assert [path.name for path in checkpoints(tmp_path / "out")] == [f"rank-{rank}.pt" for rank in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--model", "transformer", "--optimizer", "ddp-adam"],
        ["--model", "cnn", "--optimizer", "ddp-sgd", "--lr", "0.3"],
        ["--optimizer", "ef_signsgd", "--topology", "complete", "--lr", "0.3"],
        ["--optimizer", "gtadam:lr=inverse_sqrt(0.01)", "--every", "1"],
        ["--optimizer", "examples/heavy_ball.py", "--lr", "0.05"],
    ],
    ids=lambda words: words[1] if words[0] == "--optimizer" else words[3],
)
@pytest.mark.parametrize("world", [1, 2])
def test_other_models_and_optimisers(tmp_path: Path, words: list[str], world: int) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    more = ["--steps", "12", "--report-every", "6", "--checkpoint-every", "6"]
    fine(train(tmp_path, *words, *more, "--out", "whole", world=world))
    fine(train(tmp_path, *words, *more[2:], "--steps", "6", "--out", "out", world=world))
    fine(train(tmp_path, *words, *more, "--out", "out", world=world))
    assert same(kept(tmp_path / "out"), kept(tmp_path / "whole"))


@pytest.mark.slow
def test_it_trains_alone(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    command = [sys.executable, str(SCRIPT), "--steps", "20", "--report-every", "20"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("step 20  ") and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_simulator_trains_the_very_same_model(tmp_path: Path) -> None:
    fine(train(tmp_path, "--alpha", "0.1", "--steps", "30", "--out", "out", world=4))
    scenario, algorithm = "network:alpha=0.1,gradients=each", "gtadam:lr=0.01"
    run = distopt.simulate(
        "ring", agents=4, scenario=scenario, algorithm=algorithm, rounds=30, dtype="float32", record="x"
    )
    found = [torch.load(path, weights_only=True)["kept"][0] for path in checkpoints(tmp_path / "out")]
    rows = torch.stack([torch.cat([each.reshape(-1) for each in state.values()]) for state in found])
    assert torch.equal(rows, torch.as_tensor(run["x"])[0, -1].float())


@pytest.mark.slow
def test_torchrun_restarts_what_was_killed(tmp_path: Path) -> None:
    """A rank kills itself once, in the middle of a run that torchrun started."""
    once = tmp_path / "once"
    script = tmp_path / "dies.py"
    script.write_text(
        f"""
import os, signal, sys
from pathlib import Path
from distopt.optim import Decentralized
plain = Decentralized.step
def step(self, closure=None):
    if self.round == 12 and os.environ["RANK"] == "1" and not Path({str(once)!r}).exists():
        Path({str(once)!r}).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, closure)
Decentralized.step = step
sys.path.insert(0, {str(SCRIPT.parent)!r})
import train
sys.exit(train.main())
"""
    )
    words = [*WORDS, "--steps", str(STEPS)]
    fine(train(tmp_path, *words, "--out", "whole"))
    paths = os.pathsep.join([str(Path(distopt.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    settings = {"PYTHONPATH": paths, "PYTHON": sys.executable, "SCRIPT": str(script), "RANKS": "2", "RESTARTS": "1"}
    environment = {**os.environ, **settings}
    command = [str(ROOT / "launch" / "torchrun.sh"), *words, "--out", "out"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert once.exists() and "goes on from step 8 of out" in done.stdout
    assert same(kept(tmp_path / "out"), kept(tmp_path / "whole"))
