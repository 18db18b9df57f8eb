"""Workers in processes of their own, on one machine or several, as ranks of torch.distributed (gloo; their rows by NCCL where they have GPUs).

Rank 0 leads and holds the first block of agents. The other ranks carry out its orders until it stops them. There are two ways to
start:

- ``engine="ranks:workers=4"`` starts three more processes on this machine, and ends them with the run;
- under torchrun every rank calls ``torchrun_group``: there rank 0 runs experiments, and the others work for it.

On CPUs the results are bitwise those of every other engine. A message carries its round and its name, and is refused under any other. A
rank that fails ends the run with one error that names it. Ranks that die or stay silent for ``timeout`` seconds are replaced, if they
were started here.
"""

from __future__ import annotations

from distopt.costs.data import Blocks
from distopt.engines import local
from distopt.engines.ranks.orders import DEVICES, RankGroup, check, launched
from distopt.engines.ranks.processes import start
from distopt.engines.ranks.torchrun import led, torchrun_group
from distopt.engines.workers.group import FaultTolerant, WorkerEngine, WorkerGroup
from distopt.engines.workers.partition import divide
from distopt.errors import InputError, either
from distopt.ranges import whole
from distopt.simulation.problem import Problem

__all__ = ["DEVICES", "check", "launched", "ranks", "torchrun_group"]


def ranks(
    problem: Problem,
    blocks: Blocks,
    mode: local.Mode,
    workers: int | None = None,
    timeout: int = 60,
    partition: str = "contiguous",
    backend: str = "gloo",
) -> WorkerEngine:
    """Workers in processes: ranks of torch.distributed on this machine or, under torchrun, on several.

    ``ranks:workers=4,timeout=60,partition=cut``: 2 workers, or as many as torchrun started (see ``distopt.engines.workers.partition.divide``).
    ``backend`` carries the rows: gloo from main memory to main memory, or nccl from GPU to GPU. With nccl the rounds run eagerly on the GPUs.

    Raises:
        InputError: more workers than agents, a time-out under a second, an unknown backend, or too few GPUs for it.
            Under torchrun: another number of workers than its ranks, or a part of the experiment that is not a spec
            string.
        RunError: the processes could not be started.
    """
    whole("ranks", 1, timeout=timeout)
    if launched() and workers not in (None, launched()):
        raise InputError(f"torchrun started {launched()} ranks, not {workers}; leave the number of workers out")
    if launched() > 1 and led() is None:
        raise InputError(
            "ranks: under torchrun call distopt.engines.ranks.torchrun_group() on every rank, and simulate on the rank where it returns True"
        )
    count = launched() or (2 if workers is None else workers)
    check(backend, count)
    if backend == "nccl" and mode == "compiled":
        raise InputError(
            "ranks: backend=nccl: rounds on the GPUs of ranks run eagerly; leave "
            + either("--compiled out", 'mode="compiled" out')
        )
    shared = divide(problem.network, count, partition)
    compiled = backend == "gloo" and local.compiles(problem, blocks, mode)
    if (orders := led()) is None:

        def again(workers: WorkerGroup) -> WorkerGroup:
            workers.close()
            return start(problem, blocks, shared, compiled, timeout, backend)

        return WorkerEngine(
            FaultTolerant(start(problem, blocks, shared, compiled, timeout, backend), again), DEVICES[backend]
        )
    orders.transport.group.timeout = timeout
    return WorkerEngine(
        RankGroup(problem, blocks, orders, shared, compiled, True, lambda: None, backend), DEVICES[backend]
    )
