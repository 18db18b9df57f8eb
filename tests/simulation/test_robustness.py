"""What users' own objects and machines do to a run: odd batches, work in place, reruns, interruptions, other processes."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.runs import writing
from distopt.runs.execution import execute


class Pull:
    """Each agent is pulled to its own moving point."""

    dim = 2

    def batch(self, t: Tensor, key: Any) -> Any:
        phase = t / 10 + key.agents[:, None]
        return torch.cat([torch.cos(phase), torch.sin(phase)], -1)

    def loss(self, x: Tensor, b: Any) -> Tensor:
        return (x - b).square().sum(-1) / 2

    def grad(self, x: Tensor, b: Any) -> Tensor:
        return x - b


def small(topology: Any = "ring", **changes: Any) -> distopt.Run:
    settings: dict[str, Any] = {"agents": 4, "scenario": Pull(), "algorithm": "gt:lr=0.1", "rounds": 20, "record": "x"}
    return distopt.simulate(topology, **{**settings, **changes})


@pytest.mark.parametrize(
    ("record", "names"), [("x,s", ["s", "x"]), ("s", ["s"]), (("x",), ["x"]), (["x", " s"], ["s", "x"]), ("", [])]
)
def test_record_as_text_and_as_names(record: Any, names: list[str]) -> None:
    run = small(record=record)
    assert sorted(run.trajectories) == names
    adam = small(algorithm="gtadam", record="direction.m")
    assert list(adam.trajectories) == ["direction.m"] and adam["direction.m"].shape == (1, 20, 4, 2)


class InPlace:
    """Descends in the very tensors it is handed."""

    channels = ("x",)

    def init(self, x: Tensor) -> Any:
        x += 1  # rude: x_0 must not notice
        return {"steps": torch.zeros_like(x)}

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        x.copy_(mix("x", x))
        g *= 0.1
        x -= g
        state["steps"] += 1
        return x, state


class Polite(InPlace):
    def init(self, x: Tensor) -> Any:
        return {"steps": torch.zeros_like(x)}

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> tuple[Tensor, Any]:
        return mix("x", x) - 0.1 * g, {"steps": state["steps"] + 1}


def test_algorithms_that_work_in_place_leave_a_true_history() -> None:
    rude, polite = small(algorithm=InPlace()), small(algorithm=Polite())
    assert np.allclose(rude["x"], polite["x"], rtol=0, atol=1e-15)
    assert np.allclose(rude["dynamic_regret"], polite["dynamic_regret"], rtol=1e-12)


def test_a_gradient_handed_out_in_one_buffer_is_not_taken_for_the_next() -> None:
    class Buffered(Pull):
        buffer = torch.zeros(1, 4, 2, dtype=torch.float64)

        def grad(self, x: Tensor, b: Any) -> Tensor:
            return self.buffer.copy_(x - b) if x.shape == self.buffer.shape else x - b

    assert np.allclose(small(scenario=Buffered())["x"], small()["x"], rtol=0, atol=1e-15)


class AbsoluteValue(Pull):
    """Not smooth; the optimum of one round is the median, and no fixed point has a vanishing gradient."""

    dim = 1

    def batch(self, t: Tensor, key: Any) -> Any:
        return torch.sin(t / 3) + torch.zeros(1, 1, len(key.agents), 1)

    def loss(self, x: Tensor, b: Any) -> Tensor:
        return (x - b).abs().sum(-1)

    def grad(self, x: Tensor, b: Any) -> Tensor:
        return (x - b).sign()

    def optimum(self, b: Any) -> Tensor:
        return b[:, :, 0]


def test_costs_that_are_not_smooth_run_with_a_given_optimum() -> None:
    run = small(scenario=AbsoluteValue(), algorithm="dgd:lr=0.05", rounds=21)  # odd: the median is a kink
    b, x = np.sin(np.arange(21) / 3), run["x"][0, :21, :, 0]
    assert np.allclose(run["dynamic_regret"][0], (4 * np.abs(x.mean(1) - b)).cumsum(), rtol=1e-12)
    with pytest.raises(KeyError, match="no best fixed point could be certified"):
        run["static_regret"]


def test_a_weak_optimum_is_warned_of() -> None:
    class Wrong(Pull):
        def optimum(self, b: Any) -> Tensor:
            return torch.ones(1, 1, 2)

    with pytest.warns(UserWarning, match="relative gradient norm"):
        small(scenario=Wrong())


class Named(NamedTuple):
    b: Tensor


@dataclass
class Plain:
    b: Tensor


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Named, None),
        (lambda b: {"b": b, "scale": 1.0}, None),
        (lambda b: [b, None], None),
        (Plain, "batch holds a Plain.*NamedTuple"),
        (lambda b: b.numpy(), "batch holds a ndarray.*from_numpy"),
        (lambda b: b[0], r"first three axes must be rounds"),
    ],
)
def test_batches_of_any_nesting_or_a_clear_word(form: Any, message: str | None) -> None:
    class Formed(Pull):
        def batch(self, t: Tensor, key: Any) -> Any:
            return form(super().batch(t, key))

        @staticmethod
        def inner(b: Any) -> Tensor:
            found: Tensor = b["b"] if isinstance(b, dict) else b[0] if isinstance(b, list) else b.b
            return found

        def loss(self, x: Tensor, b: Any) -> Tensor:
            return super().loss(x, self.inner(b))

        def grad(self, x: Tensor, b: Any) -> Tensor:
            return super().grad(x, self.inner(b))

    if message is None:
        assert np.array_equal(small(scenario=Formed())["x"], small()["x"])
    else:
        with pytest.raises(InputError, match=message):
            small(scenario=Formed())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"loss": lambda self, x, b: (x - b).square().sum((-1, -2), keepdim=True)[..., 0]},
            "loss returned one number for each of",
        ),
        ({"grad": lambda self, x, b: (x - b).sum(1, keepdim=True)}, r"grad returned shape \[1, 1, 2\]"),
        ({"optimum": lambda self, b: torch.full((1, 1, 2), torch.nan)}, "optimum is not finite"),
    ],
)
def test_costs_of_a_wrong_form_are_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(scenario=type("Odd", (Pull,), changed)())


def test_users_objects_need_not_be_describable() -> None:
    class Crowded(Pull):
        def __init__(self) -> None:
            self.me, self.when, self.half = self, np.datetime64("2013-01-01"), torch.ones(2, dtype=torch.bfloat16)
            self.graph = nx.MultiGraph([(0, 1), (0, 1)])

    assert np.array_equal(small(scenario=Crowded())["x"], small()["x"])


def test_classes_of_one_name_and_other_code_have_other_fingerprints() -> None:
    def one() -> Any:
        class Same(Pull):
            dim = 2

        return Same()

    def other() -> Any:
        class Same(Pull):
            dim = 3 - 1

        return Same()

    first, second = (Experiment("ring", 4, make(), "gt", rounds=3).fingerprint() for make in (one, other))
    assert first != second and first == Experiment("ring", 4, one(), "gt", rounds=3).fingerprint()


def test_matrices_of_any_kind_are_read() -> None:
    dense = np.full((4, 4), 0.25)
    whole = small(dense)["x"]
    for matrix in (
        dense.tolist(),
        scipy.sparse.csr_array(dense),
        torch.from_numpy(dense).to_sparse(),
        torch.from_numpy(dense).to(torch.bfloat16),
    ):
        assert np.array_equal(small(matrix)["x"], whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topology": [[1, 0], [0.5]]}, "not an .N, N. matrix of numbers"),
        ({"topology": [["a"]]}, "not an .N, N. matrix of numbers"),
        ({"weights": 5}, "weights=5: must be the name of a rule"),
        ({"record": 5}, "record=5: must be names"),
        ({"record": [1]}, r"record=\[1\]: must be names"),
        ({"dtype": ["a"]}, "dtype="),
        ({"x0": 1e300, "dtype": "float32"}, "x0 is not finite in float32"),
    ],
)
def test_wrong_types_are_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**changes)


def test_numpy_numbers_and_tensors_with_gradients_are_fine() -> None:
    start = torch.full((4, 2), 0.5, dtype=torch.float64, requires_grad=True)
    assert (small(x0=start, drop_links=np.float32(0.5), rounds=np.int64(3))["x"][:, 0] == 0.5).all()


@pytest.mark.usefixtures("usual_blocks")
def test_tables_of_a_changing_network_are_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    ask: dict[str, Any] = {"topology": "resampled_erdos_renyi", "agents": 12, "rounds": 60}
    whole = small(**ask)
    monkeypatch.setattr("distopt.simulation.runner.BLOCK_BYTES", 2**13)
    asked: list[int] = []
    tables = distopt.network.network.Network.rows

    def counted(self: Any, t: Tensor) -> Any:
        asked.append(len(t))
        return tables(self, t)

    monkeypatch.setattr("distopt.network.network.Network.rows", counted)
    pieces = small(**ask)
    assert max(asked[-5:]) < 60 and np.array_equal(whole["x"], pieces["x"])
    for name in whole.metrics:
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-12, atol=1e-15)


BASE: dict[str, Any] = {
    "topology": "ring",
    "agents": 4,
    "scenario": "quadratic",
    "algorithm": "gt:lr=0.05",
    "rounds": 600,
    "record": ("x",),
}


@pytest.mark.usefixtures("usual_blocks")
def test_an_interruption_while_writing_leaves_the_right_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, calls = writing.Writer.add, []

    def interrupted(self: Any, *chunk: Any) -> None:
        add(self, *chunk)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(writing.Writer, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(Experiment(**BASE), folder=tmp_path / "r")
    monkeypatch.undo()
    whole, loaded = execute(Experiment(**BASE)), distopt.load(tmp_path / "r")
    assert isinstance(loaded, distopt.Run)
    kept = len(loaded.rounds)
    assert 0 < kept < 600 and loaded.info["completed"] == kept
    assert np.array_equal(loaded["x"], whole["x"][:, : kept + 1])


@pytest.mark.usefixtures("usual_blocks")
def test_a_rerun_replaces_results_only_when_it_has_some(tmp_path: Path) -> None:
    execute(Experiment(**BASE), folder=tmp_path / "r")

    def at_once(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(Experiment(**BASE), folder=tmp_path / "r", progress=at_once)
    kept = distopt.load(tmp_path / "r")
    assert isinstance(kept, distopt.Run) and kept.status == "done" and kept["x"].shape[1] == 601

    def later(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(Experiment(**BASE), folder=tmp_path / "r", progress=later)
    partial = distopt.load(tmp_path / "r")
    assert isinstance(partial, distopt.Run) and partial.status == "interrupted"
    assert partial["x"].shape[1] == len(partial.rounds) + 1
    assert np.array_equal(partial["x"], kept["x"][:, : len(partial.rounds) + 1])
    execute(Experiment(**BASE), folder=tmp_path / "r")
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "r").iterdir())
    assert names == [".lock", "chunk", "experiment.toml", "last", "manifest.json"], (
        "files of earlier runs are left over"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("usual_blocks")
def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    held = writing.Writer(tmp_path / "r", "gt", {"fingerprint": Experiment(**BASE).fingerprint()})
    imports = "from distopt.runs.execution import execute; from distopt.experiment import Experiment; from pathlib import Path"
    script = f"{imports}; execute(Experiment(**{BASE}), folder=Path('r'))"
    second = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "is being written by another run" in second.stderr
    held.close()
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == 0


def test_a_manifest_with_holes_is_refused(tmp_path: Path) -> None:
    small().save(tmp_path / "r")
    (tmp_path / "r" / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="not a run of this version"):
        distopt.load(tmp_path / "r")


def test_newton_walks_far_where_every_step_is_short() -> None:
    """f = cosh(x - b): from far away a Newton step has length 1."""

    class Cosh(Pull):
        dim = 1

        def batch(self, t: Tensor, key: Any) -> Any:
            return torch.where(t < 5, 1.0, 50.0) + torch.zeros(1, 1, len(key.agents), 1)

        def loss(self, x: Tensor, b: Any) -> Tensor:
            return torch.cosh(x - b).sum(-1)

        def grad(self, x: Tensor, b: Any) -> Tensor:
            return torch.sinh(x - b)

    run = small(scenario=Cosh(), algorithm="dgd:lr=0.0001", rounds=8, x0=1.0)
    assert run["tracking_error"][0, :5].max() < 1e-9 and run.info["certificate"] < 1e-9


def test_data_too_short_for_one_round_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "short.csv"
    file.write_text("a,y\n1,0\n2,1\n3,0\n")
    with pytest.raises(InputError, match="do not suffice for one round of 4 agents"):
        small(scenario=f"stream:{file},label=y", rounds=None)
