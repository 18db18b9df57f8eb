"""What the theory says must happen: rates, floors, invariants, coincidences. Two copies of one mistake cannot pass this."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
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
from distopt.network.net import Rehearsal

F64 = torch.float64


def ring(agents: int) -> Tensor:
    """Metropolis weights of a ring: 1/3 everywhere."""
    w = torch.zeros(agents, agents, dtype=F64)
    for i in range(agents):
        for j in (i - 1, i, i + 1):
            w[i, j % agents] = 1 / 3
    return w


def path_graph(agents: int) -> Tensor:
    w = torch.zeros(agents, agents, dtype=F64)
    for i in range(agents - 1):
        w[i, i + 1] = w[i + 1, i] = 1 / 3
    return w + torch.diag(1 - w.sum(1))


@dataclass
class Quadratics:
    """f_i(x) = x' H_i x / 2 - b_i' x, with H [N, d, d] and b [N, d]; the eigenvalues of every H_i lie in [low, high]."""

    h: Tensor
    b: Tensor

    @classmethod
    def draw(cls, agents: int, dim: int, low: float, high: float, seed: int = 0) -> Quadratics:
        generator = torch.Generator().manual_seed(seed)
        q, _ = torch.linalg.qr(torch.randn(agents, dim, dim, generator=generator, dtype=F64))
        values = low + (high - low) * torch.rand(agents, dim, generator=generator, dtype=F64)
        values[:, 0], values[:, -1] = low, high
        return cls(q @ torch.diag_embed(values) @ q.mT, torch.randn(agents, dim, generator=generator, dtype=F64))

    def gradient(self, _: int, x: Tensor) -> Tensor:
        out: Tensor = (self.h @ x.unsqueeze(-1)).squeeze(-1) - self.b
        return out

    @property
    def optimum(self) -> Tensor:
        x: Tensor = torch.linalg.solve(self.h.sum(0), self.b.sum(0))
        return x

    @property
    def block(self) -> Tensor:
        """blockdiag(H_1, .., H_N) [N d, N d]."""
        agents, dim = self.b.shape
        out = torch.zeros(agents, dim, agents, dim, dtype=F64)
        for i in range(agents):
            out[i, :, i] = self.h[i]
        return out.reshape(agents * dim, agents * dim)


def run(
    algorithm: Any,
    gradient: Callable[[int, Tensor], Tensor],
    w: Tensor | Callable[[int], Tensor],
    x: Tensor,
    rounds: int,
) -> tuple[Tensor, list[Any]]:
    """Points [T + 1, N, d] and the states after each round."""
    state, path, states = algorithm.init(x), [x], []
    for t in range(rounds):
        weights = w if isinstance(w, Tensor) else w(t)
        round = Rehearsal(lambda _, z, weights=weights: weights @ z, x, t)
        x, state = algorithm.update(gradient(t, x), state, x, round)
        path.append(x)
        states.append(state)
    return torch.stack(path), states


def start(agents: int, dim: int) -> Tensor:
    return torch.randn(agents, dim, generator=torch.Generator().manual_seed(42), dtype=F64)


def errors(path: Tensor, optimum: Tensor) -> Tensor:
    return (path - optimum).square().sum((1, 2)).sqrt()


def rate(distance: Tensor) -> float:
    """Error per round once faster modes have died out: a straight line through the logarithms between 1e-5 and 1e-12."""
    inside = (distance < 1e-5 * distance[0]) & (distance > 1e-12 * distance[0])
    t = torch.nonzero(inside).flatten().numpy()
    return float(np.exp(np.polyfit(t, distance[inside].log().numpy(), 1)[0]))


def radius(matrix: Tensor, conserved: int) -> float:
    """Largest modulus of the eigenvalues, without the ``conserved`` ones equal to one."""
    values = torch.linalg.eigvals(matrix)
    order = (values - 1).abs().argsort()
    assert (values[order[:conserved]] - 1).abs().max() < 1e-7
    return float(values[order[conserved:]].abs().max())


def gt_matrix(form: str, lr: float, q: Quadratics, w: Tensor) -> Tensor:
    """The linear map (x_t, s_t) -> (x_{t+1}, s_{t+1}) of gradient tracking on quadratics, [2 N d, 2 N d]."""
    dim = q.h.shape[-1]
    mix, h = torch.kron(w, torch.eye(dim, dtype=F64)), q.block
    eye = torch.eye(len(h), dtype=F64)
    on_s = -lr * eye if form == "cta" else -lr * mix
    outer = mix if form == "aug_dgm" else eye
    return torch.cat([torch.cat([mix, on_s], 1), torch.cat([outer @ h @ (mix - eye), mix + outer @ h @ on_s], 1)])


@pytest.mark.parametrize("form", ["cta", "atc", "aug_dgm"])
@pytest.mark.parametrize("lr", [0.03, 0.12])
def test_tracking_converges_at_the_spectral_radius(form: Any, lr: float) -> None:
    q, w = Quadratics.draw(6, 2, 0.5, 2.0), ring(6)
    rho = radius(gt_matrix(form, lr, q, w), conserved=2)  # sum s - sum H x is conserved: two eigenvalues are one
    path, _ = run(tracking(lr, form), q.gradient, w, start(6, 2), 1500)
    distance = errors(path, q.optimum)
    assert distance[-1] < 1e-12
    assert rho < 1
    assert math.log(rate(distance)) == pytest.approx(math.log(rho), rel=0.02)


def test_tracking_diverges_where_the_spectral_radius_says_so() -> None:
    q, w = Quadratics.draw(6, 2, 0.5, 2.0), ring(6)
    steps = torch.linspace(0.1, 1.5, 57).tolist()
    limit = next(i for i, lr in enumerate(steps) if radius(gt_matrix("cta", lr, q, w), 2) > 1)
    below, _ = run(GT(steps[limit - 2]), q.gradient, w, start(6, 2), 2000)
    above, _ = run(GT(steps[limit + 1]), q.gradient, w, start(6, 2), 2000)
    assert errors(below, q.optimum)[-1] < 1e-3
    assert not errors(above, q.optimum)[-1] < 1e3


@pytest.mark.parametrize("form", ["cta", "atc"])
def test_dgd_stalls_at_a_floor_proportional_to_lr(form: Any) -> None:
    """The floor is the solution of (I - W + lr H) x = lr b (cta), and halves with lr."""
    q, w, floors = Quadratics.draw(6, 2, 0.5, 2.0), ring(6), []
    mix, eye = torch.kron(w, torch.eye(2, dtype=F64)), torch.eye(12, dtype=F64)
    for lr in (0.02, 0.01):
        path, _ = run(DGD(lr, form), q.gradient, w, start(6, 2), 4000)
        outer = eye if form == "cta" else mix
        fixed = torch.linalg.solve(eye - mix + lr * outer @ q.block, lr * outer @ q.b.flatten()).reshape(6, 2)
        assert (path[-1] - fixed).abs().max() < 1e-12
        floors.append(float(errors(path, q.optimum)[-1]))
    assert floors[1] > 1e-3
    assert floors[0] / floors[1] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("algorithm", [EXTRA(0.2), NIDS(0.2), ExactDiffusion(0.2), GT(0.1)])
def test_exact_methods_reach_the_optimum(algorithm: Any) -> None:
    q, w = Quadratics.draw(6, 3, 0.5, 2.0), ring(6)
    path, _ = run(algorithm, q.gradient, w, start(6, 3), 1000)
    assert errors(path, q.optimum)[-1] < 1e-12


@pytest.mark.parametrize(("algorithm", "middle"), [(EXTRA, "extra"), (NIDS, "nids"), (ExactDiffusion, "exact")])
def test_exact_methods_converge_at_the_spectral_radius(algorithm: Any, middle: str) -> None:
    """All three are (x_{t+1}, x_t) -> (A x_{t+1} - B x_t, x_{t+1}) on quadratics."""
    q, w, lr = Quadratics.draw(6, 2, 0.5, 2.0), ring(6), 0.2
    mix, h, eye = torch.kron(w, torch.eye(2, dtype=F64)), q.block, torch.eye(12, dtype=F64)
    lazy = (eye + mix) / 2
    a, b = (
        (eye + mix - lr * h, lazy - lr * h) if middle == "extra" else (lazy @ (2 * eye - lr * h), lazy @ (eye - lr * h))
    )
    matrix = torch.cat([torch.cat([a, -b], 1), torch.cat([eye, torch.zeros_like(eye)], 1)])
    path, _ = run(algorithm(lr), q.gradient, w, start(6, 2), 800)
    rho = radius(matrix, conserved=2)  # sum x_{t+1} - sum x_t + lr sum g_t is conserved
    assert math.log(rate(errors(path, q.optimum))) == pytest.approx(math.log(rho), rel=0.02)


def test_nids_takes_steps_near_two_over_l_on_any_network() -> None:
    """A path of agents, L = 1, step 1.9: the steps that EXTRA and tracking survive depend on the network, these do not."""
    q, w = Quadratics.draw(10, 2, 0.9, 1.0), path_graph(10)
    gap = 1 - float(torch.linalg.eigvalsh(w)[-2])
    assert gap < 0.04
    for algorithm in (NIDS(1.9), ExactDiffusion(1.9)):
        path, _ = run(algorithm, q.gradient, w, start(10, 2), 3500)
        assert errors(path, q.optimum)[-1] < 1e-10
    for other in (EXTRA(1.9), GT(1.9)):
        path, _ = run(other, q.gradient, w, start(10, 2), 300)
        assert not errors(path, q.optimum)[-1] < 1e6
    path, _ = run(NIDS(2.1), q.gradient, w, start(10, 2), 1000)  # and two over L is the limit
    assert not errors(path, q.optimum)[-1] < 1e6


def moving(q: Quadratics) -> Callable[[int, Tensor], Tensor]:
    return lambda t, x: q.gradient(t, x) - math.sin(0.1 * t) * q.b.flip(0)


def failing_links(agents: int) -> Callable[[int], Tensor]:
    def weights(t: int) -> Tensor:
        up = torch.rand(agents, generator=torch.Generator().manual_seed(1000 + t), dtype=F64) < 0.5
        w = torch.zeros(agents, agents, dtype=F64)
        for i in range(agents):
            if up[i]:
                w[i, (i + 1) % agents] = w[(i + 1) % agents, i] = 1 / 3
        return w + torch.diag(1 - w.sum(1))

    return weights


@pytest.mark.parametrize("network", ["static", "time_varying"])
@pytest.mark.parametrize(
    "algorithm",
    [
        GT(0.1),
        GT(0.1, "atc"),
        AugDGM(0.1),
        gtadam(0.01),
        GT(0.02, "atc", AMSGrad()),
        GT(0.02, "cta", Momentum(0.8)),
    ],
)
def test_sum_of_trackers_is_sum_of_gradients(algorithm: Any, network: str) -> None:
    q = Quadratics.draw(6, 3, 0.5, 2.0)
    w = ring(6) if network == "static" else failing_links(6)
    gradient = moving(q)
    path, states = run(algorithm, gradient, w, start(6, 3), 1000)
    worst = 0.0
    for t, state in enumerate(states):
        g = gradient(t, path[t])
        assert torch.equal(state.g, g)
        worst = max(worst, float((state.s.sum(0) - g.sum(0)).abs().max()))
    assert worst < 1e-12
    assert float(states[-1].s.std(0).max()) > 1e-3  # the trackers have not simply all become equal to the gradient


def test_new_cost_at_the_old_point_breaks_the_invariant() -> None:
    """The tempting mistake: it goes unnoticed on costs that stand still, and ruins the invariant on costs that move."""
    q, w, lr = Quadratics.draw(6, 3, 0.5, 2.0), ring(6), 0.05

    def drift(gradient: Callable[[int, Tensor], Tensor]) -> float:
        x = start(6, 3)
        before, s, worst = x, torch.zeros_like(x), 0.0
        for t in range(200):
            g = gradient(t, x)
            s = w @ s + g - (gradient(t, before) if t else 0)
            worst = max(worst, float((s.sum(0) - g.sum(0)).abs().max()))
            before, x = x, w @ x - lr * s
        return worst

    assert drift(q.gradient) < 1e-12
    assert drift(moving(q)) > 0.1


@pytest.mark.parametrize("form", ["cta", "atc", "aug_dgm"])
def test_complete_graph_with_equal_costs_is_centralised_adam(form: Any) -> None:
    """And centralised Adam is the textbook recursion without bias correction, eps inside the root, in plain floats."""
    lr, b1, b2, eps, w = 0.01, 0.9, 0.999, 1e-8, torch.full((5, 5), 1 / 5, dtype=F64)

    def slope(t: int, x: float, k: int) -> float:
        return (k + 1) * (x - 3 * math.sin(0.02 * t + k)) + math.tanh(x)

    def gradient(t: int, x: Tensor) -> Tensor:
        k = torch.arange(2, dtype=F64)
        return (k + 1) * (x - 3 * torch.sin(0.02 * t + k)) + torch.tanh(x)

    path, _ = run(tracking(lr, form, Adam(b1, b2, eps)), gradient, w, torch.ones(5, 2, dtype=F64), 500)
    for k in range(2):
        x, m, v = 1.0, 0.0, 0.0
        for t in range(500):
            g = slope(t, x, k)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            x -= lr * m / math.sqrt(v + eps)
            assert abs(path[t + 1, :, k] - x).max() < 1e-12


def test_gtadam_without_moments_and_with_large_eps_is_tracking() -> None:
    """b1 = b2 = 0 and eps = c^2 make the direction s / sqrt(s^2 + c^2), which is s / c up to s^2 / c^2."""
    q, c = Quadratics.draw(6, 3, 0.5, 2.0), 1e6
    adam, _ = run(gtadam(0.05 * c, 0.0, 0.0, c**2), moving(q), ring(6), start(6, 3), 300)
    plain, _ = run(GT(0.05), moving(q), ring(6), start(6, 3), 300)
    assert (adam - plain).abs().max() < 1e-10
    assert (plain[-1] - plain[0]).abs().max() > 0.5


@pytest.mark.parametrize("direction", [SGD(), Momentum(0.5), Nesterov(0.5), Adam(), AMSGrad()])
def test_alone_every_method_is_the_direction_itself(direction: Any) -> None:
    """W = I: no form mixes, tracking tracks nothing but the own gradient."""
    q, w = Quadratics.draw(4, 3, 0.5, 2.0), torch.eye(4, dtype=F64)
    reference, _ = run(DGD(0.05, "cta", direction), moving(q), w, start(4, 3), 200)
    for other in (DGD(0.05, "atc", direction), *(tracking(0.05, f, direction) for f in ("cta", "atc", "aug_dgm"))):
        path, _ = run(other, moving(q), w, start(4, 3), 200)
        assert (path - reference).abs().max() < 1e-12


@pytest.mark.parametrize("algorithm", [EXTRA(0.05), NIDS(0.05), ExactDiffusion(0.05)])
def test_alone_the_corrected_methods_are_gradient_descent(algorithm: Any) -> None:
    q, w = Quadratics.draw(4, 3, 0.5, 2.0), torch.eye(4, dtype=F64)
    reference, _ = run(DGD(0.05), moving(q), w, start(4, 3), 200)
    path, _ = run(algorithm, moving(q), w, start(4, 3), 200)
    assert (path - reference).abs().max() < 1e-12


def test_nids_is_exact_diffusion_without_mixing_in_the_first_round() -> None:
    q, w = Quadratics.draw(6, 3, 0.5, 2.0), ring(6)
    nids, _ = run(NIDS(0.2), moving(q), w, start(6, 3), 200)
    other, _ = run(ExactDiffusion(0.2), moving(q), lambda t: w if t else torch.eye(6, dtype=F64), start(6, 3), 200)
    assert (nids - other).abs().max() < 1e-12
    mixed, _ = run(ExactDiffusion(0.2), moving(q), w, start(6, 3), 200)
    assert (nids - mixed)[1:5].abs().max() > 1e-2


def test_tracking_with_the_tracker_eliminated() -> None:
    """x_{t+2} = 2 W x_{t+1} - W^2 x_t - lr (g_{t+1} - g_t): the tracker does not occur in it."""
    q, w, gradient = Quadratics.draw(6, 3, 0.5, 2.0), ring(6), moving(Quadratics.draw(6, 3, 0.5, 2.0))
    path, _ = run(GT(0.1), gradient, w, start(6, 3), 100)
    for t in range(98):
        change = gradient(t + 1, path[t + 1]) - gradient(t, path[t])
        assert (path[t + 2] - (2 * w @ path[t + 1] - w @ w @ path[t] - 0.1 * change)).abs().max() < 1e-12
    assert q.h.shape == (6, 3, 3)


@dataclass(frozen=True)
class Premixed:
    w: Tensor

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def __call__(self, s: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return self.w @ s, ()


def test_aug_dgm_is_next_with_a_mixed_direction() -> None:
    """s_t = W u_t with u_t = W u_{t-1} + g_t - g_{t-1}, on a network that stands still, from points where g_0 = 0 is both."""
    q, w = Quadratics.draw(6, 3, 0.5, 2.0), ring(6)
    own = torch.linalg.solve(q.h, q.b)
    assert q.gradient(0, own).abs().max() < 1e-12
    augmented, _ = run(AugDGM(0.1), moving(q), w, own, 200)
    atc, _ = run(GT(0.1, "atc", Premixed(w)), moving(q), w, own, 200)
    assert (augmented - atc).abs().max() < 1e-12
    assert (augmented[-1] - own).abs().max() > 0.1


@pytest.mark.slow
def test_dadam_keeps_a_bias_that_gtadam_does_not_have() -> None:
    q, w = Quadratics.draw(10, 5, 0.5, 2.0), ring(10)
    tracked, _ = run(gtadam(0.01, eps=1e-2), q.gradient, w, start(10, 5), 6000)
    local, _ = run(dadam(0.01, eps=1e-2), q.gradient, w, start(10, 5), 6000)
    assert errors(tracked, q.optimum)[-1000:].max() < 1e-10
    assert errors(local, q.optimum)[-1000:].min() > 1e-2
