"""What goes wrong in training scripts: scalers, schedulers, groups, writes between steps, evaluation at the mean."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import needs
from helpers.trained import Small, loss, on_ranks, row, steps
from torch import nn
from torch.optim import lr_scheduler as schedulers

from distopt.errors import InputError
from distopt.optim import DGD, Decentralized, GradientTracking, GTAdam

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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_below_the_last_bit_add_up_while_a_script_writes(dtype: torch.dtype, tmp_path: Path) -> None:
    """A script that changes one number after each step does not round the others, nor does an average."""

    def work(rank: int) -> Any:
        found = []
        for writes in (False, True):
            model = Small().to(dtype)
            optimizer = DGD(model.named_parameters(), lr=1e-5)
            for t in range(20):
                one(model, optimizer, rank, 0)
                if writes:
                    with torch.no_grad():
                        model.first.bias[0] = 0.5
                    if t % 5 == 0:
                        optimizer.average_()
            found.append(optimizer.state[model.second.bias]["x"].clone())
        return found, Small().second.bias.detach()

    for (alone, written), start in on_ranks(2, work, tmp_path):
        assert alone.dtype == torch.float32
        assert torch.allclose(alone - start.to(dtype), written - start.to(dtype), rtol=0.1)
        assert (alone - start.to(dtype)).abs().max() > 5e-5


def test_data_that_fail_leave_the_model_as_it_was() -> None:
    """Statistics computed anew are a loan, too, as are the mode and the momentum of the layers."""
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, momentum=0.3)).eval()
    optimizer = GTAdam(model.named_parameters())
    before = copy.deepcopy(model.state_dict())

    def data() -> Any:
        yield torch.randn(8, 5)
        raise ValueError("the disk is gone")

    with pytest.raises(ValueError, match="the disk is gone"), optimizer.averaged(model, data()):
        pass
    assert (model.training, model[1].training, model[1].momentum) == (False, False, 0.3)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_layer_is_trained_later() -> None:
    model = Small()
    model.first.requires_grad_(False)
    optimizer = GTAdam(model.named_parameters(), lr=0.01)
    frozen = model.first.weight.detach().clone()
    one(model, optimizer)
    assert torch.equal(model.first.weight, frozen)
    model.first.requires_grad_(True)
    with pytest.raises(InputError, match="first.weight was frozen .* add_param_group"):
        one(model, optimizer, t=1)
    optimizer.add_param_group({"params": list(model.first.named_parameters(prefix="first"))})
    one(model, optimizer, t=1)
    assert not torch.equal(model.first.weight, frozen)
    assert optimizer.tracker_violation() < 1e-6


def test_a_decay_that_needs_a_step_size_says_so() -> None:
    with pytest.raises(InputError, match="decoupled_weight_decay .* step size"):
        Decentralized(
            Small().parameters(), "gtadam:lr=inverse_sqrt(0.02)", weight_decay=0.1, decoupled_weight_decay=True
        )


ROUNDING = 1e-6


def test_an_overflow_on_one_rank_leaves_the_trackers_right(tmp_path: Path) -> None:
    """Each rank has a scale of its own. Clipping and accumulation are as everywhere."""

    def work(rank: int) -> Any:
        model = Small()
        optimizer = GTAdam(model.named_parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** (4 + rank), growth_interval=3)
        worst = 0.0
        for t in range(12):
            optimizer.zero_grad(set_to_none=t % 2 == 0)
            for part in range(2):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    value = loss(model, rank, 10 * t + part) / 2
                if t == 2 * rank + 1:
                    value = value * float("inf")
                scaler.scale(value).backward()
            if t % 3 == 0:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            worst = max(worst, optimizer.tracker_violation())
        assert row(model).isfinite().all()
        return worst, optimizer.round, scaler.get_scale()

    first, second = on_ranks(2, work, tmp_path)
    assert max(first[0], second[0]) < ROUNDING
    assert (first[1], second[1]) == (12, 12), "an overflow is a round, too"
    assert first[2] != second[2]


def test_the_scale_of_a_scaler_changes_no_bit() -> None:
    """A power of two, with clipping between."""
    found = []
    for scaled in (False, True):
        model = Small()
        optimizer = GTAdam(model.named_parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=scaled)
        for t in range(4):
            optimizer.zero_grad()
            scaler.scale(loss(model, 0, t)).backward()
            if t % 2:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        found.append(row(model))
    assert torch.equal(*found)


def test_ranks_without_some_gradients_train(tmp_path: Path) -> None:
    """None is zero, the parameter is mixed, and nobody waits for ever."""

    def work(rank: int) -> Any:
        found = []
        for none in (True, False):
            model = Small().double()
            model.first.bias.requires_grad_(False)
            optimizer = GradientTracking(model.named_parameters(), lr=0.05, topology="complete")
            for t in range(6):
                optimizer.zero_grad(set_to_none=none)
                if t != 3 or rank != 1:  # nothing at all in this round
                    loss(model, rank, t).backward()
                if rank == 0:
                    model.second.bias.grad = None if none else torch.zeros(3, dtype=torch.float64)
                optimizer.step()
            assert torch.equal(model.first.bias, Small().double().first.bias)
            assert optimizer.tracker_violation() < 1e-15
            found.append(row(model))
        assert torch.equal(*found)
        return model.second.bias.detach()

    first, second = on_ranks(2, work, tmp_path)
    assert (first - Small().second.bias).abs().min() > 0.01
    assert torch.allclose(first, second, rtol=0, atol=0.1)


def test_an_overflow_takes_the_gradient_of_the_round_before() -> None:
    model = Small().double()
    optimizer = GradientTracking(model.named_parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    found = [row(model)]
    for t in range(3):
        optimizer.zero_grad()
        scaler.scale(loss(model, 0, t) * (float("nan") if t == 1 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append(row(model))
    first, again, other = (new - old for old, new in pairwise(found))
    assert torch.allclose(first, again, rtol=0, atol=1e-15)
    assert not torch.allclose(again, other, rtol=0, atol=1e-3)
