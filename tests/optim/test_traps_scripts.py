"""Scripts that are unusual, but right in torch: they train here, too, or are refused in a line."""

import copy
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import needs
from helpers.trained import Small, loss, on_ranks, row, steps
from torch import nn
from torch.distributed.algorithms.join import Join

from distopt.errors import InputError
from distopt.optim import DGD, Decentralized, GradientTracking, GTAdam

pytestmark = needs.forks

ROUNDING = 1e-6


def test_what_a_script_writes_moves_the_mean(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        model = Small().double()
        optimizer = GradientTracking(model.named_parameters(), lr=0.05)
        steps(model, optimizer, rank, range(2))
        writes: list[Any] = [
            lambda: model.first.weight.data.add_(rank + 1.0),
            lambda: nn.init.constant_(model.first.weight, float(rank)),
            lambda: model.load_state_dict({**model.state_dict(), "gain": torch.tensor(2.0 + rank)}),
            lambda: setattr(model.gain, "data", torch.tensor(3.0 + rank, dtype=torch.float64)),
            lambda: model.to(torch.float32).to(torch.float64),
        ]
        found = []
        for t, write in enumerate(writes):
            write()
            before = row(model)
            optimizer.zero_grad()
            loss(model, rank, t).backward()
            gradient = torch.cat([each.grad.reshape(-1) for each in model.parameters()])
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                optimizer.step()
            texts = [str(each.message) for each in told]
            assert [text.startswith("parameters were changed") for text in texts] == [True] * (t == 0), "once"
            assert optimizer.tracker_violation() < 1e-15
            found.append(torch.stack([before, gradient, row(model)]))
        return found

    ranks = on_ranks(2, work, tmp_path)
    for first, second in zip(*ranks, strict=True):
        before, gradient, after = (first + second) / 2
        assert torch.allclose(after, before - 0.05 * gradient, rtol=0, atol=1e-14)


def test_parameters_of_another_precision_go_on(tmp_path: Path) -> None:
    """model.to changes them in place. A model whose parameters were replaced is not the one that is trained."""

    def work(rank: int) -> None:
        model = Small()
        optimizer = GTAdam(model.named_parameters(), lr=0.01)
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            model.to(dtype)
            steps(model, optimizer, rank, range(2))
            with optimizer.averaged(model):
                assert next(model.parameters()).dtype == dtype
        assert optimizer.tracker_violation() < ROUNDING
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        with pytest.raises(InputError, match="none of the optimiser's parameters"):
            optimizer.averaged(model).__enter__()

    on_ranks(2, work, tmp_path)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Embedding(8, 4), nn.BatchNorm1d(4)
        self.outer = nn.Linear(4, 8, bias=False)
        self.outer.weight = self.inner.weight

    def forward(self, x: Any) -> Any:
        return self.outer(self.norm(self.inner(x)))


def test_the_mean_of_a_model_with_statistics_is_a_loan(tmp_path: Path) -> None:
    """The variance is that of all data together. Everything comes back bit for bit, also after an error within."""

    def work(rank: int) -> Any:
        torch.manual_seed(rank)
        model = Tied().to(torch.float64)
        model.norm.momentum = None  # plain averages
        model.norm.register_buffer("low", torch.full((2,), 1.0 + rank, dtype=torch.bfloat16))
        model.norm.register_buffer("flag", torch.tensor([True, rank == 0]))
        optimizer = GTAdam(model.named_parameters(), lr=0.01)
        assert sum(optimizer._buckets[0].sizes) == 32 + 8, "what is tied is one parameter"
        data = torch.randint(0, 4 + 4 * rank, (64,))
        for _ in range(1 + rank):
            optimizer.zero_grad()
            model(data).logsumexp(1).sum().backward()
        inputs = model.inner(data).detach()
        optimizer.step()
        before = {name: each.clone() for name, each in model.state_dict().items()}
        with optimizer.averaged(model) as mean:
            assert mean is model
            inside = {name: each.clone() for name, each in model.state_dict().items()}
        with pytest.raises(ZeroDivisionError), optimizer.averaged(model):
            model.train()(data)
            raise ZeroDivisionError
        for name, each in model.state_dict().items():
            assert torch.equal(each, before[name]), name
        return before, inside, inputs

    (one, inside, first), (two, again, second) = on_ranks(2, work, tmp_path)
    assert all(torch.equal(inside[name], again[name]) for name in inside if name != "norm.flag")
    both = torch.cat([first, second])
    assert torch.allclose(inside["norm.running_mean"], both.mean(0), atol=1e-12)
    unbiased = first.var(0) + second.var(0)
    spread = (first.mean(0) - second.mean(0)).square() / 4
    assert torch.allclose(inside["norm.running_var"], unbiased / 2 + spread, atol=1e-12)
    assert spread.max() > 1e-3
    assert inside["norm.num_batches_tracked"] == 2
    assert inside["norm.low"].tolist() == [1.5, 1.5]
    assert torch.equal(inside["norm.flag"], one["norm.flag"])
    assert torch.allclose(inside["inner.weight"], (one["inner.weight"] + two["inner.weight"]) / 2)


@pytest.mark.slow
def test_two_optimisers_in_one_process(tmp_path: Path) -> None:
    """As where two networks play against each other, on different networks of ranks; also on halves of the ranks."""

    def play(rank: int, apart: bool, group: Any = None) -> Any:
        makers, players = [Small(), Small()], []
        for k, model in enumerate(makers):
            model.load_state_dict({name: each + 0.01 * k for name, each in model.state_dict().items()})
            topology = ["ring", "one_peer_exponential"][k]
            optimizer = Decentralized(
                model.named_parameters(), ["gtadam", "gt"][k], lr=0.01, topology=topology, process_group=group
            )
            players.append((model, optimizer))
        if apart:
            for model, optimizer in players:
                steps(model, optimizer, rank, range(4))
        else:
            for t in range(4):
                for model, optimizer in players:
                    steps(model, optimizer, rank, range(t, t + 1))
        return [row(model) for model in makers], [optimizer.consensus_error() for _, optimizer in players]

    def work(rank: int) -> Any:
        found, wanted = play(rank, False), play(rank, True)
        assert all(torch.equal(one, other) for one, other in zip(found[0], wanted[0], strict=True))
        halves = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        with pytest.raises(InputError, match="not in the process_group"):
            GTAdam(Small().parameters(), process_group=halves[1 - rank // 2])
        return play(rank, False, halves[rank // 2])

    ranks = on_ranks(4, work, tmp_path)
    errors = [each[1] for each in ranks]
    assert errors[0] == errors[1] != errors[2] == errors[3]


def test_ranks_with_fewer_batches_join(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        found = []
        for joins in (True, False):
            model = Small().double()
            optimizer = GradientTracking(model.named_parameters(), lr=0.05)
            batches = 2 + 3 * rank
            if joins:
                with Join([optimizer]):
                    steps(model, optimizer, rank, range(batches))
            else:
                for t in range(5):
                    optimizer.zero_grad()
                    if t < batches:
                        loss(model, rank, t).backward()
                    optimizer.step()
            assert (optimizer.round, optimizer.tracker_violation() < 1e-15) == (5, True)
            found.append(row(model))
        return torch.equal(*found)

    assert on_ranks(2, work, tmp_path) == [True, True]


def test_a_wrapped_model_is_warned_of(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        model = nn.parallel.DistributedDataParallel(Small())
        optimizer = GTAdam(model.named_parameters())
        loss(model, rank, 0).backward()
        with pytest.warns(UserWarning, match="do not wrap the model in Distr") if rank == 0 else nullcontext():
            optimizer.step()

    on_ranks(2, work, tmp_path)


def test_a_row_that_never_has_a_gradient_stays(tmp_path: Path) -> None:
    """A sign cannot say 0, but where a tensor is wholly zero its scale is."""

    def work(rank: int) -> None:
        model = nn.ModuleList([nn.Embedding(4, 3), nn.Linear(3, 1)])
        optimizer = GradientTracking(
            model.named_parameters(), lr=0.05, channel="choco:compressor=sign(segments=tensors),gamma=0.4"
        )
        before = model[0].weight.detach().clone()
        for t in range(10):
            optimizer.zero_grad()
            model[1](torch.full((1, 3), float(rank + t))).sum().backward()
            optimizer.step()
        assert torch.equal(model[0].weight, before)

    on_ranks(2, work, tmp_path)


@pytest.mark.slow
def test_the_mean_follows_a_step_size_that_falls(tmp_path: Path) -> None:
    """Correction methods that do not follow it are thrown far off: all end near each other."""

    def work(rank: int) -> Any:
        found = []
        for spec in ("gt", "extra", "nids", "exact_diffusion"):
            model = nn.Linear(1, 1, bias=False).double()
            nn.init.constant_(model.weight, 1.0)
            optimizer = Decentralized(model.parameters(), spec, lr=0.1, topology="complete")
            scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3], 0.01)
            for _ in range(60):
                optimizer.zero_grad()
                ((1.0 + rank) * (model.weight + 3.0 * (-1) ** rank).square()).sum().backward()
                optimizer.step()
                scheduler.step()
            found.append(model.weight.item())
        return found

    means = [sum(each) / 4 for each in zip(*on_ranks(4, work, tmp_path), strict=True)]
    assert max(means) - min(means) < 0.2, means


def test_modes_and_precisions_of_torch_change_nothing() -> None:
    """A step within autocast, anomaly mode or another default precision; a compiled model; closures."""

    def run(how: str) -> Any:
        model = Small()
        optimizer = GTAdam(model.named_parameters(), lr=0.01, channel="choco:compressor=sign,gamma=0.4")
        used: Any = torch.compile(model, backend="eager") if how == "compiled" else model
        state = torch.get_rng_state()
        for t in range(3):

            def closure(t: int = t) -> Any:
                optimizer.zero_grad()
                value = loss(used, 0, t)
                value.backward()
                return value

            if how == "closure":
                with torch.no_grad():
                    assert optimizer.step(closure).item() > 0
                continue
            closure()
            with (
                torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"),
                torch.autograd.set_detect_anomaly(how == "anomaly", check_nan=False),
            ):
                torch.set_default_dtype(torch.float64 if how == "float64" else torch.float32)
                optimizer.step()
                torch.set_default_dtype(torch.float32)
        assert torch.equal(torch.get_rng_state(), state), "random numbers are the script's"
        with optimizer.averaged(used):
            pass
        return row(model)

    wanted = run("plain")
    for how in ("closure", "autocast", "anomaly", "float64", "compiled"):
        assert torch.equal(run(how), wanted), how


def test_layouts_of_parameters_change_no_bit(tmp_path: Path) -> None:
    """Parameters that are not contiguous, and gradients that are not."""

    def work(rank: int) -> Any:
        found = []
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.manual_seed(3 + rank)
            model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 1)).double().to(memory_format=layout)
            model.empty = nn.Parameter(torch.zeros(0, 3))
            optimizer = GTAdam(model.named_parameters(), lr=0.01)
            for t in range(3):
                optimizer.zero_grad()
                draw = torch.Generator().manual_seed(10 * rank + t)
                data = torch.randn(2, 3, 4, 4, generator=draw, dtype=torch.float64)
                model(data).square().sum().backward()
                optimizer.step()
            assert model[0].weight.is_contiguous(memory_format=layout)
            found.append(row(model))
        assert torch.allclose(*found, rtol=0, atol=1e-12)
        return found[0]

    assert not torch.equal(*on_ranks(2, work, tmp_path))


def test_what_cannot_be_trained_is_refused_in_a_line() -> None:
    model = Small()
    for params, match in (
        ([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], "complex64 .* only dense parameters of real numbers"),
        ([model.gain, model.gain], "given twice"),
    ):
        with pytest.raises(InputError, match=match), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "optimizer contains a parameter group with duplicate"
            )  # torch's own word before ours
            DGD(params)
    optimizer = DGD(model.parameters())
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(optimizer)
    with pytest.raises(InputError, match="not a state of a distopt optimiser"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters()).state_dict())
    assert "lr: 0.01" in repr(optimizer)
    assert "rank 0 of 1, 67 parameters in 1 bucket," in repr(optimizer)


def test_within_the_mean_nothing_is_trained(tmp_path: Path) -> None:
    """What it changes would be lost when the ranks' own parameters come back."""

    def work(rank: int) -> None:
        model = Small()
        optimizer = GTAdam(model.named_parameters())
        steps(model, optimizer, rank, range(1))
        before, content = row(model), optimizer.state_dict()
        with optimizer.averaged(model), optimizer.averaged(model):
            inside = row(model)
            for change in (optimizer.average_, lambda: optimizer.load_state_dict(content)):
                with pytest.raises(InputError, match="within averaged"):
                    change()
        assert torch.equal(row(model), before)
        assert not torch.equal(inside, before)
        with optimizer.averaged(model), pytest.raises(InputError, match="within averaged"):
            optimizer.step()

    on_ranks(2, work, tmp_path)


def test_a_rank_that_made_optimisers_before_meets_a_new_one(tmp_path: Path) -> None:
    """As where one process has outlived another, and the group is made again under its old name."""

    def work(rank: int) -> Any:
        name = dist.group.WORLD.group_name
        if rank == 0:
            from distopt.optim import ranks

            getattr(ranks, "_made", {})[name] = 3
        model = Small()
        for _ in range(2):
            optimizer = GTAdam(model.named_parameters())
            steps(model, optimizer, rank, range(2))
        return optimizer.tracker_violation()

    assert max(on_ranks(2, work, tmp_path, timeout=10)) < ROUNDING


def test_a_state_is_that_of_the_round_when_it_was_taken(tmp_path: Path) -> None:
    """Also where a script keeps it without a copy, and goes on."""

    def work(rank: int) -> Any:
        model = Small()
        optimizer = GTAdam(model.named_parameters(), lr=0.01)
        steps(model, optimizer, rank, range(2))
        content = optimizer.state_dict()
        copied = copy.deepcopy(content["state"])
        wanted = steps(model, optimizer, rank, range(2, 5))
        for place, leaves in content["state"].items():
            for name, leaf in leaves.items():
                assert torch.equal(leaf, copied[place][name]), name
        storages = {leaf.untyped_storage().data_ptr() for leaf in content["state"][0].values()}
        assert len(storages) == 6, "step, x, s, g, m, v: nothing is kept twice"
        optimizer.load_state_dict(content)
        return torch.equal(steps(model, optimizer, rank, range(2, 5))[-1], wanted[-1])

    assert on_ranks(2, work, tmp_path) == [True, True]
