"""The comparator x*_t = argmin f_t, and what belongs to the scenario alone: its variation and its baselines.

Computed once per scenario and seed and shared by all algorithms that are compared. Where a scenario knows its minimiser it
is used; else Newton's method finds it. Either way the norm of the summed gradient at x*_t certifies it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distopt.data import BLOCK_BYTES, LONGEST_BLOCK, Blocks, evaluate, part, tensors, tree_map
from distopt.errors import InputError
from distopt.tree import tree_sum

MEMORY_BYTES = 512 * 2**20  # of x*_t of all rounds that are held in memory
DENSE = 128  # up to this dimension a Hessian that the scenario does not give is differenced; beyond, conjugate gradients
HESSIAN_BYTES = 2**29  # up to this size the Hessians that the scenario gives are held; beyond, conjugate gradients


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

    def sums(self, f: Callable[[Tensor, Any], Tensor], x: Tensor, batch: Any = None) -> Tensor:
        """sum_i of f (x [R, n, d], data) [R, n, q] at x [P, d]: [P, q]. Rows of all agents are never held for all rounds at once."""

        def summed(points: Tensor, data: Any) -> Tensor:
            return tree_sum(f(points, data)).squeeze(-2)

        return evaluate(summed, self._points(x), self.batch if batch is None else batch).reshape(len(x), -1)

    def losses(self, x: Tensor, data: Any) -> Tensor:
        """f_i [R, n, 1] at x [R, n, d]."""
        each: Tensor = self.scenario.loss(x, data)
        if each.ndim != 2 or each.shape[-1] != self.agents:
            name, shape = type(self.scenario).__name__, list(each.shape[1:])
            raise InputError(f"scenario {name}: loss returned one number for each of {shape} per trial, not of [{self.agents}] agents")
        return each.unsqueeze(-1)

    def value(self, x: Tensor) -> Tensor:
        return self.sums(self.losses, x).reshape(-1)

    def gradient(self, x: Tensor) -> Tensor:
        return self.sums(self.scenario.grad, x)

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
        return self.sums(lambda points, data: self.scenario.grad(points, data).norm(dim=-1, keepdim=True), x).reshape(-1)


@dataclass(frozen=True)
class _Horizon:
    """sum_t f_t over the whole run, streamed over the blocks: P = R problems."""

    blocks: Blocks
    trials: int

    def _total(self, f: Callable[[_Sum, Tensor], Tensor], x: Tensor, step: int = LONGEST_BLOCK) -> Tensor:
        """The sum of f over all rounds, ``step`` of them at a time."""
        total: Tensor | None = None
        for b in range(self.blocks.count):
            rounds = len(self.blocks.span(b))
            for start in range(0, rounds, step):
                count = min(step, rounds - start)
                batch = part(self.blocks.get(b), start, start + count)
                problem = _Sum(self.scenario, batch, count, self.trials, self.blocks.key.total)
                value = f(problem, x.expand(count, *x.shape).reshape(-1, x.shape[-1]))
                value = value.reshape(count, self.trials, *value.shape[1:]).sum(0)
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
        return self._total(_Sum.hessian, x, max(1, BLOCK_BYTES // (8 * x.numel() * x.shape[-1])))

    def scale(self, x: Tensor) -> Tensor:
        return self._total(_Sum.scale, x)


def _step(problem: _Sum | _Horizon, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The Newton step at x: by Cholesky where a Hessian is at hand or small, else by conjugate gradients."""
    d = x.shape[-1]
    if hasattr(problem.scenario, "hessian") and 8 * x.numel() * d <= HESSIAN_BYTES:
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


def mean_accuracy(each: Tensor) -> Tensor:
    """The mean over the agents that have one, of accuracies [R, n] that are nan elsewhere: [R]."""
    there = ~each.isnan()
    total, count = (tree_sum(z.to(torch.float64).unsqueeze(-1))[..., 0, 0] for z in (each.nan_to_num(nan=0.0), there))
    return total / count


def _repeated(one: Reference, rounds: int) -> Reference:
    """A round's reference for so many rounds that are like it."""
    again: Reference = tree_map(lambda leaf: leaf.expand(rounds, *leaf.shape[1:]).contiguous(), one)
    return again


