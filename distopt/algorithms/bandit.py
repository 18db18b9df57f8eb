"""Bandit feedback: any algorithm, with gradients that are estimated from values of the costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from distopt.algorithms._around import Over
from distopt.algorithms.dgd import DGD
from distopt.directions._round import RoundWithin
from distopt.errors import InputError
from distopt.numerics.normal import normal
from distopt.optional import AlgorithmDefaults, completed, entry
from distopt.protocols import Algorithm, Mix
from distopt.ranges import algorithm, choice, positive

Form = Literal["two_point", "one_point", "residual"]
usual = DGD()


class BanditState(NamedTuple):
    """What an algorithm with bandit feedback carries.
    The leaves of the inner algorithm's state keep their names, such as "s".

    Attributes:
        inner: the algorithm's own state.
        value: the cost that was observed last [..., n, 1]; empty but in the form residual.
        seen: 1 once there was one, before that 0 [..., n, 1]; empty but in the form residual.
    """

    inner: Any
    value: Tensor | tuple[()]
    seen: Tensor | tuple[()]


@dataclass(frozen=True)
class Bandit(Over):
    """Any algorithm whose gradients are estimated from values of the costs, observed near the point: bandit feedback.

        two_point:  g_t = d / (2 delta) (f_t(x_t + delta u_t) - f_t(x_t - delta u_t)) u_t                [agarwal2010]
        one_point:  g_t = (d / delta) f_t(x_t + delta u_t) u_t                                           [flaxman2005]
        residual:   g_t = (d / delta) (f_t(x_t + delta u_t) - f_{t-1}(x_{t-1} + delta u_{t-1})) u_t      [zhang2022]

    x_t [..., n, d] are the agents' points, and u_t [..., n, d] their directions: uniform on the unit sphere, drawn by each agent in each round. The
    mean of each estimate is the gradient of f_t, smoothed over a ball of radius delta. The residual form is an exception, since it also uses
    f_{t-1}; its first estimate is 0. The forms differ in variance: single values are larger than differences of values. Metrics are measured at
    x_t, and not where costs are observed.

    Further gradients, taken by ``mix.grad``, are estimated, too, with other directions. Gradients of the round before are not available, and in the
    residual form there are no further ones. The metric ``gradients`` counts the observed values: two for each estimate of two points, else one. A
    tracker then tracks estimates, so there is no ``tracks``. The papers shrink the set of allowed points, so that no cost is observed outside. Here
    a cost may be observed up to delta outside. In float32 the difference of two costs keeps few digits where delta is small.

    Attributes:
        algorithm: the algorithm that receives the estimates.
        form: the estimate: two_point, one_point or residual.
        delta: distance from x_t at which costs are observed.

    Raises:
        InputError: ``algorithm`` is none, ``form`` is unknown, or ``delta`` is not positive.

    >>> import distopt
    >>> run = distopt.simulate("ring", agents=4, scenario="quadratic:dim=2", algorithm="bandit(dgd(lr=0.01))", rounds=100)
    >>> int(run["gradients"][0, -1]), round(float(run["tracking_error"][0, 0]), 3), round(float(run["tracking_error"][0, -1]), 3)
    (200, 0.706, 0.076)
    """

    algorithm: Algorithm[Any] = usual
    form: Form = "two_point"
    delta: float = 0.01
    gradient_free: ClassVar[bool] = True
    tracks: ClassVar[None] = None
    for_rows: ClassVar[None] = None
    full: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "algorithm", algorithm("bandit", self.algorithm))
        if completed(AlgorithmDefaults, self.algorithm).for_rows is not None:
            raise InputError(
                f"bandit: {entry(self.algorithm)} takes gradients of single rows of data, but only whole costs are observed; use another"
            )
        choice("bandit", get_args(Form), form=self.form)
        positive("bandit", delta=self.delta)

    @property
    def output(self) -> Any:
        """The algorithm's answer, or None."""
        return None if self._inner.output is None else self._output

    def _output(self, x: Tensor, state: BanditState) -> Tensor:
        answer: Tensor = self._inner.output(x, state.inner)
        return answer

    def init(self, x: Tensor) -> BanditState:
        if self.form != "residual":
            return BanditState(self._inner.init(x), (), ())
        none = torch.zeros_like(x[..., :1])
        return BanditState(self._inner.init(x), none, none.clone())

    def update(self, g: Tensor, state: BanditState, x: Tensor, mix: Mix) -> tuple[Tensor, BanditState]:
        estimates, value, seen = _Estimates(mix, self), state.value, state.seen
        if isinstance(value, Tensor) and isinstance(seen, Tensor):
            u = direction(mix, x)
            now = mix.loss(x + self.delta * u)
            g = (x.shape[-1] / self.delta) * torch.where(seen > 0, now - value, torch.zeros_like(now)) * u
            value, seen = now, torch.ones_like(seen)
        else:
            g = estimates.grad(x)
        x, inner = self._inner.update(g, state.inner, x, estimates)
        return x, BanditState(inner, value, seen)


def direction(mix: Mix, x: Tensor) -> Tensor:
    """Directions [..., n, d] of each agent, uniform on the unit sphere."""
    z = normal(mix.uniform(x.shape[-1]))
    return z / torch.sqrt((z * z).sum(-1, keepdim=True)).clamp(min=1e-30)


class _Estimates(RoundWithin):
    """The round as the algorithm sees it: gradients are estimated from values."""

    def __init__(self, mix: Mix, bandit: Bandit) -> None:
        super().__init__(mix)
        self._bandit = bandit

    def grad(self, y: Tensor, rows: Tensor | None = None, *, ago: int = 0) -> Tensor:
        """An estimate at y."""
        own = self._bandit
        if ago:
            raise InputError(
                "bandit: the algorithm takes gradients of the round before, whose costs cannot be observed any more; use another algorithm"
            )
        if rows is not None:
            raise InputError(
                "bandit: the algorithm takes gradients of single rows of data, but only whole costs are observed; use another algorithm"
            )
        if own.form == "residual":
            raise InputError(
                "bandit: the algorithm takes several gradients in a round, but form=residual estimates one; use form=two_point"
            )
        u, d = direction(self._mix, y), y.shape[-1]
        if own.form == "one_point":
            return (d / own.delta) * self._mix.loss(y + own.delta * u) * u
        ahead, behind = self._mix.loss(y + own.delta * u), self._mix.loss(y - own.delta * u)
        return (d / (2 * own.delta)) * (ahead - behind) * u
