"""The rounds of a block as ONE compiled graph: a while_loop over ``runner.step`` with its measurements, through the C++ wrapper.

What is compiled is the very step that runs eagerly; fused or cut, its bits are the same, and they differ from eager ones only
by rounding (a compiler may contract a sum into fewer roundings).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import torch
import torch._dynamo as dynamo
from torch import Tensor
from torch._higher_order_ops import while_loop as _while_loop
from torch.utils import _pytree as pytree

from distopt import metrics, runner
from distopt.data import at, default_dtype, leaf, tensors, tree_map
from distopt.experiment import Problem
from distopt.network import Memory
from distopt.runner import Block, Carry, Stretch

while_loop: Any = _while_loop  # torch gives it no types

LARGE = 2**17  # numbers in one state vector above which a second thread pays

Held = tuple[Tensor, Any, Memory]
"""x, the algorithm's state and the channels' memories."""


def prepare_process() -> None:
    """Keep the compile cache between runs, and large freed buffers with the process (a page fault costs more than a pass)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "distopt" / "inductor"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    dynamo.config.recompile_limit = dynamo.config.accumulated_recompile_limit = 2**16  # a loop each for many problems is no accident
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # not glibc: its allocator has no such dials
        return
    libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


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
        unroll: rounds per turn of the loop: pays for tiny problems, and costs as many times the compilation.
    """

    def __init__(
        self, problem: Problem, keep: tuple[str, ...], carry: Held, block: Block, observe: bool = True, unroll: int = 1
    ) -> None:
        self.problem, self.keep, self.length, self.observe, self.unroll = problem, keep, block.length, observe, unroll
        self.names = list(metrics.observed(problem.scenario))
        flat, self.spec = pytree.tree_flatten(carry)
        self.bits = 0
        zero = torch.zeros((), dtype=torch.int64)
        with torch.no_grad():
            after, seen, kept = self._round(carry, zero, self._blocks(block))
        runner.same_form(problem, after[0], block.start)
        self.shapes = [(value.shape, value.dtype) for value in (*seen, *kept)]
        largest = max((leaf.numel() for leaf in flat), default=0)
        self.threads = min(2, os.cpu_count() or 1) if largest >= LARGE else 1
        self.run = torch.compile(self._loop, dynamic=False, fullgraph=True, options={"cpp_wrapper": True})

    @staticmethod
    def _blocks(block: Block) -> tuple[Any, Any, Any, Tensor]:
        """The block's leaves, padded to its full length: the loop never reads what stands there."""

        def pad(leaf: Tensor) -> Tensor:
            if leaf.shape[0] == 1 or leaf.shape[0] == block.length:
                return leaf
            return torch.cat([leaf, leaf[-1:].expand(block.length - leaf.shape[0], *leaf.shape[1:])])

        padded: tuple[Any, Any, Any, Tensor] = tree_map(pad, (block.data, block.exact, block.tables, block.reference.x))
        return padded

    def _round(self, carry: Held, k: Tensor, blocks: tuple[Any, Any, Any, Tensor]) -> tuple[Held, list[Tensor], list[Tensor]]:
        x, state, memory = carry
        data, exact, weights, best = (pick(tree, k) for tree in blocks)
        after, state, net, g = runner.step(self.problem, x, state, memory, data, weights)
        self.bits = net.bits
        seen = []
        if self.observe:
            values = metrics.observe(self.problem.scenario, x.double(), exact, best)
            violation = runner.invariant(state, g)
            seen = [values if violation is None else torch.cat([values, violation.unsqueeze(-1)], -1)]
        kept = [x if name == "x" else leaf(state, name) for name in self.keep]
        return (after, state, net.memory), seen, kept

    def _loop(self, start: Tensor, stop: Tensor, flat: list[Tensor], buffers: list[Tensor], blocks: Any) -> Any:
        count = len(flat)

        def body(k: Tensor, leaves: tuple[Tensor, ...], turns: int) -> tuple[Tensor, ...]:
            carry, out = pytree.tree_unflatten(list(leaves[:count]), self.spec), list(leaves[count:])
            for u in range(turns):
                carry, seen, kept = self._round(carry, k + u, blocks)
                out = [torch.index_copy(rows, 0, (k + u).reshape(1), row[None]) for rows, row in zip(out, (*seen, *kept), strict=True)]
            return (k + turns, *(leaf.clone() if any(leaf is old for old in leaves) else leaf for leaf in pytree.tree_leaves(carry)), *out)

        held: tuple[Tensor, ...] = (start, *flat, *buffers)
        if self.unroll > 1:
            turns = self.unroll
            held = while_loop(lambda k, *_: k + (turns - 1) < stop, lambda k, *leaves: body(k, leaves, turns), held)
        return while_loop(lambda k, *_: k < stop, lambda k, *leaves: body(k, leaves, 1), held)

    def __call__(self, carry: Held, block: Block, offset: int) -> Stretch:
        """The rounds of ``block`` from place ``offset`` to its end."""
        flat = [leaf.clone() for leaf in pytree.tree_leaves(carry)]
        buffers = [torch.zeros(self.length, *shape, dtype=dtype) for shape, dtype in self.shapes]
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.no_grad():
                _, *out = self.run(torch.tensor(offset), torch.tensor(block.count), flat, buffers, self._blocks(block))
        finally:
            torch.set_num_threads(before)
        x, state, memory = pytree.tree_unflatten(out[: len(flat)], self.spec)
        rows = [value[offset : block.count] for value in out[len(flat) :]]
        observed: dict[str, Tensor] = {}
        if self.observe:
            seen = rows.pop(0).unbind(-1)
            observed = dict(zip([*self.names, "tracker_invariant"], seen, strict=False))  # the last only where there is a tracker
        return Stretch(observed, dict(zip(self.keep, rows, strict=True)), x, state, memory, self.bits)


class Compiled:
    """Runs blocks through a ``Loop``, compiled once for each shape of block (one, unless the network's degree changes)."""

    def __init__(self) -> None:
        self._loops: dict[Any, Loop] = {}

    def advance(self, problem: Problem, block: Block, offset: int, carry: Carry, keep: tuple[str, ...]) -> Stretch:
        """See ``distopt.runner.Engine``."""
        held: Held = (carry.x, carry.state, self._memory(problem, block, offset, carry))
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in tensors((held, Loop._blocks(block))))
        if shapes not in self._loops:
            prepare_process()
            with default_dtype(carry.x.dtype):
                self._loops[shapes] = Loop(problem, keep, held, block)
        with default_dtype(carry.x.dtype):
            return self._loops[shapes](held, block, offset)

    @staticmethod
    def _memory(problem: Problem, block: Block, offset: int, carry: Carry) -> Memory:
        """The channels' memories; before the first round, those that the values of that round start."""
        if carry.memory or not problem.algorithm.channels:
            return carry.memory
        with default_dtype(carry.x.dtype):
            _, _, net, _ = runner.step(problem, carry.x, carry.state, {}, at(block.data, offset), at(block.tables, offset))
        return net.before
