"""The saved memory of the communication hook: whatever does not fit is refused when it is loaded, and changes nothing."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from optim.test_ddp import SPECS, Net, among, trained
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distopt.errors import InputError
from distopt.optim.ddp import ErrorFeedbackState, error_feedback_hook

NAMES = [name for name in SPECS if name != "identity"]
OTHERS: list[Any] = [
    None,
    True,
    -1,
    2.5,
    float("nan"),
    2**70,
    "3",
    "",
    [],
    [3, 1],
    {},
    {"a": 1},
    b"1",
    torch.zeros(1, 3),
    torch.zeros(1, 35, dtype=torch.int64),
    torch.full((1, 35), torch.nan, dtype=torch.float64),
    torch.zeros(1, 35, device="meta", dtype=torch.float64),
    torch.zeros(1, 35, dtype=torch.float64).to_sparse(),
]


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every compressor's hook saved after three steps, by its name; as a file gives it back."""

    def work(rank: int) -> Any:
        found = {}
        for name in NAMES:
            state = ErrorFeedbackState(SPECS[name])
            _, model = trained(rank, state, range(3))
            found[name] = state.state_dict(model)
        return found

    found: dict[str, Any] = among(1, work, tmp_path_factory.mktemp("hook"))[0]
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        form = [(each.dtype, each.device, each.layout) for each in (one, other) if isinstance(each, Tensor)]
        return len(form) == 2 and form[0] == form[1] and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)


def refused(spec: str, content: Any, model: nn.Module, before: dict[str, Any]) -> None:
    """Refused by a hook that holds ``before``, which it still holds afterwards."""
    state = ErrorFeedbackState(spec)
    state.load_state_dict(before, model)
    held = state.state_dict(model)
    with pytest.raises(InputError) as told:
        state.load_state_dict(content, model)
    assert "\n" not in str(told.value) and len(str(told.value)) < 500
    assert same(state.state_dict(model), held)


