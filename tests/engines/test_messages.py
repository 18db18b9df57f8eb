"""What travels between the workers of a run, in which message and when."""

from typing import Any

import pytest
import torch
from helpers.battery import PARTITIONS, Problems, differences
from helpers.blocks import NETWORKS, made, on
from torch import Tensor

from distopt.catalog import registry
from distopt.engines.workers import exchange
from distopt.engines.workers.halo import FRONT, halo, pack, size, unpack
from distopt.engines.workers.partition import Partition
from distopt.errors import InputError
from distopt.network.network import mixing_of
from distopt.network.rows import Table, apply
from distopt.network.topology import build_topology
from distopt.numerics.random import Key
from distopt.numerics.trees import at
from distopt.optional import AlgorithmDefaults, completed
from distopt.protocols import Wire
from distopt.simulation.plan import Plan


def travelling(
    problem: Problems, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[int, int, exchange.Tag, int]]:
    """(sender, receiver, tag, bytes) of every message of the rounds."""
    out: list[tuple[int, int, exchange.Tag, int]] = []
    from distopt.engines.threads import Mailbox

    put = Mailbox.put

    def noted(self: Mailbox, address: tuple[int, int, exchange.Tag], message: Tensor) -> None:
        out.append((address[1], address[0], address[2], message.numel()))
        put(self, address, message)

    monkeypatch.setattr(Mailbox, "put", noted)
    on(problem, partition)
    return [each for each in out if each[2][1] not in ("sums", "mean", "values", "held")]


def test_only_boundary_rows_travel_all_channels_of_a_round_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = travelling(made("ring", rounds=3), PARTITIONS["2"], monkeypatch)
    assert sorted(sent) == sorted(
        (a, 1 - a, (t, "s+x"), FRONT + 2 * 2 * 3 * 8) for a in (0, 1) for t in range(3)
    )  # 2 rows of x and s each, dim 3


def test_what_a_round_computes_is_sent_when_it_is_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = travelling(made("ring", algorithm="gt:form=atc", rounds=1), PARTITIONS["2"], monkeypatch)
    assert sorted(sent) == sorted((a, 1 - a, (0, name), FRONT + 2 * 3 * 8) for a in (0, 1) for name in ("s", "x"))


def test_a_link_that_fails_carries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made("ring dropping", algorithm="dgd", rounds=12)
    sent = travelling(problem, PARTITIONS["2"], monkeypatch)
    W = problem.problem.network.mixings[0].dense(torch.arange(12).reshape(-1, 1, 1, 1))[:, 0]
    expected = sorted(
        (a, 1 - a, (t, "x"), FRONT + 8 * 3 * len(rows))
        for t in range(12)
        for a, (mine, theirs) in enumerate(((range(8), range(8, 16)), (range(8, 16), range(8))))
        if (rows := {j for j in mine for i in theirs if W[t, i, j]})
    )
    assert sorted(sent) == expected
    assert len({bytes_ for *_, bytes_ in sent}) > 1, "every round sent the same: nothing was dropped"


# Stencils, messages, early sending


