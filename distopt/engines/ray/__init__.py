"""Workers in actors of a Ray cluster: Ray places and supervises them, their rows travel by gloo from actor to actor.

The driver has the comparator, progress and files, and no agents. It gives all actors the same orders, as every group's leader does
(``distopt.engines.workers.group``), and receives reports from the first. The results are bitwise those of every other engine. If an
actor dies, another replaces it. If the cluster has no room for one, the others share its agents.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from distopt._version import __version__
from distopt.catalog import registry
from distopt.costs.data import Blocks
from distopt.engines import local
from distopt.engines.ray import cluster
from distopt.engines.ray.cluster import library
from distopt.engines.transports.gloo import GlooTransport, Group, dist
from distopt.engines.workers.group import FaultTolerant, WorkerEngine
from distopt.engines.workers.partition import Partition, divide
from distopt.engines.workers.worker import Worker
from distopt.errors import InputError, RunError, WorkerLost, either, first_line
from distopt.numerics.trees import default_dtype
from distopt.ranges import whole
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState
from distopt.simulation.runner import Segment

J = TypeVar("J")
R = TypeVar("R")

ANSWER = 5
"""Seconds in which an actor must answer after a failed round; otherwise it is replaced."""

REPLACED = 20
"""Seconds that a cluster has to start an actor in place of a lost one."""

LOOPBACK = "127.0.0.1"


class Meeting(NamedTuple):
    """How the workers of a group find each other: the store's address and port, and whether all of them are on one machine."""

    address: str
    port: int
    alone: bool
    size: int


class WorkerActor:
    """The object inside an actor: a worker, as long as it is in a group.

    Every method returns its result, or an error that concerns all workers.
    """

    def __init__(self) -> None:
        torch.set_num_threads(1)  # the actors are the parallelism
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        self.group: Group | None = None

    def learn(self, content: bytes) -> tuple[str, str] | Exception:
        """Take the problem in; (node, address) of where this is."""
        ray = library()
        try:
            versions_here, problem = ray.cloudpickle.loads(content)
            if versions_here != versions():
                return InputError(
                    f"a node of the cluster has {versions()} where the driver has {versions_here}; install the same on all nodes"
                )
            self.problem = ray.cloudpickle.loads(problem)
        except Exception as error:
            return InputError(
                f"a node of the cluster cannot take the experiment in: {type(error).__name__}: {first_line(error)}"
            )
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def host(self, address: str, timeout: int) -> int:
        """Open a store for the workers that are to meet; its port."""
        with socket.socket() as listener:
            listener.bind((address, 0))
            listener.listen()
            port: int = listener.getsockname()[1]
            limit = timedelta(seconds=timeout)
            self.store = dist.TCPStore(
                address, port, None, True, limit, wait_for_workers=False, master_listen_fd=listener.detach()
            )
        return port

    def join(
        self, meeting: Meeting, me: int, partition: Partition, length: int, compiled: bool, timeout: int
    ) -> Exception | None:
        """Become worker ``me`` of a group."""
        try:
            limit = timedelta(seconds=timeout)
            store = (
                dist.TCPStore(meeting.address, meeting.port, None, False, limit, wait_for_workers=False)
                if me
                else self.store
            )
            here = LOOPBACK if meeting.alone else library().util.get_node_ip_address()
            self.group = Group.connect(store, me, meeting.size, timeout, here)
        except RuntimeError as error:
            return WorkerLost(first_line(error))
        self.transport = GlooTransport(self.group)
        self.worker = Worker(self.problem, partition, me, self.transport, length, compiled)
        return None

    def do(self, what: str, *args: Any) -> Any:
        """A method of the worker."""
        assert self.group is not None
        try:
            with default_dtype(self.problem.x0.dtype), self.group.busy():
                result = getattr(self.worker, what)(*args)
            self.transport.settle()
            return result
        except Exception as error:
            failure = self.group.failed(error)
        self.transport.leave()  # tells the others at once
        return failure

    def leave(self) -> None:
        """Leave a group that has lost others."""
        if self.group is not None:
            self.transport.leave()


