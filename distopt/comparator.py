"""The comparator x*_t = argmin f_t, and what belongs to the scenario alone: its variation and its baselines.

Computed once per scenario and seed and shared by all algorithms that are compared. Where a scenario knows its minimiser it
is used; else Newton's method finds it. Either way the norm of the summed gradient at x*_t certifies it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distopt.data import Blocks, evaluate, part, tensors
from distopt.errors import InputError

DENSE = 128  # up to this dimension a Hessian that the scenario does not give is differenced; beyond, conjugate gradients


class Reference(NamedTuple):
    """What a block of rounds has whatever algorithm runs on it (R is 1 where trials share their data).

    ``x`` x*_t [K, R, d]; ``cost`` f_t(x*_t) [K, R]; ``residual`` ||sum_i grad f_{i,t}(x*_t)|| relative to the block's largest
    sum_i ||grad f_{i,t}|| at x*_t or 0 [K, R]; the increments [K, R] of ``path_length``, ``gradient_variation``,
    ``function_variation`` and of the no-change regret f_t(x*_{t-1}) - f_t(x*_t); ``persistence`` accuracy [K, R] or None.
    """

    x: Tensor
    cost: Tensor
    residual: Tensor
    path: Tensor
    gradient_variation: Tensor
    function_variation: Tensor
    no_change: Tensor
    persistence: Tensor | None


@dataclass(frozen=True)
class _Sum:
    """f_t of each round of a block as P = K R separate problems."""

    scenario: Any
    batch: Any
    rounds: int
    trials: int
    agents: int

    def _points(self, x: Tensor) -> Tensor:
        shape = (self.rounds, self.trials, self.agents, x.shape[-1])
        return x.reshape(self.rounds, self.trials, 1, -1).expand(shape)

    def value(self, x: Tensor) -> Tensor:
        each = evaluate(self.scenario.loss, self._points(x), self.batch)
        expected = (self.rounds, self.trials, self.agents)
        if each.shape != expected:
            name, shape = type(self.scenario).__name__, list(each.shape[2:])
            raise InputError(f"scenario {name}: loss returned one number for each of {shape} per trial, not of [{self.agents}] agents")
        return each.sum(-1).reshape(-1)

    def gradient(self, x: Tensor) -> Tensor:
        return evaluate(self.scenario.grad, self._points(x), self.batch).sum(-2).reshape(len(x), -1)

    def hessian(self, x: Tensor) -> Tensor:
        def summed(points: Tensor, batch: Any) -> Tensor:
            out: Tensor = self.scenario.hessian(points, batch)
            return out

        d = x.shape[-1]
        points, out = self._points(x), []
        step = max(1, 2**27 // (8 * d * d * self.trials))  # a few rounds at a time: Hessians are large
        for start in range(0, self.rounds, step):
            out.append(evaluate(summed, points[start : start + step], part(self.batch, start, start + step)))
        return torch.cat(out).reshape(len(x), d, d)

    def scale(self, x: Tensor) -> Tensor:
        """sum_i ||grad f_{i,t}(x)|| [P]: what the summed gradient is small against."""
        each = evaluate(self.scenario.grad, self._points(x), self.batch)
        total: Tensor = each.norm(dim=-1).sum(-1).reshape(-1)
        return total


@dataclass(frozen=True)
class _Horizon:
    """sum_t f_t over the whole run, streamed over the blocks: P = R problems."""

    blocks: Blocks
    trials: int

    def _each(self) -> list[_Sum]:
        agents = self.blocks.key.total
        spans = [self.blocks.span(b) for b in range(self.blocks.count)]
        return [_Sum(self.blocks.scenario, None, len(span), self.trials, agents) for span in spans]

    def _total(self, f: Callable[[_Sum, Tensor], Tensor], x: Tensor) -> Tensor:
        total: Tensor | None = None
        for b, empty in enumerate(self._each()):
            problem = _Sum(empty.scenario, self.blocks.get(b), empty.rounds, empty.trials, empty.agents)
            repeated = x.expand(problem.rounds, *x.shape).reshape(-1, x.shape[-1])
            value = f(problem, repeated)
            value = value.reshape(problem.rounds, self.trials, *value.shape[1:]).sum(0)
            total = value if total is None else total + value
        assert total is not None
        return total

    def value(self, x: Tensor) -> Tensor:
        return self._total(_Sum.value, x)

    def gradient(self, x: Tensor) -> Tensor:
        return self._total(_Sum.gradient, x)

    @property
    def scenario(self) -> Any:
        return self.blocks.scenario

    def hessian(self, x: Tensor) -> Tensor:
        return self._total(_Sum.hessian, x)

    def scale(self, x: Tensor) -> Tensor:
        return self._total(_Sum.scale, x)


def _step(problem: _Sum | _Horizon, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The Newton step at x: by Cholesky where a Hessian is at hand or small, else by conjugate gradients."""
    d = x.shape[-1]
    if hasattr(problem.scenario, "hessian"):
        return lambda g: _cholesky(problem.hessian(x), g)
    width: Tensor = 1e-5 * (1 + x.norm(dim=-1, keepdim=True))

    def product(v: Tensor) -> Tensor:
        norm: Tensor = v.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        u = v / norm * width
        change = problem.gradient(x + u) - problem.gradient(x - u)
        return change / (2 * width) * norm

    if d <= DENSE:
        return lambda g: _cholesky(torch.stack([product(e.expand_as(x)) for e in torch.eye(d, dtype=x.dtype)], -1), g)
    return lambda g: _conjugate_gradients(product, g)