@pytest.mark.parametrize("network", [*NETWORKS, "resampled_erdos_renyi", "one_peer_exponential", "barabasi_albert"])
def test_a_stencil_weighs_its_rows_as_the_whole_table_does(network: str) -> None:
    problem = made(network, trials=2).problem
    t = torch.arange(7).reshape(-1, 1, 1, 1)
    tables, agents = problem.network.rows(t), problem.agents
    z = torch.randn(2, agents, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for partition in (Partition.even(agents, 4), Partition((tuple(range(0, agents, 2)), tuple(range(1, agents, 2))))):
        parts = [halo(tables, partition, me) for me in range(len(partition.blocks))]
        for k in range(7):
            whole = apply(Table(*(at(leaf, k) for leaf in tables[0])), z)
            for me, part in enumerate(parts):
                ids = list(partition.blocks[me])
                arrived = [
                    z[:, list(partition.blocks[b])][:, of(parts[b].send, k)[me]] for b in sorted(of(part.receive, k))
                ]
                assert [rows.shape[1] for rows in arrived] == [
                    count for _, count in sorted(of(part.receive, k).items())
                ]
                heard, order = torch.cat([z[:, ids], *arrived], 1), of(part.order, k)
                heard = heard if order is None else heard[:, order]
                assert heard.shape[1] == part.width
                assert torch.equal(heard[:, at(part.own, k)], z[:, ids])
                mixed = apply(Table(*(at(leaf, k) for leaf in part.tables[0])), heard)
                assert torch.equal(mixed, whole[:, ids]), (partition, k, me)


def of(entries: tuple[Any, ...], k: int) -> Any:
    return entries[k if len(entries) > 1 else 0]


def test_heard_rows_stand_as_they_arrive_and_in_ascending_order_where_all_are_summed() -> None:
    scattered = Partition(((0, 4, 5), (1, 2, 3, 6, 7)))
    part = halo((whole_table("ring"),), scattered, 0)
    assert (part.width, part.order) == (7, (None,))  # 0 4 5, then 1 3 6 7 from block 1
    assert part.own.tolist() == [[0, 1, 2]]
    assert part.receive == ({1: 4},)
    assert {b: rows.tolist() for b, rows in part.send[0].items()} == {1: [0, 1, 2]}
    part = halo((whole_table("complete"),), scattered, 0)
    (order,) = part.order
    assert order is not None
    assert torch.tensor([0, 4, 5, 1, 2, 3, 6, 7])[order].tolist() == list(range(8))
    assert part.own.tolist() == [[0, 4, 5]]


def whole_table(topology: str) -> Table:
    """The table of 8 agents that no round changes."""
    return mixing_of(build_topology(topology, 8, 0), "metropolis", Key(0, range(8), range(1), 8)).rows(
        torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    )


def test_partitions_are_checked() -> None:
    assert [len(block) for block in Partition.even(16, 13).blocks] == [2, 2, 2] + [1] * 10
    with pytest.raises(InputError, match="at least one agent"):
        Partition.even(3, 4)
    for blocks in (((0, 1), ()), ((0, 2),), ((1, 0),), ((0, 1), (1, 2))):
        with pytest.raises(InputError, match="every agent"):
            Partition(blocks)


def test_a_message_keeps_every_bit() -> None:
    rows = [
        torch.randn(2, 3, 5),
        torch.tensor([[[True], [False]]]),
        torch.tensor([float("nan"), -0.0]),
        torch.empty(1, 0, 4),
    ]
    forms = [(tuple(row.shape), row.dtype) for row in rows]
    message = pack(rows)
    assert message.numel() == size(forms)
    for before, after in zip(rows, unpack(message, forms), strict=True):
        assert before.dtype == after.dtype and before.shape == after.shape
        assert before.contiguous().view(torch.uint8).tolist() == after.contiguous().view(torch.uint8).tolist()


class InPlace:
    """Steps before it mixes, in place: what it mixes is x, but not the x that the round began with."""

    channels = ("x",)

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Any) -> tuple[Tensor, tuple[()]]:
        x.sub_(0.01 * g)
        return mix("x", x), ()


def test_only_what_is_known_at_the_beginning_is_sent_early() -> None:
    x = torch.zeros(1, 2, 3)
    specs = ("gt", "gt:form=atc", "aug_dgm", "dgd", "nids", "extra")
    early = {spec: set(Plan.of(registry.make("algorithms", spec), {}, x).early) for spec in specs}
    assert early == {
        "gt": {"x", "s"},
        "gt:form=atc": {"s"},
        "aug_dgm": set(),
        "dgd": {"x"},
        "nids": set(),
        "extra": {"x"},
    }
    assert Plan.of(completed(AlgorithmDefaults, InPlace()), {}, x).early == {}
    problem = made(algorithm=InPlace())
    assert differences(on(problem), on(problem, PARTITIONS["3"])) == []


class Growing:
    """A channel whose payload grows from round to round."""

    def init(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like[..., :1])

    def encode(self, z: Tensor, memory: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        return z, memory.repeat(1, 1, 1 + int(memory.max()))

    def __call__(
        self, z: Tensor, payload: Any, memory: Tensor, wire: Wire, u: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return wire.weigh(wire.heard(payload)[0]), memory + 1

    def bits(self, d: int, itemsize: int) -> int:
        return 0


def test_a_payload_that_changes_its_form_is_refused() -> None:
    with pytest.raises(InputError, match=r"the payload of x has the form .* in round 1, but had .* before"):
        on(made(algorithm="dgd:lr=0.1", channel=Growing()), PARTITIONS["3"])
