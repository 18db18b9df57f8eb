"""DeepSqueeze: gradient descent and gossip about compressed values with error feedback."""

from __future__ import annotations

from distopt.algorithms._through import Through
from distopt.algorithms.dgd import DGD
from distopt.channels.error_feedback import ErrorFeedback
from distopt.compressors.sign import Sign
from distopt.protocols import Compressor, Schedule
from distopt.ranges import named, share

sign = Sign()


def deepsqueeze(lr: float | Schedule = 0.01, compressor: Compressor = sign, gamma: float = 0.1) -> Through:
    """DeepSqueeze: a local step, then gossip about its compressed value, errors added to the next [tang2019].

        y_t = x_t - lr g_t,    v_t = y_t + e_t,    e_{t+1} = v_t - C(v_t),    x_{t+1} = y_t + gamma (W - I) C(v_t),    e_0 = 0

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). e_t [..., n, d] are the errors, memory of the channel
    that this algorithm brings. C is the compressor, and W the mixing matrix. lr > 0 is a number, a schedule or a tensor [R, 1, 1], and gamma is in
    (0, 1]. It compresses values, not increments, so the error of C stays of the size of x. So gamma must be small, and with a constant gamma the
    method stops at a floor. It needs no constant W.

    Raises:
        InputError: ``lr`` not positive, or gamma outside (0, 1].

    >>> import torch
    >>> from distopt.algorithms.deepsqueeze import deepsqueeze
    >>> squeeze, x = deepsqueeze(lr=0.1), torch.tensor([[[0.0], [4.0]]])
    >>> x, _ = squeeze.update(2 * x, squeeze.init(x), x, lambda name, z: z.mean(-2, keepdim=True).expand_as(z))
    >>> round(x[0, 1, 0].item(), 4)
    1.6
    """
    with named("deepsqueeze"):
        algorithm = DGD(lr, "atc")
        share("deepsqueeze", gamma=gamma)
        return Through(algorithm, ErrorFeedback(compressor, gamma))
