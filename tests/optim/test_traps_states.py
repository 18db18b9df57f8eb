"""Saving and going on: the same bits as a run that nothing disturbed, and restarts on another number of ranks."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from helpers import needs
from helpers.training import Small, loss, on_ranks, row, steps
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from distopt.errors import InputError
from distopt.optim import DGD, Decentralized, GradientTracking, GTAdam

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
