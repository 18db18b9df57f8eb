"""Gradient descent and PowerGossip."""

from __future__ import annotations

from distopt.algorithms._through import Through
from distopt.algorithms.dgd import DGD
from distopt.channels.powergossip import powergossip as link_gossip
from distopt.protocols import Schedule
from distopt.ranges import named


def powergossip(lr: float | Schedule = 0.01, rank: int = 1, rows: int = 0, gamma: float = 1.0) -> Through:
    """PowerGossip: a local step, then gossip about low-rank differences along each link [vogels2020].

        y_t = x_t - lr g_t,    x_{i,t+1} = y_{i,t} - gamma sum_j w_ij C_ij(y_{i,t} - y_{j,t}),    C_ji(-z) = -C_ij(z)

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). C_ij projects the difference, as a matrix, on the
    ``rank`` directions that link (i, j) has found by power iteration. The channel ``powergossip``, which this algorithm brings, explains these,
    ``rows`` and gamma. W is the mixing matrix, constant and symmetric. lr > 0 is a number, a schedule or a tensor [R, 1, 1]. The same as
    ``dgd:form=atc`` through that channel. Like every decentralised gradient descent it stops, with a constant step, at a distance from the
    optimum.

    Raises:
        InputError: ``lr`` not positive, a rank below 1, negative rows, or gamma outside (0, 1].

    >>> import torch
    >>> from distopt.algorithms.powergossip import powergossip
    >>> power, x = powergossip(lr=0.1), torch.tensor([[[0.0], [4.0]]])
    >>> x, _ = power.update(2 * x, power.init(x), x, lambda name, z: z.mean(-2, keepdim=True).expand_as(z))
    >>> round(x[0, 1, 0].item(), 4)
    1.6
    """
    with named("powergossip"):
        return Through(DGD(lr, "atc"), link_gossip(rank, rows, gamma), weights="symmetric")
