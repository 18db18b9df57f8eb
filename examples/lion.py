"""Lion: a direction rule of one's own, which looks at signs only (Chen et al., 2023, arXiv:2302.06675)."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Lion:
    """The sign of a mean of gradients: every coordinate moves by the step size, up or down.

    d_t = sign(b1 m_{t-1} + (1 - b1) s_t)
    m_t = b2 m_{t-1} + (1 - b2) s_t        m_0 = 0
    """

    b1: float = 0.9
    b2: float = 0.99

    def init(self, x):
        return torch.zeros_like(x)

    def __call__(self, s, m):
        d = torch.sign(self.b1 * m + (1 - self.b1) * s)
        return d, self.b2 * m + (1 - self.b2) * s
