"""Step sizes that change from round to round: the papers' loops, and what stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers import oracles
from helpers.stepping import ROUNDS, SCHEDULES, START, D, N, gradient, network, points, torch_gradient, undrawn, walked
from helpers.surviving import TOTALS
from torch import Tensor

from distopt.catalog import registry
from distopt.compressors.sign import Sign
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.runs.checkpoint import About, load, save, versions
from distopt.simulation.problem import build
from distopt.simulation.runner import begin


def close(path: Tensor, oracle: list[list[list[float]]]) -> None:
    truth = torch.tensor(oracle, dtype=torch.float64)
    assert truth.isfinite().all() and truth.abs().max() < 100 and (truth[-1] - truth[0]).abs().max() > 0.1, (
        "the comparison would mean nothing"
    )
    assert (path - truth).abs().max() < 1e-12 * truth.abs().max()


def top(z: list[float]) -> list[float]:
    kept = sorted(range(len(z)), key=lambda k: -abs(z[k]))[:2]
    return [each if k in kept else 0.0 for k, each in enumerate(z)]


def sign(z: list[float]) -> list[float]:
    scale = sum(abs(each) for each in z) / len(z)
    return [scale if each >= 0 else -scale for each in z]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["static", "time_varying"])
@pytest.mark.parametrize("name", ["extra", "nids", "exact_diffusion"])
def test_corrected_methods_are_the_papers_loops(name: str, kind: str, schedule: str) -> None:
    weights = network(kind)
    path = points(walked(registry.make("algorithms", name), weights, SCHEDULES[schedule]))
    close(path, getattr(oracles, name)(oracles.Problem(weights, gradient, START), SCHEDULES[schedule]))


COMPRESSED = {
    "topk": ("compressor=topk(k=2),gamma=0.7,alpha=0.5", top, 0.7, 0.5),
    "sign": ("compressor=sign,gamma=0.4,alpha=0.8", sign, 0.4, 0.8),
}


STEEP = ("drops", "rises", "zigzag")
"""LEAD's dual is D / lr: where lr rises by a factor at once, so does gamma. Its rounding errors grow, and zigzag drives it away."""


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        *(("cedas", schedule) for schedule in SCHEDULES),
        *(("lead", schedule) for schedule in SCHEDULES if schedule not in STEEP),
    ],
)
@pytest.mark.parametrize("compressor", COMPRESSED)
def test_compressed_corrected_methods_are_the_papers_loops(compressor: str, name: str, schedule: str) -> None:
    weights, (spec, compress, gamma, alpha) = network("static"), COMPRESSED[compressor]
    posed = oracles.Problem(weights, gradient, START)
    loops = {
        each: getattr(oracles, each)(posed, SCHEDULES[schedule], compress, gamma, alpha) for each in ("lead", "cedas")
    }
    own, other = loops.pop(name), loops.popitem()[1]
    close(points(walked(registry.make("algorithms", f"{name}:{spec}"), weights, SCHEDULES[schedule])), own)
    assert (torch.tensor(own) - torch.tensor(other)).abs().max() > 1e-2, "LEAD and CEDAS would pass for each other"


def test_lead_and_cedas_are_one_method_while_the_step_size_stays() -> None:
    posed = oracles.Problem(network("static"), gradient, START)
    lead, cedas = (
        torch.tensor(each(posed, 0.1, top, 0.7, 0.5), dtype=torch.float64) for each in (oracles.lead, oracles.cedas)
    )
    assert (lead - cedas).abs().max() < 1e-11
    for name, path in (("lead", lead), ("cedas", cedas)):
        algorithm = registry.make("algorithms", f"{name}:compressor=topk(k=2),gamma=0.7")
        close(points(walked(algorithm, network("static"), [0.1] * ROUNDS)), path.tolist())


def test_cedas_without_loss_is_exact_diffusion_whose_first_round_does_not_mix() -> None:
    weights = network("static")
    unmixed = [[[float(i == j) for j in range(N)] for i in range(N)], *weights[1:]]
    for lrs in SCHEDULES.values():
        one = oracles.cedas(oracles.Problem(weights, gradient, START), lrs, list, 1.0, 1.0)
        other = oracles.exact_diffusion(oracles.Problem(unmixed, gradient, START), lrs)
        assert (torch.tensor(one, dtype=torch.float64) - torch.tensor(other, dtype=torch.float64)).abs().max() < 1e-11


# What stays


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lr", [0.1, 0.013])
def test_extra_has_the_bits_that_it_had_while_the_step_size_stays(lr: float, dtype: torch.dtype) -> None:
    extra, x = registry.make("algorithms", f"extra:lr={lr}"), torch.tensor(START, dtype=dtype)[None]
    w, state = torch.tensor(network("static")[0], dtype=dtype), extra.init(x)
    other, half, before = x, x, torch.zeros_like(x)
    for t in range(ROUNDS):
        x, state = extra.update(torch_gradient(t, x.double()).to(dtype), state, x, lambda _, z: w @ z)
        g, twice = torch_gradient(t, other.double()).to(dtype), other + w @ other
        other, half, before = twice - half - lr * (g - before), twice / 2, g
        assert torch.equal(x, other)


@pytest.mark.parametrize("name", ["extra", "nids", "exact_diffusion", "lead", "cedas", "gt"])
def test_a_step_size_for_each_trial_may_change_too(name: str) -> None:
    algorithm, each = undrawn(registry.make("algorithms", name)), ["drops", "rises", "zigzag"]
    lrs = [torch.tensor([SCHEDULES[s][t] for s in each], dtype=torch.float64).reshape(3, 1, 1) for t in range(ROUNDS)]
    together = walked(algorithm, network("static"), lrs, trials=3)
    for r, schedule in enumerate(each):
        alone = walked(algorithm, network("static"), SCHEDULES[schedule])
        assert torch.equal(together[-1].after[r], alone[-1].after[0])


def test_a_checkpoint_of_the_old_state_of_extra_is_refused(tmp_path: Path) -> None:
    class Before(NamedTuple):
        half: Tensor
        g: Tensor

    class Old:
        channels = ("x",)

        def init(self, x: Tensor) -> Before:
            return Before(x.clone(), torch.zeros_like(x))

    problem = build(Experiment("ring", N, "moving_target", "extra", rounds=9))
    old = replace(problem, algorithm=Old())
    about = About(problem.experiment.fingerprint(), "a run", False, "cpu", 1.0, versions(False))
    totals = {name: torch.zeros(1, dtype=torch.float64) for name in TOTALS}
    save(tmp_path, old, begin(old)._replace(t=3, totals=totals), about)
    with pytest.raises(InputError, match="does not fit extra"):
        load(tmp_path, problem, "a run")
    save(tmp_path, problem, begin(problem)._replace(t=3, totals=totals), about)
    assert load(tmp_path, problem, "a run") is not None


def test_sign_is_the_compressor_that_its_loop_says() -> None:
    z = torch.tensor(START, dtype=torch.float64)
    decoded = Sign().decode(Sign().encode(z), D, z.dtype)
    assert torch.allclose(decoded, torch.tensor([sign(row) for row in START], dtype=torch.float64))
