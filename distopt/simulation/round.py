"""One round of the agents of a block, and what they hold between two rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.errors import InputError
from distopt.network.churn import JOIN
from distopt.network.drawn import COIN, OWN, Uniforms, falls
from distopt.network.faults import SLEEP
from distopt.network.net import Costs, Link, Memory, Net, Round
from distopt.numerics.trees import default_dtype, leaf, memory_leaf, reweighted, tensors
from distopt.optional import entry
from distopt.simulation.method import Method
from distopt.simulation.plan import counted

if TYPE_CHECKING:  # agents without costs need a round, but no problem
    from distopt.simulation.problem import Problem

Gradient = Callable[..., Tensor]
"""The gradients of a round's costs at points y [R, n, d], and of some rows of the data [R, n, B] if these are given, too."""


class AgentState(NamedTuple):
    """What the agents of a block hold between two rounds: ``x`` [R, n, d], the algorithm's state and the channels' memories."""

    x: Tensor
    state: Any
    memory: Memory


def begun(problem: Problem, names: Sequence[str] | None = None) -> AgentState:
    """What the agents of a problem hold before the first round (see ``begin_at``)."""
    return begin_at(problem.method, problem.x0, names)


def begin_at(method: Method, x: Tensor, names: Sequence[str] | None = None) -> AgentState:
    """What agents at x [R, n, d] hold before their first round: x, and what the algorithm and the channels begin with.

    Its leaves share no memory. ``names`` are the channels whose memory it has, in this order; by default all.
    """
    x = x.clone(memory_format=torch.contiguous_format)

    def memory(name: str) -> Any:
        width = method.plan.widths.get(name, x.shape[-1])
        return method.channels[name].init(x.new_zeros(1).expand(*x.shape[:-1], width))

    with default_dtype(x.dtype):
        state = copied(method.algorithm.init(x.clone()))
        return AgentState(
            x, state, {name: copied(memory(name)) for name in (method.channels if names is None else names)}
        )


