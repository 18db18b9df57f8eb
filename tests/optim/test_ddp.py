"""The communication hook: DDP's bits without compression, EF-signSGD's with it."""

import copy
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import needs
from helpers.trained import on_ranks as among
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import distopt
from distopt.catalog import registry
from distopt.errors import InputError
from distopt.optim import ddp
from distopt.optim.ddp import ErrorFeedbackState, error_feedback_hook

ROOT = Path(__file__).parents[2]
LR = 0.05
MANY = 1e-4  # MB of a bucket: several of them
SPECS = {name: name for name in registry.names("compressors")} | {"topk": "topk(k=2)", "randomk": "randomk(k=2)"}


class Net(nn.Module):
    """Uneven shapes, a scalar, and a layer that no loss depends on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first, self.second, self.idle = nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(2, 2)
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gain * self.second(torch.tanh(self.first(x)))
        return out


def batch(rank: int, step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(4, 5, generator=draw, dtype=torch.float64).to(dtype), torch.randn(
        4, 3, generator=draw, dtype=torch.float64
    ).to(dtype)


def values(model: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in model.parameters()]


def trained(
    rank: int,
    state: ErrorFeedbackState | None,
    steps: range,
    dtype: torch.dtype = torch.float64,
    start: list[Tensor] | None = None,
    saved: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[list[Tensor], nn.Module]:
    """The parameters after SGD with DDP, and the model."""
    model = Net().to(dtype)
    with torch.no_grad():
        for each, value in zip(model.parameters(), start or values(model), strict=True):
            each.copy_(value)
    if state is not None and saved is not None:
        state.load_state_dict(saved, model)
    shared = DistributedDataParallel(model, find_unused_parameters=True, **settings)
    if state is not None:
        shared.register_comm_hook(state, error_feedback_hook)
    for step in steps:
        x, y = batch(rank, step, dtype)
        shared.zero_grad()
        (shared(x) - y).square().mean().backward()
        with torch.no_grad():
            for each in shared.parameters():
                if each.grad is not None:
                    each -= LR * each.grad
    return values(model), shared


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
def test_a_compressor_that_loses_nothing_has_the_bits_of_no_hook(world: int, tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        found = []
        for dtype in (torch.float64, torch.float32):
            for settings in ({}, {"bucket_cap_mb": MANY}, {"gradient_as_bucket_view": True}):
                bare, _ = trained(rank, None, range(6), dtype, **settings)
                state = ErrorFeedbackState(compressor="identity")
                hooked, _ = trained(rank, state, range(6), dtype, **settings)
                found.append([(a, b) for a, b in zip(bare, hooked, strict=True)])
        return found

    for cases in among(world, work, tmp_path):
        for pairs in cases:
            assert all(torch.equal(a, b) for a, b in pairs)
            assert any((a != b).any() for (a, _), b in zip(pairs, values(Net()), strict=True)), "nothing moved"


def sign(z: Tensor) -> Tensor:
    return z.abs().sum() / z.numel() * torch.where(z >= 0, 1.0, -1.0).to(z.dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"bucket_cap_mb": MANY}, {"gradient_as_bucket_view": True, "bucket_cap_mb": MANY}]
)
def test_signs_with_memory_are_ef_signsgd_tensor_by_tensor(settings: dict[str, Any], tmp_path: Path) -> None:
    """A loop over workers from the paper: p_i = g_i + e_i, what is sent is the scaled sign of every tensor of p_i."""

    def work(rank: int) -> Any:
        state = ErrorFeedbackState(compressor="sign")
        found, model = trained(rank, state, range(50), **settings)
        return found, {name: each["error"] for name, each in state.state_dict(model)["kept"].items()}

    results = among(3, work, tmp_path)
    model = Net().double()
    names = [name for name, _ in model.named_parameters()]
    error = [[torch.zeros_like(each) for each in model.parameters()] for _ in range(3)]
    for step in range(50):
        sent = []
        for i in range(3):
            model.zero_grad()
            x, y = batch(i, step, torch.float64)
            (model(x) - y).square().mean().backward()
            p = [
                (each.grad if each.grad is not None else torch.zeros_like(each)) + e
                for each, e in zip(model.parameters(), error[i], strict=True)
            ]
            sent.append([sign(each) for each in p])
            error[i] = [each - out for each, out in zip(p, sent[i], strict=True)]
        with torch.no_grad():
            for k, each in enumerate(model.parameters()):
                each -= LR * sum(out[k] for out in sent) / 3
    for i, (found, memory) in enumerate(results):
        for k, (name, mine, theirs) in enumerate(zip(names, values(model), found, strict=True)):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-12)
            torch.testing.assert_close(memory[name].reshape(error[i][k].shape), error[i][k], rtol=0, atol=1e-12)
        assert float(memory["first.weight"].abs().max()) > 1e-3


@pytest.mark.slow
def test_every_compressor_keeps_replicas_alike_sends_its_bits_and_goes_on_from_a_saved_state(tmp_path: Path) -> None:
    names = [name for name in SPECS if name != "identity"]

    def work(rank: int) -> Any:
        found = []
        for name in names:
            state, first, again = (ErrorFeedbackState(compressor=SPECS[name], seed=3) for _ in range(3))
            whole, _ = trained(rank, state, range(6))
            half, model = trained(rank, first, range(3))
            content = io.BytesIO()
            torch.save(first.state_dict(model), content)
            saved = torch.load(io.BytesIO(content.getvalue()), weights_only=True)
            rest, _ = trained(rank, again, range(3, 6), start=half, saved=saved)
            found.append([whole, rest, state.bytes_sent])
        return found

    results = among(2, work, tmp_path)
    for k, name in enumerate(names):
        whole, rest, sent = results[0][k]
        for other in results[1][k][:2]:
            assert all(torch.equal(a, b) for a, b in zip(whole, other, strict=True)), name
        assert all(torch.equal(a, b) for a, b in zip(whole, rest, strict=True)), name
        compressor = registry.make("compressors", SPECS[name])
        assert sent == 6 * sum(compressor.bits(each.numel(), 8) for each in Net().parameters()) // 8, name


def test_first_steps_are_sent_whole(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        state = ErrorFeedbackState(compressor="sign", start_iter=2)
        bare, _ = trained(rank, None, range(2))
        two, _ = trained(rank, state, range(2))
        kept = len(state.state_dict(Net())["kept"])
        more, _ = trained(rank, ErrorFeedbackState(compressor="sign", start_iter=2), range(3))
        three, _ = trained(rank, None, range(3))
        return bare, two, kept, more, three

    for bare, two, kept, more, three in among(2, work, tmp_path):
        assert all(torch.equal(a, b) for a, b in zip(bare, two, strict=True))
        assert kept == 0
        assert not all(torch.equal(a, b) for a, b in zip(more, three, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_remembered_in_full(dtype: torch.dtype, tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        state = ErrorFeedbackState(compressor="sign")
        _, model = trained(rank, state, range(1), dtype)
        weight = dict(model.module.named_parameters())["second.weight"]
        return weight.grad, state.state_dict(model)["kept"]["second.weight"]["error"]

    results = among(2, work, tmp_path)
    gradients = []
    for rank in range(2):
        model = Net().to(dtype)
        x, y = batch(rank, 0, dtype)
        (model(x) - y).square().mean().backward()
        gradients.append(model.second.weight.grad)
    average = sum(sign(each.float()) for each in gradients) / 2
    for rank, (gradient, error) in enumerate(results):
        assert gradient.dtype == dtype and error.dtype == torch.float32
        torch.testing.assert_close(gradient, average.to(dtype))
        exact = gradients[rank].float()
        torch.testing.assert_close(error.reshape(gradient.shape), exact - sign(exact), rtol=0, atol=1e-6)


def test_what_is_not_finite_shows_and_spoils_no_memory(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        state = ErrorFeedbackState(compressor="sign")
        _, model = trained(rank, state, range(2))
        before = {name: each["error"].clone() for name, each in state.state_dict(model)["kept"].items()}
        model.zero_grad()
        x, y = batch(rank, 2, torch.float64)
        ((model(x) - y).square().mean() * (torch.inf if rank else 1.0)).backward()
        after = state.state_dict(model)["kept"]
        weight = dict(model.module.named_parameters())["first.weight"].grad
        return (
            bool(torch.isfinite(weight).any()),
            all(bool(torch.isfinite(each["error"]).all()) for each in after.values()),
            [torch.equal(before[name], after[name]["error"]) for name in ("first.weight", "second.weight")],
        )

    results = among(2, work, tmp_path)
    assert [any_finite for any_finite, *_ in results] == [False, False]
    assert [finite for _, finite, _ in results] == [True, True]
    assert [stayed for *_, stayed in results] == [[False, False], [True, True]]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="start_iter=-1"):
        ErrorFeedbackState(start_iter=-1)
    with pytest.raises(InputError, match="among the compressors"):
        ErrorFeedbackState(compressor="sine")
    saved = {
        "step": 1,
        "bytes_sent": 0,
        "kept": {"first.weight": {"number": 0, "error": torch.zeros(1, 34), "warm": None}},
    }
    with pytest.raises(InputError, match="first.weight has 35 numbers here, not 34"):
        ErrorFeedbackState().load_state_dict(saved, Net())
    saved["kept"] = {"third.weight": {"number": 0, "error": torch.zeros(1, 35), "warm": None}}
    with pytest.raises(InputError, match=r"it has third.weight, and this model has no such parameter"):
        ErrorFeedbackState().load_state_dict(saved, Net())


def test_a_state_can_be_copied_without_its_group() -> None:
    state = ErrorFeedbackState(compressor="sign", process_group=object())
    assert copy.copy(state).process_group is None


@pytest.mark.cuda
@needs.gpu
def test_gradients_stay_on_the_gpu(tmp_path: Path) -> None:
    dist.init_process_group("nccl", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(Net().cuda(), find_unused_parameters=True)
        state = ErrorFeedbackState(compressor="sign")
        model.register_comm_hook(state, error_feedback_hook)
        x, y = (each.cuda() for each in batch(0, 0, torch.float32))
        (model(x) - y).square().mean().backward()
        weight = dict(model.module.named_parameters())["first.weight"]
        alone = Net()
        (alone(x.cpu()) - y.cpu()).square().mean().backward()
        torch.testing.assert_close(weight.grad.cpu(), sign(alone.first.weight.grad), rtol=1e-4, atol=1e-6)
        assert all(each["error"].is_cuda for each in state.state_dict(model)["kept"].values())
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_the_example_trains_on_two_ranks(tmp_path: Path) -> None:
    found = {}
    for hook in ("none", "sign"):
        words = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(ROOT / "examples" / "ddp_digits.py"),
            "--hook",
            hook,
        ]
        paths = os.pathsep.join([str(Path(distopt.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        accuracy, sent = re.search(r"accuracy ([\d.]+) %, ([\d,]+) bytes", done.stdout).groups()
        found[hook] = float(accuracy), int(sent.replace(",", ""))
    assert found["none"][0] > 90 and found["sign"][0] > 90
    assert found["none"][1] > 25 * found["sign"][1]


def test_a_process_does_not_end_while_a_thread_of_the_group_holds_the_hook() -> None:
    """A thread that needs the interpreter after its end aborts the process."""
    free = threading.Event()

    class Work:
        def get_future(self) -> Any:
            return self

        def then(self, finish: Callable[[Any], torch.Tensor]) -> Any:
            threading.Thread(target=lambda held: held and free.wait(30), args=(finish,)).start()
            return self

    ddp._then(Work(), lambda _: torch.ones(1), torch.ones(1))
    over = threading.Thread(target=ddp._wait)
    over.start()
    over.join(0.2)
    assert over.is_alive(), "it waits"
    free.set()
    over.join(3)
    assert not over.is_alive()
