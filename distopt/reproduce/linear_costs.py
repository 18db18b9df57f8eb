"""Methods on costs f_t(x) = c_t x on [-1, 1], whose best fixed point is -1: what the experiments of AMSGrad and of ACProp share."""

from __future__ import annotations

import numpy as np

from distopt.reproduce.one_agent import EXACT, Floats, paths

TINY = 1e-300
"""The papers' eps is 0. The rules require eps > 0; this one is too small to change a float64."""


def directions(b1: float, b2: str, window: int, corrected: bool) -> dict[str, str]:
    """The direction rules by method, with moments b1 and b2 (or a list of b2 in brackets) and AdaShift's window of gradients.

    ``corrected``: Adam and AMSGrad divide their moments by 1 - b^t, as in torch. The others always do what their papers say.
    """
    both, switch = f"b1={b1},b2={b2}", f"bias_correction={str(corrected).lower()}"
    return {
        "Adam": f"adam({both},{EXACT},{switch})",
        "AMSGrad": f"amsgrad({both},{EXACT},{switch})",
        "AdaBelief": f"adabelief({both},eps={TINY})",
        "AdaShift": f"adashift({both},n={window},eps={TINY})",
        "ACProp": f"acprop({both},eps={TINY})",
    }


def path(scenario: str, direction: str, rounds: int, *, alpha: float, trials: int = 1, seed: int = 0) -> list[Floats]:
    """x_1 .. x_{T+1} [R, T + 1] with steps alpha / sqrt(t), t = 1, 2, ..., for each point of the direction's grid."""
    spec = f"dgd:lr=inverse_sqrt({alpha}),direction={direction}"
    return [x[..., 0] for x in paths(scenario, spec, rounds, trials=trials, seed=seed)]


def periodic(rounds: int, period: int, high: float, low: float) -> Floats:
    """c_1 .. c_T [T]: ``high`` if t mod ``period`` = 1, else ``low``."""
    return np.where(np.arange(1, rounds + 1) % period == 1, high, low).astype(np.float64)


def average_regret(x: Floats, slopes: Floats) -> Floats:
    """(1/t) sum_{k <= t} c_k (x_k - (-1)) for t = 1 .. T [T], of one path x_1 .. x_{T+1} against the best fixed point.

    >>> average_regret(np.array([0.0, 1.0, 1.0]), np.array([2.0, 1.0])).tolist()
    [2.0, 2.0]
    """
    found: Floats = np.cumsum(slopes * (x[: len(slopes)] + 1)) / np.arange(1, len(slopes) + 1)
    return found
