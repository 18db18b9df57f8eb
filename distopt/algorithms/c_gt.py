"""C-GT: gradient tracking through compressed increments."""

from __future__ import annotations

from typing import Any

from distopt.algorithms._through import Through
from distopt.algorithms.gt import GT
from distopt.channels.choco import Choco
from distopt.compressors.sign import Sign
from distopt.directions.sgd import SGD
from distopt.protocols import Compressor, Direction, Schedule
from distopt.ranges import named, share

sgd, sign = SGD(), Sign()


def c_gt(
    lr: float | Schedule = 0.01,
    compressor: Compressor = sign,
    gamma: float = 0.3,
    alpha: float = 1.0,
    direction: Direction[Any] = sgd,
) -> Through:
    """C-GT: gradient tracking in which points and trackers travel as compressed increments [liao2022].

        s_t = s_{t-1} - gamma (shat_{t-1} - W shat_{t-1}) + g_t - g_{t-1},     x_{t+1} = x_t - gamma (xhat_t - W xhat_t) - lr d(s_t)
        zhat_t = h_t + C(z_t - h_t),    h_{t+1} = (1 - alpha) h_t + alpha zhat_t,    h_0 = 0          for z = x and z = s

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). s_t [..., n, d] are the trackers (s_{-1} = g_{-1} =
    0). h [..., n, d] are copies that all neighbours hold, memory of the channel that this algorithm brings. C is the compressor, and W the mixing
    matrix. lr > 0 is a number, a schedule or a tensor [R, 1, 1], and gamma and alpha are in (0, 1]. d is the direction rule, in the paper the
    tracker itself. ``direction=adam`` is GTAdam with compression; we know of no proof for it. gamma (I - W) does not change the mean, so mean s =
    mean g for every C. For small enough gamma and lr, the method converges linearly where gradient tracking does. With C the identity and gamma =
    1 it is ``gt``.

    Raises:
        InputError: ``lr`` not positive, or gamma or alpha outside (0, 1].

    >>> import torch
    >>> from distopt.algorithms.c_gt import c_gt
    >>> cgt, x, a = c_gt(lr=0.3), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> state = cgt.init(x)
    >>> for _ in range(60):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = cgt.update(x - a, state, x, lambda name, z: z.mean(-2, keepdim=True).expand_as(z))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """
    with named("c_gt"):
        algorithm = GT(lr, direction=direction)
        share("c_gt", gamma=gamma)
        return Through(algorithm, Choco(compressor, gamma, alpha))
