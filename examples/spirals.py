"""Your own model and data for the scenario ``network``: two spirals that a small network tells apart.

distopt simulate ring --agents 8 --scenario network:model=examples/spirals.py:build,data=examples/spirals.py:load --algorithm gtadam:lr=0.01
"""

import torch
from torch import nn


def build(inputs, classes):
    """A network for samples of the shape ``inputs``. Both parameters may be left out."""
    return nn.Sequential(nn.Linear(*inputs, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, classes))


def load():
    """Points (x) and whose spiral they are of (y). A fifth is held out to test on; return (x, y, x_test, y_test) to choose it."""
    y = torch.arange(1000) % 2
    angle = torch.linspace(0.5, 6.0, 1000)
    way = angle + torch.pi * y
    return torch.stack([angle * way.cos(), angle * way.sin()], -1) / 3, y
