"""What a channel remembers can be recorded as what the algorithm holds: the same on every engine, in grids, and after an interruption."""

from __future__ import annotations

import signal
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.surviving import call, same, short, struck
from torch import Tensor

import distopt
from distopt.channels.choco import Choco
from distopt.compressors.sign import Sign
from distopt.errors import InputError

N, D, ROUNDS = 6, 4, 12
EXPERIMENT: dict[str, Any] = {
    "agents": N,
    "scenario": f"moving_target:dim={D}",
    "algorithm": "dgd:lr=0.1",
    "channel": "error_feedback:compressor=topk(k=1)",
    "rounds": ROUNDS,
    "x0": [0.1, 0.2, 0.3, 0.4],  # without ties, which topk may break as it likes
    "record": "x,memory.x.e",
    "mode": "eager",
}
TRACKING = EXPERIMENT | {
    "algorithm": "gtadam:lr=0.01",
    "channel": "choco:compressor=lowrank(rank=1),gamma=0.2,resync=3",
    "record": "memory.s.copy,memory.s.ledger.said,memory.x.warm,direction.m,x",
}


def alike(one: distopt.Run, other: distopt.Run) -> None:
    """That two runs have the same bits."""
    assert list(one) == list(other)
    assert [name for name in one if not np.array_equal(one[name], other[name], equal_nan=True)] == []


def test_the_error_recorded_is_what_a_loop_finds_in_the_points() -> None:
    run = distopt.simulate("ring", **EXPERIMENT, trials=2)
    x, e = run["x"], run["memory.x.e"]
    assert x.shape == (2, ROUNDS + 1, N, D)
    assert e.shape == (2, ROUNDS, N, D)
    error = np.zeros((2, N, D))
    for t in range(ROUNDS):
        p = x[:, t] + error
        largest = np.abs(p).argmax(-1)[..., None]
        sent = np.zeros_like(p)
        np.put_along_axis(sent, largest, np.take_along_axis(p, largest, -1), -1)
        error = p - sent
        assert np.array_equal(e[:, t], error)
    assert np.abs(e).max() > 0.1


@pytest.mark.parametrize("engine", ["threads:workers=3", pytest.param("ranks:workers=2", marks=needs.forks)])
@pytest.mark.parametrize("settings", [EXPERIMENT, TRACKING], ids=["dgd", "gtadam"])
def test_every_engine_records_the_same_memory(settings: dict[str, Any], engine: str) -> None:
    alone = distopt.simulate("ring", **settings)
    assert all(len(np.unique(alone[name])) > N for name in settings["record"].split(","))
    alike(alone, distopt.simulate("ring", **settings, engine=engine))
    lone = distopt.simulate("ring", **settings | {"record": ""})
    assert np.array_equal(alone["dynamic_regret"], lone["dynamic_regret"])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "threads:workers=2"])
def test_compiled_rounds_record_it_too(engine: str) -> None:
    alone = distopt.simulate("ring", **TRACKING)
    other = distopt.simulate("ring", **TRACKING | {"mode": "compiled"}, engine=engine)
    for name in TRACKING["record"].split(","):
        assert np.allclose(alone[name], other[name], rtol=1e-9, atol=1e-12), name


def test_a_point_of_a_grid_records_what_it_does_alone() -> None:
    runs = distopt.simulate("ring", **TRACKING | {"algorithm": "gtadam:lr=[0.01,0.02]", "trials": 2})
    assert len(runs) == 2
    for label, run in runs.items():
        alike(run, distopt.simulate("ring", **TRACKING | {"algorithm": label, "trials": 2}))


