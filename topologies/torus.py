"""A rectangle of agents whose opposite sides are joined."""

from __future__ import annotations

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import Graph, graph_from_edges, most_square


def torus(agents: int) -> Graph:
    """A rows x columns lattice that wraps around in both directions, as square as N allows (rows <= columns).

    On a side of two agents, wrapping adds no second link. Raises InputError for prime N > 3, which would
    only give a ring.

    >>> from distopt.topologies.torus import torus
    >>> len(torus(12).edges)  # 3 x 4: four neighbours each
    24
    """
    rows, columns = most_square(agents)
    if rows == 1 and agents > 3:
        raise InputError(
            f"torus: {agents} agents do not fill a rectangle; use {agents - 1} or {agents + 1} agents, or topology ring"
        )
    number = np.arange(agents).reshape(rows, columns)
    links = [
        np.stack([number.ravel(), np.roll(number, -1, axis).ravel()], 1) for axis in (0, 1) if number.shape[axis] > 1
    ]
    r, c = np.divmod(np.arange(agents), columns)
    # rows and columns are drawn curved, so that the wrapping link is not hidden under the others
    x, y = c + 0.35 * np.sin(np.pi * r / max(rows - 1, 1)), r + 0.35 * np.sin(np.pi * c / max(columns - 1, 1))
    return graph_from_edges(agents, np.concatenate(links) if links else [], positions=np.stack([x, -y], 1))
