"""Handwritten digits of which each agent sees its own, slowly changing mix: a real multiclass problem."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import gammaincinv
from torch import Tensor

from distopt.numerics.random import Key
from distopt.scenarios._classified import Arriving
from distopt.scenarios._logistic import gather_window, last_label_accuracy, window_rounds
from distopt.scenarios._ranges import real, room, whole

CLASSES = 10
FEATURES = 65


class DigitBatch(NamedTuple):
    """One block of rounds: leaves [K, R, n, window * images, ...], the newest image last."""

    X: Tensor  # pixels / 16 and a constant [..., m, 65]
    y: Tensor  # classes 0 .. 9, int64
    w: Tensor  # 1 / (images held), 0 in empty places
    fresh: Tensor  # bool: arrived in this round
    last: Tensor  # [..., 1] class of the agent's newest image before this round, -1 if it had none


@lru_cache(maxsize=1)
def pictures() -> tuple[Tensor, Tensor]:
    """The 1797 images, sorted by class: features [1797, 65] in [0, 1], the last one constant; first row of each class [11].

    >>> X, first = pictures()
    >>> X.shape, first[:3].tolist()
    (torch.Size([1797, 65]), [0, 178, 360])
    """
    with np.load(Path(__file__).parent / "data" / "digits.npz", allow_pickle=False) as file:
        pixels, label = file["pixels"], file["label"]
    order = np.argsort(label, kind="stable")
    X = np.column_stack([pixels[order] / 16.0, np.ones(len(order))])
    return torch.from_numpy(X), torch.from_numpy(np.searchsorted(label[order], np.arange(CLASSES + 1)))


def dirichlet(u: Tensor, alpha: float) -> Tensor:
    """Dirichlet(alpha, ..., alpha) probabilities [..., C] from uniforms u [..., 2, C] in [0, 1), two words per class.

    A Gamma(alpha) variable is a Gamma(alpha + 1) one (by its inverse distribution function) times U^(1 / alpha); taking
    logarithms first keeps the smallest alpha from underflowing to 0 / 0.

    >>> p = dirichlet(torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64), alpha=1.0)
    >>> [round(v, 4) for v in p.tolist()], round(float(p.sum()), 12)
    ([0.2159, 0.7841], 1.0)
    """
    inside = (u + 2.0**-54).numpy()  # off zero, where the logarithm ends
    log_gamma = (
        np.log(gammaincinv(alpha + 1, np.minimum(inside[..., 0, :], 1 - 2.0**-53))) + np.log(inside[..., 1, :]) / alpha
    )
    g = np.exp(log_gamma - log_gamma.max(-1, keepdims=True))
    return torch.from_numpy(g / g.sum(-1, keepdims=True))


@dataclass(frozen=True)
class Digits(Arriving):
    """Classify 8 x 8 images of handwritten digits [digits] while each agent's mix of the ten classes drifts its own way.

    Agent i has two class mixes p_i, q_i ~ Dirichlet(alpha), its own in every trial, and swings between them:

        mix_{i,t} = (1 - s_t) p_i + s_t q_i,    s_t = (1 - cos(2 pi t / period)) / 2.

    In every round ``images`` images arrive at each agent: a class drawn from the mix, then an image of that class, each
    alike. With H_{i,t} the images of the last ``window`` rounds (fewer in the beginning), classes y_r and features a_r in
    R^65 (pixels / 16, and 1), the cost of x = (x_0, ..., x_9) in R^650 is

        f_{i,t}(x) = 1 / |H_{i,t}| sum_{r in H_{i,t}} [ log sum_c exp(x_c' a_r) - x_{y_r}' a_r ] + l2 / 2 |x|^2.

    A small ``alpha`` gives agents few classes each, a large one gives everybody the same mix.

    Args:
        alpha: concentration of the class mixes, above 0 (our set-up: 0.5).
        period: rounds from p_i to q_i and back, above 0.
        images: images that arrive at each agent in a round, at least 1.
        window: rounds that an image stays in the cost, at least 1.
        l2: weight of the regulariser, at least 0.

    Raises:
        InputError: for a parameter out of range.

    >>> digits = Digits()
    >>> b = digits.batch(torch.tensor([9]).reshape(1, 1, 1, 1), Key(0, range(3), range(1), total=3))
    >>> b.X.shape, b.y[0, 0, 0, -4:].tolist()
    (torch.Size([1, 1, 3, 20, 65]), [0, 0, 0, 2])
    """

    alpha: float = 0.5
    period: float = 400.0
    images: int = 4
    window: int = 5
    l2: float = 1e-2

    def __post_init__(self) -> None:
        real(self, "alpha", "period", above=True)
        whole(self, "images", "window")
        real(self, "l2")
        room(self, FEATURES * self.images * self.window, "images", "window")

    @property
    def dim(self) -> int:
        """10 classes times 65 features."""
        return CLASSES * FEATURES

    def batch(self, t: Tensor, key: Key) -> DigitBatch:
        """The windows of the rounds ``t``, leaves [K, R, n, window * images, ...]."""
        room(
            self, FEATURES * self.images * self.window * len(t) * len(key.trials) * len(key.agents), "images", "window"
        )
        needed, index, present = window_rounds(
            t, self.window + 1
        )  # one round more, for the label before the newest ones
        rows, y = self._arrivals(needed, key)
        seen = gather_window(y, index)
        last = torch.where(t > 0, seen[..., -self.images - 1 :][..., :1], -1)
        index, held = index[:, 1:], present[:, 1:].repeat_interleave(self.images, -1)
        fresh = torch.zeros_like(held)
        fresh[:, -self.images :] = True
        w = held / held.sum(-1, keepdim=True, dtype=torch.float64)
        X, _ = pictures()
        return DigitBatch(
            X[gather_window(rows, index)], seen[..., self.images :], w[:, None, None, :], fresh[:, None, None, :], last
        )

    def _arrivals(self, t: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """Rows and classes of the images that arrive in the rounds ``t``: [K, R, n, images] each."""
        _, first = pictures()
        u = key.uniform("digits/mix", 4 * CLASSES)
        mixes = dirichlet(u.reshape(*u.shape[:-1], 2, 2, CLASSES), self.alpha)  # [1, R, n, 2, 10]
        s = (1 - torch.cos(2 * torch.pi * t.to(torch.float64) / self.period)) / 2
        mix = (1 - s) * mixes[..., 0, :] + s * mixes[..., 1, :]
        u = key.uniform("digits/image", 2 * self.images, t)
        u = u.reshape(*u.shape[:-1], 2, self.images)
        y = (u[..., 0, :].unsqueeze(-1) >= mix.cumsum(-1)[..., None, :-1]).sum(
            -1
        )  # the last class takes what rounding leaves
        size = first[y + 1] - first[y]
        return first[y] + (u[..., 1, :] * size).to(torch.int64), y

    def persistence(self, b: DigitBatch) -> Tensor:
        """The same for the prediction that all are of the class of the newest image before this round; nan in round 0."""
        return last_label_accuracy(b.last, b.y, b.fresh & (b.last >= 0))
