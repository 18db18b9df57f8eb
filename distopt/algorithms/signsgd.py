"""signSGD: workers send the signs of their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from distopt.algorithms.ef_sgd import StepState
from distopt.channels.naive import Naive
from distopt.compressors.unscaled_sign import UnscaledSign
from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Compressor, Direction, Mix, Schedule
from distopt.ranges import compressor, direction, flag, step_size
from distopt.schedules import rate

sgd, unscaled = SGD(), UnscaledSign()


@dataclass(frozen=True)
class SignSGD(AlgorithmDefaults):
    """signSGD: a step along the average of the workers' signs, or, with ``vote``, along the sign of that average [bernstein2018].

        x_{t+1} = x_t - lr (1/N) sum_i C(d(g_{i,t})),          C(z) = sign(z)
        vote:  x_{t+1} = x_t - lr sign(sum_i C(d(g_{i,t})))

    x_t [..., n, d] are the workers' points, equal if they start equal. Row i of g_t [..., n, d] is grad f_{i,t}(x_t). d is the direction rule (the
    gradient itself by default). lr > 0 is a number, a schedule or a tensor [R, 1, 1]. The error of the signs is lost: on some problems this does
    not converge for any lr [karimireddy2019]; ``ef_signsgd`` does. ``compressor=sign`` is the scaled sign without memory, which that paper's
    experiments call signSGD. All entries of W are 1/N. On a star the hub is the server, and also a worker. A complete graph gives the same results.
    A tied vote moves nothing.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.algorithms.signsgd import SignSGD
    >>> SignSGD(lr=0.1).channel.bits(d=1000, itemsize=4)  # a bit a number and one that guards against NaN
    1008
    """

    lr: float | Schedule = 0.01
    vote: bool = False
    compressor: Compressor = unscaled
    direction: Direction[Any] = sgd
    channels: ClassVar[tuple[str, ...]] = ("sign",)
    weights: ClassVar[str] = "average"

    def __post_init__(self) -> None:
        step_size("signsgd", self.lr)
        flag("signsgd", vote=self.vote)
        direction("signsgd", self.direction)
        compressor("signsgd", self.compressor)

    @property
    def channel(self) -> Naive:
        return Naive(self.compressor)

    def init(self, x: Tensor) -> StepState:
        return StepState(self.direction.init(x))

    def update(self, g: Tensor, state: StepState, x: Tensor, mix: Mix) -> tuple[Tensor, StepState]:
        lr = rate(self.lr, mix)
        d, direction = direct(self.direction, g, state.direction, mix, lr)
        signs = mix("sign", d)
        return x - lr * (torch.sign(signs) if self.vote else signs), StepState(direction)
