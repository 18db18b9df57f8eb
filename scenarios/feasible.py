"""Any convex costs, on a ball, a box, a simplex or an l1 ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults, completed
from distopt.protocols import Scenario
from distopt.scenarios import _constrained
from distopt.scenarios._around import Around
from distopt.scenarios._ranges import one_of, real
from distopt.scenarios._sets import Form, least, nearest
from distopt.scenarios.moving_target import MovingTarget

usual = MovingTarget()


@dataclass(frozen=True)
class Feasible(Around):
    """The costs of any scenario, with a set of allowed points X.

    - ball: |x|_2 <= radius.
    - box: |x_k| <= radius for each coordinate.
    - simplex: x_k >= 0, and they sum to ``radius``.
    - l1: |x_1| + ... + |x_d| <= radius.

    After each round points go to the nearest allowed ones (``project``). An algorithm finds them as ``mix.project``, and the points of X that
    minimise a linear function as ``mix.lmo``, which methods without projections need. Agents start at the allowed points that are nearest to
    where the scenario has them start. Regret compares with the best ALLOWED points: x*_t of each round, and the best fixed one. Accelerated
    projected gradients find them, starting at the projections of the scenario's own minimisers. The projected gradient certifies them. If
    the curvature is known, ``regret_gap`` sums Frank and Wolfe's gap <grad F_t(x*), x* - v> [jaggi2013], which bounds F_t(x*) minus the
    least allowed cost. Costs must be convex. Where they are not, the points are local minimisers.

    Attributes:
        scenario: the scenario whose costs are used.
        form: the set of allowed points: ball, box, simplex or l1.
        radius: the size of the set.

    Raises:
        InputError: an unknown form, a radius that is not positive, or above 1e100; a scenario that is a game, has a set of its own, or
            costs with a part that has no gradient.

    >>> s, key = Feasible(radius=0.5), Key(0, range(3), range(1), total=3)
    >>> b = s.batch(torch.tensor([[[[5]]]]), key)
    >>> x = s.optimum(b)
    >>> round(float(x.norm()), 6), round(float(s.project(3 * x).norm()), 6)
    (0.5, 0.5)
    """

    scenario: Scenario[Any] = usual  # type: ignore[assignment]  # the protocol's dim is no property; nobody sets it
    form: Form = "ball"
    radius: float = 1.0
    equilibrium: ClassVar[None] = None
    guess: ClassVar[None] = None  # the best points are given
    prox: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scenario", completed(ScenarioDefaults, self.scenario))
        if self._inner.equilibrium is not None:
            raise InputError(
                "feasible: the scenario is a game, and its equilibrium would move; use a scenario whose costs are minimised"
            )
        if self._inner.project is not None:
            raise InputError("feasible: the scenario already has a set of allowed points; use it without feasible")
        if self._inner.prox is not None:
            raise InputError(
                "feasible: the scenario's costs have a part without a gradient, which needs proximal steps and no set; use a scenario without"
            )
        one_of(self, "form", get_args(Form))
        real(self, "radius", above=True)

    def loss(self, x: Tensor, b: Any) -> Tensor:
        value: Tensor = self._inner.loss(x, b)
        return value

    def grad(self, x: Tensor, b: Any) -> Tensor:
        g: Tensor = self._inner.grad(x, b)
        return g

    def project(self, x: Tensor) -> Tensor:
        """The nearest points of X."""
        return nearest(self.form, self.radius, x)

    def lmo(self, s: Tensor) -> Tensor:
        """The points v of X that minimise <s, v>."""
        return least(self.form, self.radius, s)

    def start(self, key: Key) -> Tensor:
        """Where agents start: the points of X nearest to the scenario's start, or to 0."""
        inner = self._inner
        given = torch.zeros(1, 1, self.dim, dtype=torch.float64) if inner.start is None else inner.start(key)
        return self.project(given)

    @property
    def optimum(self) -> Any:
        """The best points of X in each round; None where the scenario has no comparator."""
        return self._optimum if self.comparator else None

    @property
    def best_fixed(self) -> Any:
        """The best point of X that never moves; None where the scenario has no comparator."""
        return self._best_fixed if self.comparator else None

    def _optimum(self, b: Any) -> Tensor:
        inner = self._inner
        found = None if inner.optimum is None else inner.optimum(b)
        start = torch.zeros(1, 1, self.dim, dtype=torch.float64) if found is None else found
        smooth = None if inner.smoothness is None else inner.smoothness(b)
        return _constrained.each_round(inner, b, _constrained.onto(self.project), smooth, start)

    def _best_fixed(self, rounds: int, key: Key) -> Tensor:
        start = torch.zeros(self.dim, dtype=torch.float64)
        return _constrained.whole_run(self._inner, rounds, key, _constrained.onto(self.project), start)

    @property
    def comparator(self) -> Any:
        """Whether minimisers are sought."""
        return self._inner.comparator

    @property
    def linear_rows(self) -> Any:
        """Rows of logistic and softmax regression."""
        return self._inner.linear_rows

    @property
    def hessian(self) -> Any:
        """Sums of Hessians."""
        return self._inner.hessian

    @property
    def modulus(self) -> Any:
        """How convex a round's costs are."""
        return self._inner.modulus

    @property
    def smoothness(self) -> Any:
        """How smooth they are."""
        return self._inner.smoothness

    @property
    def accuracy(self) -> Any:
        """That of models."""
        return self._inner.accuracy
