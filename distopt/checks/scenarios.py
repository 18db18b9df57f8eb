"""Scenarios: addressed data, and costs whose derivatives and minimisers are what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from distopt.checks._common import R, normals, require, same_bits, sliced
from distopt.costs.linear import Rows
from distopt.numerics.random import Key
from distopt.numerics.trees import at, cast, reweighted, tensors, tree_map
from distopt.optional import ScenarioDefaults, completed


def check_scenario(scenario: Any, agents: int = 4, seed: int = 0) -> None:
    """Check a scenario for ``agents`` agents against ``distopt.protocols.Scenario``.

    Promises:

    - Leaves are [K|1, R|1, n|1, ...] and finite. Their bits do not depend on the rounds, trials and agents of a call, or on its order.
    - ``loss`` is [R, n] and ``grad`` [R, n, d], in x's dtype. An agent's row has the same bits in every block.
    - ``grad`` is autograd's derivative of ``loss``, minus the decrease of h in a small step of ``prox``. ``hessian`` is the derivative
      of ``grad``.
    - At ``optimum`` the gradients sum to zero, or point out of the allowed set, or a proximal step does not move. With
      ``comparator = False`` there is none.
    - No point is better over the first rounds together than ``best_fixed``.
    - At the ``equilibrium`` of a game the gradients sum to zero, unless each round has its own data. Its ``grad`` is not
      compared with ``loss``.
    - ``linear_rows`` gives the costs of ``loss``. Costs are linear in the leaf that ``row_weights`` names.
    - Between pairs of points the summed gradient changes by at least ``modulus`` and at most ``smoothness``.
    - ``project`` keeps allowed points, and moves each agent independently. ``start`` is addressed.
    - With ``terms``, the mean of the gradients of single rows is the gradient of all.
    - Accuracies are in [0, 1] or nan.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.scenarios.quadratic import Quadratic
    >>> print(check_scenario(Quadratic(dim=2)))
    None
    """
    who, scenario = type(scenario).__name__, completed(ScenarioDefaults, scenario)
    dim = getattr(scenario, "dim", 0)  # the first promise
    require(isinstance(dim, int) and dim > 0, f"{who}: dim must be a positive whole number")
    known = scenario.comparator
    require(isinstance(known, bool), f"{who}: comparator must be True or False, not {known!r}")
    require(known or scenario.optimum is None, f"{who}: comparator = False, but it has an optimum; remove one of them")
    game = scenario.equilibrium is not None
    require(not (known and game), f"{who}: a game has no minimiser: say comparator = False")
    last = scenario.length(agents)
    times = [t for t in (0, 1, 2, 3, 7, 40) if last is None or t < last]
    t = torch.tensor(times).reshape(-1, 1, 1, 1)
    K = len(times)
    whole = scenario.batch(t, Key(seed, range(agents), range(R), agents))
    require(bool(tensors(whole)), f"{who}: batch returns no tensor")
    full = _expanded(whole, (K, R, agents), who)
    for leaf in tensors(whole):
        finite = not leaf.is_floating_point() or bool(torch.isfinite(leaf).all())
        require(finite, f"{who}: batch returns numbers that are not finite")
    asked: list[tuple[list[int], list[int], list[int]]] = [
        (list(range(K)), list(range(R)), list(range(agents))),
        (list(reversed(range(K))), list(range(R)), list(range(agents))),
        ([K - 1], [R - 1], [agents - 1]),
        (list(range(0, K, 2)), list(range(R)), list(range(0, agents, 2))),
        ([K // 2], list(range(1, R)), list(range(agents // 2, agents))),
    ]
    for ks, rs, ids in asked:
        part = _expanded(scenario.batch(t[ks], Key(seed, ids, rs, agents)), (len(ks), len(rs), len(ids)), who)
        same = same_bits(part, sliced(full, ks, rs, ids))
        where = f"rounds {[times[k] for k in ks]}, trials {rs}, agents {ids}"
        require(same, f"{who}: batch is not addressed: asked alone, {where} have other data than within a larger block")
    for k in range(K):
        _check_costs(scenario, at(full, k), agents, times[k])
    _check_optimum(scenario, whole, full, K, who)
    if game:
        _check_equilibrium(scenario, whole, full, agents, who)
    if scenario.best_fixed is not None:
        _check_best_fixed(scenario, agents, seed, who)
    _check_curvature(scenario, whole, full, times, who)
    if scenario.row_weights is not None:
        _check_row_weights(scenario, at(full, 0), agents, who)
    if scenario.project is not None:
        _check_projection(scenario, agents, who)
    if scenario.start is not None:
        _check_start(scenario, agents, seed, who)
    if scenario.terms(agents) is not None:
        _check_rows(scenario, at(full, 0), agents, who)


def _check_row_weights(scenario: Any, b: Any, agents: int, who: str) -> None:
    name = scenario.row_weights
    known = getattr(b, "_fields", ())  # a user's batch may be no NamedTuple
    require(name in known, f"{who}: row_weights={name!r}: a batch has no such leaf; it has: {', '.join(known)}")
    w = b._asdict()[name]
    require(w.dim() == 3, f"{who}: row_weights={name!r}: the leaf has the shape {list(w.shape)}, not [R|1, n|1, m]")
    x = normals(R, agents, scenario.dim, seed=5)
    none, once, twice = (scenario.loss(x, b._replace(**{name: factor * w})) for factor in (0, 1, 2))
    gap = float((twice - 2 * once + none).abs().max() / (1 + once.abs().max()))
    require(gap < 1e-9, f"{who}: its costs are not linear in the leaf {name!r} (off by {gap:.1e})")


def _check_projection(scenario: Any, agents: int, who: str) -> None:
    for size in (0.1, 100.0):
        x = size * normals(R, agents, scenario.dim, seed=8)
        before = x.clone()
        allowed = scenario.project(x)
        require(same_bits(x, before), f"{who}: project changes x in place")
        fits = allowed.shape == x.shape and allowed.dtype == x.dtype
        require(fits, f"{who}: project turns x {list(x.shape)} {x.dtype} into {list(allowed.shape)} {allowed.dtype}")
        gap = float((scenario.project(allowed) - allowed).abs().max())
        require(gap < 1e-9 * size, f"{who}: project moves a point that is allowed (by {gap:.1e})")
        for i in range(agents):
            rows = slice(i, i + 1)
            alone = scenario.project(x[:, rows])
            require(
                same_bits(alone, allowed[:, rows]), f"{who}: project moves an agent otherwise alone than among others"
            )
        if scenario.lmo is not None:
            s = normals(R, agents, scenario.dim, seed=9)
            corner = scenario.lmo(s)
            gap = float((scenario.project(corner) - corner).abs().max() / corner.abs().max().clamp(min=1e-300))
            require(gap < 1e-9, f"{who}: lmo gives a point that is not allowed")
            lower = float(((corner - allowed) * s).sum(-1).max())
            require(lower < 1e-9 * size, f"{who}: lmo does not give the least allowed <s, v>")


def _check_rows(scenario: Any, data: Any, agents: int, who: str) -> None:
    """Check that the mean of the gradients of single rows is the gradient of all, and that rows of weight 0 do not count."""
    terms = scenario.terms(agents)
    require(isinstance(terms, int) and terms > 0, f"{who}: terms must say how many rows an agent has, not {terms!r}")
    name = scenario.row_weights
    require(
        name is not None,
        f"{who}: terms says that costs are sums over rows; name the leaf of their weights, row_weights",
    )
    places = data._asdict()[name].shape[-1]
    require(
        places == terms, f"{who}: terms says {terms} rows, and the leaf {name!r} of row_weights has {places} places"
    )
    x = normals(R, agents, scenario.dim, seed=9)
    whole = scenario.grad(x, data)
    mean = torch.zeros_like(x)
    for row in range(terms):
        v = torch.zeros(R, agents, terms, dtype=x.dtype)
        v[..., row] = terms
        mean = mean + scenario.grad(x, reweighted(data, name, v)) / terms
    gap = float((mean - whole).abs().max() / whole.abs().max().clamp(min=1e-300))
    require(gap < 1e-10, f"{who}: the mean of the gradients of its {terms} rows is off that of all rows by {gap:.1e}")


def _check_start(scenario: Any, agents: int, seed: int, who: str) -> None:
    whole = scenario.start(Key(seed, range(agents), range(R), agents))
    lead = (R, agents)
    fits = whole.dim() == 3 and whole.shape[-1] == scenario.dim
    fits = fits and all(size in (1, want) for size, want in zip(whole.shape, lead, strict=False))
    require(fits, f"{who}: start has shape {list(whole.shape)}, not [{R}|1, {agents}|1, {scenario.dim}]")
    require(bool(torch.isfinite(whole).all()), f"{who}: start gives points that are not finite")
    whole = whole.expand(*lead, scenario.dim)
    part = scenario.start(Key(seed, range(agents), [R - 1], agents)).expand(1, agents, scenario.dim)
    require(
        same_bits(part, whole[-1:]), f"{who}: start is not addressed: a trial alone starts elsewhere than among others"
    )


def _expanded(batch: Any, lead: tuple[int, int, int], who: str) -> Any:
    for leaf in tensors(batch):
        fits = leaf.dim() >= 3 and all(size in (1, want) for size, want in zip(leaf.shape, lead, strict=False))
        require(
            fits,
            f"{who}: a leaf of batch has shape {list(leaf.shape)}, not [{lead[0]}|1, {lead[1]}|1, {lead[2]}|1, ...]",
        )
    return tree_map(lambda leaf: leaf.expand(*lead, *leaf.shape[3:]), batch)


def _check_costs(scenario: Any, b: Any, agents: int, t: int) -> None:
    """Loss, gradient and Hessian of one round at a random point."""
    who = type(scenario).__name__
    x = normals(R, agents, scenario.dim, seed=3).requires_grad_()
    loss, grad = scenario.loss(x, b), scenario.grad(x.detach(), b)
    require(tuple(loss.shape) == (R, agents), f"{who}: loss has shape {list(loss.shape)}, not [{R}, {agents}]")
    require(grad.shape == x.shape, f"{who}: grad has shape {list(grad.shape)}, not {list(x.shape)}")
    (truth,) = torch.autograd.grad(loss.sum(), x)
    if scenario.prox is not None:
        truth = truth - _beside(scenario, x.detach(), who)
    scale = 1 + float(truth.abs().max())
    gap = float((grad - truth).abs().max()) / scale
    require(
        gap < (1e-9 if scenario.prox is None else 1e-6) or scenario.equilibrium is not None,
        f"{who}: grad is not the derivative of loss in round {t} (they differ by {gap:.1e} of its size)",
    )
    x = x.detach()
    for i in (0, agents - 1):
        row = sliced(b, slice(None), slice(i, i + 1))
        alone = scenario.grad(x[:, i : i + 1], row)
        cure = "sigmoid, softplus, logaddexp and matrix products do that: write them with tanh, exp, log1p and sums of products"
        require(
            same_bits(alone, grad[:, i : i + 1]),
            f"{who}: agent {i}'s gradient has other bits alone than among others; {cure}",
        )
    small = scenario.grad(x.float(), cast(b, torch.float32))
    require(small.dtype == torch.float32, f"{who}: grad turns float32 into {small.dtype}")
    if scenario.hessian is not None:
        step = 1e-5 * normals(R, 1, scenario.dim, seed=4)  # all agents moved alike: the Hessian is the sum of theirs
        slope = (scenario.grad(x + step, b) - scenario.grad(x - step, b)).sum(-2)
        product = 2 * (scenario.hessian(x, b) @ step.mT).squeeze(-1)
        gap = float((slope - product).abs().max()) / (1e-5 * scale + float(product.abs().max()))
        require(gap < 1e-4, f"{who}: hessian is not the derivative of grad in round {t}")
    if scenario.linear_rows is not None:
        *leaves, l2 = scenario.linear_rows(b)
        point = x[:, :1]
        ((_, rows),) = Rows.pieces((*(leaf.unsqueeze(0) for leaf in leaves), l2), 1, R, agents, 1)
        gap = float(
            (scenario.loss(point.expand_as(x), b) - torch.from_numpy(rows.at(point[:, 0].numpy()).losses())).abs().max()
        )
        require(
            gap < 1e-9 * (1 + float(loss.detach().abs().max())),
            f"{who}: linear_rows gives other costs than loss in round {t} (they differ by {gap:.1e})",
        )
    for name, asked, given in (("accuracy", scenario.accuracy, (x, b)), ("persistence", scenario.persistence, (b,))):
        if asked is not None:
            value = asked(*given)
            fraction = value.isnan() | ((value >= 0) & (value <= 1))
            require(bool(fraction.all()), f"{who}: {name} must be a fraction in [0, 1], or nan")


def _beside(scenario: Any, x: Tensor, who: str) -> Tensor:
    """The gradient at x of the part of the costs that ``prox`` knows, where it has one: a small proximal step goes down along it."""
    small = torch.full_like(x[..., :1], 1e-7)
    z = scenario.prox(x, small)
    fits = z.shape == x.shape and z.dtype == x.dtype
    require(fits, f"{who}: prox turns x {list(x.shape)} {x.dtype} into {list(z.shape)} {z.dtype}")
    require(
        same_bits(scenario.prox(x[:, :1], small[:, :1]), z[:, :1]),
        f"{who}: prox moves an agent otherwise alone than among others",
    )
    found: Tensor = (x - z) / small
    return found


def _check_optimum(scenario: Any, whole: Any, full: Any, rounds: int, who: str) -> None:
    for name, asked in (("optimum", scenario.optimum), ("guess", scenario.guess)):
        x = None if asked is None else asked(whole)
        if x is None:
            continue
        fits = x.dim() == 3 and x.shape[0] in (1, rounds) and x.shape[1] in (1, R) and x.shape[2] == scenario.dim
        require(fits, f"{who}: {name} has shape {list(x.shape)}, not [{rounds}|1, {R}|1, {scenario.dim}]")
        if name == "guess":
            continue
        points = x.expand(rounds, R, -1)
        for k in range(rounds):
            b = at(full, k)
            agents = next(iter(tensors(b))).shape[1]
            g = scenario.grad(points[k][:, None].expand(R, agents, -1).contiguous(), b)
            pull = g.sum(1) / (1 + float(g.abs().max()))
            gap = float(pull.abs().max())
            if scenario.prox is not None:  # a proximal step does not move
                lr = torch.full((R, 1, 1), agents / (1 + float(g.abs().max())), dtype=g.dtype)
                gap = float((points[k] - scenario.prox((points[k] - pull)[:, None], lr)[:, 0]).abs().max())
            elif scenario.project is not None:  # nor does a projected step, at the edge of the allowed set
                gap = min(gap, float((points[k] - scenario.project((points[k] - pull)[:, None])[:, 0]).abs().max()))
            require(gap < 1e-8, f"{who}: the gradients at optimum sum to {gap:.1e} of their size, not to zero")


def _check_equilibrium(scenario: Any, whole: Any, full: Any, agents: int, who: str) -> None:
    """Check the shape of ``equilibrium``, and the gradients there if all rounds have the same data: with random data they only balance on average."""
    b = at(full, 0)
    x = scenario.equilibrium(b)
    fits = x.dim() == 3 and x.shape[0] in (1, R) and x.shape[1] in (1, agents) and x.shape[2] == scenario.dim
    require(fits, f"{who}: equilibrium has shape {list(x.shape)}, not [{R}|1, {agents}|1, {scenario.dim}]")
    require(
        bool((x == x[:, :1]).all()), f"{who}: equilibrium is another one for each agent, and must be that of them all"
    )
    if all(leaf.shape[0] == 1 for leaf in tensors(whole)):
        g = scenario.grad(x.expand(R, agents, -1).contiguous(), b)
        gap = float(g.sum(1).abs().max()) / (1 + float(g.abs().max()))
        require(gap < 1e-9, f"{who}: the gradients at the equilibrium sum to {gap:.1e} of their size, not to zero")


def _check_best_fixed(scenario: Any, agents: int, seed: int, who: str) -> None:
    """``best_fixed`` of some rounds against other points, near it and far from it."""
    last = scenario.length(agents)
    rounds, key = 41 if last is None else min(41, last), Key(seed, range(agents), range(R), agents)
    x = scenario.best_fixed(rounds, key)
    fits = x.dim() == 2 and x.shape[0] in (1, R) and x.shape[1] == scenario.dim
    require(fits, f"{who}: best_fixed has shape {list(x.shape)}, not [{R}|1, {scenario.dim}]")
    b = scenario.batch(torch.arange(rounds).reshape(-1, 1, 1, 1), key)

    def total(point: Tensor) -> Tensor:
        """Of all rounds and agents, at points [R, 1, d]: [R]."""
        each = torch.stack([scenario.loss(point.expand(R, agents, -1).contiguous(), at(b, k)) for k in range(rounds)])
        summed: Tensor = each.expand(rounds, R, agents).sum((0, 2))
        return summed

    best = x.expand(R, -1)[:, None]
    least = total(best)
    for size in (1e-3, 0.1, 10.0):
        other = best + size * normals(R, 1, scenario.dim, seed=7)
        other = other if scenario.project is None else scenario.project(other)
        better = least - total(other) > 1e-9 * (1 + least.abs())
        require(not bool(better.any()), f"{who}: over {rounds} rounds another fixed point is better than best_fixed")


def _check_curvature(scenario: Any, whole: Any, full: Any, times: list[int], who: str) -> None:
    """``modulus`` and ``smoothness`` against the change of the summed gradient along random lines, and along those where it changes most and
    least, as power iterations find them."""
    given: dict[str, Tensor] = {}
    for name, asked in (("modulus", scenario.modulus), ("smoothness", scenario.smoothness)):
        value = None if asked is None else asked(whole)
        if value is None:
            continue
        fits = isinstance(value, Tensor) and value.dim() == 2 and value.shape[0] in (1, len(times))
        fits = fits and value.shape[1] in (1, R) and bool((value.isfinite() & (value >= 0)).all())
        require(fits, f"{who}: {name} must be finite numbers of at least 0, of shape [{len(times)}|1, {R}|1]")
        given[name] = value.expand(len(times), R)
    for k, t in enumerate(times) if given else ():
        b = at(full, k)
        agents = next(iter(tensors(b))).shape[1]

        def gradient(point: Tensor, b: Any = b, agents: int = agents) -> Tensor:
            each: Tensor = scenario.grad(point[:, None].expand(R, agents, -1).contiguous(), b)
            return each.sum(1)

        for size in (0.1, 1.0, 10.0):
            x = size * normals(R, scenario.dim, seed=5)
            start = gradient(x)

            def slope(
                v: Tensor, x: Tensor = x, start: Tensor = start, size: float = size, gradient: Any = gradient
            ) -> Tensor:
                found: Tensor = (gradient(x + size * v) - start) / size
                return found

            rounding = 1e-9 * (1 / size + start.norm(dim=-1) / size)
            for v, change in _lines(slope, scenario.dim):
                own = rounding + 1e-9 * change.norm(dim=-1)
                if "modulus" in given:
                    short = given["modulus"][k] * v.square().sum(-1) - (change * v).sum(-1)
                    told = f"{who}: F_t is not as strongly convex as modulus says in round {t}"
                    require(bool((short <= own).all()), told)
                if "smoothness" in given:
                    over = change.norm(dim=-1) - given["smoothness"][k] * v.norm(dim=-1)
                    require(
                        bool((over <= own).all()),
                        f"{who}: the gradient changes faster than smoothness says in round {t}",
                    )


def _lines(slope: Callable[[Tensor], Tensor], dim: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Directions v [R, d] of length 1 with ``slope(v)``: a random one, six that turn to where it is largest, six to where it is least."""

    def unit(v: Tensor) -> Tensor:
        turned: Tensor = v / v.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        return turned

    v, top = unit(normals(R, dim, seed=6)), torch.zeros(R, 1, dtype=torch.float64)
    for power in range(13):
        change = slope(v)
        yield v, change
        top = torch.maximum(top, 1.1 * change.norm(dim=-1, keepdim=True))
        v = unit(change if power < 6 else top * v - change)
