"""A worker: one block of agents, its rounds and its part of the measurements. Engines move its messages and do no arithmetic.

A worker makes its own agents' data and its own part of the weights; during a round only rows travel that a neighbouring block
weighs. Payloads that a round knows at its beginning leave in one message per neighbouring block before the gradients are
computed, and are awaited when the algorithm mixes; others are exchanged when it mixes them. After a stretch of rounds the
measurements of all of them take three messages per worker, all to or from worker 0.

Bytes are carried by a ``Transport``, the only thing an engine has to bring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt import metrics, mixing, runner, tree
from distopt.data import Blocks, cast, default_dtype, evaluate, moved, part, rounds_of, tree_map
from distopt.engines import eager
from distopt.engines.partition import Partition
from distopt.engines.stencil import Stencil, pack, size, stencil, unpack
from distopt.errors import InputError
from distopt.experiment import Problem
from distopt.network import Noise, known_at_start, noise, slots
from distopt.protocols import Payload, Slots
from distopt.random import Key
from distopt.runner import Held, Standing

E = TypeVar("E")

CPU = torch.device("cpu")

Measure = Callable[[Tensor, Any], Tensor]
"""Node sums of what a block's agents add to the measurements of a stretch: (points [K, R, n, d], (mean, data, x*_t)) -> [K, R, m, c]."""

Tag = tuple[int, str]
"""(round, what it is): names a message between two workers. Messages are taken by tag, never by order of arrival."""


class Arriving(Protocol):
    """Messages that are on their way."""

    def wait(self) -> None:
        """Return when all are here, as they were sent, where they were expected."""


class Transport(Protocol):
    """How a worker's messages travel. Both methods return at once; nobody waits for a message to be taken.

    The first ``stencil.FRONT`` bytes of a message are the transport's to write; the rest stays as it is.
    """

    def expect(self, tag: Tag, into: dict[int, Tensor]) -> Arriving:
        """Messages of this tag are to fill uint8 [bytes], by the worker that sends them. The sooner it is said, the less a carrier has to do."""

    def send(self, tag: Tag, outgoing: dict[int, Tensor]) -> None:
        """Send uint8 [bytes] by worker. What was sent before has been taken; a message may be written over after the next one but one is sent."""


class Rows(Transport, Protocol):
    """Carries rows between the workers' devices; waiting for them holds up ``device`` alone. All send the same tags in the same order,
    each after it was expected, and wait for it once."""

    @property
    def device(self) -> torch.device:
        """Where this worker's agents live."""

    def confirm(self) -> None:
        """Return when all rows have arrived, as what they were taken for. What was made of them is not to be reported before."""


class Report(NamedTuple):
    """What worker 0 knows of a stretch when it is measured: as ``runner.Stretch``, for all agents."""

    observed: dict[str, Tensor]
    kept: dict[str, Tensor]
    finite: Tensor
    bits: int


Kinds = list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]]
"""The shapes of rows [R, n, *] before and after n, and their precisions."""


class Letter(NamedTuple):
    """A message of so many rows, and views of what is in it."""

    rows: int
    message: Tensor
    parts: list[Tensor]


class Due(NamedTuple):
    """What is to arrive of a stage in round k: the messages, and what will be in them, block after block."""

    k: int
    messages: Arriving
    pieces: list[list[Tensor]]