def _cholesky(hessian: Tensor, g: Tensor) -> Tensor:
    """(H + mu I)^-1 g, with the smallest mu of a ladder that makes each matrix positive definite."""
    hessian = (hessian + hessian.mT) / 2
    eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype)
    top = hessian.diagonal(dim1=-2, dim2=-1).abs().amax(-1).clamp(min=1e-300)
    mu = torch.zeros_like(top)
    while True:
        factor, info = torch.linalg.cholesky_ex(hessian + mu[:, None, None] * eye)
        if not bool(info.any()):
            return torch.cholesky_solve(g[..., None], factor)[..., 0]
        mu = torch.where(info > 0, torch.maximum(10 * mu, 1e-10 * top), mu)
        if not bool(torch.isfinite(mu).all()):
            return g  # no curvature at all, or none that is finite: steepest descent


def _conjugate_gradients(product: Callable[[Tensor], Tensor], g: Tensor) -> Tensor:
    x, r = torch.zeros_like(g), g.clone()
    p, rr = r.clone(), (r * r).sum(-1, keepdim=True)
    goal = 1e-12 * rr
    for _ in range(4 * g.shape[-1]):
        hp = product(p)
        curvature = (p * hp).sum(-1, keepdim=True)
        live = (rr > goal) & (curvature > 0)
        if not bool(live.any()):
            break
        a = torch.where(live, rr / curvature.clamp(min=1e-300), 0.0)
        x, r = x + a * p, r - a * hp
        new = (r * r).sum(-1, keepdim=True)
        p, rr = r + torch.where(live, new / rr.clamp(min=1e-300), 0.0) * p, new
    return torch.where((x == 0).all(-1, keepdim=True), g, x)  # negative curvature at once: fall back to the gradient


def newton(problem: _Sum | _Horizon, x: Tensor, iterations: int = 100) -> tuple[Tensor, Tensor]:
    """Damped Newton on P separate problems from x [P, d]: the best points, and how far from minimal each is [P].

    The measure is the larger of the gradient norm, relative to sum_i ||grad f_i|| at the start or at 0, and of the last
    Newton step, relative to 1 + ||x|| (which does not shrink where the infimum lies at infinity, though the gradient does).
    Stops where nothing improves any more: in rounding noise.
    """
    scale = torch.maximum(problem.scale(x), problem.scale(torch.zeros_like(x))).max().clamp(min=1e-300)
    best, residual, stalled = x, torch.full((len(x),), torch.inf, dtype=x.dtype), 0
    value = problem.value(x)
    lowest = torch.full_like(value, torch.inf)
    last = torch.full_like(value, torch.inf)  # the length of the last step: what Newton's next one would be far below
    for _ in range(iterations):
        gradient = problem.gradient(x)
        length = 1 + x.norm(dim=-1)
        flat = gradient.norm(dim=-1) / scale
        if bool(((flat < 1e-14) & (last < 1e-6 * length)).all()):
            return x, flat  # no need of another Hessian to know that it is over
        step = _step(problem, x)(gradient)
        measure = torch.maximum(flat, 1e-3 * step.norm(dim=-1) / length)
        better = measure < residual
        falling = value < lowest - 1e-6 * lowest.abs()
        lowest = torch.minimum(lowest, value)
        stalled = 0 if bool((falling | (measure < 0.5 * residual)).any()) else stalled + 1
        best, residual = torch.where(better[:, None], x, best), torch.where(better, measure, residual)
        if bool((residual < 1e-14).all()) or (stalled >= 1 and bool((residual < 1e-10).all())) or stalled >= 20:
            break
        slope = (gradient * step).sum(-1)
        size = torch.ones_like(slope)
        for _ in range(40):
            after = problem.value(x - size[:, None] * step)
            failed = ~(after <= value - 1e-4 * size * slope + 1e-12 * value.abs())
            if not bool(failed.any()):
                break
            size = torch.where(failed, size / 2, size)
        x, value, last = x - size[:, None] * step, after, size * step.norm(dim=-1)
    return best, residual


