"""The plain direction: the gradient itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SGD:
    """Steepest descent, d_t = s_t. It remembers nothing.

    s_t [..., n, d] comes from the algorithm: the local gradient, or its tracked average.

    >>> import torch
    >>> from distopt.directions.sgd import SGD
    >>> sgd = SGD()
    >>> d, _ = sgd(torch.tensor([[2.5]]), sgd.init(torch.zeros(1, 1)))
    >>> d.item()
    2.5
    """

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def __call__(self, s: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return s, ()