class Post:
    """A worker's exchanges, in round ``start + k`` entry ``k`` of its stencil.

    The messages of a round are expected as soon as those of the round before have left: one that came unexpected would keep gloo's
    thread spinning on what this thread needs to ask for it. All rounds have the same stages; where an algorithm leaves one out, all
    workers leave it out, and send a message without a meaning to those who expect one.
    """

    def __init__(self, transport: Transport, device: torch.device = CPU) -> None:
        self.transport, self.device, self.prefix, self.k = transport, device, "", 0
        self._kinds: dict[str, Kinds] = {}  # of the rows of a stage
        self._letters: dict[tuple[str, int, int, bool], Letter] = {}  # (stage, block, turn, whether it comes)
        self._turns: dict[tuple[str, int, bool], int] = {}
        self._ahead: dict[str, Due] = {}
        self._sent: dict[str, Due] = {}

    def begin(self, stencil: Stencil, start: int, rounds: range) -> None:
        """Go through ``rounds`` of a stencil."""
        self.stencil, self._start, self._rounds = stencil, start, rounds
        self._ahead = {stage: self._expect(rounds.start, stage) for stage in self._kinds} if rounds else {}

    def go(self, k: int) -> None:
        """Go to round k, or past the last one: what is still expected of the rounds before was left out."""
        for stage, due in [item for item in self._ahead.items() if item[1].k < k]:
            letters = {block: self._letter(stage, block, len(places), False) for block, places in self._entry(self.stencil.send, due.k).items()}
            self.transport.send(self._tag(due.k, stage), {block: letter.message for block, letter in letters.items()})
            due.messages.wait()
            del self._ahead[stage]
        self.k = k

    def send(self, stage: str, rows: Sequence[Tensor]) -> None:
        """Send the own agents' rows [R, n, *] of a stage to every block that needs any of them."""
        kinds: Kinds = [(row.shape[:1], row.shape[2:], row.dtype) for row in rows]
        if self._kinds.setdefault(stage, kinds) != kinds:
            raise InputError(f"what is sent as {stage} has the form {kinds} in round {self._start + self.k}, and had {self._kinds[stage]} before")
        self._sent[stage] = self._ahead.pop(stage) if stage in self._ahead and not self.prefix else self._expect(self.k, stage)
        outgoing = {}
        for block, places in self._entry(self.stencil.send, self.k).items():
            letter = outgoing[block] = self._letter(stage, block, len(places), False)
            for row, into in zip(rows, letter.parts, strict=True):
                torch.index_select(row, 1, places, out=into)
        self.transport.send(self._tag(self.k, stage), {block: letter.message for block, letter in outgoing.items()})
        if not self.prefix and self.k + 1 in self._rounds:
            self._ahead[stage] = self._expect(self.k + 1, stage)

    def heard(self, stage: str, rows: Sequence[Tensor]) -> list[Tensor]:
        """The heard agents' rows [R, h, *] of a stage that was sent."""
        due = self._sent.pop(stage)
        due.messages.wait()
        order = self._entry(self.stencil.order, self.k)
        whole = [torch.cat(each, 1) for each in zip(rows, *due.pieces, strict=True)]
        return whole if order is None else [each.index_select(1, order) for each in whole]

    def _expect(self, k: int, stage: str) -> Due:
        letters = {block: self._letter(stage, block, count, True) for block, count in sorted(self._entry(self.stencil.receive, k).items())}
        into = {block: letter.message for block, letter in letters.items()}
        return Due(k, self.transport.expect(self._tag(k, stage), into), [letter.parts for letter in letters.values()])

    def _tag(self, k: int, stage: str) -> Tag:
        return self._start + k, self.prefix + stage

    def _letter(self, stage: str, block: int, count: int, comes: bool) -> Letter:
        """A letter with ``count`` rows of a stage: one of two that serve by turns, where they have that size."""
        turn = self._turns[stage, block, comes] = 1 - self._turns.get((stage, block, comes), 0)
        letter = self._letters.get((stage, block, turn, comes))
        if letter is None or letter.rows != count:
            forms = [((*lead, count, *rest), dtype) for lead, rest, dtype in self._kinds[stage]]
            message = torch.empty(size(forms), dtype=torch.uint8, device=self.device)
            letter = self._letters[stage, block, turn, comes] = Letter(count, message, unpack(message, forms))
        return letter

    @staticmethod
    def _entry(entries: tuple[E, ...], k: int) -> E:
        return entries[k if len(entries) > 1 else 0]


class Posting(Protocol):
    """What a link needs of a ``Post``."""

    def send(self, stage: str, rows: Sequence[Tensor]) -> None:
        """See ``Post``."""

    def heard(self, stage: str, rows: Sequence[Tensor]) -> list[Tensor]:
        """See ``Post``."""


class BlockLink:
    """The link of a worker's round (see ``distopt.network.Link``)."""

    def __init__(self, post: Posting, table: mixing.Table, own: Tensor) -> None:
        self.post, self.table, self.own = post, table, own
        self._early: dict[str, Payload] = {}
        self._heard: dict[str, Payload] = {}

    def send(self, payloads: dict[str, Payload]) -> None:
        """All of them in one message per neighbouring block."""
        self._early = payloads
        self.post.send("+".join(payloads), pytree.tree_leaves(payloads))

    def heard(self, name: str, payload: Payload) -> Payload:
        """Rows of one early message serve several channels."""
        if name not in self._early:
            leaves, form = pytree.tree_flatten(payload)
            self.post.send(name, leaves)
            return pytree.tree_unflatten(self.post.heard(name, leaves), form)
        if not self._heard:
            leaves, form = pytree.tree_flatten(self._early)
            self._heard = pytree.tree_unflatten(self.post.heard("+".join(self._early), leaves), form)
        return self._heard[name]

    def weigh(self, rows: Tensor) -> Tensor:
        """The own agents' rows of W_t times the heard rows."""
        return mixing.apply(self.table, rows)

    @property
    def slots(self) -> Slots:
        """See ``distopt.protocols.Wire``."""
        return slots(self.table)


