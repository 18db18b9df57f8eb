"""Mixing weights: the rules that make them from a graph, their spectra, and whether their powers settle.

Weights of a link (i, j) by rule, with degrees d without self loops; the self weight is 1 minus the others:

- ``metropolis``: 1 / (1 + max(d_i, d_j)) [xiao2007];
- ``lazy_metropolis`` (or ``lazy``): half of that, so that no eigenvalue is negative;
- ``max_degree``: 1 / (1 + max_k d_k);
- ``best_constant``: 2 / (lambda_2 + lambda_max) of the Laplacian, the best single weight [xiao2004];
- ``fastest``: non-negative weights with the largest spectral gap, by semidefinite programming (small graphs) [boyd2004].

All are symmetric, hence doubly stochastic. Directed graphs have two other rules, by the number of an agent's senders or receivers:

- ``in_degree``: agent i gives itself and each sender the same weight, 1 / (1 + in-degree of i), so that rows sum to 1;
- ``out_degree``: agent j splits its value equally among itself and its receivers, 1 / (1 + out-degree of j), so that columns sum to 1.
"""

from __future__ import annotations

import difflib
import warnings
from typing import Any

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import TOLERANCE, Floats, Graph, Ints, check_connected
from distopt.network.properties import SPELLINGS, Terms, flaw
from distopt.numerics.random import words

RULES = ("metropolis", "lazy_metropolis", "max_degree", "best_constant", "fastest")
SPECTRAL = ("best_constant", "fastest")
"""The rules that look at the whole graph at once: they need one that does not change."""

DEGREES = ("in_degree", "out_degree")
"""The rules of directed graphs, and of undirected ones whose links are taken for two arcs."""

DENSE = 1500
"""Agents up to which a spectrum is computed from a dense matrix."""

_SDP = 100  # agents up to which a semidefinite program ends in minutes


def rule_name(rule: str) -> str:
    """The rule's full name; hyphens and blanks count as underscores. Raises InputError, with the nearest name, if there is no such rule.

    >>> rule_name("lazy"), rule_name("max-degree")
    ('lazy_metropolis', 'max_degree')
    """
    name = rule.strip().lower().replace("-", "_").replace(" ", "_")
    name = "lazy_metropolis" if name == "lazy" else name
    if name not in (*RULES, *DEGREES):
        close = difflib.get_close_matches(name, (*RULES, *DEGREES), 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"unknown weight rule {rule!r}{hint}. Known: {', '.join((*RULES, *DEGREES))}")
    return name


def link_weights(graph: Graph, rule: str) -> Floats:
    """The weight of each of ``graph.edges`` [E] by a rule's full name. Raises InputError where a spectral rule has no answer.

    >>> from distopt.network.graphs import graph_from_edges
    >>> link_weights(graph_from_edges(3, [[0, 1], [1, 2]]), "best_constant").tolist()
    [0.5, 0.5]
    """
    i, j = graph.edges.T
    if rule in SPECTRAL and len(i):
        check_connected(graph)
        return _fastest(graph) if rule == "fastest" else np.full(len(i), _best_constant(graph))
    degree = np.bincount(graph.edges.ravel(), minlength=graph.agents)
    return by_degree(rule, degree[i], degree[j], int(degree.max()))


def arc_weights(rule: str, agents: int, block: Ints, receiver: Ints, sender: Ints, who: str) -> Floats:
    """The weight of each directed link [A] by a degree rule; links of one ``block`` (round and trial) form one graph.

    Raises InputError unless each link is listed in both directions; ``who`` names the list in the message.

    >>> both = np.array([0, 1]), np.array([1, 0])
    >>> arc_weights("metropolis", 3, np.array([4, 4]), *both, "demo").tolist()
    [0.5, 0.5]
    """
    row, column, blocks = block * agents + receiver, block * agents + sender, int(block.max(initial=-1)) + 1
    if _unordered(row * agents + sender) != _unordered(column * agents + receiver):
        raise InputError(
            f"{who} lists links in one direction only, for which weight rule {rule} is not defined; "
            "list both directions, or give Arcs.weight"
        )
    degree = np.bincount(row, minlength=blocks * agents)
    return by_degree(rule, degree[row], degree[column], degree.reshape(blocks, agents).max(1)[block])


