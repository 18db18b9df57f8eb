"""The rounds of a block as ONE compiled graph: a while_loop over ``runner.step`` with its measurements, through the C++ wrapper.

What is compiled is the very step that runs eagerly; fused or cut, its bits are the same, and they differ from eager ones only
by rounding (a compiler may contract a sum into fewer roundings).
"""

from __future__ import annotations

import ctypes
import gc
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo as dynamo
from torch import Tensor
from torch._higher_order_ops import while_loop as _while_loop
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from distopt import metrics, runner
from distopt.data import at, default_dtype, leaf, tensors, tree_map
from distopt.engines.eager import ready
from distopt.errors import InputError
from distopt.experiment import Problem
from distopt.network import Memory, Noise, Whole, known_at_start
from distopt.runner import Block, Carry, Held, Stretch, here
from distopt.tree import tree_sum

while_loop: Any = _while_loop  # torch gives it no types

SAME_BITS: dict[str, Any] = {"cpp.enable_tiling_heuristics": False}
"""Compiler options that every compiled engine shares. The heuristics choose between vector and scalar code by what a loop was fused
with and by its length, and the two have different ``tanh``, ``exp`` and ``log1p`` in the last bit."""

LARGE = 2**17  # numbers in one state vector above which a second thread pays

SMALL = 2**12  # numbers in x up to which a turn of the loop costs as much as the round in it: some 4 us
MANY = 4 * 10**6  # rounds from which sparing that pays for compiling four rounds instead of one: some 15 s

Leaves = tuple[Any, Any, Any, Noise, Tensor]
"""A block's data, exact data, tables, noise and x*_t."""


def prepare_process() -> None:
    """Keep the compile cache between runs, and large freed buffers with the process (a page fault costs more than a pass)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "distopt" / "inductor"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
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


class Loop:
    """The rounds of blocks of one shape as a compiled loop; the number of rounds is data, so one compilation serves all.

    Args:
        problem: whose ``step`` it is.
        keep: trajectories to return.
        carry: leaves (x, state, memory) as they enter.
        block: a block whose leaves show the shapes.
        observe: whether to measure; without, ``Stretch.observed`` is empty (for benchmarks of the bare recursion).
        unroll: rounds per turn of the loop: pays for small problems, and compiles the longer; None for as many as pay. No bit
            depends on it.
    """

    def __init__(
        self, problem: Problem, keep: tuple[str, ...], carry: Held, block: Block, observe: bool = True, unroll: int | None = None
    ) -> None:
        self.problem, self.keep, self.length, self.observe = problem, keep, block.length, observe
        flat, self.spec = pytree.tree_flatten(carry)
        self.unroll = unroll or (4 if carry.x.numel() <= SMALL and problem.rounds >= MANY else 1)
        self.bits, self.seen, self.compiled = 0, 0, False
        self.device = carry.x.device
        early, after, seen, kept = self._traced(carry, block)
        row = carry.x.shape[-1] * carry.x.element_size()
        points = len(problem.x0) // problem.experiment.trials  # threads share sums: a grid point gets as many as it has alone
        largest = max((leaf.numel() for leaf in flat), default=0) // points
        # Rows that end in the middle of a vector: what is stored there delays the loads of the next row where both are in place.
        everything = row % 64 and row < 1024 and largest < LARGE
        self.moving = list(range(len(flat))) if everything else sorted(set(early))  # x and the state are the first leaves
        runner.same_form(problem, after.x, block.start)
        self.shapes = [(value.shape, value.dtype) for value in (*seen, *kept)]
        self.threads = min(2, os.cpu_count() or 1) if largest >= LARGE else 1
        self.run = torch.compile(self._loop, dynamic=False, fullgraph=True, options={"cpp_wrapper": self.device.type == "cpu", **SAME_BITS})

    def _traced(self, carry: Held, block: Block) -> tuple[list[int], Held, list[Tensor], list[Tensor]]:
        """The leaves that neighbours read, and what a round gives: forms alone, no number is computed where it can be helped."""
        blocks, zero = self._blocks(block), torch.zeros((), dtype=torch.int64, device=carry.x.device)

        def trace(carry: Held, blocks: Leaves) -> tuple[list[int], Held, list[Tensor], list[Tensor]]:
            with torch.no_grad():
                return list(known_at_start(self.problem.algorithm, carry.x).values()), *self._round(carry, zero, blocks)

        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                return trace(*tree_map(fake.from_tensor, (carry, blocks)))
        except InputError:
            raise
        except Exception:  # what asks a tensor for its value, for one, has to be tried in earnest
            return trace(carry, blocks)

    @staticmethod
    def _blocks(block: Block) -> Leaves:
        """The block's leaves, padded to its full length: the loop never reads what stands there."""

        def pad(leaf: Tensor) -> Tensor:
            if leaf.shape[0] == 1 or leaf.shape[0] == block.length:
                return leaf
            return torch.cat([leaf, leaf[-1:].expand(block.length - leaf.shape[0], *leaf.shape[1:])])

        padded: Leaves = tree_map(pad, (block.data, block.exact, block.tables, block.noise, block.reference.x))
        return padded

    def _round(self, held: Held, k: Tensor, blocks: Leaves) -> tuple[Held, list[Tensor], list[Tensor]]:
        data, exact, weights, noise, best = (pick(tree, k) for tree in blocks)
        after, net, g = runner.step(self.problem, held, data, Whole(weights), noise)
        self.bits = net.bits
        seen = []
        if self.observe:
            seen = [metrics.sums(self.problem.scenario, held.x.double(), exact, best)]
            violation = runner.violation(after.state, g)
            if violation is not None:
                seen.append(metrics.tracker_invariant(tree_sum(violation), self.problem.agents))
        self.seen = len(seen)
        kept = [held.x if name == "x" else leaf(after.state, name) for name in self.keep]
        return after, seen, kept

    def _loop(self, start: Tensor, stop: Tensor, flat: list[Tensor], buffers: list[Tensor], blocks: Any) -> list[Tensor]:
        """Rounds start .. stop - 1: what the leaves have become.

        Leaves that neighbours read are carried from turn to turn in fresh buffers; all others, and the rows that are kept, are
        written in place. A round then moves no more bytes than a loop by hand would.
        """

        def body(k: Tensor, moving: tuple[Tensor, ...], turns: int) -> tuple[Tensor, ...]:
            arrived = iter(moving)
            before = [next(arrived) if place in self.moving else stays for place, stays in enumerate(flat)]
            held: Held = pytree.tree_unflatten(before, self.spec)
            for u in range(turns):
                held, seen, kept = self._round(held, k + u, blocks)
                for rows, row in zip(buffers, (*seen, *kept), strict=True):
                    rows.index_copy_(0, (k + u).reshape(1), row[None])
            after = pytree.tree_leaves(held)
            leave = [after[place].clone() if any(after[place] is old for old in before) else after[place] for place in self.moving]
            for place, kept_here in enumerate(flat):
                if place not in self.moving:
                    kept_here.copy_(after[place])
            return (k + turns, *leave)

        carried: tuple[Tensor, ...] = (start, *(flat[place] for place in self.moving))
        if self.unroll > 1:
            turns = self.unroll
            carried = while_loop(lambda k, *_: k + (turns - 1) < stop, lambda k, *moving: body(k, moving, turns), carried)
        return list(while_loop(lambda k, *_: k < stop, lambda k, *moving: body(k, moving, 1), carried))

    def __call__(self, carry: Held, block: Block, rounds: range) -> Stretch:
        """``rounds``, places in ``block``. What the carry holds is written over."""
        flat = pytree.tree_leaves(carry)
        buffers = [torch.zeros(self.length, *shape, dtype=dtype, device=self.device) for shape, dtype in self.shapes]
        first, last = torch.tensor(rounds.start, device=self.device), torch.tensor(rounds.stop, device=self.device)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.no_grad():
                _, *moved = self.run(first, last, flat, buffers, self._blocks(block))
        finally:
            torch.set_num_threads(before)
        if not self.compiled:  # the compiler leaves cycles behind, and what it compiled for in them
            gc.collect()
            self.compiled = True
        for place, arrived in zip(self.moving, moved, strict=True):
            flat[place] = arrived
        held: Held = pytree.tree_unflatten(flat, self.spec)
        rows = [value[rounds.start : rounds.stop] for value in buffers]
        sums, kept = rows[: self.seen], rows[self.seen :]
        observed: dict[str, Tensor] = {}
        if sums:
            observed = metrics.totals(self.problem.scenario, sums[0], self.problem.agents)
        if len(sums) > 1:
            observed["tracker_invariant"] = sums[1]
        finite = torch.isfinite(held.x).flatten(1).all(1)
        return Stretch(observed, dict(zip(self.keep, kept, strict=True)), held, finite, self.bits)


