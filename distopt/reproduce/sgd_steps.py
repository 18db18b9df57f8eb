"""The step sizes up to which SGD on least squares is stable: by running it, and in the mean square, without a run."""

from __future__ import annotations

import numpy as np

from distopt.numerics.random import Key
from distopt.reproduce.landscape import Floats
from distopt.scenarios.digits_mlp import samples


def features() -> Floats:
    """The digits' pixels less their means, divided by 8, without pixels that never change [1797, 61]."""
    pixels = samples()[0].numpy()
    a = (pixels - pixels.mean(0)) / 8
    return np.asarray(a[:, a.std(0) > 0])


def stable(a: Floats, batch: int, rates: Floats, rounds: int, trials: int) -> float:
    """The largest step size at which e <- e - lr A_S'A_S e / B shrinks what was largest, for random rows S with repetition.

    The growth of |e| over the rounds, mean of log over trials, changes its sign there; between two of ``rates`` it is interpolated.
    All step sizes see the same rows. e starts along the leading eigenvector, and is made of length 1 again after each round.
    """
    lead = np.linalg.eigh(a.T @ a)[1][:, -1]
    drawn = Key(0, range(1), range(1), 1).uniform(f"random matrix/steps/{batch}", rounds * trials * batch)
    rows = (drawn[0, 0, 0].numpy().reshape(rounds, trials, batch) * len(a)).astype(np.int64)
    e = np.broadcast_to(lead, (trials, len(rates), len(lead))).copy()
    growth = np.zeros((trials, len(rates)))
    for chosen in rows:
        x = a[chosen]
        e = e - rates[:, None] / batch * ((e @ x.transpose(0, 2, 1)) @ x)
        size = np.linalg.norm(e, axis=-1)
        growth += np.log(size)
        e /= size[..., None]
    mean = growth.mean(0) / rounds
    place = int(np.nonzero(mean < 0)[0][-1])  # beyond the last step size that shrinks
    before, after = mean[place], mean[place + 1]
    return float(rates[place] * (rates[place + 1] / rates[place]) ** (before / (before - after)))


def mean_square(a: Floats, batch: int, rounds: int) -> float:
    """The largest step size at which E|e|^2 shrinks, for random rows S with repetition: without a run.

    M = E e e' becomes M - lr (H M + M H) + lr^2 Q(M), with H = A'A / n and

        Q(M) = E A_S'A_S M A_S'A_S / B^2 = (1 - 1/B) H M H + 1/B mean_r (a_r'M a_r) a_r a_r'.

    Q and the inverse of M -> H M + M H keep positive matrices positive, so the edge is lr = 1 over the largest eigenvalue of that inverse
    times Q, here by the power method.

    >>> round(mean_square(np.array([[1.0], [1.0]]), 1, 20), 6), round(mean_square(np.array([[2.0], [0.0]]), 2, 20), 6)
    (2.0, 0.666667)
    """
    values, vectors = np.linalg.eigh(a.T @ a / len(a))
    x = a @ vectors  # H is diagonal there
    m, size = np.eye(len(values)), 1.0
    for _ in range(rounds):
        q = (1 - 1 / batch) * values[:, None] * m * values + (x.T * ((x @ m) * x).sum(1)) @ x / (batch * len(x))
        m = q / (values[:, None] + values)
        size = float(np.linalg.norm(m))
        m /= size
    return 1 / size
