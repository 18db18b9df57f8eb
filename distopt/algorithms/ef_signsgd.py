"""EF-signSGD."""

from __future__ import annotations

from distopt.algorithms.ef_sgd import EFSGD
from distopt.compressors.sign import Sign
from distopt.protocols import Schedule
from distopt.ranges import named


def ef_signsgd(lr: float | Schedule = 0.01, segments: str = "") -> EFSGD:
    """EF-signSGD: signs of the steps with one scale each, and error feedback [karimireddy2019].

        p_{i,t} = lr g_{i,t} + e_{i,t},    delta_{i,t} = (|p_{i,t}|_1 / d) sign(p_{i,t}),    e_{i,t+1} = p_{i,t} - delta_{i,t}
        x_{t+1} = x_t - (1/N) sum_i delta_{i,t}

    ``EFSGD`` with the scaled sign; see there for the symbols. The paper's algorithm has one worker; with several, each has a memory of
    its own. ``segments``, sizes joined by +, give each part of a row its own scale, as the paper's experiments do with the tensors of a
    model.

    Raises:
        InputError: as ``EFSGD`` and ``Sign``.

    >>> import torch
    >>> from distopt.algorithms.ef_signsgd import ef_signsgd
    >>> ef_signsgd(lr=0.1).channel.bits(d=1000, itemsize=4)
    1032
    """
    with named("ef_signsgd"):
        return EFSGD(lr, Sign(segments))
