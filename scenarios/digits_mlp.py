"""A small neural network on all of its data in every round: where gradient methods train at the edge of stability."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.scenarios._ranges import one_of, real, whole

SIZES = (64, 24, 24, 10)
MOST = 1797


class MlpBatch(NamedTuple):
    """The samples of each agent, leaves [1, R|1, n, m, ...], m the most that an agent has."""

    a: Tensor  # inputs [..., m, 64]
    y: Tensor  # targets [..., m, 10]
    w: Tensor  # N / rows, 0 in empty places [..., m]


@lru_cache(maxsize=1)
def samples() -> tuple[Tensor, Tensor]:
    """Pixels [1797, 64], 0 .. 16, and labels [1797], in the order of the data set.

    >>> samples()[1][:5].tolist()
    [0, 1, 2, 3, 4]
    """
    with np.load(Path(__file__).parent / "data" / "digits.npz", allow_pickle=False) as file:
        return torch.from_numpy(file["pixels"].astype(np.float64)), torch.from_numpy(file["label"].astype(np.int64))


@dataclass(frozen=True)
class DigitsMlp(ScenarioDefaults):
    """Fit a tanh network to the first handwritten digits [digits], all of which every round sees, as in studies of the edge of stability.

    The network has 64 - 24 - 24 - 10 units and 2,410 parameters: x holds W_1, b_1, W_2, b_2, W_3, b_3, each matrix row by row. With the inputs
    a_r (pixels less their means, divided by 8), the unit vectors y_r of the classes, and

        o_r(x) = W_3 tanh(W_2 tanh(W_1 a_r + b_1) + b_2) + b_3,    f_i(x) = N / rows sum_{r in S_i} |o_r(x) - y_r|^2 / 2,

    the mean of the agents' costs is half the mean square over all ``rows`` samples, for any shards S_i. They never change, and have equal
    sizes, up to one. One agent alone has the whole problem. All agents start at the same point, another one in each trial: weights and
    biases are uniform in +- 1 / sqrt(units before them), as torch's layers begin. A neural network is not convex, so its minimisers are
    unknown.

    With ``normalised`` = c above 0 the costs are those at c x / |x|. Then they do not depend on the length of x, as those of networks with
    normalisation layers [lyu2022], and x must not be 0.

    Args:
        rows: number of samples, 1 to 1797.
        shards: how samples are dealt to agents: at ``random`` (differently in each trial), or by ``label``, so that an
            agent sees few classes.
        normalised: c, the length to which x is scaled; 0: no scaling.

    Raises:
        InputError: for a parameter out of range, or more agents than rows.

    >>> mlp = DigitsMlp(rows=20)
    >>> b = mlp.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), Key(0, range(3), range(1), total=3))
    >>> mlp.dim, b.a.shape, b.w[0, 0].gt(0).sum(-1).tolist()
    (2410, torch.Size([1, 1, 3, 7, 64]), [6, 7, 7])
    """

    rows: int = 200
    shards: Literal["random", "label"] = "random"
    normalised: float = 0.0
    comparator: ClassVar[bool] = False
    row_weights: ClassVar[str] = "w"

    def __post_init__(self) -> None:
        whole(self, "rows", high=MOST)
        one_of(self, "shards", ("random", "label"))
        real(self, "normalised")

    @property
    def dim(self) -> int:
        """How many parameters the network has."""
        return sum((before + 1) * after for before, after in pairwise(SIZES))

    def batch(self, t: Tensor, key: Key) -> MlpBatch:
        """The samples of the agents, which no round changes."""
        if key.total > self.rows:
            raise InputError(
                f"digits_mlp: rows={self.rows} for {key.total} agents; each needs one, so give more rows or fewer agents"
            )
        pixels, label = (each[: self.rows] for each in samples())
        inputs, targets = (pixels - pixels.mean(0)) / 8, torch.nn.functional.one_hot(label, SIZES[-1]).to(pixels.dtype)
        if self.shards == "label":
            order = label.argsort(stable=True).expand(1, -1)
        else:
            order = key.shared.uniform("digits_mlp/shards", self.rows)[0, :, 0].argsort(dim=-1, stable=True)
        ends = torch.arange(key.total + 1) * self.rows // key.total
        first, stop = ends[:-1][key.agents], ends[1:][key.agents]
        place = first[:, None] + torch.arange(-(-self.rows // key.total))  # [n, m]
        there = place < stop[:, None]
        row = order[:, place.clamp(max=self.rows - 1)]  # [R|1, n, m]
        w = there.to(torch.float64) * (key.total / self.rows)
        return MlpBatch(inputs[row][None], targets[row][None], w[None, None])

    def terms(self, agents: int) -> int:
        """The largest number of samples of an agent; missing samples of other agents have weight 0."""
        return -(-self.rows // agents)

    def start(self, key: Key) -> Tensor:
        """The first weights [R, 1, d]."""
        sizes = [
            torch.full(((before + 1) * after,), before**-0.5, dtype=torch.float64) for before, after in pairwise(SIZES)
        ]
        return (2 * key.shared.uniform("digits_mlp/start", self.dim)[0] - 1) * torch.cat(sizes)

    def loss(self, x: Tensor, b: MlpBatch) -> Tensor:
        _, _, out = forward(self._scaled(x)[0], b.a)
        return 0.5 * (b.w * (out - b.y).square().sum(-1)).sum(-1)

    def grad(self, x: Tensor, b: MlpBatch) -> Tensor:
        y, length = self._scaled(x)
        g = backward(y, b)
        if not self.normalised:
            return g
        unit = x / length
        return self.normalised / length * (g - (g * unit).sum(-1, keepdim=True) * unit)

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters of the network [R, n, d], and |x| [R, n, 1]."""
        length = torch.sqrt((x * x).sum(-1, keepdim=True))
        return (self.normalised * (x / length) if self.normalised else x), length


