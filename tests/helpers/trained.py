"""Ranks that train: forked processes of a gloo group, a small model with data of its own, and the same in the simulator."""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import traceback
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch's optimisers import it when they are made: once here, and not on every rank
import torch.distributed as dist
from torch import Tensor, nn

import distopt
from distopt.numerics.random import Key

STEPS = 30


class Failed(Exception):
    """What a rank raised, as text."""


def on_ranks(world: int, work: Callable[[int], Any], place: Path, timeout: float = 60, fine: bool = True) -> list[Any]:
    """What ``work(rank)`` gives on every rank of a gloo group of forked processes.

    Where ``fine``, an error on one of them is raised here; else its text stands in the place of what the rank gives, and None where the
    rank died.
    """
    context = multiprocessing.get_context("fork")
    store = place / f"store-{uuid.uuid4().hex}"

    def live(rank: int, out: Any) -> None:
        torch.set_num_threads(1)
        gc.freeze()  # a process group that the parent has left cannot be torn down here: its threads are the parent's, and it would wait for them
        try:
            limit = timedelta(seconds=timeout)
            dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world, timeout=limit)
            found, wrong = work(rank), ""
        except BaseException as error:  # told to the test
            found, wrong = None, f"{type(error).__name__}: {error}" if not fine else traceback.format_exc()
        content = io.BytesIO()
        torch.save({"found": found, "wrong": wrong}, content)
        out.send(content.getvalue())
        if not wrong:
            dist.barrier()
        os._exit(0)

    pipes = [context.Pipe(False) for _ in range(world)]
    processes = [context.Process(target=live, args=(rank, pipes[rank][1]), daemon=True) for rank in range(world)]
    gc.collect()
    for process, (_, out) in zip(processes, pipes, strict=True):
        process.start()
        out.close()
    answers: list[Any] = []
    try:
        for here, _ in pipes:
            try:
                answers.append(torch.load(io.BytesIO(here.recv()), weights_only=True))
            except EOFError:
                answers.append({"found": None, "wrong": ""})
    finally:
        for process in processes:
            process.join(1 if answers and any(each["wrong"] for each in answers) else 10)
            process.kill()
    wrong = [f"rank {rank}: {each['wrong']}" for rank, each in enumerate(answers) if each["wrong"]]
    if fine and wrong:
        raise Failed("\n".join(wrong))
    return [each["wrong"] or each["found"] for each in answers]


class Small(nn.Module):
    """Tensors of uneven shapes, one of them without axes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gain * self.second(torch.tanh(self.first(x)))
        return out


def batch(rank: int, t: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A rank's data of a round."""
    draw = torch.Generator().manual_seed(1000 * rank + t)
    x = torch.randn(4, 5, generator=draw, dtype=torch.float64)
    return x.to(dtype), (torch.randn(4, 3, generator=draw, dtype=torch.float64) + rank).to(dtype)


def loss(model: nn.Module, rank: int, t: int) -> Tensor:
    x, y = batch(rank, t, next(model.parameters()).dtype)
    return (model(x) - y).square().mean()


def row(model: nn.Module) -> Tensor:
    """The parameters as they are, one after the other."""
    return torch.cat([each.detach().reshape(-1).clone() for each in model.parameters()])


def steps(model: nn.Module, optimizer: Any, rank: int, rounds: range) -> list[Tensor]:
    """The parameters before each of ``rounds`` and after the last."""
    found = [row(model)]
    for t in rounds:
        optimizer.zero_grad()
        loss(model, rank, t).backward()
        optimizer.step()
        found.append(row(model))
    return found


class Training:
    """The scenario in which the agents of the simulator train ``Small``, by the very operations that a rank does."""

    comparator = False

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.model = Small().to(dtype)
        self.dim = len(row(self.model))

    def batch(self, t: Tensor, key: Key) -> Tensor:
        return (1000.0 * key.agents + t.double()).reshape(len(t), 1, -1, 1)

    def start(self, key: Key) -> Tensor:
        return row(self.model).reshape(1, 1, -1).clone()

    def _each(self, x: Tensor, b: Tensor) -> list[list[tuple[Tensor, Tensor]]]:
        at = b.reshape(-1).long().tolist()
        return [[self._one(point, *divmod(at[k % len(at)], 1000)) for k, point in enumerate(points)] for points in x]

    def _one(self, point: Tensor, rank: int, t: int) -> tuple[Tensor, Tensor]:
        own = Small().to(point.dtype)
        nn.utils.vector_to_parameters(point.clone(), own.parameters())
        own = copy_of(own)
        value = loss(own, rank, t)
        value.backward()
        return value.detach(), torch.cat([each.grad.reshape(-1) for each in own.parameters()])

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        return torch.stack([torch.stack([value for value, _ in some]) for some in self._each(x, b)])

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        return torch.stack([torch.stack([g for _, g in some]) for some in self._each(x, b)])


def copy_of(model: nn.Module) -> nn.Module:
    """The same model, each parameter in memory of its own, as an optimiser finds them."""
    twin = Small().to(next(model.parameters()).dtype)
    with torch.no_grad():
        for own, other in zip(twin.parameters(), model.parameters(), strict=True):
            own.copy_(other)
    return twin


def simulated(
    algorithm: Any, rounds: int = STEPS, agents: int = 4, dtype: torch.dtype = torch.float64, **settings: Any
) -> Tensor:
    """The points of all agents before each round and after the last [rounds + 1, agents, d]."""
    name = str(dtype).removeprefix("torch.")
    run = distopt.simulate(
        settings.pop("topology", "ring"),
        agents=agents,
        scenario=Training(dtype),
        algorithm=algorithm,
        rounds=rounds,
        record=["x"],
        mode=settings.pop("mode", "auto"),
        dtype=name,
        **settings,
    )
    return torch.as_tensor(run["x"]).reshape(rounds + 1, agents, -1)


def points(found: Sequence[Sequence[Tensor]]) -> Tensor:
    """What ``steps`` gave on all ranks [rounds + 1, agents, d]."""
    return torch.stack([torch.stack(list(each)) for each in found], 1)
