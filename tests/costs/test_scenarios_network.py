"""Agents that train a torch model: against plain loops, against a training script of one process, and on every engine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.models import around, first, network, script
from torch import Tensor, nn

import distopt
from distopt.checks import check_scenario
from distopt.cli.main import cli
from distopt.numerics.random import Key
from distopt.numerics.trees import default_dtype
from distopt.runs.recording import Recording
from distopt.scenarios._models import MODELS
from distopt.scenarios._shards import batches, deal
from distopt.scenarios.network import Network

DTYPES = (torch.float64, torch.float32)
pytestmark = pytest.mark.usefixtures("one_thread")

# --------------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", MODELS)
def test_gradients_one_by_one_have_the_bits_of_a_script(model: Any, dtype: torch.dtype) -> None:
    net = network(model=model, gradients="each", l2=0.01)
    x, b = around(net, 2, 3, dtype), first(net, 2, 3)
    found = net.grad(x, b)
    for r in range(2):
        for i in range(3):
            inputs, targets = net.minibatch(4, i, 3, trial=r, dtype=dtype)
            g = torch.cat([each.reshape(-1) for each in script(net, x[r, i], inputs, targets)])
            assert torch.equal(found[r, i], g.add(x[r, i], alpha=0.01))  # as torch's optimisers decay weights


@pytest.mark.parametrize("model", MODELS)
def test_batched_equals_one_by_one(model: Any) -> None:
    both = [network(model=model, gradients=how, l2=0.01) for how in ("batched", "each")]
    x, b = around(both[0], 2, 3, torch.float64), first(both[0], 2, 3)
    for name in ("loss", "grad", "accuracy"):
        one, other = (getattr(net, name)(x, b) for net in both)
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12), name
        mean = x[:, :1].expand_as(x)  # as metrics ask
        one, other = (getattr(net, name)(mean, b) for net in both)
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12), name


@pytest.mark.parametrize("how", ["batched", "each"])
@pytest.mark.parametrize("model", MODELS)
def test_the_check_knows_it(model: Any, how: Any) -> None:
    check_scenario(network(model=model, gradients=how, l2=0.01))


def test_a_row_is_the_parameters_in_their_order(users: str) -> None:
    from distopt.catalog import registry

    net = registry.make("scenarios", f"network:model={users}:build,data={users}:load")
    model = net.build_model()
    whole = torch.cat([p.detach().flatten() for _, p in model.named_parameters()])
    assert torch.equal(net.start(Key(0, range(2), range(1), 2)), whole.double().reshape(1, 1, -1))
    assert net.dim == len(whole) == 6 * 4 + 4 + 4 * 3 + 3


def test_frozen_parameters_stay_and_unused_ones_have_gradient_zero() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fixed, self.used, self.unused = nn.Linear(64, 8), nn.Linear(8, 10), nn.Parameter(torch.ones(5))
            self.fixed.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(self.fixed(x.flatten(1)))

    rows = []
    for how in ("batched", "each"):
        net = network(model=Half, gradients=how)
        assert net.dim == 5 + 90 and next(net.build_model().named_parameters())[0] == "unused"
        rows.append(net.grad(around(net, 1, 2, torch.float64), first(net, 1, 2)))
        assert not rows[-1][..., :5].any() and rows[-1][..., 5:].any()
    assert torch.allclose(*rows, atol=1e-12)


def test_one_agent_is_gradient_descent_bit_for_bit() -> None:
    net = network(gradients="each", alpha=math.inf)
    run = distopt.simulate(
        "complete", agents=1, scenario=net, algorithm="dgd:lr=0.1", rounds=12, seed=5, record="x", mode="eager"
    )
    model = net.build_model(torch.float64)
    for t in range(12):
        inputs, targets = net.minibatch(t, 0, 1, seed=5, dtype=torch.float64)
        model.zero_grad()
        net.batch_loss(model(inputs), targets).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    whole = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert np.array_equal(run["x"][0, -1, 0], whole.numpy())


def test_agents_against_a_loop_of_models() -> None:
    """Decentralised gradient descent on a complete graph: every model steps from the mean."""
    net, rounds = network(model="cnn", alpha=0.3), 8
    run = distopt.simulate(
        "complete", agents=3, scenario=net, algorithm="dgd:lr=0.1", rounds=rounds, record="x", mode="eager"
    )
    models = [net.build_model(torch.float64) for _ in range(3)]
    costs, right = [], []
    for t in range(rounds):
        mean = torch.stack([nn.utils.parameters_to_vector(each.parameters()) for each in models]).mean(0).detach()
        at_mean = net.build_model(torch.float64)
        nn.utils.vector_to_parameters(mean.clone(), at_mean.parameters())
        data = [net.minibatch(t, i, 3, dtype=torch.float64) for i in range(3)]
        costs.append(sum(nn.functional.cross_entropy(at_mean(x), y).item() for x, y in data))
        right.append(np.mean([float((at_mean(x).argmax(1) == y).double().mean()) for x, y in data]))
        grads = []
        for model, (x, y) in zip(models, data, strict=True):
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        for model, g in zip(models, grads, strict=True):
            nn.utils.vector_to_parameters(mean - 0.1 * g, model.parameters())
    rows = torch.stack([nn.utils.parameters_to_vector(each.parameters()) for each in models]).detach()
    assert np.allclose(run["x"][0, -1], rows.numpy(), atol=1e-12)
    assert np.allclose(run["cost"][0], costs, rtol=1e-10) and np.allclose(run["accuracy"][0], right)


# ------------------------------------------------------------------------------------------------------- shards and batches


@pytest.mark.parametrize("alpha", [0.05, 0.5, 100.0, 1e100, math.inf])
@pytest.mark.parametrize("agents", [1, 3, 40, 120])
def test_every_sample_has_one_agent_and_every_agent_enough(alpha: float, agents: int) -> None:
    net = network(alpha=alpha)
    shards = [net.shard(i, agents, seed=2, trial=1) for i in range(agents)]
    assert torch.cat(shards).sort().values.tolist() == list(range(120))
    assert min(map(len, shards)) >= min(6, 120 // agents)
    assert all(torch.equal(shard, shard.sort().values) for shard in shards)
    if alpha == math.inf:
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_small_alpha_gives_few_classes_and_a_large_one_all() -> None:
    def kinds(alpha: float) -> float:
        net = Network(alpha=alpha)
        return float(np.mean([len(net.samples.y[net.shard(i, 10)].unique()) for i in range(10)]))

    assert kinds(0.02) < 5 and kinds(100.0) > 9.5
    # the share of the first of two agents in a class is Beta(alpha, alpha): its variance is 1 / (4 (2 alpha + 1))
    labels = np.zeros(1000, dtype=np.int64)
    shares = [len(deal(labels, 2, 0.5, 0, seed, 0)[0]) / 1000 for seed in range(400)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05) and np.var(shares) == pytest.approx(1 / 8, rel=0.12)


def test_seeds_trials_and_networks_deal_otherwise() -> None:
    net = network()
    first = net.shard(0, 4)
    others = [net.shard(0, 4, seed=1), net.shard(0, 4, trial=1), net.shard(0, 5)]
    assert torch.equal(first, net.shard(0, 4)) and not any(torch.equal(first, each) for each in others)


@pytest.mark.parametrize("size", [1, 6, 7, 200])
def test_an_epoch_goes_once_through_the_shard(size: int) -> None:
    net = network(batch_size=size)
    shard = net.shard(1, 3)
    m, rounds = len(shard), 3 * -(-len(shard) // size)
    key = Key(0, range(3), range(1), 3)
    rows = net.batch(torch.arange(rounds).reshape(-1, 1, 1, 1), key).rows[:, 0, 1].flatten()
    epochs = rows[: len(rows) // m * m].reshape(-1, m)
    assert all(torch.equal(epoch.sort().values, shard) for epoch in epochs) and len(epochs) >= 2
    assert not torch.equal(epochs[0], epochs[1])
    for t in (rounds - 1, 0, 1):
        x, y = net.minibatch(t, 1, 3)
        mine = rows[t * size : (t + 1) * size]
        assert torch.equal(x, net.samples.x[mine]) and torch.equal(y, net.samples.y[mine]) and len(y) == size


def test_batches_are_addressed() -> None:
    shard = np.arange(10, 17)
    whole = batches(np.arange(50), shard, 3, agent=2, seed=1, trial=4)
    for rounds in ([49], [3, 2], [0, 17, 40], [20, 20, 0]):
        assert np.array_equal(batches(np.array(rounds), shard, 3, 2, 1, 4), whole[rounds])
    far = batches(np.array([10**9, 10**9 + 1]), shard, 3, 2, 1, 4)
    assert np.array_equal(far[1:], batches(np.array([10**9 + 1]), shard, 3, 2, 1, 4))
    assert not np.array_equal(batches(np.arange(50), shard, 3, 3, 1, 4), whole)


def test_the_first_weights_are_fixed_and_leave_torchs_generator_alone() -> None:
    torch.manual_seed(12)
    before = torch.get_rng_state()
    with default_dtype(torch.float64):
        net = network(model="transformer")
    one, other = net.build_model(), net.build_model()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert next(one.parameters()).dtype == torch.float32
    assert not torch.equal(
        net.start(Key(0, [0], [0], 1)), network(model="transformer", init=1).start(Key(0, [0], [0], 1))
    )
    x = net.start(Key(0, [0], [0], 1)).flatten()
    assert net.test_accuracy(x) == net.test_accuracy(one)


# ------------------------------------------------------------------------------------------------------------------ engines


@pytest.mark.slow
@pytest.mark.parametrize(("model", "dtype"), [("mlp", "float64"), ("cnn", "float32")])
def test_engines_and_grids_give_the_same_bits(model: str, dtype: str, users: str) -> None:
    ask: dict[str, Any] = {
        "agents": 5,
        "scenario": f"network:model={model},data={users}:digits,batch_size=4,gradients=each,l2=0.001",
        "rounds": 6,
        "trials": 2,
        "dtype": dtype,
        "record": "x",
    }
    with Path(users).open("a") as file:
        file.write(
            "\n\ndef digits():\n    from distopt.scenarios._samples import digits as all\n    return all().x[:80], all().y[:80]\n"
        )
    one = distopt.simulate("ring", algorithm="gtadam:lr=0.01", **ask)
    for more in ({"engine": "threads:workers=2"}, {"engine": "ranks:workers=2"}, {"engine": "ranks:workers=5"}):
        other = distopt.simulate("ring", algorithm="gtadam:lr=0.01", **ask, **more)
        assert one.metrics.keys() == other.metrics.keys()
        assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in (*one.metrics, "x")), more
    both = distopt.simulate("ring", algorithm="gtadam:lr=[0.01,0.02]", **ask)
    assert isinstance(both, dict) and np.array_equal(both["gtadam:lr=0.01"]["x"], one["x"])


def test_threads_share_no_model() -> None:
    ask: dict[str, Any] = {"agents": 6, "scenario": network(), "rounds": 20, "mode": "eager", "record": "x"}
    one = distopt.simulate("ring", algorithm="gt:lr=0.05", **ask)
    other = distopt.simulate("ring", algorithm="gt:lr=0.05", engine="threads:workers=3", **ask)
    assert np.allclose(one["x"], other["x"], atol=1e-10)


@pytest.mark.parametrize("how", ["batched", "each"])
def test_a_run_is_resumed_with_the_same_bits(how: str, users: str) -> None:
    ask: dict[str, Any] = {"agents": 4, "scenario": f"network:model={users}:build,data={users}:load,gradients={how}"}
    ask |= {"rounds": 30, "mode": "eager", "algorithm": "gtadam:lr=0.05"}
    whole = distopt.simulate("ring", **ask)

    class Interrupted(Exception):
        pass

    take = Recording.take

    def interrupted(self: Any, chunk: Any) -> None:
        if chunk.start >= 20:
            raise Interrupted
        take(self, chunk)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Recording, "take", interrupted)
        distopt.simulate("ring", out=Path("half"), checkpoint_every=10, **ask)
    resumed = distopt.resume(Path("half"), engine="threads:workers=2" if how == "each" else "local")
    assert np.array_equal(resumed["cost"], whole["cost"]) and resumed.metrics.keys() == whole.metrics.keys()


def test_nothing_is_said_of_gradients_that_torch_computes_since_that_is_asked_for(users: str) -> None:
    words = (
        f"simulate ring --agents 3 --scenario network:model={users}:build,data={users}:load --rounds 3 --algorithm dgd"
    )
    result = CliRunner().invoke(cli, words.split(), catch_exceptions=False)
    assert result.exit_code == 0
    assert "compiled" not in result.stderr
    assert "cost" in result.stdout and "accuracy" in result.stdout
    assert CliRunner().invoke(cli, [*words.split(), "--compiled"]).exit_code == 0  # the rest of a round is
