"""What a round asks for and what it leaves, found by one trial of it before the first round. All rounds are alike in this."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.network.drawn import COIN, OWN
from distopt.network.net import Rehearsal, Round
from distopt.numerics.trees import default_dtype, tensors, tree_map
from distopt.optional import AlgorithmDefaults, completed
from distopt.protocols import Algorithm
from distopt.ranges import share

Held = tuple[Tensor, Any]
"""(x [R, n, d], the algorithm's state)."""


class Sent(NamedTuple):
    """A value that an algorithm sends through a channel.

    Attributes:
        width: how many numbers an agent's value has; it may be another number than x has.
        place: of the value among the leaves of (x, state) as a round finds them; None where the round makes the value.
    """

    width: int
    place: int | None


class Trial(Rehearsal):
    """A round without a network, which writes down what the algorithm asks of it. ``mix`` hands back what it is given.

    Attributes:
        sent: what the algorithm has sent, by channel, in the order in which it sent.
        gradients, words: how many further gradients it has taken, and how many uniform numbers it has drawn, of each agent.
    """

    def __init__(self, held: Held, t: int = 0, grad: Callable[[Tensor], Tensor] = torch.zeros_like) -> None:
        super().__init__(self._heard, held[0], t, grad)
        self.sent: dict[str, Sent] = {}
        self._leaves = [(leaf, leaf._version) for leaf in tensors(held)]

    def _heard(self, name: str, z: Tensor) -> Tensor:
        trials, agents = self.x.shape[:2]
        known = isinstance(z, Tensor)
        if not known or z.dim() != 3 or z.shape[0] not in (1, trials) or z.shape[1] != agents:  # 1: alike in all trials
            form = f"shape {list(z.shape)}" if known else f"type {type(z).__name__}"
            raise InputError(
                f"the algorithm sends {name!r} of {form}; it must be [trials, agents, *], here [{trials}, {agents}, *]"
            )
        same = [  # one changed in place is no longer what it was
            k for k, (leaf, version) in enumerate(self._leaves) if leaf is z and leaf._version == version
        ]
        self.sent[name] = Sent(z.shape[-1], same[-1] if same else None)
        return z.clone()


def counted(algorithm: Any, round: Round) -> int:
    """How often an algorithm has used the costs in a round: gradients, including the given one, and values."""
    return round.values if algorithm.gradient_free else 1 + round.gradients + round.values


def tried(
    algorithm: Algorithm[Any],
    held: Held,
    g: Tensor,
    t: int = 0,
    grad: Callable[[Tensor], Tensor] = torch.zeros_like,
) -> tuple[Held, Trial]:
    """Round t of an algorithm alone, with the gradients g [R, n, d]: (x, state) after it, and the round. Nothing else tries a round.

    ``grad`` gives the gradients at other points.

    Raises:
        InputError: the algorithm sends a value that is not [R, n, *].

    >>> from distopt.algorithms.gt import GT
    >>> gt, x = GT(lr=0.5), torch.ones(1, 2, 3)
    >>> (after, state), round = tried(gt, (x, gt.init(x)), x)
    >>> after[0, 0].tolist(), round.sent["s"]
    ([0.5, 0.5, 0.5], Sent(width=3, place=1))
    """
    round = Trial(held, t, grad)
    with default_dtype(held[0].dtype):
        return algorithm.update(g, held[1], held[0], round), round


@dataclass(frozen=True)
class Plan:
    """What the rounds of an algorithm ask for, and the form of what they leave.

    Attributes:
        sent: what it sends, by channel, in the order in which it sends.
        gradients: how many gradients it takes of each agent in a round, the one that it is given among them. Values of the costs count as
            much; one that uses no gradients (``gradient_free``) takes values only.
        rows: and how many of single rows of an agent's data.
        widths: how many numbers an agent sends through each channel, and under ``network.drawn.OWN`` how many uniform
            ones the algorithm draws for it; ``network.drawn.COIN`` is there where it asks for the coin. A channel that
            the first round leaves out is taken to be as wide as x. A channel that draws no uniforms and remembers
            nothing has no entry.
        earlier: whether it asks for gradients of the costs of the round before.
        values: how many values of the costs it takes.
        proximal: whether it takes proximal steps.
        begun, after: (x, state) of all agents of a run before the first round and after it. Tensors have shape and precision alone: they
            are torch's "meta" ones. Later rounds leave what the first one does.

    >>> from distopt.algorithms.gt import GT
    >>> from distopt.channels.exact import Exact
    >>> plan = Plan.of(GT(form="atc"), {"x": Exact(), "s": Exact()}, torch.zeros(1, 2, 5))
    >>> plan.widths, plan.gradients, plan.early, plan.after[1].s.shape
    ({'s': 5, 'x': 5}, 1, {'s': 1}, torch.Size([1, 2, 5]))
    """

    sent: Mapping[str, Sent]
    gradients: int
    widths: Mapping[str, int]
    earlier: bool
    begun: Held
    after: Held
    rows: int = 0
    values: int = 0
    proximal: bool = False

    @classmethod
    def of(cls, algorithm: Any, channels: Mapping[str, Any], x: Tensor) -> Plan:
        """The plan of agents that begin at x [R, n, d].

        x is left as it is. The trial has a shallow copy of the algorithm: an attribute that it sets is as before, but a list that it
        appends to is the algorithm's own.

        Raises:
            InputError: the algorithm sends a value that is not [R, n, *], or asks for a coin and does not say how often that falls on True.
        """
        algorithm = completed(
            AlgorithmDefaults, copy.copy(algorithm)
        )  # one that counts its rounds would count this one
        with default_dtype(x.dtype):  # leaves that share memory must not pass for each other, so each is cloned
            held: Held = tree_map(torch.clone, (x, algorithm.init(x.clone())))
        begun = _form(held)
        after, round = tried(algorithm, held, torch.zeros_like(x))
        d = x.shape[-1]
        widths = {name: d for name, channel in channels.items() if _width_matters(channel, d)}
        widths |= {name: each.width for name, each in round.sent.items()}
        widths |= {OWN: round.words} if round.words else {}
        if round.tossed:
            share(f"algorithm {type(algorithm).__name__.lower()}", coin=algorithm.coin)
            widths[COIN] = 1
        return cls(
            round.sent,
            counted(algorithm, round),
            widths,
            round.earlier,
            begun,
            _form(after),
            round.rows,
            round.values,
            round.proximal,
        )

    @cached_property
    def early(self) -> dict[str, int]:
        """The channels whose value is a leaf of (x, state) as a round finds it, with the leaf's place: they can be sent at once."""
        return {name: each.place for name, each in self.sent.items() if each.place is not None}


def _form(held: Held) -> Held:
    form: Held = tree_map(lambda leaf: torch.empty_like(leaf, device="meta"), held)
    return form


def _width_matters(channel: Any, d: int) -> bool:
    """Whether a channel draws uniforms or remembers anything."""
    return bool(channel.words(d) > 0) or bool(tensors(channel.init(torch.zeros(1, 1, d))))