class Comparator:
    """x*_t and its companions for one scenario, seed, number of agents, trials and rounds; each block solved once.

    Raises:
        InputError: f_t has no minimiser that Newton's method can certify; the message names the round.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks, self.scenario = blocks, blocks.scenario
        self._references: dict[int, Reference] = {}
        self._sought = False
        self._fixed: Tensor | None = None
        self._fixed_values: dict[int, tuple[Tensor, Tensor | None]] = {}

    def _trials(self, batch: Any) -> int:
        return max((leaf.shape[1] for leaf in tensors(batch)), default=1)

    def reference(self, b: int) -> Reference:
        """The reference of block b."""
        if b not in self._references:
            for earlier in range(b):  # a block needs the x* before its first round
                if earlier not in self._references:
                    self._references[earlier] = self._solve(earlier)
            self._references[b] = self._solve(b)
        return self._references[b]

    def _solve(self, b: int) -> Reference:
        batch, rounds, agents, dim = self.blocks.get(b), len(self.blocks.span(b)), self.blocks.key.total, int(self.scenario.dim)
        trials = self._trials(batch)
        problem = _Sum(self.scenario, batch, rounds, trials, agents)
        x = self._optimum(batch, rounds, trials, dim)
        if x is None:
            x = self._search(problem, b, dim)
        now = evaluate(self.scenario.grad, problem._points(x), batch)
        scale = torch.maximum(problem.scale(x), problem.scale(torch.zeros_like(x))).max().clamp(min=1e-300)
        residual = now.sum(-2).norm(dim=-1) / scale
        cost = problem.value(x).reshape(rounds, trials)
        x = x.reshape(rounds, trials, dim)
        before_x, before_batch = self._before(b, x, batch)
        shifted = torch.cat([before_x, x[:-1]])
        old_grad, old_cost = self._at_previous_costs(problem, x, batch, before_batch)
        no_change = problem.value(shifted.reshape(-1, dim)).reshape(rounds, trials) - cost
        persistence = None
        if hasattr(self.scenario, "persistence"):
            each = evaluate(lambda _, data: self.scenario.persistence(data), problem._points(x), batch)
            persistence = each.expand(rounds, trials, -1).nanmean(-1)
        first = (now - old_grad).norm(dim=-1).amax(-1)
        return Reference(x, cost, residual, (x - shifted).norm(dim=-1), first, (cost - old_cost).abs(), no_change, persistence)

    def _optimum(self, batch: Any, rounds: int, trials: int, dim: int) -> Tensor | None:
        closed = self.scenario.optimum(batch) if hasattr(self.scenario, "optimum") else None
        if closed is None:
            return None
        closed = torch.as_tensor(closed, dtype=torch.float64).detach()
        if not bool(torch.isfinite(closed).all()):
            raise InputError(f"scenario {type(self.scenario).__name__}: optimum is not finite (nan or inf); return None to have it found")
        if closed.ndim == 4 and closed.shape[2] == 1:  # an agents axis kept for broadcasting
            closed = closed[:, :, 0]
        try:
            return closed.expand(rounds, trials, dim).reshape(-1, dim)
        except RuntimeError:
            raise InputError(
                f"scenario {type(self.scenario).__name__}: optimum has shape {list(closed.shape)}, not [{rounds} or 1, {trials} or 1, {dim}]"
            ) from None

    def _search(self, problem: _Sum, b: int, dim: int) -> Tensor:
        """Newton in two stages, first round of the block first, so that the others start warm; no block waits for another."""
        if hasattr(self.scenario, "guess"):
            start = self.scenario.guess(problem.batch).expand(problem.rounds, problem.trials, dim).reshape(-1, dim)
        else:
            head = _Sum(self.scenario, part(problem.batch, 0, 1), 1, problem.trials, problem.agents)
            first, _ = newton(head, torch.zeros(problem.trials, dim, dtype=torch.float64))
            start = first.expand(problem.rounds, problem.trials, dim).reshape(-1, dim)
        x, residual = newton(problem, start)
        if bool((residual > 1e-6).any()) or not bool(torch.isfinite(x).all()):
            bad = int(torch.nonzero(~(residual <= 1e-6))[0]) // problem.trials
            raise InputError(
                f"scenario {type(self.scenario).__name__}: found no minimiser of f_t in round {self.blocks.span(b)[bad]} (relative gradient norm "
                f"{float(residual.max()):.1e}); is the cost bounded below? add regularisation, or give optimum(b)"
            )
        return x

    def _before(self, b: int, x: Tensor, batch: Any) -> tuple[Tensor, Any]:
        """x* and data of the round before the block; in round 0 nothing has changed yet."""
        if b == 0:
            return x[:1], part(batch, 0, 1)
        last = len(self.blocks.span(b - 1))
        return self._references[b - 1].x[-1:].expand(1, x.shape[1], x.shape[2]), part(self.blocks.get(b - 1), last - 1, last)

    def _at_previous_costs(self, problem: _Sum, x: Tensor, batch: Any, before: Any) -> tuple[Tensor, Tensor]:
        """grad f_{i,t-1} [K, R, n, d] and f_{t-1} [K, R] at x*_t."""
        points = problem._points(x.reshape(-1, x.shape[-1]))
        grads = [evaluate(self.scenario.grad, points[:1], before)]
        costs = [evaluate(self.scenario.loss, points[:1], before).sum(-1)]
        if problem.rounds > 1:
            earlier = part(batch, 0, problem.rounds - 1)
            grads.append(evaluate(self.scenario.grad, points[1:], earlier))
            costs.append(evaluate(self.scenario.loss, points[1:], earlier).sum(-1))
        return torch.cat(grads), torch.cat(costs)

    def fixed(self) -> Tensor | None:
        """The best fixed point argmin_x sum_t f_t(x) over the whole run, [R, d] (R is 1 where trials share their data).

        None where Newton's method cannot certify one: where the costs are not smooth, or their sum has no minimiser.
        """
        if not self._sought:
            self._sought = True
            references = [self.reference(b).x for b in range(self.blocks.count)]
            start = torch.cat([x.mean(0, keepdim=True) * x.shape[0] for x in references]).sum(0) / self.blocks.rounds
            x, residual = newton(_Horizon(self.blocks, start.shape[0]), start)
            if bool((residual <= 1e-6).all()) and bool(torch.isfinite(x).all()):
                self._fixed = x
        return self._fixed

    def fixed_values(self, b: int) -> tuple[Tensor | None, Tensor | None]:
        """F_t at the best fixed point in the rounds of block b, [K, R], and its accuracy; None where there is no such thing."""
        fixed = self.fixed()
        if fixed is None:
            return None, None
        if b not in self._fixed_values:
            batch, rounds, agents = self.blocks.get(b), len(self.blocks.span(b)), self.blocks.key.total
            points = fixed[None, :, None].expand(rounds, len(fixed), agents, -1)
            cost = evaluate(self.scenario.loss, points, batch).sum(-1)
            accuracy = evaluate(self.scenario.accuracy, points, batch).nanmean(-1) if hasattr(self.scenario, "accuracy") else None
            self._fixed_values[b] = cost, accuracy
        return self._fixed_values[b]

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Solve every block and the best fixed point now, reporting (rounds solved, rounds in all)."""
        for b in range(self.blocks.count):
            self.reference(b)
            progress(self.blocks.span(b).stop, self.blocks.rounds)
        self.fixed()

    def certificate(self) -> float:
        """The largest relative gradient norm at x*_t over the blocks solved so far."""
        return max((float(r.residual.max()) for r in self._references.values()), default=0.0)


