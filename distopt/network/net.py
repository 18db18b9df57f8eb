"""The network as an algorithm sees it in one round: ``mix(name, z)``, through a channel with memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.errors import InputError
from distopt.network.drawn import Uniforms
from distopt.network.rows import Table, Tables, apply
from distopt.protocols import Arrived, Payload, Slots

Memory = dict[str, Any]


class Senders(NamedTuple):
    """The senders of the block's agents on a fixed graph.
    ``index`` [n, D] is the sender's place among the heard
    agents, or the agent's own place if there is no sender. ``weight`` [R|1, n, D] and ``own`` [R|1, n, 1] are those of
    ``distopt.protocols.Arrived``."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks for
    weight: Tensor
    own: Tensor


class Link(Protocol):
    """One round of the network as an engine provides it: the weights of each channel, and what brings the neighbours' rows here."""

    @property
    def own(self) -> Tensor | slice:
        """See ``distopt.protocols.Wire``."""

    def send(self, payloads: dict[str, Payload]) -> None:
        """Send the payloads of these channels now; ``heard`` receives them later."""

    def heard(self, name: str, payload: Payload) -> Payload:
        """The heard agents' rows of a channel's payload; sends it first unless ``send`` has."""

    def weigh(self, name: str, rows: Tensor) -> Tensor:
        """See ``distopt.protocols.Wire``; ``name`` is the channel's."""

    def slots(self, name: str) -> Slots:
        """See ``distopt.protocols.Wire``; ``name`` is the channel's."""

    def senders(self, name: str) -> Senders:
        """Whom the own agents hear; ``name`` is the channel's."""


def slots(table: Table) -> Slots:
    """The links of the rows of one round's table."""
    return Slots(table.slot_index[0], table.slot_weight[0], table.slot_side)


def senders(table: Table) -> Senders:
    """Whom the rows of one round's table hear."""
    return Senders(table.sender_index[0], table.sender_weight, table.sender_own)


@dataclass(frozen=True)
class Whole:
    """The link of the block that holds all agents, which needs no messages.

    ``tables`` are one round's, and ``which`` of them is a channel's: by default the first.
    """

    tables: Tables
    which: Mapping[str, int] = field(default_factory=dict)

    @property
    def own(self) -> slice:
        """All of them."""
        return slice(None)

    def send(self, payloads: dict[str, Payload]) -> None:
        """Nothing has to leave."""

    def heard(self, name: str, payload: Payload) -> Payload:
        """All rows, as they are."""
        return payload

    def weigh(self, name: str, rows: Tensor) -> Tensor:
        """W_t rows."""
        return apply(self.tables[self.which.get(name, 0)], rows)

    def slots(self, name: str) -> Slots:
        """All links."""
        return slots(self.tables[self.which.get(name, 0)])

    def senders(self, name: str) -> Senders:
        """Of all agents."""
        return senders(self.tables[self.which.get(name, 0)])


@dataclass(frozen=True)
class LinkWire:
    """The wire of a channel over a link (see ``distopt.protocols.Wire``)."""

    link: Link
    name: str

    @property
    def own(self) -> Tensor | slice:
        """See ``distopt.protocols.Wire``."""
        return self.link.own

    def heard(self, payload: Payload) -> Payload:
        """See ``distopt.protocols.Wire``."""
        return self.link.heard(self.name, payload)

    def weigh(self, rows: Tensor) -> Tensor:
        """See ``distopt.protocols.Wire``."""
        return self.link.weigh(self.name, rows)

    @property
    def slots(self) -> Slots:
        """See ``distopt.protocols.Wire``."""
        return self.link.slots(self.name)

    def arrived(self, payload: Tensor) -> Arrived:
        """See ``distopt.protocols.Wire``."""
        senders = self.link.senders(self.name)
        return Arrived(self.heard(payload)[:, senders.index], senders.weight, senders.own)