def degree_weights(rule: str, agents: int, receiver: Ints, sender: Ints) -> Terms:
    """The weights of arcs [A] by one of ``DEGREES``. An agent keeps for itself what its row, or its column, lacks of 1.

    >>> terms = degree_weights("out_degree", 3, np.array([1, 2, 0]), np.array([0, 0, 1]))
    >>> terms.weight.round(4).tolist(), terms.own.round(4).tolist()
    ([0.3333, 0.3333, 0.5], [0.3333, 0.5, 1.0])
    """
    split = receiver if rule == "in_degree" else sender
    weight: Floats = 1.0 / (1.0 + np.bincount(split, minlength=agents)[split].astype(np.float64))
    return Terms(receiver, sender, weight, 1.0 - np.bincount(split, weight, agents).astype(np.float64))


def perron(receiver: Ints, sender: Ints, weight: Floats, own: Floats) -> Floats:
    """The left Perron vector pi [N] of row-stochastic weights of a connected network: pi' W = pi', and pi sums to 1. For small networks.

    >>> perron(np.array([0, 1, 2, 2]), np.array([2, 0, 0, 1]), np.array([0.5, 0.5, 0.25, 0.25]), np.full(3, 0.5)).round(4).tolist()
    [0.4, 0.2, 0.4]
    """
    n = len(own)
    system = np.diag(own - 1.0)
    np.add.at(system, (sender, receiver), weight)  # W' - I, whose rows are dependent: one of them gives way to the sum
    system[-1] = 1.0
    found: Floats = np.linalg.solve(system, np.eye(n)[-1])
    return found


def reweighted(receiver: Ints, sender: Ints, weight: Floats, own: Floats) -> str | None:
    """The objective of a method with only row-stochastic weights, for a warning; None if columns sum to 1, too.

    It is sum_i pi_i f_i with the left Perron vector pi in the place of 1/N.

    >>> reweighted(np.array([0, 1]), np.array([1, 0]), np.array([0.5, 0.25]), np.array([0.5, 0.75]))
    'a weighted sum of the costs, in which they count from 0.667 (agent 0) to 1.33 (agent 1) times as much as in their mean'
    """
    if flaw(SPELLINGS["column"], receiver, sender, weight, own) is None:
        return None
    if len(own) > DENSE:
        return "a weighted sum of the costs, not their mean"
    shares = len(own) * perron(receiver, sender, weight, own)
    low, high = int(shares.argmin()), int(shares.argmax())
    spread = f"from {shares[low]:.3g} (agent {low}) to {shares[high]:.3g} (agent {high})"
    return f"a weighted sum of the costs, in which they count {spread} times as much as in their mean"


def second_eigenvalue(W: Any, symmetric: bool) -> float:
    """The second largest |eigenvalue| of weights W [N, N] with rows or columns that sum to 1: an array, or sparse above ``DENSE`` agents.

    Raises InputError where a sparse W that is not symmetric has too crowded a spectrum for the solver.

    >>> round(second_eigenvalue(np.array([[0.75, 0.25], [0.25, 0.75]]), True), 6)
    0.5
    """
    n = W.shape[0]
    if isinstance(W, np.ndarray):
        rest = (
            W - 1.0 / n
        )  # moves the eigenvalue 1, of which the vector of ones is a right or left vector, to 0 and no other
        values = np.linalg.eigvalsh((rest + rest.T) / 2) if symmetric else np.linalg.eigvals(rest)
        return float(np.abs(values).max())
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator

    try:
        return _extreme(LinearOperator((n, n), matvec=lambda x: W @ x.ravel() - x.mean(), dtype=np.float64), symmetric)
    except ArpackNoConvergence:
        if not symmetric:
            raise InputError(f"the spectrum of this {n} x {n} matrix did not converge; use a smaller network") from None
        return max(float(_nearest(W, 1.0 + 1e-3 / n)[0]), -float(_nearest(W, -1.0 - 1e-3 / n)[0]))


