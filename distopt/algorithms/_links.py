"""Shared by the methods of the ADMM family: the variables of the links, summed up at each agent."""

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
    """The links before any exchange: an agent's value is on its link with itself, z_ii = x_i, and all others are 0."""
    return Links(x.clone(), x.clone())


def relaxed(links: Links, x: Tensor, heard: Tensor, share: float) -> Links:
    """The links after an exchange of x; ``heard`` is W x, and ``share`` is the relaxation.

    z_ij <- (1 - share) z_ij - share (z_ji - 2 w_ij x_j) is the same linear recursion on every link, and a round only needs sum_j z_ij.
    The weights are symmetric, w_ij = w_ji, and sum_j w_ij = 1, including the self weight. Summed over j, the recursion is

        sum_j z_ij <- (1 - share) sum_j z_ij - share sum_j z_ji + 2 share (W x)_i
        sum_j z_ji <- (1 - share) sum_j z_ji - share sum_j z_ij + 2 share x_i

    So the two sums are enough. They only need W x, and agents need not know their links. This also holds if W changes and stays symmetric, as
    with links that fail in both directions and with agents that sleep: a missing link has the weight 0 at both ends. It does not hold if a
    message is lost in one direction: its sender then updates sum_j z_ji as if the message had arrived. ``robust_lt_admm`` is for that case.
    """
    own, other = links
    return Links(
        (1 - share) * own - share * other + 2 * share * heard, (1 - share) * other - share * own + 2 * share * x
    )
