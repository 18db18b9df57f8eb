"""What docs/training-script.md says under "Pitfalls", each with its symptom and its remedy."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import needs
from helpers.launching import ROOT
from helpers.trained import Small, loss, on_ranks, row, steps
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from distopt.errors import InputError
from distopt.optim import DAdam, GradientTracking, GTAdam

pytestmark = needs.forks

PAGE = (ROOT / "docs" / "training-script.md").read_text()


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"\[test_(\w+)\]\(\.\./(tests/optim/\w+\.py)\)", PAGE)
    assert len(named) >= 12
    for name, path in named:
        assert f"def test_{name}(" in (ROOT / path).read_text(), name


def test_batches_differ_by_rank_and_by_epoch_only_where_the_sampler_is_told() -> None:
    data = TensorDataset(torch.arange(40))

    def order(sampler: Any) -> list[int]:
        return [int(each) for (batch,) in DataLoader(data, batch_size=4, sampler=sampler) for each in batch]

    def shuffled() -> list[int]:
        torch.manual_seed(0)
        return [int(each) for (batch,) in DataLoader(data, batch_size=4, shuffle=True) for each in batch]

    assert shuffled() == shuffled(), "the same batches on all ranks that have the same seed"
    samplers = [DistributedSampler(data, 2, rank) for rank in range(2)]
    first, second = (order(each) for each in samplers)
    assert sorted(first + second) == list(range(40))
    assert order(samplers[0]) == first, "without set_epoch each epoch has the same order"
    samplers[0].set_epoch(1)
    assert order(samplers[0]) != first


def test_ranks_begin_as_rank_0_and_draw_what_they_are_seeded_to(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        torch.manual_seed(rank)
        model = nn.Linear(3, 2)
        GTAdam(model.named_parameters())
        masks = []
        for seed in (0, rank):
            torch.manual_seed(seed)
            masks.append(nn.functional.dropout(torch.ones(64)))
        return row(model), *masks

    (begun, same, own), (other, again, others) = on_ranks(2, work, tmp_path)
    assert torch.equal(begun, other)
    assert torch.equal(same, again) and not torch.equal(own, others)


def test_the_first_step_of_gtadam_is_three_times_lr() -> None:
    model = Small().double()
    before = row(model)
    steps(model, GTAdam(model.named_parameters(), lr=0.001), 0, range(1))
    moved = (row(model) - before).abs() / 0.001
    assert moved.median().item() == pytest.approx(3.16, abs=0.01)


def test_the_mean_knows_what_no_rank_knows(tmp_path: Path) -> None:
    """Each of two ranks has the digits of one parity; DADAM mixes parameters alone."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

    def work(rank: int) -> Any:
        torch.manual_seed(0)
        mine = labels % 2 == rank
        model = nn.Linear(64, 10)
        optimizer = DAdam(model.named_parameters(), lr=0.03)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[mine]), labels[mine]).backward()
            optimizer.step()

        def accuracy() -> float:
            return (model(images).argmax(1) == labels).float().mean().item()

        own = accuracy()
        with optimizer.averaged(model):
            return own, accuracy()

    (first, mean), (second, again) = on_ranks(2, work, tmp_path)
    assert mean == again == pytest.approx(0.94, abs=0.01)
    assert [first, second] == pytest.approx([0.85, 0.85], abs=0.015)


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_decay_in_the_gradient_is_divided_by_the_size_of_the_gradients(decoupled: bool) -> None:
    weights = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = GTAdam([weights], lr=0.01, weight_decay=0.1, decoupled_weight_decay=decoupled)
    for t in range(500):
        weights.grad = torch.tensor([1.0, 100.0], dtype=torch.float64) * (-1) ** t
        optimizer.step()
    small, large = weights.tolist()
    if decoupled:
        assert small == pytest.approx(large, abs=0.02) and small == pytest.approx(0.999**500, abs=0.05)
    else:
        assert small < 0.3 and large > 0.9


@pytest.mark.parametrize(("largest", "end"), [(None, 1.0), (0.5, 0.25)])
def test_ranks_that_clip_go_to_another_point(largest: float | None, end: float, tmp_path: Path) -> None:
    """(x - c)^2 / 2 on three ranks, c = 0, 0 and 3: x, x and x - 3 sum to zero at 1, and clipped to 0.5 at 0.25."""

    def work(rank: int) -> float:
        x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = GradientTracking([x], lr=0.1)
        for _ in range(300):
            optimizer.zero_grad()
            (x - (3.0 if rank == 2 else 0.0)).square().div(2).sum().backward()
            if largest is not None:
                nn.utils.clip_grad_norm_([x], largest)
            optimizer.step()
        assert optimizer.tracker_violation() < 1e-15
        return x.item()

    assert on_ranks(3, work, tmp_path) == pytest.approx([end] * 3, abs=1e-6)


def test_the_file_of_another_rank_is_refused(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        model = Small()
        optimizer = GTAdam(model.named_parameters())
        steps(model, optimizer, rank, range(1))
        torch.save(optimizer.state_dict(), tmp_path / f"rank-{rank}.pt")
        torch.distributed.barrier()
        content = torch.load(tmp_path / "rank-0.pt", weights_only=True)
        if rank == 1:
            with pytest.raises(InputError, match="the state belongs to rank 0, but this is rank 1"):
                optimizer.load_state_dict(content)

    on_ranks(2, work, tmp_path)


def test_the_others_wait_for_a_slow_rank(tmp_path: Path) -> None:
    """Local steps wait less often, and what is waited for is counted."""

    def work(rank: int) -> list[float]:
        found = []
        for every in (1, 8):
            model = Small()
            optimizer = GTAdam(model.named_parameters(), lr=0.001, every=every, mode="eager")
            for t in range(16):
                optimizer.zero_grad()
                loss(model, rank, t).backward()
                time.sleep(0.05 * rank * (t % 2))  # now and then the second rank takes longer
                optimizer.step()
            found.append(optimizer.seconds_waiting)
        return found

    quick, slow = on_ranks(2, work, tmp_path)
    assert quick[0] > 0.2 and quick[0] > slow[0]