class Net:
    """One round of the network: applies W_t through the channels and keeps their new memories.

    Args:
        channels: the channel of each name the algorithm sends.
        link: W_t and the way to the neighbours.
        memory: the channels' memories after the previous round; ``self.memory`` holds those after this one.
            A channel that has none yet starts here.
        uniforms: this round's uniforms of the channels that draw any.
        alone: whether the network is one agent, without receivers; ``self.bits`` counts the bits one agent broadcasts
            in this round.
        widths: how many numbers an agent's value has, by channel (see ``distopt.simulation.plan.Plan``); another width is refused.
        coin: where this round has an exchange, bool [R, 1, 1]; elsewhere the memories stay as they were. None: everywhere.
    """

    def __init__(
        self,
        channels: Mapping[str, Any],
        link: Link,
        memory: Memory,
        uniforms: Uniforms | None = None,
        alone: bool = False,
        widths: Mapping[str, int] | None = None,
        coin: Tensor | None = None,
    ) -> None:
        self.channels, self.link, self.memory, self.uniforms, self.alone = (
            channels,
            link,
            dict(memory),
            uniforms or {},
            alone,
        )
        self.widths, self.coin = widths or {}, coin
        self.early: dict[str, tuple[Tensor, Payload]] = {}
        self.sent: set[str] = set()
        self.bits = 0

    def send(self, values: Mapping[str, Tensor]) -> None:
        """Encode and send now, together, values that ``mix`` will need later in the round."""
        for name, z in values.items():
            self._require_width(name, z)
        self.early = {name: (z, self._encode(name, z)) for name, z in values.items()}
        self.link.send({name: payload for name, (_, payload) in self.early.items()})

    def _require_width(self, name: str, z: Tensor) -> None:
        if z.shape[-1] != self.widths.get(name, z.shape[-1]):
            raise InputError(
                f"the algorithm sends {name!r} with {z.shape[-1]} numbers per agent, and {self.widths[name]} in the first round (or in x, if "
                "the first round does not send it); keep the width, or use another channel for this value"
            )

    def _encode(self, name: str, z: Tensor) -> Payload:
        if name not in self.memory:
            self.memory[name] = self.channels[name].init(z)
        return self.channels[name].encode(z, self.memory[name], self.uniforms.get(name))

    def mix(self, name: str, z: Tensor) -> Tensor:
        """W_t z through the channel called ``name``."""
        if name not in self.channels:
            raise InputError(
                f"the algorithm sends {name!r}, which its channels ({', '.join(self.channels)}) do not name"
            )
        if name in self.sent:
            raise InputError(
                f"the algorithm sends {name!r} twice in one round; use another channel for the second value"
            )
        self.sent.add(name)
        self._require_width(name, z)
        expected, payload = self.early.get(name, (z, None))
        if expected is not z:
            raise InputError(
                f"the algorithm sends {name!r} from the state in some rounds and computes it in others; do the same in every round"
            )
        if name not in self.early:
            payload = self._encode(name, z)
        self.bits += 0 if self.alone else self.channels[name].bits(z.shape[-1], z.element_size())
        channel = self.channels[name]
        u = self.uniforms.get(name) if channel.shared else None
        out: Tensor
        before, coin = self.memory[name], self.coin
        out, after = channel(z, payload, before, LinkWire(self.link, name), u)
        self.memory[name] = after if coin is None else pytree.tree_map(partial(torch.where, coin), after, before)
        return out


class Costs(NamedTuple):
    """Functions of the costs at points y [R, n, d] that an algorithm may call, besides the gradients that it is given.

    Attributes:
        grad: the gradients of this round's costs [R, n, d], and, given rows [R, n, B], of these rows of the data.
        earlier: those of the costs of the round before, or None.
        loss: this round's costs [R, n, 1], or None.
        project: the nearest allowed points; None if all are allowed.
        lmo: the allowed points v that minimise <s, v>, of s [R, n, d], or None.
        prox: the proximal step from y with the step size [R|1, n|1, 1]; None if the whole cost has a gradient.
    """

    grad: Callable[..., Tensor]
    earlier: Callable[[Tensor], Tensor] | None = None
    loss: Callable[[Tensor], Tensor] | None = None
    project: Callable[[Tensor], Tensor] | None = None
    lmo: Callable[[Tensor], Tensor] | None = None
    prox: Callable[[Tensor, Tensor], Tensor] | None = None


