"""The mean of an algorithm's points, as the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distopt.algorithms._around import Over
from distopt.algorithms.gtadam import gtadam
from distopt.protocols import Algorithm, Mix
from distopt.ranges import algorithm, whole

usual = gtadam()

MOST = 2**53
"""The latest first round of a mean, and the most rounds between two of its points."""


class AveragedState(NamedTuple):
    """What an average carries. The leaves of the inner algorithm's state keep their names, such as "s" (see ``distopt.numerics.trees.leaf``).

    Attributes:
        inner: the algorithm's own state.
        mean: the mean of the answers before the present one [..., n, d].
        share: by how much the present answer moves that mean [..., n, 1]: 1 until the mean begins, 1/n for its n-th answer, 0 for one that it
            leaves out.
    """

    inner: Any
    mean: Tensor
    share: Tensor


@dataclass(frozen=True)
class Averaged(Over):
    """The mean of the points of any algorithm, which itself runs unchanged [polyak1992].

        y_T = x_T                                     T < start
        y_T = (x_{start} + x_{start+every} + ... ) / n    over the n points so far, T >= start

    x_T [..., n, d] are the agents' points after T rounds, and y_T is the answer: all metrics are measured there. Each
    agent takes the mean of its own points. It sends nothing more, as means over time and W commute. If the inner algorithm has an ``output``, the
    mean is over these outputs. The n-th one moves the mean by 1/n of its distance, as in [granziol2020]. Two methods of that paper are
    ``averaged(dgd(direction=adamw))``, called Gadam, and ``averaged(dgd(direction=padam))``, called GadamX. Their mean begins in the second half
    of the run, and takes one point in every epoch.

    Averaging takes away the noise of the gradients once the points move about the optimum. Before that, or where the optimum moves, it lags
    behind. Where a scenario projects its points, the mean is of the projected ones.

    Attributes:
        algorithm: the algorithm whose points are averaged.
        start: the number of rounds before the first point of the mean; 0 takes x_0, too.
        every: rounds from one point of the mean to the next.

    Raises:
        InputError: ``algorithm`` is none, ``start`` is negative, or ``every`` is below 1.

    >>> import torch
    >>> from distopt.algorithms.averaged import Averaged
    >>> from distopt.algorithms.dgd import DGD
    >>> from distopt.network.net import Rehearsal
    >>> mean, x = Averaged(DGD(lr=1.0), start=1), torch.tensor([[[0.0]]])
    >>> state = mean.init(x)
    >>> for t, g in enumerate((-3.0, 2.0, -5.0)):  # the points 3, 1 and 6
    ...     x, state = mean.update(torch.full_like(x, g), state, x, Rehearsal(lambda name, z: z, x, t))
    >>> round(mean.output(x, state).item(), 4)
    3.3333
    """

    algorithm: Algorithm[Any] = usual
    start: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "algorithm", algorithm("averaged", self.algorithm))
        whole("averaged", 0, MOST, start=self.start)
        whole("averaged", 1, MOST, every=self.every)

    @property
    def tracks(self) -> Any:
        """The algorithm's tracker."""
        return self._inner.tracks

    def init(self, x: Tensor) -> AveragedState:
        return AveragedState(self._inner.init(x), x.clone(), torch.ones_like(x[..., :1]))

    def update(self, g: Tensor, state: AveragedState, x: Tensor, mix: Mix) -> tuple[Tensor, AveragedState]:
        mean = self.output(x, state)
        x, inner = self._inner.update(g, state.inner, x, mix)
        return x, AveragedState(inner, mean, torch.zeros_like(state.share) + self._share(mix.t).to(mean.dtype))

    def output(self, x: Tensor, state: AveragedState) -> Tensor:
        """y_T at x_T. It is computed from the present points, which may have been projected after the last update."""
        answer = x if self._inner.output is None else self._inner.output(x, state.inner)
        return torch.where(state.share == 1, answer, state.mean + state.share * (answer - state.mean))

    def _share(self, t: Tensor) -> Tensor:
        """The share of the answer after round t, float64 without axes."""
        start, every = int(self.start), int(self.every)
        since = (t + (1 - start)).clamp(min=0)  # rounds since the first point of the mean
        earlier = torch.div(since, every, rounding_mode="floor")
        share = 1 / (earlier + 1).to(torch.float64)
        return torch.where(since == earlier * every, share, torch.zeros_like(share))
