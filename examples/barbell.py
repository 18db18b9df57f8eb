"""A topology of one's own: two groups of agents, and one chain between them."""

from itertools import combinations, pairwise

from distopt.errors import InputError
from distopt.network.graphs import graph_from_edges


def barbell(agents: int, bridge: int = 0):
    """Two complete groups, joined by a link or by a chain of ``bridge`` agents: all that one group knows must cross it."""
    size = (agents - bridge) // 2
    if bridge < 0 or size < 2:
        raise InputError(f"barbell: {agents} agents with a bridge of {bridge} leave {size} for a group; 2 are needed")
    left, right = range(size), range(size + bridge, agents)
    chain = range(size - 1, size + bridge + 1)
    return graph_from_edges(agents, [*combinations(left, 2), *combinations(right, 2), *pairwise(chain)])
