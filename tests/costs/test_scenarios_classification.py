"""Synthetic streams of labelled rows against plain Python loops and river's generators."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.synthetic import STREAMS, N, R, at, key, points, rounds
from river.datasets.synth import hyper_plane as river_hyperplane
from river.datasets.synth import random_rbf as river_rbf
from river.datasets.synth import sea as river_sea

from distopt.scenarios import _logistic
from distopt.scenarios.drifting_logistic import DriftingLogistic
from distopt.scenarios.hyperplane import Hyperplane
from distopt.scenarios.moving_target import MovingTarget
from distopt.scenarios.rbf_drift import RbfDrift
from distopt.scenarios.sea import Sea

streams = pytest.mark.parametrize("name", STREAMS)


# --- logistic regression ---------------------------------------------------------------------------------------------------


def logistic_by_hand(x: list[float], X: list[list[float]], y: list[float], l2: float) -> float:
    """The mean loss of the rows, one row at a time."""
    scores = [sum(a * b for a, b in zip(row, x, strict=True)) for row in X]
    total = sum(math.log(1 + math.exp(-label * z)) for z, label in zip(scores, y, strict=True))
    return total / len(X) + 0.5 * l2 * sum(v * v for v in x)


def test_drifting_logistic_circles_with_the_speed_it_says() -> None:
    s = DriftingLogistic(rows=6, radius=2.0, l2=0.3)
    t = [0, 100, 1234, 10**6]
    b = s.batch(rounds(*t), key())
    home = b.X[0, ..., :2] - 2.0 * torch.tensor([1.0, 0.0], dtype=torch.float64)
    for k, when in enumerate(t):
        drift = torch.tensor([2.0 * math.cos(when / 100), 2.0 * math.sin(when / 100)], dtype=torch.float64)
        torch.testing.assert_close(b.X[k, ..., :2], home + drift, rtol=0, atol=1e-11)
    assert torch.equal(b.X[..., 2], torch.ones_like(b.X[..., 2]))
    assert b.y.flatten().tolist() == [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]
    x = points(3)
    expected = logistic_by_hand(x[1, 4].tolist(), b.X[2, 1, 4].tolist(), b.y[0, 0, 0].tolist(), 0.3)
    assert float(s.loss(x, at(b, 2))[1, 4]) == pytest.approx(expected, rel=1e-13)


def test_drifting_logistic_has_centres_by_label_and_by_agent() -> None:
    s = DriftingLogistic(rows=400, radius=0.0, separation=3.0, spread=0.5, scatter=0.1)
    X, y, _ = s.batch(rounds(0), key())
    plus, minus = X[0, ..., ::2, :2].mean(-2), X[0, ..., 1::2, :2].mean(-2)
    assert bool((y[..., ::2] == 1).all())
    assert float((plus - minus)[..., 0].mean()) == pytest.approx(6.0, abs=0.6)
    assert float(plus[0].std(0).min()) > 0.15  # agents differ
    assert float(X[0, ..., ::2, :2].std(-2).mean()) == pytest.approx(0.1, rel=0.1)
    best = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(R, N, 3)
    assert float(s.accuracy(best, at((X, y, _), 0)).min()) == 1.0


@pytest.mark.parametrize("rows", [1, 3])
def test_absent_rows_and_agents_without_rows(rows: int) -> None:
    g = torch.Generator().manual_seed(0)
    X, x = torch.randn(1, 2, 4, 3, generator=g, dtype=torch.float64), points(3, agents=2, trials=5)
    y = torch.tensor([1.0, -1, -1, 1], dtype=torch.float64).expand(1, 2, 4)
    w = torch.zeros(1, 2, 4, dtype=torch.float64)
    w[0, 1, :rows] = 1 / rows  # agent 0 has none
    loss, grad = _logistic.logistic_loss(x, X, y, w, 0.2), _logistic.logistic_grad(x, X, y, w, 0.2)
    torch.testing.assert_close(loss[:, 0], 0.1 * x[:, 0].square().sum(-1))
    torch.testing.assert_close(grad[:, 0], 0.2 * x[:, 0])
    few = _logistic.logistic_loss(x[:, 1:], X[:, 1:, :rows], y[:, 1:, :rows], w[:, 1:, :rows], 0.2)
    torch.testing.assert_close(loss[:, 1:], few)
    ids = torch.tensor([0, 2, 1, 1]).expand(1, 2, 4)
    x = points(9, agents=2, trials=5)
    torch.testing.assert_close(_logistic.softmax_loss(x, X, ids, w, 0.2)[:, 0], 0.1 * x[:, 0].square().sum(-1))
    torch.testing.assert_close(_logistic.softmax_grad(x, X, ids, w, 0.2)[:, 0], 0.2 * x[:, 0])
    seen = torch.tensor([[[False] * 4, [True, True, False, False]]])
    hit = _logistic.softmax_accuracy(x, X, ids, seen)
    assert hit.shape == (5, 2)
    assert bool(hit[:, 0].isnan().all())
    assert set(hit[:, 1].tolist()) <= {0.0, 0.5, 1.0}


def test_large_scores_overflow_nothing() -> None:
    X, y, w = torch.full((1, 1, 1, 1), 1e4), torch.ones(1, 1, 1), torch.ones(1, 1, 1)
    for x in (torch.full((1, 1, 1), 1e3), torch.full((1, 1, 1), -1e3)):
        assert float(_logistic.logistic_loss(x, X, y, w, 0.0)) == pytest.approx(max(0.0, -float(x) * 1e4))
        assert float(_logistic.logistic_grad(x, X, y, w, 0.0)) == (0.0 if float(x) > 0 else -1e4)


def test_softmax_of_two_classes_is_the_logistic_of_the_difference() -> None:
    g = torch.Generator().manual_seed(1)
    X, x = torch.randn(R, N, 7, 3, generator=g, dtype=torch.float64), points(6)
    ids = torch.randint(0, 2, (R, N, 7), generator=g)
    w = torch.full((1, 1, 7), 1 / 7, dtype=torch.float64)
    z, y = x[..., 3:] - x[..., :3], 2.0 * ids - 1
    torch.testing.assert_close(_logistic.softmax_loss(x, X, ids, w, 0.0), _logistic.logistic_loss(z, X, y, w, 0.0))
    pull = _logistic.logistic_grad(z, X, y, w, 0.0)
    torch.testing.assert_close(_logistic.softmax_grad(x, X, ids, w, 0.0), torch.cat([-pull, pull], -1))
    bend = _logistic.logistic_hessian(z, X, y, w, 0.0)
    torch.testing.assert_close(_logistic.softmax_hessian(x, X, ids, w, 0.0)[..., :3, 3:], -bend)
    everything = torch.ones(1, 1, 7, dtype=torch.bool)
    assert torch.equal(
        _logistic.softmax_accuracy(x, X, ids, everything), _logistic.logistic_accuracy(z, X, y, everything)
    )


@pytest.mark.slow
def test_sums_reach_round_a_million_and_whole_and_single_rounds_agree() -> None:
    walk, plane, t = MovingTarget("walk", dim=1), Hyperplane(features=1, reversal=0.5), rounds(999_999, 10**6)
    one, other = key(trials=[1]), key(trials=[1])
    assert torch.equal(walk.target(t, one)[1:], walk.target(t[1:], other))
    assert torch.equal(plane.weights(t, one)[1:], plane.weights(t[1:], other))
    assert not torch.equal(walk.target(t, one)[0], walk.target(t, one)[1])
    assert abs(float(plane.weights(t, one)[1] - plane.weights(t, one)[0])) == pytest.approx(0.01, abs=1e-12)


# --- streams ---------------------------------------------------------------------------------------------------------------


@streams
def test_costs_accuracies_and_last_labels_of_a_stream_row_by_row(name: str) -> None:
    s = STREAMS[name]
    T = 7
    k = s.rows
    alone = replace(s, window=1)  # the rows of each round, without a window
    arrived = [at(alone.batch(rounds(t), key()), 0) for t in range(T)]
    b = s.batch(rounds(*range(T)), key())
    x = points(s.dim)
    classes = getattr(s, "classes", 2)
    for t, r, i in [(0, 0, 0), (1, 2, 5), (2, 1, 3), (6, 2, 2), (5, 0, 4)]:
        held = [
            (arrived[u].X[r, i, j].tolist(), float(arrived[u].y[r, i, j]))
            for u in range(max(0, t - s.window + 1), t + 1)
            for j in range(k)
        ]
        v, now = x[r, i].tolist(), at(b, t)
        if classes == 2:
            expected = logistic_by_hand(v, [row for row, _ in held], [y for _, y in held], s.l2)
            guesses = [1.0 if sum(a * c for a, c in zip(row, v, strict=True)) >= 0 else -1.0 for row, _ in held[-k:]]
        else:
            p, expected, guesses = len(held[0][0]), 0.5 * s.l2 * sum(a * a for a in v), []
            for n, (row, y) in enumerate(held):
                scores = [sum(a * c for a, c in zip(row, v[c * p : (c + 1) * p], strict=True)) for c in range(classes)]
                expected += (math.log(sum(math.exp(z) for z in scores)) - scores[int(y)]) / len(held)
                if n >= len(held) - k:
                    guesses.append(float(np.argmax(scores)))
        assert float(s.loss(x, now)[r, i]) == pytest.approx(expected, rel=1e-12)
        new = [y for _, y in held[-k:]]
        assert float(s.accuracy(x, now)[r, i]) == pytest.approx(
            sum(a == y for a, y in zip(guesses, new, strict=True)) / k
        )
        before = float(arrived[t - 1].y[r, i, -1]) if t else None
        assert float(s.persistence(now).expand(R, N)[r, i]) == pytest.approx(sum(y == before for y in new) / k)


@streams
def test_windows_slide_and_the_newest_rows_are_fresh(name: str) -> None:
    s = STREAMS[name]
    b = s.batch(rounds(*range(9)), key())
    m = s.rows * s.window
    assert b.X.shape == (9, R, N, m, b.X.shape[-1])
    assert b.fresh[0, 0, 0].tolist() == [False] * (m - s.rows) + [True] * s.rows
    torch.testing.assert_close(b.w.sum(-1), torch.ones(9, 1, 1, dtype=torch.float64))
    for t in range(9):
        assert int((b.w[t] > 0).sum()) == s.rows * min(t + 1, s.window)
    if s.window > 1:
        assert torch.equal(b.X[8, ..., : -s.rows, :], b.X[7, ..., s.rows :, :])
    assert not torch.equal(b.X[7, ..., -s.rows :, :], b.X[8, ..., -s.rows :, :])
    assert torch.equal(b.X[..., -1], torch.ones_like(b.X[..., -1]))
    assert float(b.X.abs().max()) <= (4 if name.startswith("rbf") else 1)


class Fed:
    """Stands in for ``random.Random`` inside river: hands out our numbers in the order in which river asks."""

    def __init__(self, numbers: list[float]) -> None:
        self.numbers = iter(numbers)

    def random(self) -> float:
        return next(self.numbers)

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * next(self.numbers)

    def gauss(self, mean: float, std: float) -> float:
        return mean + std * next(self.numbers)

    def randint(self, low: int, high: int) -> int:
        number = next(self.numbers)
        assert low <= number <= high
        return int(number)


def feed(monkeypatch: pytest.MonkeyPatch, module: Any, *lists: list[float]) -> None:
    """Give the module's generators ``lists``, one for each ``Random`` they make, in order."""
    waiting = [Fed(numbers) for numbers in lists]
    monkeypatch.setattr(module.random, "Random", lambda seed: waiting.pop(0))


