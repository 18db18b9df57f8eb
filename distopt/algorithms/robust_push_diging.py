"""Push-DIGing with running sums: exact though messages are lost one way."""

from __future__ import annotations

from distopt.algorithms._through import Through
from distopt.algorithms.push_diging import PushDIGing
from distopt.channels.running_sums import running_sums
from distopt.protocols import Schedule
from distopt.ranges import named


def robust_push_diging(lr: float | Schedule = 0.01) -> Through:
    """Push-DIGing whose u, w and y travel as running sums: exact on directed graphs even if messages are lost in one direction.

        y_t = C_t y_{t-1} + g_t - g_{t-1}                         y_{-1} = g_{-1} = 0
        u_{t+1} = C_t (w_t x_t - lr y_t)
        w_{t+1} = C_t w_t                                         w_0 = 1
        x_{t+1} = u_{t+1} / w_{t+1}

    C_t z is the result of the channel ``running_sums``, which this algorithm brings: a lost value arrives with the next message that is not
    lost. x_t [..., n, d] are the agents' points, y_t [..., n, d] their trackers, and w_t [..., n, 1] the push-sum weights. Row i of g_t is grad
    f_{i,t}(x_{i,t}). The columns of C sum to 1. lr > 0 is a number, a schedule or a tensor [R, 1, 1]. The sums of u, w and y over all agents,
    plus what is still to arrive, equal the sums without losses. So x converges to the minimiser of the mean cost. ``push_diging`` loses
    part of w, and fails.

    The running sums are those of robust push-sum [hadjicostis2016]. RASGP [spiridonoff2020] sends u and w in this way, without tracking. ASY-SONATA
    [tian2020] tracks by running sums among asynchronous agents. Without losses it is ``push_diging`` [nedic2017] to rounding. The trackers' sum
    equals the sum of the gradients minus what is still to arrive. The metric ``tracker_invariant`` shows this difference, which tends to 0.

    Raises:
        InputError: ``lr`` not positive.

    >>> import distopt
    >>> ask = {"agents": 8, "scenario": "quadratic:kappa=2", "rounds": 500, "drop_messages": 0.3}
    >>> run = distopt.simulate("random_digraph:p=0.5", algorithm="robust_push_diging:lr=0.1", **ask)
    >>> [round(float(run["tracking_error"][0, t]), 6) for t in (0, -1)]
    [0.685575, 0.0]
    """
    with named("robust_push_diging"):
        return Through(PushDIGing(lr), running_sums(), weights="column")
