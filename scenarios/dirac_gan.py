"""A game of two players on two numbers, the smallest generative adversarial network, on which methods circle instead of converging."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.numerics.sums import tree_sum
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import one_of, real, room, whole

Form = Literal["gan", "nsgan", "wgan"]
Regulariser = Literal["none", "r1", "r2", "gp", "noise", "sampled_noise", "consensus"]
NODES = 40
"""Of the quadrature that takes the expectation over the noise."""


class Game(NamedTuple):
    """What the agents play with.

    Attributes:
        c: the data points, float64 [1, R|1, n|1, 1].
        fake, real: what is added to generated points and to data points, [K|1, R|1, n|1, m].
        w: the weights of these m, which sum to 1, [1, 1, 1, m].
        rest: where no player moves, [1, 1, 1, 2].
    """

    c: Tensor
    fake: Tensor
    real: Tensor
    w: Tensor
    rest: Tensor


@dataclass(frozen=True)
class DiracGAN(ScenarioDefaults):
    """The Dirac-GAN [mescheder2018]: a generator with one point theta plays against a critic D(z) = psi z with one slope psi.

        V_i(theta, psi) = f(psi theta) + f(-psi c_i),    f(a) = -log(1 + exp(-a))
        theta' = -psi f'(psi theta),    psi' = theta f'(psi theta) - c_i f'(-psi c_i)

    x = (theta, psi) [R, n, 2] starts at (1, 1). ``grad`` is (-theta', -psi'): each player's own descent direction, and NOT the gradient of a
    cost. theta lowers V and psi raises it. ``loss`` is V without regulariser, so smaller values are not better, and no point minimises
    it (``comparator = False``). Runs are ranked by the distance from the ``equilibrium`` (0, 0), the metric ``radius``.

    The agents' data points are c_i = spread (z_i - mean_j z_j), z_i standard normal. Their mean is 0, so the mean of the agents' games has its
    equilibrium at (0, 0), too, while agent i alone is drawn to theta = c_i. With ``spread`` = 0 all agents have the paper's game.

    In the form nsgan the generator does not saturate: theta' = -psi f'(-psi theta). In the form wgan f(a) = a. The regularisers:

    - r1, r2: psi' has -gamma psi more, from the penalty gamma/2 |D'|^2 on data or on generated points. D is linear, so the two are the same here.
    - gp: -gamma (|psi| - target) sign(psi), as WGAN-GP has it. It circles at a distance.
    - noise: the expectation over normal noise of standard deviation ``sigma`` on all points, by quadrature with 40 nodes.
    - sampled_noise: the mean over ``draws`` such noises, drawn anew in each round. The equilibrium is one on average.
    - consensus: both players also descend gamma/2 |(theta', psi')|^2. The authors' code has another factor, 1/2, before the terms with f''.

    At the equilibrium of one agent the linearised game has the eigenvalues +-i/2 (none), -gamma/2 +- sqrt(gamma^2/4 - 1/4) (r1, r2) and
    -sigma^2/4 +- sqrt(sigma^4/16 - 1/4) (noise). Simultaneous steps, which are ``dgd``, lead away without a regulariser, and in with r1 or noise.
    In the algorithm ``alternating`` the players take turns.

    Attributes:
        form: the costs of the game: gan, nsgan or wgan.
        regulariser: none, or one of those above.
        gamma: strength of the regulariser (r1, r2, gp, consensus).
        target: the slope towards which gp pulls.
        sigma: the standard deviation of the noise (noise, sampled_noise).
        draws: number of noises that an agent draws in a round (sampled_noise).
        clip: psi is kept in [-clip, clip], as in WGAN; 0: no bound.
        spread: the standard deviation of the agents' data points, approximately.

    Raises:
        InputError: for an unknown form or regulariser, a negative number or one above 1e100, or draws < 1; for consensus with a spread, as
            the mean of the agents' own consensus terms moves the equilibrium.

    >>> s, key = DiracGAN(regulariser="r1", gamma=0.3), Key(0, range(1), range(1), total=1)
    >>> b = s.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key)
    >>> s.grad(torch.ones(1, 1, 2, dtype=torch.float64), Game(*(leaf[0] for leaf in b))).flatten().round(decimals=4).tolist()
    [0.2689, 0.0311]
    """

    dim: ClassVar[int] = 2
    comparator: ClassVar[bool] = False
    form: Form = "gan"
    regulariser: Regulariser = "none"
    gamma: float = 1.0
    target: float = 1.0
    sigma: float = 0.7
    draws: int = 1
    clip: float = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        one_of(self, "form", get_args(Form))
        one_of(self, "regulariser", get_args(Regulariser))
        real(self, "gamma", "target", "sigma", "clip", "spread")
        whole(self, "draws")
        room(self, 2 * self.draws, "draws")
        if self.regulariser == "consensus" and self.spread:
            raise InputError(
                f"dirac_gan: consensus with spread={self.spread} is not supported, as the agents' own terms move the equilibrium; use spread=0"
            )

    def batch(self, t: Tensor, key: Key) -> Game:
        """The agents' data points, and the noise of these rounds."""
        one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        fake, real, w = 0 * one, 0 * one, one
        if self.regulariser == "noise":
            fake = real = self.sigma * _quadrature()[0]
            w = _quadrature()[1]
        elif self.regulariser == "sampled_noise":
            room(self, 2 * self.draws * len(t) * len(key.trials) * len(key.agents), "draws")
            fake, real = (self.sigma * key.normal("dirac_gan.noise", 2 * self.draws, t)).chunk(2, -1)
            w = torch.full((1, 1, 1, self.draws), 1 / self.draws, dtype=torch.float64)
        return Game(self._points(key), fake, real, w, torch.zeros(1, 1, 1, 2, dtype=torch.float64))

    def _points(self, key: Key) -> Tensor:
        if not self.spread:
            return torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        every = Key(key.seed, range(key.total), key.trials.tolist(), key.total)
        z = every.normal("dirac_gan.points", 1)
        apart = z - tree_sum(z) / key.total  # the mean is over all agents, for any block
        return self.spread * apart[:, :, key.agents]

    def equilibrium(self, b: Game) -> Tensor:
        """(0, 0)."""
        return b.rest

    def loss(self, x: Tensor, b: Game) -> Tensor:
        theta, psi = x[..., :1], x[..., 1:]
        gain = self._gain(psi * (theta + b.fake)) + self._gain(-psi * (b.c + b.real))
        return (b.w * gain).sum(-1)

    def grad(self, x: Tensor, b: Game) -> Tensor:
        theta, psi = x[..., :1], x[..., 1:]
        fake, real = theta + b.fake, b.c + b.real
        slope = self._slope(psi * fake)
        own = self._slope(-psi * fake) if self.form == "nsgan" else slope
        v_theta = -psi * (b.w * own).sum(-1, keepdim=True)
        v_psi = (b.w * (fake * slope - real * self._slope(-psi * real))).sum(-1, keepdim=True)
        if self.regulariser in ("r1", "r2"):
            v_psi = v_psi - self.gamma * psi
        elif self.regulariser == "gp":
            v_psi = v_psi - self.gamma * (psi.abs() - self.target) * torch.sign(psi)
        elif self.regulariser == "consensus":
            r_theta, r_psi = self._consensus(theta, psi, own, slope)
            v_theta, v_psi = v_theta - self.gamma * r_theta, v_psi - self.gamma * r_psi
        return torch.cat([-v_theta, -v_psi], -1)

    def _consensus(self, theta: Tensor, psi: Tensor, own: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of |(theta', psi')|^2 / 2, where theta' = -psi own(psi theta) and psi' = theta slope(psi theta)."""
        bent = 0 * slope if self.form == "wgan" else -slope * (1 - slope)  # the derivatives of slope and own
        own_bent = own * (1 - own) if self.form == "nsgan" else bent
        one, other = psi * own, theta * slope
        one_bent, other_bent = psi * own_bent, theta * bent
        return (
            one * one_bent * psi + other * (slope + other_bent * psi),
            one * (own + one_bent * theta) + other * other_bent * theta,
        )

    @property
    def project(self) -> object:
        """What keeps psi in its range, if it has one."""
        return self._clipped if self.clip else None

    def _clipped(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :1], x[..., 1:].clamp(-self.clip, self.clip)], -1)

    def start(self, key: Key) -> Tensor:
        return torch.ones(1, 1, 2, dtype=torch.float64)

    def _gain(self, a: Tensor) -> Tensor:
        """f."""
        return a if self.form == "wgan" else a.clamp(max=0) - torch.log1p(torch.exp(-a.abs()))

    def _slope(self, a: Tensor) -> Tensor:
        """f'."""
        return torch.ones_like(a) if self.form == "wgan" else 1 / (1 + torch.exp(a))


@lru_cache(maxsize=1)
def _quadrature() -> tuple[Tensor, Tensor]:
    """Nodes and weights [1, 1, 1, 40] of the expectation under a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    found = (torch.from_numpy(each).reshape(1, 1, 1, -1) for each in (nodes, weights / weights.sum()))
    return next(found), next(found)
