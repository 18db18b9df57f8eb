"""Saving and going on: the same bits as a run that nothing disturbed, and restarts on another number of ranks."""

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from helpers import needs
from helpers.trained import Small, loss, on_ranks, row, steps
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from distopt.errors import InputError, RunError
from distopt.optim import DGD, Decentralized, GradientTracking, GTAdam
from distopt.optim.exchange import RowExchange

pytestmark = needs.forks


@pytest.mark.parametrize("how", ["state_dict", "by name", "flattened"])
def test_distributed_checkpoints_with_a_path_for_each_rank(how: str, tmp_path: Path) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=how == "flattened")

    def taken(model: Any, optimizer: Any) -> Any:
        return (
            optimizer.state_dict()
            if how == "state_dict"
            else get_optimizer_state_dict(model, optimizer, options=options)
        )

    def made() -> Any:
        model = Small().double()
        model.first.bias.requires_grad_(False)
        return model, GTAdam(model.named_parameters(), lr=0.01, channel="choco:compressor=sign,gamma=0.4")

    def work(rank: int) -> Any:
        model, optimizer = made()
        steps(model, optimizer, rank, range(3))
        optimizer.param_groups[0]["lr"] = 0.005
        dcp.save({"optimizer": taken(model, optimizer)}, checkpoint_id=tmp_path / f"{how}.{rank}", no_dist=True)
        wanted = steps(model, optimizer, rank, range(3, 6))
        model, optimizer = made()
        content = {"optimizer": taken(model, optimizer)}
        assert optimizer.round == 0, "no hidden round"
        dcp.load(content, checkpoint_id=tmp_path / f"{how}.{rank}", no_dist=True)
        if how == "state_dict":
            optimizer.load_state_dict(content["optimizer"])
        else:
            set_optimizer_state_dict(model, optimizer, optim_state_dict=content["optimizer"], options=options)
        assert (optimizer.round, optimizer.param_groups[0]["lr"]) == (3, 0.005)
        return torch.equal(torch.stack(wanted), torch.stack(steps(model, optimizer, rank, range(3, 6))))

    assert on_ranks(2, work, tmp_path) == [True, True]


def test_a_state_brings_its_numbers_but_not_another_method() -> None:
    """The step size of a run may have been another one, as with all of torch's optimisers."""
    model = Small()
    optimizer = GTAdam(model.parameters(), lr=0.01, b1=0.8)
    steps(model, optimizer, 0, range(2))
    content = optimizer.state_dict()
    other = GTAdam(Small().parameters(), lr=0.02)
    other.load_state_dict(content)
    assert [other.param_groups[0][name] for name in ("lr", "b1")] == [0.01, 0.8]
    by_spec = Decentralized(Small().parameters(), "gtadam:lr=0.3")
    by_spec.load_state_dict(content)
    for wrong in (
        GradientTracking(Small().parameters(), lr=0.01),
        GTAdam(Small().parameters(), form="atc"),
        DGD(Small().parameters()),
        GTAdam(Small().parameters(), channel="choco:compressor=sign,gamma=0.4"),
        Decentralized(Small().parameters(), "gt:direction=momentum"),
    ):
        with pytest.raises(InputError, match="the state was saved with (algorithm|channel) "):
            wrong.load_state_dict(content)


