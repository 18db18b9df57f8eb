"""Rounds one by one in Python: where there is no compiler, for short runs, and for debugging."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distopt import metrics
from distopt.data import BLOCK_BYTES, at, default_dtype, evaluate, leaf, part
from distopt.experiment import Problem
from distopt.runner import Block, Carry, Stretch, invariant, same_form, step


class Eager:
    """Calls ``step`` round by round, then measures all the rounds of the stretch at once."""

    def advance(self, problem: Problem, block: Block, offset: int, carry: Carry, keep: tuple[str, ...]) -> Stretch:
        """See ``distopt.runner.Engine``."""
        x, state, memory, bits = carry.x, carry.state, carry.memory, 0
        room = max(1, BLOCK_BYTES // (x.numel() * x.element_size()))  # the points of a stretch are held until they are measured
        stop = min(block.count, offset + room)
        points: list[Tensor] = []
        violations: list[Tensor] = []
        kept: dict[str, list[Tensor]] = {name: [] for name in keep}
        with default_dtype(x.dtype):
            for k in range(offset, stop):
                points.append(x.clone())  # an algorithm may work in place
                x, state, net, g = step(problem, x, state, memory, at(block.data, k), at(block.tables, k))
                same_form(problem, x, block.start + k)
                memory, bits = net.memory, net.bits
                violation = invariant(state, g)
                if violation is not None:
                    violations.append(violation)
                for name, each in kept.items():
                    each.append(points[-1] if name == "x" else leaf(state, name).clone())

        def observe(x: Tensor, batch: Any) -> Tensor:
            return metrics.observe(problem.scenario, x, *batch)

        batch = part(block.exact, offset, stop), part(block.reference.x, offset, stop)
        seen = evaluate(observe, torch.stack(points).double(), batch)
        observed = dict(zip(metrics.observed(problem.scenario), seen.unbind(-1), strict=True))
        if violations:
            observed["tracker_invariant"] = torch.stack(violations)
        return Stretch(observed, {name: torch.stack(each) for name, each in kept.items()}, x, state, memory, bits)
