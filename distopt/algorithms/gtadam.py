"""GTAdam: gradient tracking with Adam's direction."""

from __future__ import annotations

from distopt.algorithms.gt import GT, Form
from distopt.directions.adam import Adam
from distopt.protocols import Schedule
from distopt.ranges import named


def gtadam(
    lr: float | Schedule = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    cap: float = 1e6,
    *,
    form: Form = "cta",
) -> GT:
    """GTAdam [carnevale2023]: Adam's moments of the TRACKED gradient, so that only two vectors travel and none of Adam's.

        s_t = W_t s_{t-1} + g_t - g_{t-1}                         s_{-1} = g_{-1} = 0
        m_t = b1 m_{t-1} + (1 - b1) s_t                           m_{-1} = 0
        v_t = min(b2 v_{t-1} + (1 - b2) s_t^2, cap)               v_{-1} = 0
        x_{t+1} = W_t x_t - lr m_t / sqrt(v_t + eps)

    x_t, g_t, s_t, m_t and v_t are [..., n, d], one row per agent. Row i of g_t is grad f_{i,t}(x_{i,t}), and W_t is the
    doubly stochastic mixing matrix of round t. No bias is corrected, so the first step is lr (1 - b1) / sqrt(1 - b2) = 3.16
    lr in every coordinate. Public implementations disagree on eps; it is inside the root here, as the analysis needs it. At a
    fixed optimum s_i = 0 for every agent, so different preconditioners do no harm. But v falls towards 0 there. With a small
    eps the error then jumps to the order of lr from time to time. ``form`` other than "cta" is not in the paper.

    Raises:
        InputError: as ``GT`` and ``Adam``.

    >>> import torch
    >>> from distopt.algorithms.gtadam import gtadam
    >>> algorithm, x = gtadam(lr=0.1), torch.zeros(1, 2, 1)
    >>> g = torch.tensor([[[-4.0], [7.0]]])
    >>> x, _ = algorithm.update(g, algorithm.init(x), x, lambda name, z: z.mean(-2, keepdim=True).expand_as(z))
    >>> round(x[0, 0, 0].item(), 3), round(x[0, 1, 0].item(), 3)
    (0.316, -0.316)
    """
    with named("gtadam"):
        return GT(lr, form, Adam(b1, b2, eps, cap=cap))