class ActorGroup:
    """A ``WorkerGroup`` of actors, each in a place of its own on the cluster, spread over its nodes.

    Args:
        problem, blocks: as for every engine.
        compiled: whether the rounds are.
        workers: how many.
        share: the partition of the agents among a number of workers.
        timeout: seconds that a message may take, and an actor to start.
        end: lets the cluster go.

    Raises:
        InputError: the cluster has no room for the workers, or a node cannot load the experiment.
        RunError: they did not start in time.
    """

    def __init__(
        self,
        problem: Problem,
        blocks: Blocks,
        compiled: bool,
        workers: int,
        share: Callable[[int], Partition],
        timeout: int,
        end: Callable[[], object],
    ) -> None:
        self._ray = library()
        self._length, self.compiled, self._timeout, self._end = blocks.length, compiled, timeout, end
        self._seats: dict[int, tuple[Any, tuple[str, str]]] = {}  # place -> (actor, (node, address))
        self._workers, self._share, self._round = workers, share, 0
        self._places: Any = None
        try:
            self._problem = self._ray.put(packed(problem))
            self._places = self._ray.util.placement_group([{"CPU": 1}] * workers, strategy="SPREAD")
            if not self._places.wait(timeout):
                free, total = (
                    int(each.get("CPU", 0)) for each in (self._ray.available_resources(), self._ray.cluster_resources())
                )
                raise InputError(
                    f"the cluster has no room for {workers} workers: {free} of its {total} CPUs are free; "
                    f"ask for fewer {either('--workers', 'workers, as in ray:workers=2')}"
                )
            if len(self._fill(timeout)) < workers:
                raise RunError(f"{len(self._seats)} of {workers} workers started within {timeout} s; raise timeout=")
            self._form()
        except BaseException:
            self.close()
            raise

    def rebuild(self) -> ActorGroup:
        """The group after a loss: the actors that answer, and new ones for the others if the cluster has room."""
        calls = {actor.leave.remote(): place for place, (actor, _) in self._seats.items()}
        done, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER)
        answered = {calls[call] for call in done if not isinstance(self._result(call, 0), Exception)}
        for place in self._seats.keys() - answered:
            self._ray.kill(self._seats.pop(place)[0])
        if not self._fill(min(REPLACED, self._timeout)):
            raise RunError("no worker is left, and none could be started; check the cluster with ray status")
        self._form()
        return self

    def _fill(self, patience: int) -> dict[int, tuple[Any, tuple[str, str]]]:
        """Put an actor in every place that is free, as far as they start within ``patience`` seconds."""
        strategy = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        options = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        new = {}
        for place in sorted(set(range(self._workers)) - self._seats.keys()):
            where = strategy(self._places, placement_group_bundle_index=place)
            actor = self._ray.remote(WorkerActor).options(**options, scheduling_strategy=where).remote()
            new[actor.learn.remote(self._problem)] = (place, actor)
        done, late = self._ray.wait(list(new), num_returns=len(new), timeout=patience) if new else ([], [])
        for call in done:
            place, actor = new[call]
            result = self._result(call, place)
            if isinstance(result, InputError):
                raise result
            if not isinstance(result, Exception):
                self._seats[place] = (actor, result)
        for call in late:
            self._ray.kill(new[call][1])
        return self._seats

    def _form(self) -> None:
        """Connect all present actors, as workers 0, 1, ... in the order of their places."""
        self._actors = [self._seats[place][0] for place in sorted(self._seats)]
        wheres = [self._seats[place][1] for place in sorted(self._seats)]
        alone = len({node for node, _ in wheres}) == 1
        address = LOOPBACK if alone else wheres[0][1]
        port = self._hear([self._actors[0].host.remote(address, self._timeout)])
        meeting = Meeting(address, port, alone, len(self._actors))
        settings = (self._share(meeting.size), self._length, self.compiled, self._timeout)
        self._hear([actor.join.remote(meeting, me, *settings) for me, actor in enumerate(self._actors)])

    def _result(self, call: Any, me: int) -> Any:
        """What an actor gave, or its error."""
        failures = self._ray.exceptions
        try:
            return self._ray.get(call)
        except (failures.ActorDiedError, failures.ActorUnavailableError) as error:
            missing = [
                line.strip()
                for line in str(error).splitlines()
                if line.strip().startswith(("ModuleNotFoundError:", "ImportError:"))
            ]
            if missing:
                return InputError(
                    f"an actor could not start on the cluster ({missing[0]}); install distopt on all its nodes"
                )
            return WorkerLost(f"rank {me} was lost in round {self._round} or later")
        except failures.RayError as error:
            return RunError(f"rank {me} failed in round {self._round} or later: {first_line(error)}")

    def _hear(self, calls: Sequence[Any]) -> Any:
        """Wait until all have answered; what worker 0 gives. After one has failed, the others get a moment to report."""
        places = {call: me for me, call in enumerate(calls)}
        results: dict[int, Any] = {}
        waiting, failed = list(calls), False
        while waiting:
            done, waiting = self._ray.wait(waiting, timeout=ANSWER if failed else None)
            if not done:
                break
            for call in done:
                results[places[call]] = self._result(call, places[call])
            failed = any(isinstance(each, Exception) for each in results.values())
        errors = [each for each in results.values() if isinstance(each, Exception)]
        if errors:  # first choice: an error that a worker reports; then a lost connection; then Ray's own error
            raise min(errors, key=lambda error: (isinstance(error, WorkerLost), str(error).endswith("or later")))
        return results[0]

    def _all(self, what: str, *args: Any) -> Any:
        return self._hear([actor.do.remote(what, *args) for actor in self._actors])

    def place(self, held: AgentState | None) -> None:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        self._all("place", None if held is None else self._ray.put(held))

    def advance(self, start: int, count: int, rounds: range, keep: tuple[str, ...], best: Tensor) -> Segment:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        self._round = start + rounds.start
        report: Segment = self._all("advance", start, count, rounds, keep, self._ray.put(best))
        return report

    def fetch(self) -> AgentState:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        held: AgentState = self._all("fetch")
        return held

    def close(self) -> None:
        """See ``distopt.engines.workers.group.WorkerGroup``."""
        if self._ray.is_initialized():
            for actor, _ in self._seats.values():
                self._ray.kill(actor)
            if self._places is not None:
                self._ray.util.remove_placement_group(self._places)
        self._end()


