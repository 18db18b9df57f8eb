"""A worker's round as one compiled graph, in which the exchange with the neighbours is an opaque operation.

The numbers are those of the compiled loop over all agents (``distopt.engines.compiled``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from distopt import mixing, runner
from distopt.data import at
from distopt.engines.compiled import SAME_BITS, prepare_process, raise_limits
from distopt.engines.eager import Step
from distopt.engines.worker import BlockLink, Measure, Post
from distopt.experiment import Problem
from distopt.network import Link, Noise
from distopt.runner import Held

_posts: WeakValueDictionary[int, Post] = WeakValueDictionary()
_numbers = count()


library: Any = torch.library  # torch gives it no types
_operations = library.Library("distopt", "DEF")  # an operation of ``library.custom_op`` would take 20 us to call
_operations.define("send(str stage, Tensor[] rows, Tensor token) -> Tensor")
_operations.define("heard(str stage, Tensor[] rows, int width, Tensor token) -> Tensor[]")


def _send(stage: str, rows: Sequence[Tensor], token: Tensor) -> Tensor:
    _posts[int(token)].send(stage, rows)
    return token.clone()


def _heard(stage: str, rows: Sequence[Tensor], width: int, token: Tensor) -> list[Tensor]:
    return [token.clone(), *_posts[int(token)].heard(stage, rows)]


_operations.impl("send", _send, "CPU")
_operations.impl("heard", _heard, "CPU")


def _sent(stage: str, rows: Sequence[Tensor], token: Tensor) -> Tensor:
    """The form of what ``_send`` returns."""
    return torch.empty_like(token)


def _arrived(stage: str, rows: Sequence[Tensor], width: int, token: Tensor) -> list[Tensor]:
    """The form of what ``_heard`` returns."""
    return [torch.empty_like(token), *(row.new_empty(row.shape[0], width, *row.shape[2:]) for row in rows)]


library.register_fake("distopt::send", _sent, lib=_operations)
library.register_fake("distopt::heard", _arrived, lib=_operations)


class Opaque:
    """A post as compiled code sees it. ``token`` names the post and threads the operations on a string, so that they keep their order."""

    def __init__(self, token: Tensor, width: int) -> None:
        self.token, self.width = token, width

    def send(self, stage: str, rows: Sequence[Tensor]) -> None:
        """See ``Post``."""
        self.token = torch.ops.distopt.send(stage, rows, self.token)

    def heard(self, stage: str, rows: Sequence[Tensor]) -> list[Tensor]:
        """See ``Post``."""
        heard: list[Tensor] = torch.ops.distopt.heard(stage, rows, self.width, self.token)
        self.token = heard[0]
        return heard[1:]


def stepper(problem: Problem, early: Mapping[str, int]) -> Step:
    """``runner.step`` compiled, as a ``Step`` of a worker's links."""
    prepare_process()

    def one(
        held: Held, data: Any, table: mixing.Table, own: Tensor, noise: Noise, token: Tensor, width: int
    ) -> tuple[Held, int, Tensor | None]:
        link = BlockLink(Opaque(token, width), table, own)
        after, net, g = runner.step(problem, held, data, link, noise, early)
        return after, net.bits, runner.violation(after.state, g)

    compiled = torch.compile(one, dynamic=False, fullgraph=True, options=SAME_BITS)
    number = next(_numbers)
    token = torch.tensor(number)

    def step(held: Held, data: Any, link: Link, noise: Noise) -> tuple[Held, int, Tensor | None]:
        assert isinstance(link, BlockLink) and isinstance(link.post, Post)
        _posts[number] = link.post
        if not held.memory and problem.algorithm.channels:  # as ``compiled.with_memory``: the loop starts from them
            link.post.prefix = "memory/"
            _, net, _ = runner.step(problem, held, data, link, noise, early)
            held = held._replace(memory=net.before)
            link.post.prefix = ""
        raise_limits()
        with torch.no_grad():
            result: tuple[Held, int, Tensor | None] = compiled(
                held, data, link.table, link.own, noise, token, link.post.stencil.width
            )
        return result

    return step


def measure(terms: Callable[..., Tensor]) -> Measure:
    """``terms`` of a round, compiled, over the rounds of a stretch."""
    prepare_process()
    compiled: Callable[..., Tensor] = torch.compile(terms, dynamic=False, fullgraph=True, options=SAME_BITS)

    def each(points: Tensor, batch: Any) -> Tensor:
        raise_limits()
        with torch.no_grad():
            return torch.stack([compiled(x, *at(batch, k)) for k, x in enumerate(points)])

    return each
