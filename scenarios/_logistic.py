"""Logistic and softmax costs on a block of agents, and the sliding window of rows that streams feed them.

Shapes: x [R, n, d]; features X [R|1, n|1, m, p]; labels y [R|1, n|1, m], -1 or +1 (binary, d = p) or int64 class ids
(softmax, d = C p, rows of the C x p matrix one after the other); row weights w [R|1, n|1, m], 0 for a row that is absent and
summing to 1 over an agent's rows; ``l2`` the ridge parameter. An agent without rows keeps only its ridge term.

Losses and gradients contract by product and sum, and use ``tanh``, ``exp`` and ``log1p``: so an agent's numbers have the
same bits in every block. ``sigmoid``, ``softplus``, ``logaddexp`` and BLAS do not give that. Hessians are for the
comparator, which has all agents at once, so they may use BLAS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def _margin(x: Tensor, X: Tensor, y: Tensor) -> Tensor:
    return y * (X * x.unsqueeze(-2)).sum(-1)


def logistic_loss(x: Tensor, X: Tensor, y: Tensor, w: Tensor, l2: float) -> Tensor:
    """sum_k w_k log(1 + exp(-y_k X_k . x)) + l2/2 |x|^2 for every agent, [R, n].

    >>> x, X, y = torch.zeros(1, 1, 2), torch.ones(1, 1, 4, 2), torch.ones(1, 1, 4)
    >>> round(float(logistic_loss(x, X, y, y / 4, 0.1)), 4)  # log 2
    0.6931
    """
    z = _margin(x, X, y)
    each = (-z).clamp(min=0) + torch.log1p(torch.exp(-z.abs()))  # log(1 + exp(-z)), without overflow
    return (w * each).sum(-1) + 0.5 * l2 * (x * x).sum(-1)


def logistic_grad(x: Tensor, X: Tensor, y: Tensor, w: Tensor, l2: float) -> Tensor:
    """-sum_k w_k y_k X_k / (1 + exp(y_k X_k . x)) + l2 x, [R, n, d].

    >>> x, X, y = torch.zeros(1, 1, 2), torch.ones(1, 1, 4, 2), torch.ones(1, 1, 4)
    >>> logistic_grad(x, X, y, y / 4, 0.1).tolist()
    [[[-0.5, -0.5]]]
    """
    pull = w * y * (0.5 * torch.tanh(0.5 * _margin(x, X, y)) - 0.5)
    return (pull.unsqueeze(-1) * X).sum(-2) + l2 * x


def logistic_hessian(x: Tensor, X: Tensor, y: Tensor, w: Tensor, l2: float) -> Tensor:
    """Summed over agents: sum_k w_k s_k (1 - s_k) X_k X_k' + l2 I with s_k = 1 / (1 + exp(-y_k X_k . x)), [R, d, d].

    >>> x, X, y = torch.zeros(1, 1, 2), torch.ones(1, 1, 4, 2), torch.ones(1, 1, 4)
    >>> logistic_hessian(x, X, y, y / 4, 1.0).tolist()
    [[[1.25, 0.25], [0.25, 1.25]]]
    """
    bend = 0.25 * w * (1 - torch.tanh(0.5 * _margin(x, X, y)).square())
    rows = X.expand(*bend.shape, -1).flatten(-3, -2)  # the rows of all agents: one product instead of n
    ridge = x.shape[-2] * l2 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return (bend.flatten(-2).unsqueeze(-1) * rows).mT @ rows + ridge


def _scores(x: Tensor, X: Tensor) -> Tensor:
    # One class at a time: the [R, n, m, C, p] product of all classes at once would not fit when rounds are folded into R.
    return torch.stack([(X * block.unsqueeze(-2)).sum(-1) for block in x.chunk(x.shape[-1] // X.shape[-1], -1)], -1)


def _one_hot(y: Tensor, classes: int) -> Tensor:
    return y.unsqueeze(-1) == torch.arange(classes, device=y.device)


def softmax_loss(x: Tensor, X: Tensor, y: Tensor, w: Tensor, l2: float) -> Tensor:
    """sum_k w_k (log sum_c exp(X_k . x_c) - X_k . x_{y_k}) + l2/2 |x|^2, [R, n].

    >>> x, X, y = torch.zeros(1, 1, 6), torch.ones(1, 1, 4, 2), torch.zeros(1, 1, 4, dtype=torch.int64)
    >>> round(float(softmax_loss(x, X, y, torch.full((1, 1, 4), 0.25), 0.1)), 4)  # log 3
    1.0986
    """
    s = _scores(x, X)
    own = torch.where(_one_hot(y, s.shape[-1]), s, 0.0).sum(-1)
    return (w * (torch.logsumexp(s, -1) - own)).sum(-1) + 0.5 * l2 * (x * x).sum(-1)


def softmax_grad(x: Tensor, X: Tensor, y: Tensor, w: Tensor, l2: float) -> Tensor:
    """The rows sum_k w_k (P_kc - [y_k = c]) X_k of the gradient's C x p matrix, laid out like x, plus l2 x: [R, n, C p].

    >>> x, X, y = torch.zeros(1, 1, 4), torch.ones(1, 1, 4, 2), torch.zeros(1, 1, 4, dtype=torch.int64)
    >>> softmax_grad(x, X, y, torch.full((1, 1, 4), 0.25), 0.1).tolist()
    [[[-0.5, -0.5, 0.5, 0.5]]]
    """
    s = _scores(x, X)
    pull = w.unsqueeze(-1) * (torch.softmax(s, -1) - _one_hot(y, s.shape[-1]).to(s.dtype))
    return torch.cat([(one.unsqueeze(-1) * X).sum(-2) for one in pull.unbind(-1)], -1) + l2 * x


def softmax_hessian(x: Tensor, X: Tensor, y: Tensor, w: Tensor, l2: float) -> Tensor:
    """Summed over agents, blocks (c, e): sum_k w_k P_kc ([c = e] - P_ke) X_k X_k', plus l2 I: [R, C p, C p].

    >>> x, X, y = torch.zeros(1, 1, 2), torch.ones(1, 1, 4, 1), torch.zeros(1, 1, 4, dtype=torch.int64)
    >>> softmax_hessian(x, X, y, torch.full((1, 1, 4), 0.25), 1.0).tolist()
    [[[1.25, -0.25], [-0.25, 1.25]]]
    """
    P = torch.softmax(_scores(x, X), -1)
    C, p = P.shape[-1], X.shape[-1]
    rows = X.expand(*P.shape[:-1], -1).flatten(-3, -2)  # the rows of all agents: one product instead of n
    weight, P = w.expand(P.shape[:-1]).flatten(-2).unsqueeze(-1), P.flatten(-3, -2)
    # H = sum_c e_c e_c' (x) X' diag(w P_c) X - A' A with A_k = sqrt(w_k) P_k (x) X_k
    A = ((weight.sqrt() * P).unsqueeze(-1) * rows.unsqueeze(-2)).flatten(-2)
    H = -(A.mT @ A).reshape(*P.shape[:-2], C, p, C, p)
    for c in range(C):
        H[..., c, :, c, :] += (weight * P[..., c : c + 1] * rows).mT @ rows
    return H.flatten(-2).flatten(-3, -2) + x.shape[-2] * l2 * torch.eye(C * p, dtype=x.dtype, device=x.device)


def _fraction(hit: Tensor, fresh: Tensor) -> Tensor:
    return (hit & fresh).sum(-1).to(torch.float64) / fresh.sum(-1)  # 0/0 is the nan that the contract asks for


def logistic_accuracy(x: Tensor, X: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
    """Fraction of the rows marked ``fresh`` (bool [R|1, n|1, m]) that sign(X_k . x) labels correctly, [R, n].

    A score of exactly 0 counts as +1; nan where an agent has no fresh row.

    >>> X, y = torch.tensor([[[[1.0], [-1.0], [2.0]]]]), torch.tensor([[[1.0, 1.0, 1.0]]])
    >>> float(logistic_accuracy(torch.ones(1, 1, 1), X, y, torch.tensor([[[True, True, False]]])))
    0.5
    """
    return _fraction(((X * x.unsqueeze(-2)).sum(-1) >= 0) == (y > 0), fresh)


def softmax_accuracy(x: Tensor, X: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
    """Fraction of the ``fresh`` rows whose largest score is their own class, [R, n]; ties go to the lowest class id.

    >>> X, y = torch.ones(1, 1, 2, 1), torch.tensor([[[0, 2]]])
    >>> float(softmax_accuracy(torch.tensor([[[0.0, 1.0, 3.0]]]), X, y, torch.ones(1, 1, 2, dtype=torch.bool)))
    0.5
    """
    return _fraction(_scores(x, X).argmax(-1) == y, fresh)


def last_label_accuracy(last: Tensor, y: Tensor, fresh: Tensor) -> Tensor:
    """Fraction of the ``fresh`` rows whose label is ``last`` [R|1, n|1, 1], the agent's newest label before the round, [R, n].

    >>> y = torch.tensor([[[1.0, -1.0, 1.0, 1.0]]])
    >>> round(float(last_label_accuracy(torch.ones(1, 1, 1), y, torch.tensor([[[False, True, True, True]]]))), 3)
    0.667
    """
    return _fraction(last == y, fresh)


def window_rounds(t: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which rounds a sliding window over rounds ``t`` [K, 1, 1, 1] needs: (needed, index, present).

    ``needed`` int64 [L, 1, 1, 1], ascending and each once, to be drawn; ``index`` [K, window] says where in it the rounds
    t - window + 1 .. t lie; ``present`` bool [K, window] is false before round 0 (there ``index`` points at round 0).

    >>> needed, index, present = window_rounds(torch.tensor([1, 2]).reshape(2, 1, 1, 1), 3)
    >>> needed.flatten().tolist(), index.tolist(), present.tolist()
    ([0, 1, 2], [[0, 0, 1], [0, 1, 2]], [[False, True, True], [True, True, True]])
    """
    rounds = t.reshape(-1, 1) - torch.arange(window - 1, -1, -1)
    needed, index = torch.unique(rounds.clamp(min=0), return_inverse=True)
    return needed.reshape(-1, 1, 1, 1), index, rounds >= 0


