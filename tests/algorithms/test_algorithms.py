"""Every algorithm, form and direction against loops written from the papers; every direction against torch.optim."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import networkx as nx
import pytest
import torch
from helpers import oracles
from helpers.driving import tracking
from torch import Tensor

from distopt.algorithms.aug_dgm import AugDGM
from distopt.algorithms.dadam import dadam
from distopt.algorithms.dgd import DGD
from distopt.algorithms.exact_diffusion import ExactDiffusion
from distopt.algorithms.extra import EXTRA
from distopt.algorithms.gt import GT
from distopt.algorithms.gtadam import gtadam
from distopt.algorithms.nids import NIDS
from distopt.directions.adam import Adam
from distopt.directions.amsgrad import AMSGrad
from distopt.directions.momentum import Momentum
from distopt.directions.nesterov import Nesterov
from distopt.directions.sgd import SGD
from distopt.errors import InputError
from distopt.network.net import Rehearsal

N, D, ROUNDS = 6, 3, 200
Matrices = list[list[list[float]]]

_random = random.Random(7)
CURVATURE = [[_random.uniform(0.5, 1.5) for _ in range(D)] for _ in range(N)]
CENTRE = [[_random.gauss(0, 2) for _ in range(D)] for _ in range(N)]
PHASE = [[_random.uniform(0, 6) for _ in range(D)] for _ in range(N)]
START = [[_random.gauss(0, 1) for _ in range(D)] for _ in range(N)]


def gradient(t: int, i: int, x: list[float]) -> list[float]:
    """Of a quadratic whose centre swings with t, plus log cosh: smooth, strongly convex, different for every agent."""
    out = []
    for k in range(D):
        centre = CENTRE[i][k] + math.sin(0.05 * t + PHASE[i][k])
        out.append(CURVATURE[i][k] * (x[k] - centre) + 0.4 * math.tanh(x[k]))
    return out


def torch_gradient(t: int, x: Tensor) -> Tensor:
    a, c, p = (torch.tensor(v, dtype=torch.float64) for v in (CURVATURE, CENTRE, PHASE))
    return a * (x - (c + torch.sin(0.05 * t + p))) + 0.4 * torch.tanh(x)


def metropolis(graph: Any) -> list[list[float]]:
    w = [[0.0] * N for _ in range(N)]
    for i, j in graph.edges:
        w[i][j] = w[j][i] = 1 / (1 + max(graph.degree[i], graph.degree[j]))
    for i in range(N):
        w[i][i] = 1 - sum(w[i][j] for j in range(N) if j != i)
    return w


GRAPH = next(g for seed in range(100) if nx.is_connected(g := nx.gnp_random_graph(N, 0.45, seed=seed)))


def networks(kind: str) -> Matrices:
    if kind == "static":
        return [metropolis(GRAPH)] * ROUNDS
    draw, out = random.Random(3), []
    for _ in range(ROUNDS):
        graph = nx.Graph()
        graph.add_nodes_from(range(N))
        graph.add_edges_from(edge for edge in GRAPH.edges if draw.random() < 0.6)
        out.append(metropolis(graph))
    return out


def problem(weights: Matrices) -> oracles.Problem:
    return oracles.Problem(weights, gradient, START)


def simulate(
    algorithm: Any, weights: Matrices, lr_shape: tuple[int, ...] = (), sent: list[set[str]] | None = None
) -> Tensor:
    """The points [T + 1, N, D] of ``algorithm.update`` with dense matrices."""
    x = torch.tensor(START, dtype=torch.float64).unsqueeze(0)
    state, path = algorithm.init(x), [x]
    for t, w in enumerate(weights):
        names: set[str] = set()

        def mix(name: str, z: Tensor, w: Any = w, names: set[str] = names) -> Tensor:
            names.add(name)
            return torch.tensor(w, dtype=torch.float64) @ z

        x, state = algorithm.update(torch_gradient(t, x), state, x, Rehearsal(mix, x, t))
        path.append(x)
        if sent is not None:
            sent.append(names)
    return torch.cat(path)


def close(path: Tensor, oracle: list[list[list[float]]]) -> None:
    truth = torch.tensor(oracle, dtype=torch.float64)
    assert path.shape == truth.shape
    assert truth.isfinite().all()
    assert truth.abs().max() < 100, "the test problem itself blows up: the comparison would mean nothing"
    assert (truth[-1] - truth[0]).abs().max() > 0.1, "nothing moves: the comparison would mean nothing"
    worst = ((path - truth).abs().amax((1, 2)) / truth.abs().max()).max().item()
    assert worst < 1e-12, f"trajectories differ by {worst:.1e} of their scale"


DIRECTIONS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "sgd": (SGD(), oracles.PlainRule),
    "momentum": (Momentum(0.6), lambda: oracles.HeavyBall(0.6)),
    "nesterov": (Nesterov(0.6), lambda: oracles.NesterovRule(0.6)),
    "adam": (Adam(), lambda: oracles.AdamRule(0.9, 0.999, eps=1e-8, inside=True, cap=1e6, correct=False)),
    "adam_low_cap": (
        Adam(cap=1e-3),
        lambda: oracles.AdamRule(0.9, 0.999, eps=1e-8, inside=True, cap=1e-3, correct=False),
    ),
    "adam_outside": (
        Adam(0.8, 0.99, 1e-6, False, None),
        lambda: oracles.AdamRule(0.8, 0.99, eps=1e-6, inside=False, cap=None, correct=False),
    ),
    "adam_corrected": (
        Adam(eps_inside=False, cap=None, bias_correction=True),
        lambda: oracles.AdamRule(0.9, 0.999, eps=1e-8, inside=False, cap=None, correct=True),
    ),
    "amsgrad": (AMSGrad(), lambda: oracles.AdamRule(0.9, 0.999, eps=1e-8, inside=True, cap=1e6, correct=False, b3=0.0)),
    "amsgrad_filter": (
        AMSGrad(b3=0.9),
        lambda: oracles.AdamRule(0.9, 0.999, eps=1e-8, inside=True, cap=1e6, correct=False, b3=0.9),
    ),
    "amsgrad_corrected": (
        AMSGrad(b2=0.9, eps_inside=False, cap=None, bias_correction=True),
        lambda: oracles.AdamRule(0.9, 0.9, eps=1e-8, inside=False, cap=None, correct=True, b3=0.0),
    ),
}


@pytest.mark.parametrize("network", ["static", "time_varying"])
@pytest.mark.parametrize("direction", list(DIRECTIONS))
@pytest.mark.parametrize("form", ["cta", "atc"])
def test_dgd(form: Any, direction: str, network: str) -> None:
    rule, oracle = DIRECTIONS[direction]
    weights = networks(network)
    path = simulate(DGD(0.05, form, rule), weights)
    close(path, oracles.dgd(problem(weights), form, 0.05, [oracle() for _ in range(N)]))


@pytest.mark.parametrize("network", ["static", "time_varying"])
@pytest.mark.parametrize("direction", list(DIRECTIONS))
@pytest.mark.parametrize("form", ["cta", "atc", "aug_dgm"])
def test_gt(form: Any, direction: str, network: str) -> None:
    rule, oracle = DIRECTIONS[direction]
    weights = networks(network)
    path = simulate(tracking(0.02, form, rule), weights)
    close(path, oracles.gt(problem(weights), form, 0.02, [oracle() for _ in range(N)]))


@pytest.mark.parametrize("network", ["static", "time_varying"])
def test_gtadam(network: str) -> None:
    weights = networks(network)
    path = simulate(gtadam(0.02), weights)
    close(path, oracles.gtadam(problem(weights), 0.02, 0.9, 0.999, eps=1e-8, cap=1e6))
    path = simulate(gtadam(0.02, 0.5, 0.9, 1e-3, 0.3), weights)  # a cap that binds
    close(path, oracles.gtadam(problem(weights), 0.02, 0.5, 0.9, eps=1e-3, cap=0.3))


@pytest.mark.parametrize("b3", [None, 0.0, 0.9])
@pytest.mark.parametrize("network", ["static", "time_varying"])
def test_dadam(network: str, b3: float | None) -> None:
    weights = networks(network)
    path = simulate(dadam(0.02, b3=b3), weights)
    close(path, oracles.dadam(problem(weights), 0.02, 0.9, 0.999, eps=1e-8, cap=1e6, b3=b3))


@pytest.mark.parametrize("network", ["static", "time_varying"])
@pytest.mark.parametrize("name", ["extra", "nids", "exact_diffusion"])
def test_corrected_methods(name: str, network: str) -> None:
    algorithm: Any = {"extra": EXTRA, "nids": NIDS, "exact_diffusion": ExactDiffusion}[name]
    weights = networks(network)
    close(simulate(algorithm(0.1), weights), getattr(oracles, name)(problem(weights), 0.1))


EVERY: dict[str, Any] = {
    "dgd": DGD(0.05),
    "dgd_atc": DGD(0.05, "atc", Nesterov(0.5)),
    "gt": GT(0.05),
    "gt_atc": GT(0.05, "atc"),
    "aug_dgm": AugDGM(0.05, direction=AMSGrad(bias_correction=True)),
    "gtadam": gtadam(0.05),
    "dadam": dadam(0.05, b3=0.5),
    "extra": EXTRA(0.05),
    "nids": NIDS(0.05),
    "exact_diffusion": ExactDiffusion(0.05),
}


@pytest.mark.parametrize("name", list(EVERY))
def test_sends_what_it_declares_every_round(name: str) -> None:
    sent: list[set[str]] = []
    simulate(EVERY[name], networks("static")[:5], sent=sent)
    assert sent == [set(EVERY[name].channels)] * 5


@pytest.mark.parametrize("name", list(EVERY))
def test_step_size_per_trial(name: str) -> None:
    """A tensor of step sizes [R, 1, 1] gives each trial the bits of a run of its own."""
    from dataclasses import replace

    algorithm, rates = EVERY[name], [0.05, 0.02, 0.1]
    w = torch.tensor(networks("static")[0], dtype=torch.float64)

    def run(algorithm: Any, trials: int) -> Tensor:
        x = torch.tensor(START, dtype=torch.float64).repeat(trials, 1, 1)
        state = algorithm.init(x)
        for t in range(20):
            round = Rehearsal(lambda _, z: (w[:, :, None] * z[:, None]).sum(-2), x, t)
            x, state = algorithm.update(torch_gradient(t, x), state, x, round)
        return x

    together = run(replace(algorithm, lr=torch.tensor(rates, dtype=torch.float64).reshape(3, 1, 1)), 3)
    for r, lr in enumerate(rates):
        assert torch.equal(together[r], run(replace(algorithm, lr=lr), 1)[0])


@pytest.mark.parametrize(
    ("direction", "reference"),
    [
        (SGD(), lambda p: torch.optim.SGD(p, lr=0.03)),
        (Momentum(0.8), lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.8)),
        (Nesterov(0.8), lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.8, nesterov=True)),
        (
            Adam(0.85, 0.97, 1e-7, eps_inside=False, cap=None, bias_correction=True),
            lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.85, 0.97), eps=1e-7),
        ),
        (
            AMSGrad(0.85, 0.97, 0.0, 1e-7, eps_inside=False, cap=None, bias_correction=True),
            lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.85, 0.97), eps=1e-7, amsgrad=True),
        ),
    ],
    ids=["sgd", "momentum", "nesterov", "adam", "amsgrad"],
)
def test_direction_equals_torch_optim(direction: Any, reference: Any) -> None:
    x = torch.tensor(START, dtype=torch.float64)
    other = x.clone().requires_grad_()
    optimiser, state = reference([other]), direction.init(x)
    for t in range(ROUNDS):
        other.grad = torch_gradient(t, other.detach())
        optimiser.step()
        d, state = direction(torch_gradient(t, x), state)
        x = x - 0.03 * d
        assert (x - other.detach()).abs().max() < 1e-12


def test_first_step_of_gtadam() -> None:
    """No bias correction: (1 - b1) / sqrt(1 - b2) = sqrt(10) in every coordinate, whatever the size of the gradient."""
    x, algorithm = torch.zeros(1, 2, 3, dtype=torch.float64), gtadam(0.01)
    g = torch.tensor([[[5.0, -300.0, 7.0], [-20.0, 1.0, -4.0]]], dtype=torch.float64)
    stepped, _ = algorithm.update(g, algorithm.init(x), x, lambda _, z: z)
    assert torch.allclose(stepped, -0.01 * math.sqrt(10) * g.sign(), rtol=1e-5, atol=0)


def test_dadam_maximum_never_falls_but_adam_forgets() -> None:
    rule = AMSGrad(b2=0.5, b3=0.5)
    big, small = torch.full((1, 1), 10.0), torch.full((1, 1), 0.1)
    _, state = rule(big, rule.init(big))
    tops = []
    for _ in range(30):
        _, state = rule(small, state)
        tops.append(state.top.item())
    assert all(b >= a for a, b in pairwise(tops))
    assert state.v.item() < 0.011 < tops[-1]


def _bad(build: Callable[[], object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        build()


def test_bad_parameters_name_the_field() -> None:
    for make in (DGD, GT, EXTRA, NIDS, ExactDiffusion, gtadam, dadam):
        for lr in (0.0, -1.0, math.nan):
            _bad(lambda make=make, lr=lr: make(lr=lr), "lr must be positive")
        _bad(lambda make=make: make(lr=torch.tensor([[[0.1]], [[0.0]]])), "lr must be positive")
    _bad(lambda: DGD(form="aug_dgm"), "form must be one of cta, atc")
    _bad(lambda: GT(form="x"), "form must be one of cta, atc")
    _bad(lambda: Momentum(1.0), "momentum: b must")
    _bad(lambda: Nesterov(-0.1), "nesterov: b must")
    _bad(lambda: gtadam(b1=1.0), "^gtadam: b1 must")
    _bad(lambda: Adam(b2=math.nan), "adam: b2 must")
    _bad(lambda: Adam(eps=0.0), "adam: eps must")
    _bad(lambda: AMSGrad(cap=-1.0), "amsgrad: cap must")
    _bad(lambda: dadam(b3=1.0), "^dadam: b3 must")


def test_names_on_the_command_line() -> None:
    from distopt.catalog.registry import make

    assert make("algorithms", "gtadam:lr=0.5,form=atc") == gtadam(0.5, form="atc")
    assert make("algorithms", "gt:lr=0.5,direction=amsgrad(b3=0.5,cap=none)") == GT(
        0.5, direction=AMSGrad(b3=0.5, cap=None)
    )
    assert make("algorithms", "dadam:b3=0.9") == dadam(b3=0.9)
    assert make("algorithms", "exact_diffusion:0.5") == ExactDiffusion(0.5)


@pytest.mark.parametrize("name", ["dgd", "gt", "gtadam", "dadam", "extra", "nids", "exact_diffusion"])
def test_a_tiny_step_is_positive_in_float64(name: str) -> None:
    from distopt.catalog.registry import make

    make("algorithms", f"{name}:lr=1e-50")


@pytest.mark.parametrize(
    "spec",
    [
        "adam:b1=B,b2=B,eps=1e-50,cap=1e-50",
        "amsgrad:b1=B,b2=B,b3=B,eps=1e-50,cap=1e-50",
        "momentum:b=B",
        "nesterov:b=B",
    ],
)
def test_ranges_are_checked_in_float64(spec: str) -> None:
    from distopt.catalog.registry import make

    make("directions", spec.replace("B", "0.99999999"))
    for bad in ("1", "-1e-50", "nan"):
        _bad(lambda bad=bad: make("directions", spec.replace("B", bad)), r"must lie in \[0, 1\)|is not a finite number")
