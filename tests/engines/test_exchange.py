"""When a worker's messages are sent, expected and waited for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import Tensor

from distopt.engines.workers.exchange import Tag
from distopt.engines.workers.partition import Partition
from distopt.engines.workers.worker import Worker
from distopt.experiment import Experiment
from distopt.simulation.problem import build

ROUNDS = 5
Events = list[tuple[str, int, str]]


@dataclass
class Noted:
    """Messages that are here at once, full of zeros."""

    events: Events
    tag: Tag

    def wait(self) -> None:
        self.events.append(("wait", *self.tag))


class Recorder:
    """A transport that notes what it is asked, and carries nothing."""

    def __init__(self) -> None:
        self.events: Events = []

    def expect(self, tag: Tag, into: dict[int, Tensor]) -> Noted:
        for message in into.values():
            message.zero_()
        self.events.append(("expect", *tag))
        return Noted(self.events, tag)

    def send(self, tag: Tag, outgoing: dict[int, Tensor]) -> None:
        self.events.append(("send", *tag))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("algorithm", ["dgd:lr=0.1", "gt:lr=0.1", "gt:lr=0.1,form=atc"])
def test_the_next_message_is_expected_just_before_waiting(algorithm: str, compiled: bool) -> None:
    """Expected later, it may come unexpected; expected sooner, the sender is woken while it computes."""
    problem = build(Experiment("ring", 4, "quadratic:dim=3", algorithm, rounds=ROUNDS))
    transport = Recorder()
    worker = Worker(problem, Partition.even(4, 2), 0, transport, ROUNDS, compiled)
    worker.load(0, ROUNDS)
    worker.place(None)
    worker.walk(range(ROUNDS), ())
    events = transport.events
    stages = {name for _, _, name in events}
    assert len(events) == len(set(events)) == 3 * ROUNDS * len(stages), (
        "each message is sent, expected and waited for once"
    )
    for stage in stages:
        for t in range(ROUNDS):
            assert events.index(("send", t, stage)) < events.index(("wait", t, stage))
            if t + 1 < ROUNDS:
                assert events.index(("expect", t + 1, stage)) == events.index(("wait", t, stage)) - 1


@pytest.mark.parametrize("compiled", [False, True])
def test_where_links_drop_each_message_is_still_expected_once(compiled: bool) -> None:
    """In some rounds this worker hears nobody."""
    problem = build(Experiment("ring", 4, "quadratic:dim=3", "gt:lr=0.1", rounds=ROUNDS, drop_links=0.7))
    transport = Recorder()
    worker = Worker(problem, Partition.even(4, 2), 0, transport, ROUNDS, compiled)
    worker.load(0, ROUNDS)
    worker.place(None)
    worker.walk(range(ROUNDS), ())
    assert any(not each for each in worker.agents.halo.receive), "it hears somebody in all rounds"
    for kind in ("expect", "send"):
        events = [event for event in transport.events if event[0] == kind]
        assert len(events) == len(set(events)) == ROUNDS * len({name for _, _, name in events})
