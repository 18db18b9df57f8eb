"""Training scripts on forked processes, as torchrun starts them: quicker, since Python and torch are there already."""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch._dynamo  # torch's optimisers import it when they are made: once here, and not on every rank

ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    """How a rank ended, and what it printed."""

    code: int | None
    said: str


def started(
    script: Path, words: Sequence[str], world: int, place: Path, prepare: Callable[[int], None] = lambda rank: None
) -> list[Ended]:
    """Every rank of a script, run in the folder ``place``; ``prepare(rank)`` is called before."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    said = [place / f"said-{rank}.txt" for rank in range(world)]

    def live(rank: int) -> None:
        gc.freeze()  # as in ``trained.on_ranks``
        out = os.open(said[rank], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(place)
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ |= {**{name: str(value) for name, value in names.items()}, "MASTER_ADDR": "127.0.0.1"}
        torch.set_num_threads(1)
        sys.argv = [str(script), *words]
        code = 0
        try:
            prepare(rank)
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    processes = [context.Process(target=live, args=(rank,), daemon=True) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    return [Ended(process.exitcode, path.read_text()) for process, path in zip(processes, said, strict=True)]
