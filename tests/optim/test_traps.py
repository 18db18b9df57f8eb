"""What goes wrong in training scripts: scalers, schedulers, groups, writes between steps, evaluation at the mean."""

from pathlib import Path
from typing import Any

import torch
from helpers import needs
from helpers.training import Small, loss, on_ranks, row, steps
from torch import nn

from distopt.optim import GTAdam

pytestmark = needs.forks


def one(model: nn.Module, optimizer: Any, rank: int = 0, t: int = 0) -> None:
    """One step of a rank."""
    optimizer.zero_grad()
    loss(model, rank, t).backward()
    optimizer.step()


def test_training_goes_on_from_the_mean_of_all(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        model = Small().double()
        optimizer = GTAdam(model.named_parameters(), lr=0.01)
        steps(model, optimizer, rank, range(3))
        before = row(model)
        optimizer.average_()
        after = row(model)
        assert optimizer.consensus_error() == 0
        one(model, optimizer, rank, 3)
        assert optimizer.consensus_error() > 0
        assert optimizer.tracker_violation() < 1e-14
        return before, after

    first, second = on_ranks(2, work, tmp_path)
    assert not torch.equal(first[0], second[0])
    assert torch.allclose(first[1], (first[0] + second[0]) / 2, rtol=0, atol=1e-15)
    assert torch.equal(first[1], second[1])


def test_groups_of_equal_size_and_a_group_that_comes_later() -> None:
    model = Small()
    first, second = list(model.first.parameters()), list(model.second.parameters())
    optimizer = GTAdam([{"params": first, "lr": 1e-5}, {"params": second, "b1": 0.5}], lr=0.01)
    one(model, optimizer)
    optimizer.add_param_group({"params": [model.gain], "lr": 0.1, "weight_decay": 0.01})
    before = [each.detach().clone() for each in model.parameters()]
    one(model, optimizer, t=1)
    gain, *others = [(each - old).abs().max().item() for each, old in zip(model.parameters(), before, strict=True)]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-5, 0.01, 0.1]
    assert max(others[:2]) < 1e-4 < max(others[2:]) < 0.2 < gain
