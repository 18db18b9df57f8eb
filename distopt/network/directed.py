"""The mixing matrix W of a directed graph, which its degrees make: rows that sum to 1, or columns."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property, partial

from distopt.errors import InputError, either
from distopt.network.digraphs import Digraph, both_directions
from distopt.network.graphs import Graph
from distopt.network.mixing import ConstantMixing, even
from distopt.network.properties import SPELLINGS, Properties, flaw, properties
from distopt.network.weights import DEGREES, RULES, degree_weights, reweighted

METHODS = ("ab", "push_diging", "push_sum_sgd", "robust_push_diging", "subgradient_push")
"""The algorithms that ask of no W that both its rows and its columns sum to 1, and count all agents' costs alike."""


class DirectedMixing(ConstantMixing):
    """W of a fixed directed graph by a degree rule: ``in_degree`` makes rows that sum to 1, ``out_degree`` columns.

    The default rule, metropolis, needs links in both directions. On a directed graph it stands for in_degree where rows
    must sum to 1, and for out_degree where columns must. If every agent has as many receivers as senders, as on a
    directed ring, one doubly stochastic W serves both. An undirected graph is one with two arcs for each link.

    >>> from distopt.network.digraphs import digraph_from_arcs
    >>> W = DirectedMixing(digraph_from_arcs(3, [[0, 1], [1, 2], [2, 0], [0, 2]]), "metropolis")
    >>> [W.require(each, "demo").rule for each in ("row", "column")]
    ['in_degree', 'out_degree']
    """

    def __init__(self, graph: Graph, rule: str) -> None:
        if rule not in (RULES[0], *DEGREES):
            raise InputError(
                f"weight rule {rule} needs links in both directions, and the graph is directed; use {' or '.join(DEGREES)}, or leave the rule "
                "out: each channel then gets the one that it needs"
            )
        self.agents, self.notes, self.positions, self.graph = graph.agents, graph.notes, graph.positions, graph
        self._arcs = graph if isinstance(graph, Digraph) else both_directions(graph)
        self._chosen = rule in DEGREES
        self.rule = rule if self._chosen else DEGREES[0]
        self._settles = True  # every agent weighs itself, and the graph is strongly connected
        self._made = partial(degree_weights, self.rule, graph.agents, *self._arcs.one_way)
        weight = self.terms.weight
        self._even = even(graph.agents, len(weight), weight)

    @cached_property
    def _columns(self) -> DirectedMixing:
        return DirectedMixing(self.graph, DEGREES[1])

    def by_column(self, needs: Properties) -> bool:
        """See ``Mixing``."""
        asked = "column" in needs and "row" not in needs
        return asked and not self._chosen and flaw(SPELLINGS["column"], *self.terms) is not None

    def require(self, needs: str | Collection[str], who: str) -> ConstantMixing:
        """See ``Mixing``."""
        needs = properties(needs)
        if "average" in needs:
            return super().require(needs, who)
        if self.by_column(needs):
            return self._columns
        if (found := flaw(needs, *self.terms)) is None:
            return self
        kind = "symmetric" if "symmetric" in needs else "doubly stochastic"
        kind = kind if len(needs) > 1 else f"{min(needs)}-stochastic"
        if self._chosen and (len(needs) == 1 or self._arcs is not self.graph):
            raise InputError(
                f"{who} needs {kind} weights, but by weight rule {self.rule} {found}; "
                f"leave {either('--weights', 'weights=')} out: a rule that fits is then chosen"
            )
        raise InputError(
            f"{who} needs {kind} weights, but the graph is directed and {found}; use a method for directed graphs "
            f"({', '.join(METHODS)}), or an undirected topology"
        )

    def objective(self) -> str | None:
        """See ``Mixing``."""
        found = reweighted(*self.terms)
        return None if found is None else f"{found}; for their mean use {', '.join(METHODS[:-1])} or {METHODS[-1]}"
