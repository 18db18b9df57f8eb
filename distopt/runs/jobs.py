"""Experiments that other processes run, each in one of its own."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distopt.engines import local
from distopt.errors import InputError, RunError
from distopt.experiment import Experiment
from distopt.runs.execution import Comparison, execute
from distopt.runs.results import Run
from distopt.runs.signals import begin, follow
from distopt.simulation import surroundings
from distopt.simulation.problem import build


@dataclass(frozen=True)
class Job:
    """An experiment for another process; relative paths in it start from the folder ``place``."""

    experiment: Experiment
    mode: local.Mode
    place: str


@surroundings.set_aside()
def work(job: Job) -> Run | Exception:
    """Run an experiment in this process."""
    import torch

    torch.set_num_threads(1)  # the experiments are the parallelism
    if Path(job.place).is_dir():
        os.chdir(job.place)
    try:
        problem = build(job.experiment)
        return execute(job.experiment, comparison=Comparison.of(problem), problem=problem, mode=job.mode)
    except (InputError, RunError) as error:
        return error
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return RunError(f"{type(error).__name__}: {lines[0]}")


def _live(parent: int, job: Job, reply: Any) -> None:
    """The main function of a process that does one job."""
    follow(parent)
    try:
        reply.send(work(job))
    finally:
        reply.close()
        sys.stderr.flush()
        os._exit(0)  # without tidying what it inherited


def processes(jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, Run | Exception]]:
    """The results of the jobs, in order of completion. Each runs in a process of its own, ``workers`` at a time."""
    surroundings.may_start_processes("a sweep")
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting = list(range(len(jobs)))[::-1]
    running: dict[Any, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                k = waiting.pop()
                answer, reply = context.Pipe(duplex=False)
                process = context.Process(target=_live, args=(os.getpid(), jobs[k], reply), daemon=True)
                begin([process])
                reply.close()
                running[answer] = (k, process)
            ready: list[Any] = multiprocessing.connection.wait(list(running))
            for answer in ready:
                k, process = running.pop(answer)
                try:
                    result = answer.recv()
                except (EOFError, OSError):
                    process.join()
                    result = RunError(f"its process ended with exit code {process.exitcode}")
                process.join()
                yield k, result
    finally:
        for _, process in running.values():
            process.kill()
        for _, process in running.values():
            process.join()
