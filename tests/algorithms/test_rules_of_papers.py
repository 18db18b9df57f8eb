"""AIDA, AdamW, Padam, Super-Adam and Adan against loops written from their papers, torch, and one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import one_agent
from helpers.one_agent import START, Floats, Gradient, apart
from torch import Tensor

from distopt.algorithms.dgd import DGD
from distopt.algorithms.gt import GT
from distopt.algorithms.k_gt import KGT
from distopt.directions import direct
from distopt.directions.adam import Adam
from distopt.directions.adamw import AdamW
from distopt.directions.adan import Adan
from distopt.directions.aida import Aida
from distopt.directions.amsgrad import AMSGrad
from distopt.directions.padam import Padam
from distopt.directions.superadam import SuperAdam
from distopt.network.net import Rehearsal
from distopt.schedules.inverse_sqrt import InverseSqrt

Rate = Callable[[int], float]
LR = 0.05


def constant(t: int) -> float:
    return LR


def falling(t: int) -> float:
    """Of rounds from 0."""
    return float(0.2 / np.sqrt(t + 4.0))


def aida(p: float, q: float, inside: bool, decay: float) -> Callable[[Gradient, Rate], list[Floats]]:
    def loop(grad: Gradient, rate: Rate) -> list[Floats]:
        x, m, r, path = START, np.zeros(len(START)), np.zeros(len(START)), [START]
        for t in range(1, one_agent.ROUNDS + 1):
            s, lr = grad(x, t - 1), rate(t - 1)
            m, r = 0.9 * m + 0.1 * s, 0.999 * r + 0.001 * np.abs(s) ** p
            mh, rh = m / (1 - 0.9**t), r / (1 - 0.999**t)
            below = (rh + 1e-8) ** (q / p) if inside else rh ** (q / p) + 1e-8
            x = (1 - lr * decay) * x - lr * np.sign(mh) * np.abs(mh) ** q / below
            path.append(x)
        return path

    return loop


def adamw(b1: float, b2: float, eps: float, decay: float) -> Callable[[Gradient, Rate], list[Floats]]:
    def loop(grad: Gradient, rate: Rate) -> list[Floats]:
        x, m, v, path = START, 0.0 * START, 0.0 * START, [START]
        for t in range(1, one_agent.ROUNDS + 1):
            s, lr = grad(x, t - 1), rate(t - 1)
            x = x - lr * decay * x
            m, v = m + (1 - b1) * (s - m), v + (1 - b2) * (s**2 - v)
            x = x - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
            path.append(x)
        return path

    return loop


def padam(p: float, amsgrad: bool, decay: float) -> Callable[[Gradient, Rate], list[Floats]]:
    def loop(grad: Gradient, rate: Rate) -> list[Floats]:
        x, m, v, top, path = START, 0.0 * START, 0.0 * START, 0.0 * START, [START]
        for t in range(1, one_agent.ROUNDS + 1):
            s, lr = grad(x, t - 1), rate(t - 1)
            m, v = 0.9 * m + 0.1 * s, 0.999 * v + 0.001 * s**2
            top = np.maximum(top, v) if amsgrad else v
            step = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            x = x * (1 - lr * decay) - step * m / (np.sqrt(top) + 1e-8) ** (2 * p)
            path.append(x)
        return path

    return loop


def superadam(k: float, m: float, c: float, steps: int = 1) -> Callable[[Gradient, Rate], list[Floats]]:
    """With several steps in a round, on the costs of the round."""

    def loop(grad: Gradient, rate: Rate) -> list[Floats]:
        x, average, v, path, t = START, 0.0 * START, 0.0 * START, [START], 0
        for r in range(one_agent.ROUNDS):
            for _ in range(steps):
                t += 1
                s, mu = grad(x, r), k / (m + t) ** 0.5
                share = 1.0 if t == 1 else min(c * mu, 1.0)
                average, v = (1 - share) * average + share * s, 0.999 * v + 0.001 * s**2
                target = x - rate(r) * average / (np.sqrt(v / (1 - 0.999**t)) + 1e-3)  # the paper's x~
                x = (1 - mu) * x + mu * target
            path.append(x)
        return path

    return loop


def adan(decay: float, proximal: bool, clip: float | None) -> Callable[[Gradient, Rate], list[Floats]]:
    def loop(grad: Gradient, rate: Rate) -> list[Floats]:
        x, m, v, n, path = START, 0.0 * START, 0.0 * START, 0.0 * START, [START]
        before: Any = None
        for t in range(1, one_agent.ROUNDS + 1):
            s, lr = grad(x, t - 1), rate(t - 1)
            if clip is not None:
                s = s * min(1.0, clip / (np.sqrt((s**2).sum()) + 1e-8))
            change = 0.0 * s if before is None else s - before
            m, v, n = (
                0.98 * m + 0.02 * s,
                0.92 * v + 0.08 * change,
                0.99 * n + 0.01 * (s + 0.92 * change) ** 2,
            )
            step = (m / (1 - 0.98**t) + 0.92 * v / (1 - 0.92**t)) / (np.sqrt(n / (1 - 0.99**t)) + 1e-8)
            x = (x - lr * step) / (1 + lr * decay) if proximal else (1 - lr * decay) * x - lr * step
            before = s
            path.append(x)
        return path

    return loop


RULES: dict[str, tuple[Any, Callable[[Gradient, Rate], list[Floats]]]] = {
    "aida": (Aida(), aida(1, 2, True, 0.0)),
    "aida (2,1)": (Aida(2, 1, eps_inside=False, decay=0.1), aida(2, 1, False, 0.1)),
    "aida (2,1) inside": (Aida(2, 1, decay=0.1), aida(2, 1, True, 0.1)),
    "aida (1.5,1.5)": (Aida(1.5, 1.5, decay=0.1), aida(1.5, 1.5, True, 0.1)),
    "aida (3,2) outside": (Aida(3, 2, eps_inside=False), aida(3, 2, False, 0.0)),
    "adamw": (AdamW(), adamw(0.9, 0.999, 1e-8, 0.01)),
    "adamw, others": (AdamW(0.7, 0.99, 1e-3, 0.3), adamw(0.7, 0.99, 1e-3, 0.3)),
    "padam": (Padam(), padam(0.125, True, 0.0)),
    "padam, decay": (Padam(decay=0.2), padam(0.125, True, 0.2)),
    "padam without maximum": (Padam(0.3, amsgrad=False, decay=0.1), padam(0.3, False, 0.1)),
    "superadam": (SuperAdam(), superadam(1, 100, 5)),
    "superadam, capped": (SuperAdam(k=3, m=10, c=4), superadam(3, 10, 4)),
    "adan": (Adan(), adan(0.0, True, None)),
    "adan, decay": (Adan(decay=0.3), adan(0.3, True, None)),
    "adan, plain decay": (Adan(decay=0.3, proximal=False), adan(0.3, False, None)),
    "adan, clipped": (Adan(decay=0.02, clip=2.0), adan(0.02, True, 2.0)),
}


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_the_loop_of_its_paper(name: str, noise: float) -> None:
    rule, loop = RULES[name]
    grad, scale = one_agent.gradient(noise), 4.0 if name.startswith("superadam") else 1.0
    wanted = np.array(loop(grad, lambda t: scale * LR))
    assert apart(one_agent.followed(rule, scale * LR, noise), wanted) < 1e-12
    assert apart(one_agent.by_descent(rule, scale * LR, noise, mode="eager"), wanted) < 1e-12


@pytest.mark.parametrize("name", ["aida", "adamw", "padam, decay", "superadam", "adan, decay", "adan, clipped"])
def test_a_rule_follows_a_schedule_in_compiled_rounds(name: str) -> None:
    rule, loop = RULES[name]
    grad, scale = one_agent.gradient(1.0), 4.0 if name.startswith("superadam") else 1.0
    wanted = np.array(loop(grad, lambda t: scale * falling(t)))
    schedule = InverseSqrt(scale * 0.2, shift=4.0)
    assert apart(one_agent.followed(rule, schedule, 1.0), wanted) < 1e-12
    assert apart(one_agent.by_descent(rule, schedule, 1.0, mode="compiled"), wanted) < 1e-12


def test_a_rule_counts_its_own_steps_where_a_round_has_several() -> None:
    wanted = np.array(superadam(1, 100, 5, steps=3)(one_agent.gradient(1.0), lambda t: 0.2))
    algorithm = KGT(0.2, local=3, direction=SuperAdam(), correction=False)
    assert apart(one_agent.simulated(algorithm, 1.0, mode="eager"), wanted) < 1e-12


@pytest.mark.parametrize("rule", [AdamW(), AdamW(decay=0.2), Aida(2, 1, eps_inside=False, decay=0.2)], ids=repr)
def test_torch_has_the_same_adamw(rule: Any) -> None:
    twin = torch.tensor(START, requires_grad=True)
    theirs = torch.optim.AdamW([twin], lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=rule.decay, foreach=False)
    grad = one_agent.gradient(1.0)
    x = torch.tensor(START)[None, None]
    state, worst, scale = rule.init(x), 0.0, 0.0
    for t in range(one_agent.ROUNDS):
        twin.grad = torch.tensor(grad(twin.detach().numpy(), t))
        s = torch.tensor(grad(x[0, 0].numpy(), t))[None, None]
        d, state = direct(rule, s, state, Rehearsal(lambda _, z: z, x, t), LR)
        x = x - LR * d
        theirs.step()
        worst = max(worst, float((x[0, 0] - twin.detach()).abs().max()))
        scale = max(scale, float(x.abs().max()))
    assert worst < 1e-14 * scale


def paths(rules: list[Any]) -> list[Floats]:
    return [one_agent.followed(rule, LR, 1.0) for rule in rules]


def test_special_cases_are_other_rules() -> None:
    adam, free = paths([Adam(eps_inside=False, cap=None, bias_correction=True), AdamW(decay=0.0)])
    assert np.array_equal(adam, free)
    half, amsgrad = paths([Padam(0.5, eps=1e-15), AMSGrad(eps=1e-15, eps_inside=False, cap=None, bias_correction=True)])
    assert apart(half, amsgrad) < 1e-12
    halved, adamw_free = paths([Padam(0.5, eps=1e-15, amsgrad=False), AdamW(eps=1e-15, decay=0.0)])
    assert apart(halved, adamw_free) < 1e-12
    loose, none = paths([Adan(clip=1e6), Adan()])
    assert np.array_equal(loose, none)


@pytest.mark.parametrize("form", [DGD, GT])
def test_agents_that_agree_decay_as_one(form: Any) -> None:
    """The decay is at the agent's own point, so without gradients all shrink together."""
    x = torch.full((1, 3, 2), 4.0, dtype=torch.float64)
    algorithm = form(0.1, direction=AdamW(decay=0.5))
    state = algorithm.init(x)
    for t in range(5):
        x, state = algorithm.update(torch.zeros_like(x), state, x, Rehearsal(lambda _, z: z, x, t))
    assert torch.allclose(x, torch.full_like(x, 4.0 * 0.95**5), rtol=1e-15)


