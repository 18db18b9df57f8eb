"""Alternating gradient steps: the first player of a game moves, then the second one at the first one's new point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from distopt.directions import direct
from distopt.directions._round import RoundWithin
from distopt.directions.sgd import SGD
from distopt.errors import InputError
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Direction, Mix, Schedule
from distopt.ranges import choice, direction, step_size, whole
from distopt.schedules import rate

Form = Literal["cta", "atc"]
sgd = SGD()
MOST = 1000
"""Steps of the second player in a round."""


class AlternatingState(NamedTuple):
    """What the players' direction rules remember, leaves [..., n, *]."""

    first: Any
    second: Any


@dataclass(frozen=True)
class Alternating(AlgorithmDefaults):
    """Alternating gradient descent of two players, as in [mescheder2018], and mixing of the points as in ``dgd``.

        u = theta_t - lr d(g_theta(theta_t, psi_t))
        v_0 = psi_t,    v_k = v_{k-1} - lr d(g_psi(u, v_{k-1})),    k = 1, ..., critic
        cta:  x_{t+1} = W_t x_t + (u, v_critic) - x_t
        atc:  x_{t+1} = W_t (u, v_critic)

    x_t = (theta_t, psi_t) [..., n, d] are the agents' points. The first d // 2 coordinates, theta, belong to the first player, such as a
    generator. The others, psi, belong to the second player, such as a critic. (g_theta, g_psi) are the agent's own gradients of this round,
    taken at 1 + ``critic`` points. d is the direction rule, by default the gradient itself. Each player has its own memory of it. lr > 0 is a
    number, a schedule or a tensor [R, 1, 1]. W_t is row-stochastic. The paper has one machine; the mixing is ours. Simultaneous steps of both
    players are ``dgd``. On a cost that both players descend it is block-coordinate descent.

    If the scenario restricts points, that is done once, after the round.

    Raises:
        InputError: ``lr`` not positive, ``critic`` below 1 or above 1000, or an unknown ``form``; where x has one coordinate; where a
            direction rule asks for a second gradient.

    >>> import torch
    >>> from distopt.algorithms.alternating import Alternating
    >>> from distopt.network.net import Rehearsal
    >>> turns, x = Alternating(lr=0.5), torch.ones(1, 1, 2)
    >>> game = lambda x: torch.stack([x[..., 1], -x[..., 0]], -1)  # theta psi: theta lowers it, psi raises it
    >>> turns.update(game(x), turns.init(x), x, Rehearsal(lambda name, z: z, x, grad=game))[0].flatten().tolist()
    [0.5, 1.25]
    """

    lr: float | Schedule = 0.01
    critic: int = 1
    form: Form = "cta"
    direction: Direction[Any] = sgd
    channels: ClassVar[tuple[str, ...]] = ("x",)
    weights: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        step_size("alternating", self.lr)
        whole("alternating", 1, MOST, critic=self.critic)
        choice("alternating", get_args(Form), form=self.form)
        direction("alternating", self.direction)

    def init(self, x: Tensor) -> AlternatingState:
        theta, psi = _players(x)
        return AlternatingState(self.direction.init(theta.clone()), self.direction.init(psi.clone()))

    def update(self, g: Tensor, state: AlternatingState, x: Tensor, mix: Mix) -> tuple[Tensor, AlternatingState]:
        lr = rate(self.lr, mix)
        u, v = _players(x)
        own = _Player(mix)
        d, first = direct(self.direction, _players(g)[0], state.first, own, lr, u)
        u, second = u - lr * d, state.second
        for _ in range(self.critic):
            seen = _players(mix.grad(torch.cat([u, v], -1)))[1]
            d, second = direct(self.direction, seen, second, own, lr, v)
            v = v - lr * d
        moved, held = torch.cat([u, v], -1), AlternatingState(first, second)
        return (mix("x", x) + (moved - x) if self.form == "cta" else mix("x", moved)), held


def _players(x: Tensor) -> tuple[Tensor, Tensor]:
    """The coordinates of each player."""
    half = x.shape[-1] // 2
    if not half:
        raise InputError(
            "alternating: x has one coordinate, but each of the two players needs one; use a game with two coordinates or more"
        )
    return x[..., :half], x[..., half:]


class _Player(RoundWithin):
    """The round as a player's direction rule sees it: it cannot take gradients of its coordinates alone."""

    def grad(self, y: Tensor, rows: Tensor | None = None, *, ago: int = 0) -> Tensor:
        raise InputError(
            "alternating: the direction takes a second gradient, which one player does not have; use another direction"
        )
