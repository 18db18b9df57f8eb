"""EF21: error feedback on gradients as copies that are kept up to date."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from distopt.channels.choco import Choco
from distopt.compressors.topk import TopK
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Compressor, Mix, Schedule
from distopt.ranges import compressor, step_size
from distopt.schedules import rate

topk = TopK()


@dataclass(frozen=True)
class EF21(AlgorithmDefaults):
    """EF21: the server steps along the average of copies of the workers' gradients [richtarik2021].

        h_{i,t} = h_{i,t-1} + C(g_{i,t} - h_{i,t-1}),    x_{t+1} = x_t - lr (1/N) sum_i h_{i,t},    h_{-1} = 0

    x_t [..., n, d] are the workers' points, equal if they start equal. Row i of g_t [..., n, d] is grad f_{i,t}(x_t). h_t [..., n, d] are
    the copies, memory of the channel that this algorithm brings, and C is the compressor. lr > 0 is a number, a schedule or a tensor [R, 1,
    1]. The paper starts from copies of its choice, such as g_0 itself; here the first message is compressed too. All entries of W are
    1/N. On a star the hub is the server, and also a worker. A complete graph gives the same results.

    Raises:
        InputError: ``lr`` not positive.

    >>> import torch
    >>> from distopt.algorithms.ef21 import EF21
    >>> ef21, x, a = EF21(lr=0.2), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> for _ in range(80):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, _ = ef21.update(x - a, ef21.init(x), x, lambda name, z: z.mean(-2, keepdim=True).expand_as(z))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    compressor: Compressor = topk
    channels: ClassVar[tuple[str, ...]] = ("g",)
    weights: ClassVar[str] = "average"

    def __post_init__(self) -> None:
        step_size("ef21", self.lr)
        compressor("ef21", self.compressor)

    @property
    def channel(self) -> Choco:
        return Choco(self.compressor, gamma=None)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Mix) -> tuple[Tensor, tuple[()]]:
        return x - rate(self.lr, mix) * mix("g", g), ()
