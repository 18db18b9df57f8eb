"""One round of the agents of a block, and what they hold between two rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.errors import InputError
from distopt.network.net import OWN, Link, Memory, Net, Round, Uniforms
from distopt.numerics.trees import default_dtype, tensors
from distopt.simulation.problem import Problem


class AgentState(NamedTuple):
    """What the agents of a block hold between two rounds: ``x`` [R, n, d], the algorithm's state and the channels' memories."""

    x: Tensor
    state: Any
    memory: Memory


def begun(problem: Problem, names: Sequence[str] | None = None) -> AgentState:
    """What the agents hold before the first round: x_0, and what the algorithm and the channels begin with. Its leaves share no memory.

    ``names`` are the channels whose memory it has, in this order; by default all.
    """
    x = problem.x0.clone(memory_format=torch.contiguous_format)

    def memory(name: str) -> Any:
        width = problem.widths.get(name, x.shape[-1])
        return problem.channels[name].init(x.new_zeros(1).expand(*x.shape[:-1], width))

    with default_dtype(x.dtype):
        state = copied(problem.algorithm.init(x.clone()))
        return AgentState(
            x, state, {name: copied(memory(name)) for name in (problem.channels if names is None else names)}
        )


def standing(problem: Problem, names: Sequence[str], leaves: Sequence[Any]) -> AgentState:
    """What all agents hold, from its leaves; ``names`` are the channels whose memory is among them. The others begin anew.

    Raises:
        ValueError: there are more leaves, or fewer.
    """
    held: AgentState = pytree.tree_unflatten(list(leaves), form(problem, names))
    missing = [name for name in problem.channels if name not in names]
    return held._replace(memory={**held.memory, **begun(problem, missing).memory}) if missing else held


def form(problem: Problem, names: Sequence[str]) -> pytree.TreeSpec:
    """How what all agents hold is nested, as the algorithm and the channels begin it (see ``begun``)."""
    return pytree.tree_structure(begun(problem, names))


def copied(tree: Any) -> Any:
    """A copy of the tree whose leaves share no memory. Leaves are copied one by one, so there is never a second copy of all."""
    leaves, form = pytree.tree_flatten(tree)
    del tree
    for k, each in enumerate(leaves):
        if isinstance(each, Tensor):
            leaves[k] = each.clone(memory_format=torch.contiguous_format)
        del each
    return pytree.tree_unflatten(leaves, form)


def step(
    problem: Problem,
    held: AgentState,
    data: Any,
    link: Link,
    uniforms: Uniforms,
    t: Tensor,
    early: Mapping[str, int] | None = None,
) -> tuple[AgentState, Net, Tensor]:
    """Round t, an integer tensor, of the agents of a block: (what they hold after it, the network as it was used, g_t).

    ``data`` and ``uniforms`` are this round's. ``early`` names the channels that are sent before the gradients are computed, by the
    place of their value among the leaves of (x, state) (see ``network.known_at_start``).
    """
    x, state, memory = held
    net = Net(problem.channels, link, memory, uniforms, alone=problem.agents == 1, widths=problem.widths)
    if early:
        leaves = tensors((x, state))
        net.send({name: leaves[place] for name, place in early.items()})

    def grad(y: Tensor) -> Tensor:
        return gradient(problem, y, data).clone()  # a scenario may hand out one buffer every time

    g = grad(x) if problem.gradients > 1 else gradient(problem, x, data)
    round = Round(net.mix, t, x, grad, uniforms.get(OWN))
    after, state = problem.algorithm.update(g.clone(), state, x, round)
    if problem.scenario.project is not None:
        after = problem.scenario.project(after)
    if round.gradients + 1 != problem.gradients:
        raise InputError(
            f"the algorithm asks for {round.gradients} further gradients in one round, and for {problem.gradients - 1} in the first; ask for "
            "as many in every round"
        )
    return AgentState(after, state, net.memory), net, g


def before(problem: Problem, held: AgentState) -> dict[str, Tensor]:
    """The trajectories that are kept as they stand before a round, [R, n, d] each; ``problem.answer`` is the one that is measured."""
    points = {"x": held.x}
    return points | ({"output": problem.algorithm.output(*held[:2])} if problem.answer == "output" else {})


def gradient(problem: Problem, x: Tensor, data: Any) -> Tensor:
    """The gradients of a round's costs at x [R, n, d].

    Raises:
        InputError: the scenario returns another shape or precision.
    """
    g: Tensor = problem.scenario.grad(x, data)
    if g.shape != x.shape or g.dtype != x.dtype:
        raise InputError(
            f"scenario {type(problem.scenario).__name__}: grad returned shape {list(g.shape)} and {g.dtype}, not {list(x.shape)} and {x.dtype}"
        )
    return g


def same_form(problem: Problem, x: Tensor, t: int) -> None:
    """Refuse an algorithm that changes the shape or precision of x."""
    if x.shape != problem.x0.shape or x.dtype != problem.x0.dtype:
        raise InputError(
            f"the algorithm returned x of shape {list(x.shape)} and {x.dtype} in round {t}, not {list(problem.x0.shape)} and {problem.x0.dtype}"
        )