def mappings(content: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The ways to all dictionaries in it."""
    yield path
    for key, value in content.items():
        if isinstance(value, dict):
            yield from mappings(value, (*path, key))


def changed(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Everything that has one field less, one of another name, one too many, or one that is something else."""
    for path in mappings(content):
        keys = list(inside(content, path))
        for key in keys:
            twin = copy.deepcopy(content)
            del inside(twin, path)[key]
            yield f"{path} without {key}", twin
            twin = copy.deepcopy(content)
            inside(twin, path)[key + "s"] = inside(twin, path).pop(key)
            yield f"{path} {key} renamed", twin
            for other in OTHERS:
                if same(inside(content, path)[key], other):
                    continue
                twin = copy.deepcopy(content)
                inside(twin, path)[key] = other
                yield f"{path} {key} is {other!r}", twin
        twin = copy.deepcopy(content)
        inside(twin, path)["more"] = 1
        yield f"{path} and more", twin


def inside(content: Any, path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        content = content[key]
    found: dict[str, Any] = content
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_change_of_a_saved_state_is_refused_and_changes_nothing(states: dict[str, Any], name: str) -> None:
    content, model, count = states[name], Net().double(), 0
    content = {
        **content,
        "kept": {key: content["kept"][key] for key in content["order"][:2]},
        "order": content["order"][:2],
        "rank": [0, 1],
    }
    for what, twin in changed(content):
        if twin.keys() == content.keys() and twin["rank"] is None:
            continue  # saved before there were ranks
        count += 1
        try:
            refused(SPECS[name], twin, model, states[name])
        except BaseException as error:
            raise AssertionError(what) from error
    assert count > 200


@pytest.mark.parametrize(
    "content", [*OTHERS, 5, [("step", 1)], {"model": 1}, {"step": 1}, object()], ids=lambda each: type(each).__name__
)
def test_foreign_content_is_refused(states: dict[str, Any], content: Any) -> None:
    refused("sign", content, Net().double(), states["sign"])


@pytest.mark.parametrize("name", NAMES)
def test_every_other_compressor_is_refused(states: dict[str, Any], name: str) -> None:
    for other in (*NAMES, "identity", "lowrank(rank=2)", "topk(k=3)", "sign(segments=1)"):
        state = ErrorFeedbackState(SPECS.get(other, other))
        if other == name:
            state.load_state_dict(states[name], Net().double())
            continue
        with pytest.raises(InputError, match="saved with another compressor"):
            state.load_state_dict(states[name], Net().double())
        assert state.state_dict(Net())["kept"] == {} and state.step == 0


def test_a_warm_start_of_another_rank_is_refused_in_old_states_too(states: dict[str, Any]) -> None:
    now = states["lowrank"]
    old = {key: now[key] for key in ("step", "bytes_sent")}
    old["kept"] = {name: {key: each[key] for key in ("number", "error", "warm")} for name, each in now["kept"].items()}
    with pytest.raises(InputError, match="with another compressor: for first.weight .* as warm start, not float64"):
        ErrorFeedbackState("lowrank(rank=2)").load_state_dict(old, Net().double())
    with pytest.raises(InputError, match="with another compressor: for second.weight .* as warm start, not None"):
        ErrorFeedbackState("sign").load_state_dict(
            {**old, "kept": {"second.weight": {**old["kept"]["second.weight"], "number": 0}}}, Net().double()
        )
    state = ErrorFeedbackState("lowrank")
    state.load_state_dict(old, Net().double())
    assert state.step == 3


class Other(nn.Module):
    """Layers of given sizes, of the names that ``Net`` has."""

    def __init__(self, first: tuple[int, int], gain: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(*first), nn.Linear(7, 3), nn.Linear(2, 2)
        if gain:
            self.gain = nn.Parameter(torch.tensor(1.5))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Other((7, 5)).double(), r"another model: first.weight has the shape \[5, 7\] here, not \[7, 5\]"),
        (Other((5, 8)).double(), "another model: first.* has the shape"),
        (Other((5, 7), gain=False).double(), "another model: it has gain, and this model has no such parameter"),
        (nn.Linear(5, 7), "another model: it has .*, and this model has no such parameter"),
        (Net(), "another model or compressor: .* it has float64 .* as error, not float32"),
        (Net().double().to("meta"), "device meta"),
        (torch.zeros(3), "model is a Tensor"),
        (None, "model is a NoneType"),
    ],
)
def test_another_model_is_refused(states: dict[str, Any], model: Any, message: str) -> None:
    state = ErrorFeedbackState("sign")
    with pytest.raises(InputError, match=message):
        state.load_state_dict(states["sign"], model)
    assert state.state_dict(Net())["kept"] == {} and state.step == 0


def test_a_hook_of_another_model_saves_nothing(states: dict[str, Any]) -> None:
    state = ErrorFeedbackState("sign")
    state.load_state_dict(states["sign"], Net().double())
    with pytest.raises(InputError, match="give state_dict the model that was trained with it"):
        state.state_dict(Net().double())