@pytest.mark.parametrize("spec", ["gtadam:lr=0.01", "dadam:lr=0.01"])
def test_a_gradient_that_overflows_right_after_a_restart(spec: str, tmp_path: Path) -> None:
    """The gradient before it serves again, which must have been saved."""

    def work(rank: int) -> Any:
        def made() -> Any:
            model = Small()
            return model, Decentralized(model.parameters(), spec), torch.amp.GradScaler("cpu", init_scale=2.0**4)

        def go(model: Any, optimizer: Any, scaler: Any, rounds: range, overflows: bool) -> Any:
            for t in rounds:
                optimizer.zero_grad()
                scale = float("inf") if overflows and rank == 1 and t == rounds[0] else 1.0
                scaler.scale(loss(model, rank, t) * scale).backward()
                scaler.step(optimizer)
                scaler.update()
            return row(model)

        model, optimizer, scaler = made()
        go(model, optimizer, scaler, range(3), False)
        kept = copy.deepcopy([model.state_dict(), optimizer.state_dict(), scaler.state_dict()])
        tracks = spec.startswith("gtadam")
        before = optimizer.tracker_violation() if tracks else 0.0
        wanted = go(model, optimizer, scaler, range(3, 6), True)
        model, optimizer, scaler = made()
        for each, content in zip((model, optimizer, scaler), kept, strict=True):
            each.load_state_dict(content)
        assert not tracks or optimizer.tracker_violation() == before < 1e-6
        return torch.equal(wanted, go(model, optimizer, scaler, range(3, 6), True))

    assert on_ranks(2, work, tmp_path) == [True, True]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_that_are_clipped_after_each_step_go_on_clipped(dtype: torch.dtype, tmp_path: Path) -> None:
    """What a script has written to the parameters is saved, too; the message that left before is that of the point."""

    def work(rank: int) -> Any:
        def made() -> Any:
            model = Small().to(dtype)
            return model, GTAdam(model.named_parameters(), lr=0.01)

        def go(model: Any, optimizer: Any, rounds: range) -> Any:
            for t in rounds:
                steps(model, optimizer, rank, range(t, t + 1))
                for each in model.parameters():
                    each.data.clamp_(-0.05, 0.05)
            return row(model)

        model, optimizer = made()
        go(model, optimizer, range(3))
        kept = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
        wanted = go(model, optimizer, range(3, 6))
        model, optimizer = made()
        for each, content in zip((model, optimizer), kept, strict=True):
            each.load_state_dict(content)
        return torch.equal(wanted, go(model, optimizer, range(3, 6)))

    assert on_ranks(2, work, tmp_path) == [True, True]


