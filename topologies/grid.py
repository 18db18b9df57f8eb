"""A rectangle of agents."""

from __future__ import annotations

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import Graph, graph_from_edges, most_square


def grid(agents: int) -> Graph:
    """A rows x columns lattice, as square as N allows (rows <= columns); agent r columns + c has up to four neighbours.

    Raises InputError for prime N > 3, which would only give a path.

    >>> from distopt.topologies.grid import grid
    >>> len(grid(12).edges)  # 3 x 4
    17
    """
    rows, columns = most_square(agents)
    if rows == 1 and agents > 3:
        raise InputError(
            f"grid: {agents} agents do not fill a rectangle; use {agents - 1} or {agents + 1} agents, or topology path"
        )
    number = np.arange(agents).reshape(rows, columns)
    across = np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], 1)
    down = np.stack([number[:-1].ravel(), number[1:].ravel()], 1)
    r, c = np.divmod(np.arange(agents), columns)
    return graph_from_edges(agents, np.concatenate([across, down]), positions=np.stack([c, -r], 1))
