"""Small networks to train: a perceptron, a convolutional network, and a transformer that reads a picture in patches.

Their only state is their parameters: there are no running statistics and no random layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from distopt.errors import InputError


def mlp(inputs: tuple[int, ...], classes: int, width: int = 64) -> nn.Module:
    """One hidden layer of rectified units; it takes inputs of any shape.

    >>> mlp((1, 8, 8), 10)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(inputs), width), nn.ReLU(), nn.Linear(width, classes))


def cnn(inputs: tuple[int, ...], classes: int) -> nn.Module:
    """Two convolutions, each followed by a rectifier and pooling, and a linear layer.

    Pictures wider than 16 pixels are met by a first convolution of 5 x 5 in strides of 2.

    >>> cnn((1, 28, 28), 10)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """
    channels, height, width = _picture("cnn", inputs, least=4)
    wide = min(height, width) > 16
    first = nn.Conv2d(channels, 8, 5, stride=2, padding=2) if wide else nn.Conv2d(channels, 8, 3, padding=1)
    layers = nn.Sequential(
        first, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    )
    left = [(-(-size // 2) if wide else size) // 4 for size in (height, width)]
    return nn.Sequential(*layers, nn.Linear(16 * math.prod(left), classes))


def transformer(inputs: tuple[int, ...], classes: int) -> nn.Module:
    """A small vision transformer: patches become tokens, two blocks of attention read them, and their mean is classified.

    >>> transformer((1, 8, 8), 10)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    return Transformer(*_picture("transformer", inputs, least=2), classes)


class Transformer(nn.Module):
    """Patches of a quarter of the picture's side (at least 2 pixels) are embedded, with a learnt vector for their place."""

    def __init__(
        self, channels: int, height: int, width: int, classes: int, features: int = 32, heads: int = 4, depth: int = 2
    ) -> None:
        super().__init__()
        size = max(2, min(height, width) // 4)
        self.embed = nn.Conv2d(channels, features, size, stride=size)
        self.place = nn.Parameter(0.02 * torch.randn((height // size) * (width // size), features))
        self.blocks = nn.Sequential(*(Block(features, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(features)
        self.classify = nn.Linear(features, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores [n, classes] of pictures [n, channels, height, width]."""
        tokens = self.embed(pictures).flatten(2).mT + self.place  # [n, tokens, features]
        scores: Tensor = self.classify(self.norm(self.blocks(tokens)).mean(1))
        return scores


class Block(nn.Module):
    """Attention among tokens [n, tokens, features], then a perceptron on each; both add to what they read."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(features)
        self.project = nn.Linear(features, 3 * features)
        self.merge = nn.Linear(features, features)
        self.each = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, 2 * features), nn.GELU(), nn.Linear(2 * features, features)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape."""
        q, k, v = self.project(self.before(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)  # [n, heads, tokens, tokens]
        tokens = tokens + self.merge((attention @ v).transpose(1, 2).flatten(2))
        after: Tensor = tokens + self.each(tokens)
        return after


def _picture(name: str, inputs: tuple[int, ...], least: int) -> tuple[int, int, int]:
    """The channels, height and width of a sample that is a picture."""
    if len(inputs) != 3 or min(inputs[1:]) < least:
        raise InputError(
            f"network: model={name} reads pictures [channels, height, width] of at least {least} x {least} pixels, and a sample has shape "
            f"{list(inputs)}; use model=mlp"
        )
    channels, height, width = inputs
    return channels, height, width


MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}
"""By name."""
