"""SGD with error feedback: workers around their average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from distopt.channels.error_feedback import ErrorFeedback
from distopt.compressors.topk import TopK
from distopt.directions import direct
from distopt.directions.sgd import SGD
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Compressor, Direction, Mix, Schedule
from distopt.ranges import compressor, direction, step_size
from distopt.schedules import rate

sgd, topk = SGD(), TopK()


class StepState(NamedTuple):
    """What workers around an average carry: the state of their direction rule, leaves [..., n, *]."""

    direction: Any


@dataclass(frozen=True)
class EFSGD(AlgorithmDefaults):
    """EF-SGD: every worker sends its compressed step, adds what was lost to the next one, and moves by the average [karimireddy2019].

        p_{i,t} = lr d(g_{i,t}) + e_{i,t},    e_{i,t+1} = p_{i,t} - C(p_{i,t}),    x_{t+1} = x_t - (1/N) sum_i C(p_{i,t})

    x_t [..., n, d] are the workers' points, equal if they start equal. Row i of g_t [..., n, d] is grad f_{i,t}(x_t). C is the compressor, and
    e_0 = 0 [..., n, d] is the memory of the channel that this algorithm brings. d is the direction rule (the gradient itself by default).
    lr > 0 is a number, a schedule or a tensor [R, 1, 1]. The step size is inside p, as in the paper, so that memory keeps its size when lr
    changes. All entries of W are 1/N. On a star the hub is the server, and also a worker, and answers in the same round. A complete graph
    gives the same results. The answer is the average itself, uncompressed. Only the bits of a worker's message count, not the server's 8
    itemsize d.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.algorithms.ef_sgd import EFSGD
    >>> ef, x, g = EFSGD(lr=0.1), torch.zeros(1, 2, 2), torch.tensor([[[1.0, 2.0], [3.0, -2.0]]])
    >>> x, _ = ef.update(g, ef.init(x), x, lambda name, z: z.mean(-2, keepdim=True).expand_as(z))
    >>> [round(each, 3) + 0.0 for each in x[0, 0].tolist()]
    [-0.2, 0.0]
    """

    lr: float | Schedule = 0.01
    compressor: Compressor = topk
    direction: Direction[Any] = sgd
    channels: ClassVar[tuple[str, ...]] = ("step",)
    weights: ClassVar[str] = "average"

    def __post_init__(self) -> None:
        step_size("ef_sgd", self.lr)
        direction("ef_sgd", self.direction)
        compressor("ef_sgd", self.compressor)

    @property
    def channel(self) -> ErrorFeedback:
        return ErrorFeedback(self.compressor)

    def init(self, x: Tensor) -> StepState:
        return StepState(self.direction.init(x))

    def update(self, g: Tensor, state: StepState, x: Tensor, mix: Mix) -> tuple[Tensor, StepState]:
        lr = rate(self.lr, mix)
        d, direction = direct(self.direction, g, state.direction, mix, lr)
        return x - mix("step", lr * d), StepState(direction)
