"""The methods for directed graphs against loops in numpy, and what directed weights must leave alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from helpers.digraphs import Floats, Pair, perron, weights
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.experiment import Experiment
from distopt.network.directed import METHODS
from distopt.network.net import Rehearsal
from distopt.network.properties import by_channel
from distopt.numerics.random import Key
from distopt.schedules.inverse_sqrt import InverseSqrt
from distopt.simulation.problem import build

N, D, SEED, ROUNDS, LR = 9, 3, 4, 80, 0.03
GRAPHS = ["directed_ring", "directed_exponential", "random_digraph:p=0.25"]
COSTS = ["quadratic:dim=3,kappa=3", "moving_target:dim=3,kappa=3,period=40"]
SKEWED = GRAPHS[-1]
Gradient = Callable[[int, Floats], Floats]


@cache
def drawn(scenario: str) -> tuple[Floats, Floats]:
    """The curvatures [N, D] and the targets [1 or T, N, D] of a scenario."""
    problem = build(Experiment("ring", N, scenario, "gt", rounds=ROUNDS, seed=SEED))
    batch = problem.scenario.batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), Key(SEED, range(N), range(1), N))
    return batch.a[0, 0].numpy(), batch.c[:, 0].numpy()


def gradient(scenario: str) -> Gradient:
    a, c = drawn(scenario)
    return lambda t, x: a * (x - c[t % len(c)])


# The papers' loops. Each begins with its tracker at the first gradient, and updates it at the end of an iteration.


def tracked(form: str, direction: Callable[[Floats, Any], tuple[Floats, Any]]) -> Any:
    def loop(W: Pair, grad: Gradient, x: Floats) -> list[Floats]:
        path, memory = [x], None
        g = s = grad(0, x)
        for t in range(1, ROUNDS):
            d, memory = direction(s, memory)
            x = W.R @ x - LR * d if form == "cta" else W.R @ (x - LR * d)
            new = grad(t, x)
            s, g = W.C @ s + new - g, new
            path.append(x)
        return path

    return loop


def plain(s: Floats, memory: Any) -> tuple[Floats, Any]:
    return s, memory


def adam(s: Floats, memory: Any) -> tuple[Floats, Any]:
    m, v = memory or (np.zeros_like(s), np.zeros_like(s))
    m, v = 0.9 * m + 0.1 * s, 0.999 * v + 0.001 * s * s
    return m / np.sqrt(v + 1e-8), (m, v)


def push_diging(W: Pair, grad: Gradient, x: Floats) -> list[Floats]:
    path, u, w = [x], x, np.ones((N, 1))
    g = y = grad(0, x)
    for t in range(1, ROUNDS):
        u, w = W.C @ (u - LR * y), W.C @ w
        x = u / w
        new = grad(t, x)
        y, g = W.C @ y + new - g, new
        path.append(x)
    return path


def pushed(step: Callable[[int], float], b: float = 0.0) -> Any:
    """Subgradient-push, with a step size for each round, and with momentum stochastic gradient push."""

    def loop(W: Pair, grad: Gradient, x: Floats) -> list[Floats]:
        path, u, w, m = [x], x, np.ones((N, 1)), np.zeros_like(x)
        for t in range(ROUNDS - 1):
            m = b * m + grad(t, u / w)
            u, w = W.C @ (u - step(t) * m), W.C @ w
            path.append(u / w)
        return path

    return loop


def falling(t: int) -> float:
    return float(InverseSqrt(0.1)(torch.tensor(t)))


LOOPS: dict[str, Any] = {
    f"ab:lr={LR}": tracked("cta", plain),
    f"ab:lr={LR},form=atc": tracked("atc", plain),
    f"ab:lr={LR},direction=adam": tracked("cta", adam),
    f"push_diging:lr={LR}": push_diging,
    f"subgradient_push:lr={LR}": pushed(lambda t: LR),
    "subgradient_push:lr=inverse_sqrt(0.1)": pushed(falling),
    f"push_sum_sgd:lr={LR}": pushed(lambda t: LR),
    f"push_sum_sgd:lr={LR},direction=momentum(b=0.5)": pushed(lambda t: LR, 0.5),
}


def run(topology: str, algorithm: str, scenario: str, **settings: Any) -> Any:
    ask: dict[str, Any] = {"agents": N, "rounds": ROUNDS, "seed": SEED, "record": "x", "mode": "eager"}
    return distopt.simulate(topology, algorithm=algorithm, scenario=scenario, **(ask | settings))


@pytest.mark.parametrize("scenario", COSTS, ids=["static", "moving"])
@pytest.mark.parametrize("topology", GRAPHS)
@pytest.mark.parametrize("algorithm", LOOPS)
def test_a_method_is_its_loop(algorithm: str, topology: str, scenario: str) -> None:
    start = np.random.default_rng(1).normal(size=(N, D))
    found = run(topology, algorithm, scenario, x0=start)
    right = np.stack(LOOPS[algorithm](weights(topology, N, SEED), gradient(scenario), start))
    assert np.abs(right[-1] - right[0]).max() > 0.1
    assert np.abs(np.asarray(found["x"])[0, :ROUNDS] - right).max() < 1e-12
    if "tracker_invariant" in found.metrics:
        assert found["tracker_invariant"].max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", LOOPS)
def test_a_compiled_method_is_its_loop(algorithm: str) -> None:
    start = np.random.default_rng(1).normal(size=(N, D))
    found = run(SKEWED, algorithm, COSTS[1], x0=start, mode="compiled")
    right = np.stack(LOOPS[algorithm](weights(SKEWED, N, SEED), gradient(COSTS[1]), start))
    assert np.abs(np.asarray(found["x"])[0, :ROUNDS] - right).max() < 1e-12


def changing() -> list[Pair]:
    """Row- and column-stochastic weights of other arcs in every round."""
    rng, out = np.random.default_rng(3), []
    for _ in range(ROUNDS):
        W = np.eye(N) + (rng.random((N, N)) < 0.3) * rng.random((N, N))
        out.append(Pair(W / W.sum(1, keepdims=True), W / W.sum(0)))
    return out


def walked(method: Any, weights: list[Pair], grad: Gradient, x: Floats) -> list[tuple[Floats, Any, Floats]]:
    """(x_t, the state after round t, g_t) of each round, where the weights change."""
    now, out = torch.tensor(x)[None], []
    state, needs = method.init(now), by_channel(method.weights, method.channels)
    for t, W in enumerate(weights):
        of = {name: torch.tensor(W.R if "row" in each else W.C) for name, each in needs.items()}

        def mix(name: str, z: Tensor, of: dict[str, Tensor] = of) -> Tensor:
            return of[name] @ z

        g = grad(t, now[0].numpy())
        after, state = method.update(torch.tensor(g)[None], state, now, Rehearsal(mix, now, t))
        out.append((now[0].numpy(), state, g))
        now = after
    return out


def test_all_that_is_sent_in_a_round_meets_the_weights_of_that_round() -> None:
    networks, grad = changing(), gradient(COSTS[1])
    start = np.random.default_rng(1).normal(size=(N, D))
    x, s, old = start, np.zeros((N, D)), np.zeros((N, D))
    for t, (point, _, _) in enumerate(walked(registry.make("algorithms", f"ab:lr={LR}"), networks, grad, start)):
        assert np.abs(point - x).max() < 1e-12
        g = grad(t, x)
        s, old = networks[t].C @ s + g - old, g
        x = networks[t].R @ x - LR * s
    u, w, y, old = start, np.ones((N, 1)), np.zeros((N, D)), np.zeros((N, D))
    for t, (point, _, _) in enumerate(
        walked(registry.make("algorithms", f"push_diging:lr={LR}"), networks, grad, start)
    ):
        assert np.abs(point - u / w).max() < 1e-12
        g = grad(t, u / w)
        y, old = networks[t].C @ y + g - old, g
        u, w = networks[t].C @ (u - LR * y), networks[t].C @ w


@pytest.mark.parametrize("name", METHODS)
def test_sums_are_kept_and_agents_that_agree_stay(name: str) -> None:
    method, grad = registry.make("algorithms", f"{name}:lr={LR}"), gradient(COSTS[1])
    for _, state, g in walked(method, changing(), grad, np.random.default_rng(1).normal(size=(N, D))):
        if method.tracks is not None:
            follows = getattr(state, method.tracks)[0].numpy()
            assert np.abs(follows.sum(0) - g.sum(0)).max() < 1e-11
        if name != "ab":
            assert abs(float(state.w.sum()) - N) < 1e-12
    still = walked(method, changing(), lambda t, x: np.zeros_like(x), np.ones((N, D)))
    assert max(float(np.abs(x - 1).max()) for x, _, _ in still) < 1e-13
    if name != "ab":  # though each agent's share of the ones is another one
        assert max(float(np.ptp(state.w.numpy())) for _, state, _ in still) > 0.5


@pytest.mark.parametrize("name", [each for each in METHODS if each != "ab"])
def test_what_moves_the_points_from_outside_moves_what_is_sent(name: str) -> None:
    method, (W, *_) = registry.make("algorithms", name), changing()
    x = torch.ones(1, N, D, dtype=torch.float64)
    state = method.init(x)
    for t in range(20):
        x = x + 1
        now, C = x, torch.tensor(W.C)
        x, state = method.update(torch.zeros_like(x), state, x, Rehearsal(lambda _, z, C=C: C @ z, now, t))
        assert float((x - now).abs().max()) < 1e-12


STATIC = COSTS[0]


def optimum(share: Floats) -> Floats:
    """The minimiser of sum_i share_i f_i."""
    a, c = drawn(STATIC)
    return (share[:, None] * a * c[0]).sum(0) / (share[:, None] * a).sum(0)


def last(algorithm: str, topology: str, rounds: int) -> Floats:
    found: Floats = np.asarray(run(topology, algorithm, STATIC, rounds=rounds, mode="compiled")["x"])[0, -1]
    return found


@pytest.mark.parametrize(("topology", "lr"), [*((each, 0.02) for each in GRAPHS[1:]), (GRAPHS[0], 0.004)])
@pytest.mark.parametrize("algorithm", ["ab:lr={}", "ab:lr={},form=atc", "push_diging:lr={}"])
def test_trackers_lead_to_the_minimiser_of_the_mean(algorithm: str, topology: str, lr: float) -> None:
    found = last(algorithm.format(lr), topology, round(30 / lr))
    assert np.abs(found - optimum(np.ones(N))).max() < 1e-9


@pytest.mark.parametrize("name", ["subgradient_push", "push_sum_sgd"])
def test_a_smaller_step_leads_push_sum_nearer_to_the_minimiser_of_the_mean(name: str) -> None:
    far, near = (
        np.abs(last(f"{name}:lr={lr}", SKEWED, rounds) - optimum(np.ones(N))).max()
        for lr, rounds in ((0.02, 800), (0.002, 5000))
    )
    assert 5 < far / near < 20 and near < 0.05


def test_descent_with_rows_that_sum_to_one_leads_to_a_weighted_mean() -> None:
    share = perron(weights(SKEWED, N, SEED).R)
    weighted, mean = optimum(share), optimum(np.ones(N))
    with pytest.warns(UserWarning, match="dgd approaches the minimiser of a weighted sum of the costs") as caught:
        found = last("dgd:lr=0.002", SKEWED, 5000).mean(0)
    assert np.abs(found - weighted).max() < 0.2 * np.abs(weighted - mean).max()
    low, high = int(share.argmin()), int(share.argmax())
    said = f"count from {N * share[low]:.3g} (agent {low}) to {N * share[high]:.3g} (agent {high}) times as much"
    assert any(said in str(each.message) for each in caught)


def test_the_methods_that_messages_name_are_those_that_serve_every_directed_graph() -> None:
    found = []
    for name in registry.names("algorithms"):
        method = registry.make("algorithms", name)
        needs = by_channel(method.weights, method.channels).values()
        if all(len(each) == 1 for each in needs) and any("column" in each for each in needs):
            found.append(name)
    assert tuple(found) == METHODS


@pytest.mark.parametrize(
    ("topology", "settles", "grows"),
    [("directed_exponential", 0.04, 0.05), ("random_digraph:p=0.3", 0.04, 0.05), ("directed_ring", 0.0005, 0.001)],
)
def test_the_steps_at_which_ab_settles_and_grows(topology: str, settles: float, grows: float) -> None:
    """The round of a quadratic as a matrix on (x, s, g); its eigenvalue 1 belongs to sum s - sum g, which stays 0."""
    agents, zero = 16, torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    scenario = build(Experiment("ring", agents, "moving_target", "gt", rounds=1)).scenario
    curvatures = scenario.batch(zero, Key(0, range(agents), range(1), agents)).a[0, 0].numpy()
    R, C = weights(topology, agents, 0)
    one, none = np.eye(agents), np.zeros((agents, agents))

    def largest(lr: float) -> float:
        found = []
        for a in map(np.diag, curvatures.T):
            sizes = np.linalg.eigvals(np.block([[R - lr * a, -lr * C, lr * one], [a, C, -one], [a, none, none]]))
            found.append(np.abs(np.delete(sizes, np.abs(sizes - 1).argmin())).max())
        return float(max(found))

    assert largest(settles) < 1 < largest(grows)