def gather_window(rows: Tensor, index: Tensor) -> Tensor:
    """Rows [L, R, n, k, ...] of the needed rounds -> [K, R, n, window k, ...], oldest round first.

    >>> gather_window(torch.arange(6.0).reshape(3, 1, 1, 2), torch.tensor([[0, 1], [1, 2]]))[1].tolist()
    [[[2.0, 3.0, 4.0, 5.0]]]
    """
    return rows[index].movedim(1, 3).flatten(3, 4)


class Window(NamedTuple):
    """The batch of a scenario whose agents learn from the rows of their last few rounds (m = window x rows per round).

    Attributes:
        X: features, float64 [K, R, n, m, p], oldest round first.
        y: labels [K, R, n, m].
        w: row weights, float64 [K, 1, 1, m].
        fresh: bool [1, 1, 1, m], the rows that arrived in the round itself.
        last: [K, R, n, 1], the agent's newest label before the round; in round 0, where there is none, 0 (binary) or -1 (ids),
            which no row carries: predicting no change is then always wrong.
    """

    X: Tensor
    y: Tensor
    w: Tensor
    fresh: Tensor
    last: Tensor


def sliding_window(t: Tensor, window: int, rows: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Window:
    """The batch of rounds ``t`` [K, 1, 1, 1] whose cost is the mean loss on the rows of rounds t - window + 1 .. t.

    ``rows(tau)`` makes (X [L, R, n, k, p], y [L, R, n, k]) of rounds tau; every needed round is made once per call. Rounds
    before 0 are absent: their rows weigh 0 and the mean is over the others.

    >>> draw = lambda tau: (tau.double().reshape(-1, 1, 1, 1, 1), tau.double())
    >>> sliding_window(torch.tensor([1]).reshape(1, 1, 1, 1), 4, draw).w.flatten().tolist()
    [0.0, 0.0, 0.5, 0.5]
    """
    needed, index, present = window_rounds(
        t, max(window, 2)
    )  # the label before the round is needed even when window = 1
    X, y = rows(needed)
    k = y.shape[-1]
    before = present[:, -2].reshape(-1, 1, 1, 1)
    last = torch.where(before, y[index[:, -2]][..., -1:], 0 if y.is_floating_point() else -1)
    index, present = index[:, -window:], present[:, -window:]
    w = (present.to(torch.float64) / (present.sum(-1, keepdim=True) * k)).repeat_interleave(k, -1)
    fresh = torch.arange(window * k) >= (window - 1) * k
    return Window(gather_window(X, index), gather_window(y, index), w[:, None, None], fresh[None, None, None], last)
