"""What an algorithm finds in ``mix``: the round's number, other gradients and uniform numbers, the same wherever the rounds run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from helpers import needs
from torch import Tensor

import distopt
from distopt import engines
from distopt.catalog import registry
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.net import Rehearsal
from distopt.numerics.random import Key, words
from distopt.runs.execution import Comparison
from distopt.simulation.grid import faithful
from distopt.simulation.problem import build
from distopt.simulation.runner import together

EXTRAGRADIENT = str(Path(__file__).parents[2] / "examples" / "extragradient.py")
N, D, ROUNDS, SEED = 6, 3, 40, 3
PLACES = [
    "local",
    "threads:workers=3",
    pytest.param("ranks:workers=2", marks=needs.forks),
]


def asked(algorithm: Any, engine: Any = "local", **settings: Any) -> Any:
    given = {"agents": N, "scenario": f"moving_target:dim={D},kappa=3", "rounds": ROUNDS, "seed": SEED, "x0": 0.5}
    given |= {"mode": "eager", "record": "x"}
    return distopt.simulate("ring", algorithm=algorithm, engine=engine, **(given | settings))


@cache
def costs() -> Any:
    """The curvatures [N][D] and the targets of each round [T][N][D], as plain numbers."""
    scenario = build(Experiment("ring", N, f"moving_target:dim={D},kappa=3", "gt", rounds=ROUNDS, seed=SEED)).scenario
    batch = scenario.batch(torch.arange(ROUNDS).reshape(-1, 1, 1, 1), Key(SEED, range(N), range(1), N))
    return batch.a[0, 0].tolist(), batch.c[:, 0].tolist()


def extragradient(lr: float, shift: float) -> list[list[list[float]]]:
    """The points x_0 .. x_T of extragradient descent on a ring, number by number."""
    curvature, targets = costs()
    x = [[0.5] * D for _ in range(N)]
    out = []
    for t in range(ROUNDS):
        out.append(x)
        step, moved = lr / (1 + t / shift), []
        for i in range(N):
            row = []
            for k in range(D):
                a, c = curvature[i][k], targets[t][i][k]
                ahead = x[i][k] - step * a * (x[i][k] - c)
                mixed = (x[i - 1][k] + x[i][k] + x[(i + 1) % N][k]) / 3
                row.append(mixed - step * a * (ahead - c))
            moved.append(row)
        x = moved
    return [*out, x]


@pytest.mark.parametrize("engine", PLACES)
def test_extragradient_of_a_users_file_is_the_loop(engine: str) -> None:
    assert len(Path(EXTRAGRADIENT).read_text().splitlines()) <= 25
    run = asked(f"{EXTRAGRADIENT}:lr=0.2,shift=8", engine)
    loop = np.array(extragradient(0.2, 8.0))
    assert np.abs(run["x"][0] - loop).max() < 1e-12 and np.abs(loop[-1] - loop[0]).max() > 0.1
    assert np.array_equal(run["x"], asked(f"{EXTRAGRADIENT}:lr=0.2,shift=8")["x"])
    assert run["gradients"][0].tolist() == [2 * (t + 1) for t in range(ROUNDS)]


@pytest.mark.slow
def test_it_is_the_loop_in_compiled_rounds_too() -> None:
    runs = [
        asked(f"{EXTRAGRADIENT}:lr=0.2,shift=8", engine, mode="compiled") for engine in ("local", "threads:workers=2")
    ]
    assert np.abs(runs[0]["x"][0] - np.array(extragradient(0.2, 8.0))).max() < 1e-12
    assert np.array_equal(runs[0]["x"], runs[1]["x"])


def test_it_goes_on_from_any_round_as_if_it_had_not_stopped() -> None:
    problem = build(
        Experiment("ring", N, f"moving_target:dim={D}", f"{EXTRAGRADIENT}:lr=0.2", rounds=ROUNDS, record=("x",))
    )
    comparison = Comparison.of(problem)

    def chunks(engine: Any, start: Any = None) -> Any:
        return together([problem], comparison.comparator, comparison.blocks, engine, start, pause=7)

    def eager() -> Any:
        return engines.make("local", problem, comparison.blocks, "eager")

    whole, stopped = [chunk[0] for chunk in chunks(eager())], eager()
    first = next(iter(chunks(stopped)))[0]
    rest = [chunk[0].trajectories["x"] for chunk in chunks(eager(), [first.carry(stopped.fetch())])]
    assert first.stop == 7 and len(rest) > 2
    assert np.array_equal(np.concatenate([chunk.trajectories["x"] for chunk in whole[1:]], 1), np.concatenate(rest, 1))


@dataclass(frozen=True)
class Noisy:
    """Draws twice in a round, writes down what it drew, and the round."""

    lr: float = 0.1
    channels: ClassVar[tuple[str, ...]] = ("x",)

    class State(NamedTuple):
        u: Tensor
        t: Tensor

    def init(self, x: Tensor) -> State:
        return self.State(x.new_zeros(*x.shape[:-1], 3), torch.zeros_like(x[..., :1]))

    def update(self, g: Tensor, state: State, x: Tensor, mix: Any) -> tuple[Tensor, State]:
        assert mix.x is x
        u = torch.cat([mix.uniform(2), mix.uniform(1)], -1)
        x = mix("x", x) - self.lr * (g + u[..., :1] - 0.5)
        return x, self.State(u, mix.t + torch.zeros_like(state.t))


@pytest.mark.parametrize("engine", PLACES)
def test_uniform_numbers_are_addressed(engine: str) -> None:
    run = asked(Noisy(), engine, record=("x", "u", "t"), trials=2)
    assert run["t"][0, :, 0, 0].tolist() == list(range(ROUNDS))
    for trial in range(2):
        drawn = words(SEED, "uniform", trial, 0, ROUNDS * N * 3).reshape(ROUNDS, N, 3)
        assert np.array_equal(run["u"][trial], drawn)
    assert np.array_equal(run["x"], asked(Noisy(), trials=2)["x"])


@pytest.mark.slow
def test_uniform_numbers_are_the_same_in_compiled_rounds() -> None:
    eager, compiled = (asked(Noisy(), mode=mode, record=("u", "t", "x")) for mode in ("eager", "compiled"))
    assert all(np.array_equal(eager[name], compiled[name]) for name in ("u", "t"))
    assert np.abs(eager["x"] - compiled["x"]).max() < 1e-13


def test_uniform_numbers_lie_inside_their_interval_in_either_precision() -> None:
    from distopt.network.net import Costs, Round

    for dtype in (torch.float32, torch.float64):
        ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
        x = torch.zeros(1, 1, 2, dtype=dtype)
        u = Round(lambda _, z: z, torch.tensor(0), x, Costs(torch.zeros_like), ends.reshape(1, 1, 2)).uniform(2)
        assert u.dtype == dtype and 0 < float(u[..., 0]) < float(u[..., 1]) < 1


def test_points_of_a_grid_draw_the_same_numbers_as_alone() -> None:
    problems = [build(Experiment("ring", N, "moving_target", Noisy(lr), trials=2)) for lr in (0.1, 0.2)]
    assert faithful(problems) and problems[0].plan.widths["mix.uniform"] == 3
    grid = distopt.simulate(
        "ring", agents=N, scenario="moving_target", algorithm=f"{EXTRAGRADIENT}:lr=[0.1,0.2]", rounds=20, record="x"
    )
    for label, run in grid.items():
        alone = distopt.simulate("ring", agents=N, scenario="moving_target", algorithm=label, rounds=20, record="x")
        assert np.array_equal(alone["x"], run["x"])


@dataclass(frozen=True)
class Uneven:
    """Asks for more in later rounds than in the first."""

    what: str
    channels: ClassVar[tuple[str, ...]] = ("x",)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Any) -> tuple[Tensor, tuple[()]]:
        if int(mix.t) > 2 and self.what == "grad":
            g = mix.grad(x - g)
        if int(mix.t) > 2 and self.what == "uniform":
            g = g * mix.uniform(1)
        return mix("x", x) - 0.1 * g, ()


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("grad", "takes 1 further gradients in one round, and 0 in the first"),
        ("uniform", "draws 1 uniform numbers per agent in one round, and 0 in the first"),
    ],
)
def test_a_round_that_asks_for_more_than_the_first_is_refused(what: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        asked(Uneven(what))


@dataclass(frozen=True)
class Decayed:
    """A direction that asks for the round: decay of x, from round 5 on."""

    decay: float = 0.1

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def __call__(self, s: Tensor, state: tuple[()], mix: Any) -> tuple[Tensor, tuple[()]]:
        return s + torch.where(mix.t >= 5, self.decay, 0.0) * mix.x, ()


class Plain:
    """The same as a rule of two parameters, without decay."""

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def __call__(self, s: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return s, ()


@pytest.mark.parametrize("name", ["gt", "dgd", "c_gt", "ef_sgd", "signsgd"])
def test_a_direction_that_asks_for_the_round_gets_it(name: str) -> None:

    topology = "star" if name in ("ef_sgd", "signsgd") else "ring"
    plain, decayed = (
        distopt.simulate(
            topology,
            agents=N,
            scenario=f"moving_target:dim={D}",
            algorithm=registry.maker("algorithms", name)(direction=rule),
            rounds=12,
            x0=0.5,
            record="x",
            mode="eager",
        )["x"]
        for rule in (Plain(), Decayed(100.0))
    )
    assert np.array_equal(plain[:, :6], decayed[:, :6]) and not np.array_equal(plain[:, 6:], decayed[:, 6:])


@pytest.mark.slow
def test_a_direction_gets_the_round_in_compiled_rounds_too() -> None:
    from distopt.algorithms.gt import GT

    eager, compiled = (asked(GT(0.05, direction=Decayed()), mode=mode)["x"] for mode in ("eager", "compiled"))
    assert np.abs(eager - compiled).max() < 1e-12


def test_a_rehearsal_is_a_round_without_a_network() -> None:
    x = torch.ones(1, 2, 3)
    round = Rehearsal(lambda _, z: 2 * z, x, 7, grad=torch.neg)
    assert int(round.t) == 7 and round.x is x and round.uniform(4).tolist() == [[[0.5] * 4] * 2]
    assert torch.equal(round("x", x), 2 * x) and torch.equal(round.grad(x), -x) and round.gradients == 1
