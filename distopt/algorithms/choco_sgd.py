"""CHOCO-SGD: gradient descent and gossip with compressed increments."""

from __future__ import annotations

from distopt.algorithms._through import Through
from distopt.algorithms.dgd import DGD
from distopt.channels.choco import Choco
from distopt.compressors.sign import Sign
from distopt.protocols import Compressor, Schedule
from distopt.ranges import named, share

sign = Sign()


def choco_sgd(lr: float | Schedule = 0.01, compressor: Compressor = sign, gamma: float = 0.3) -> Through:
    """CHOCO-SGD: a local step, then gossip about public copies [koloskova2019].

        y_t = x_t - lr g_t,    h_{t+1} = h_t + C(y_t - h_t),    x_{t+1} = y_t + gamma (W - I) h_{t+1},    h_0 = 0

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). h_t [..., n, d] are the public copies, memory of
    the channel that this algorithm brings. C is the compressor, and W the mixing matrix. lr > 0 is a number, a schedule or a tensor [R, 1, 1],
    and gamma is in (0, 1]. The same as ``dgd:form=atc`` through the channel ``choco``. Differing local gradients keep the agents apart, so
    with a constant step it stops at a distance from the optimum. Gradient tracking through the same channel (``c_gt``) does not.

    Raises:
        InputError: ``lr`` not positive, or gamma outside (0, 1].

    >>> import torch
    >>> from distopt.algorithms.choco_sgd import choco_sgd
    >>> choco, x = choco_sgd(lr=0.1), torch.tensor([[[0.0], [4.0]]])
    >>> x, _ = choco.update(2 * x, choco.init(x), x, lambda name, z: z.mean(-2, keepdim=True).expand_as(z))
    >>> round(x[0, 1, 0].item(), 4)
    1.6
    """
    with named("choco_sgd"):
        algorithm = DGD(lr, "atc")
        share("choco_sgd", gamma=gamma)
        return Through(algorithm, Choco(compressor, gamma))
