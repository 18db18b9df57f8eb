"""Two players in turn: against plain loops, on every engine, with rules that remember, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.battery import same_in_simulate
from torch import Tensor

import distopt
from distopt.algorithms.alternating import Alternating
from distopt.catalog import registry
from distopt.checks import check_algorithm
from distopt.directions.adam import Adam
from distopt.errors import InputError
from distopt.network.net import Rehearsal

W = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]], dtype=torch.float64)
C = torch.tensor([[1.0, 0.3, -0.5], [0.2, -1.0, 0.7]], dtype=torch.float64)


def game(x: Tensor) -> Tensor:
    """theta' C psi - |psi|^2 / 4: theta (two coordinates) lowers it, psi (three) raises it."""
    theta, psi = x[..., :2], x[..., 2:]
    return torch.cat([(C * psi.unsqueeze(-2)).sum(-1), -(C * theta.unsqueeze(-1)).sum(-2) + psi / 2], -1)


def walked(algorithm: Alternating, rounds: int, x: Tensor) -> Tensor:
    state = algorithm.init(x)
    for t in range(rounds):
        x, state = algorithm.update(game(x), state, x, Rehearsal(lambda name, z: W @ z, x, t, game))
    return x


@pytest.mark.parametrize("form", ["cta", "atc"])
@pytest.mark.parametrize("critic", [1, 3])
def test_the_second_player_sees_where_the_first_one_went(critic: int, form: Any) -> None:
    start = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, c, w = start[0].numpy().copy(), C.numpy(), W.numpy()
    for _ in range(20):
        y = x.copy()
        for i in range(3):
            y[i, :2] -= 0.1 * c @ y[i, 2:]
            for _ in range(critic):
                y[i, 2:] -= 0.1 * (-c.T @ y[i, :2] + y[i, 2:] / 2)
        x = w @ x + (y - x) if form == "cta" else w @ y
    found = walked(Alternating(0.1, critic, form), 20, start)
    np.testing.assert_allclose(found[0].numpy(), x, atol=1e-13)


def test_each_player_remembers_its_own_gradients() -> None:
    """Adam's powers count the steps of a player, and the critic takes more of them."""
    rule = Adam(bias_correction=True)
    algorithm: Any = Alternating(0.1, 3, direction=rule)
    x = torch.ones(1, 3, 5, dtype=torch.float64)
    _, state = algorithm.update(game(x), algorithm.init(x), x, Rehearsal(lambda name, z: z, x, 0, game))
    assert state.first.m.shape[-1] == 2 and state.second.m.shape[-1] == 3
    alone = rule.init(x[..., :2])
    d, _ = rule(game(x)[..., :2], alone)
    moved, _ = algorithm.update(game(x), algorithm.init(x), x, Rehearsal(lambda name, z: z, x, 0, game))
    torch.testing.assert_close(moved[..., :2], x[..., :2] - 0.1 * d)


def test_it_keeps_the_promises_of_an_algorithm() -> None:
    for spec in ("alternating:lr=0.1", "alternating:lr=0.1,critic=4,form=atc,direction=adam"):
        check_algorithm(registry.make("algorithms", spec))


@pytest.mark.parametrize("engine", ["threads:workers=2", pytest.param("ranks:workers=2", marks=needs.forks)])
@pytest.mark.parametrize("scenario", ["regulariser=r1,gamma=0.3,spread=1", "form=nsgan,regulariser=sampled_noise"])
def test_engines_have_the_same_bits(scenario: str, engine: str) -> None:
    ask: dict[str, Any] = {"agents": 5, "scenario": f"dirac_gan:{scenario}", "rounds": 30, "record": "x", "trials": 2}
    methods = ["dgd:lr=0.2", "alternating:lr=0.2,critic=2", "alternating:lr=0.05,form=atc,direction=adam"]
    same_in_simulate(engine, algorithm=methods, **ask)


def test_a_grid_has_the_bits_of_its_points() -> None:
    ask: dict[str, Any] = {"agents": 3, "scenario": "dirac_gan:regulariser=r1", "rounds": 20, "record": "x"}
    both = distopt.simulate("ring", algorithm="alternating:lr=[0.1,0.2],direction=momentum(b=[0.0,0.5])", **ask)
    assert len(both) == 4
    alone = distopt.simulate("ring", algorithm="alternating:lr=0.2,direction=momentum(b=0.5)", **ask)
    assert any(np.array_equal(run["x"], alone["x"]) for run in both.values())


def test_what_has_no_two_players_is_refused() -> None:
    with pytest.raises(InputError, match="^alternating: x has one coordinate"):
        distopt.simulate("ring", agents=3, scenario="quadratic:dim=1", algorithm="alternating", rounds=2)

    class Back:
        """The gradient half a step further."""

        def init(self, x: Tensor) -> tuple[()]:
            return ()

        def __call__(self, s: Tensor, state: tuple[()], mix: Any) -> tuple[Tensor, tuple[()]]:
            return mix.grad(mix.x - 0.5 * mix.lr * s), ()

    rule: Any = Back()
    algorithm = Alternating(direction=rule)
    with pytest.raises(InputError, match="^alternating: the direction takes a second gradient"):
        distopt.simulate("ring", agents=3, scenario="dirac_gan", algorithm=algorithm, rounds=2)
