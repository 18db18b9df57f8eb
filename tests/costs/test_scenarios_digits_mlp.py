"""The network of the digits: its costs against a torch module, its shards, and where it starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import distopt
from distopt.checks import check_scenario
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.random import Key
from distopt.scenarios.digits_mlp import DigitsMlp, MlpBatch
from distopt.simulation.problem import build

T = torch.zeros(1, 1, 1, 1, dtype=torch.int64)


def batch(mlp: DigitsMlp, agents: int, trials: int = 1) -> MlpBatch:
    return MlpBatch(*(leaf[0] for leaf in mlp.batch(T, Key(0, range(agents), range(trials), agents))))


def module(x: Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 10)).double()
    nn.utils.vector_to_parameters(x, model.parameters())
    return model


@pytest.mark.parametrize("normalised", [0.0, 8.0])
@pytest.mark.parametrize("shards", ["random", "label"])
@pytest.mark.parametrize("agents", [1, 3])
def test_costs_are_those_of_a_torch_module(agents: int, shards: str, normalised: float) -> None:
    mlp = DigitsMlp(rows=50, shards=shards, normalised=normalised)
    x = mlp.start(Key(3, range(1), range(1), 1))[0, 0]
    y = normalised * x / x.norm() if normalised else x
    digits = load_digits()
    a = torch.from_numpy((digits.data[:50] - digits.data[:50].mean(0)) / 8)
    target = nn.functional.one_hot(torch.from_numpy(digits.target[:50]).long(), 10).double()
    model = module(y)
    loss = 0.5 * (model(a) - target).square().sum(1).mean()
    loss.backward()
    g = nn.utils.parameters_to_vector([p.grad for p in model.parameters() if p.grad is not None])
    if normalised:
        unit = x / x.norm()
        g = normalised / x.norm() * (g - (g @ unit) * unit)
    points, b = x.expand(1, agents, -1), batch(mlp, agents)
    assert float(mlp.loss(points, b).mean()) == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(mlp.grad(points, b).mean(1)[0], g, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "mlp", [DigitsMlp(rows=20), DigitsMlp(rows=20, shards="label"), DigitsMlp(rows=9, normalised=8.0)]
)
def test_the_check_knows_it(mlp: DigitsMlp) -> None:
    check_scenario(mlp)


@pytest.mark.parametrize("agents", [1, 3, 7])
def test_every_sample_has_one_agent_and_shards_are_alike_in_size(agents: int) -> None:
    for shards in ("random", "label"):
        b = batch(DigitsMlp(rows=100, shards=shards), agents, trials=2)
        there = b.w.gt(0).expand(b.a.shape[:3])
        sizes = there.sum(-1)
        assert int(sizes.max() - sizes.min()) <= 1 and sizes.sum(-1).unique().tolist() == [100]
        torch.testing.assert_close(b.w.sum((-1, -2)), torch.full_like(b.w.sum((-1, -2)), agents))
        dealt = [sorted(map(tuple, b.a[r][there[r]].tolist())) for r in range(len(b.a))]
        assert all(each == dealt[0] and len(set(each)) == 100 for each in dealt)


def test_shards_by_label_hold_few_classes_and_random_ones_differ_by_trial() -> None:
    by_label = batch(DigitsMlp(shards="label"), 10)
    classes = [len(by_label.y[0, i].argmax(-1).unique()) for i in range(10)]
    assert max(classes) <= 3
    random = batch(DigitsMlp(), 10, trials=2)
    assert not torch.equal(random.a[0], random.a[1]) and len(by_label.a) == 1


def test_agents_start_at_one_point_in_each_trial() -> None:
    x0 = build(Experiment("ring", 3, "digits_mlp:rows=9", "dgd", rounds=1, trials=2)).x0
    assert torch.equal(x0[:, 0], x0[:, 2]) and not torch.equal(x0[0], x0[1]) and x0.shape == (2, 3, 2410)
    for part, units in ((slice(0, 65 * 24), 64), (slice(65 * 24, 90 * 24), 24), (slice(90 * 24, None), 24)):
        own = x0[0, 0, part] * units**0.5
        assert float(own.abs().max()) == pytest.approx(1, abs=0.01) and abs(float(own.mean())) < 0.1
        assert float(own.std()) == pytest.approx(3**-0.5, rel=0.1)
    other = build(Experiment("ring", 3, "digits_mlp:rows=9", "dgd", rounds=1, seed=1)).x0
    assert not torch.equal(other[0], x0[0])


def test_more_agents_than_samples_are_refused() -> None:
    with pytest.raises(InputError, match="digits_mlp: rows=3 for 4 agents; each needs one"):
        batch(DigitsMlp(rows=3), 4)
    with pytest.raises(InputError, match="digits_mlp: rows=1798 must be a whole number of at least 1 and at most 1797"):
        DigitsMlp(rows=1798)
    assert torch.isfinite(batch(DigitsMlp(rows=1797), 2).a).all()


@pytest.mark.parametrize("mode", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_agents_in_threads_have_the_same_bits(mode: Any) -> None:
    asked: dict[str, Any] = {
        "agents": 4,
        "scenario": "digits_mlp:rows=22,shards=label",
        "algorithm": "gt:lr=0.2",
        "rounds": 5,
    }
    local, shared = (
        distopt.simulate("ring", **asked, record="x", mode=mode, probe="sharpness:every=5,steps=5", engine=where)
        for where in ("local", "threads:workers=3")
    )
    for name in local:
        assert np.array_equal(local[name], shared[name], equal_nan=True), name
