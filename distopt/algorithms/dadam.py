"""DADAM: distributed gradient descent with Adam's direction."""

from __future__ import annotations

from distopt.algorithms.dgd import DGD, Form
from distopt.directions.adam import Adam
from distopt.directions.amsgrad import AMSGrad
from distopt.protocols import Schedule
from distopt.ranges import named


def dadam(
    lr: float | Schedule = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    cap: float | None = 1e6,
    *,
    b3: float | None = None,
    form: Form = "cta",
) -> DGD:
    """DADAM [nazari2022]: Adam's moments of the LOCAL gradient, mixing of the points alone.

        m_t = b1 m_{t-1} + (1 - b1) g_t                           m_{-1} = 0
        v_t = min(b2 v_{t-1} + (1 - b2) g_t^2, cap)               v_{-1} = 0
        x_{t+1} = W_t x_t - lr m_t / sqrt(v_t + eps)

    x_t, g_t, m_t and v_t are [..., n, d], one row per agent; row i of g_t is grad f_{i,t}(x_{i,t}). Without b3 it is the
    method that GTAdam is compared with. If the agents' costs differ, a bias remains, because the local gradients do not
    vanish at the optimum of the sum.

    With ``b3`` the root is taken of the paper's filtered maximum instead of v:

        top_t = b3 top_{t-1} + (1 - b3) max(top_{t-1}, v_t),      top_{-1} = 0

    b3 = 0 is AMSGrad. b3 = 1 would keep top = 0 for ever, so it is refused: leave b3 out for Adam.
    Further differences from the paper: the step does not fall like 1 / sqrt(t), nothing is projected, and eps and cap are
    those of GTAdam.

    Raises:
        InputError: as ``DGD``, ``Adam`` and ``AMSGrad``.

    >>> import torch
    >>> from distopt.algorithms.dadam import dadam
    >>> algorithm, x = dadam(lr=0.1), torch.zeros(1, 2, 1)
    >>> g = torch.tensor([[[-4.0], [7.0]]])
    >>> x, _ = algorithm.update(g, algorithm.init(x), x, lambda name, z: z.mean(-2, keepdim=True).expand_as(z))
    >>> round(x[0, 0, 0].item(), 3), round(x[0, 1, 0].item(), 3)
    (0.316, -0.316)
    """
    with named("dadam"):
        return DGD(lr, form, Adam(b1, b2, eps, cap=cap) if b3 is None else AMSGrad(b1, b2, b3, eps, cap=cap))
