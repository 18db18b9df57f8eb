"""One round of the agents of a block, and what they hold between two rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.errors import InputError
from distopt.network.net import Link, Memory, Net, Noise
from distopt.numerics.trees import default_dtype, tensors
from distopt.simulation.problem import Problem


class Held(NamedTuple):
    """What the agents of a block hold between two rounds: ``x`` [R, n, d], the algorithm's state and the channels' memories."""

    x: Tensor
    state: Any
    memory: Memory


class Standing(Protocol):
    """What all agents hold between two rounds: a ``Held``, or something that fetches it from where they are when it is asked."""

    @property
    def x(self) -> Tensor:
        """[R, N, d]."""

    @property
    def state(self) -> Any:
        """The algorithm's."""

    @property
    def memory(self) -> Memory:
        """The channels'."""


def here(standing: Standing) -> Held:
    """The same in this process."""
    return Held(standing.x, standing.state, standing.memory)


def standing(problem: Problem, memory: Sequence[str], leaves: Sequence[Any]) -> Held:
    """What all agents hold, from its leaves; ``memory`` names the channels that remember anything.

    Raises:
        ValueError: there are more leaves, or fewer.
    """
    held: Held = pytree.tree_unflatten(list(leaves), form(problem, memory))
    return held


def form(problem: Problem, memory: Sequence[str]) -> pytree.TreeSpec:
    """How what all agents hold is nested, as the algorithm and the channels begin it."""
    x = problem.x0.clone()
    with default_dtype(x.dtype):
        started = {
            name: problem.channels[name].init(x.new_zeros(*x.shape[:-1], problem.widths.get(name, x.shape[-1])))
            for name in memory
        }
        begun = Held(x, problem.algorithm.init(x), started)
    return pytree.tree_structure(begun)


def owned(tree: Any) -> Any:
    """The tree with leaves that share memory with nothing, copied one by one: there is never a second copy of all."""
    leaves, form = pytree.tree_flatten(tree)
    del tree
    for k, each in enumerate(leaves):
        if isinstance(each, Tensor):
            leaves[k] = each.clone(memory_format=torch.contiguous_format)
        del each
    return pytree.tree_unflatten(leaves, form)


def step(
    problem: Problem, held: Held, data: Any, link: Link, noise: Noise, early: Mapping[str, int] | None = None
) -> tuple[Held, Net, Tensor]:
    """One round of the agents of a block: (what they hold after it, the network as it was used, g_t).

    ``data`` and ``noise`` are this round's. ``early`` names the channels that are sent before the gradients are computed, by the
    place of their value among the leaves of (x, state) (see ``network.known_at_start``).
    """
    x, state, memory = held
    net = Net(problem.channels, link, memory, noise, alone=problem.agents == 1, widths=problem.widths)
    if early:
        leaves = tensors((x, state))
        net.send({name: leaves[place] for name, place in early.items()})
    g = problem.scenario.grad(x, data)
    if g.shape != x.shape or g.dtype != x.dtype:
        raise InputError(
            f"scenario {type(problem.scenario).__name__}: grad returned shape {list(g.shape)} and {g.dtype}, not {list(x.shape)} and {x.dtype}"
        )
    after, state = problem.algorithm.update(
        g.clone(), state, x, net.mix
    )  # a scenario may hand out one buffer every round
    return Held(after, state, net.memory), net, g


def same_form(problem: Problem, x: Tensor, t: int) -> None:
    """Refuse an algorithm that changes the shape or precision of x."""
    if x.shape != problem.x0.shape or x.dtype != problem.x0.dtype:
        raise InputError(
            f"the algorithm returned x of shape {list(x.shape)} and {x.dtype} in round {t}, not {list(problem.x0.shape)} and {problem.x0.dtype}"
        )