# Stability of Aida: lam x^2 / 2 with lam = 10 from 0.01


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)


def settled(rule: Aida, lr: float, rounds: int = 4000, last: int = 100) -> Tensor:
    """The points of the last steps [last, number of rules]."""
    x = torch.full_like(rule.p, 0.01) if isinstance(rule.p, Tensor) else column(0.01)
    state, points = rule.init(x), []
    for t in range(rounds):
        d, state = direct(rule, 10 * x, state, Rehearsal(lambda _, z: z, x, t), lr)
        x = x - lr * d
        if t >= rounds - last:
            points.append(x[:, 0, 0])
    return torch.stack(points)


P, Q = (2.0, 3.0, 1.5, 1.0), (2.0, 2.0, 1.5, 2.0)
POWERS: dict[str, Any] = {"p": column(*P), "q": column(*Q)}


@pytest.mark.parametrize(("lr", "decay"), [(0.1, 0.1), (1.0, 0.1)])
@pytest.mark.parametrize("inside", [True, False])
def test_with_decay_aida_contracts_by_exactly_the_decay(inside: bool, lr: float, decay: float) -> None:
    """The rest of d / x is of order |x|^(q - 1): 5e-9 for q = 1.5 at lr = 0.1, and lost in rounding elsewhere."""
    points = settled(Aida(**POWERS, eps_inside=inside, decay=decay), lr)
    assert ((points != 0) & (points.abs() < 1e-20)).all()
    rest = (points[1:] / points[:-1] - (1 - lr * decay)).abs().amax(0)
    assert (rest[[0, 1, 3]] < 2e-14).all() and rest[2] < 1e-8


