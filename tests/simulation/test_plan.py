"""One trial of a round says what all rounds ask for. An algorithm whose rounds differ in it is refused, or has the same bits everywhere."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers.spelling import suited
from torch import Tensor

import distopt
from distopt.catalog import registry
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.trees import tensors
from distopt.optional import AlgorithmDefaults, completed
from distopt.runs import checkpoint
from distopt.simulation import grid
from distopt.simulation.plan import Plan, Sent, tried
from distopt.simulation.problem import Problem, build
from distopt.simulation.round import AgentState, begun
from distopt.simulation.runner import Carry, begin

N, D, ROUNDS = 5, 3, 12
ENGINES = ["local", "threads:workers=2"]
ABOUT = checkpoint.About("", "a", False, "cpu", 0.0, {})


def asked(algorithm: Any, **settings: Any) -> dict[str, Any]:
    given = {"topology": "ring", "agents": N, "scenario": f"moving_target:dim={D}", "algorithm": algorithm}
    return given | {"rounds": ROUNDS, "x0": 0.5, "record": ("x",)} | settings


def totals(problem: Problem) -> dict[str, Tensor]:
    """Running sums of a run's beginning."""
    return {
        name: torch.zeros((1, N) if name == "agents" else 1, dtype=torch.float64)
        for name in checkpoint.cumulative(problem)
    }


class Descent:
    """x <- W x - g / 10, and all that the tests below change in it."""

    channels: tuple[str, ...] = ("x",)

    def init(self, x: Tensor) -> Any:
        return ()

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * g, state


class Counting(Descent):
    """Counts its updates, whichever copy makes them."""

    def __init__(self) -> None:
        self.updates: list[int] = []

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        self.updates.append(int(mix.t))
        return super().update(g, state, x, mix)


@pytest.mark.parametrize(("engine", "blocks"), [("local", 1), ("threads:workers=2", 2)])
def test_a_round_is_tried_once(engine: str, blocks: int) -> None:
    counting = Counting()
    distopt.simulate(**asked(counting), mode="eager", engine=engine)
    assert sorted(counting.updates) == sorted([0, *list(range(ROUNDS)) * blocks])


def test_a_checkpoint_tries_no_round(tmp_path: Path) -> None:
    counting = Counting()
    problem = build(Experiment(**asked(counting)))
    checkpoint.save(tmp_path, problem, begin(problem)._replace(t=1, totals=totals(problem)), ABOUT)
    assert checkpoint.load(tmp_path, problem, "a", force=True) is not None
    assert counting.updates == [0]


@pytest.mark.parametrize("name", registry.names("algorithms"))
def test_the_form_that_a_round_leaves_is_that_of_the_trial(name: str) -> None:
    star = name in ("ef21", "ef_sgd", "ef_signsgd", "signsgd", "signum")
    ask = asked(name, topology="star" if star else "ring", trials=2, dtype="float32")
    problem = build(Experiment(**{**ask, "scenario": suited(name, ask["scenario"])}))
    plan, held = problem.plan, begun(problem)
    for form, real in (
        (plan.begun, held[:2]),
        (plan.after, tried(problem.algorithm, held[:2], torch.ones(2, N, D))[0]),
    ):
        known, found = tensors(form), tensors(real)
        assert [(leaf.shape, leaf.dtype) for leaf in known] == [(leaf.shape, leaf.dtype) for leaf in found]
        assert all(leaf.device.type == "meta" for leaf in known)
    assert set(plan.sent) == set(problem.algorithm.channels)
    several = {
        "k_gt": 5,
        "led": 5,
        "lt_admm": 5,
        "robust_lt_admm": 5,
        "admm": 5,
        "gt_storm": 2,
        "storm": 2,
        "lanczos_rate": 3,
        "alternating": 2,
        "prediction_correction": 3,
        "bandit": 2,
    }  # one for each local step; of bandit, values of two points
    assert plan.gradients == several.get(name, 1)


def test_a_plan_changes_nothing_and_goes_with_the_problem() -> None:
    class Marking(Descent):
        rounds = 0

        def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
            self.rounds += 1
            x.add_(1)
            return mix("x", x), state

    marking, x = Marking(), torch.zeros(1, N, D)
    plan = Plan.of(completed(AlgorithmDefaults, marking), {}, x)
    assert marking.rounds == 0 and not x.any() and plan.sent == {"x": Sent(D, None)}
    problems = [build(Experiment(**asked(f"gtadam:lr={lr}"))) for lr in (0.1, 0.2)]
    assert problems[0].plan.early == {"s": 1, "x": 0}
    assert grid.stack(problems).plan is replace(problems[0], rounds=2).plan is problems[0].plan
    again = pickle.loads(pickle.dumps(problems[0].plan))
    assert again.sent == problems[0].plan.sent and again.after[1].s.shape == (1, N, D)


