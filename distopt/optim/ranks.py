"""The ranks that train together: connections of their own beside the user's, and what all of them do at once.

The user's process group only provides the list of its ranks and its store. No message travels through it, so none of the optimiser's can be
taken for one of the user's.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from distopt.engines.transports.gloo import Group
from distopt.errors import InputError, RunError, first_line

dist: Any = torch.distributed  # torch does not declare all that it exports

WAIT = 1800
"""Seconds that a rank waits for another where the process group does not say: as long as torch does."""

ROLL_CALL = 3
"""Seconds in which the remaining ranks report, if one is lost."""


class Ranks:
    """The ranks of one optimiser. All must make it, and call its methods, in the same order.

    Args:
        process_group: of torch.distributed; None: all ranks. Without ``init_process_group`` this process is alone.
        timeout: seconds to wait for another rank; None: as the process group does.

    Attributes:
        rank, size: which rank of the group this is, and how many there are.
        joined: the process group.
        group: the connections; None where there is no other rank.
        broken: the error that ended it, after which the ranks are no longer connected.

    Raises:
        InputError: torchrun has started several ranks, which are not connected, or this one is not in the group.
        RunError: some rank did not come in time.
    """

    def __init__(self, process_group: Any = None, timeout: float | None = None) -> None:
        if timeout is not None and not timeout > 0:
            raise InputError(f"timeout={timeout}: must be seconds above 0")
        self.rank, self.size, self.joined, self._meetings = 0, 1, process_group, 0
        self.group: Group | None = None
        self.broken: Exception | None = None
        if not dist.is_available() or not dist.is_initialized():
            if (started := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
                raise InputError(
                    f"{started} ranks were started and are not connected; call torch.distributed.init_process_group() before making the optimiser"
                )
            return
        joined = self.joined = dist.group.WORLD if process_group is None else process_group
        self.rank, self.size = dist.get_rank(joined), dist.get_world_size(joined)
        if self.rank < 0:
            raise InputError(f"rank {dist.get_rank()} is not in the process_group that the optimiser was given")
        if self.size == 1:
            return
        seconds = max(1, round(_patience(joined) if timeout is None else timeout))
        store = joined.get_group_store()
        # all ranks make optimisers in the same order, so their numbers agree; the store keeps the count for restarted processes
        store = dist.PrefixStore(f"distopt/optimiser {store.add(f'distopt/made by {self.rank}', 1)}", store)
        alone = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE", "")
        here = "127.0.0.1" if alone and "GLOO_SOCKET_IFNAME" not in os.environ else None
        self._store, self._seconds = store, seconds
        self.meet("making the optimiser")
        self.group = Group.connect(store, self.rank, self.size, seconds, here)

    def meet(self, what: str, text: str = "") -> list[str]:
        """Wait for all ranks to come to the same place in their program, ``what``; the text that each brought.

        Raises:
            WorkerLost: a rank did not come in time, which is named.
            RunError: a rank has noted that it failed, or the ranks do different things.
        """
        if self.size == 1:
            return [text]
        self._meetings += 1
        where, end = f"meeting {self._meetings}", time.monotonic() + self._seconds
        self._store.set(f"{where}/{self.rank}", f"{what}\n{text}")
        texts = []
        for rank in range(self.size):
            pause = 0.001
            while not self._store.check([f"{where}/{rank}"]):  # to wait for it would print warnings of torch
                try:
                    if self.group is not None:
                        self.group.poll()
                except Exception as error:
                    raise self.failed(error) from None
                if time.monotonic() > end:
                    raise self.failure(f"rank {rank} did not come to {what} within {self._seconds} s")
                time.sleep(pause)
                pause = min(2 * pause, 0.1)
            its, _, its_text = self._store.get(f"{where}/{rank}").decode().partition("\n")
            if its != what:
                first, second = sorted([(self.rank, what), (rank, its)])
                raise RunError(
                    f"rank {first[0]} is at {first[1]!r} and rank {second[0]} at {second[1]!r}; all ranks must make the same calls in the same order"
                )
            texts.append(its_text)
        return texts

    def failure(self, message: str) -> Exception:
        """The error to raise on all ranks: the first that any of them noted."""
        return self.failed(RunError(message) if self.group is None else self.group.report_failure("lost", message))

    def failed(self, error: Exception) -> Exception:
        """The error to raise, on all ranks, for an error on this one."""
        if self.group is None:
            return error
        self.broken = self.group.failed(error)
        self.group.close()
        return self.broken

    def same(self, what: str, settings: Sequence[tuple[str, Any]]) -> None:
        """Refuse, on every rank, settings that are not the same on all of them. The message has the first difference.

        Raises:
            InputError: they differ.
        """
        entries = [(name, json.dumps(value, default=str)) for name, value in settings]
        texts = self.meet(what, hashlib.sha256(repr(entries).encode()).hexdigest())
        if len(set(texts)) == 1:
            return
        told = [json.loads(text) for text in self.meet(what, json.dumps(entries))]
        other = next(rank for rank in range(self.size) if told[rank] != told[0])
        for (name, first), (its, second) in zip(told[0], told[other], strict=False):
            if (name, first) != (its, second):
                named = name if name == its else f"{name} and {its}"
                raise InputError(
                    f"rank 0 and rank {other} differ in {named}: {first} and {second}; give all ranks the same"
                )
        raise InputError(
            f"rank 0 has {len(told[0])} parameters and settings, rank {other} {len(told[other])}; give all ranks the same"
        )

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Give all ranks the tensors of rank 0, in place."""
        self._each(tensors, lambda pg, one: pg.broadcast(one, 0))

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Put the sums over the ranks in the tensors, the same bits on all of them."""
        self._each(tensors, lambda pg, one: pg.allreduce([one]))

    def largest(self, tensors: Sequence[Tensor]) -> None:
        """Put the largest over the ranks in the tensors."""
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MAX
        self._each(tensors, lambda pg, one: pg.allreduce([one], options))

    def _each(self, tensors: Sequence[Tensor], do: Any) -> None:
        if self.group is None:
            return
        for tensor in tensors:
            there = tensor.detach().cpu().contiguous()
            try:
                do(self.group.pg, there).wait(timedelta(seconds=self._seconds))
            except RuntimeError as error:
                raise self._missing(first_line(error)) from error
            if there.data_ptr() != tensor.data_ptr():
                tensor.copy_(there)

    def _missing(self, why: str) -> Exception:
        """The error to raise if a collective call failed. gloo does not name the rank, so all remaining ranks report to the store."""
        assert self.group is not None
        self.group.close()  # so that ranks that still wait get here, too
        end, others = time.monotonic() + ROLL_CALL, list(range(self.size))
        self._store.set(f"left {self._meetings}/{self.rank}", "")
        while others and time.monotonic() < end:
            others = [rank for rank in others if not self._store.check([f"left {self._meetings}/{rank}"])]
            if self._store.check(["failed"]):
                break
            time.sleep(0.02)
        names = " or ".join(f"rank {rank}" for rank in others)
        return self.failure(f"{names or 'a connection'} was lost while all shared their numbers: {why}")


def _patience(group: Any) -> float:
    """The seconds after which a process group gives up."""
    try:
        limit: timedelta = group._get_backend(torch.device("cpu")).options._timeout
    except (AttributeError, RuntimeError):  # a group for GPUs alone
        return WAIT
    return limit.total_seconds()
