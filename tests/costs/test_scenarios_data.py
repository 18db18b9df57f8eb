"""The scenarios made of real data: against slow loops from their definitions, autograd, and themselves in other blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios.digits import Digits, dirichlet, pictures
from distopt.scenarios.flights import Flights, _agents, features
from distopt.scenarios.stream import Stream

N = 7
SCENARIOS: dict[str, Any] = {
    "flights": Flights(window=9, step=40),
    "flights by origin": Flights(window=5, step=30, agents_by="origin", keep=1.0),
    "flights by shard": Flights(window=5, step=3, agents_by="shard"),
    "digits": Digits(images=3, window=3, period=20.0),
    "digits, no memory": Digits(images=2, window=1, alpha=0.05),
    "stream": Stream(window=6),
    "stream by airport": Stream(window=4, step=5, agents_by="airport", standardise=False),
}


def rounds(*t: int) -> Tensor:
    return torch.tensor(t).reshape(-1, 1, 1, 1)


def agents(scenario: Any) -> int:
    return 3 if getattr(scenario, "agents_by", None) == "airport" else N


def at(b: Any, k: int) -> Any:
    """Round k of a batch, the way a runner slices it."""
    return type(b)(*(leaf[k if leaf.shape[0] > 1 else 0] for leaf in b))


def some_x(scenario: Any, trials: int, n: int) -> Tensor:
    return torch.randn(trials, n, scenario.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 3


@pytest.fixture(params=list(SCENARIOS), name="scenario")
def _scenario(request: pytest.FixtureRequest) -> Any:
    return SCENARIOS[request.param]


# ---------------------------------------------------------------------------------------------- what holds for all of them


def test_shapes_and_weights(scenario: Any) -> None:
    n = agents(scenario)
    b = scenario.batch(rounds(0, 1, 2, 50), Key(1, range(n), range(2), n))
    for leaf in b:
        assert leaf.shape[0] in (1, 4) and leaf.shape[1] in (1, 2) and leaf.shape[2] in (1, n)
    assert b.X.dtype == b.w.dtype == torch.float64 and b.fresh.dtype == torch.bool
    held = b.w.expand(b.y.shape)
    total = held.sum(-1)
    assert ((total - 1).abs() < 1e-12).logical_or(total == 0).all()
    assert (total[-1] > 0).sum() >= n - 1  # after 50 rounds hardly anybody has no row
    assert ((held > 0) | ~b.fresh).all()  # a fresh row counts
    assert torch.isfinite(b.X).all()


def test_blocks_chunks_and_order_do_not_matter(scenario: Any) -> None:
    n = agents(scenario)
    t = rounds(0, 1, 2, 3, 4, 5, 6, 41, 42)
    whole = scenario.batch(t, Key(4, range(n), range(3), n))
    x = some_x(scenario, 3, n)
    for chunk in ([0], [6, 2], [3, 4, 5], [8, 7, 1], [4, 4]):
        for block in ([0], [1, 2], list(range(n))):
            for trials in ([0], [2, 1], [0, 1, 2]):
                part = scenario.batch(t[chunk], Key(4, block, trials, n))
                for one, all_ in zip(part, whole, strict=True):
                    want = all_[chunk] if all_.shape[0] > 1 else all_
                    want = want[:, trials] if want.shape[1] > 1 else want
                    want = want[:, :, block] if want.shape[2] > 1 else want
                    assert one.dtype == want.dtype and torch.equal(one, want)
        k = len(chunk) - 1
        for f in (scenario.loss, scenario.grad):
            part = scenario.batch(t[chunk], Key(4, [1, 2], [0, 1, 2], n))
            assert torch.equal(f(x[:, 1:3], at(part, k)), f(x, at(whole, chunk[k]))[:, 1:3])


def test_gradient_and_hessian_are_the_derivatives_of_the_loss(scenario: Any) -> None:
    n = agents(scenario)
    b = at(scenario.batch(rounds(0, 23), Key(0, range(n), range(2), n)), 1)
    x = some_x(scenario, 2, n).requires_grad_()
    loss = scenario.loss(x, b)
    assert loss.shape == (2, n)
    (want,) = torch.autograd.grad(loss.sum(), x)
    assert torch.allclose(scenario.grad(x, b), want, rtol=1e-12, atol=1e-13)
    v = torch.randn(2, 1, scenario.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    (bend,) = torch.autograd.grad((scenario.grad(x, b) * v).sum(), x)  # H_i v, as H_i is symmetric and agents are apart
    H = scenario.hessian(x, b)
    assert H.shape == (2, scenario.dim, scenario.dim)
    assert torch.allclose((H @ v.mT).squeeze(-1), bend.sum(-2), rtol=1e-10, atol=1e-12)


def test_persistence_and_accuracy_against_counting(scenario: Any) -> None:
    n = agents(scenario)
    batch = scenario.batch(rounds(*range(12)), Key(2, range(n), range(2), n))
    x = some_x(scenario, 2, n)
    for k in range(12):
        b = at(batch, k)
        accuracy, persistence = scenario.accuracy(x, b), scenario.persistence(b)
        assert accuracy.shape == (2, n)
        for r in range(2):
            q = min(r, b.y.shape[0] - 1)
            for i in range(n):
                new = [
                    j
                    for j in range(b.y.shape[-1])
                    if bool(b.fresh[min(q, b.fresh.shape[0] - 1), min(i, b.fresh.shape[1] - 1), j])
                ]
                right = 0
                for j in new:
                    a = b.X[q, i, j]
                    if x.shape[-1] == len(a):
                        guess = 1.0 if float(a @ x[r, i]) >= 0 else -1.0
                    else:
                        guess = float((x[r, i].reshape(-1, len(a)) @ a).argmax())
                    right += guess == float(b.y[q, i, j])
                assert (
                    math.isnan(accuracy[r, i]) if not new else float(accuracy[r, i]) == pytest.approx(right / len(new))
                )
                # the label before the newest rows: the newest of the round before, wherever the window still shows it
                if k and len(new) < b.y.shape[-1] and float(b.w.expand(b.y.shape)[q, i, -len(new) - 1]) > 0:
                    before = float(b.y[q, i, -len(new) - 1])
                    share = sum(float(b.y[q, i, j]) == before for j in new) / len(new) if new else math.nan
                    assert float(persistence[q, i]) == pytest.approx(share, nan_ok=True)
                    assert float(b.last[q, i, 0]) == before
    assert torch.isnan(scenario.persistence(at(batch, 0))).all()  # nothing came before round 0


# ------------------------------------------------------------------------------------------------------------------ flights


def _slow_flights(s: Flights, seed: int, trial: int, t: int, total: int) -> list[list[int]]:
    """The rows of every agent in round t, by going through the year flight by flight."""
    X, _ = features()
    agent = _agents(s.agents_by, total)
    drawn = (
        np.ones(len(X)) * -1
        if s.keep == 1
        else Key(seed, [0], [trial], 1).uniform("flights/keep", len(X)).numpy().ravel()
    )
    held: list[list[int]] = [[] for _ in range(total)]
    for row in range((t + 1) * s.step):
        if drawn[row] < s.keep:
            held[agent[row]].append(row)
    return [rows[-s.window :] for rows in held]


@pytest.mark.parametrize("name", ["flights", "flights by origin", "flights by shard"])
def test_flights_against_a_slow_loop(name: str) -> None:
    s = SCENARIOS[name]
    X, y = features()
    batch = s.batch(rounds(0, 3, 37), Key(6, range(N), [0, 2], N))
    x = some_x(s, 2, N)
    for k, t in enumerate((0, 3, 37)):
        b = at(batch, k)
        loss = s.loss(x, b)
        for r, trial in enumerate((0, 2)):
            for i, rows in enumerate(_slow_flights(s, 6, trial, t, N)):
                want = 0.5 * s.l2 * float(x[r, i] @ x[r, i])
                for row in rows:
                    want += math.log1p(math.exp(-y[row] * sum(X[row] * x[r, i].numpy()))) / len(rows)
                assert float(loss[r, i]) == pytest.approx(want, rel=1e-12)
                new = [row for row in rows if row >= t * s.step]
                assert b.fresh[r, i].tolist() == [False] * (s.window - len(new)) + [True] * len(new)


# ------------------------------------------------------------------------------------------------------------------- digits


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    X, first = pictures()
    pixels, label = load_digits(return_X_y=True)
    order = np.argsort(label, kind="stable")
    assert np.array_equal(X[:, :-1].numpy() * 16, pixels[order]) and (X[:, -1] == 1).all()
    assert first.tolist() == [int((label < c).sum()) for c in range(11)]


def test_digits_against_a_slow_loop() -> None:
    s, n = SCENARIOS["digits"], 4
    key = Key(8, range(n), [0, 5], n)
    X, first = pictures()
    mix_u = key.uniform("digits/mix", 40)
    ends = dirichlet(mix_u.reshape(1, 2, n, 2, 2, 10), s.alpha)
    x = some_x(s, 2, n)
    batch = s.batch(rounds(0, 1, 7), key)
    for k, t in enumerate((0, 1, 7)):
        b = at(batch, k)
        loss = s.loss(x, b)
        for r in range(2):
            for i in range(n):
                costs, classes = [], []
                for tau in range(max(0, t - s.window + 1), t + 1):
                    u = key.uniform("digits/image", 2 * s.images, rounds(tau))[0, r, i].tolist()
                    share = (1 - math.cos(2 * math.pi * tau / s.period)) / 2
                    mix = [(1 - share) * p + share * q for p, q in ends[0, r, i].T.tolist()]
                    for j in range(s.images):
                        c, below = 0, mix[0]
                        while c < 9 and u[j] >= below:
                            c += 1
                            below += mix[c]
                        row = int(first[c]) + int(u[s.images + j] * int(first[c + 1] - first[c]))
                        scores = x[r, i].reshape(10, 65) @ X[row]
                        costs.append(math.log(float(scores.exp().sum())) - float(scores[c]))
                        classes.append(c)
                assert b.y[r, i, -len(classes) :].tolist() == classes
                want = sum(costs) / len(costs) + 0.5 * s.l2 * float(x[r, i] @ x[r, i])
                assert float(loss[r, i]) == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("alpha", [0.05, 0.7, 4.0])
def test_dirichlet_has_its_distribution(alpha: float) -> None:
    u = Key(0, range(4000), [0], 4000).uniform("test", 20).reshape(4000, 2, 10)
    p = dirichlet(u, alpha)
    assert torch.allclose(p.sum(-1), torch.ones(4000, dtype=torch.float64), atol=1e-12)
    for c in (0, 9):  # one coordinate of it is Beta(alpha, 9 alpha)
        assert stats.kstest(p[:, c].numpy(), stats.beta(alpha, 9 * alpha).cdf).pvalue > 1e-3
    assert float(np.corrcoef(p[:, 0], p[:, 1])[0, 1]) == pytest.approx(-1 / 9, abs=0.06)


def test_a_tiny_alpha_still_gives_probabilities() -> None:
    u = torch.cat(
        [torch.zeros(1, 2, 10, dtype=torch.float64), Key(0, range(9), [0], 9).uniform("x", 20).reshape(9, 2, 10)]
    )
    p = dirichlet(u, 1e-4)
    assert torch.isfinite(p).all() and torch.allclose(p.sum(-1), torch.ones(10, dtype=torch.float64))


def test_the_class_mix_swings_and_comes_back() -> None:
    s = Digits(alpha=0.1, period=50, images=200, window=1)
    b = s.batch(rounds(0, 25, 50, 75), Key(3, range(5), [0], 5))
    share = torch.nn.functional.one_hot(b.y, 10).to(torch.float64).mean(-2)[:, 0]
    there, back = (share[0] - share[1]).abs().sum(-1), (share[0] - share[2]).abs().sum(-1)
    assert (back < 0.35).all() and there.mean() > 0.8
    assert (share[:, 0] - share[:, 1]).abs().sum(-1).min() > 0.5  # agents differ


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flights(window=0), "window=0"),
        (lambda: Flights(step=0), "step=0"),
        (lambda: Flights(agents_by="plane"), "agents_by='plane'"),
        (lambda: Flights(keep=0.0), "keep=0"),
        (lambda: Flights(keep=math.nan), "keep=nan"),
        (lambda: Flights(l2=-1.0), "l2=-1"),
        (lambda: Digits(alpha=0.0), "alpha=0"),
        (lambda: Digits(period=-2.0), "period=-2"),
        (lambda: Digits(images=0), "images=0"),
        (lambda: Digits(window=0), "window=0"),
        (lambda: Digits(l2=math.inf), "l2=inf"),
        (lambda: Stream(window=0), "window=0"),
        (lambda: Stream(step=0), "step=0"),
        (lambda: Stream(l2=-0.1), "l2=-0.1"),
        (lambda: _agents("carrier", 400_000), "400000 agents"),
    ],
)
def test_bad_parameters_are_named(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
