"""Rounds as ONE compiled graph: a while_loop over a round, through the C++ wrapper.

What is compiled is the very step that runs eagerly; fused or cut, its bits are the same, and they differ from eager ones only
by rounding (a compiler may contract a sum into fewer roundings).
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch._dynamo as dynamo
from torch import Tensor
from torch._higher_order_ops import while_loop as _while_loop
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from distopt.engines.local import compiler
from distopt.numerics.trees import tensors, tree_map
from distopt.simulation.round import AgentState

T = TypeVar("T")

while_loop: Any = _while_loop  # torch gives it no types

SAME_BITS: dict[str, Any] = {"cpp.enable_tiling_heuristics": False}
"""Compiler options that every compiled engine shares. The heuristics choose between vector and scalar code by what a loop was fused
with and by its length, and the two have different ``tanh``, ``exp`` and ``log1p`` in the last bit."""

LARGE = 2**17  # numbers in one state vector above which a second thread pays


def prepare_process() -> None:
    """Keep what is compiled between runs, and large freed buffers with the process (a page fault costs more than a pass)."""
    compiler.settle()
    raise_limits()
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # not glibc: its allocator has no such dials
        return
    libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def raise_limits() -> None:
    """Let this thread compile as often as it asks (torch keeps the limits by thread): code for many problems is no accident."""
    if dynamo.config.recompile_limit < 2**16:
        dynamo.config.recompile_limit = dynamo.config.accumulated_recompile_limit = 2**16


def pick(tree: Any, k: Tensor) -> Any:
    """Round k of a block's leaves, k a tensor."""
    return tree_map(lambda leaf: leaf[0] if leaf.shape[0] == 1 else torch.index_select(leaf, 0, k.reshape(1))[0], tree)


def padded(tree: Any, length: int, constant: bool = True) -> Any:
    """Leaves of ``length`` rounds that begin with those of ``tree``: the loop never reads the rest.

    ``constant``: whether leaves of one round serve all rounds, and stay so.
    """

    def pad(leaf: Tensor) -> Tensor:
        if leaf.shape[0] == length or (constant and leaf.shape[0] == 1):
            return leaf
        return torch.cat([leaf, leaf[-1:].expand(length - leaf.shape[0], *leaf.shape[1:])])

    return tree_map(pad, tree)


class Round(NamedTuple):
    """What a round gives: what is held ``after`` it, ``rows`` to be kept, and its place ``k``, after all in it that has an order."""

    after: Any
    rows: list[Tensor]
    k: Tensor


One = Callable[[Any, Tensor, Any], Round]
"""A round: (what is held, its place k, leaves of all rounds). What is held is a tree: a ``AgentState``, or nothing."""


def traced(f: Callable[..., T], *trees: Any) -> T:
    """Shapes and dtypes of what f returns for these trees; no number is computed."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad():
        return f(*(tree_map(fake.from_tensor, tree) for tree in trees))


def layout(held: AgentState, neighbours: Collection[int], points: int = 1) -> tuple[list[int], int]:
    """(which leaves to carry in fresh buffers, how many threads to use); neighbours read ``neighbours`` of them.

    Threads share sums: each of the ``points`` of a grid gets as many as it has alone.
    """
    leaves = pytree.tree_leaves(held)
    row = held.x.shape[-1] * held.x.element_size()
    largest = max((leaf.numel() for leaf in leaves), default=0) // points
    # Rows that end in the middle of a vector: what is stored there delays the loads of the next row where both are in place.
    everything = row % 64 and row < 1024 and largest < LARGE
    moving = list(range(len(leaves))) if everything else sorted(set(neighbours))
    return moving, min(2, os.cpu_count() or 1) if largest >= LARGE else 1


class Loop:
    """Rounds of one shape as a compiled loop; the number of rounds is data, so one compilation serves all.

    Args:
        one: a round.
        held: as it enters the first one.
        rows: those of a round, whose forms count.
        length: the most rounds of a call.
        moving: places of the leaves that are carried from turn to turn in fresh buffers (see ``layout``).
        unroll: rounds per turn of the loop: pays for small problems, and compiles the longer. No bit depends on it.
    """

    def __init__(
        self, one: One, held: Any, rows: Sequence[Tensor], length: int, moving: Sequence[int], unroll: int = 1
    ) -> None:
        self.one, self.length, self.moving, self.unroll = one, length, moving, unroll
        self.spec = pytree.tree_structure(held)
        self.forms = [(row.shape, row.dtype) for row in rows]
        self.device = tensors((held, rows))[0].device
        self.compiled = False
        options = {"cpp_wrapper": self.device.type == "cpu", **SAME_BITS, **compiler.options()}
        self.run = torch.compile(self._loop, dynamic=False, fullgraph=True, options=options)

    def _loop(
        self, start: Tensor, stop: Tensor, flat: list[Tensor], buffers: list[Tensor], leaves: Any
    ) -> list[Tensor]:
        """Rounds start .. stop - 1: what the leaves have become.

        Leaves that neighbours read are carried from turn to turn in fresh buffers; all others, and the rows that are kept, are
        written in place. A round then moves no more bytes than a loop by hand would.
        """

        def body(k: Tensor, moving: tuple[Tensor, ...], turns: int) -> tuple[Tensor, ...]:
            arrived = iter(moving)
            before = [next(arrived) if place in self.moving else stays for place, stays in enumerate(flat)]
            held = pytree.tree_unflatten(before, self.spec)
            for _ in range(turns):
                held, rows, done = self.one(held, k, leaves)
                for buffer, row in zip(buffers, rows, strict=True):
                    buffer.index_copy_(0, (k - start).reshape(1), row[None])
                k = done + 1
            after = pytree.tree_leaves(held)
            leave = [
                after[place].clone() if any(after[place] is old for old in before) else after[place]
                for place in self.moving
            ]
            for place, kept_here in enumerate(flat):
                if place not in self.moving:
                    kept_here.copy_(after[place])
            return (k, *leave)

        carried: tuple[Tensor, ...] = (start, *(flat[place] for place in self.moving))
        if self.unroll > 1:
            turns = self.unroll
            carried = while_loop(
                lambda k, *_: k + (turns - 1) < stop, lambda k, *moving: body(k, moving, turns), carried
            )
        return list(while_loop(lambda k, *_: k < stop, lambda k, *moving: body(k, moving, 1), carried))

    def __call__(self, held: Any, leaves: Any, rounds: range) -> tuple[Any, list[Tensor]]:
        """What is held after ``rounds``, places in ``leaves``, and their rows [K, *]. What ``held`` holds is written over."""
        if len(rounds) > self.length:
            raise ValueError(f"{len(rounds)} rounds, of {self.length} at most")
        flat = pytree.tree_leaves(held)
        buffers = [torch.zeros(self.length, *shape, dtype=dtype, device=self.device) for shape, dtype in self.forms]
        first, last = torch.tensor(rounds.start, device=self.device), torch.tensor(rounds.stop, device=self.device)
        raise_limits()
        with torch.no_grad():
            _, *moved = self.run(first, last, flat, buffers, leaves)
        if not self.compiled:  # the compiler leaves cycles behind, and what it compiled for in them
            gc.collect()
            self.compiled = True
        for place, arrived in zip(self.moving, moved, strict=True):
            flat[place] = arrived
        return pytree.tree_unflatten(flat, self.spec), [buffer[: len(rounds)] for buffer in buffers]
