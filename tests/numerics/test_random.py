"""Addressed randomness: the same number at the same address, whoever asks and in whatever order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distopt.numerics.normal import normal
from distopt.numerics.random import Key, words


def rounds(*ts: int) -> torch.Tensor:
    return torch.tensor(ts).reshape(-1, 1, 1, 1)


def test_words_equal_one_long_philox_draw() -> None:
    long = words(3, "s", 7, 0, 1000)
    for start, count in [(0, 1), (1, 3), (5, 11), (998, 2), (37, 400)]:
        assert np.array_equal(words(3, "s", 7, start, count), long[start : start + count])


def test_streams_trials_and_seeds_differ() -> None:
    base = words(0, "a", 0, 0, 64)
    for other in (words(1, "a", 0, 0, 64), words(0, "b", 0, 0, 64), words(0, "a", 1, 0, 64)):
        assert not np.intersect1d(base, other).size


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True),
    st.sets(st.integers(0, 6), min_size=1),
    st.sets(st.integers(0, 3), min_size=1),
    st.integers(1, 5),
)
def test_any_block_in_any_order_is_a_slice_of_the_whole(
    ts: list[int], agents: set[int], trials: set[int], width: int
) -> None:
    whole = Key(5, range(7), range(4), 7).uniform("s", width, rounds(*range(41)))
    block = Key(5, sorted(agents), sorted(trials), 7).uniform("s", width, rounds(*ts))
    expected = whole[ts][:, sorted(trials)][:, :, sorted(agents)]
    assert torch.equal(block, expected)


def test_normal_has_the_right_distribution_and_is_finite() -> None:
    z = Key(1, range(100), range(2), 100).normal("z", 50, rounds(*range(20))).reshape(-1)
    assert torch.isfinite(z).all()
    assert abs(float(z.mean())) < 4 / np.sqrt(len(z))
    assert abs(float(z.var()) - 1) < 4 * np.sqrt(2 / len(z))
    assert abs(float((z.abs() > 1.959964).double().mean()) - 0.05) < 0.003


def test_integers_are_uniform() -> None:
    counts = torch.bincount(
        Key(1, range(50), range(1), 50).integers("i", 7, 20, rounds(*range(70))).reshape(-1), minlength=7
    )
    expected = 50 * 20 * 70 / 7
    assert float(((counts - expected) ** 2 / expected).sum()) < 22.5  # chi-square, 6 degrees of freedom, p = 0.001


@pytest.mark.parametrize("ts", [[0], [1], [4095], [4096], [4097, 3, 9000, 0], [12287, 12288], list(range(4090, 4100))])
def test_running_sum_is_the_sum_of_increments_at_any_rounds(ts: list[int]) -> None:
    def increments(t: torch.Tensor) -> torch.Tensor:
        return Key(2, range(2), range(3), 2).normal("w", 4, t)

    straight = increments(rounds(*range(1, 12289))).cumsum(0)
    key = Key(2, range(2), range(3), 2)
    got = key.running_sum("walk", rounds(*ts), increments)
    for row, t in zip(got, ts, strict=True):
        expected = straight[t - 1] if t else torch.zeros(3, 2, 4, dtype=torch.float64)
        assert torch.allclose(row, expected, rtol=0, atol=1e-10)
    fresh = Key(2, range(2), range(3), 2).running_sum("walk", rounds(*reversed(ts)), increments)
    assert torch.equal(fresh.flip(0), got)


def test_shared_draws_do_not_depend_on_the_block() -> None:
    one = Key(0, [3], range(2), 9).shared.normal("p", 2, rounds(4, 5))
    other = Key(0, range(9), range(2), 9).shared.normal("p", 2, rounds(4, 5))
    assert one.shape == (2, 2, 1, 2)
    assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_of_uniforms_are_finite_in_either_precision(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    z = normal(torch.tensor([0.0, eps, 0.5, 1 - eps / 2], dtype=dtype))
    assert z.dtype == dtype and bool(z.isfinite().all()) and bool((z.diff() > 0).all()) and float(z[2]) == 0


@pytest.mark.parametrize("ts", [[0], [1], [1023], [1024], [3000, 3, 2048, 0], list(range(1020, 1030))])
def test_running_max_is_the_last_of_what_happens_at_any_rounds(ts: list[int]) -> None:
    def happens(t: torch.Tensor) -> torch.Tensor:
        return t * (Key(2, range(2), range(3), 2).uniform("m", 1, t) < 0.002)

    every = happens(rounds(*range(3001)))
    key = Key(2, range(2), range(3), 2)
    got = key.running_max("last", rounds(*ts), happens)
    for row, t in zip(got, ts, strict=True):
        expected = every[1 : t + 1].amax(0) if t else torch.zeros(3, 2, 1, dtype=torch.int64)
        assert torch.equal(row, expected)
    fresh = Key(2, range(2), range(3), 2).running_max("last", rounds(*reversed(ts)), happens)
    assert torch.equal(fresh.flip(0), got)