def standing(problem: Problem, names: Sequence[str], leaves: Sequence[Any]) -> AgentState:
    """What all agents hold, from its leaves; ``names`` are the channels whose memory is among them. The others restart.

    Raises:
        ValueError: there are more leaves, or fewer.
    """
    held: AgentState = pytree.tree_unflatten(list(leaves), pytree.tree_structure(begun(problem, names)))
    missing = [name for name in problem.channels if name not in names]
    return held._replace(memory={**held.memory, **begun(problem, missing).memory}) if missing else held


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
    place of their value among the leaves of (x, state) (see ``Plan.early``).
    """
    net = opened(problem.method, held, link, uniforms, early)
    g, costs = revealed(problem, held.x, data)
    return updated(problem.method, held, net, t, g, costs, problem.scenario.project), net, g


def opened(
    method: Method, held: AgentState, link: Link, uniforms: Uniforms, early: Mapping[str, int] | None = None
) -> Net:
    """The network of a round, before its gradients are known. The values of ``early`` are on their way when it returns."""
    coin = falls(uniforms[COIN], method.algorithm.coin, held.x.dtype) if COIN in uniforms else None
    net = Net(method.channels, link, held.memory, uniforms, method.agents == 1, method.plan.widths, coin)
    if early:
        leaves = tensors((held.x, held.state))
        net.send({name: leaves[place] for name, place in early.items()})
    return net


def revealed(problem: Problem, x: Tensor, data: Any) -> tuple[Tensor, Costs]:
    """The gradients of a round's costs at x [R, n, d], and other functions of the costs of this round and the one before.

    ``data`` are this round's, or a pair, with those of the round before, where the algorithm asks for them (``Plan.earlier``).
    """
    now, before = data if problem.plan.earlier else (data, None)

    def grad(y: Tensor, rows: Tensor | None = None) -> Tensor:
        of = now if rows is None else reweighted(now, problem.scenario.row_weights, multiples(rows, problem.terms))
        return gradient(problem, y, of).clone()  # a scenario may hand out one buffer every time

    def earlier(y: Tensor) -> Tensor:
        return gradient(problem, y, before).clone()

    def loss(y: Tensor) -> Tensor:
        value: Tensor = problem.scenario.loss(y, now)
        if value.shape != y.shape[:-1]:
            raise InputError(
                f"scenario {entry(problem.scenario)}: loss returned shape {list(value.shape)}, not {list(y.shape[:-1])}"
            )
        return value.unsqueeze(-1).to(y.dtype)

    g = grad(x) if problem.plan.gradients > 1 or problem.plan.rows else gradient(problem, x, now)
    scenario = problem.scenario
    return g, Costs(
        grad, earlier if problem.plan.earlier else None, loss, scenario.project, scenario.lmo, scenario.prox
    )


def multiples(rows: Tensor, terms: int) -> Tensor:
    """What the weights of all ``terms`` rows are multiplied by, so that their sum is the mean of the ``rows`` [R, n, B] alone: [R, n, terms].

    >>> multiples(torch.tensor([[[0.0, 2.0]]]), 4).tolist()
    [[[2.0, 0.0, 2.0, 0.0]]]
    """
    each = torch.arange(terms, dtype=rows.dtype, device=rows.device)
    chosen = [
        torch.where(row == each, terms / rows.shape[-1], 0.0).to(rows.dtype) for row in rows.chunk(rows.shape[-1], -1)
    ]
    return sum(chosen[1:], start=chosen[0])


def updated(
    method: Method,
    held: AgentState,
    net: Net,
    t: Tensor,
    g: Tensor,
    costs: Costs,
    project: Callable[[Tensor], Tensor] | None = None,
) -> AgentState:
    """The agents' (x, state) after round t on the network ``net``, given their gradients g [R, n, d].

    ``costs`` serves ``mix.grad`` and ``mix.loss``, and ``project`` takes points to the nearest ones that are allowed. Agents that sleep keep what
    they hold. Where agents leave and join, see ``_restarted`` and ``_attended``.

    Raises:
        InputError: the algorithm asks for another number of gradients than in its first round, or for those of rows without ``for_rows``.
    """
    round = Round(net.mix, t, held.x, costs, net.uniforms.get(OWN), net.coin)
    told = net.uniforms.get(JOIN)
    if told is not None:
        held = _restarted(method, held, told[..., 1:] > 0)
    before = copied(held) if method.sleep or told is not None else held  # an algorithm may work in place
    x, state = method.algorithm.update(g.clone(), held.state, held.x, round)
    if project is not None:
        x = project(x)
    if round.rows and round.rows != method.plan.rows:
        raise InputError(
            f"the algorithm takes gradients of {round.rows} rows in one round, and of {method.plan.rows} in the first; take as many in every "
            "round"
        )
    asked, due = counted(method.algorithm, round), method.plan.gradients
    if asked != due:
        raise InputError(
            f"the algorithm takes {asked - 1} further gradients in one round, and {due - 1} in the first; take as many in every round"
        )
    if told is not None:
        x, state = _attended(method, net, before, (x, state), told[..., :1] > 0)
    after = AgentState(x, state, net.memory)
    return _awake(before, after, net.uniforms[SLEEP] >= method.sleep) if method.sleep else after


def _restarted(method: Method, held: AgentState, changed: Tensor) -> AgentState:
    """(x, state) at the beginning of a round.
    Where the set of present agents has ``changed`` [R, n, 1], the algorithm restarts at the points x.

    So the trackers of the present agents sum to their gradients, whichever agents have left.
    """
    begun = method.algorithm.init(held.x.clone())
    state = pytree.tree_map(lambda new, old: torch.where(changed, new, old), begun, held.state)
    return held._replace(state=state)


def _attended(
    method: Method, net: Net, before: AgentState, after: tuple[Tensor, Any], there: Tensor
) -> tuple[Tensor, Any]:
    """(x, state) after a round in which only the agents ``there`` [R, n, 1] took part.

    The others stay where they are, with the state that the algorithm begins with. Who joins in the next round takes the mean of the neighbours'
    points.
    """
    begun = method.algorithm.init(before.x.clone())
    x = torch.where(there, after[0], before.x)
    return net.mix(JOIN, x), pytree.tree_map(lambda new, old: torch.where(there, new, old), after[1], begun)


def _awake(before: AgentState, after: AgentState, awake: Tensor) -> AgentState:
    """(x, state) after a round in which only the agents ``awake`` [R, n, 1] took part; the others keep their values."""
    memory = {name: after.memory[name] for name in before.memory}
    held: AgentState = pytree.tree_map(
        lambda new, old: torch.where(awake, new, old), after._replace(memory=memory), before
    )
    return held


def before(problem: Problem, held: AgentState) -> dict[str, Tensor]:
    """The recorded trajectories before a round, [R, n, d] each; ``problem.answer`` is the one that is measured."""
    if problem.answer == "x":
        return {"x": held.x}
    return {"x": held.x, "output": problem.algorithm.output(held.x, held.state)}


def recorded(held: AgentState, name: str) -> Tensor:
    """What is recorded under a name after a round: a leaf of the algorithm's state, "s", or of a channel's memory, "memory.x.e".

    Raises:
        InputError: there is none.
    """
    of_channel = name.startswith("memory.") and not hasattr(held.state, "memory")  # a state's own field comes first
    return memory_leaf(held.memory, name) if of_channel else leaf(held.state, name)


def gradient(problem: Problem, x: Tensor, data: Any) -> Tensor:
    """The gradients of a round's costs at x [R, n, d].

    Raises:
        InputError: the scenario returns another shape or precision.
    """
    g: Tensor = problem.scenario.grad(x, data)
    if g.shape != x.shape or g.dtype != x.dtype:
        raise InputError(
            f"scenario {entry(problem.scenario)}: grad returned shape {list(g.shape)} and {g.dtype}, not {list(x.shape)} and {x.dtype}"
        )
    return g


def numbered(x: Tensor, start: int, count: int) -> tuple[Tensor, ...]:
    """The numbers of ``count`` rounds from ``start``, an integer tensor without axes each, on the device of x.

    >>> [int(t) for t in numbered(torch.zeros(1), 5, 3)]
    [5, 6, 7]
    """
    return (x.new_ones(count, dtype=torch.int64).cumsum(0) + (start - 1)).unbind()


def same_form(problem: Problem, x: Tensor, t: int) -> None:
    """Refuse an algorithm that changes the shape or precision of x."""
    if x.shape != problem.x0.shape or x.dtype != problem.x0.dtype:
        raise InputError(
            f"the algorithm returned x of shape {list(x.shape)} and {x.dtype} in round {t}, not {list(problem.x0.shape)} and {problem.x0.dtype}"
        )