def versions() -> str:
    """The versions that, besides the experiment, decide a worker's bits."""
    python = ".".join(platform.python_version_tuple()[:2])
    return f"distopt {__version__}, torch {torch.__version__}, numpy {np.__version__}, Python {python}"


def packed(problem: Problem) -> bytes:
    """A problem for other nodes, with users' own files packed into it.

    Raises:
        InputError: a part of it cannot be sent.
    """
    pickle = library().cloudpickle
    own = registry.imported()
    for module in own:
        pickle.register_pickle_by_value(module)
    try:
        content: bytes = pickle.dumps((versions(), pickle.dumps(problem)))
        return content
    except Exception as error:
        raise InputError(
            f"a part of the experiment cannot be sent to the workers: {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        for module in own:
            pickle.unregister_pickle_by_value(module)


def each(work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[tuple[int, R | Exception]]:
    """The results of ``work`` for each job, as tasks of the cluster, with the job's place, in order of completion.

    A failed task gives its error. A task whose process dies is tried once more.
    """
    ray = library()
    task = ray.remote(work).options(num_cpus=1, max_retries=1)
    waiting = {task.remote(job): place for place, job in enumerate(jobs)}
    try:
        while waiting:
            (call,), _ = ray.wait(list(waiting))
            place = waiting.pop(call)
            try:
                yield place, ray.get(call)
            except ray.exceptions.RayError as error:
                yield place, RunError(first_line(error))
    finally:
        for call in waiting:
            ray.cancel(call, force=True)


def ray(
    problem: Problem,
    blocks: Blocks,
    mode: local.Mode,
    workers: int = 2,
    address: str | None = None,
    timeout: int = 60,
    partition: str = "contiguous",
) -> WorkerEngine:
    """Workers in actors of a Ray cluster: one that runs, or one that is started here.

    ``ray:workers=4,address=auto,timeout=60,partition=cut``: see ``cluster.cluster`` and ``distopt.engines.workers.partition.divide``.

    Raises:
        InputError: more workers than agents or than the cluster has room for, a time-out under a second, no Ray.
    """
    whole("ray", 1, timeout=timeout)

    def share(count: int) -> Partition:
        return divide(problem.network, count, partition)

    share(workers)
    compiled = local.compiles(problem, blocks, mode)
    connected = ExitStack()
    connected.enter_context(cluster.cluster(address or "", workers))
    team = ActorGroup(
        problem, blocks, compiled, workers, share, timeout, connected.close
    )  # the group also closes it if its start fails
    return WorkerEngine(FaultTolerant(team, lambda workers: team.rebuild()))