def period(agents: int, receiver: Ints, sender: Ints, weight: Floats, own: Floats) -> int:
    """The greatest common divisor of the lengths of all cycles of weights that are not rounding, self weights being cycles of length 1.

    Non-negative weights of a connected network have as many eigenvalues of size 1 as their period says; their powers converge if it is
    1.

    >>> period(2, np.array([0, 1]), np.array([1, 0]), np.ones(2), np.zeros(2))
    2
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    if agents == 1 or own.max() > TOLERANCE:
        return 1
    there = weight > TOLERANCE
    links = coo_array((np.ones(int(there.sum())), (receiver[there], sender[there])), shape=(agents, agents)).tocsr()
    level = dijkstra(links, indices=0, unweighted=True)
    steps = level[receiver[there]] + 1 - level[sender[there]]
    return int(np.gcd.reduce(steps[np.isfinite(steps)].astype(np.int64)))


def check_settles(who: str, receiver: Ints, sender: Ints, weight: Floats, own: Floats, drop_links: float = 0.0) -> None:
    """Raise InputError unless the powers of a connected W settle, that is unless all its eigenvalues but one are smaller than 1.

    With ``drop_links`` this is the mean of W, where each agent keeps the weights of failed links. Non-negative weights
    are judged by their ``period``, exactly and in time that grows with the number of links; others by their spectrum.

    >>> check_settles("gt", np.array([0, 1]), np.array([1, 0]), np.ones(2), np.zeros(2))
    Traceback (most recent call last):
    ...
    distopt.errors.InputError: gt needs weights whose powers converge, but W has the eigenvalue -1 (periodic); give (I + W) / 2, or use a weight rule
    """
    agents = len(own)
    weight, own = (1 - drop_links) * weight, own + drop_links * (1 - own)
    if min(weight.min(initial=0.0), own.min()) >= -TOLERANCE:
        steps = period(agents, receiver, sender, weight, own)
        if steps == 1:
            return
        found = (
            "the eigenvalue -1 (periodic)" if steps == 2 else f"{steps} eigenvalues of size 1 (its period is {steps})"
        )
    else:
        try:
            second = second_size(receiver, sender, weight, own)
        except InputError as doubt:  # too large to check; if differences grow, the run is reported as diverged
            warnings.warn(
                f"{who} needs weights whose powers converge, which could not be checked: {doubt}", stacklevel=2
            )
            return
        if second < 1.0 - 1e-12:
            return
        how = "differences would grow" if second > 1.0 + TOLERANCE else "differences would stay"
        found = f"a second largest eigenvalue of size {second:.6g} ({how})"
    raise InputError(
        f"{who} needs weights whose powers converge, but W has {found}; give (I + W) / 2, or use a weight rule"
    )


def second_size(receiver: Ints, sender: Ints, weight: Floats, own: Floats) -> float:
    """``second_eigenvalue`` of weights off the diagonal, and ``own`` on it.

    >>> round(second_size(np.array([0, 1]), np.array([1, 0]), np.full(2, 0.25), np.full(2, 0.75)), 6)
    0.5
    """
    from scipy.sparse import coo_array, diags_array

    n = len(own)
    W = coo_array((weight, (receiver, sender)), shape=(n, n)).tocsr() + diags_array(own)
    symmetric = flaw(SPELLINGS["symmetric"], receiver, sender, weight, own) is None
    return second_eigenvalue(W.toarray() if n <= DENSE else W, symmetric)


def by_degree(rule: str, mine: Ints, other: Ints, top: Ints | int) -> Floats:
    """Weights of links between agents of these degrees; ``top`` is the largest degree of the graph."""
    if rule == "max_degree":
        return np.broadcast_to(1.0 / (1.0 + np.asarray(top)), mine.shape).astype(np.float64)
    weight: Floats = 1.0 / (1.0 + np.maximum(mine, other))
    return weight / 2 if rule == "lazy_metropolis" else weight


def _unordered(numbers: Ints) -> int:
    """A 64-bit hash of a multiset: equal for every order, and far cheaper to compare than two sorted arrays."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return int((x ^ (x >> np.uint64(32))).sum(dtype=np.uint64))


def _laplacian(graph: Graph) -> Any:
    from scipy.sparse import coo_array

    i, j = graph.edges.T
    n, ones = graph.agents, np.ones(len(i))
    degree = np.bincount(graph.edges.ravel(), minlength=n).astype(np.float64)
    diagonal = np.arange(n)
    values = np.concatenate([degree, -ones, -ones])
    return coo_array(
        (values, (np.concatenate([diagonal, i, j]), np.concatenate([diagonal, j, i]))), shape=(n, n)
    ).tocsr()