def layers(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The weights [..., after, before] and the biases [..., after] in rows x [..., d].

    >>> [list(weight.shape) for weight, _ in layers(torch.zeros(1, 1, 2410))]
    [[1, 1, 24, 64], [1, 1, 24, 24], [1, 1, 10, 24]]
    """
    found, start = [], 0
    for before, after in pairwise(SIZES):
        middle, stop = start + before * after, start + (before + 1) * after
        weight = x[..., start:middle].reshape(*x.shape[:-1], after, before)
        found.append((weight, x[..., middle:stop]))
        start = stop
    return found


def applied(weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
    """W h + b [..., m, after] of h [..., m, before], by product and sum, whose bits do not depend on who shares the block."""
    return (h.unsqueeze(-2) * weight.unsqueeze(-3)).sum(-1) + bias.unsqueeze(-2)


def forward(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two hidden layers [..., m, 24] and the outputs [..., m, 10] on inputs a [..., m, 64]."""
    one, two, three = layers(x)
    h = torch.tanh(applied(*one, a))
    k = torch.tanh(applied(*two, h))
    return h, k, applied(*three, k)


def backward(x: Tensor, b: MlpBatch) -> Tensor:
    """The gradient [R, n, d] of sum_r w_r |o_r - y_r|^2 / 2 at x."""
    h, k, out = forward(x, b.a)
    _, (two, _), (three, _) = layers(x)
    at_out = b.w.unsqueeze(-1) * (out - b.y)
    at_k = (1 - k * k) * (at_out.unsqueeze(-1) * three.unsqueeze(-3)).sum(-2)
    at_h = (1 - h * h) * (at_k.unsqueeze(-1) * two.unsqueeze(-3)).sum(-2)
    parts: list[Tensor] = []
    for push, before in ((at_h, b.a), (at_k, h), (at_out, k)):
        parts.append((push.unsqueeze(-1) * before.unsqueeze(-2)).sum(-3).flatten(-2))
        parts.append(push.sum(-2))
    return torch.cat(parts, -1)
