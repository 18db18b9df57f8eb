"""The rounds of a worker as one compiled loop (see ``distopt.engines.local.while_loop``), in which the exchange with the neighbours is opaque.

The numbers are those of the compiled loop over all agents (``distopt.engines.local.compiled``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from distopt.engines.local.compiler import refused
from distopt.engines.local.eager import Trajectory
from distopt.engines.local.while_loop import Loop, Round, layout, padded, pick, prepare_process, traced
from distopt.engines.workers.agents import Agents
from distopt.engines.workers.exchange import BlockLink, HaloExchange
from distopt.errors import InputError
from distopt.numerics.trees import tensors
from distopt.simulation import measure
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, before, recorded, same_form, step

_exchanges: WeakValueDictionary[int, HaloExchange] = WeakValueDictionary()
_numbers = count()

library: Any = torch.library  # torch gives it no types
# Operations with one result each, made without ``library.custom_op``: any others take 20 us to call.
_operations = library.Library("distopt", "DEF")
_operations.define("send(str stage, Tensor[] rows, Tensor exchange, Tensor k) -> Tensor")
_operations.define("heard(str stage, int place, Tensor row, int width, Tensor exchange, Tensor k) -> Tensor")


def _of(exchange: Tensor, do: Callable[[HaloExchange], Tensor]) -> Tensor:
    own = _exchanges[int(exchange)]
    try:
        return do(own)
    except BaseException as error:  # compiled code re-raises only the message; keep the exception itself
        own.failure = error
        raise


def _send(stage: str, rows: Sequence[Tensor], exchange: Tensor, k: Tensor) -> Tensor:
    def do(own: HaloExchange) -> Tensor:
        own.go(int(k))
        own.send(stage, rows)
        return k.clone()

    return _of(exchange, do)


def _heard(stage: str, place: int, row: Tensor, width: int, exchange: Tensor, k: Tensor) -> Tensor:
    return _of(exchange, lambda own: own.leaf(stage, place, row))


def _sent(stage: str, rows: Sequence[Tensor], exchange: Tensor, k: Tensor) -> Tensor:
    """The form of what ``_send`` returns."""
    return torch.empty_like(k)


def _arrived(stage: str, place: int, row: Tensor, width: int, exchange: Tensor, k: Tensor) -> Tensor:
    """The form of what ``_heard`` returns."""
    return row.new_empty(row.shape[0], width, *row.shape[2:])


for name, operation, form in (("send", _send, _sent), ("heard", _heard, _arrived)):
    _operations.impl(name, operation, "CPU")
    library.register_fake(f"distopt::{name}", form, lib=_operations)


@dataclass
class Opaque:
    """A exchange as compiled code sees it: its number, and the place k of the round, which threads what is sent on a string to keep its order."""

    exchange: Tensor
    k: Tensor
    width: int

    def send(self, stage: str, rows: Sequence[Tensor]) -> None:
        """See ``HaloExchange``."""
        self.k = torch.ops.distopt.send(stage, rows, self.exchange, self.k)

    def heard(self, stage: str, rows: Sequence[Tensor]) -> list[Tensor]:
        """See ``HaloExchange``."""
        return [
            torch.ops.distopt.heard(stage, place, row, self.width, self.exchange, self.k)
            for place, row in enumerate(rows)
        ]


class Rounds:
    """The rounds of a worker, and their measurements, compiled once for each shape of what is loaded.

    Args:
        problem: with the worker's own agents.
        agents: the worker's.
        terms: node sums of a round's measurements: (x, mean, data, x*_t).
        most: rounds of a segment.
    """

    def __init__(
        self,
        problem: Problem,
        agents: Agents,
        terms: Callable[..., Tensor],
        most: int,
    ) -> None:
        prepare_process()
        self.problem, self.agents, self.terms, self.most = problem, agents, terms, most
        self.exchange, self.early = agents.exchange, agents.method.plan.early
        number = next(_numbers)
        _exchanges[number] = self.exchange
        self._number = torch.tensor(number)
        self._loops: dict[Any, Loop] = {}
        self._loaded, self._bits, self._with_terms = 0, 0, False

    def through(self, rounds: range, data: Any, count: int, keep: tuple[str, ...]) -> Trajectory:
        """See ``distopt.engines.workers.worker.Through``. What the agents hold is written over."""
        held, halo = self.agents.held, self.agents.halo
        weights, width = (halo.tables, halo.own), halo.width
        self.exchange.go(rounds.start)
        first = torch.tensor([self.exchange.round - rounds.start])
        self._loaded = max(self._loaded, count)
        leaves = padded((data, weights, self.agents.uniforms, first), self._loaded)

        def one(held: AgentState, k: Tensor, leaves: Any) -> Round:
            opaque = Opaque(self._number, k, width)
            data, weights, uniforms, first = pick(leaves, k)
            link = BlockLink(opaque, self.problem.network.which, *weights)
            after, net, g = step(self.problem, held, data, link, uniforms, first + k, self.early)
            of_round = measure.round_terms(self.problem, after.state, g)
            self._bits, self._with_terms = net.bits, of_round is not None
            stood = before(self.problem, held)
            kept = [stood[name] if name in stood else recorded(after, name) for name in (self.problem.answer, *keep)]
            return Round(after, [*kept, *([of_round] if of_round is not None else [])], opaque.k)

        shapes = (keep, width, self._longest, *((leaf.shape, leaf.dtype) for leaf in tensors((held, leaves))))
        if shapes not in self._loops:
            after, rows, _ = self._forms(one, held, leaves)
            same_form(self.problem, after.x, self.exchange.round)
            self._loops[shapes] = Loop(one, held, rows, self._longest, layout(held, self.early.values())[0])
        held, (points, *kept) = self._run(self._loops[shapes], held, leaves, rounds)
        terms = kept.pop() if self._with_terms else None
        return Trajectory(points, terms, dict(zip(keep, kept, strict=True)), held, self._bits)

    def measure(self, points: Tensor, mean: Tensor, data: Any, best: Tensor, rounds: range) -> Tensor:
        """See ``distopt.engines.workers.worker.Measure``."""
        found = padded(
            (points, mean), self._longest, constant=False
        )  # points and means of these rounds; data and x* of all loaded rounds
        leaves = found, padded((data, best), self._loaded), torch.tensor([rounds.start])

        def one(held: tuple[()], k: Tensor, leaves: Any) -> Round:
            found, loaded, first = leaves
            x, mean = pick(found, k - first[0])
            return Round(held, [self.terms(x, mean, *pick(loaded, k))], k)

        shapes = tuple((leaf.shape, leaf.dtype) for leaf in tensors(leaves))
        if shapes not in self._loops:
            _, rows, _ = self._forms(one, (), leaves)
            self._loops[shapes] = Loop(one, (), rows, self._longest, ())
        return self._run(self._loops[shapes], (), leaves, rounds)[1][0]

    def _run(self, loop: Loop, held: Any, leaves: Any, rounds: range) -> tuple[Any, list[Tensor]]:
        """Run a loop. Its compilation may be refused, and its exchanges may fail."""
        self.exchange.failure = None
        failure: BaseException
        try:
            return loop(held, leaves, rounds)
        except RuntimeError as error:
            failure = self.exchange.failure or error
            if isinstance(error, TorchDynamoException):
                failure = refused(error)
            elif str(error).startswith("KeyboardInterrupt"):  # it came before an operation could catch it
                failure = self.exchange.failure or KeyboardInterrupt()
        raise failure

    @property
    def _longest(self) -> int:
        """Rounds that a segment of what is loaded may have."""
        return min(self.most, self._loaded)

    @staticmethod
    def _forms(one: Any, held: Any, leaves: Any) -> Round:
        """The shapes and dtypes of a round's results."""
        try:
            found: Round = traced(one, held, torch.zeros((), dtype=torch.int64), leaves)
            return found
        except InputError:
            raise
        except Exception as error:
            raise refused(error) from error