def _shifted(before: Tensor, now: Tensor, rounds: int) -> Tensor:
    """A leaf [K|1, ...] as it was one round earlier, from that of the round before the block [1, ...]."""
    if rounds == 1:
        return before
    shape = [max(sizes) for sizes in zip(before.shape[1:], now.shape[1:], strict=True)]  # 1 or the same
    return torch.cat([before.expand(1, *shape), now[: rounds - 1].expand(rounds - 1, *shape)])


class _References(dict[int, Reference]):
    """The references by block. Beyond ``MEMORY_BYTES`` their x*_t lie in a file without a name, mapped, that ends with the process."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = 0
        self._file: IO[bytes] | None = None

    def __setitem__(self, b: int, reference: Reference) -> None:
        self._bytes += reference.x.numel() * 8
        super().__setitem__(b, reference if self._bytes <= MEMORY_BYTES else reference._replace(x=self._away(reference.x)))

    def _away(self, x: Tensor) -> Tensor:
        self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115  # as long as the comparator lives
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(x.contiguous().numpy().tobytes())
        self._file.flush()
        return torch.from_numpy(np.memmap(self._file, np.float64, "c", place, tuple(x.shape)))


class Comparator:
    """x*_t and its companions for one scenario, seed, number of agents, trials and rounds; each block solved once.

    Raises:
        InputError: f_t has no minimiser that Newton's method can certify; the message names the round.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks, self.scenario = blocks, blocks.scenario
        self._references = _References()
        self._sought = False
        self._fixed: Tensor | None = None
        self._fixed_values: dict[int, tuple[Tensor, Tensor | None]] = {}

    def _trials(self, batch: Any) -> int:
        return max((leaf.shape[1] for leaf in tensors(batch)), default=1)

    def reference(self, b: int) -> Reference:
        """The reference of block b."""
        if self.blocks.static:
            if not self._references:
                self._references[0] = self._solve(0)  # of one round
            return _repeated(self._references[0], len(self.blocks.span(b)))
        if b not in self._references:
            for earlier in range(b):  # a block needs the x* before its first round
                if earlier not in self._references:
                    self._references[earlier] = self._solve(earlier)
            self._references[b] = self._solve(b)
        return self._references[b]

    def _rounds(self, b: int) -> int:
        """How many rounds of block b differ: of static data one."""
        return 1 if self.blocks.static else len(self.blocks.span(b))

    def _solve(self, b: int) -> Reference:
        agents, dim = self.blocks.key.total, int(self.scenario.dim)
        batch, rounds = self.blocks.get(b), self._rounds(b)
        trials = self._trials(batch)
        problem = _Sum(self.scenario, batch, rounds, trials, agents)
        x = self._optimum(problem, dim)
        if x is None:
            x = self._search(problem, b, dim)
        points = x.reshape(rounds, trials, dim)
        before_x, before = self._before(b, points, batch)
        stale = torch.cat([before_x, points[:-1]])
        sums, change = self._at(problem, x, before, stale)
        cost, old, no_change, length = sums[..., :4].unbind(-1)
        scale = torch.maximum(length, problem.scale(torch.zeros_like(x)).reshape(rounds, trials)).max().clamp(min=1e-300)
        persistence = None
        if hasattr(self.scenario, "persistence"):
            persistence = evaluate(lambda _, data: mean_accuracy(self.scenario.persistence(data)), problem._points(x), batch)
        residual, path = sums[..., 4:].norm(dim=-1) / scale, (points - stale).norm(dim=-1)
        return Reference(points, cost, residual, path, change, (cost - old).abs(), no_change - cost, persistence)

    def _at(self, problem: _Sum, x: Tensor, before: Any, stale: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over agents at x*_t, [K, R, 4 + d]: f_t, f_{t-1}, f_t at x*_{t-1}, sum_i ||grad f_{i,t}||, grad f_t; and the largest
        change of an agent's gradient from the round before, [K, R]."""
        scenario = self.scenario

        def terms(points: Tensor, data: Any) -> Tensor:
            now, earlier, other = data
            g = scenario.grad(points, now)
            costs = (problem.losses(points, now), problem.losses(points, earlier), problem.losses(other.expand_as(points), now))
            sums = [tree_sum(each).squeeze(-2) for each in (*costs, g.norm(dim=-1, keepdim=True), g)]
            largest = (g - scenario.grad(points, earlier)).norm(dim=-1).amax(-1, keepdim=True)
            return torch.cat([each.expand(len(points), -1) for each in (*sums, largest)], -1)

        found = evaluate(terms, problem._points(x), (problem.batch, before, stale.unsqueeze(-2)))
        return found[..., :-1], found[..., -1]

    def _optimum(self, problem: _Sum, dim: int) -> Tensor | None:
        """What the scenario says, a few rounds at a time: it may hold all agents' rows of those it is asked for."""
        if not hasattr(self.scenario, "optimum"):
            return None
        rounds, trials = problem.rounds, problem.trials
        step = max(1, BLOCK_BYTES // (8 * trials * problem.agents * dim))
        found = []
        for start in range(0, rounds, step):
            closed = self.scenario.optimum(part(problem.batch, start, start + step))
            if closed is None:
                return None
            found.append(self._checked(closed, min(step, rounds - start), trials, dim))
        return torch.cat(found).reshape(-1, dim)

    def _checked(self, optimum: Any, rounds: int, trials: int, dim: int) -> Tensor:
        closed = torch.as_tensor(optimum, dtype=torch.float64).detach()
        if not bool(torch.isfinite(closed).all()):
            raise InputError(f"scenario {type(self.scenario).__name__}: optimum is not finite (nan or inf); return None to have it found")
        if closed.ndim == 4 and closed.shape[2] == 1:  # an agents axis kept for broadcasting
            closed = closed[:, :, 0]
        try:
            return closed.expand(rounds, trials, dim)
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
        """x* of the round before the block, and the data of the rounds before each of the block's; before round 0 stands round 0."""
        if self.blocks.static:
            return x[:1], batch
        first, last = batch, 1
        if b > 0:
            first, last = self.blocks.get(b - 1), len(self.blocks.span(b - 1))
        leaves = zip(tensors(part(first, last - 1, last)), tensors(batch), strict=True)
        shifted = iter([now if now is before else _shifted(before, now, x.shape[0]) for before, now in leaves])
        start = x[:1] if b == 0 else self._references[b - 1].x[-1:].expand(1, *x.shape[1:])
        return start, tree_map(lambda _: next(shifted), batch)

    def fixed(self) -> Tensor | None:
        """The best fixed point argmin_x sum_t f_t(x) over the whole run, [R, d] (R is 1 where trials share their data).

        None where Newton's method cannot certify one: where the costs are not smooth, or their sum has no minimiser.
        """
        if not self._sought:
            self._sought = True
            if self.blocks.static:
                only = self.reference(0)
                self._fixed = only.x[0] if bool((only.residual <= 1e-6).all()) else None
            if self._fixed is None:
                self._fixed = self._best_fixed()
        return self._fixed

    def _best_fixed(self) -> Tensor | None:
        each = [self.reference(b).x.sum(0) for b in range(self.blocks.count)]
        start = torch.stack([x.expand(max(len(x) for x in each), -1) for x in each]).sum(0) / self.blocks.rounds
        x, residual = newton(_Horizon(self.blocks, start.shape[0]), start)
        return x if bool((residual <= 1e-6).all()) and bool(torch.isfinite(x).all()) else None

    def fixed_values(self, b: int) -> tuple[Tensor | None, Tensor | None]:
        """F_t at the best fixed point in the rounds of block b, [K, R], and its accuracy; None where there is no such thing."""
        fixed = self.fixed()
        if fixed is None:
            return None, None
        span, b = len(self.blocks.span(b)), 0 if self.blocks.static else b
        if b not in self._fixed_values:
            batch, rounds, trials, scenario = self.blocks.get(b), self._rounds(b), len(fixed), self.scenario
            problem = _Sum(scenario, batch, rounds, trials, self.blocks.key.total)
            x = fixed.expand(rounds, -1, -1).reshape(rounds * trials, -1)
            cost, accuracy = problem.value(x).reshape(rounds, trials), None
            if hasattr(scenario, "accuracy"):
                accuracy = evaluate(lambda points, data: mean_accuracy(scenario.accuracy(points, data)), problem._points(x), batch)
            self._fixed_values[b] = cost, accuracy
        cost, accuracy = self._fixed_values[b]
        return cost.expand(span, -1), None if accuracy is None else accuracy.expand(span, -1)

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Solve every block and the best fixed point now, reporting (rounds solved, rounds in all)."""
        for b in range(self.blocks.count):
            self.reference(b)
            progress(self.blocks.span(b).stop, self.blocks.rounds)
        self.fixed()

    def certificate(self) -> float:
        """The largest relative gradient norm at x*_t over the blocks solved so far."""
        return max((float(r.residual.max()) for r in self._references.values()), default=0.0)


