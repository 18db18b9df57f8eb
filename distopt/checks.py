"""The conformance battery: does my algorithm, direction, scenario, topology or channel keep the promises the engines rely on?

Each check runs in well under a second, raises AssertionError with one line that names the promise and how it was broken, and
returns None if all are kept. Call them from your own tests: ``check_algorithm(MyAlgorithm())``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.data import at, cast, tensors, tree_map
from distopt.errors import InputError
from distopt.mixing import Graph, Mixing, Switching, check_connected
from distopt.random import Key

R, N, D, ROUNDS = 2, 5, 3, 6
LINKS = ((0, 1), (1, 2), (2, 3), (3, 4), (1, 4))


def _require(condition: bool, what: str) -> None:
    if not condition:  # not an assert statement: those vanish under python -O
        raise AssertionError(what)


def _same(a: Any, b: Any) -> bool:
    """Whether two trees have the same structure and the same bits (nan equals nan)."""
    if pytree.tree_structure(a) != pytree.tree_structure(b):
        return False
    pairs = zip(tensors(a), tensors(b), strict=True)
    return all(
        p.dtype == q.dtype and p.shape == q.shape and torch.equal(p.nan_to_num(1e300), q.nan_to_num(1e300)) for p, q in pairs
    )


def _alike(a: Any, b: Any) -> bool:
    """Whether two trees have the same structure and shapes."""
    shapes = [[leaf.shape for leaf in tensors(tree)] for tree in (a, b)]
    return pytree.tree_structure(a) == pytree.tree_structure(b) and shapes[0] == shapes[1]


def _cut(tree: Any, *index: Any) -> Any:
    """``leaf[index]`` of every leaf, for slices and lists along the first axes."""

    def cut(leaf: Tensor) -> Tensor:
        for axis, chosen in enumerate(index):
            leaf = leaf[(slice(None),) * axis + (chosen,)]
        return leaf

    return tree_map(cut, tree)


def _copy(tree: Any) -> Any:
    return tree_map(Tensor.clone, tree)


def _normals(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _weights() -> Tensor:
    """A symmetric doubly stochastic matrix [N, N] that no relabelling leaves alone."""
    w = torch.zeros(N, N, dtype=torch.float64)
    for i, j in LINKS:
        w[i, j] = w[j, i] = 0.25
    return w + torch.diag(1 - w.sum(1))


def _mix(w: Tensor, z: Tensor) -> Tensor:
    """W z term by term, so that no number depends on the number of trials."""
    out = torch.zeros_like(z)
    for j in range(w.shape[0]):
        out = out + w[:, j, None].to(z.dtype) * z[..., j : j + 1, :]
    return out


def _check_leaves(tree: Any, lead: tuple[int, int], dtype: torch.dtype, who: str) -> None:
    for leaf in pytree.tree_leaves(tree):
        _require(isinstance(leaf, Tensor), f"{who}: every leaf must be a tensor, found {type(leaf).__name__}")
        shape = list(leaf.shape)
        _require(
            leaf.dim() >= 3 and tuple(leaf.shape[:2]) == lead, f"{who}: a leaf has shape {shape}, not [{lead[0]}, {lead[1]}, *]"
        )
        _require(not leaf.is_floating_point() or leaf.dtype == dtype, f"{who}: a leaf is {leaf.dtype} although x is {dtype}")


def _drive(algorithm: Any, x: Tensor, gradients: Tensor, w: Tensor) -> tuple[Tensor, Any]:
    """x and state after one round per gradient [K, R, n, d]."""
    state = algorithm.init(x)
    for g in gradients:
        x, state = algorithm.update(g + 0.3 * x, state, x, lambda _, z: _mix(w, z))
    return x, state


def check_algorithm(algorithm: Any) -> None:
    """Check an algorithm against ``distopt.protocols.Algorithm``.

    Promises: it declares its channels and uses each once a round and no other; its state has leaves [R, n, *] of x's dtype
    whose shapes never change; ``update`` is pure; float32 stays float32; trials do not touch each other, bit for bit; agents
    learn of each other through ``mix`` only, and their numbering does not matter; agents that agree and see zero gradients stay
    where they are; a tracker's mean is the mean of the gradients.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.algorithms.gt import GT
    >>> print(check_algorithm(GT(lr=0.1)))
    None
    """
    who = type(algorithm).__name__
    channels = getattr(algorithm, "channels", None)
    named = isinstance(channels, tuple) and len(channels) > 0 and all(isinstance(c, str) for c in channels)
    _require(named and len(set(channels or ())) == len(channels or ()), f"{who}: channels must be a tuple of distinct names")
    kind = getattr(algorithm, "weights", "doubly")
    _require(kind in ("row", "doubly", "symmetric"), f'{who}: weights must be "row", "doubly" or "symmetric", not {kind!r}')
    w, gradients = _weights(), _normals(ROUNDS, R, N, D, seed=1)
    for dtype in (torch.float32, torch.float64):
        x = _normals(R, N, D, seed=0, dtype=dtype)
        before = x.clone()
        state = algorithm.init(x)
        _require(_same(x, before), f"{who}: init changes x in place")
        _check_leaves(state, (R, N), dtype, f"{who}: init")
        form = state
        for t, g in enumerate(gradients.to(dtype)):
            x, state = _check_round(algorithm, g, state, x, t)
            _check_leaves(state, (R, N), dtype, f"{who}: state after round {t}")
            _require(
                _alike(state, form),
                f"{who}: the state changes its structure or shapes in round {t}; keep them as init makes them",
            )
            _require(bool(torch.isfinite(x).all()), f"{who}: x is not finite after round {t} on a harmless problem")
    x = _normals(R, N, D, seed=0)
    whole = _drive(algorithm, x, gradients, w)
    _require(_same(whole, _drive(algorithm, x, gradients, w)), f"{who}: a second run from the same start gives other numbers")
    for r in range(R):
        single = _drive(algorithm, x[r : r + 1], gradients[:, r : r + 1], w)
        _require(_same(single, _cut(whole, slice(r, r + 1))), f"{who}: trial {r} alone differs from trial {r} in a batch")
    order = torch.tensor([3, 0, 4, 2, 1])
    relabelled, _ = _drive(algorithm, x[:, order], gradients[:, :, order], w[order][:, order])
    gap = float((relabelled - whole[0][:, order]).abs().max())
    _require(gap < 1e-9, f"{who}: the numbering of the agents matters (relabelled agents differ by {gap:.1e})")
    other, moved = x.clone(), gradients.clone()
    other[:, -1] += 1
    moved[:, :, -1] -= 1
    (alone, _), (beside, _) = (_drive(algorithm, *each, torch.eye(N)) for each in ((x, gradients), (other, moved)))
    _require(_same(alone[:, :-1], beside[:, :-1]), f"{who}: an agent learns of another one without mix")
    still = x[:, :1].expand(R, N, D).clone()
    point, state = still, algorithm.init(still)
    for _t in range(4):
        point, state = algorithm.update(torch.zeros_like(point), state, point, lambda _, z: _mix(w, z))
    gap = float((point - still).abs().max())
    _require(gap < 1e-12, f"{who}: agents that agree and see zero gradients move (by {gap:.1e})")
    if hasattr(whole[1], "s") and hasattr(whole[1], "g"):
        gap = float((whole[1].s.mean(-2) - whole[1].g.mean(-2)).abs().max())
        _require(gap < 1e-12, f"{who}: the mean of the trackers is off the mean of the gradients by {gap:.1e}")


def _check_round(algorithm: Any, g: Tensor, state: Any, x: Tensor, t: int) -> tuple[Tensor, Any]:
    """One round, done twice: same inputs, same outputs, inputs untouched, every channel once."""
    who = type(algorithm).__name__
    before = _copy((g, state, x))
    results = []
    for _ in range(2):
        sent: list[str] = []

        def mix(name: str, z: Tensor, sent: list[str] = sent) -> Tensor:
            sent.append(name)
            lead = tuple(z.shape[:-1])
            _require(lead == (R, N), f"{who}: what it sends through {name!r} has shape {list(z.shape)}, not [{R}, {N}, *]")
            return _mix(_weights(), z)

        after = algorithm.update(g, state, x, mix)
        right = sorted(sent) == sorted(algorithm.channels)
        _require(right, f"{who}: round {t} used the channels {sent}, but channels = {algorithm.channels}: each once, every round")
        _require(_same(before, (g, state, x)), f"{who}: update changes its inputs in place (round {t})")
        _require(isinstance(after, tuple) and len(after) == 2, f"{who}: update must return (x, state)")
        fits = after[0].shape == x.shape and after[0].dtype == x.dtype
        _require(fits, f"{who}: update turns x {list(x.shape)} {x.dtype} into {list(after[0].shape)} {after[0].dtype}")
        results.append(after)
    _require(_same(results[0], results[1]), f"{who}: update is not pure: the same inputs give other outputs (round {t})")
    return results[0][0], results[0][1]


def check_direction(direction: Any) -> None:
    """Check a direction rule against ``distopt.protocols.Direction``.

    Promises: state leaves [R, n, *] of s's dtype; shapes kept; pure; every agent by itself, bit for bit; finite for gradients
    from 1e-12 to 1e6 and for zero ones; no gradient from the start, no direction.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.directions.adam import Adam
    >>> print(check_direction(Adam()))
    None
    """
    who = type(direction).__name__

    def drive(stream: Tensor) -> list[tuple[Tensor, Any]]:
        state, out = direction.init(torch.zeros_like(stream[0])), []
        for s in stream:
            before = _copy((s, state))
            d, after = direction(s, state)
            _require(_same(before, (s, state)), f"{who}: changes its inputs in place")
            _require(_same((d, after), direction(s, state)), f"{who}: not pure: the same inputs give other outputs")
            fits = d.shape == s.shape and d.dtype == s.dtype
            _require(fits, f"{who}: turns s {list(s.shape)} {s.dtype} into {list(d.shape)} {d.dtype}")
            _require(_alike(state, after), f"{who}: the state changes its structure or shapes; keep them as init makes them")
            _check_leaves(after, (s.shape[0], s.shape[1]), s.dtype, f"{who}: state")
            state = after
            out.append((d, state))
        return out

    for dtype in (torch.float32, torch.float64):
        stream = _normals(ROUNDS, R, N, D, seed=2, dtype=dtype)
        whole = drive(stream)
        for r in range(R):
            for i in range(N):
                alone = drive(stream[:, r : r + 1, i : i + 1])
                part = _cut(whole, slice(r, r + 1), slice(i, i + 1))
                _require(_same(alone, part), f"{who}: an agent alone gets another direction than the same agent among others")
        for size in (1e-12, 1.0, 1e6):
            for d, _ in drive(size * stream):
                _require(bool(torch.isfinite(d).all()), f"{who}: not finite at gradients of size {size:g} in {dtype}")
        for d, _ in drive(torch.zeros_like(stream)):
            _require(bool((d == 0).all()), f"{who}: zero gradients from the start give a direction that is not zero")


def check_scenario(scenario: Any, agents: int = 4, seed: int = 0) -> None:
    """Check a scenario for ``agents`` agents against ``distopt.protocols.Scenario``.

    Promises: leaves [K|1, R|1, n|1, ...], finite, and the same bits whatever rounds, trials and agents are asked together and
    in which order; ``loss`` [R, n] and ``grad`` [R, n, d] in x's dtype; ``grad`` is what autograd makes of ``loss``, and an
    agent's row has the same bits in every block; at ``optimum`` the gradients sum to zero; ``hessian`` is the derivative of
    ``grad``; accuracies lie in [0, 1] or are nan.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.scenarios.quadratic import Quadratic
    >>> print(check_scenario(Quadratic(dim=2)))
    None
    """
    who = type(scenario).__name__
    dim = getattr(scenario, "dim", 0)
    _require(isinstance(dim, int) and dim > 0, f"{who}: dim must be a positive whole number")
    last = getattr(scenario, "rounds", None)
    times = [t for t in (0, 1, 2, 3, 7, 40) if last is None or t < last]
    t = torch.tensor(times).reshape(-1, 1, 1, 1)
    K = len(times)
    whole = scenario.batch(t, Key(seed, range(agents), range(R), agents))
    _require(bool(tensors(whole)), f"{who}: batch returns no tensor")
    full = _expanded(whole, (K, R, agents), who)
    for leaf in tensors(whole):
        finite = not leaf.is_floating_point() or bool(torch.isfinite(leaf).all())
        _require(finite, f"{who}: batch returns numbers that are not finite")
    asked: list[tuple[list[int], list[int], list[int]]] = [
        (list(range(K)), list(range(R)), list(range(agents))),
        (list(reversed(range(K))), list(range(R)), list(range(agents))),
        ([K - 1], [R - 1], [agents - 1]),
        (list(range(0, K, 2)), list(range(R)), list(range(0, agents, 2))),
        ([K // 2], list(range(1, R)), list(range(agents // 2, agents))),
    ]
    for ks, rs, ids in asked:
        part = _expanded(scenario.batch(t[ks], Key(seed, ids, rs, agents)), (len(ks), len(rs), len(ids)), who)
        same = _same(part, _cut(full, ks, rs, ids))
        where = f"rounds {[times[k] for k in ks]}, trials {rs}, agents {ids}"
        _require(same, f"{who}: batch is not addressed: asked alone, {where} have other data than within a larger block")
    for k in range(K):
        _check_costs(scenario, at(full, k), agents, times[k])
    _check_optimum(scenario, whole, full, K, who)


def _expanded(batch: Any, lead: tuple[int, int, int], who: str) -> Any:
    for leaf in tensors(batch):
        fits = leaf.dim() >= 3 and all(size in (1, want) for size, want in zip(leaf.shape, lead, strict=False))
        _require(fits, f"{who}: a leaf of batch has shape {list(leaf.shape)}, not [{lead[0]}|1, {lead[1]}|1, {lead[2]}|1, ...]")
    return tree_map(lambda leaf: leaf.expand(*lead, *leaf.shape[3:]), batch)


def _check_costs(scenario: Any, b: Any, agents: int, t: int) -> None:
    """Loss, gradient and Hessian of one round at a random point."""
    who = type(scenario).__name__
    x = _normals(R, agents, scenario.dim, seed=3).requires_grad_()
    loss, grad = scenario.loss(x, b), scenario.grad(x.detach(), b)
    _require(tuple(loss.shape) == (R, agents), f"{who}: loss has shape {list(loss.shape)}, not [{R}, {agents}]")
    _require(grad.shape == x.shape, f"{who}: grad has shape {list(grad.shape)}, not {list(x.shape)}")
    (truth,) = torch.autograd.grad(loss.sum(), x)
    scale = 1 + float(truth.abs().max())
    gap = float((grad - truth).abs().max()) / scale
    _require(gap < 1e-9, f"{who}: grad is not the derivative of loss in round {t} (they differ by {gap:.1e} of its size)")
    x = x.detach()
    for i in (0, agents - 1):
        row = _cut(b, slice(None), slice(i, i + 1))
        alone = scenario.grad(x[:, i : i + 1], row)
        _require(_same(alone, grad[:, i : i + 1]), f"{who}: agent {i}'s gradient has other bits alone than among others")
    small = scenario.grad(x.float(), cast(b, torch.float32))
    _require(small.dtype == torch.float32, f"{who}: grad turns float32 into {small.dtype}")
    if getattr(scenario, "hessian", None) is not None:
        step = 1e-5 * _normals(R, agents, scenario.dim, seed=4)
        slope = scenario.grad(x + step, b) - scenario.grad(x - step, b)
        product = 2 * (scenario.hessian(x, b) @ step.unsqueeze(-1)).squeeze(-1)
        gap = float((slope - product).abs().max()) / (1e-5 * scale + float(product.abs().max()))
        _require(gap < 1e-4, f"{who}: hessian is not the derivative of grad in round {t}")
    for name in ("accuracy", "persistence"):
        if getattr(scenario, name, None) is not None:
            value = scenario.accuracy(x, b) if name == "accuracy" else scenario.persistence(b)
            fraction = value.isnan() | ((value >= 0) & (value <= 1))
            _require(bool(fraction.all()), f"{who}: {name} must be a fraction in [0, 1], or nan")


def _check_optimum(scenario: Any, whole: Any, full: Any, rounds: int, who: str) -> None:
    for name in ("optimum", "guess"):
        x = getattr(scenario, name)(whole) if getattr(scenario, name, None) is not None else None
        if x is None:
            continue
        fits = x.dim() == 3 and x.shape[0] in (1, rounds) and x.shape[1] in (1, R) and x.shape[2] == scenario.dim
        _require(fits, f"{who}: {name} has shape {list(x.shape)}, not [{rounds}|1, {R}|1, {scenario.dim}]")
        if name == "guess":
            continue
        points = x.expand(rounds, R, -1)
        for k in range(rounds):
            b = at(full, k)
            agents = next(iter(tensors(b))).shape[1]
            g = scenario.grad(points[k][:, None].expand(R, agents, -1).contiguous(), b)
            gap = float(g.sum(1).abs().max()) / (1 + float(g.abs().max()))
            _require(gap < 1e-8, f"{who}: the gradients at optimum sum to {gap:.1e} of their size, not to zero")


def check_topology(topology: Graph | Switching | Callable[..., Any], agents: int = 8, seed: int = 0) -> None:
    """Check a graph, a switching topology, or the maker of one (called twice, with ``agents`` and ``key`` if it takes them).

    Promises: edges int64 [E, 2], i < j, sorted, within 0 .. N - 1, each once; connected; a maker makes the same graph from the
    same key; the links of a switching topology depend on round and trial alone, come in both directions unless weights are
    given, and connect everybody over some rounds; the weights made of them have rows that sum to one.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.mixing import graph_from_edges
    >>> print(check_topology(graph_from_edges(3, [(0, 1), (1, 2)])))
    None
    """
    who = getattr(topology, "__name__", type(topology).__name__)
    built = topology if isinstance(topology, Graph | Switching) else _made(topology, agents, seed, who)
    key = Key(seed, range(built.agents), range(R), built.agents)
    if isinstance(built, Graph):
        _check_graph(built, who)
        t = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    else:
        t = torch.arange(12).reshape(-1, 1, 1, 1)
        _check_switching(built, t, key, who)
    try:
        dense = Mixing(built, "metropolis", key).dense(t)
    except InputError as error:
        raise AssertionError(f"{who}: no weights can be made: {error}") from error
    _require(float((dense.sum(-1) - 1).abs().max()) < 1e-8, f"{who}: the rows of W do not sum to one")


def _made(maker: Callable[..., Any], agents: int, seed: int, who: str) -> Graph | Switching:
    wanted = inspect.signature(maker).parameters
    given = {"agents": agents, "key": Key(seed, range(agents), range(R), agents)}
    build = partial(maker, **{name: value for name, value in given.items() if name in wanted})
    built, again = build(), build()
    if not isinstance(built, Graph | Switching):
        raise AssertionError(f"{who}: makes a {type(built).__name__}, not a Graph or Switching")
    _require("agents" not in wanted or built.agents == agents, f"{who}: makes {built.agents} agents when asked for {agents}")
    if isinstance(built, Graph):
        _require(np.array_equal(built.edges, again.edges), f"{who}: makes another graph from the same key")
    return built


def _check_graph(graph: Graph, who: str) -> None:
    edges, n = graph.edges, graph.agents
    fits = isinstance(edges, np.ndarray) and edges.dtype == np.int64 and edges.ndim == 2 and edges.shape[1] == 2
    _require(fits, f"{who}: edges must be an int64 array [E, 2]")
    inside = bool(((edges >= 0) & (edges < n)).all())
    _require(inside, f"{who}: an edge names an agent outside 0 .. {n - 1}")
    _require(bool((edges[:, 0] < edges[:, 1]).all()), f"{who}: edges must be pairs i < j (undirected, no self loop)")
    code = edges[:, 0] * n + edges[:, 1]
    _require(bool((code[1:] > code[:-1]).all()), f"{who}: edges must be sorted, each once")
    _require(graph.positions is None or graph.positions.shape == (n, 2), f"{who}: positions must have shape [{n}, 2]")
    try:
        check_connected(graph)
    except InputError as error:
        raise AssertionError(f"{who}: {error}") from error


def _check_switching(topology: Switching, t: Tensor, key: Key, who: str) -> None:
    def links(t: Tensor, key: Key) -> dict[tuple[int, int], list[tuple[int, int]]]:
        rounds, trials = t.reshape(-1).tolist(), key.trials.tolist()
        out: dict[tuple[int, int], list[tuple[int, int]]] = {(k, r): [] for k in rounds for r in trials}
        arcs = topology.arcs(t, key)
        for k, r, i, j in zip(arcs.round, arcs.trial, arcs.receiver, arcs.sender, strict=True):
            out[rounds[int(k)], trials[int(r)]].append((int(i), int(j)))
        return {address: sorted(pairs) for address, pairs in out.items()}

    n, whole = topology.agents, links(t, key)
    for pairs in whole.values():
        _require(all(0 <= a < n for pair in pairs for a in pair), f"{who}: a link names an agent outside 0 .. {n - 1}")
        _require(all(i != j for i, j in pairs), f"{who}: lists a self loop; leave it out, self weights are added")
        _require(len(set(pairs)) == len(pairs), f"{who}: lists a link twice in one round")
        both = topology.arcs(t[:1], key).weight is not None or {(j, i) for i, j in pairs} == set(pairs)
        _require(both, f"{who}: lists a link in one direction only and gives no weights")
    for ks, trials in (([5], [R - 1]), ([7, 2, 3], list(range(R)))):
        part = links(t[ks], Key(key.seed, range(n), trials, n))
        _require(
            all(whole[address] == pairs for address, pairs in part.items()), f"{who}: links depend on what else is asked for"
        )
    for r in range(R):
        ever = np.array(sorted({(min(p), max(p)) for (_, s), pairs in whole.items() if s == r for p in pairs}), dtype=np.int64)
        try:
            check_connected(Graph(n, ever.reshape(-1, 2)))
        except InputError as error:
            raise AssertionError(f"{who}: over {len(t)} rounds of trial {r}, {error}") from error


def check_channel(channel: Any, keeps_mean: bool = True) -> None:
    """Check a channel against ``distopt.protocols.Channel``.

    Promises: memory leaves [R, n, *] of z's dtype whose shapes never change; pure; z's shape and dtype come back; trials do not
    touch each other, bit for bit; ``bits`` is a positive whole number that grows with d; and, with ``keeps_mean``, what comes
    out has the agents' mean of what went in (doubly stochastic W), without which gradient tracking fails.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.channels.exact import Exact
    >>> print(check_channel(Exact()))
    None
    """
    who = type(channel).__name__

    class Wire:
        def mix(self, z: Tensor) -> Tensor:
            return _mix(_weights(), z)

    def drive(stream: Tensor) -> tuple[list[Tensor], Any]:
        memory, out = channel.init(stream[0]), []
        lead = (stream.shape[1], stream.shape[2])
        _check_leaves(memory, lead, stream.dtype, f"{who}: init")
        for z in stream:
            before = _copy((z, memory))
            heard, after = channel(z, memory, Wire())
            _require(_same(before, (z, memory)), f"{who}: changes its inputs in place")
            _require(_same((heard, after), channel(z, memory, Wire())), f"{who}: not pure: the same inputs give other outputs")
            fits = heard.shape == z.shape and heard.dtype == z.dtype
            _require(fits, f"{who}: turns z {list(z.shape)} {z.dtype} into {list(heard.shape)} {heard.dtype}")
            _check_leaves(after, lead, z.dtype, f"{who}: memory")
            _require(_alike(memory, after), f"{who}: the memory changes its structure or shapes; keep them as init makes them")
            memory = after
            out.append(heard)
        return out, memory

    for dtype in (torch.float32, torch.float64):
        stream = _normals(ROUNDS, R, N, D, seed=5, dtype=dtype)
        whole = drive(stream)
        for r in range(R):
            part = _cut(whole, slice(r, r + 1))
            _require(_same(drive(stream[:, r : r + 1]), part), f"{who}: trial {r} alone differs from trial {r} in a batch")
        gap = max(float((a.mean(-2) - z.mean(-2)).abs().max()) for a, z in zip(whole[0], stream, strict=True))
        limit = 1e-5 if dtype == torch.float32 else 1e-12
        _require(not keeps_mean or gap < limit, f"{who}: the mean over the agents changes by {gap:.1e} on the way")
    sizes = [channel.bits(d, 8) for d in (1, 10, 1000)]
    whole_numbers = all(isinstance(size, int) and size > 0 for size in sizes)
    _require(whole_numbers and sizes[0] <= sizes[1] < sizes[2], f"{who}: bits(d, itemsize) gives {sizes} for d = 1, 10, 1000")
