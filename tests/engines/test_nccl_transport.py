"""What a transport by NCCL promises, between two ranks of this process; a stand-in with NCCL's semantics plays it over gloo."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.stand_in import StandIn, Work
from torch import Tensor

from distopt.engines.transports import gloo, nccl
from distopt.engines.transports.gloo import dist
from distopt.engines.workers.exchange import Rows
from distopt.engines.workers.halo import FRONT
from distopt.errors import InputError, RunError


@pytest.fixture
def pair() -> Iterator[list[nccl.NcclTransport]]:
    """Two ranks of this process."""
    store = dist.HashStore()

    def meet(rank: int) -> nccl.NcclTransport:
        group = gloo.Group.connect(store, rank, 2, 1, "127.0.0.1")
        return nccl.NcclTransport(group, StandIn(group), torch.device("cpu"))

    with ThreadPoolExecutor(2) as pool:
        transports = list(pool.map(meet, range(2)))
    yield transports
    for transport in transports:
        transport.leave()


def buffer() -> Tensor:
    return torch.zeros(FRONT + 8, dtype=torch.uint8)


def test_a_message_of_another_round_or_name_is_refused_naming_both(pair: list[nccl.NcclTransport]) -> None:
    for wrong, said in (((5, "x"), "round 5, x"), ((4, "s"), "round 4, s")):
        arriving = [
            transport.expect(tag, {1 - k: buffer()})
            for k, (transport, tag) in enumerate(zip(pair, ((4, "x"), wrong), strict=True))
        ]
        for k, (transport, tag) in enumerate(zip(pair, ((4, "x"), wrong), strict=True)):
            transport.send(tag, {1 - k: buffer()})
        for each in arriving:
            each.wait()
        pair[0].group.store.delete_key("failed")
        with pytest.raises(
            RunError, match=rf"^rank 0 got a message \({said}\) from rank 1 where \(round 4, x\) was due$"
        ):
            pair[0].confirm()
        for transport in pair:
            transport.heads.clear()


def test_what_comes_is_what_was_sent_and_a_tag_without_messages_waits_for_nobody(
    pair: list[nccl.NcclTransport],
) -> None:
    carrier: Rows = pair[0]
    for k in range(7):
        into = [buffer(), buffer()]
        arriving = [transport.expect((k, "x"), {1 - me: into[me]}) for me, transport in enumerate(pair)]
        for me, transport in enumerate(pair):
            message = buffer()
            message[FRONT:] = 10 * k + me
            transport.send((k, "x"), {1 - me: message})
        for each in arriving:
            each.wait()
        assert [each[FRONT:].tolist() for each in into] == [[10 * k + 1] * 8, [10 * k] * 8]
        carrier.expect((k, "y"), {}).wait()
        carrier.send((k, "y"), {})
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(nccl.NcclTransport.confirm, pair))
    assert not any(transport.heads for transport in pair)


def test_nobody_reports_before_all_have_their_rows(pair: list[nccl.NcclTransport]) -> None:
    with pytest.raises(RunError, match="^rank 1 did not answer within 1 s in round 0$"):
        pair[0].confirm()


def test_a_host_runs_two_exchanges_ahead_and_no_more(
    pair: list[nccl.NcclTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Work, "patience", 0.0)
    for k in range(nccl.AHEAD):
        pair[0].expect((k, "x"), {1: buffer()})
        pair[0].send((k, "x"), {1: buffer()})
    pair[0].expect((nccl.AHEAD, "x"), {1: buffer()})
    began = time.monotonic()
    with pytest.raises(RunError, match=r"^rank 1 did not answer within 1 s in round 0$"):
        pair[0].send((nccl.AHEAD, "x"), {1: buffer()})
    assert time.monotonic() - began >= 1
    assert pair[0].pg is None


@pytest.mark.slow
def test_who_waits_too_is_not_to_blame(pair: list[nccl.NcclTransport]) -> None:
    waits: Any = SimpleNamespace(is_completed=lambda: False)
    exchange = nccl._Exchange(pair[0], (4, "x"), {}, [1, 2], waits)
    pair[0].group.store.set("waits for rows/1", "yes")
    with pytest.raises(RunError, match=r"^rank 2 did not answer within 1 s in round 4$"):
        pair[0]._end(exchange)
    pair[0].group.store.delete_key("failed")
    pair[0].group.store.set("waits for rows/2", "yes")
    with pytest.raises(RunError, match=r"^rank 1 or rank 2 did not answer within 1 s in round 4$"):
        pair[0]._end(exchange)


def test_what_another_rank_noted_is_told_at_once(
    pair: list[nccl.NcclTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    abort = pair[0].pg.abort

    def served() -> None:
        """A device drops what it waits for; the stand-in's thread cannot, so it is given what it waits for."""
        pair[1].expect((4, "x"), {0: buffer()})
        pair[1].send((4, "x"), {0: buffer()})
        abort()

    monkeypatch.setattr(pair[0].pg, "abort", served)
    pair[0].group.timeout = 60  # one that told only after the time-out would make this test last a minute
    pair[1].group.report_failure("input", "agent 15 was given nonsense")
    pair[0].expect((4, "x"), {1: buffer()})
    pair[0].send((4, "x"), {1: buffer()})
    with pytest.raises(InputError, match="^agent 15 was given nonsense$"):
        pair[0].confirm()


def test_a_failing_call_names_whom_it_was_between(
    pair: list[nccl.NcclTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        pair[0].pg.calls = None
        raise RuntimeError("NCCL error: remote process exited")

    monkeypatch.setattr(pair[0].pg, "_end_coalescing", fails)
    pair[0].expect((4, "x"), {1: buffer()})
    with pytest.raises(RunError, match="^rank 1 was lost in round 4$"):
        pair[0].send((4, "x"), {1: buffer()})
    pair[0].group.store.delete_key("failed")
    with pytest.raises(RunError, match="^rank 1 was lost in round 0$"):
        pair[0].handshake()
