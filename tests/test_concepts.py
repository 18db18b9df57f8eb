"""The formulas of docs/concepts.md are what the package computes: each is written out in numpy once more."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.asking import call
from numpy.typing import NDArray
from test_readme import PAGES, PYTHON

import distopt
from distopt.algorithms.dgd import DGD
from distopt.algorithms.gt import GT
from distopt.algorithms.gtadam import gtadam
from distopt.channels.choco import Choco
from distopt.channels.error_feedback import ErrorFeedback
from distopt.compressors.sign import Sign

Floats = NDArray[np.float64]

PAGE = PAGES["docs/concepts.md"]
N, D, ROUNDS, LR = 4, 3, 40, 0.03
RING = np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]]) / 3
DRAW = np.random.default_rng(0)
CURVATURES, CENTRES = DRAW.uniform(1, 4, (N, D)), DRAW.normal(size=(N, D))


def grad(x: Floats) -> Floats:
    return CURVATURES * (x - CENTRES)


def sign(z: Floats) -> Floats:
    return np.abs(z).sum(-1, keepdims=True) / z.shape[-1] * np.where(z >= 0, 1.0, -1.0)


class Wire:
    """The ring of the page, by its matrix."""

    own = slice(None)

    def heard(self, payload: Any) -> Any:
        return payload

    def weigh(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(RING) @ rows


def computed(algorithm: Any) -> Floats:
    """The points after some rounds of an algorithm of the package."""
    x = torch.zeros(N, D, dtype=torch.float64)
    state = algorithm.init(x)
    for _ in range(ROUNDS):
        g = torch.from_numpy(grad(x.numpy()))
        x, state = algorithm.update(g, state, x, lambda name, z: torch.from_numpy(RING) @ z)
    return x.numpy()


def descent(x: Floats, kept: Any) -> tuple[Floats, Any]:
    return RING @ x - LR * grad(x), None


def descent_first(x: Floats, kept: Any) -> tuple[Floats, Any]:
    return RING @ (x - LR * grad(x)), None


def tracking(x: Floats, kept: Any) -> tuple[Floats, Any]:
    s, last = kept or (0 * x, 0 * x)
    g = grad(x)
    s = RING @ s + g - last
    return RING @ x - LR * s, (s, g)


def adaptive(x: Floats, kept: Any) -> tuple[Floats, Any]:
    s, last, m, v = kept or (0 * x, 0 * x, 0 * x, 0 * x)
    g = grad(x)
    s = RING @ s + g - last
    m = 0.9 * m + (1 - 0.9) * s
    v = np.minimum(0.999 * v + (1 - 0.999) * s**2, 1e6)
    return RING @ x - LR * m / np.sqrt(v + 1e-8), (s, g, m, v)


@pytest.mark.parametrize(
    ("step", "algorithm"),
    [
        (descent, DGD(LR)),
        (descent_first, DGD(LR, form="atc")),
        (tracking, GT(LR)),
        (adaptive, gtadam(LR)),
    ],
    ids=["dgd", "dgd atc", "gt", "gtadam"],
)
def test_the_methods_follow_the_formulas(step: Callable[[Floats, Any], tuple[Floats, Any]], algorithm: Any) -> None:
    x, kept = np.zeros((N, D)), None
    for _ in range(ROUNDS):
        x, kept = step(x, kept)
    assert np.abs(x).max() > 0.1
    np.testing.assert_allclose(computed(algorithm), x, rtol=1e-10)


def test_the_channels_follow_the_formulas() -> None:
    wire, gamma = Wire(), 0.4
    choco, feedback = Choco(Sign(), gamma=gamma), ErrorFeedback(Sign())
    like = torch.zeros(N, D, dtype=torch.float64)
    copies, errors = choco.init(like), feedback.init(like)
    h, e, sent, given = np.zeros((N, D)), np.zeros((N, D)), np.zeros((N, D)), np.zeros((N, D))
    for _ in range(ROUNDS):
        z = DRAW.normal(size=(N, D))
        rows = torch.from_numpy(z)
        h = h + sign(z - h)
        mixed, copies = choco(rows, choco.encode(rows, copies, None), copies, wire)
        np.testing.assert_allclose(mixed.numpy(), z + gamma * (RING - np.eye(N)) @ h, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(mixed.numpy().mean(0), z.mean(0), atol=1e-14)
        p = z + e
        e, sent, given = p - sign(p), sent + sign(p), given + z
        mixed, errors = feedback(rows, feedback.encode(rows, errors, None), errors, wire)
        np.testing.assert_allclose(mixed.numpy(), RING @ sign(p), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(given - sent, e, atol=1e-12)


def test_the_costs_are_taken_before_they_are_seen() -> None:
    """In round 0 all stand at 0 whatever the method, and what it does counts from round 1 on."""
    runs = distopt.simulate(
        "ring", agents=4, scenario="moving_target", algorithm=["gt:lr=0.1", "dgd:lr=0.01"], rounds=2
    )
    first, second = (run["dynamic_regret"][0] for run in runs.values())
    assert first[0] == second[0] > 0 and first[1] != second[1]


def test_regrets_are_the_sums_of_the_page() -> None:
    run = distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="gt:lr=0.02", rounds=60)
    assert (np.diff(run["dynamic_regret"][0], prepend=0.0) >= 0).all()
    np.testing.assert_allclose(run["regret_best_fixed"], run["dynamic_regret"] - run["static_regret"], atol=1e-9)
    assert run["bits"][0, -1] == 128 * 2 * 60


def test_the_spectra_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for topology, told in re.findall(r"(ring|torus) of 16.*? (0\.\d+)", PAGE):
        assert re.search(rf"eigenvalue\| of W +{told}", call("show", topology, "--agents", "16").stdout), topology


def test_the_two_methods_print_what_stands_there(capsys: pytest.CaptureFixture[str]) -> None:
    exec(PYTHON["docs/concepts.md"][0], {})
    (told,) = re.findall(r"```text\n(.*?)```", PAGE, re.S)
    assert capsys.readouterr().out == told
