"""Minimisers of summed costs by Newton's method: of f_t in each of many rounds, and of sum_t f_t over a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from distopt.costs import linear
from distopt.costs.products import Solve, conjugate_gradients
from distopt.costs.summed import FEW, Horizon, Sum

HESSIAN_BYTES = 2**29  # up to this size the Hessians that the scenario gives are held; beyond, conjugate gradients
NOISE = 1e-14  # the relative gradient norm where iterations end
ACCEPTED = 1e-10  # what will do where they lead no further
NARROW = 32  # coordinates up to which a Hessian of rows takes no longer than a few gradients
GOOD = 1e-4  # to the root of it, conjugate gradients on rows follow the steps of an estimate, which are no better

Solved = Callable[[Tensor], Tensor]
"""H^-1 g of a gradient g [P, d]."""

Step = Callable[[Sum | Horizon, Tensor, Tensor], Solved]
"""How Newton's step is made at a point x [P, d], where the gradient norm is ``flat`` [P] relative to ``scale``."""


def _step(problem: Sum | Horizon, x: Tensor, flat: Tensor) -> Solved:
    """The Newton step at x: by Cholesky where a Hessian is at hand or small, else by conjugate gradients."""
    d = x.shape[-1]
    if problem.scenario.linear_rows is not None:
        if d <= linear.DENSE:
            return lambda g: _cholesky(problem.hessian(x), g)
    elif problem.scenario.hessian is not None and 8 * x.numel() * d <= HESSIAN_BYTES:
        return lambda g: _cholesky(problem.hessian(x), g)
    elif d <= FEW:
        return _by_columns(problem, x, flat)
    about = None
    if problem.scenario.linear_rows is not None:
        near, rows, spread = flat.sqrt().clamp(1e-8, 0.1), *problem.spread
        about = None if spread is None else spread.solve(rows.at(x[: len(rows)].numpy()))
    else:
        near = flat.clamp(1e-8, 1e-3) if problem.differentiable else torch.full_like(flat, 1e-6)
    return lambda g: _conjugate_gradients(partial(problem.product, x), g, near, about)


def _estimated(problem: Sum | Horizon, like: Horizon) -> Step:
    """Steps by the Hessian of an estimate. Where rows have few coordinates, and a step does not lead far, one Hessian of the problem
    corrects all that follow."""
    if like.scenario.linear_rows is None or int(like.scenario.dim) > NARROW:
        good = 0.0 if like.scenario.linear_rows is None else GOOD
        return lambda _, x, flat: _step(like, x, torch.full_like(flat, good))
    before, apart = torch.tensor(torch.inf), torch.tensor(0.0)

    def step(_: Sum | Horizon, x: Tensor, flat: Tensor) -> Solved:
        nonlocal before, apart
        near = like.hessian(x)
        if not apart.ndim and bool((flat > 0.01 * before).any()):
            apart = problem.hessian(x) - near
        before, corrected = flat, near + apart
        return lambda g: _cholesky(corrected, g)

    return step


def _by_columns(problem: Sum | Horizon, x: Tensor, flat: Tensor) -> Solved:
    """The Newton step by a Hessian of ``d`` products."""
    columns = torch.eye(x.shape[-1], dtype=x.dtype)
    return lambda g: _cholesky(torch.stack([problem.product(x, e.expand_as(x)) for e in columns], -1), g)


def _cholesky(hessian: Tensor, g: Tensor) -> Tensor:
    """(H + mu I)^-1 g, where mu makes each matrix positive definite: 0, or twice the lowest eigenvalue's size, or what of a ladder does.

    If a Hessian is not finite, it is steepest descent.
    """
    eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype)
    there = hessian.isfinite().flatten(1).all(1)[:, None, None]
    hessian = torch.where(there, (hessian + hessian.mT) / 2, eye)
    top = hessian.diagonal(dim1=-2, dim2=-1).abs().amax(-1).clamp(min=1e-300)
    mu = torch.zeros_like(top)
    while True:
        factor, info = torch.linalg.cholesky_ex(hessian + mu[:, None, None] * eye)
        bad = info > 0
        if not bool(bad.any()):
            return torch.cholesky_solve(g[..., None], factor)[..., 0]
        if bool(mu.any()):
            mu = torch.where(bad, 10 * mu, mu)
        else:
            mu[bad] = torch.maximum(-2 * torch.linalg.eigvalsh(hessian[bad])[:, 0], 1e-10 * top[bad])