LATER: list[tuple[str, dict[str, Any]]] = [
    ("gtadam:lr=0.01", {"channel": "choco:compressor=sign,gamma=0.4"}),
    ("gtadam:lr=0.01", {"topology": "one_peer_exponential", "bucket_mb": 2e-4}),
    ("gt:lr=0.01", {"channel": "choco:compressor=qsgd,gamma=0.2", "overlap": False}),
    ("exact_diffusion:lr=0.02", {"weight_decay": 0.1}),
    ("ef_signsgd:lr=0.02", {"topology": "complete"}),
    ("dadam:lr=0.01", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("powergossip:lr=0.01", {}),
]


@pytest.mark.slow
def test_training_goes_on_with_the_same_bits_from_files_of_each_rank(tmp_path: Path) -> None:
    """Also from an earlier state in the same process, and with all keys in the same order at all times."""

    def work(rank: int) -> Any:
        for k, (spec, settings) in enumerate(LATER):
            file = tmp_path / f"{k}.{rank}.pt"
            model = Small()
            optimizer = Decentralized(model.named_parameters(), spec, **settings)
            keys = [list(each) for each in optimizer.state_dict()["state"].values()]
            steps(model, optimizer, rank, range(3))
            torch.save(optimizer.state_dict(), file)
            wanted = torch.stack(steps(model, optimizer, rank, range(3, 8)))
            content = torch.load(file, weights_only=True)
            assert [list(each) for each in content["state"].values()] == keys
            assert all(each["step"] == 3 for each in content["state"].values())
            assert len(set(map(str, wanted))) == 6
            optimizer.load_state_dict(content)
            assert torch.equal(torch.stack(steps(model, optimizer, rank, range(3, 8))), wanted), (spec, settings)
            model = Small()
            optimizer = Decentralized(model.named_parameters(), spec, **settings)
            optimizer.load_state_dict(content)
            assert torch.equal(torch.stack(steps(model, optimizer, rank, range(3, 8))), wanted), (spec, settings)
            assert optimizer.round == 8
        other = torch.load(tmp_path / f"0.{1 - rank}.pt", weights_only=True)
        optimizer = Decentralized(Small().named_parameters(), LATER[0][0], **LATER[0][1])
        with pytest.raises(InputError, match=f"belongs to rank {1 - rank}, but this is rank {rank}"):
            optimizer.load_state_dict(other)
        assert optimizer.round == 0

    on_ranks(2, work, tmp_path)


def test_ranks_that_load_different_rounds_are_refused(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        model = Small()
        optimizer = GTAdam(model.named_parameters())
        states = []
        for t in range(2):
            states.append(copy.deepcopy(optimizer.state_dict()))
            steps(model, optimizer, rank, range(t, t + 1))
        optimizer.load_state_dict(states[rank])
        with pytest.raises(InputError, match="rank 0 is in round 0 and rank 1 in round 1"):
            optimizer.step()

    on_ranks(2, work, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_number_of_ranks_goes_on(dtype: torch.dtype, tmp_path: Path) -> None:
    """4 ranks, then 2, then 4: points stay, those who come begin at the mean of the others, and trackers track again."""

    def made() -> Any:
        model = Small().to(dtype)
        return model, GTAdam(model.named_parameters(), lr=0.01, channel="choco:compressor=sign,gamma=0.4")

    def saved(rank: int, name: str, model: Any, optimizer: Any, first: int) -> Any:
        begun = row(model)
        steps(model, optimizer, rank, range(first, first + 3))
        violation = optimizer.tracker_violation()
        torch.save(optimizer.state_dict(), tmp_path / f"{name}.{rank}.pt")
        return begun, row(model), violation, optimizer.round, optimizer.consensus_error()

    def again(name: str, before: str, first: int) -> Any:
        def work(rank: int) -> Any:
            model, optimizer = made()
            there = tmp_path / f"{before}.{rank}.pt"
            optimizer.load_state_dict(
                torch.load(there if there.exists() else tmp_path / f"{before}.1.pt", weights_only=True)
            )
            with optimizer.averaged(model):  # they meet here, not at a step
                pass
            return saved(rank, name, model, optimizer, first)

        return work

    four = on_ranks(4, lambda rank: saved(rank, "four", *made(), 0), tmp_path)
    two = on_ranks(2, again("two", "four", 3), tmp_path)
    more = on_ranks(4, again("more", "two", 6), tmp_path)
    small = 1e-14 if dtype == torch.float64 else 1e-5
    for found, rounds in ((four, 3), (two, 6), (more, 9)):
        assert all(violation < small and at == rounds and error > 0 for _, _, violation, at, error in found)
    for rank in range(2):
        assert torch.equal(two[rank][0], four[rank][1])
        assert torch.equal(more[rank][0], two[rank][1])
    mean = (two[0][1].double() + two[1][1].double()) / 2
    for rank in (2, 3):
        assert torch.allclose(more[rank][0].double(), mean, rtol=0, atol=1e-15 if dtype == torch.float64 else 0.02)


def mortal(does: Any, calls: int) -> Any:
    """What kills its process after so many calls."""
    left = iter(range(calls))

    def do(*inputs: Any) -> Any:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return does(*inputs)

    return do


@pytest.mark.slow
@pytest.mark.parametrize("round", needs.slow_but(4, range(1, 7)))
def test_a_killed_run_goes_on_with_the_bits_of_an_undisturbed_one(round: int, tmp_path: Path) -> None:
    """Each rank saves after every second step; one is killed within a step, and those that are left may save, too."""
    settings: dict[str, Any] = {"channel": "choco:compressor=sign,gamma=0.4", "bucket_mb": 2e-4}

    def made() -> Any:
        model = Small()
        return model, GTAdam(model.named_parameters(), lr=0.01, **settings)

    def go(rank: int, model: Any, optimizer: Any, dies: int, last: int) -> None:
        for t in range(optimizer.round, last):
            if rank == 1 and t == dies:
                RowExchange.take = mortal(RowExchange.take, dies % 3)
            steps(model, optimizer, rank, range(t, t + 1))
            if t % 2:
                torch.save(optimizer.state_dict(), tmp_path / f"{t + 1}.{rank}.pt")

    def first(rank: int) -> Any:
        model, optimizer = made()
        try:
            go(rank, model, optimizer, round, 8)
        except RunError:
            try:
                found = {each["step"].item() for each in optimizer.state_dict()["state"].values()}
                return found == {optimizer.round}
            except RunError as error:
                return "a step failed halfway" in str(error)

    def second(rank: int) -> Any:
        model, optimizer = made()
        whole = [t for t in (2, 4, 6) if all((tmp_path / f"{t}.{each}.pt").exists() for each in range(3))]
        if whole:
            optimizer.load_state_dict(torch.load(tmp_path / f"{whole[-1]}.{rank}.pt", weights_only=True))
        go(rank, model, optimizer, -1, 8)
        return row(model)

    def undisturbed(rank: int) -> Any:
        model, optimizer = made()
        steps(model, optimizer, rank, range(8))
        return row(model)

    assert on_ranks(3, first, tmp_path) == [True, None, True]
    found, wanted = on_ranks(3, second, tmp_path), on_ranks(3, undisturbed, tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
