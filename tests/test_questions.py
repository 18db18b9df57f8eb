"""docs/faq.md and docs/coming-from.md: what their code prints, and the numbers that their answers name."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.asking import call

import distopt

ROOT = Path(__file__).parent.parent
QUESTIONS, OTHERS = ((ROOT / "docs" / name).read_text() for name in ("faq.md", "coming-from.md"))
QUADRATIC: dict[str, Any] = {"agents": 8, "scenario": "quadratic:kappa=2", "rounds": 1000}


def block(page: str, kind: str = "python", word: str = "") -> str:
    (found,) = (text for text in re.findall(rf"```{kind}\n(.*?)```", page, re.S) if word in text)
    assert isinstance(found, str)
    return found


@pytest.mark.slow
def test_gtadam_bursts_unless_eps_is_large_or_the_step_falls(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block(QUESTIONS, word="eps="), {})
    lines = capsys.readouterr().out.splitlines()
    least, later = zip(*(map(float, re.findall(r"\d\.\de[-+]\d+", line)[-2:]) for line in lines), strict=True)
    assert max(least) < 1e-14
    assert 1e-3 < later[0] < 1e-2 and max(later[1:]) < 1e-14


def test_the_sum_grows_and_the_average_falls() -> None:
    run = distopt.simulate("ring", agents=8, scenario="moving_target", algorithm="gt:lr=0.02", rounds=400)
    there = [99, 199, 399]
    assert run["dynamic_regret"][0, there].round().tolist() == [123, 132, 145]
    assert run["average_dynamic_regret"][0, there].round(2).tolist() == [1.23, 0.66, 0.36]
    assert run["regret_best_fixed"][0, -1].round() == 3476 and run["static_regret"][0, -1].round() == -3331
    assert run["regret_previous_optimum"][0, -1].round(2) == 0.36
    for number in ("123", "132", "145", "1.23", "0.66", "0.36", "3,476", "−3,331"):
        assert number in QUESTIONS


def test_tracking_is_exact_and_unstable_first() -> None:
    runs = distopt.simulate("ring", algorithm=["gt:lr=0.05", "dgd:lr=0.05", "dgd:lr=0.2", "gt:lr=0.2"], **QUADRATIC)
    ends = [float(run["tracking_error"][0, -1]) for run in runs.values()]
    assert ends[0] < 1e-14 and round(ends[1], 2) == 0.52 and ends[2] < 2 and ends[3] > 1e10


def test_float32_halves_the_bits() -> None:
    half = distopt.simulate("ring", algorithm="gt:lr=0.05", dtype="float32", **QUADRATIC)
    assert 1e-7 < half["tracking_error"][0, -1] < 1e-6 and half["bits"][0, -1] == 640_000


def test_eager_and_compiled_rounds_differ_by_rounding() -> None:
    eager, compiled = (
        distopt.simulate("ring", algorithm="gt:lr=0.05", mode=mode, **QUADRATIC)["dynamic_regret"]
        for mode in ("eager", "compiled")
    )
    assert np.abs(eager - compiled).max() <= 1e-14 * np.abs(compiled).max()


def test_running_sums_survive_losses() -> None:
    runs = distopt.simulate(
        "ring", algorithm=["robust_push_diging:lr=0.05", "gt:lr=0.05"], drop_messages=0.3, **QUADRATIC
    )
    robust, plain = (float(run["tracking_error"][0, -1]) for run in runs.values())
    assert robust < 1e-13 and round(plain, 2) == 0.44


def test_a_run_that_diverges_says_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = "simulate ring --agents 8 --scenario quadratic:kappa=2 --algorithm gt:lr=0.5 --rounds 1000 --out runs/wild"
    done = call(*words.split())
    assert done.exit_code == 1
    (said,) = re.findall(r'for instance "(.*?)"', QUESTIONS, re.S)
    assert said.replace("\n", " ") in done.stderr


def test_the_weights_of_a_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "0.195" in call("show", "ring", "--agents", "8").stdout
    said: dict[str, Any] = {}
    exec(block(QUESTIONS, word="ConstantMixing"), said)
    W = said["W"].numpy()
    assert np.abs(W[0] - np.array([1, 1, 0, 0, 0, 0, 0, 1]) / 3).max() < 1e-15
    sizes = np.sort(np.abs(np.linalg.eigvals(W)))
    assert round(1 - sizes[-2], 3) == 0.195


# ------------------------------------------------------------------------------------------------ other packages


def test_the_experiment_ends_at_the_mean(capsys: pytest.CaptureFixture[str]) -> None:
    said: dict[str, Any] = {}
    exec(block(OTHERS), said)
    theirs = [3.499999997508147, 3.4999999974762215]  # decent-bench's, and tvopt's
    assert np.abs(said["run"]["x"][0, -1, :2, 0] - theirs).max() < 1e-14
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_one_learner_on_a_ball() -> None:
    runs = distopt.simulate(
        "ring",
        agents=1,
        scenario="moving_target:dim=10",
        feasible="ball:radius=1",
        algorithm=["dgd:lr=0.05", "ader"],
        rounds=500,
    )
    assert [run["dynamic_regret"][0, -1].round(1) for run in runs.values()] == [15.9, 20.3]


def test_every_name_of_ours_in_the_tables_exists() -> None:
    from distopt.catalog import registry

    known = {name for kind in registry.KINDS for name in registry.names(kind)}
    for line in re.findall(r"^\| .* \| (.*) \|$", OTHERS, re.M):
        for name in re.findall(r"`([a-z][a-z0-9_]*)(?::[^`]*)?`", line):
            wanted = {
                *known,
                *inspect.signature(distopt.simulate).parameters,
                "lr",
                "mix",
                "simulate",
                "loss",
                "grad",
                "step",
                "l1",
            }
            wanted |= {"dynamic_regret", "box", "simplex", "two_point"}
            assert name in wanted, name


def changed(text: str, diff: str) -> str:
    """A script after the changes of a page."""
    for part in diff.split("@@\n"):
        old, new = ("\n".join(line[1:] for line in part.splitlines() if line[0] != other) for other in ("+", "-"))
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.mark.slow
def test_the_script_with_ddp_becomes_one_with_gtadam(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(changed((ROOT / "examples" / "ddp_digits.py").read_text(), block(OTHERS, "diff")))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script), "--epochs", "2"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(re.findall(r"accuracy (\S+) %", done.stdout)[0]) > 80