@pytest.mark.slow
def test_without_decay_aida_falls_like_a_power_of_t() -> None:
    """Once r is far below eps, x_{t+1} = x_t - lr |lam x|^q / eps^(q/p): x^(1 - q) grows by (q - 1) lr lam^q / eps^(q/p) a step."""
    rule, lr = Aida(**POWERS, b2=0.9, eps=1e-2), 0.1
    early, late = (settled(rule, lr, rounds)[-1].abs() for rounds in (4000, 8000))
    for k, (p, q) in enumerate(zip(P, Q, strict=True)):
        slope = (float(late[k]) ** (1 - q) - float(early[k]) ** (1 - q)) / 4000
        assert slope == pytest.approx((q - 1) * lr * 10**q / 1e-2 ** (q / p), rel=0.01), (p, q)


@pytest.mark.parametrize(("lr", "decay", "eps"), [(1.0, 0.0, 1e-8), (1.0, 0.0, 1e-2), (0.1, 0.1, 1e-8)])
@pytest.mark.parametrize("inside", [True, False])
def test_adamw_bursts_again_and_again(inside: bool, lr: float, decay: float, eps: float) -> None:
    """(2, 1) is unstable at the minimiser at these step sizes: v forgets, the step grows, and x leaves by a third of lr."""
    points = settled(Aida(2.0, 1.0, eps=eps, eps_inside=inside, decay=decay), lr, last=1000).abs()
    assert 0.25 * lr < points.max() < 0.5 * lr and points.min() < 1e-6
