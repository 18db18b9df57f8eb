"""Ranks that torchrun started, on one machine or several: rank 0 runs experiments, and the others work for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from distopt.engines.ranks.orders import Order, Orders, launched, serve
from distopt.engines.transports.gloo import TIMEOUT, GlooTransport, Group, dist
from distopt.errors import InputError, RunError, first_line
from distopt.runs.signals import ASKING

_led: Orders | None = None  # set while this process leads ranks of torchrun


def led() -> Orders | None:
    """The orders to the ranks that this process leads, within ``torchrun_group``; else None."""
    return _led


@contextmanager
def torchrun_group(timeout: int = TIMEOUT) -> Iterator[bool]:
    """Join the ranks that torchrun started. On rank 0 it yields True at once, and the engine "ranks" uses them all; on the others False, at the end.

    ::

        with ranks.torchrun_group() as leads:
            if leads:
                run = distopt.simulate("ring", agents=16, scenario="flights", algorithm="gtadam", engine="ranks")

    Raises:
        RunError: some rank did not come in time; on a serving rank, that rank 0 did not come to its end.
    """
    global _led  # noqa: PLW0603  # a process is one rank of one group
    rank, ranks = int(os.environ["RANK"]), launched()
    hosts = not rank and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    limit = timedelta(seconds=timeout)
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), ranks, hosts, limit, wait_for_workers=False
        )
    except RuntimeError as error:
        raise RunError(f"rank {rank}: torchrun's store does not answer: {first_line(error)}") from error
    # After a restart the store still holds the entries of the earlier ranks.
    fresh = dist.PrefixStore(f"distopt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    here = "127.0.0.1" if os.environ.get("LOCAL_WORLD_SIZE") == str(ranks) else None
    orders = Orders(GlooTransport(Group.connect(fresh, rank, ranks, timeout, here)))
    if rank:
        for number in ASKING:  # rank 0 acts upon them, and needs the others for its checkpoint
            signal.signal(number, signal.SIG_IGN)
        if not serve(orders):
            orders.transport.leave()
            time.sleep(1)  # torchrun ends all ranks when one has ended: give rank 0 time to print the reason
            raise SystemExit(1)
        yield False
        return
    _led = orders
    try:
        yield True
    finally:
        _led = None
        orders.leave()
        try:
            orders.give(Order("stop", {}))
            orders.transport.settle()
        except (InputError, RunError):
            pass  # a rank that cannot be stopped has been reported already
