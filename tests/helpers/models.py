"""Models, data and losses as users write them, and the scenario network on little data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distopt.numerics.random import Key
from distopt.scenarios import _samples
from distopt.scenarios.network import Network, NetworkBatch

USERS = """
import torch
from torch import nn


def build(inputs, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs[0] * inputs[1], 4), nn.Tanh(), nn.Linear(4, classes))


def load():
    x = torch.randn(60, 2, 3, generator=torch.Generator().manual_seed(1))
    return x, (x.sum((1, 2)) > 0).long() + (x[:, 0, 0] > 1).long()


def loss(output, target):
    return nn.functional.cross_entropy(output, target, label_smoothing=0.1)


def normalised():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def batch_statistics():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))


def dropping():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Dropout(), nn.Linear(4, 3))


def evaluated():
    return dropping().eval()


class Choosing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        y = self.linear(x.flatten(1))
        return y if y.sum() > 0 else -y


class Noisy(Choosing):
    def forward(self, x):
        return self.linear(x.flatten(1)) + torch.randn(3)


class Frozen(Choosing):
    def __init__(self):
        super().__init__()
        self.linear.requires_grad_(False)


def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 2))


def number():
    return 3


def failing():
    raise KeyError("no such layer")


def lazy():
    return nn.LazyLinear(3)


def unequal():
    return torch.zeros(3, 1), torch.zeros(4)


def three():
    return torch.zeros(3, 1), torch.zeros(3), torch.zeros(3, 1)


def infinite():
    return torch.full((3, 1), torch.inf), torch.zeros(3)


def below():
    return torch.zeros(3, 6), [0, -1, 1]


not_a_function = 3
"""


def small(data: _samples.Samples, count: int = 120) -> tuple[Tensor, ...]:
    return data.x[:count], data.y[:count], data.x_test[:40], data.y_test[:40]


def network(**more: Any) -> Network:
    """A network on a few of the digits."""
    return Network(**{"data": small(_samples.digits()), "batch_size": 6, **more})


def around(net: Network, trials: int, agents: int, dtype: torch.dtype) -> Tensor:
    noise = torch.randn(trials, agents, net.dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (net.start(Key(0, range(agents), range(trials), agents)) + 0.02 * noise).to(dtype)


def first(net: Network, trials: int, agents: int) -> NetworkBatch:
    whole = net.batch(torch.tensor([4]).reshape(1, 1, 1, 1), Key(0, range(agents), range(trials), agents))
    return NetworkBatch(whole.rows[0])


def script(net: Network, row: Tensor, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """The gradients of an ordinary training script, parameter by parameter."""
    model = net.build_model(row.dtype)
    nn.utils.vector_to_parameters(row.clone(), [p for p in model.parameters() if p.requires_grad])
    for p in model.parameters():  # each with memory of its own, as in a script
        p.data = p.data.clone()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    return [p.grad for _, p in model.named_parameters() if p.grad is not None]
