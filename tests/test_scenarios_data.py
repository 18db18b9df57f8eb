"""The scenarios made of real data: against slow loops from their definitions, autograd, and themselves in other blocks."""

from __future__ import annotations

import csv
import importlib
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from distopt.errors import InputError
from distopt.random import Key
from distopt.scenarios import _windows
from distopt.scenarios.digits import Digits, dirichlet, pictures
from distopt.scenarios.flights import FEATURES, Flights, _agents, _columns, features
from distopt.scenarios.stream import Stream, running_standard, table

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
                assert math.isnan(accuracy[r, i]) if not new else float(accuracy[r, i]) == pytest.approx(right / len(new))
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
    drawn = np.ones(len(X)) * -1 if s.keep == 1 else Key(seed, [0], [trial], 1).uniform("flights/keep", len(X)).numpy().ravel()
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


def test_flights_are_the_year_that_was() -> None:
    c, (X, y) = _columns(), features()
    assert X.shape == (336_776 - 9_430, len(FEATURES)) and int(c["dropped"]) == 9_430
    assert (np.diff(c["day"].astype(int) * 1440 + c["minute"]) >= 0).all()
    assert np.abs(X).max() < 3  # physical scales keep every feature near unit size
    month = np.searchsorted(np.cumsum([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30]), c["day"], side="right")
    late = [float((y[month == m] > 0).mean()) for m in range(12)]
    assert late[8] < 0.15 and max(late) > 0.30  # September is punctual, the year drifts
    # the hour in universal time and the local clock agree: 5 hours apart in winter, 4 in summer
    apart = (c["hour"].astype(int) + 5 - c["minute"].astype(int) // 60) % 24
    assert set(apart[(c["day"] < 60) | (c["day"] > 310)]) == {5} and set(apart[(c["day"] > 75) & (c["day"] < 300)]) == {4}


def test_flights_weather_is_of_the_hour_before() -> None:
    c, (X, _) = _columns(), features()
    rng = random.Random(0)
    for row in rng.sample(range(len(X)), 200):
        seen = c["weather"][c["origin"][row], c["hour"][row] - 1]
        assert X[row, FEATURES.index("temperature")] == (seen[0] - 55) / 30
        assert X[row, FEATURES.index("haze")] == 1 - seen[6] / 100
    # nothing later can enter: with every observation from hour h on erased, flights up to hour h keep their features
    h = 4000
    kept = c["weather"].copy()
    try:
        features.cache_clear()
        c["weather"][:, h:] = 0
        changed, _ = features()
        early = c["hour"] <= h
        assert np.array_equal(changed[early], X[early]) and not np.array_equal(changed[~early], X[~early])
    finally:
        c["weather"][:] = kept
        features.cache_clear()


def test_missing_weather_is_carried_forward_only() -> None:
    make_flights: Any = importlib.import_module("distopt.scenarios.data.make_flights")

    table_ = np.full((3, 5, len(make_flights.QUANTITIES)), np.nan)
    table_[1, 2] = 7.0
    whole = np.full((3, make_flights.HOURS, len(make_flights.QUANTITIES)), np.nan)
    whole[:, :5] = table_
    filled = make_flights.carried_forward(whole)
    assert (filled[1, 2:] == 7).all() and (filled[1, :2] == [make_flights.BLANK[q] for q in make_flights.QUANTITIES]).all()
    assert (filled[0] == [make_flights.BLANK[q] for q in make_flights.QUANTITIES]).all()


def test_flights_agents_split_and_join() -> None:
    names = _columns()["carriers"].tolist()
    sizes = np.bincount(_columns()["carrier"])
    whole = _agents("carrier", 16)
    assert (whole == _columns()["carrier"]).all()
    few = _agents("carrier", 5)
    for k in range(16):  # joining never cuts an airline
        assert len(set(few[_columns()["carrier"] == k])) == 1
    assert len(set(few)) == 5
    left = sorted(sizes.tolist())
    while len(left) > 5:
        left = sorted([left[0] + left[1], *left[2:]])
    assert sorted(np.bincount(few).tolist()) == left
    many = _agents("carrier", 40)
    left = sorted(sizes.tolist())
    while len(left) < 40:
        big = left.pop()
        left = sorted([*left, big // 2, big - big // 2])
    assert sorted(np.bincount(many).tolist()) == left
    united = many[_columns()["carrier"] == names.index("UA")]
    pieces = len(set(united.tolist()))
    assert pieces > 1 and united[:pieces].tolist() == united[pieces : 2 * pieces].tolist()  # flights alternate


@pytest.mark.parametrize("total", [1, 2, 3, 5, 8, 13])
def test_groups_cover_every_row_once(total: int) -> None:
    sizes = {"a": 11, "b": 3, "c": 1, "d": 29, "e": 3}
    seen = [(name, row) for agent in _windows.grouped(sizes, total) for name, k, by in agent for row in range(k, sizes[name], by)]
    assert sorted(seen) == [(name, row) for name, size in sizes.items() for row in range(size)]
    assert len(_windows.grouped(sizes, total)) == total


def test_flights_trials_differ_and_keep_the_asked_fraction() -> None:
    s = Flights(window=2000, step=2000, agents_by="shard", keep=0.6)
    b = s.batch(rounds(0), Key(0, [0], range(40), 1))
    held = (b.w > 0).sum(-1).flatten().to(torch.float64)
    assert len(set(held.tolist())) > 10
    spread = math.sqrt(2000 * 0.6 * 0.4)
    assert abs(float(held.mean()) - 1200) < 4 * spread / math.sqrt(40) and 0.7 < float(held.std()) / spread < 1.3
    assert len({Flights(keep=1.0).batch(rounds(3), Key(0, [1], [r], 16)).X.sum().item() for r in range(3)}) == 1


def test_flights_last_the_year() -> None:
    s = Flights()
    assert s.rounds == 327_346 // 320 == 1022
    s.batch(rounds(1021), Key(0, [0], [0], 16))
    with pytest.raises(InputError, match=r"round 1022 asked for, .*1022 rounds"):
        s.batch(rounds(1022), Key(0, [0], [0], 16))


def test_an_online_model_beats_the_best_fixed_one_on_the_flights() -> None:
    """One model for all; each round it is judged on flights it has not seen, then takes one gradient step."""
    X, y = features()
    step, fixed, x, right = 320, np.zeros(18), np.zeros(18), 0
    for _ in range(8):  # Newton on the whole year: hindsight
        p = 1 / (1 + np.exp(-X @ fixed))
        fixed -= np.linalg.solve(X.T @ (X * (p * (1 - p))[:, None]), X.T @ (p - (y > 0)))
    for t in range(len(y) // step):
        a, label = X[t * step : (t + 1) * step], y[t * step : (t + 1) * step]
        z = a @ x
        right += int(((z >= 0) == (label > 0)).sum())
        x = x + 0.5 * (label / (1 + np.exp(label * z))) @ a / step
    online, hindsight, never = right / (len(y) // step * step), float(((X @ fixed > 0) == (y > 0)).mean()), float((y < 0).mean())
    assert online > 0.78
    assert 0.775 > hindsight > never > 0.76


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
    u = torch.cat([torch.zeros(1, 2, 10, dtype=torch.float64), Key(0, range(9), [0], 9).uniform("x", 20).reshape(9, 2, 10)])
    p = dirichlet(u, 1e-4)
    assert torch.isfinite(p).all() and torch.allclose(p.sum(-1), torch.ones(10, dtype=torch.float64))


def test_the_class_mix_swings_and_comes_back() -> None:
    s = Digits(alpha=0.1, period=50, images=200, window=1)
    b = s.batch(rounds(0, 25, 50, 75), Key(3, range(5), [0], 5))
    share = torch.nn.functional.one_hot(b.y, 10).to(torch.float64).mean(-2)[:, 0]
    there, back = (share[0] - share[1]).abs().sum(-1), (share[0] - share[2]).abs().sum(-1)
    assert (back < 0.35).all() and there.mean() > 0.8
    assert (share[:, 0] - share[:, 1]).abs().sum(-1).min() > 0.5  # agents differ


# ------------------------------------------------------------------------------------------------------------------- stream


def _write(path: Path, header: list[str], rows: list[list[Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return str(path)


def _rows(count: int, classes: int = 2, seed: int = 0) -> list[list[Any]]:
    rng = random.Random(seed)
    return [
        [
            rng.gauss(1000, 3),
            rng.choice(["red", "green", "blue"]),
            rng.randrange(9),
            "abcd"[rng.randrange(classes)],
            rng.choice("xyz"),
        ]
        for _ in range(count)
    ]


HEADER = ["height", "colour", "count", "kind", "place"]


def test_the_sample_ships_and_reads() -> None:
    s = Stream()
    assert s.dim == 11 and s.length(3) == 13_005 // 3 and Stream(step=10).length(3) == 1300
    assert not hasattr(s, "rounds")


@pytest.mark.parametrize("classes", [2, 4])
def test_stream_against_a_slow_loop(tmp_path: Path, classes: int) -> None:
    rows = _rows(90, classes)
    s = Stream(_write(tmp_path / "a.csv", HEADER, rows), "kind", window=5, step=4, agents_by="place")
    kinds, colours, places = (
        sorted({r[3] for r in rows}),
        list(dict.fromkeys(r[1] for r in rows)),
        list(dict.fromkeys(r[4] for r in rows)),
    )
    n = 2  # three places: the third is dealt to agent 0
    a = []
    for r, row in enumerate(rows):
        number = []
        for k in (0, 2):
            past = [float(rows[q][k]) for q in range(r + 1)]
            spread = float(np.std(past))
            number.append((float(row[k]) - float(np.mean(past))) / spread if spread else 0.0)
        a.append([1.0, number[0], *(float(row[1] == c) for c in colours), number[1]])
    assert s.dim == 6 * (1 if classes == 2 else classes)
    x = some_x(s, 2, n)
    batch = s.batch(rounds(0, 2, 21), Key(0, range(n), range(2), n))
    for k, t in enumerate((0, 2, 21)):
        b = at(batch, k)
        loss = s.loss(x, b)
        for i in range(n):
            mine = [r for r in range(4 * (t + 1)) if places.index(rows[r][4]) % n == i][-5:]
            for trial in range(2):
                want = 0.5 * s.l2 * float(x[trial, i] @ x[trial, i])
                for r in mine:
                    scores = (x[trial, i].reshape(-1, 6) @ torch.tensor(a[r], dtype=torch.float64)).tolist()
                    c = kinds.index(rows[r][3])
                    if classes == 2:
                        want += math.log1p(math.exp(-(1 if c else -1) * scores[0])) / len(mine)
                    else:
                        want += (math.log(sum(map(math.exp, scores))) - scores[c]) / len(mine)
                assert float(loss[trial, i]) == pytest.approx(want, rel=1e-9)


def test_later_rows_never_change_earlier_features(tmp_path: Path) -> None:
    rows = _rows(400)
    first = table(_write(tmp_path / "a.csv", HEADER, rows), "kind", "place", True)
    changed = [*rows[:250], *([r[0] * 50 - 7, r[1], 100 - r[2], r[3], r[4]] for r in rows[250:])]
    second = table(_write(tmp_path / "b.csv", HEADER, changed), "kind", "place", True)
    assert np.array_equal(first.X[:250], second.X[:250]) and not np.array_equal(first.X[250:], second.X[250:])
    assert np.array_equal(first.X[:250], table(_write(tmp_path / "c.csv", HEADER, rows[:250]), "kind", "place", True).X)


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (1e9, 1e-3), (-5.0, 1e60), (3.0, 0.0)])
def test_running_standard_keeps_its_digits(offset: float, scale: float) -> None:
    z = np.random.default_rng(0).standard_normal(300) + np.linspace(0, 30, 300)  # it also drifts away from its start
    x = offset + scale * z
    got = running_standard(x[:, None])[:, 0]
    exact = x.astype(np.longdouble)
    for r in (1, 2, 50, 299):
        spread = exact[: r + 1].std()
        want = float((exact[r] - exact[: r + 1].mean()) / spread) if spread else 0.0
        assert got[r] == pytest.approx(want, rel=1e-6 if offset == 1e9 else 1e-11, abs=1e-9)
    assert got[0] == 0


def test_a_million_rows_are_read_by_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distopt.scenarios import stream

    rows = _rows(100)
    path = _write(tmp_path / "a.csv", HEADER, rows)
    whole = table(path, "kind", None, True)
    stream._read.cache_clear()
    monkeypatch.setattr(stream, "_CHUNK", 7)
    parts = table(path, "kind", None, True)
    assert parts is not whole and np.array_equal(parts.X, whole.X) and np.array_equal(parts.y, whole.y)
    with pytest.raises(InputError, match="line 52, column 'count'"):
        bad = [list(r) for r in rows]
        bad[50][2] = "many"
        table(_write(tmp_path / "b.csv", HEADER, bad), "kind", None, True)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", HEADER, _rows(30))
    before = table(path, "kind", None, True)
    assert table(path, "kind", None, True) is before
    _write(tmp_path / "a.csv", HEADER, _rows(31))
    assert len(table(path, "kind", None, True).y) == 31


@pytest.mark.parametrize("step", [None, 3])
def test_a_run_lasts_as_long_as_its_file(tmp_path: Path, step: int | None) -> None:
    import distopt

    path = _write(tmp_path / "a.csv", HEADER, _rows(50))
    s = Stream(path, "kind", step=step)
    per = step or 4
    assert s.length(4) == 50 // per
    s.batch(rounds(50 // per - 1), Key(0, range(4), [0], 4))
    with pytest.raises(InputError, match=f"last {50 // per} rounds"):
        s.batch(rounds(50 // per), Key(0, range(4), [0], 4))
    run = distopt.simulate("ring", agents=4, scenario=s, algorithm="dgd")
    assert len(run.rounds) == 50 // per
    from distopt.checks import check_scenario

    check_scenario(s)  # asks for rounds that there are


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _write(tmp_path / "a.csv", HEADER, _rows(20))
    assert Stream("~/a.csv", "kind").length(2) == 10
    with pytest.raises(InputError, match="no file '~/b.csv'"):
        Stream("~/b.csv", "kind").length(2)


def test_equal_numbers_are_one_class(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", ["x", "y"], [[1, "1"], [2, "0.0"], [3, "0"], [4, "1e0"], [5, "-0"]])
    data = table(path, "y", None, False)
    assert data.classes == ("0.0", "1") and data.y.tolist() == [1, 0, 0, 1, 0]
    texts = table(_write(tmp_path / "b.csv", ["x", "y"], [[1, "1"], [2, "0.0"], [3, "0"], [4, "no"]]), "y", None, False)
    assert texts.classes == ("0", "0.0", "1", "no")  # one of them is no number
    ids = [[1, "9007199254740992"], [2, "9007199254740993"]]  # equal in float64
    assert len(table(_write(tmp_path / "c.csv", ["x", "y"], ids), "y", None, False).classes) == 2
    with pytest.raises(InputError, match="has 1 different values"):
        table(_write(tmp_path / "d.csv", ["x", "y"], [[1, "1"], [2, "1.0"]]), "y", None, False)


def test_classes_sort_as_numbers(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", ["x", "y"], [[1, "10"], [2, "9"], [3, "10"]])
    data = table(path, "y", None, False)
    assert data.classes == ("9", "10") and data.y.tolist() == [1, 0, 1] and data.X.tolist() == [[1, 1], [1, 2], [1, 3]]


@pytest.mark.parametrize("bad", ["", "  ", "nan", "NA", "inf", "-inf", "1e300", "1_000", "tall"])
def test_a_bad_number_is_refused_with_its_place(tmp_path: Path, bad: str) -> None:
    rows = _rows(20)
    rows[11][0] = bad
    with pytest.raises(InputError, match=r"a\.csv, line 13, column 'height'"):
        _ = Stream(_write(tmp_path / "a.csv", HEADER, rows), "kind").dim


@pytest.mark.parametrize("column", [1, 3, 4])
@pytest.mark.parametrize("bad", ["", "NaN", "inf", "?"])
def test_a_missing_text_is_refused_with_its_place(tmp_path: Path, column: int, bad: str) -> None:
    for line in (2, 9):
        rows = _rows(20)
        rows[line - 2][column] = bad
        with pytest.raises(InputError, match=f"line {line}, column '{HEADER[column]}'"):
            _ = Stream(_write(tmp_path / "a.csv", HEADER, rows), "kind", agents_by="place").dim


def test_blank_lines_and_quoted_line_ends_do_not_shift_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('x,word,y\n\n1,"two\nlines",a\n \t\n2,one,b\nbad,one,a\n')
    with pytest.raises(InputError, match="line 7, column 'x' is 'bad'"):
        table(str(path), "y", None, True)
    path.write_text('x,word,y\n\n1,"two\nlines",a\n   \n2,one,b\n3,one,a\n  ')
    assert table(str(path), "y", None, False).features == ("1", "x", "word=two\nlines", "word=one")


def _refused(message: str, path: str, n: int = 2, t: int = 0, **fields: Any) -> None:
    with pytest.raises(InputError, match=message):
        Stream(path, **{"label": "kind", **fields}).batch(rounds(t), Key(0, range(n), [0], n))


def test_stream_says_what_is_wrong(tmp_path: Path) -> None:
    rows = _rows(50)
    path = _write(tmp_path / "a.csv", HEADER, rows)
    _refused("no file 'nothing.csv'", "nothing.csv")
    _refused("label='kin' is not a column .* did you mean 'kind'", path, label="kin")
    _refused("agents_by='plaice' .* did you mean 'place'", path, agents_by="plaice")
    _refused("it has 'height', 'colour'", path, label="q7")
    _refused("both 'kind'", path, agents_by="kind")
    _refused("'place' has 3 values for 5 agents; ask for 1 to 3", path, n=5, agents_by="place")
    _refused("at 2 rows per round the 50 rows .* last 25 rounds", path, t=25)
    _refused("last 0 rounds", path, step=51)
    _refused("has 1 different values", _write(tmp_path / "b.csv", HEADER, [[*r[:3], "same", "x"] for r in rows]))
    _refused("has 1 rows of data", _write(tmp_path / "c.csv", HEADER, rows[:1]))
    _refused("line 4 has 4 values but the header names 5", _write(tmp_path / "d.csv", HEADER, [*rows[:2], rows[2][:4]]))
    _refused("line 1 must name every column", _write(tmp_path / "e.csv", ["a", "a"], [[1, 2]]))
    _refused(
        "'colour' has 50 different texts",
        _write(tmp_path / "f.csv", HEADER, [[r[0], f"c{k}", *r[2:]] for k, r in enumerate(rows)]),
    )
    _refused("no column besides", _write(tmp_path / "g.csv", ["kind"], [["a"], ["b"]]))
    many = [[*r[:3], f"k{k}", r[4]] for k, r in enumerate(_rows(150))]
    _refused("150 different values; it must name 2 to 100", _write(tmp_path / "h.csv", HEADER, many))
    (tmp_path / "i.csv").write_bytes(b"kind,x\n\xff\xfe,1\n")
    _refused("not a readable CSV file in UTF-8", str(tmp_path / "i.csv"))
    (tmp_path / "j.csv").write_text("")
    _refused("line 1 must name", str(tmp_path / "j.csv"))
    _refused("not a readable CSV file", str(tmp_path))


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