class Round:
    """One round as an algorithm sees it: what it is given as ``mix`` (see ``distopt.protocols.Mix``).

    Args:
        mix: W_t z through the channel of a name.
        t: the round, an integer tensor without axes.
        x: where the agents stand [R, n, d].
        costs: what it may ask of the costs.
        drawn: this round's uniforms of the algorithm [R, n, words].
        coin: the network's coin, bool [R, 1, 1], if the algorithm has one.

    ``gradients``, ``rows`` (gradients of single rows), ``values`` (of the costs) and ``words`` (uniform numbers) count what the algorithm
    has used. ``earlier`` says whether a gradient of the round before was taken, ``tossed`` whether the coin was used, and ``proximal``
    whether a proximal step was taken.
    """

    def __init__(
        self,
        mix: Callable[[str, Tensor], Tensor],
        t: Tensor,
        x: Tensor,
        costs: Costs,
        drawn: Tensor | None = None,
        coin: Tensor | None = None,
    ) -> None:
        self._mix, self.t, self.x, self._costs, self._drawn, self._coin = mix, t, x, costs, drawn, coin
        self.gradients, self.rows, self.values, self.words, self.earlier, self.tossed = 0, 0, 0, 0, False, False
        self.proximal = False

    def __call__(self, name: str, z: Tensor) -> Tensor:
        """See ``distopt.protocols.Mix``."""
        return self._mix(name, z)

    def grad(self, y: Tensor, rows: Tensor | None = None, *, ago: int = 0) -> Tensor:
        """See ``distopt.protocols.Mix``."""
        if ago not in (0, 1) or (ago and rows is not None):
            raise InputError(
                f"mix.grad(y, ago={ago}): ago must be 0 (this round's costs) or 1 (the costs of the round before, with all their rows)"
            )
        if rows is not None:
            self.rows += rows.shape[-1]
            return self._of_rows(y, rows)
        self.gradients += 1
        if not ago:
            return self._costs.grad(y)
        self.earlier = True
        if self._costs.earlier is None:
            raise InputError(
                "the algorithm asks for gradients of the costs of the round before (ago=1); only the simulator has them"
            )
        return self._costs.earlier(y)

    def _of_rows(self, y: Tensor, rows: Tensor) -> Tensor:
        return self._costs.grad(y, rows)

    @property
    def coin(self) -> Tensor:
        """See ``distopt.protocols.Mix``."""
        if self._coin is None:
            raise InputError("the algorithm uses mix.coin in this round, but not in round 0; use it in every round")
        return self._coin

    def loss(self, y: Tensor) -> Tensor:
        """See ``distopt.protocols.Mix``."""
        self.values += 1
        if self._costs.loss is None:
            raise InputError("the algorithm asks for values of the costs (mix.loss); only the simulator has them")
        return self._costs.loss(y)

    def project(self, y: Tensor) -> Tensor:
        """See ``distopt.protocols.Mix``."""
        return y if self._costs.project is None else self._costs.project(y)

    def lmo(self, s: Tensor, radius: Any = None) -> Tensor:
        """See ``distopt.protocols.Mix``."""
        if self._costs.lmo is None and self._costs.project is None and radius is not None:
            tiny = 1e-300 if s.dtype == torch.float64 else 1e-30
            least: Tensor = s * (-radius / torch.sqrt((s * s).sum(-1, keepdim=True)).clamp(min=tiny))
            return least
        if self._costs.lmo is None:
            raise InputError(
                "the algorithm minimises linear functions over the allowed points (mix.lmo); use a scenario with lmo, such as "
                "feasible(moving_target,form=ball)"
            )
        return self._costs.lmo(s)

    def prox(self, y: Tensor, lr: Any) -> Tensor:
        """See ``distopt.protocols.Mix``."""
        self.proximal = True
        return y if self._costs.prox is None else self._costs.prox(y, lr)

    def uniform(self, words: int) -> Tensor:
        """See ``distopt.protocols.Mix``."""
        first, self.words = self.words, self.words + words
        have = 0 if self._drawn is None else self._drawn.shape[-1]
        if self._drawn is None or self.words > have:
            raise InputError(
                f"the algorithm draws {self.words} uniform numbers per agent in one round, and {have} in the first; draw as many in every round"
            )
        u = self._drawn[..., first : self.words].to(self.x.dtype)
        return u.clamp(2.0**-54, 1 - torch.finfo(u.dtype).eps / 2)  # neither 0 nor, where it is rounded, 1


class Rehearsal(Round):
    """A round without a network and without data: gradients are ``grad``'s (zero by default), uniform numbers are 1/2, every coin is
    True, and all rows of the data are alike.

    Gradients of the round before are ``earlier``'s, or else ``grad``'s, and the costs [R, n, 1] ``loss``'s, or else 0. All points are allowed
    without ``project``; without ``lmo`` there is no set; without ``prox`` all of the costs has a gradient.

    To try an algorithm without a simulation:

    >>> from distopt.algorithms.gt import GT
    >>> gt, x = GT(lr=0.5), torch.ones(1, 2, 3)
    >>> gt.update(x, gt.init(x), x, Rehearsal(lambda name, z: z, x))[0][0, 0].tolist()
    [0.5, 0.5, 0.5]
    """

    def __init__(
        self,
        mix: Callable[[str, Tensor], Tensor],
        x: Tensor,
        t: int = 0,
        grad: Callable[[Tensor], Tensor] = torch.zeros_like,
        earlier: Callable[[Tensor], Tensor] | None = None,
        loss: Callable[[Tensor], Tensor] | None = None,
        project: Callable[[Tensor], Tensor] | None = None,
        lmo: Callable[[Tensor], Tensor] | None = None,
        prox: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        costs = Costs(grad, earlier or grad, loss or (lambda y: torch.zeros_like(y[..., :1])), project, lmo, prox)
        super().__init__(mix, torch.tensor(t, device=x.device), x, costs)

    def _of_rows(self, y: Tensor, rows: Tensor) -> Tensor:
        return self._costs.grad(y)

    @property
    def coin(self) -> Tensor:
        """See ``distopt.protocols.Mix``."""
        self.tossed = True
        return torch.ones_like(self.x[:, :1, :1], dtype=torch.bool)

    def uniform(self, words: int) -> Tensor:
        """See ``distopt.protocols.Mix``."""
        self.words += words
        return self.x.new_full((*self.x.shape[:-1], words), 0.5)