class Lent:
    """What the agents hold, until the next rounds write over it."""

    def __init__(self, held: Held) -> None:
        self._held: Held | None = held

    def take(self) -> Held:
        """Take it back: nobody else can ask for it any more."""
        held, self._held = self._here(), None
        return held

    def _here(self) -> Held:
        if self._held is None:
            raise RuntimeError("the rounds have gone on: ask for x, state or memory before the next stretch of them")
        return self._held

    @property
    def x(self) -> Tensor:
        """[R, N, d]."""
        return self._here().x

    @property
    def state(self) -> Any:
        """The algorithm's."""
        return self._here().state

    @property
    def memory(self) -> Memory:
        """The channels'."""
        return self._here().memory


class Compiled:
    """Runs blocks through a ``Loop``, compiled once for each shape of block (one, unless the network's degree changes)."""

    compiled = True

    def __init__(self) -> None:
        self._loops: dict[Any, Loop] = {}

    def prepare(self, block: Block) -> None:
        """See ``distopt.runner.Engine``."""
        ready(block)

    def advance(self, problem: Problem, block: Block, rounds: range, carry: Carry, keep: tuple[str, ...]) -> Stretch:
        """See ``distopt.runner.Engine``."""
        dtype = carry.x.dtype
        held = with_memory(problem, block, rounds.start, carry.held.take() if isinstance(carry.held, Lent) else here(carry.held))
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in tensors((held, Loop._blocks(block))))
        if shapes not in self._loops:
            prepare_process()
            with default_dtype(dtype):
                self._loops[shapes] = Loop(problem, keep, held, block)
        with default_dtype(dtype):
            stretch = self._loops[shapes](held, block, rounds)
        return replace(stretch, held=Lent(here(stretch.held)))


def with_memory(problem: Problem, block: Block, offset: int, held: Held) -> Held:
    """What is held, with the channels' memories; before the first round, those that the values of that round start."""
    if held.memory or not problem.algorithm.channels:
        return held
    with default_dtype(held.x.dtype):
        started = {name: channel.init(held.x[:, :1]) for name, channel in problem.channels.items()}
        if not tensors(started):  # nothing to keep, so nothing that a round would have to tell
            return held._replace(memory=started)
        _, net, _ = runner.step(problem, held, at(block.data, offset), Whole(at(block.tables, offset)), at(block.noise, offset))
    return held._replace(memory=runner.owned(net.before))  # it may start from x itself
