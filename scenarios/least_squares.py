"""Least squares with more columns than rows: many solutions, of which the shortest one is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.numerics.sums import tree_sum
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import real, room, whole


class Rows(NamedTuple):
    """The rows of each agent, leaves [1, R, n, m, ...], m the most that an agent has.

    Attributes:
        a: rows of A [..., m, d].
        y: targets [..., m].
        w: N; 0 in empty places [1, 1, n, m].
        shortest: the shortest solution x* [1, R, 1, d].
    """

    a: Tensor
    y: Tensor
    w: Tensor
    shortest: Tensor


@dataclass(frozen=True)
class LeastSquares(ScenarioDefaults):
    """Fit a linear model to fewer rows than it has columns, so that many points have cost 0.

        f_i(x) = N/2 sum_{r in S_i} (a_r' x - y_r)^2,    y = A x*

    A [rows, dim] is drawn once, its numbers normal with variance 1/dim, and its rows are dealt among the N agents in equal shards S_i, up to one.
    The mean of the agents' costs is |A x - y|^2 / 2, whatever the shards. x* lies in the span of the rows: x* = norm A'z / |A'z|, z normal. So of
    all points with cost 0 it is the shortest one (with rows >= dim: the only one), ``optimum`` gives it, and ``tracking_error`` is the
    distance from it.

    Gradient steps never leave the span of the rows around their start, so from x_0 they end at x* plus the part of x_0 outside of the span.
    All agents start at the same point, ``begin`` times a random direction. Methods that normalise weights end nearer to x* [wu2020]: see the
    directions ``rpgd`` and ``weight_normalisation``. The set-up is ours.

    Attributes:
        rows: number of rows of A, over all agents.
        dim: d, number of columns.
        norm: |x*|, length of the shortest solution.
        begin: |x_0|, length of the starting point.

    Raises:
        InputError: for rows < 1, dim < 1, a norm or begin that is negative or above 1e100, or more agents than rows.

    >>> s, key = LeastSquares(rows=3, dim=5), Key(0, range(2), range(1), total=2)
    >>> b = s.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)
    >>> b.a.shape, b.w[0, 0].tolist(), round(s.optimum(b).norm().item(), 6)
    (torch.Size([1, 1, 2, 2, 5]), [[2.0, 0.0], [2.0, 2.0]], 5.0)
    """

    rows: int = 20
    dim: int = 50
    norm: float = 5.0
    begin: float = 1.0
    row_weights: ClassVar[str] = "w"

    def __post_init__(self) -> None:
        whole(self, "rows", "dim")
        real(self, "norm", "begin")
        room(self, 3 * self.rows * self.dim, "rows", "dim")

    def batch(self, t: Tensor, key: Key) -> Rows:
        """The rows of the agents, which no round changes."""
        if key.total > self.rows:
            raise InputError(
                f"least_squares: rows={self.rows} for {key.total} agents; each needs one, so give more rows or fewer agents"
            )
        room(self, 4 * self.rows * self.dim * len(key.trials), "rows", "dim")
        a = key.shared.normal("least_squares.rows", self.rows * self.dim)[0, :, 0] * self.dim**-0.5
        a = a.unflatten(-1, (self.rows, self.dim))  # [R, rows, d]
        z = key.shared.normal("least_squares.solution", self.rows)[0, :, 0].unsqueeze(-1)
        shortest = self.norm * _unit(tree_sum(z * a))  # [R, 1, d]
        y = (a * shortest).sum(-1)
        ends = torch.arange(key.total + 1) * self.rows // key.total
        first, stop = ends[:-1][key.agents], ends[1:][key.agents]
        place = first[:, None] + torch.arange(-(-self.rows // key.total))  # [n, m]
        there = place < stop[:, None]
        row = place.clamp(max=self.rows - 1)
        w = there.to(torch.float64) * key.total
        return Rows(a[:, row][None], y[:, row][None], w[None, None], shortest[None])

    def terms(self, agents: int) -> int:
        """The largest number of rows of an agent; missing rows of other agents have weight 0."""
        return -(-self.rows // agents)

    def start(self, key: Key) -> Tensor:
        """The first points [R, 1, d], the same for all agents."""
        return self.begin * _unit(key.shared.normal("least_squares.start", self.dim)[0])

    def loss(self, x: Tensor, b: Rows) -> Tensor:
        return 0.5 * (b.w * self._gaps(x, b).square()).sum(-1)

    def grad(self, x: Tensor, b: Rows) -> Tensor:
        return ((b.w * self._gaps(x, b)).unsqueeze(-1) * b.a).sum(-2)

    @staticmethod
    def _gaps(x: Tensor, b: Rows) -> Tensor:
        """A x - y [R, n, m]."""
        return (b.a * x.unsqueeze(-2)).sum(-1) - b.y

    def optimum(self, b: Rows) -> Tensor:
        return b.shortest[:, :, 0]


def _unit(z: Tensor) -> Tensor:
    """z [..., d] at length 1."""
    return z / torch.sqrt((z * z).sum(-1, keepdim=True))