@pytest.mark.usefixtures("own_folder", "no_figures")
def test_it_goes_on_after_an_interruption_and_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TRACKING | {"rounds": 40}
    whole = distopt.simulate("ring", **settings)
    short(monkeypatch)
    with struck(18, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        distopt.simulate("ring", **settings, out="a", checkpoint_every=5)
    same(distopt.resume("a", engine="threads:workers=2"), distopt.load("a"))
    alike(whole, distopt.load("a"))


@pytest.mark.usefixtures("own_folder", "no_figures")
def test_the_command_line_takes_the_same_names() -> None:
    words = (
        "simulate star --agents 5 --scenario moving_target --algorithm ef_signsgd --rounds 4 --eager --out a --record"
    )
    assert call(*words.split(), "memory.step.e").exit_code == 0
    assert distopt.load("a")["memory.step.e"].shape == (1, 4, 5, 2)
    refused = call(*words.replace("--out a", "--out b").split(), "memory.step.f")
    assert refused.exit_code == 2
    assert "record=memory.step.f" in refused.output


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("memory.q.e", "record=memory.q.e: the algorithm has no such channel; it sends: x"),
        ("memory.x", "record=memory.x: not a tensor; choose one of memory.x.e, memory.x.warm"),
        ("memory.x.f", r"record=memory.x.f: the memory of channel 'x' has no such leaf \(it has: e, warm\)"),
        ("memory.x.", r"record=memory.x.: the memory of channel 'x' has no such leaf \(it has: e, warm\)"),
        ("memory.x.e.", r"record=memory.x.e.: the memory of channel 'x' has no such leaf \(it has: e, warm\)"),
        (
            "memory",
            r"record=memory: the algorithm's state has no such leaf .*a channel's memory is called memory\.NAME",
        ),
        ("memory.", "record=memory.: the algorithm has no such channel"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        distopt.simulate("ring", **EXPERIMENT | {"record": name})


def test_a_channel_without_memory_has_nothing_to_record() -> None:
    with pytest.raises(InputError, match="record=memory.x.e: the channel of 'x' remembers nothing"):
        distopt.simulate("ring", **EXPERIMENT | {"channel": "exact"})


class Remembering(NamedTuple):
    """A state whose own field is called memory."""

    memory: Tensor


class Own:
    """Gradient descent that remembers its last gradient."""

    channels = ("x",)

    def init(self, x: Tensor) -> Remembering:
        return Remembering(torch.zeros_like(x))

    def update(self, g: Tensor, state: Remembering, x: Tensor, mix: Any) -> tuple[Tensor, Remembering]:
        return mix("x", x) - 0.1 * g, Remembering(g)


def test_a_state_with_a_field_called_memory_keeps_the_name() -> None:
    settings = EXPERIMENT | {"algorithm": Own(), "channel": "exact"}
    run = distopt.simulate("ring", **settings | {"record": "x,memory"})
    assert run["memory"].shape == (1, ROUNDS, N, D)
    with pytest.raises(InputError, match="record=memory.x: the algorithm's state has no such leaf"):
        distopt.simulate("ring", **settings | {"record": "memory.x"})


class Dotted:
    """Names that only the longest match tells apart, and memory that is a tensor by itself."""

    channels = ("x", "x.e")

    class Counting:
        """A channel that counts its rounds."""

        def init(self, like: Tensor) -> Tensor:
            return torch.zeros_like(like[..., :1])

        def encode(self, z: Tensor, memory: Tensor, u: Tensor | None) -> Tensor:
            return z

        def __call__(
            self, z: Tensor, payload: Tensor, memory: Tensor, wire: Any, u: Any = None
        ) -> tuple[Tensor, Tensor]:
            return wire.weigh(wire.heard(payload)), memory + 1

        def bits(self, d: int, itemsize: int) -> int:
            return 8 * d * itemsize

    def __init__(self) -> None:
        self.channel = {"x": Choco(Sign(), gamma=0.3), "x.e": self.Counting()}

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * mix("x.e", g), state


def test_a_memory_that_is_a_tensor_has_the_name_of_its_channel() -> None:
    run = distopt.simulate(
        "ring", **EXPERIMENT | {"algorithm": Dotted(), "channel": "exact", "record": "memory.x.e,memory.x.copy"}
    )
    assert run["memory.x.e"][0, :, 0, 0].tolist() == list(range(1, ROUNDS + 1))
    assert run["memory.x.copy"].shape == (1, ROUNDS, N, D)
