"""Ranks that differ, fail, die or never come: an error on all of them that says why, and no rank waits for ever."""

import multiprocessing
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import needs
from helpers.trained import Small, loss, on_ranks, row, steps
from torch import nn

from distopt.errors import InputError, RunError
from distopt.optim import DGD, Decentralized, GradientTracking, GTAdam
from distopt.optim.bucket import Bucket
from distopt.optim.exchange import RowExchange
from distopt.optim.ranks import Ranks

pytestmark = needs.forks


def both(optimizer: Any, *, rank: int, **settings: list[Any]) -> Any:
    """An optimiser with settings that differ by rank."""
    model = Small()
    return optimizer(model.named_parameters(), **{name: values[rank] for name, values in settings.items()})


def with_model(make: Any) -> Any:
    return lambda rank: GTAdam(make(rank).named_parameters())


def twice(rank: int) -> Any:
    """Two models whose parameters have the same names."""
    models = [Small(), Small()]
    if rank:
        models[0].first = nn.Linear(5, 9)
    return GTAdam([each for model in models for each in model.named_parameters()])


def frozen(rank: int) -> nn.Module:
    model = Small()
    model.second.bias.requires_grad_(rank == 0)
    return model


def of_groups(rank: int) -> Any:
    model = Small()
    return GTAdam([{"params": [model.gain], "lr": 0.1 + rank}, {"params": list(model.first.parameters())}])


DIFFER: dict[str, Any] = {
    "algorithm": lambda rank: Decentralized(Small().parameters(), ["gtadam:lr=0.1", "gt:lr=0.1"][rank]),
    r"algorithm\b": lambda rank: [GradientTracking, DGD][rank](Small().parameters(), lr=0.1),
    "lr": lambda rank: both(GTAdam, rank=rank, lr=[0.1, 0.2]),
    "b1": lambda rank: both(GTAdam, rank=rank, b1=[0.9, 0.8]),
    "lr: 0.1 and 1.1": of_groups,
    "topology": lambda rank: both(GTAdam, rank=rank, topology=["ring", "hypercube:dim=3"]),
    "channel": lambda rank: both(GTAdam, rank=rank, channel=["exact", "choco:compressor=sign,gamma=0.4"]),
    "weights": lambda rank: both(GTAdam, rank=rank, weights=["metropolis", "lazy"]),
    "seed": lambda rank: both(GTAdam, rank=rank, seed=[0, 1]),
    "bucket_mb": lambda rank: both(GTAdam, rank=rank, bucket_mb=[25, 1]),
    "weight_decay": lambda rank: both(GTAdam, rank=rank, weight_decay=[0, 0.1]),
    "decoupled_weight_decay": lambda rank: both(GTAdam, rank=rank, decoupled_weight_decay=[True, False]),
    "gain": with_model(lambda rank: Small().to([torch.float32, torch.float64][rank])),
    "weight": with_model(lambda rank: nn.Linear(2, 2, dtype=[torch.float32, torch.complex64][rank])),
    "second.bias": with_model(frozen),
    "weight and 0.weight": with_model(lambda rank: [nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))][rank]),
    r"first.weight: .*7, 5.*9, 5": twice,
}


