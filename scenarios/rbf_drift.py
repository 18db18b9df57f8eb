"""Moving clusters: a stream in which the inputs of every class wander."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.scenarios._ranges import real, room, whole

from ._classified import Arriving
from ._logistic import Window, sliding_window


@dataclass(frozen=True)
class RbfDrift(Arriving):
    """Classify points scattered around centroids that drift through the unit cube and bounce off its walls [bifet2010].

    Centroid j has a start uniform in the cube, a velocity of length ``speed`` (all components positive at first), a standard
    deviation uniform in [0, width], a weight uniform in [0, 1] and the class j mod ``classes``. Once a round every coordinate
    moves by its velocity; one that leaves [0, 1] is put on the wall and its velocity changes sign. A row picks a centroid in
    proportion to the weights and lies off it by a normal length in a random direction (a point of the cube [-1, 1]^features,
    normalised). With probability ``noise`` a row carries one of the other classes. The centroids are common to all agents.

    f_{i,t} is the mean loss on the agent's rows of the last ``window`` rounds, plus l2/2 |x|^2: binary logistic for two
    classes (class 1 is +1; d = features + 1), softmax for more (d = classes (features + 1)). The model sees 2 z - 1 and a
    bias 1. The usual generator moves before every row and draws the classes; here a move is a round and no class is empty.

    Attributes:
        features: coordinates of a row.
        centroids: number of clusters.
        classes: number of classes, at least 2, at most one per centroid.
        speed: length of a centroid's move in a round.
        width: the largest standard deviation of a cluster.
        rows: new rows per agent and round.
        window: rounds that a row stays in the cost.
        noise: probability of a wrong label.
        l2: the ridge parameter.

    Raises:
        InputError: for features, rows or window < 1, classes outside 2 .. centroids, noise outside [0, 1], or speed, width or l2
            outside [0, 1e100].

    >>> s, key = RbfDrift(features=3, classes=4, centroids=8), Key(0, range(2), range(1), total=2)
    >>> s.dim, tuple(s.centres(torch.tensor([10**6]).reshape(1, 1, 1, 1), key).shape)
    (16, (1, 1, 1, 8, 3))
    """

    features: int = 5
    centroids: int = 6
    classes: int = 2
    speed: float = 0.005
    width: float = 0.2
    rows: int = 5
    window: int = 10
    noise: float = 0.0
    l2: float = 0.01

    def __post_init__(self) -> None:
        whole(self, "features", "rows", "window")
        whole(self, "centroids", low=2)
        whole(self, "classes", low=2, high=self.centroids, where=f"centroids={self.centroids}")
        real(self, "noise", high=1)
        real(self, "speed", "width", "l2")
        room(self, self._numbers(), "features", "centroids", "rows", "window")

    def _numbers(self, agents: int = 1) -> int:
        """What one trial holds at once in a round."""
        places = self.centroids * (self.features + agents * self.rows)
        return places + self.dim + (self.features + 1) * self.rows * self.window * agents

    @property
    def dim(self) -> int:
        """One weight per feature and a bias, for each class if there are more than two."""
        return (self.features + 1) * (1 if self.classes == 2 else self.classes)

    def centres(self, t: Tensor, key: Key) -> Tensor:
        """Where the centroids are in rounds t [K, 1, 1, 1], after t moves: float64 [K, R, 1, centroids, features].

        A coordinate starts at c, needs floor((1 - c) / v) + 1 moves to be put on the upper wall, and from then on
        floor(1 / v) + 1 moves from wall to wall: so each round is computed without the one before it.
        """
        network, count = key.shared, self.centroids * self.features
        shape = (1, len(key.trials), 1, self.centroids, self.features)
        c = network.uniform("rbf_drift.start", count).reshape(shape)
        u = network.uniform("rbf_drift.velocity", count).reshape(shape)
        v = (self.speed * (u / u.square().sum(-1, keepdim=True).sqrt())).clamp(min=1e-300)  # 0 would divide by zero
        moves = t.to(torch.float64).unsqueeze(-1)
        bounced = moves - (((1 - c) / v).floor() + 1)
        crossing = (1 / v).floor() + 1
        leg = (bounced / crossing).floor()
        along = (bounced - leg * crossing) * v
        return torch.where(bounced < 0, c + moves * v, torch.where(leg % 2 == 0, 1 - along, along))

    def batch(self, t: Tensor, key: Key) -> Window:
        room(self, self._numbers(len(key.agents)) * len(t) * len(key.trials), "features", "centroids", "rows", "window")
        f = self.features
        std, weight = key.shared.uniform("rbf_drift.shape", 2 * self.centroids).chunk(2, -1)
        heap = weight.cumsum(-1)

        def rows(tau: Tensor) -> tuple[Tensor, Tensor]:
            u = key.uniform("rbf_drift.rows", (f + 3) * self.rows, tau)
            u = u.reshape(*u.shape[:-1], self.rows, f + 3)
            length = key.normal("rbf_drift.length", self.rows, tau)
            drawn = (
                (heap.unsqueeze(-2) <= (u[..., f] * heap[..., -1:]).unsqueeze(-1)).sum(-1).clamp(max=self.centroids - 1)
            )
            towards = 2 * u[..., :f] - 1
            reach = length * self.width * torch.take_along_dim(std, drawn, -1) / towards.square().sum(-1).sqrt()
            z = torch.take_along_dim(self.centres(tau, key), drawn.unsqueeze(-1), -2) + towards * reach.unsqueeze(-1)
            other = 1 + (u[..., f + 2] * (self.classes - 1)).to(torch.int64)
            y = (drawn + torch.where(u[..., f + 1] < self.noise, other, 0)) % self.classes
            X = torch.cat([2 * z - 1, torch.ones_like(z[..., :1])], -1)
            return X, 2.0 * y.to(torch.float64) - 1 if self.classes == 2 else y

        return sliding_window(t, self.window, rows)
