"""Summed costs and their derivatives: f_t of each of many rounds, and sum_t f_t over a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distopt.costs import linear
from distopt.costs.data import BLOCK_BYTES, LONGEST_BLOCK, Blocks, Thinned, evaluate
from distopt.costs.descent import Spread
from distopt.costs.evaluation import Evaluator
from distopt.costs.linear import Rows, Scored
from distopt.costs.products import Floats, one_thread
from distopt.errors import InputError
from distopt.numerics.sums import tree_sum
from distopt.numerics.trees import part
from distopt.optional import entry

FEW = 8  # coordinates up to which a Hessian is made of products: so many, about, conjugate gradients take


@dataclass(frozen=True)
class Sum:
    """f_t of each round of a block as P = K R separate problems."""

    scenario: Any
    batch: Any
    rounds: int
    trials: int
    agents: int
    evaluator: Evaluator

    def _points(self, x: Tensor) -> Tensor:
        shape = (self.rounds, self.trials, self.agents, x.shape[-1])
        return x.reshape(self.rounds, self.trials, 1, -1).expand(shape)

    def at(self, name: str, f: Callable[[Tensor, Any], Tensor], x: Tensor, batch: Any = None) -> Tensor:
        """f (x [R, n, d], data) [R, ...] where all agents of a problem stand at x [P, d]: [K, R, ...] (see ``Evaluator``)."""
        points = x.reshape(self.rounds, self.trials, 1, -1)
        return self.evaluator(name, f, points, self.batch if batch is None else batch, self.agents)

    def sums(self, name: str, f: Callable[[Tensor, Any], Tensor], x: Tensor) -> Tensor:
        """sum_i of f (x [R, n, d], data) [R, n, q] at x [P, d]: [P, q]. Rows of all agents are never held for all rounds at once."""

        def summed(points: Tensor, data: Any) -> Tensor:
            return tree_sum(f(points, data)).squeeze(-2)

        return self.at(name, summed, x).reshape(len(x), -1)

    def losses(self, x: Tensor, data: Any) -> Tensor:
        """f_i [R, n, 1] at x [R, n, d]."""
        each: Tensor = self.scenario.loss(x, data)
        if each.ndim != 2 or each.shape[-1] != self.agents:
            name, shape = entry(self.scenario), list(each.shape[1:])
            raise InputError(
                f"scenario {name}: loss returned one number for each of {shape} per trial, not of [{self.agents}] agents"
            )
        return each.unsqueeze(-1)

    @cached_property
    def pieces(self) -> list[tuple[slice, Rows]] | None:
        """The rows of a few problems after the other, where the scenario's costs have them (see ``distopt.costs.linear``)."""
        if self.scenario.linear_rows is None:
            return None
        rows, d = self.scenario.linear_rows(self.batch), int(self.scenario.dim)
        linear.check(entry(self.scenario), rows, d)
        return list(Rows.pieces(rows, self.rounds, self.trials, self.agents, d // rows[0].shape[-1]))

    def compare(self, span: range) -> None:
        """Refuse rows that do not give the scenario's costs, as in a subclass with other costs: checked at one point, in all rounds ``span``."""
        if self.pieces is None:
            return
        d = int(self.scenario.dim)
        x = torch.cos(torch.arange(1, d + 1, dtype=torch.float64).square()) / d**0.5
        points = x.expand(self.rounds * self.trials, -1)
        own = self.at("costs", self.losses, points).reshape(len(points), -1).numpy()
        rows = np.concatenate([rows.at(points[where].numpy()).losses() for where, rows in self.pieces])
        gap = np.abs(own - rows).max(-1)
        wrong = np.flatnonzero(~(gap <= 1e-8 * (1 + np.abs(own).max())))
        if len(wrong):
            raise InputError(
                f"scenario {entry(self.scenario)}: linear_rows gives other costs than loss in round {span[wrong[0] // self.trials]} (they "
                f"differ by {gap[wrong[0]]:.1e}); correct it, or set linear_rows = None"
            )

    def _pieced(self, f: Callable[[Scored], Floats], x: Tensor) -> Tensor:
        """f of the rows at x [P, d], piece by piece."""
        assert self.pieces is not None
        with one_thread:
            found = [f(rows.at(x[where].numpy())) for where, rows in self.pieces]
        return torch.from_numpy(np.concatenate(found))

    @cached_property
    def spread(self) -> tuple[Rows, Spread | None]:
        """The first rows, and how they lie where conjugate gradients have use for it."""
        assert self.pieces is not None
        rows = self.pieces[0][1]
        return rows, Spread.of(rows) if int(self.scenario.dim) > linear.DENSE else None

    def value(self, x: Tensor) -> Tensor:
        """F_t = sum_i f_{i,t} at x [P, d]: [P]."""
        if self.pieces is not None:
            return self._pieced(Scored.value, x)
        return self.sums("value", self.losses, x).reshape(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """Its gradient [P, d]."""
        if self.pieces is not None:
            return self._pieced(Scored.gradient, x)
        return self.sums("gradient", self.scenario.grad, x)

    def both(self, x: Tensor) -> Tensor:
        """F_t and its gradient, side by side [P, 1 + d]."""
        if self.pieces is not None:
            with np.errstate(invalid="ignore"):  # a step that is too long may end where nothing is finite
                return self._pieced(Scored.both, x)

        def side_by_side(points: Tensor, data: Any) -> Tensor:
            cost, gradient = self.losses(points, data), self.scenario.grad(points, data).expand_as(points)
            total = tree_sum(cost).expand(len(points), 1, 1)  # of one trial where all are alike
            return torch.cat([total, tree_sum(gradient)], -1).squeeze(-2)

        return self.at("cost and gradient", side_by_side, x).reshape(len(x), -1)

    def hessian(self, x: Tensor) -> Tensor:
        """The Hessian [P, d, d] from the scenario's ``hessian``."""
        if self.pieces is not None:
            return self._pieced(Scored.hessian, x)

        def summed(points: Tensor, batch: Any) -> Tensor:
            out: Tensor = self.scenario.hessian(points, batch)
            return out

        d = x.shape[-1]
        points, out = self._points(x), []
        step = max(1, 2**27 // (8 * d * d * self.trials))  # a few rounds at a time: Hessians are large
        for start in range(0, self.rounds, step):
            out.append(evaluate(summed, points[start : start + step], part(self.batch, start, start + step)))
        return torch.cat(out).reshape(len(x), d, d)

    def product(self, x: Tensor, v: Tensor) -> Tensor:
        """Its Hessian at x [P, d] times v [P, d]: by the rows, by the derivative of the gradients, or by a difference of them."""
        if self.pieces is not None:
            direction = v.expand_as(x).numpy()
            with one_thread:
                found = [rows.at(x[where].numpy()).curvature()(direction[where]) for where, rows in self.pieces]
            return torch.from_numpy(np.concatenate(found))
        return self._derivative(x, v) if self.differentiable else self._difference(x, v)

    @property
    def differentiable(self) -> bool:
        """Whether products are made by derivatives: where they are compiled, and torch can differentiate the scenario's gradients.

        It is decided once for all rounds, at one point of the first round. For a few coordinates differences do.
        """
        d = int(self.scenario.dim)
        if self.evaluator.differentiable is None:
            self.evaluator.differentiable = self.evaluator.compiles and d > FEW and self._differentiated(d)
        return self.evaluator.differentiable

    def _differentiated(self, d: int) -> bool:
        x = torch.cos(torch.arange(1, d + 1, dtype=torch.float64).square()).expand(self.trials, d) / d**0.5
        head = replace(self, batch=part(self.batch, 0, 1), rounds=1)
        near = head._difference(x, x.flip(-1))
        try:
            found = head._derivative(x, x.flip(-1))
        except Exception:  # a user's gradients may raise anything where they do not expect a derivative; differences do
            return False
        return bool(((found - near).norm(dim=-1) <= 1e-4 * near.norm(dim=-1)).all())

    def _derivative(self, x: Tensor, v: Tensor) -> Tensor:
        def along(points: Tensor, data: Any) -> Tensor:
            own, direction = data

            def gradient(at: Tensor) -> Tensor:
                return tree_sum(self.scenario.grad(at, own))

            start, v = points.contiguous(), direction.expand_as(points).contiguous()
            out: Tensor = torch.func.jvp(gradient, (start,), (v,))[1]
            return out.squeeze(-2)

        direction = v.expand_as(x).reshape(self.rounds, self.trials, 1, -1)
        return self.at("product", along, x, (self.batch, direction)).reshape(x.shape)

    def _difference(self, x: Tensor, v: Tensor) -> Tensor:
        size: Tensor = v.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        width: Tensor = 1e-5 * (1 + x.norm(dim=-1, keepdim=True))
        u = v / size * width
        return (self.gradient(x + u) - self.gradient(x - u)) / (2 * width) * size

    def scale(self, x: Tensor) -> Tensor:
        """sum_i ||grad f_{i,t}(x)|| [P]: the scale against which the summed gradient is small."""
        if self.pieces is not None:
            return self._pieced(Scored.length, x)

        def lengths(points: Tensor, data: Any) -> Tensor:
            length: Tensor = self.scenario.grad(points, data).norm(dim=-1, keepdim=True)
            return length

        return self.sums("scale", lengths, x).reshape(-1)

    @cached_property
    def at_zero(self) -> Tensor:
        """sum_i ||grad f_{i,t}(0)|| [P]."""
        d = int(self.scenario.dim)
        if self.pieces is None:
            return self.scale(torch.zeros(self.rounds * self.trials, d, dtype=torch.float64))
        with one_thread:
            return torch.from_numpy(np.concatenate([rows.at_zero(d).length() for _, rows in self.pieces]))


@dataclass(frozen=True)
class Horizon:
    """sum_t f_t over the whole run, streamed over the blocks: P = R problems.

    It is an estimate where the blocks are thinned.
    """

    blocks: Blocks | Thinned
    trials: int
    evaluator: Evaluator

    def _part(self, b: int, start: int, count: int) -> Sum:
        """Some rounds of a block."""
        batch = part(self.blocks.get(b), start, start + count)
        return Sum(self.scenario, batch, count, self.trials, self.blocks.key.total, self.evaluator)

    def _total(self, f: Callable[[Sum, Tensor], Tensor], x: Tensor, step: int = LONGEST_BLOCK) -> Tensor:
        """The sum of f over all rounds, ``step`` of them at a time."""
        total: Tensor | None = None
        seen = 0
        for b in range(self.blocks.count):
            rounds = len(self.blocks.span(b))
            seen += rounds
            for start in range(0, rounds, step):
                count = min(step, rounds - start)
                problem = self._part(b, start, count)
                value = f(problem, x.expand(count, *x.shape).reshape(-1, x.shape[-1]))
                value = value.reshape(count, self.trials, *value.shape[1:]).sum(0)
                total = value if total is None else total + value
        assert total is not None
        return total if seen == self.blocks.rounds else total * (self.blocks.rounds / seen)

    def both(self, x: Tensor) -> Tensor:
        """sum_t F_t and its gradient, side by side [R, 1 + d]."""
        return self._total(Sum.both, x)

    @property
    def scenario(self) -> Any:
        """Whose costs they are."""
        return self.blocks.scenario

    def hessian(self, x: Tensor) -> Tensor:
        """Its Hessian [R, d, d]."""
        return self._total(Sum.hessian, x, max(1, BLOCK_BYTES // (8 * x.numel() * x.shape[-1])))

    @property
    def differentiable(self) -> bool:
        """See ``Sum``."""
        return self._part(0, 0, 1).differentiable

    def product(self, x: Tensor, v: Tensor) -> Tensor:
        """Its Hessian at x [R, d] times v [R, d]."""

        def of_rounds(problem: Sum, x: Tensor) -> Tensor:
            return problem.product(x, v.expand(problem.rounds, *v.shape).reshape(x.shape))

        return self._total(of_rounds, x)

    @cached_property
    def spread(self) -> tuple[Rows, Spread | None]:
        """That of the first round."""
        return self._part(0, 0, 1).spread

    def scale(self, x: Tensor) -> Tensor:
        """sum_t sum_i ||grad f_{i,t}(x)|| [R]."""
        return self._total(Sum.scale, x)
