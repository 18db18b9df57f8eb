"""STORM among agents that do not track: distributed descent along recursive estimates of local gradients."""

from __future__ import annotations

from distopt.algorithms.gt_storm import Form, GTStorm
from distopt.protocols import Schedule
from distopt.ranges import named


def storm(
    lr: float | Schedule = 0.01,
    k: float = 1.0,
    m: float = 100.0,
    c: float = 5.0,
    beta: float = 0.999,
    lam: float = 1e-3,
    *,
    adaptive: bool = True,
    form: Form = "cta",
) -> GTStorm:
    """Super-Adam with tau = 1 [huang2021] at every agent, and mixing of the points: ``gt_storm`` without its tracker.

        mu_t = k / (m + t)^(1/3),    al_t = min(c mu_{t-1}^2, 0.99)                                     t = 1, 2, ...
        G_t = g_t + (1 - al_t) (G_{t-1} - g_t(x_{t-1}))               G_1 = g_1          STORM [cutkosky2019]
        v_t = beta v_{t-1} + (1 - beta) g_t^2                         v_0 = 0
        x_{t+1} = W_t x_t - lr mu_t G_t / (sqrt(v_t / (1 - beta^t)) + lam)

    x_t, g_t, G_t and v_t are [..., n, d], one row per agent. Row i of g_t is grad f_{i,t}(x_{i,t}). g_t(x_{t-1}) is the gradient of the same
    costs at the points of the round before: a second gradient in every round. It is to ``gt_storm`` what ``dgd`` is to ``gt``: if the
    agents' costs differ, a bias remains. With ``adaptive=False`` nothing is divided. On one agent both are Super-Adam.

    Raises:
        InputError: as ``GTStorm``.

    >>> import torch
    >>> from distopt.algorithms.storm import storm
    >>> from distopt.network.net import Rehearsal
    >>> algorithm, x = storm(lr=1.0, m=7.0), torch.zeros(1, 1, 1)
    >>> x, _ = algorithm.update(x - 5, algorithm.init(x), x, Rehearsal(lambda name, z: z, x))
    >>> round(x.item(), 3)  # mu_1 = 1/2
    0.5
    """
    with named("storm"):
        return GTStorm(lr, form, k, m, c, beta, lam, adaptive, tracking=False)