@pytest.mark.parametrize("variant", [0, 1, 2, 3])
def test_sea_labels_are_rivers(variant: int, monkeypatch: pytest.MonkeyPatch) -> None:
    s = Sea(period=10, rows=4, window=1, noise=0.25)
    t = rounds(*range(10 * variant, 10 * variant + 10)) + 80  # the third time round
    b = s.batch(t, key())
    words = key().uniform("sea.rows", 16, t)[:, 1, 2].flatten().tolist()
    feed(monkeypatch, river_sea, words)
    ours_X, ours_y = b.X[:, 1, 2].reshape(-1, 4), b.y[:, 1, 2].flatten()
    flipped = 0
    for k, (z, label) in enumerate(river_sea.SEA(variant, noise=0.25, seed=1).take(40)):
        assert ours_X[k, :3].tolist() == pytest.approx([z[j] / 5 - 1 for j in range(3)], abs=1e-15)
        assert float(ours_y[k]) == (1.0 if label else -1.0)
        flipped += label != (z[0] + z[1] > [8, 9, 7, 9.5][variant])
    assert flipped > 2


@pytest.mark.parametrize("drifting", [2, 4])
def test_hyperplane_labels_and_drift_are_rivers(drifting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    f, T = 4, 400
    s = Hyperplane(features=f, drifting=drifting, speed=0.03, reversal=0.1, rows=1, window=1, noise=0.2)
    t = rounds(*range(T))
    b = s.batch(t, key())
    rows = key().uniform("hyperplane.rows", f + 1, t)[:, 2, 3]
    turns = key().shared.uniform("hyperplane.turn", f, rounds(*range(1, T + 1)))[:, 2, 0]
    start = key().shared.uniform("hyperplane.start", f)[0, 2, 0]
    numbers = start.tolist()
    for k in range(T):
        numbers += rows[k].tolist() + turns[k, :drifting].tolist()
    feed(monkeypatch, river_hyperplane, numbers)
    # river compares 0.01 + u with its probabilities, we compare u
    stream = river_hyperplane.Hyperplane(1, f, drifting, mag_change=0.03, noise_percentage=0.21, sigma=0.11)
    weights = s.weights(t, key())[:, 2, 0]
    seen = iter(stream)
    for k in range(T):
        z, label = next(seen)
        assert b.X[k, 2, 3, 0, :f].tolist() == pytest.approx([2 * z[j] - 1 for j in range(f)], abs=1e-15)
        assert float(b.y[k, 2, 3, 0]) == (1.0 if label else -1.0)
        if k + 1 < T:  # river drifts once an example is out, before it hands it over
            assert weights[k + 1].tolist() == pytest.approx(list(stream._weights), abs=1e-12)
    assert float((weights[-1, :drifting] - start[:drifting]).abs().min()) > 0
    assert torch.equal(weights[:, drifting:], start[drifting:].expand(T, f - drifting))


def test_hyperplane_far_away_is_the_same_recursion() -> None:
    s = Hyperplane(features=3, reversal=0.02, speed=2.0**-10)
    far = 9000  # beyond two blocks of the running sums
    turns = (key().shared.uniform("hyperplane.turn", 3, rounds(*range(far + 1)))[:, :, 0] < 0.02).numpy()
    heading, v = np.ones((R, 3)), key().shared.uniform("hyperplane.start", 3)[0, :, 0].numpy().copy()
    for t in range(far):
        v += 2.0**-10 * heading
        heading = np.where(turns[t + 1], -heading, heading)
        if t + 1 in (1, 4095, 4096, 4097, 8192, far):
            np.testing.assert_allclose(s.weights(rounds(t + 1), key())[0, :, 0], v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("speed", [0.03, 0.9])
def test_rbf_rows_labels_and_centroids_are_rivers(classes: int, speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    f, c, T = 3, 5, 300
    s = RbfDrift(features=f, centroids=c, classes=classes, speed=speed, width=1.0, rows=1, window=1)
    t = rounds(*range(1, T + 1))  # river moves before every row: its first row is our round 1
    b = s.batch(t, key())
    start = key().shared.uniform("rbf_drift.start", c * f)[0, 1, 0].reshape(c, f)
    velocity = key().shared.uniform("rbf_drift.velocity", c * f)[0, 1, 0]
    shape = key().shared.uniform("rbf_drift.shape", 2 * c)[0, 1, 0]
    model: list[float] = []
    for j in range(c):
        model += [*start[j].tolist(), float(j % classes), float(shape[j]), float(shape[c + j])]
    words = key().uniform("rbf_drift.rows", f + 3, t)[:, 1, 4].tolist()
    lengths = key().normal("rbf_drift.length", 1, t)[:, 1, 4, 0].tolist()
    samples: list[float] = []
    for k in range(T):
        samples += [words[k][f], *words[k][:f], lengths[k]]
    feed(monkeypatch, river_rbf, model, velocity.tolist(), samples)
    stream = river_rbf.RandomRBFDrift(1, 2, classes, f, c, change_speed=speed, n_drift_centroids=c)
    centres = s.centres(t, key())[:, 1, 0]
    bounced = 0
    for k, (z, label) in enumerate(stream.take(T)):
        np.testing.assert_allclose(centres[k], [one.centre for one in stream.centroids], rtol=0, atol=1e-9)
        assert b.X[k, 1, 4, 0, :f].tolist() == pytest.approx([2 * z[j] - 1 for j in range(f)], abs=1e-8)
        assert float(b.y[k, 1, 4, 0]) == (2.0 * label - 1 if classes == 2 else label)
        bounced += int((np.asarray(stream.centroid_speed) < 0).any())
    assert bounced > T // 2


def test_rbf_centroids_stay_in_the_cube_for_ever_and_can_stand_still() -> None:
    for speed in (0.005, 0.4, 3.0):
        p = RbfDrift(speed=speed).centres(rounds(0, 1, 999, 10**6, 10**6 + 1), key())
        assert float(p.min()) >= 0
        assert float(p.max()) <= 1
        assert not torch.equal(p[3], p[4])
    still = RbfDrift(speed=0.0).centres(rounds(0, 10**6), key())
    torch.testing.assert_close(still[0], still[1], rtol=0, atol=0)


def test_rbf_noise_gives_another_class_as_often_as_it_says() -> None:
    clean, noisy = (RbfDrift(classes=3, noise=p, rows=200, window=1) for p in (0.0, 0.3))
    a, b = (s.batch(rounds(*range(5)), key()).y for s in (clean, noisy))
    changed = a != b
    assert float(changed.double().mean()) == pytest.approx(0.3, abs=0.01)
    shifts = (b - a)[changed] % 3
    assert float((shifts == 1).double().mean()) == pytest.approx(0.5, abs=0.02)
    assert sorted(set(b.flatten().tolist())) == [0, 1, 2]
