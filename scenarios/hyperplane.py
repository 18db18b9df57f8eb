"""A hyperplane that turns: a stream whose rule drifts a little every round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.scenarios._ranges import real, room, whole

from ._classified import Arriving
from ._logistic import Window, sliding_window


@dataclass(frozen=True)
class Hyperplane(Arriving):
    """Classify points on two sides of a hyperplane through the middle of the cube that turns a little every round [hulten2001].

    Features z are uniform in the unit cube and the label is +1 where v_t . z >= (sum of v_t) / 2. The weights v_t start
    uniform in [0, 1]. After every round each of the first ``drifting`` weights moves by ``speed`` in its present direction
    (+1 at first), and then the direction turns round with probability ``reversal``:

        v_{t+1} = v_t + speed D_t,    D_{t+1} = -D_t with probability ``reversal``, else D_t.

    The concept is common to all agents; their rows differ. With probability ``noise`` a label is flipped. f_{i,t} is the mean
    logistic loss on the agent's rows of the last ``window`` rounds, plus l2/2 |x|^2. The model sees 2 z - 1 and a bias 1
    (d = features + 1). The original drifts after every example; here one drift step is one round.

    Attributes:
        features: coordinates of z.
        drifting: number of weights that move; None: all.
        speed: change of a weight per round.
        reversal: probability that a weight reverses its direction after a round.
        rows: new rows per agent and round.
        window: rounds that a row stays in the cost.
        noise: probability of a flipped label.
        l2: the ridge parameter.

    Raises:
        InputError: for features, rows or window < 1, drifting outside 0 .. features, a probability outside [0, 1], or a
            speed or l2 outside [0, 1e100].

    >>> s, key = Hyperplane(features=2, speed=0.5, reversal=0.0), Key(0, range(2), range(1), total=2)
    >>> v = s.weights(torch.tensor([0, 10]).reshape(2, 1, 1, 1), key)
    >>> (v[1] - v[0]).tolist()
    [[[5.0, 5.0]]]
    """

    features: int = 10
    drifting: int | None = None
    speed: float = 0.01
    reversal: float = 0.01
    rows: int = 5
    window: int = 10
    noise: float = 0.05
    l2: float = 0.01

    def __post_init__(self) -> None:
        whole(self, "features", "rows", "window")
        if self.drifting is not None:
            whole(self, "drifting", low=0, high=self.features, where=f"features={self.features}")
        real(self, "reversal", "noise", high=1)
        real(self, "speed", "l2")
        room(self, (self.features + 1) * self.rows * self.window, "features", "rows", "window")

    @property
    def dim(self) -> int:
        """One weight per feature, and the bias."""
        return self.features + 1

    def weights(self, t: Tensor, key: Key) -> Tensor:
        """v_t for rounds t [K, 1, 1, 1], float64 [K, R, 1, features]."""
        network, f = key.shared, self.features

        def turned(tau: Tensor) -> Tensor:
            return (network.uniform("hyperplane.turn", f, tau) < self.reversal).to(torch.int64)

        def heading(tau: Tensor) -> Tensor:
            return 1 - 2 * (key.running_sum(f"hyperplane.turns {f} {self.reversal}", tau, turned) % 2)

        # D_0 + ... + D_{t-1} from D_1 + ... + D_t: whole blocks of rounds then meet whole blocks of rounds, and in integers.
        summed = key.running_sum(f"hyperplane.headings {f} {self.reversal}", t, heading)
        moves = torch.arange(f) < (f if self.drifting is None else self.drifting)
        moved = ((1 - heading(t) + summed) * moves).to(torch.float64)
        return network.uniform("hyperplane.start", f) + self.speed * moved

    def batch(self, t: Tensor, key: Key) -> Window:
        count = (self.features + 1) * self.rows * self.window * len(t) * len(key.trials) * len(key.agents)
        room(self, count, "features", "rows", "window")

        def rows(tau: Tensor) -> tuple[Tensor, Tensor]:
            u = key.uniform("hyperplane.rows", (self.features + 1) * self.rows, tau)
            u = u.reshape(*u.shape[:-1], self.rows, -1)
            z, v = u[..., :-1], self.weights(tau, key).unsqueeze(-2)
            y = torch.where((v * z).sum(-1) >= 0.5 * v.sum(-1), 1.0, -1.0).to(torch.float64)
            y = torch.where(u[..., -1] < self.noise, -y, y)
            return torch.cat([2 * z - 1, torch.ones_like(z[..., :1])], -1), y

        return sliding_window(t, self.window, rows)
