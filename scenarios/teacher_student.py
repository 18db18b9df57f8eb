"""A teacher and students: linear or logistic regression whose rows come from a rotationally invariant matrix with a chosen spectrum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.numerics.sums import torch_on_one_thread
from distopt.optional import ScenarioDefaults
from distopt.scenarios._constrained import each_round
from distopt.scenarios._ranges import one_of, real, room, whole

from ._logistic import logistic_grad, logistic_hessian, logistic_loss


class Taught(NamedTuple):
    """Rows X, float64 [1, R, n, m, d], labels y [1, R, n, m], and weights w [1, 1, n, m]: N for a row, 0 in an empty place."""

    X: Tensor
    y: Tensor
    w: Tensor


@dataclass(frozen=True)
class TeacherStudent(ScenarioDefaults):
    """Estimate a teacher's coefficients from rows that are dealt to the agents [gerbelot2020].

    The M = alpha d rows (rounded) of F = U D V' are cut into blocks of neighbouring rows, one for each agent, which differ by at most one row.
    With the N agents' mean cost the network solves

        min_x  sum_k loss((F x)_k, y_k) + l2/2 |x|_2^2 + l1 |x|_1,
        f_i(x) = N sum_{k of agent i} loss((F x)_k, y_k) + l2/2 |x|_2^2 + l1 |x|_1.

    U and V are uniform on the orthogonal matrices (orthonormal columns of normal ones, with the signs that make them so). The min(M, d)
    eigenvalues of F'F that are not 0 lie in equal steps between ``low`` and ``high``. The teacher x0 has round(rho d) coordinates, at random
    places, that are normal; the others are 0; and |x0|^2 = rho d. Labels are

        linear:    y = F x0 + noise xi,         loss(z, y) = (z - y)^2 / 2
        logistic:  y = sign(F x0 + noise xi),   loss(z, y) = log(1 + exp(-y z))

    with standard normal xi. Data are the same in all rounds, and each trial has its own. In the paper coordinates of x0 are independent.
    Here the length and the number of coordinates are exact. With many coordinates this does not matter, and trials differ less.

    With l1 > 0 it is the LASSO, or, with l2 > 0, too, the elastic net. The part l1 |x|_1 has no gradient where a coordinate is 0. ``grad`` is the
    gradient of the other parts, and ``prox`` moves coordinates by lr l1 towards 0 and stops there. Algorithms need proximal steps, as in
    ``gt:form=atc,direction=proximal``. Accelerated proximal gradients find the minimiser for regrets.

    ``distopt.costs.glm`` computes the quality of the estimate for d -> infinity.

    Attributes:
        dim: d, number of coordinates.
        alpha: M / d, rows for each coordinate.
        model: "linear" or "logistic".
        l2: the ridge parameter, of the sum over all rows.
        low, high: the ends of the spectrum of F'F.
        rho: the fraction of the teacher's coordinates that are not 0.
        noise: standard deviation of the noise.
        l1: the parameter of the LASSO, of the sum over all rows, as ``l2``.

    Raises:
        InputError: for a parameter out of range, or low > high.

    >>> s, key = TeacherStudent(dim=6, alpha=1.5, low=1.0, high=1.0), Key(0, range(2), range(1), total=2)
    >>> b = s.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)
    >>> F = b.X[0, 0][b.w[0, 0] > 0]
    >>> F.shape, bool(torch.allclose(F.mT @ F, torch.eye(6, dtype=torch.float64)))
    (torch.Size([9, 6]), True)
    """

    dim: int = 20
    alpha: float = 2.0
    model: Literal["linear", "logistic"] = "linear"
    l2: float = 0.1
    low: float = 0.2
    high: float = 2.0
    rho: float = 1.0
    noise: float = 0.1
    l1: float = 0.0
    row_weights: ClassVar[str] = "w"

    def __post_init__(self) -> None:
        whole(self, "dim")
        real(self, "alpha", "high", above=True)
        one_of(self, "model", ("linear", "logistic"))
        real(self, "l2", "low", "noise", "l1")
        real(self, "rho", high=1, above=True)
        if self.low > self.high:
            raise InputError(
                f"teacher_student: low={self.low:g} is above high={self.high:g}; give the two ends in order"
            )
        room(self, self.dim * self.rows, "dim", "alpha")

    @property
    def rows(self) -> int:
        """M, at least 1."""
        return max(1, round(self.alpha * self.dim))

    @property
    def eigenvalues(self) -> Tensor:
        """Those of F'F that are not 0, [min(M, d)]: the middles of as many equal parts of low .. high.

        >>> TeacherStudent(dim=3, low=0.0, high=3.0).eigenvalues.tolist()
        [0.5, 1.5, 2.5]
        """
        count = min(self.rows, self.dim)
        return self.low + (self.high - self.low) * (torch.arange(count, dtype=torch.float64) + 0.5) / count

    def teacher(self, key: Key) -> Tensor:
        """x0 [1, R, 1, d]."""
        count = max(1, round(self.rho * self.dim))
        order = key.shared.uniform("teacher_student/places", self.dim).argsort(dim=-1, stable=True)
        there = torch.zeros_like(order, dtype=torch.float64).scatter_(-1, order[..., :count], 1.0)
        x0 = there * key.shared.normal("teacher_student/teacher", self.dim)
        found: Tensor = x0 * ((self.rho * self.dim) ** 0.5 / x0.norm(dim=-1, keepdim=True))
        return found

    def matrix(self, key: Key) -> Tensor:
        """F [R, M, d], of the whole network."""
        count = min(self.rows, self.dim)
        left = key.shared.normal("teacher_student/left", self.rows * count).reshape(-1, self.rows, count)
        right = key.shared.normal("teacher_student/right", self.dim * count).reshape(-1, self.dim, count)
        root = self.eigenvalues.sqrt()
        with torch_on_one_thread():  # the bits of a factorisation depend on the threads
            return torch.stack([(orthogonal(u) * root) @ orthogonal(v).mT for u, v in zip(left, right, strict=True)])

    def batch(self, t: Tensor, key: Key) -> Taught:
        """The rows of the agents, which no round changes."""
        rows = self.rows
        room(self, 3 * self.dim * rows * len(key.trials), "dim", "alpha")
        F, xi = self.matrix(key), key.shared.normal("teacher_student/noise", rows)[0, :, 0]
        z = (F * self.teacher(key)[0]).sum(-1) + self.noise * xi  # [R, M]
        y = z if self.model == "linear" else torch.where(z < 0, -1.0, 1.0).to(torch.float64)
        ends = torch.arange(key.total + 1) * rows // key.total
        first, stop = ends[:-1][key.agents], ends[1:][key.agents]
        place = first[:, None] + torch.arange(-(-rows // key.total))  # [n, m]
        there = (place < stop[:, None]).to(torch.float64)
        row = place.clamp(max=rows - 1)
        return Taught(F[:, row][None], y[:, row][None], (key.total * there)[None, None])

    def terms(self, agents: int) -> int:
        """The largest number of rows of an agent; missing rows of other agents have weight 0."""
        return -(-self.rows // agents)

    def loss(self, x: Tensor, b: Taught) -> Tensor:
        if self.model == "logistic":
            smooth = logistic_loss(x, b.X, b.y, b.w, self.l2)
        else:
            left = (b.X * x.unsqueeze(-2)).sum(-1) - b.y
            smooth = 0.5 * (b.w * left * left).sum(-1) + 0.5 * self.l2 * (x * x).sum(-1)
        return smooth + self.l1 * x.abs().sum(-1) if self.l1 else smooth

    def grad(self, x: Tensor, b: Taught) -> Tensor:
        if self.model == "logistic":
            return logistic_grad(x, b.X, b.y, b.w, self.l2)
        left = b.w * ((b.X * x.unsqueeze(-2)).sum(-1) - b.y)
        return (left.unsqueeze(-1) * b.X).sum(-2) + self.l2 * x

    @property
    def prox(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """See ``distopt.optional.ScenarioDefaults``: of l1 |x|_1, where that is a part of the costs."""
        return self._prox if self.l1 else None

    def _prox(self, x: Tensor, lr: Tensor) -> Tensor:
        return torch.sign(x) * (x.abs() - lr * self.l1).clamp(min=0)

    def hessian(self, x: Tensor, b: Taught) -> Tensor:
        if self.model == "logistic":
            return logistic_hessian(x, b.X, b.y, b.w, self.l2)
        return self._normal(b)[0].expand(x.shape[0], -1, -1)

    def _normal(self, b: Taught) -> tuple[Tensor, Tensor]:
        """The Hessian [..., d, d] of the summed squared losses, and minus their gradient at 0, [..., d]; leaves of ``b`` are [..., n, m, *]."""
        X = b.X.flatten(-3, -2)
        w, y = (each.expand(b.X.shape[:-1]).flatten(-2) for each in (b.w, b.y))
        weighted = w.unsqueeze(-1) * X
        ridge = b.X.shape[-3] * self.l2 * torch.eye(self.dim, dtype=X.dtype, device=X.device)
        return weighted.mT @ X + ridge, (weighted.mT @ y.unsqueeze(-1)).squeeze(-1)

    @property
    def linear_rows(self) -> Callable[[Taught], tuple[Tensor, Tensor, Tensor, float]] | None:
        """See ``distopt.optional.ScenarioDefaults``: of the logistic model alone."""
        return self._rows if self.model == "logistic" and not self.l1 else None

    def _rows(self, b: Taught) -> tuple[Tensor, Tensor, Tensor, float]:
        return b.X, b.y, b.w, self.l2

    def optimum(self, b: Taught) -> Tensor | None:
        """The ridge estimate; of minimal length where there are many. Newton's method finds that of the logistic model without l1."""
        if self.l1:
            agents = b.X.shape[-3]
            start = torch.zeros(1, 1, self.dim, dtype=torch.float64)
            return each_round(self, b, lambda y, lr: self._prox(y, agents * lr), self.smoothness(b), start)
        if self.model == "logistic":
            return None
        H, g = self._normal(b)
        values, vectors = torch.linalg.eigh(H)
        inverse = torch.where(values > 1e-12 * values[..., -1:], 1 / values, 0.0)
        found: Tensor = (vectors @ (inverse.unsqueeze(-1) * (vectors.mT @ g.unsqueeze(-1)))).squeeze(-1)
        return found

    def modulus(self, b: Taught) -> Tensor:
        least = self.low if self.model == "linear" and self.rows >= self.dim else 0.0
        return torch.full((1, 1), b.X.shape[-3] * (self.l2 + least), dtype=torch.float64)

    def smoothness(self, b: Taught) -> Tensor:
        most = self.high if self.model == "linear" else self.high / 4
        return torch.full((1, 1), b.X.shape[-3] * (self.l2 + most), dtype=torch.float64)


def orthogonal(a: Tensor) -> Tensor:
    """Orthonormal columns [m, k], uniform among all such, of a matrix of standard normal numbers [m, k], k <= m.

    Those of its QR factorisation depend on how the signs of R were chosen; with a positive diagonal of R they are uniform [mezzadri2007].

    >>> q = orthogonal(torch.tensor([[3.0, 1.0], [4.0, 2.0]]))
    >>> [[round(v, 4) for v in row] for row in (q.mT @ q).abs().tolist()], q[:, 0].tolist()[0] > 0
    ([[1.0, 0.0], [0.0, 1.0]], True)
    """
    q, r = torch.linalg.qr(a)
    found: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
    return found