def test_ranks_that_differ_are_refused_on_all_with_the_first_difference(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        found = []
        for make in DIFFER.values():
            try:
                make(rank)
                found.append("nothing")
            except InputError as error:
                found.append(str(error))
        return found

    first, second = on_ranks(2, work, tmp_path, timeout=10)
    for difference, one, other in zip(DIFFER, first, second, strict=True):
        assert one == other
        assert re.search(f"rank 0 and rank 1 differ in {difference}", one), (difference, one)


def trained(rank: int, **settings: Any) -> Any:
    model = Small()
    model.register_buffer("other", torch.ones(3 + rank % 2))
    optimizer = GTAdam(model.named_parameters(), **settings)
    steps(model, optimizer, rank, range(2))
    return model, optimizer


def lone(rank: int) -> Any:
    """Only rank 0 evaluates, before the first step."""
    model = Small()
    optimizer = GTAdam(model.named_parameters())
    if rank == 0:
        optimizer.consensus_error()
    else:
        steps(model, optimizer, rank, range(1))


def other_calls(rank: int) -> Any:
    _, optimizer = trained(rank)
    return optimizer.tracker_violation() if rank else optimizer.consensus_error()


def other_groups(rank: int) -> Any:
    model = Small()
    groups = [list(model.first.parameters()), list(model.second.parameters())][: 1 + rank]
    steps(model, GTAdam([{"params": each} for each in groups]), rank, range(1))


def other_buffers(rank: int) -> Any:
    model, optimizer = trained(rank)
    before = row(model)
    try:
        with optimizer.averaged(model):
            pass
    finally:
        assert torch.equal(row(model), before)


@pytest.mark.parametrize(
    ("work", "wanted"),
    [
        (lone, "rank 0 is at 'averaging' and rank 1 at 'comparing gradients'"),
        (other_calls, "rank 0 is at 'averaging' and rank 1 at \"the trackers' sum\""),
        (other_groups, "rank 0 is at 'the first step' and rank 1 at 'sharing the parameters'"),
        (other_buffers, "rank 0 and rank 1 differ in other"),
    ],
    ids=["lone evaluation", "other calls", "other groups", "other buffers"],
)
def test_ranks_that_call_other_methods_are_told_so(work: Any, wanted: str, tmp_path: Path) -> None:
    assert [wanted in found for found in on_ranks(2, work, tmp_path, timeout=10, fine=False)] == [True, True]


def fails(how: str, model: nn.Module, optimizer: Any) -> None:
    """What goes wrong on one rank alone, which lives on."""
    if how == "step size":
        optimizer.param_groups[0]["lr"] = -1.0
    if how == "sparse":
        model.second.weight.grad = model.second.weight.grad.to_sparse()
    if how == "frozen":
        model.second.bias.requires_grad_(True)
    if how == "in the algorithm":
        optimizer._buckets[1].agents.exchange.post = lambda *_: 1 / 0


ALONE = {
    "step size": "InputError: gt: lr must be positive, got -1.0",
    "sparse": "InputError: the gradient of second.weight is sparse",
    "frozen": "InputError: second.bias was frozen",
    "in the algorithm": "RunError: rank 2 failed in round 2: ZeroDivisionError",
}


@pytest.mark.parametrize("how", ALONE)
def test_an_error_of_one_rank_is_one_of_all(how: str, tmp_path: Path) -> None:
    """Those that wait for its messages see at once that none will come, although its process lives."""

    def work(rank: int) -> Any:
        model = Small()
        model.second.bias.requires_grad_(False)
        optimizer = GTAdam(model.named_parameters(), bucket_mb=2e-4)
        for t in range(6):  # the others may hear of it as early as where they await what leaves for the next step
            optimizer.zero_grad()
            loss(model, rank, t).backward()
            if rank == 2 and t == 2:
                fails(how, model, optimizer)
            try:
                optimizer.step()
            except (InputError, RunError) as found:
                error = found
                break
        text: str = f"{type(error).__name__}: {error}"
        for again in (optimizer.step, optimizer.consensus_error, optimizer.average_):
            with pytest.raises(type(error), match=re.escape(str(error))):
                again()
        try:
            state = {each["step"].item() for each in optimizer.state_dict()["state"].values()}
            assert state == {optimizer.round}
        except RunError as torn:
            assert "a step failed halfway" in str(torn)
        done.wait(20)  # far sooner than the timeout
        return text

    done = multiprocessing.get_context("fork").Barrier(4)
    found = on_ranks(4, work, tmp_path, timeout=60)
    assert [each.startswith(ALONE[how]) for each in found] == [True] * 4, found
    assert len(set(found)) == 1


COMES = {
    "making": "rank 2 did not come to making the optimiser within 2 s",
    "first step": "rank 2 did not come to the first step within 2 s",
    "step": "rank 2 did not answer within 2 s in round 2",
    "averaging": "rank 2 did not come to averaging within 2 s",
}


@pytest.mark.parametrize("where", needs.slow_but("step", COMES))
def test_a_rank_that_never_comes_is_named(where: str, tmp_path: Path) -> None:
    """All others tell of it, also those that only wait for its neighbours."""

    def train(rank: int) -> None:
        model = Small()
        if rank == 2 and where == "making":
            return
        optimizer = GTAdam(model.named_parameters(), timeout=2)
        kept.append(optimizer)
        for t in range(4):
            if rank == 2 and t == {"first step": 0, "step": 1, "averaging": 3}.get(where):
                return
            if t == 3:
                optimizer.consensus_error()
            steps(model, optimizer, rank, range(t, t + 1))

    def work(rank: int) -> Any:
        text = "came to an end"
        try:
            train(rank)
        except RunError as error:
            text = str(error)
        done.wait(30)
        return text

    kept: list[Any] = []
    done = multiprocessing.get_context("fork").Barrier(4)
    found = on_ranks(4, work, tmp_path)
    assert found == [COMES[where], COMES[where], "came to an end", COMES[where]]


def dies(stage: str) -> None:
    """SIGKILL where a rank is about to do something."""

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    place, name = STAGES[stage]
    setattr(place, name, die)


STAGES: dict[str, tuple[Any, str]] = {
    "backward": (torch.Tensor, "backward"),
    "reading gradients": (Bucket, "read"),
    "sending": (RowExchange, "post"),
    "hearing": (RowExchange, "take"),
    "writing parameters": (Bucket, "write"),
    "meeting for the mean": (Ranks, "meet"),
    "summing": (Ranks, "sum"),
    "evaluating": (Small, "forward"),
}


@pytest.mark.parametrize("stage", needs.slow_but("summing", STAGES))
def test_a_rank_that_is_killed_is_named_by_all(stage: str, tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        model = Small()
        optimizer = GTAdam(model.named_parameters(), bucket_mb=2e-4, timeout=3)
        try:
            for t in range(7):
                steps(model, optimizer, rank, range(t, t + 1))
                if rank == 1 and t == 2:
                    dies(stage)
                with optimizer.averaged(model):
                    model(torch.ones(1, 5))
        except RunError as error:
            return str(error)

    found = on_ranks(4, work, tmp_path, fine=False)
    assert found[1] is None
    for rank in (0, 2, 3):
        assert found[rank] == found[0]
        assert found[rank].startswith("rank 1 "), found


def test_the_last_step_needs_nobody_who_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank ends as soon as its last step is over, and does not wait for a slow one. What that sends for a next round is not missed."""
    monkeypatch.setattr("distopt.optim.meeting.PATIENCE", 0.1)

    def work(rank: int) -> Any:
        model = Small()
        optimizer = GTAdam(model.named_parameters(), bucket_mb=2e-4)
        steps(model, optimizer, rank, range(2 + (rank == 0)))
        if rank == 0:
            optimizer._finalizer()
        ended.wait(30)
        if rank == 1:
            steps(model, optimizer, rank, range(2, 3))
            kept = optimizer.state_dict()
            with pytest.raises(RunError, match="rank [01] (was lost|did not answer)"):
                steps(model, optimizer, rank, range(3, 4))
            assert optimizer.round == 3 == kept["state"][0]["step"]
        return row(model)

    ended = multiprocessing.get_context("fork").Barrier(2)
    assert not torch.equal(*on_ranks(2, work, tmp_path))


def test_a_setting_that_one_rank_alone_cannot_take_is_refused_on_all(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        with pytest.raises(InputError, match="no 'gtadan' among the algorithms") as found:
            Decentralized(Small().parameters(), "gtadan" if rank == 1 else "gtadam")
        done.wait(20)  # far sooner than the timeout
        return str(found.value)

    done = multiprocessing.get_context("fork").Barrier(3)
    assert len(set(on_ranks(3, work, tmp_path, timeout=60))) == 1


def test_hooks_for_loading_are_called() -> None:
    """They are for those who rename what was saved."""
    model, seen = Small(), list[int]()
    optimizer = GTAdam(model.named_parameters())
    saved = optimizer.state_dict()
    wrapped = {"wrapped": saved}
    optimizer.register_load_state_dict_pre_hook(lambda _, content: content["wrapped"])
    optimizer.register_load_state_dict_post_hook(lambda one: seen.append(one.round))
    optimizer.load_state_dict(wrapped)
    assert seen == [0]
