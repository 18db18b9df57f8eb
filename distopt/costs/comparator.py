"""The comparator x*_t = argmin f_t, the variation of the costs, and the baselines: all that depends on the scenario only.

Computed once per scenario and seed and shared by all algorithms that are compared. A scenario's own minimiser is used if
it has one; else Newton's method finds it. Either way the norm of the summed gradient at x*_t certifies it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distopt.costs import curvature
from distopt.costs.data import BLOCK_BYTES, Blocks, Thinned
from distopt.costs.descent import minimise
from distopt.costs.evaluation import Evaluator
from distopt.costs.linear import at_minimisers
from distopt.costs.newton import newton
from distopt.costs.products import one_thread
from distopt.costs.store import Store
from distopt.costs.summed import Horizon, Sum
from distopt.errors import InputError
from distopt.numerics.sums import tree_sum
from distopt.numerics.trees import part, tensors, tree_map
from distopt.optional import entry

SAMPLED = 8
"""The best fixed point is estimated from every so many-th round, before all rounds are used."""

ROUGH = 1e-5
"""The relative gradient norm to which it is: the rounds left out move it by more."""

ENOUGH = 128
"""Rounds from which on it is estimated."""


class Reference(NamedTuple):
    """The part of a block's results that does not depend on the algorithm (R is 1 where trials share their data).

    Where no comparator is sought all is nan but ``persistence``, and x is [K, 1, 1].

    ``x`` x*_t [K, R, d]; ``cost`` f_t(x*_t) [K, R]; ``residual`` ||sum_i grad f_{i,t}(x*_t)|| relative to the block's largest
    sum_i ||grad f_{i,t}|| at x*_t or 0 [K, R]; the increments [K, R] of ``path_length``, ``gradient_variation``,
    ``function_variation`` and of the regret of the previous optimum, f_t(x*_{t-1}) - f_t(x*_t); ``persistence`` accuracy [K, R] or None.
    ``gradient`` ||sum_i grad f_{i,t}(x*_t)|| as computed [K, R]; ``gap`` [K, R], by how much f_t(x*_t) can be above the least cost, and
    ``smoothness`` L_t [K, R], None if the curvature is unknown; ``size`` ||x*_t|| [K, R].
    """

    x: Tensor
    cost: Tensor
    residual: Tensor
    path: Tensor
    gradient_variation: Tensor
    function_variation: Tensor
    previous_optimum: Tensor
    persistence: Tensor | None
    gradient: Tensor | None = None
    gap: Tensor | None = None
    smoothness: Tensor | None = None
    size: Tensor | None = None


def mean_accuracy(each: Tensor) -> Tensor:
    """The mean over the agents that have one, of accuracies [R, n] that are nan elsewhere: [R]."""
    there = ~each.isnan()
    total, count = (tree_sum(z.to(torch.float64).unsqueeze(-1))[..., 0, 0] for z in (each.nan_to_num(nan=0.0), there))
    return total / count


def _repeated(one: Reference, rounds: int) -> Reference:
    """The reference of one round, repeated for ``rounds`` rounds that equal it."""
    again: Reference = tree_map(lambda leaf: leaf.expand(rounds, *leaf.shape[1:]).contiguous(), one)
    return again


class Comparator:
    """x*_t and its companions for one scenario, seed, number of agents, trials and rounds; each block solved once.

    Raises:
        InputError: f_t has no minimiser that Newton's method can certify; the message names the round.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks, self.scenario = blocks, blocks.scenario
        key, rounds = blocks.key, 1 if blocks.static else blocks.rounds
        self._evaluator = Evaluator(self.scenario, rounds * len(key.trials) * key.total * int(self.scenario.dim))
        self._references, self._certificate = Store(), 0.0
        self._curved, self._constants = True, dict[str, float]()
        self._sought = False
        self._fixed: Tensor | None = None
        self._fixed_values = Store()  # (cost, accuracy or None)

    def _trials(self, batch: Any) -> int:
        return max((leaf.shape[1] for leaf in tensors(batch)), default=1)

    def reference(self, b: int) -> Reference:
        """The reference of block b."""
        if not self.scenario.comparator:
            return self._unsought(b)
        if self.blocks.static:
            return _repeated(self._solved(0), len(self.blocks.span(b)))  # one round represents all
        for earlier in range(len(self._references), b):  # a block needs the x* before its first round
            self._solved(earlier)
        return self._solved(b)

    def _unsought(self, b: int) -> Reference:
        """The reference of block b if the minimisers are unknown."""
        batch, rounds = self.blocks.get(b), self._rounds(b)
        problem = Sum(self.scenario, batch, rounds, self._trials(batch), self.blocks.key.total, self._evaluator)
        persistence = self._persistence(problem, torch.zeros(rounds * problem.trials, int(self.scenario.dim)))
        none = torch.full((rounds, 1), torch.nan, dtype=torch.float64)
        found = Reference(none.unsqueeze(-1), none, none, none, none, none, none, persistence)
        return _repeated(found, len(self.blocks.span(b))) if self.blocks.static else found

    def _solved(self, b: int) -> Reference:
        if b not in self._references:
            self._references[b] = found = self._solve(b)
            self._certificate = max(self._certificate, float(found.residual.max()))
        there: Reference = self._references[b]
        return there

    def _rounds(self, b: int) -> int:
        """The number of distinct rounds in block b; one for static data."""
        return 1 if self.blocks.static else len(self.blocks.span(b))

    def _solve(self, b: int) -> Reference:
        agents, dim = self.blocks.key.total, int(self.scenario.dim)
        batch, rounds = self.blocks.get(b), self._rounds(b)
        trials = self._trials(batch)
        problem = Sum(self.scenario, batch, rounds, trials, agents, self._evaluator)
        problem.compare(self.blocks.span(b))
        x = self._optimum(problem, dim)
        if x is None:
            x = self._search(problem, b, dim)
        points = x.reshape(rounds, trials, dim)
        stale = torch.cat([self._before(b, points), points[:-1]])
        sums, at_zero, change = self._at(problem, b, x, stale)
        cost, old, stale_cost, length = sums[..., :4].unbind(-1)
        scale = torch.maximum(length, at_zero).max().clamp(min=1e-300)
        gradient = sums[..., 4:].norm(dim=-1)
        residual = self._unbalanced(points, sums[..., 4:], gradient, scale)
        path = (points - stale).norm(dim=-1)
        variation, persistence = (cost - old).abs(), self._persistence(problem, x)
        gap, smooth = self._gap(problem, gradient, length + at_zero, points, sums[..., 4:])
        companions = (cost, residual, path, change, variation, stale_cost - cost, persistence)
        return Reference(points, *companions, gradient, gap, smooth, points.norm(dim=-1))

    def _gap(
        self, problem: Sum, gradient: Tensor, lengths: Tensor, x: Tensor, g: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """An upper bound on F_t(x*_t) minus the least cost, and L_t [K, R]; None if the curvature of F_t is unknown.

        A mu_t-strongly convex F_t has F_t(x) - min F_t <= ||grad F_t(x)||^2 / (2 mu_t). The norm is the computed one plus a bound on its
        rounding error. The first block decides whether anything is known: 2^-30 more are for the sum over rounds.

        With projected points the norm is not useful at the edge of the set. There F_t(x) - min F_t <= <grad F_t(x), x - v> for convex F_t, where v
        is the allowed point that minimises <grad F_t(x), v> (``lmo``). Without ``lmo`` nothing is known.
        """
        size = x.norm(dim=-1)
        mu, smooth = curvature.modulus(problem), curvature.smoothness(problem)
        for name, value, end in (("modulus", mu, torch.amin), ("smoothness", smooth, torch.amax)):
            if value is not None:
                own = float(end(value))
                before = self._constants.get(name, own)
                self._constants[name] = min(before, own) if name == "modulus" else max(before, own)
        if not len(self._references):
            self._curved = mu is not None and smooth is not None
        if not self._curved:
            return None, None
        mu = torch.zeros_like(size) if mu is None else mu
        smooth = torch.full_like(size, torch.inf) if smooth is None else smooth
        hidden = curvature.rounding(problem.batch, problem.agents, int(self.scenario.dim)) * (lengths + smooth * size)
        if self.scenario.project is not None:
            return self._edge_gap(x, g, hidden), smooth
        gap = (gradient + hidden).square() / (2 * mu) * (1 + 2.0**-30)
        return torch.where(mu > 0, gap, torch.inf), smooth

    def _edge_gap(self, x: Tensor, g: Tensor, hidden: Tensor) -> Tensor:
        """<g, x - v> [K, R] at x [K, R, d], plus a bound on its rounding error."""
        if self.scenario.lmo is None:
            return torch.full_like(hidden, torch.inf)
        apart = x - self.scenario.lmo(g.reshape(-1, 1, x.shape[-1]).contiguous()).reshape(x.shape)
        reach = apart.norm(dim=-1)
        rounded = (g * apart).abs().sum(-1) * x.shape[-1] * 2.0**-52
        found: Tensor = ((g * apart).sum(-1).clamp(min=0) + hidden * reach + rounded) * (1 + 2.0**-30)
        return found

    def _unbalanced(self, x: Tensor, g: Tensor, size: Tensor, scale: Tensor) -> Tensor:
        """How far x [..., d] is from minimal [...], where the summed gradient is g [..., d], of ``size`` [...], relative to ``scale``.

        It is the gradient's relative norm. If the costs have a part without a gradient, it is the length of a proximal step from x, with the
        step size 1 / scale. If the scenario projects points, x may be at the edge of the allowed set. Then it is the length of a projected
        step of g / scale from x, if this is less.
        """
        flat, scenario = size / scale, self.scenario
        if scenario.project is None and scenario.prox is None:
            return flat
        points = x.reshape(-1, 1, x.shape[-1])
        ahead = points - (g / scale).reshape(points.shape)
        if scenario.prox is not None:  # each agent has the part
            moved: Tensor = scenario.prox(ahead, (self.blocks.key.total / scale) * torch.ones_like(points[..., :1]))
            left: Tensor = (points - moved).norm(dim=-1).reshape(flat.shape)
            return left
        return torch.minimum(flat, (points - scenario.project(ahead)).norm(dim=-1).reshape(flat.shape))

    def _persistence(self, problem: Sum, x: Tensor) -> Tensor | None:
        """The accuracy of repeating the last label [K, R], where the scenario has labels; it does not depend on x [K R, d]."""
        if self.scenario.persistence is None:
            return None
        return problem.at("persistence", lambda _, data: mean_accuracy(self.scenario.persistence(data)), x)

    def _at(self, problem: Sum, b: int, x: Tensor, stale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over agents at x*_t, [K, R, 4 + d]: f_t, f_{t-1}, f_t at x*_{t-1}, sum_i ||grad f_{i,t}||, grad f_t; sum_i ||grad f_{i,t}||
        at 0 and the largest change of an agent's gradient from the round before, [K, R]."""
        scenario = self.scenario
        if problem.pieces is not None:
            first = replace(problem, batch=self.blocks.before(b), rounds=1).pieces
            assert first is not None
            at = x.numpy(), stale.expand(problem.rounds, problem.trials, -1).reshape(x.shape).numpy()
            with one_thread:
                sums, change = (torch.from_numpy(each) for each in at_minimisers(first[0][1], problem.pieces, *at))
            shape = problem.rounds, problem.trials
            return sums.reshape(*shape, -1), problem.at_zero.reshape(shape), change.reshape(shape)

        def terms(points: Tensor, data: Any) -> Tensor:
            now, earlier, other = data
            g = scenario.grad(points, now)
            costs = (
                problem.losses(points, now),
                problem.losses(points, earlier),
                problem.losses(other.expand_as(points), now),
            )
            lengths = (each.norm(dim=-1, keepdim=True) for each in (g, scenario.grad(torch.zeros_like(points), now)))
            sums = [tree_sum(each).squeeze(-2) for each in (*costs, *lengths, g)]
            largest = (g - scenario.grad(points, earlier)).square().sum(-1).amax(-1, keepdim=True).sqrt()
            return torch.cat([each.expand(len(points), -1) for each in (*sums, largest)], -1)

        found = problem.at("minimisers", terms, x, (problem.batch, self.blocks.earlier(b), stale.unsqueeze(-2)))
        return torch.cat([found[..., :4], found[..., 5:-1]], -1), found[..., 4], found[..., -1]

    def _optimum(self, problem: Sum, dim: int) -> Tensor | None:
        """The scenario's own optimum, a few rounds at a time, since it may hold the rows of all agents for these rounds."""
        if self.scenario.optimum is None:
            return None
        rounds, trials = problem.rounds, problem.trials
        step = max(1, BLOCK_BYTES // (8 * trials * problem.agents * dim))
        found = []
        for start in range(0, rounds, step):
            closed = self.scenario.optimum(part(problem.batch, start, start + step))
            if closed is None:
                return None
            found.append(self._checked("optimum", closed, (min(step, rounds - start), trials, dim)))
        return torch.cat(found).reshape(-1, dim)

    def _checked(self, name: str, given: Any, shape: tuple[int, ...]) -> Tensor:
        """The result of the scenario's method of this name, as [K, R, d] or [R, d]; all axes except the last may be 1."""
        closed, who = torch.as_tensor(given, dtype=torch.float64).detach(), entry(self.scenario)
        if not bool(torch.isfinite(closed).all()):
            raise InputError(
                f"scenario {who}: {name} is not finite (nan or inf){'; return None, and Newton finds it' * (name == 'optimum')}"
            )
        if closed.ndim == len(shape) + 1 and closed.shape[-2] == 1:  # an agents axis kept for broadcasting
            closed = closed[..., 0, :]
        try:
            return closed.expand(shape)
        except RuntimeError:
            sizes = [*(f"{size} or 1" for size in shape[:-1]), str(shape[-1])]
            raise InputError(
                f"scenario {who}: {name} has shape {list(closed.shape)}, not [{', '.join(sizes)}]"
            ) from None

    def _search(self, problem: Sum, b: int, dim: int) -> Tensor:
        """Newton in two stages, first round of the block first, so that the others start warm; no block waits for another."""
        if self.scenario.prox is not None:
            raise InputError(f"scenario {entry(self.scenario)}: costs with prox need optimum(b)")
        if problem.pieces is not None:
            with one_thread:
                found = self._warm(problem, b, dim)
            if found is not None:
                return found
        if self.scenario.guess is not None:
            start = self.scenario.guess(problem.batch).expand(problem.rounds, problem.trials, dim).reshape(-1, dim)
        else:
            head = Sum(self.scenario, part(problem.batch, 0, 1), 1, problem.trials, problem.agents, self._evaluator)
            first, _ = newton(head, torch.zeros(problem.trials, dim, dtype=torch.float64))
            start = first.expand(problem.rounds, problem.trials, dim).reshape(-1, dim)
        x, residual = newton(problem, start)
        if bool((residual > 1e-6).any()) or not bool(torch.isfinite(x).all()):
            bad = int(torch.nonzero(~(residual <= 1e-6))[0]) // problem.trials
            raise InputError(
                f"scenario {entry(self.scenario)}: found no minimiser of f_t in round {self.blocks.span(b)[bad]} (relative gradient norm "
                f"{float(residual.max()):.1e}); is the cost bounded below? add regularisation, or give optimum(b)"
            )
        return x

    def _warm(self, problem: Sum, b: int, dim: int) -> Tensor | None:
        """Newton's method on the scenario's rows, a few rounds at a time, each started at the minimiser before it. None where some is not found."""
        assert problem.pieces is not None
        scale = float(problem.at_zero.max().clamp(min=1e-300))
        last = (self._references[b - 1].x[-1] if b else torch.zeros(problem.trials, dim, dtype=torch.float64)).numpy()
        found = []
        for _, rows in problem.pieces:
            x, residual = minimise(rows, np.tile(last, (len(rows) // problem.trials, 1)), scale, problem.spread[1])
            if not (residual <= 1e-6).all():
                return None
            found.append(x)
            last = x[-problem.trials :]
        return torch.from_numpy(np.concatenate(found))

    def _before(self, b: int, x: Tensor) -> Tensor:
        """x* of the round before the block; for round 0, that of round 0."""
        if self.blocks.static or b == 0:
            return x[:1]
        before: Tensor = self._references[b - 1].x[-1:].expand(1, *x.shape[1:])
        return before

    def fixed(self) -> Tensor | None:
        """The best fixed point argmin_x sum_t f_t(x) over the whole run, [R, d] (R is 1 where trials share their data).

        It comes from the scenario (``best_fixed``), or from Newton's method. None if no gradient certifies it, because the costs are not
        smooth or their sum has no minimiser, and if no comparator is wanted.
        """
        if not self._sought and self.scenario.comparator:
            self._sought = True
            if self.blocks.static:
                only = self.reference(0)
                self._fixed = only.x[0] if bool((only.residual <= 1e-6).all()) else None
            if self._fixed is None:
                self._fixed = self._best_fixed() if self.scenario.best_fixed is None else self._given_fixed()
        return self._fixed

    def _given_fixed(self) -> Tensor | None:
        given = self.scenario.best_fixed(self.blocks.rounds, self.blocks.key)
        trials, dim = self._trials(self.blocks.get(0)), int(self.scenario.dim)
        x = self._checked("best_fixed", given, (trials, dim)).contiguous()
        whole = Horizon(self.blocks, trials, self._evaluator)
        scale = torch.maximum(whole.scale(x), whole.scale(torch.zeros_like(x))).max().clamp(min=1e-300)
        g = whole.both(x)[:, 1:]
        return x if bool((self._unbalanced(x, g, g.norm(dim=-1), scale) <= 1e-6).all()) else None

    def _best_fixed(self) -> Tensor | None:
        if self.scenario.prox is not None:  # Newton's method needs gradients of all of the costs
            return None
        trials = max(self.reference(b).x.shape[1] for b in range(self.blocks.count))
        whole, start, like = Horizon(self.blocks, trials, self._evaluator), self._mean(trials), None
        if self.blocks.rounds >= ENOUGH:
            thinned = Thinned(self.blocks, SAMPLED)
            like = replace(whole, blocks=thinned)
            mean = self._mean(trials, thinned.step)
            best, _ = newton(like, mean, enough=ROUGH)
            if bool(((best - mean).norm(dim=-1) > 1e-6 * (1 + mean.norm(dim=-1))).any()):
                start = best  # else all costs curve alike, and the mean of the minimisers is the best point
        x, residual = newton(whole, start, like)
        return x if bool((residual <= 1e-6).all()) and bool(torch.isfinite(x).all()) else None

    def _mean(self, trials: int, step: int = 1) -> Tensor:
        """The mean of the minimisers of every ``step``-th round [R, d]."""
        each = [self.reference(b).x[-self.blocks.span(b).start % step :: step] for b in range(self.blocks.count)]
        total: Tensor = torch.stack([x.sum(0).expand(trials, -1) for x in each]).sum(0)
        return total / sum(map(len, each))

    def fixed_values(self, b: int) -> tuple[Tensor | None, Tensor | None]:
        """F_t at the best fixed point in the rounds of block b, [K, R], and its accuracy; None if there is no such point."""
        fixed = self.fixed()
        if fixed is None:
            return None, None
        span, b = len(self.blocks.span(b)), 0 if self.blocks.static else b
        if b not in self._fixed_values:
            batch, rounds, trials, scenario = self.blocks.get(b), self._rounds(b), len(fixed), self.scenario
            problem = Sum(scenario, batch, rounds, trials, self.blocks.key.total, self._evaluator)
            x = fixed.expand(rounds, -1, -1).reshape(rounds * trials, -1)
            cost, accuracy = problem.value(x).reshape(rounds, trials), None
            if scenario.accuracy is not None:
                accuracy = problem.at(
                    "accuracy", lambda points, data: mean_accuracy(scenario.accuracy(points, data)), x
                )
            self._fixed_values[b] = cost, accuracy
        cost, accuracy = self._fixed_values[b]
        return cost.expand(span, -1), None if accuracy is None else accuracy.expand(span, -1)

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Solve every block and the best fixed point now, where they are sought, reporting (rounds solved, rounds in all)."""
        if not self.scenario.comparator:
            return
        for b in range(self.blocks.count):
            self.reference(b)
            progress(self.blocks.span(b).stop, self.blocks.rounds)
        self.fixed()

    def constants(self) -> dict[str, float]:
        """The least modulus mu_t and the largest Lipschitz constant L_t over the blocks solved so far, where they are known."""
        return {name: value for name, value in self._constants.items() if value > 0}

    def certificate(self) -> float:
        """The largest relative gradient norm at x*_t over the blocks solved so far."""
        return self._certificate