def test_each_rank_goes_on_from_its_own_and_of_as_many(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        state = ErrorFeedbackState("sign")
        _, model = trained(rank, state, range(1))
        own, told = state.state_dict(model), []
        state.load_state_dict(own, model)
        for rank_of in ([1 - rank, 2], [rank, 3]):
            try:
                state.load_state_dict({**own, "rank": rank_of}, model)
            except InputError as error:
                told.append(str(error))
        return own["rank"], told

    for rank, (own, told) in enumerate(among(2, work, tmp_path)):
        assert own == [rank, 2] and len(told) == 2
        assert (
            f"saved on rank {1 - rank} of 2, but this is rank {rank} of 2" in told[0]
            and f"on rank {rank} of 3" in told[1]
        )


class WithNothing(nn.Module):
    """A layer, and a parameter that holds no number, first or last."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        names = ["nothing", "layer"] if first else ["layer", "nothing"]
        for name in names:
            setattr(self, name, nn.Linear(5, 3) if name == "layer" else nn.Parameter(torch.zeros(0, 4)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x).square().sum() + self.nothing.sum()
        return out


def test_for_a_parameter_of_no_numbers_nothing_is_sent(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        found = []
        for first in (True, False):
            for cap in (1e-9, 25):  # a bucket for each parameter, or one for all
                for name in ("sign", "lowrank", "qsgd", "identity"):
                    grads, sent = [], []
                    for bare in (False, True):
                        model = WithNothing(first)
                        if bare:
                            model.nothing.requires_grad_(False)
                        shared = DistributedDataParallel(model, bucket_cap_mb=cap)
                        state = ErrorFeedbackState(SPECS[name])
                        shared.register_comm_hook(state, error_feedback_hook)
                        for step in range(2):
                            shared.zero_grad()
                            shared(
                                torch.randn(2, 5, generator=torch.Generator().manual_seed(rank + 2 * step))
                            ).backward()
                        again = ErrorFeedbackState(SPECS[name])
                        again.load_state_dict(state.state_dict(model), model)
                        grads.append([each.grad for each in model.layer.parameters()])
                        sent.append(state.bytes_sent)
                    found.append([name, *grads, *sent])
        return found

    for name, mine, bare, sent, least in among(2, work, tmp_path)[0]:
        assert sent == least > 0, name
        assert all(torch.equal(a, b) for a, b in zip(mine, bare, strict=True)), name


def test_a_model_that_moves_after_loading_trains_on(tmp_path: Path, states: dict[str, Any]) -> None:
    def work(rank: int) -> Any:
        found = []
        for name in NAMES:
            state, model = ErrorFeedbackState(SPECS[name]), Net().double()
            state.load_state_dict(states[name], model)
            model.float()
            shared = DistributedDataParallel(model, find_unused_parameters=True)
            shared.register_comm_hook(state, error_feedback_hook)
            shared(torch.ones(2, 5)).sum().backward()
            found.append(
                all(
                    bool(torch.isfinite(each.grad).all()) and each.grad.dtype == torch.float32
                    for each in model.first.parameters()
                )
            )
        return found

    assert among(1, work, tmp_path) == [[True] * len(NAMES)]


class Wide:
    """Sends far more than it was given."""

    def encode(self, z: Tensor, u: Any = None, warm: Any = None) -> Tensor:
        return z * torch.finfo(z.dtype).max

    def decode(self, payload: Tensor, d: int, dtype: torch.dtype, u: Any = None) -> Tensor:
        return payload

    def bits(self, d: int, itemsize: int) -> int:
        return 8 * itemsize * d

    def delta(self, d: int) -> float:
        return 0.0


def test_what_overflows_is_not_remembered(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        state = ErrorFeedbackState(Wide())
        model = nn.Linear(3, 1)
        shared = DistributedDataParallel(model)
        shared.register_comm_hook(state, error_feedback_hook)
        shared(torch.full((1, 3), 10.0)).sum().backward()
        saved = state.state_dict(model)
        state.load_state_dict(saved, model)
        return saved["kept"]["weight"]["error"]

    assert torch.equal(among(1, work, tmp_path)[0], torch.zeros(1, 3))


@pytest.mark.parametrize(
    "settings",
    [
        {"start_iter": -1},
        {"start_iter": "2"},
        {"start_iter": 1.5},
        {"seed": -1},
        {"seed": None},
        {"compressor": 5},
        {"compressor": None},
        {"compressor": Wide},
    ],
)
def test_settings_that_no_hook_can_have_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(settings))}="):
        ErrorFeedbackState(**settings)


def test_a_saved_state_needs_no_pickle(states: dict[str, Any]) -> None:
    content = io.BytesIO()
    torch.save(states["lowrank"], content)
    content.seek(0)
    assert same(torch.load(content, weights_only=True), states["lowrank"])