class FromOneOn(Descent):
    """Mixes nothing in its first round."""

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return (mix("x", x) if mix.t > 0 else x) - 0.1 * g, state


class Late(Descent):
    """Sends its points in the first round, and its points after the step in all others."""

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return (mix("x", x - 0.1 * g) if mix.t > 0 else mix("x", x)), state


class Wider(Descent):
    """Sends more numbers after its first round."""

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        z = torch.cat([x, g], -1) if mix.t > 0 else x
        return mix("x", z)[..., :D] - 0.1 * g, state


class MoreGradients(Descent):
    """Takes a second gradient after its first round."""

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * (mix.grad(x) if mix.t > 0 else g), state


@pytest.mark.parametrize("engine", ENGINES)
def test_a_first_round_without_a_message_has_the_same_bits_everywhere(engine: str) -> None:
    here = distopt.simulate(**asked(FromOneOn()), mode="eager")
    there = distopt.simulate(**asked(FromOneOn()), mode="eager", engine=engine)
    assert np.array_equal(here["x"], there["x"]) and np.abs(np.diff(here["x"], axis=1)).max() > 0


@pytest.mark.parametrize(
    ("algorithm", "engines", "told"),
    [
        (Late, ENGINES[1:], "from the state in some rounds and computes it in others"),
        (Wider, ENGINES, "with 6 numbers per agent, and 3 in the first round"),
        (MoreGradients, ENGINES, "takes 1 further gradients in one round, and 0 in the first"),
    ],
)
def test_other_rounds_than_the_first_are_refused(algorithm: Any, engines: list[str], told: str) -> None:
    for engine in engines:
        with pytest.raises(InputError, match=told):
            distopt.simulate(**asked(algorithm()), mode="eager", engine=engine)


class Growing(Descent):
    """Keeps all its points, so that its state is never twice of one form."""

    class State(NamedTuple):
        points: Tensor

    def init(self, x: Tensor) -> Any:
        return self.State(x[..., :0])

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * g, self.State(torch.cat([state.points, x], -1))


class FromNumber(Growing):
    """Its state begins as a number."""

    def init(self, x: Tensor) -> Any:
        return self.State(0.0)  # a class of a user's, who has no types

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * g, self.State(state.points + x)


def test_a_checkpoint_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    def after(algorithm: Any, rounds: int) -> tuple[Problem, Carry]:
        problem = build(Experiment(**asked(algorithm)))
        carry = begin(problem)
        held = carry.held[:2]
        for t in range(rounds):
            held, _ = tried(problem.algorithm, held, torch.ones(1, N, D), t)
        return problem, carry._replace(t=rounds, held=AgentState(*held, carry.held.memory), totals=totals(problem))

    for algorithm, rounds in ((Growing(), 1), (FromNumber(), 1), (FromNumber(), 5)):
        problem, carry = after(algorithm, rounds)
        checkpoint.save(tmp_path, problem, carry, ABOUT)
        found = checkpoint.load(tmp_path, problem, "a", force=True)
        assert found is not None and torch.equal(found.carry.held.state.points, carry.held.state.points)
    with pytest.raises(
        InputError, match="Growing: the algorithm's state has other shapes or precisions than after its"
    ):
        checkpoint.save(tmp_path, *after(Growing(), 2), ABOUT)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (lambda x: x.mean(1), r"shape \[2, 3\]"),
        (lambda x: x[:, 1:], r"shape \[2, 4, 3\]"),
        (lambda x: x.repeat(2, 1, 1), r"shape \[4, 5, 3\]"),
        (lambda x: x[None], r"shape \[1, 2, 5, 3\]"),
        (lambda x: x.tolist(), "type list"),
    ],
)
def test_a_value_that_is_none_of_the_agents_is_refused_at_once(value: Callable[[Tensor], Any], form: str) -> None:
    class Whole(Descent):
        def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
            return mix("x", value(x)), state

    with pytest.raises(InputError, match=rf"sends 'x' of {form}; it must be \[trials, agents, \*\], here \[2, 5, \*\]"):
        build(Experiment(**asked(Whole(), trials=2)))


def test_a_value_may_be_alike_in_all_trials() -> None:
    class Counted(Descent):
        channels = ("x", "w")

        def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
            return mix("x", x) / mix("w", torch.ones(1, N, 1)) - 0.1 * g, state

    runs = [distopt.simulate(**asked(algorithm(), trials=2), mode="eager") for algorithm in (Counted, Descent)]
    np.testing.assert_allclose(runs[0]["x"], runs[1]["x"], rtol=1e-12)
