"""Algorithms, directions and channels: pure functions of tensors [R, n, d] that keep trials and agents apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from distopt.checks._common import (
    LINKS,
    ROUNDS,
    D,
    N,
    R,
    alike,
    check_leaves,
    copied,
    mixed,
    normals,
    require,
    same_bits,
    sliced,
    weights,
)
from distopt.directions import direct
from distopt.errors import InputError
from distopt.network.links import places as linked
from distopt.network.links import slots
from distopt.network.net import Rehearsal
from distopt.network.properties import by_channel
from distopt.numerics.trees import leaf
from distopt.optional import AlgorithmDefaults, ChannelDefaults, completed
from distopt.protocols import Arrived, Slots
from distopt.simulation.plan import tried


def _drive(algorithm: Any, x: Tensor, gradients: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Any]:
    """x and state after one round per gradient [K, R, n, d], with the weights ``w`` by channel."""
    state = algorithm.init(x)
    for t, g in enumerate(gradients):

        def grad(y: Tensor, g: Tensor = g) -> Tensor:
            return g + 0.3 * y

        x, state = algorithm.update(grad(x), state, x, Rehearsal(lambda name, z: mixed(w[name], z), x, t, grad))
    return x, state


class _Silent(Rehearsal):
    """A round without an exchange."""

    @property
    def coin(self) -> Tensor:
        return ~super().coin


def check_algorithm(algorithm: Any) -> None:
    """Check an algorithm against ``distopt.protocols.Algorithm``.

    Promises, with weights that have the properties of ``weights`` and no others:

    - It declares its channels, and uses each once a round and no other.
    - Its state has leaves [R, n, *] of x's dtype, whose shapes never change. float32 stays float32.
    - ``update`` is pure, and trials are independent, bit for bit.
    - Agents learn of each other through ``mix`` only (``output`` uses one agent at a time), and their numbering does not matter.
    - Agents that agree and see zero gradients do not move.
    - Where ``mix.coin`` is False, nothing depends on what ``mix`` returns.
    - With ``tracks``, the tracker's mean is the mean of the gradients after every round.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.algorithms.gt import GT
    >>> print(check_algorithm(GT(lr=0.1)))
    None
    """
    who, algorithm = type(algorithm).__name__, completed(AlgorithmDefaults, algorithm)
    channels = getattr(algorithm, "channels", None)  # the first promise
    named = isinstance(channels, tuple) and len(channels) > 0 and all(isinstance(c, str) for c in channels)
    require(
        named and len(set(channels or ())) == len(channels or ()), f"{who}: channels must be a tuple of distinct names"
    )
    try:
        needs = by_channel(algorithm.weights, algorithm.channels)
    except InputError as error:
        raise AssertionError(f"{who}: {error}") from error
    tracker = algorithm.tracks
    require(
        tracker is None or isinstance(tracker, str),
        f"{who}: tracks must be the name of a leaf of its state, not {tracker!r}",
    )
    w, gradients = {name: weights(each) for name, each in needs.items()}, normals(ROUNDS, R, N, D, seed=1)
    for dtype in (torch.float32, torch.float64):
        x = normals(R, N, D, seed=0, dtype=dtype)
        before = x.clone()
        state = algorithm.init(x)
        require(same_bits(x, before), f"{who}: init changes x in place")
        check_leaves(state, (R, N), dtype, f"{who}: init")
        form = state
        for t, g in enumerate(gradients.to(dtype)):
            x, state = _check_round(algorithm, g, state, x, t, w)
            check_leaves(state, (R, N), dtype, f"{who}: state after round {t}")
            if algorithm.output is not None:
                _check_output(algorithm, x, state, t)
            require(
                alike(state, form),
                f"{who}: the state changes its structure or shapes in round {t}; keep them as init makes them",
            )
            require(bool(torch.isfinite(x).all()), f"{who}: x is not finite after round {t} on a harmless problem")
            if tracker:
                gap = float((leaf(state, tracker).double().mean(-2) - g.double().mean(-2)).abs().max())
                limit = 1e-12 if dtype == torch.float64 else 1e-5
                require(gap < limit, f"{who}: the mean of the trackers is off the mean of the gradients by {gap:.1e}")
    x = normals(R, N, D, seed=0)
    whole = _drive(algorithm, x, gradients, w)
    require(
        same_bits(whole, _drive(algorithm, x, gradients, w)),
        f"{who}: a second run from the same start gives other numbers",
    )
    for r in range(R):
        single = _drive(algorithm, x[r : r + 1], gradients[:, r : r + 1], w)
        require(
            same_bits(single, sliced(whole, slice(r, r + 1))),
            f"{who}: trial {r} alone differs from trial {r} in a batch",
        )
    order = torch.tensor([3, 0, 4, 2, 1])
    renamed = {name: each[order][:, order] for name, each in w.items()}
    relabelled, _ = _drive(algorithm, x[:, order], gradients[:, :, order], renamed)
    gap = float((relabelled - whole[0][:, order]).abs().max())
    require(gap < 1e-9, f"{who}: the numbering of the agents matters (relabelled agents differ by {gap:.1e})")
    other, moved = x.clone(), gradients.clone()
    other[:, -1] += 1
    moved[:, :, -1] -= 1
    apart = dict.fromkeys(w, torch.eye(N))
    (alone, _), (beside, _) = (_drive(algorithm, *each, apart) for each in ((x, gradients), (other, moved)))
    require(same_bits(alone[:, :-1], beside[:, :-1]), f"{who}: an agent learns of another one without mix")
    if algorithm.coin is not None:
        rounds = _Silent(lambda _, z: z, x), _Silent(lambda _, z: -z, x)
        heard, unheard = (algorithm.update(gradients[0], algorithm.init(x), x, round) for round in rounds)
        require(same_bits(heard, unheard), f"{who}: uses what mix gives in a round without an exchange (mix.coin)")
    still = x[:, :1].expand(R, N, D).clone()
    point, state = still, algorithm.init(still)
    for t in range(4):
        round = Rehearsal(lambda name, z: mixed(w[name], z), point, t)
        point, state = algorithm.update(torch.zeros_like(point), state, point, round)
    gap = float((point - still).abs().max())
    require(gap < 1e-12, f"{who}: agents that agree and see zero gradients move (by {gap:.1e})")


def _check_output(algorithm: Any, x: Tensor, state: Any, t: int) -> None:
    """The answer before round t + 1, checked for shape, purity, and independence of agents."""
    who = type(algorithm).__name__
    held = copied((x, state))
    answer = algorithm.output(x, state)
    fits = isinstance(answer, Tensor) and answer.shape == x.shape and answer.dtype == x.dtype
    require(fits, f"{who}: output must give {list(x.shape)} and {x.dtype} as x has")
    require(same_bits(held, (x, state)), f"{who}: output changes its inputs in place (round {t})")
    require(same_bits(answer, algorithm.output(x, state)), f"{who}: output is not pure (round {t})")
    for r in range(R):
        for i in range(N):
            rows = slice(r, r + 1), slice(i, i + 1)
            alone = algorithm.output(x[rows], sliced(state, *rows))
            require(
                same_bits(alone, answer[rows]), f"{who}: output gives an agent alone another answer than among others"
            )


def _check_round(algorithm: Any, g: Tensor, state: Any, x: Tensor, t: int, w: dict[str, Tensor]) -> tuple[Tensor, Any]:
    """One round, done twice: same inputs, same outputs, inputs untouched, every channel once."""
    who = type(algorithm).__name__
    before = copied((g, state, x))
    results, asked = [], []
    for _ in range(2):
        sent: list[str] = []

        def mix(name: str, z: Tensor, sent: list[str] = sent) -> Tensor:
            sent.append(name)
            lead = tuple(z.shape[:-1])
            require(
                lead == (R, N), f"{who}: what it sends through {name!r} has shape {list(z.shape)}, not [{R}, {N}, *]"
            )
            return mixed(w[name], z) if name in w else z  # what it must not send is refused below

        def grad(y: Tensor) -> Tensor:
            return g + (y - x)

        round = Rehearsal(mix, x, t, grad)
        after = algorithm.update(g, state, x, round)
        asked.append((round.gradients, round.words, round.rows))
        right = sorted(sent) == sorted(algorithm.channels)
        require(
            right,
            f"{who}: round {t} used the channels {sent}, but channels = {algorithm.channels}: each once, every round",
        )
        require(same_bits(before, (g, state, x)), f"{who}: update changes its inputs in place (round {t})")
        require(isinstance(after, tuple) and len(after) == 2, f"{who}: update must return (x, state)")
        fits = after[0].shape == x.shape and after[0].dtype == x.dtype
        require(fits, f"{who}: update turns x {list(x.shape)} {x.dtype} into {list(after[0].shape)} {after[0].dtype}")
        results.append(after)
    _, first = tried(algorithm, (x, algorithm.init(x.clone())), torch.zeros_like(x))
    require(
        all(each == (first.gradients, first.words, first.rows) for each in asked),
        f"{who}: round {t} asks for {asked[0][0]} further gradients and {asked[0][1]} uniform numbers, the first one for "
        f"{first.gradients} and {first.words}; ask for as many in every round",
    )
    require(
        same_bits(results[0], results[1]), f"{who}: update is not pure: the same inputs give other outputs (round {t})"
    )
    return results[0][0], results[0][1]


def check_direction(direction: Any) -> None:
    """Check a direction rule against ``distopt.protocols.Direction``.

    Promises: state leaves are [R, n, *] of s's dtype, with constant shapes. The rule is pure, and every agent's result is
    independent of the others, bit for bit. It is finite for gradients from 1e-12 to 1e6 and for zero ones. Without any
    gradient from the start there is no direction.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.directions.adam import Adam
    >>> print(check_direction(Adam()))
    None
    """
    who = type(direction).__name__

    def drive(stream: Tensor) -> list[tuple[Tensor, Any]]:
        state, out = direction.init(torch.zeros_like(stream[0])), []
        for t, s in enumerate(stream):
            before = copied((s, state))

            def turned(s: Tensor = s, state: Any = state, t: int = t) -> tuple[Tensor, Any]:
                return direct(direction, s, state, Rehearsal(lambda _, z: z, s, t, torch.neg), lr=0.1)

            d, after = turned()
            require(same_bits(before, (s, state)), f"{who}: changes its inputs in place")
            require(same_bits((d, after), turned()), f"{who}: not pure: the same inputs give other outputs")
            fits = d.shape == s.shape and d.dtype == s.dtype
            require(fits, f"{who}: turns s {list(s.shape)} {s.dtype} into {list(d.shape)} {d.dtype}")
            require(
                alike(state, after), f"{who}: the state changes its structure or shapes; keep them as init makes them"
            )
            check_leaves(after, (s.shape[0], s.shape[1]), s.dtype, f"{who}: state")
            state = after
            out.append((d, state))
        return out

    for dtype in (torch.float32, torch.float64):
        stream = normals(ROUNDS, R, N, D, seed=2, dtype=dtype)
        whole = drive(stream)
        for r in range(R):
            for i in range(N):
                alone = drive(stream[:, r : r + 1, i : i + 1])
                part = sliced(whole, slice(r, r + 1), slice(i, i + 1))
                require(
                    same_bits(alone, part),
                    f"{who}: an agent alone gets another direction than the same agent among others",
                )
        for size in (1e-12, 1.0, 1e6):
            for d, _ in drive(size * stream):
                require(bool(torch.isfinite(d).all()), f"{who}: not finite at gradients of size {size:g} in {dtype}")
        for d, _ in drive(torch.zeros_like(stream)):
            require(bool((d == 0).all()), f"{who}: zero gradients from the start give a direction that is not zero")


def check_channel(channel: Any, keeps_mean: bool = True) -> None:
    """Check a channel against ``distopt.protocols.Channel``.

    Promises, for values of several widths:

    - ``init`` depends on shape and dtype only.
    - Memory and payload have leaves [R, n, *] of z's dtype (a payload may hold integers), with constant shapes.
    - It is pure, keeps z's shape and dtype, and trials are independent, bit for bit.
    - ``bits`` is a positive whole number that does not shrink as d grows.
    - With ``keeps_mean`` and a doubly stochastic W, the result has the agents' mean of z. Gradient tracking needs this.

    Raises:
        AssertionError: naming the first promise that is broken.

    >>> from distopt.channels.exact import Exact
    >>> print(check_channel(Exact()))
    None
    """
    who, channel = type(channel).__name__, completed(ChannelDefaults, channel)
    i, j = np.array(LINKS).T
    places = Slots(*(leaf[0, 0] for leaf in slots(N, i, j, np.full(len(LINKS), 0.25))))
    if channel.for_degree is not None:
        channel = completed(ChannelDefaults, channel.for_degree(places.index.shape[-1]))

    index, weight = linked(N, np.r_[i, j], np.r_[j, i], np.full(2 * len(LINKS), 0.25))
    if channel.for_senders is not None:
        channel = completed(ChannelDefaults, channel.for_senders(index.shape[-1]))

    class Wire:
        own = slice(None)
        slots = places

        def heard(self, payload: Any) -> Any:
            return payload

        def weigh(self, rows: Tensor) -> Tensor:
            return mixed(weights(), rows)

        def arrived(self, payload: Tensor) -> Arrived:
            return Arrived(payload[:, index[0, 0]], weight[0], 1 - weight[0].sum(-1, keepdim=True))

    shared = bool(channel.shared)

    def drive(stream: Tensor, noise: Tensor) -> tuple[list[Tensor], Any]:
        memory, out = channel.init(torch.zeros_like(stream[0])), []
        lead = (stream.shape[1], stream.shape[2])
        check_leaves(memory, lead, stream.dtype, f"{who}: init")
        blind = same_bits(memory, channel.init(stream[0]))
        require(blind, f"{who}: init looks at the numbers that it is given; memory begins before any value is known")
        first: Any = None
        for z, drawn in zip(stream, noise, strict=True):
            u = drawn if drawn.shape[-1] else None
            known = u if shared else None
            before = copied((z, memory))
            payload = channel.encode(z, memory, u)
            check_leaves(payload, lead, z.dtype, f"{who}: payload")
            first = payload if first is None else first
            require(alike(first, payload), f"{who}: the payload changes its structure or shapes from round to round")
            sent = copied(payload)
            heard, after = channel(z, payload, memory, Wire(), known)
            require(same_bits((before, sent), ((z, memory), payload)), f"{who}: changes its inputs in place")
            again = channel.encode(z, memory, u)
            pure = same_bits((payload, heard, after), (again, *channel(z, again, memory, Wire(), known)))
            require(pure, f"{who}: not pure: the same inputs give other outputs")
            fits = heard.shape == z.shape and heard.dtype == z.dtype
            require(fits, f"{who}: turns z {list(z.shape)} {z.dtype} into {list(heard.shape)} {heard.dtype}")
            check_leaves(after, lead, z.dtype, f"{who}: memory")
            require(
                alike(memory, after), f"{who}: the memory changes its structure or shapes; keep them as init makes them"
            )
            memory = after
            out.append(heard)
        return out, memory

    for dtype, width in ((torch.float32, D), (torch.float64, D), (torch.float64, 1), (torch.float64, 2 * D + 1)):
        words = channel.words(width)
        noise = torch.rand(
            ROUNDS, R, 1 if shared else N, words, generator=torch.Generator().manual_seed(6), dtype=torch.float64
        )
        stream = normals(ROUNDS, R, N, width, seed=5, dtype=dtype)
        whole = drive(stream, noise)
        for r in range(R):
            part = sliced(whole, slice(r, r + 1))
            alone = drive(stream[:, r : r + 1], noise[:, r : r + 1])
            require(same_bits(alone, part), f"{who}: trial {r} alone differs from trial {r} in a batch")
        gap = max(float((a.mean(-2) - z.mean(-2)).abs().max()) for a, z in zip(whole[0], stream, strict=True))
        limit = 1e-5 if dtype == torch.float32 else 1e-12
        require(not keeps_mean or gap < limit, f"{who}: the mean over the agents changes by {gap:.1e} on the way")
    sizes = [channel.bits(d, 8) for d in (1, 10, 1000)]
    whole_numbers = all(isinstance(size, int) and size > 0 for size in sizes)
    require(
        whole_numbers and sizes[0] <= sizes[1] <= sizes[2],
        f"{who}: bits(d, itemsize) gives {sizes} for d = 1, 10, 1000",
    )
