"""Saving and going on: the same bits as a run that nothing disturbed, and restarts on another number of ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from helpers import needs
from helpers.training import Small, on_ranks, steps
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from distopt.optim import GTAdam

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