class Worker:
    """Holds the agents of one block of a partition. All workers must be told the same things in the same order.

    Args:
        problem: the experiment, as every worker builds it.
        partition: who holds which agents.
        me: which block this is; worker 0 makes the reports.
        transport: carries the messages.
        length: of the whole run's blocks of data (``Blocks.length``).
        compiled: whether the rounds and the measurements are.
        rows: carries the rows of a round from device to device, where the agents then live; else ``transport`` does. Data and reports are the host's.

    ``load`` and ``measure`` must run under the default precision float64, ``place`` and ``walk`` under the experiment's (see
    ``distopt.data.default_dtype``, which holds for a whole process).
    """

    def __init__(
        self, problem: Problem, partition: Partition, me: int, transport: Transport, length: int, compiled: bool = False, rows: Rows | None = None
    ) -> None:
        self.partition, self.me, self.transport, self.rows = partition, me, transport, rows
        self.device = rows.device if rows else CPU
        self.post = Post(rows or transport, self.device)
        self.ids = partition.blocks[me]
        self.whole = problem
        key = Key(problem.key.seed, self.ids, problem.key.trials.tolist(), problem.agents)
        self.problem = replace(problem, key=key, x0=problem.x0[:, list(self.ids)].clone())
        self.blocks = Blocks(problem.scenario, key, problem.rounds, length)
        self.nodes = [tree.nodes(ids, problem.agents) for ids in partition.blocks]
        self.held: Held | None = None
        self.compiled = compiled
        self._span = range(0)
        self._one: eager.Step | None = None
        self._measure: Measure = lambda points, batch: evaluate(lambda x, each: self._terms(x, *each), points, batch)

    def stretch(self, start: int, count: int, rounds: range, keep: tuple[str, ...], best: Tensor) -> Report | None:
        """``load``, ``walk`` and ``measure``, in a process of the worker's own."""
        with default_dtype(torch.float64):
            self.load(start, count)
        with default_dtype(self.problem.x0.dtype):
            self.walk(rounds, keep)
        with default_dtype(torch.float64):
            return self.measure(best)

    def place(self, held: Standing | None) -> None:
        """Start from what all agents hold, of which this worker takes its own rows; None: from the beginning."""
        if held is None:
            held = runner.begin(self.problem).held
            self.held = tree_map(lambda leaf: self._checked(leaf, len(self.ids)), runner.here(held))
        else:
            self.held = tree_map(lambda leaf: self._checked(leaf, self.partition.agents)[..., list(self.ids), :].clone(), runner.here(held))
        self.held = self._there(self.held)
        if self._one is None:
            early = known_at_start(self.problem.algorithm, self.problem.x0)
            self._one = eager.stepper(self.problem, early)
            if self.compiled:
                from distopt.engines import cut  # imports the compiler's front end: seconds

                self._one, self._measure = cut.stepper(self.problem, early), cut.measure(self._terms)

    def _there(self, tree: Any) -> Any:
        return tree if self.device.type == "cpu" else moved(tree, self.device)

    @staticmethod
    def _checked(leaf: Tensor, agents: int) -> Tensor:
        if leaf.dim() < 3 or leaf.shape[-2] != agents:
            raise InputError(
                f"a leaf of the algorithm's state or a channel's memory has shape {list(leaf.shape)} for {agents} agents; to be shared "
                "among workers it must be [trials, agents, *]"
            )
        return leaf

    def load(self, start: int, count: int) -> None:
        """Make the data, weights and uniforms of ``count`` rounds from ``start``, which lie in one block of the run's data."""
        if self._span == range(start, start + count):
            return
        self._span = range(start, start + count)
        b = start // self.blocks.length
        first = start - self.blocks.span(b).start
        t = torch.arange(start, start + count).reshape(-1, 1, 1, 1)
        self.exact = self._there(part(self.blocks.get(b), first, first + count))
        self.data = self.exact if self.problem.x0.dtype == torch.float64 else cast(self.exact, self.problem.x0.dtype)
        self.stencil = stencil(self.whole.mixing.tables(t), self.partition, self.me).on(self.device)
        self.noise: Noise = self._there(noise(self.problem.channels, self.problem.key, self.problem.x0.shape[-1], t))

    def walk(self, rounds: range, keep: tuple[str, ...]) -> None:
        """Go through ``rounds``, counted from the first of those loaded, and remember what is to be measured."""
        assert self.held is not None and self._one is not None
        weights = rounds_of((self.stencil.table, self.stencil.own))

        def link(k: int) -> BlockLink:
            self.post.go(k)
            return BlockLink(self.post, *weights(k))

        self._rounds = rounds
        self.post.begin(self.stencil, self._span.start, rounds)
        self._walked = eager.walk(self.problem, self.held, self._span.start, rounds, self.data, self.noise, link, keep, self._one)
        self.post.go(rounds.stop)
        self.held = self._walked.held

    def measure(self, best: Tensor) -> Report | None:
        """Measure the rounds just walked, with x*_t [K, R|1, d] of those loaded. The report, on worker 0."""
        if self.rows:
            self.rows.confirm()
        walked, agents, ids = self._walked, self.problem.agents, self.ids
        counts = [len(nodes) for nodes in self.nodes]
        points = walked.points.double()
        rows = [tree.node_sums(each, ids, agents) for each in (points, walked.violations) if each is not None]
        sums = [self._combine(each) for each in self.collect("sums", [(row, counts) for row in rows])]
        mean = self._spread("mean", sums[0] / agents if sums else points[:, :, :1])

        first, last = self._rounds.start, self._rounds.stop
        values = self._measure(points, (self._there(mean), part(self.exact, first, last), self._there(part(best, first, last))))
        finite = torch.isfinite(walked.held.x).flatten(1).all(1).reshape(1, -1, 1, 1)
        ones = [1] * len(self.nodes)
        whole = self.collect(
            "values",
            [(values, counts), (finite, ones), *((rows, self._sizes) for rows in walked.kept.values())],
        )
        if self.me:
            return None
        observed = metrics.totals(self.problem.scenario, self._combine(whole[0]), agents)
        if walked.violations is not None:
            observed["tracker_invariant"] = metrics.tracker_invariant(sums[1], agents)
        kept = {name: self._in_order(rows) for name, rows in zip(walked.kept, whole[2:], strict=True)}
        return Report(observed, kept, torch.cat(whole[1], -2)[0, :, :, 0].all(-1), walked.bits)

    def _terms(self, x: Tensor, mean: Tensor, data: Any, best: Tensor) -> Tensor:
        terms = metrics.per_agent(self.problem.scenario, x, mean, data, best)
        return metrics.summed(terms, lambda z: tree.node_sums(z, self.ids, self.problem.agents))

    def gather(self) -> Held | None:
        """What all agents hold, on worker 0."""
        leaves, form = pytree.tree_flatten(self.held)
        whole = self.collect("held", [(leaf, self._sizes) for leaf in leaves])
        if self.me:
            return None
        held: Held = pytree.tree_unflatten([self._in_order(rows) for rows in whole], form)
        return held

    @property
    def _sizes(self) -> list[int]:
        return [len(ids) for ids in self.partition.blocks]

    def _in_order(self, rows: list[Tensor]) -> Tensor:
        """The rows of all blocks in the order of the agents."""
        ids = torch.tensor([i for block in self.partition.blocks for i in block])
        return torch.cat(rows, -2).index_select(-2, torch.argsort(ids))

    def _combine(self, sums: list[Tensor]) -> Tensor:
        return tree.combine(torch.cat(sums, -2), [node for nodes in self.nodes for node in nodes], self.problem.agents)

    def collect(self, what: str, rows: list[tuple[Tensor, list[int]]]) -> list[list[Tensor]]:
        """Bring tensors [..., rows, *] to worker 0, with the number of rows of each worker: there every worker's, else nothing."""
        tag = (self._span.start + self._rounds.stop if self._span else 0, what)
        rows = [(row.cpu(), counts) for row, counts in rows]
        if self.me:
            self.transport.send(tag, {0: pack([row for row, _ in rows])})
            return []
        forms = {
            b: [((*row.shape[:-2], counts[b], row.shape[-1]), row.dtype) for row, counts in rows] for b in range(1, len(self.nodes))
        }
        arrived = {b: torch.empty(size(form), dtype=torch.uint8) for b, form in forms.items()}
        self.transport.expect(tag, arrived).wait()
        parts = [[row for row, _ in rows], *(unpack(arrived[b], form) for b, form in forms.items())]
        return [list(each) for each in zip(*parts, strict=True)]

    def _spread(self, what: str, rows: Tensor) -> Tensor:
        """Worker 0's tensor, on every worker; the others give one of its shape and precision."""
        tag = (self._span.start + self._rounds.stop, what)
        form = [(rows.shape, rows.dtype)]
        if self.me:
            message = torch.empty(size(form), dtype=torch.uint8)
            self.transport.expect(tag, {0: message}).wait()
            return unpack(message, form)[0]
        self.transport.send(tag, dict.fromkeys(range(1, len(self.nodes)), pack([rows])))
        return rows