def _conjugate_gradients(product: Callable[[Tensor], Tensor], g: Tensor, exact: Tensor, about: Solve | None) -> Tensor:
    """H^-1 g [P, d] to the accuracy ``exact`` [P], relative to g."""
    found = conjugate_gradients(lambda v: product(torch.from_numpy(v)).numpy(), g.numpy(), exact.numpy(), about)
    return torch.from_numpy(found)


def newton(
    problem: Sum | Horizon, x: Tensor, like: Horizon | None = None, enough: float = NOISE
) -> tuple[Tensor, Tensor]:
    """Damped Newton on P separate problems from x [P, d]: the best points, and how far from minimal each is [P].

    The measure is the larger of the gradient norm, relative to sum_i ||grad f_i|| at the start or at 0, and of the last
    Newton step, relative to 1 + ||x|| (which does not shrink where the infimum lies at infinity, though the gradient does).
    Stops below ``enough``, or where nothing improves any more: in rounding noise. Where conjugate gradients do not come that far, Hessians may.

    ``like`` is an estimate of ``problem`` whose Hessian costs less. Steps by it are taken as long as they lead on.
    """
    about = like or problem
    scale = torch.maximum(about.scale(x), about.scale(torch.zeros_like(x))).max().clamp(min=1e-300)
    residual = torch.full((len(x),), torch.inf, dtype=x.dtype)

    def found(ways: Step, enough: float = enough, iterations: int = 100) -> bool:
        nonlocal x, residual
        x, residual = _descended(problem, x, scale, ways, enough, iterations)
        return bool((residual < max(enough, ACCEPTED)).all())

    scenario, d = problem.scenario, x.shape[-1]
    if like is not None and found(_estimated(problem, like), ACCEPTED, 10):
        return x, residual
    if not found(_step) and FEW < d <= linear.DENSE and scenario.hessian is None and scenario.linear_rows is None:
        found(_by_columns)
    return x, residual


def _descended(
    problem: Sum | Horizon, x: Tensor, scale: Tensor, ways: Step, enough: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """The same by one kind of steps."""
    best, residual, stalled = x, torch.full((len(x),), torch.inf, dtype=x.dtype), 0
    both = problem.both(x)
    lowest = torch.full((len(x),), torch.inf, dtype=x.dtype)
    last = lowest  # the length of the last step: Newton's next step would be far shorter
    for _ in range(iterations):
        value, gradient = both[:, 0].contiguous(), both[:, 1:].contiguous()
        length = 1 + x.norm(dim=-1)
        flat = gradient.norm(dim=-1) / scale
        if bool(((flat < enough) & (last < 1e-6 * length)).all()):
            return x, flat  # no further Hessian is needed to see that it has converged
        step = ways(problem, x, flat)(gradient)
        measure = torch.maximum(flat, 1e-3 * step.norm(dim=-1) / length)
        better = measure < residual
        falling = value < lowest - 1e-6 * lowest.abs()
        lowest = torch.minimum(lowest, value)
        stalled = 0 if bool((falling | (measure < 0.5 * residual)).any()) else stalled + 1
        best, residual = torch.where(better[:, None], x, best), torch.where(better, measure, residual)
        if bool((residual < enough).all()) or (stalled >= 1 and bool((residual < ACCEPTED).all())) or stalled >= 20:
            break
        slope = (gradient * step).sum(-1)
        size = torch.ones_like(slope)
        for _ in range(40):
            both = problem.both(x - size[:, None] * step)
            failed = ~(both[:, 0] <= value - 1e-4 * size * slope + 1e-12 * value.abs())
            if not bool(failed.any()):
                break
            size = torch.where(failed, size / 2, size)
        x, last = x - size[:, None] * step, size * step.norm(dim=-1)
    return best, residual
