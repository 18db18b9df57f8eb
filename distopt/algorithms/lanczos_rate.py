"""Heavy ball whose step size and momentum come from the extreme curvatures, which the Lanczos process finds during the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import inside, positive, step_size, whole
from distopt.schedules import rate

SECTIONS, PASSES = 32, 3
"""Parts into which an interval around an extreme eigenvalue is cut, and how often."""
TINY = 1e-30
MOST = 100
"""Products in a reading. Each is a few operations in every round."""


class LanczosRateState(NamedTuple):
    """What the method carries.

    Attributes:
        m: momentum [..., n, d].
        y: where the Hessian is taken [..., n, d].
        q, p: the last two Lanczos vectors [..., n, d].
        beta: the length that made q [..., n, 1].
        diagonal, beside: alpha_j and beta_j so far [..., n, k].
        curvature: the largest and the smallest eigenvalue [..., n, 2].
        slots: the numbers 0 .. k - 1 [..., n, k].
        grid: the numbers 0, 1/32, ..., 1 [..., n, 33].
    """

    m: Tensor
    y: Tensor
    q: Tensor
    p: Tensor
    beta: Tensor
    diagonal: Tensor
    beside: Tensor
    curvature: Tensor
    slots: Tensor
    grid: Tensor


@dataclass(frozen=True)
class LanczosRate(AlgorithmDefaults):
    """Heavy ball with the best step size and momentum of a quadratic whose extreme curvatures are those of the cost [granziol2022].

        m_{t+1} = rho m_t + lr g_t,    x_{t+1} = (I + W_t)/2 (x_t - m_{t+1})                            m_0 = 0
        lr = (2 / (sqrt(L) + sqrt(mu)))^2,    rho = ((sqrt(L) - sqrt(mu)) / (sqrt(L) + sqrt(mu)))^2,    mu = max(|l|, low L)

    L and l are the largest and the smallest eigenvalue of the Hessian of f_i at y_i, as the Lanczos process [lanczos1950] estimates them
    with ``steps`` = k products. Each round makes one product, so that all rounds cost the same. If t is a multiple of k, y = x_t and the
    first vector is q = g_t / |g_t|. In each round, with beta = 0 and p = 0 at first,

        h = (grad f_{i,t}(y + width q) - grad f_{i,t}(y - width q)) / (2 width)
        alpha = q'h,    r = h - alpha q - beta p,    p+ = q,    beta+ = |r|,    q+ = r / |r|

    After k rounds L and l are the extreme eigenvalues of the tridiagonal matrix of alpha and beta, found by counting the eigenvalues below
    some points (Sturm). They are used for the next k rounds, or longer if the next L is not positive. In the first k - 1 rounds the method is
    gradient descent with the field ``lr``. In a network every agent has its own Hessian. L and l are averaged with the neighbours in each round,
    through the channel "curvature", which should not be compressed. The mean of the agents' L is at least that of their mean cost. (I + W)/2
    has no negative eigenvalue: on a common quadratic the differences between agents then die out with every step that suits one agent alone.
    Like ``dgd``, the method keeps a bias where agents' costs differ.

    The paper reads at fixed intervals, all products at once, from one random vector. Here the first vector is the gradient, and the curvatures
    in use are up to 2 k rounds old. If the sharpness rises fast, a large k makes steps too long. Vectors are not made orthogonal to all earlier
    ones. So an eigenvalue may be found twice, but the extreme ones are not affected. A round takes three gradients. Costs should be smooth, and
    change little in k rounds.

    x_t and m_t are [..., n, d], one row per agent.

    Args:
        lr: step size until the first reading with a positive L, a number or a schedule.
        steps: k, products for one estimate, 2 to 100.
        low: lower bound of mu, as a fraction of L, in (0, 1).
        width: width of the finite differences, above 0.

    Raises:
        InputError: for a parameter out of range.

    >>> from distopt import simulate
    >>> asked = {"agents": 1, "scenario": "quadratic:dim=3", "rounds": 40, "record": "curvature"}
    >>> run = simulate("complete", **asked, algorithm="lanczos_rate:steps=3,lr=0.01")
    >>> top, bottom = run["curvature"][0, -1, 0]
    >>> bool(1 <= bottom < top <= 10)  # all curvatures lie between 1 and 10
    True
    """

    lr: float | Schedule = 0.01
    steps: int = 5
    low: float = 1e-3
    width: float = 1e-4
    channels: ClassVar[tuple[str, ...]] = ("x", "curvature")

    def __post_init__(self) -> None:
        step_size("lanczos_rate", self.lr)
        positive("lanczos_rate", width=self.width)
        whole("lanczos_rate", 2, MOST, steps=self.steps)
        inside("lanczos_rate", low=self.low)

    def init(self, x: Tensor) -> LanczosRateState:
        zero, one = torch.zeros_like(x), torch.zeros_like(x[..., :1])
        slots = one + torch.arange(self.steps, dtype=x.dtype, device=x.device)
        grid = one + torch.arange(SECTIONS + 1, dtype=x.dtype, device=x.device) / SECTIONS
        parts = torch.zeros_like(slots), torch.zeros_like(slots)
        curvature = torch.cat([one, one], -1)
        return LanczosRateState(zero, x.clone(), zero.clone(), zero.clone(), one, *parts, curvature, slots, grid)

    def update(self, g: Tensor, state: LanczosRateState, x: Tensor, mix: Mix) -> tuple[Tensor, LanczosRateState]:
        k = int(self.steps)
        place = mix.t - torch.div(mix.t, k, rounding_mode="floor") * k
        first, last = place == 0, place == k - 1
        y = torch.where(first, x, state.y)
        q = torch.where(first, g / (_length(g) + TINY), state.q)
        p = torch.where(first, torch.zeros_like(x), state.p)
        beta = torch.where(first, torch.zeros_like(state.beta), state.beta)
        h = (mix.grad(y + self.width * q) - mix.grad(y - self.width * q)) / (2 * self.width)
        ended = (place > 0) & (_length(q) == 0)  # the vectors span all that the first one reaches
        alpha = torch.where(ended, state.diagonal[..., :1], (q * h).sum(-1, keepdim=True))
        r = h - alpha * q - beta * p
        beside = _length(r)
        here = state.slots == place.to(x.dtype)
        diagonals = torch.where(here, alpha, state.diagonal), torch.where(here, beside, state.beside)
        large, small = extremes(*diagonals, state.grid)
        found = torch.where(last & (large > 0), torch.cat([large, small], -1), state.curvature)
        curvature = mix("curvature", found)
        top, bottom = curvature[..., :1], curvature[..., 1:]
        good = top > 0
        root = torch.sqrt(torch.where(good, top, torch.ones_like(top)))
        least = torch.sqrt(torch.where(good, torch.maximum(bottom.abs(), self.low * top), torch.ones_like(top)))
        step, kept = 2 / (root + least), (root - least) / (root + least)
        lr = torch.where(good, step * step, rate(self.lr, mix) * torch.ones_like(top))
        m = torch.where(good, kept * kept, torch.zeros_like(top)) * state.m + lr * g
        after = LanczosRateState(
            m, y, r / (beside + TINY), q.clone(), beside, *diagonals, curvature, state.slots.clone(), state.grid.clone()
        )
        moved = x - m
        return (moved + mix("x", moved)) / 2, after


def _length(z: Tensor) -> Tensor:
    """|z| of each row [..., 1]."""
    return torch.sqrt((z * z).sum(-1, keepdim=True))


def extremes(diagonal: Tensor, beside: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The largest and the smallest eigenvalue [..., 1] of the tridiagonal matrix with alpha and beta [..., k]. The last beta is not used.

    An interval that holds all eigenvalues is cut at the points of ``grid`` [..., 33]. The part with the wanted eigenvalue is kept. The
    number of eigenvalues below a point is the number of negative pivots of the matrix minus that point times I.

    >>> grid = torch.linspace(0, 1, 33, dtype=torch.float64)
    >>> a, b = torch.tensor([2.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 9.0], dtype=torch.float64)
    >>> [round(each.item(), 3) for each in extremes(a, b, grid)]
    [3.0, 1.0]
    """
    k = diagonal.shape[-1]
    squares = beside * beside
    reach = diagonal.abs().amax(-1, keepdim=True) + 2 * beside[..., : k - 1].amax(-1, keepdim=True)
    found = []
    for sought in (k - 1, 0):  # so many eigenvalues are smaller
        start, width = -reach, 2 * reach
        for _ in range(PASSES):
            points = start + width * grid
            pivot = diagonal[..., :1] - points
            below = (pivot < 0).to(points.dtype)
            for j in range(1, k):
                safe = torch.where(pivot.abs() < TINY, torch.full_like(pivot, TINY), pivot)
                pivot = diagonal[..., j : j + 1] - points - squares[..., j - 1 : j] / safe
                below = below + (pivot < 0).to(points.dtype)
            # the last point with no more than ``sought`` eigenvalues below it
            start = torch.where(below <= sought, points, -reach).amax(-1, keepdim=True)
            width = width / SECTIONS
        found.append(start + 0.5 * width)
    top, bottom = found
    return top, bottom
