"""One trial of a run between two rounds, as probes see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from distopt.errors import InputError, first_line
from distopt.numerics.random import Key
from distopt.numerics.sums import tree_sum
from distopt.optional import entry

WRONG, ROUNDED = 0.1, 1e-8
"""Products of a Hessian that differ by more than these parts, of themselves and of the gradient, from differences of gradients are wrong."""


@dataclass(frozen=True)
class Snapshot:
    """See ``distopt.protocols.Snapshot``; ``data_of`` gives the data of this trial in a round up to t, and ``key`` is this trial's."""

    t: int
    scenario: Any
    algorithm: Any
    x: Tensor
    start: Tensor
    state: Any
    key: Key
    data_of: Callable[[int], Any]
    memory: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def data(self) -> Any:
        """Of round t."""
        return self.data_of(self.t)

    @cached_property
    def mean(self) -> Tensor:
        """The network average [d]."""
        return tree_sum(self.x)[0] / len(self.x)

    def cost(self, y: Tensor, t: int | None = None) -> Tensor:
        """See ``distopt.protocols.Snapshot``."""
        each: Tensor = self.scenario.loss(self._together(y), self.data_of(self.t if t is None else t))
        return tree_sum(each.expand(1, len(self.x)).unsqueeze(-1))[0, 0, 0] / len(self.x)

    def grad(self, y: Tensor, t: int | None = None) -> Tensor:
        """See ``distopt.protocols.Snapshot``."""
        each: Tensor = self.scenario.grad(self._together(y), self.data_of(self.t if t is None else t))
        return tree_sum(each)[0, 0] / len(self.x)

    def _together(self, y: Tensor) -> Tensor:
        """Points [1, N, d] of agents that are all at y."""
        return y.expand(1, *self.x.shape)

    def with_data(self, data: Any) -> Snapshot:
        """See ``distopt.protocols.Snapshot``."""
        return replace(self, data_of=lambda t: data)

    def normal(self, number: int = 0) -> Tensor:
        """See ``distopt.protocols.Snapshot``."""
        return self.key.normal(f"probe/{number}", self.x.shape[-1])[0, 0, 0]

    def curvature(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """See ``distopt.protocols.Snapshot``.

        The costs are differentiated twice. If torch cannot do that, for example without a loss, the product with v is
        the derivative of the gradients along v. This takes four times as long on a neural network. One product is held
        against the difference of two gradients.

        Raises:
            InputError: neither gives the Hessian.
        """
        u = self.normal()
        u, width = u / u.norm(), 1e-5 * (1 + float(y.norm()))
        near = (self.grad(y + width * u) - self.grad(y - width * u)) / (2 * width)
        allowed = WRONG * float(near.norm()) + ROUNDED * (1 + float(self.grad(y).norm()))
        if not bool(near.isfinite().all()):
            return lambda v: torch.full_like(v, torch.nan)
        why = "they give another Hessian than differences of gradients do"
        for way in (self._twice, self._along):
            try:
                product = way(y)
                if float((product(u) - near).norm()) <= allowed:
                    return product
            except Exception as error:  # a user's costs may raise anything where they do not expect a derivative
                why = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"scenario {entry(self.scenario)}: torch can differentiate neither its loss twice nor its gradients ({why}), which this "
            "probe needs; write loss or grad in operations of torch"
        )

    def _along(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        def product(v: Tensor) -> Tensor:
            found: Tensor = torch.func.jvp(self.grad, (y,), (v,))[1]
            return found

        return product

    def _twice(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        with torch.enable_grad():
            at = y.detach().clone().requires_grad_()
            (g,) = torch.autograd.grad(self.cost(at), at, create_graph=True)

        def product(v: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(g, at, v, retain_graph=True)
            return found.detach()

        return product
