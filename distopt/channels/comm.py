"""The COMM procedure of C-GT and LEAD."""

from __future__ import annotations

from distopt.channels.choco import Choco
from distopt.protocols import Compressor
from distopt.ranges import named, share


def comm(compressor: Compressor, gamma: float = 0.3, alpha: float = 0.5) -> Choco:
    """COMM: public copies that move by a fraction alpha of each message only [liu2021] [liao2022].

        zhat_t = h_t + C(z_t - h_t),    h_{t+1} = (1 - alpha) h_t + alpha zhat_t,    result: z_t + gamma (W - I) zhat_t

    ``Choco`` with alpha < 1; see there for the symbols. It suits compressors that are no contraction, such as ``qsgd``, with which
    alpha = 1 may diverge.

    Raises:
        InputError: as ``Choco``.

    >>> from distopt.channels.comm import comm
    >>> from distopt.compressors.qsgd import QSGD
    >>> comm(QSGD(levels=2)).alpha
    0.5
    """
    share("comm", gamma=gamma)
    with named("comm"):
        return Choco(compressor, gamma, alpha)