def _extreme(A: Any, symmetric: bool = True) -> float:
    """The largest |eigenvalue| of a sparse matrix or operator; raises ArpackNoConvergence where the top is too crowded."""
    from scipy.sparse.linalg import eigs, eigsh

    n = A.shape[0]
    if symmetric:
        return abs(float(eigsh(A, k=1, which="LM", return_eigenvectors=False, v0=_start(n), maxiter=300)[0]))
    return abs(complex(eigs(A, k=1, which="LM", return_eigenvectors=False, v0=_start(n), ncv=64, maxiter=300)[0]))


def _nearest(A: Any, shift: float) -> Floats:
    """The two eigenvalues, ascending, of the sparse symmetric A that lie nearest to ``shift``, which is none of them."""
    from scipy.sparse.linalg import eigsh

    return np.sort(eigsh(A.tocsc(), k=2, sigma=shift, which="LM", return_eigenvectors=False, v0=_start(A.shape[0])))


def _start(n: int) -> Floats:
    """A fixed starting vector: ARPACK's own is random, and weights must not be."""
    return words(0, "mixing/start", 0, 0, n) - 0.5


def _best_constant(graph: Graph) -> float:
    """The a of W = I - a L with the smallest second largest |eigenvalue|: 2 / (lambda_2 + lambda_max) [xiao2004]."""
    L, n = _laplacian(graph), graph.agents
    if n <= DENSE:
        values = np.linalg.eigvalsh(L.toarray())
        return float(2.0 / (values[1] + values[-1]))
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator

    bound = 2.0 * float(L.diagonal().max())  # no eigenvalue of L is larger

    def flipped(x: Floats) -> Floats:  # bound I - L with the eigenvalue of the vector of ones moved to 0
        x = x.ravel()
        moved: Floats = bound * (x - x.mean()) - L @ x
        return moved

    try:
        return 2.0 / (bound - _extreme(LinearOperator((n, n), matvec=flipped, dtype=np.float64)) + _extreme(L))
    except ArpackNoConvergence:
        return 2.0 / float(_nearest(L, -1e-3 / n)[1] + _nearest(L, bound + 1e-3 / n)[1])


def _fastest(graph: Graph) -> Floats:
    """Link weights >= 0 with the smallest second largest |eigenvalue|, by semidefinite programming [boyd2004]."""
    try:
        import cvxpy as cp
    except ImportError as error:
        raise InputError(
            'weight rule "fastest" needs cvxpy: pip install "distopt[fastest]", or use best_constant'
        ) from error
    from scipy.sparse import csr_array

    n, count = graph.agents, len(graph.edges)
    if n > _SDP:
        raise InputError(
            f'weight rule "fastest" is a semidefinite program: at most {_SDP} agents, not {n}; use best_constant'
        )
    i, j = graph.edges.T
    link = np.arange(count)
    touches = csr_array((np.ones(2 * count), (np.concatenate([i, j]), np.concatenate([link, link]))), shape=(n, count))
    flow = np.concatenate([i * n + i, j * n + j, i * n + j, j * n + i])  # vec of (e_i - e_j)(e_i - e_j)'
    signs = np.repeat([1.0, 1.0, -1.0, -1.0], count)
    laplacians = csr_array((signs, (flow, np.tile(link, 4))), shape=(n * n, count))
    w, s = cp.Variable(count, nonneg=True), cp.Variable()
    off = np.eye(n) - np.ones((n, n)) / n - cp.reshape(laplacians @ w, (n, n), order="C")  # type: ignore[attr-defined]  # cvxpy gives it no types
    problem = cp.Problem(cp.Minimize(s), [off << s * np.eye(n), off >> -s * np.eye(n), touches @ w <= 1])
    problem.solve(solver=cp.CLARABEL)  # type: ignore[no-untyped-call]  # cvxpy is untyped
    if w.value is None or problem.status not in ("optimal", "optimal_inaccurate"):
        raise InputError(f'weight rule "fastest" found no solution ({problem.status}); use best_constant or metropolis')
    weight = np.maximum(np.asarray(w.value, dtype=np.float64), 0.0)
    return weight / max(
        1.0, float((touches @ weight).max())
    )  # the solver's last digits must not make a self weight negative
