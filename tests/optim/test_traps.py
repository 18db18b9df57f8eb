"""What goes wrong in training scripts: scalers, schedulers, groups, writes between steps, evaluation at the mean."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import needs
from helpers.training import Small, loss, on_ranks, row, steps
from torch import nn
from torch.optim import lr_scheduler as schedulers

from distopt.errors import InputError
from distopt.optim import Decentralized, GTAdam

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


KINDS: dict[str, Any] = {
    "StepLR": lambda o: schedulers.StepLR(o, 2, 0.1),
    "warm-up from 0": lambda o: schedulers.LambdaLR(o, lambda t: min(1, t / 3)),
    "cosine to 0": lambda o: schedulers.CosineAnnealingLR(o, 4),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.05, total_steps=9, cycle_momentum=False),
    "in turn": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, 0.5, 3), schedulers.ExponentialLR(o, 0.9)], [3]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tensor", [False, True])
def test_schedulers_of_torch_change_the_step_size(kind: str, tensor: bool) -> None:
    """As torch's SGD does, of which gradient tracking on one rank has the steps."""
    model, twin = Small().double(), Small().double()
    ours = Decentralized(model.parameters(), "gt", lr=torch.tensor(0.05, dtype=torch.float64) if tensor else 0.05)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.05)
    if tensor:
        ours.param_groups[0]["lr"] = torch.tensor(0.05, dtype=torch.float64)
    for own, optimizer in ((model, ours), (twin, theirs)):
        scheduler = KINDS[kind](optimizer)
        for t in range(8):
            one(own, optimizer, t=t)
            scheduler.step()
    assert float(ours.param_groups[0]["lr"]) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
    assert torch.allclose(row(model), row(twin), rtol=0, atol=1e-13)


@pytest.mark.parametrize("spec", ["extra", "nids", "exact_diffusion", "gt:form=atc", "gtadam", "dgd", "beer"])
def test_a_step_size_of_nothing_moves_nothing(spec: str) -> None:
    model = Small().double()
    optimizer = Decentralized(model.parameters(), spec, lr=0.01)
    for t, lr in enumerate((0.01, 0.0, 0.0)):
        optimizer.param_groups[0]["lr"] = lr
        before = row(model)
        one(model, optimizer, t=t)
    assert torch.allclose(row(model), before, rtol=0, atol=1e-15)
    for wrong in (-0.1, float("nan"), float("inf"), "0.1", None):
        optimizer.param_groups[0]["lr"] = wrong
        with pytest.raises(InputError, match="lr"):
            one(model, optimizer)
