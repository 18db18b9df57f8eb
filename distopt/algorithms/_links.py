"""What the methods of the ADMM family share: the variables of the links, summed up at each agent."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Links(NamedTuple):
    """The variables z_ij of the links, one at each end, summed up.

    Attributes:
        own: sum_j z_ij [..., n, *], of the agent's ends.
        other: sum_j z_ji [..., n, *], of the ends at its neighbours.
    """

    own: Tensor
    other: Tensor


def begun(x: Tensor) -> Links:
    """Links on which an agent's value x_i lies on the link with itself, z_ii = x_i, and all others are 0: nobody has heard of anybody."""
    return Links(x.clone(), x.clone())


def relaxed(links: Links, x: Tensor, heard: Tensor, share: float) -> Links:
    """The links after an exchange of x, of which W x was ``heard``; ``share`` is the relaxation.

    z_ij <- (1 - share) z_ij - share (z_ji - 2 w_ij x_j) is the same linear recursion on every link, and a round asks for sum_j z_ij alone.
    Summed over j, with w_ij = w_ji and sum_j w_ij = 1, the self weight among them, it is

        sum_j z_ij <- (1 - share) sum_j z_ij - share sum_j z_ji + 2 share (W x)_i
        sum_j z_ji <- (1 - share) sum_j z_ji - share sum_j z_ij + 2 share x_i

    so nothing is lost by keeping the two sums: W x is all that is heard, and no agent has to know its links. That also holds where W changes
    and stays symmetric, as with links that fail in both directions and agents that sleep: a link that is not there has the weight 0, and both
    ends know it. It does not hold where a message is lost one way: its sender's sum_j z_ji goes on as if it had been heard. There is
    ``robust_lt_admm`` for that.
    """
    own, other = links
    return Links(
        (1 - share) * own - share * other + 2 * share * heard, (1 - share) * other - share * own + 2 * share * x
    )
