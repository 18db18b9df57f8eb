"""The Python API as users meet it: their own classes, graphs and matrices, saved runs, divergence, interruption."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment, read_toml
from distopt.runs.execution import Comparison, execute
from distopt.simulation.problem import build


class Pull:
    """A user's scenario that inherits nothing: each agent is pulled to its own moving point."""

    dim = 2

    def batch(self, t: Tensor, key: Any) -> Tensor:
        phase = t / 10 + key.agents[:, None]
        return torch.cat([torch.cos(phase), torch.sin(phase)], -1)

    def loss(self, x: Tensor, b: Tensor) -> Tensor:
        return (x - b).square().sum(-1) / 2

    def grad(self, x: Tensor, b: Tensor) -> Tensor:
        return x - b


class Walk(NamedTuple):
    last: Tensor


class Gossip:
    """A user's algorithm: gossip and descend."""

    channels = ("x",)

    def init(self, x: Tensor) -> Walk:
        return Walk(torch.zeros_like(x))

    def update(self, g: Tensor, state: Walk, x: Tensor, mix: Any) -> tuple[Tensor, Walk]:
        return mix("x", x) - 0.1 * g, Walk(g)


def small(**changes: Any) -> distopt.Run:
    settings: dict[str, Any] = {"agents": 4, "scenario": Pull(), "algorithm": Gossip(), "rounds": 20}
    return distopt.simulate(changes.pop("topology", "ring"), **{**settings, **changes})


def test_a_users_own_classes_run_and_are_what_they_say() -> None:
    run = small(record=("x", "last"), trials=2)
    assert run["dynamic_regret"].shape == (2, 20) and run["dynamic_regret"].dtype == np.float64
    assert run["x"].shape == (2, 21, 4, 2) and run["last"].shape == (2, 20, 4, 2)
    third = 1 / 3
    w = np.array(
        [[third, third, 0, third], [third, third, third, 0], [0, third, third, third], [third, 0, third, third]]
    )
    x = np.zeros((4, 2))
    for t in range(20):
        assert np.allclose(run["x"][0, t], x, rtol=0, atol=1e-14)
        phase = t / 10 + np.arange(4)
        x = w @ x - 0.1 * (x - np.stack([np.cos(phase), np.sin(phase)], -1))
    assert np.allclose(run["x"][1, 20], x, rtol=0, atol=1e-14)


def test_topology_as_spec_graph_matrix_or_tensor_is_the_same() -> None:
    runs = [small(topology="complete", record="x"), small(topology=nx.complete_graph(4), record="x")]
    matrix = np.full((4, 4), 0.25)
    runs += [small(topology=matrix, record="x"), small(topology=torch.from_numpy(matrix), agents=None, record="x")]
    for run in runs[1:]:
        assert np.allclose(run["x"], runs[0]["x"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("x0", [0.5, np.array([0.5, 0.5]), torch.full((4, 2), 0.5), np.full((1, 4, 2), 0.5)])
def test_starting_points(x0: Any) -> None:
    assert (small(x0=x0, record=("x",))["x"][:, 0] == 0.5).all()


def test_float32_iterates_have_float64_metrics() -> None:
    run, exact = small(dtype="float32", record=("x",)), small(record=("x",))
    assert run["x"].dtype == np.float32 and run["dynamic_regret"].dtype == np.float64
    assert 0 < np.abs(run["x"] - exact["x"]).max() < 1e-5


def test_trials_of_one_run_equal_runs_that_share_them() -> None:
    both = small(scenario="moving_target:motion=walk", trials=3, record=("x",))
    one = small(scenario="moving_target:motion=walk", trials=1, record=("x",))
    assert np.array_equal(both["x"][:1], one["x"]) and not np.array_equal(both["x"][1], both["x"][0])


def test_longer_runs_begin_like_shorter_ones() -> None:
    long, short = small(rounds=300, record="x"), small(rounds=20, record="x")
    assert np.array_equal(long["x"][:, :21], short["x"])
    assert np.allclose(long["dynamic_regret"][:, :20], short["dynamic_regret"], rtol=1e-10)


def test_one_agent_is_the_centralised_baseline() -> None:
    run = small(agents=1, topology="ring", record=("x",))
    x = np.zeros(2)
    for t in range(20):
        x = x - 0.1 * (x - np.array([np.cos(t / 10), np.sin(t / 10)]))
    assert np.allclose(run["x"][0, -1, 0], x, rtol=0, atol=1e-14)
    assert run["consensus_error"].max() == 0


def test_saved_runs_load_equal(tmp_path: Path) -> None:
    run = small(record=("x", "last"), trials=2)
    run.save(tmp_path / "r")
    again = distopt.load(tmp_path / "r")
    assert isinstance(again, distopt.Run) and again.status == "done" and again.label == "gossip"
    assert list(again) == list(run)
    for name in run:
        assert np.array_equal(again[name], run[name]), name
    assert again.info["fingerprint"] == run.info["fingerprint"] and "torch" in again.info["versions"]


def test_pandas_table() -> None:
    run = small(trials=2, every=5)
    table = run.to_pandas()
    assert len(table) == 2 * 4 and table["round"].tolist() == [4, 9, 14, 19] * 2
    assert table.query("trial == 1 and round == 14")["dynamic_regret"].item() == run["dynamic_regret"][1, 2]


def test_divergence_is_marked_with_its_round_and_keeps_what_was(tmp_path: Path) -> None:
    experiment = Experiment("ring", 4, "quadratic", "dgd:lr=50", rounds=2000, record=("x",))
    run = execute(experiment, folder=tmp_path / "d")
    assert run.status == "diverged"
    at = run.info["diverged_at"]
    assert 0 < at < 2000 and run.rounds[-1] == at - 1
    assert np.isfinite(run["x"]).all() and np.isfinite(run["dynamic_regret"]).all()
    loaded = distopt.load(tmp_path / "d")
    assert (
        isinstance(loaded, distopt.Run)
        and loaded.status == "diverged"
        and np.array_equal(loaded["dynamic_regret"], run["dynamic_regret"])
    )


def test_interruption_leaves_a_loadable_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distopt.costs.data.LONGEST_BLOCK", 8)

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "rounds" and done >= 24:
            raise KeyboardInterrupt

    experiment = Experiment("ring", 4, "quadratic", "gt:lr=0.05", rounds=400)
    with pytest.raises(KeyboardInterrupt) as caught:
        execute(experiment, folder=tmp_path / "i", progress=stop)
    whole = execute(experiment)
    loaded = distopt.load(tmp_path / "i")
    assert isinstance(loaded, distopt.Run) and loaded.status == "interrupted" and len(loaded.rounds) == 24
    assert np.array_equal(loaded["dynamic_regret"], whole["dynamic_regret"][:, :24])
    assert caught.value.runs[0].status == "interrupted"


def test_a_session_shares_data_and_comparator() -> None:
    experiment = Experiment("ring", 4, "quadratic", "gt:lr=0.05", rounds=30)
    comparison = Comparison.of(build(experiment))
    calls = 0
    solve = comparison.comparator._solve

    def counted(b: int) -> Any:
        nonlocal calls
        calls += 1
        return solve(b)

    comparison.comparator._solve = counted
    first, second = execute(experiment, comparison=comparison), execute(experiment, comparison=comparison)
    assert calls == 1 and np.array_equal(first["dynamic_regret"], second["dynamic_regret"])
    assert np.array_equal(first["dynamic_regret"], execute(experiment)["dynamic_regret"])


def test_missing_names_say_what_there_is() -> None:
    run = small()
    with pytest.raises(KeyError, match="accuracy is not in this run: the scenario is no classification"):
        run["accuracy"]
    with pytest.raises(KeyError, match="the algorithm has no tracker"):
        run["tracker_invariant"]
    with pytest.raises(KeyError, match="it has: .*dynamic_regret"):
        run["regrets"]


def test_agentwise_regrets_are_left_out_when_large_and_kept_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distopt.metrics.AGENTWISE_LIMIT", 16)
    with pytest.raises(KeyError, match="agentwise=True"):
        small()["dynamic_regret_worst"]
    assert small(agentwise=True)["dynamic_regret_worst"].shape == (1, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds=0: must be at least 1"),
        ({"rounds": 2.5}, "rounds=2.5 is not a whole number"),
        ({"agents": 0}, "agents=0: must be at least 1"),
        ({"trials": -1}, "trials=-1"),
        ({"every": 0}, "every=0"),
        ({"seed": -3}, "seed=-3"),
        ({"dtype": "float16"}, "dtype='float16': must be one of float64, float32"),
        ({"drop_links": 1.0}, r"drop_links=1.0: must be a probability in \[0, 1\)"),
        ({"topology": "rign"}, r"no 'rign' among the topologies \(did you mean .*ring"),
        ({"scenario": "movin_target"}, "did you mean moving_target"),
        ({"algorithm": "gtadam:lrr=0.1"}, r"algorithm gtadam: no parameter 'lrr' \(did you mean lr"),
        ({"algorithm": "gtadam:lr=fast"}, "algorithm gtadam: lr=fast is not a number"),
        ({"algorithm": "gtadam:lr=-1"}, "lr"),
        ({"algorithm": Gossip}, r"Gossip was given as a class; give an object of it, as in Gossip\(\)"),
        ({"algorithm": object()}, "object cannot be used among the algorithms: it has no 'init'"),
        ({"scenario": object()}, "object cannot be used among the scenarios: it has no 'batch'"),
        ({"channel": "exakt"}, "did you mean exact"),
        ({"weights": "metropolys"}, "metropolis"),
        ({"x0": np.zeros((3, 2))}, r"x0 has shape \[3, 2\]"),
        ({"x0": np.nan}, "x0 is not finite"),
        ({"x0": "far"}, "x0='far': must be a number"),
        ({"record": ("q",)}, "record=q: the algorithm's state has no such leaf .*the state has: last"),
        ({"topology": np.full((4, 4), 0.5)}, "sum"),
        ({"topology": np.eye(4)}, "connected"),
        ({"topology": nx.path_graph(3)}, "has 3 agents, not 4"),
        ({"topology": 7}, "topology=7: must be a name such as ring, or the path of a file"),
    ],
)
def test_bad_input_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


def test_algorithm_that_needs_doubly_stochastic_weights_refuses_others() -> None:
    rows = np.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])
    with pytest.raises(InputError, match="column"):
        small(topology=rows, agents=3, algorithm="gt:lr=0.1")
    assert small(topology=rows, agents=3, algorithm="dgd:lr=0.1").status == "done"


def test_unknown_channel_names_and_double_sends_are_told() -> None:
    class Twice(Gossip):
        def update(self, g: Tensor, state: Walk, x: Tensor, mix: Any) -> tuple[Tensor, Walk]:
            return mix("x", mix("x", x)), state

    class Other(Gossip):
        def update(self, g: Tensor, state: Walk, x: Tensor, mix: Any) -> tuple[Tensor, Walk]:
            return mix("y", x), state

    with pytest.raises(InputError, match="sends 'x' twice in one round"):
        small(algorithm=Twice())
    with pytest.raises(InputError, match="sends 'y', which its channels"):
        small(algorithm=Other())


def test_a_users_file_serves_in_place_of_a_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Mine:\n    lr: float = 0.1\n    channels = ('x',)\n"
        "    def init(self, x):\n        return ()\n    def update(self, g, state, x, mix):\n        return mix('x', x) - self.lr * g, state\n"
    )
    mine, known = small(algorithm=f"{file}:lr=0.3", record=("x",)), small(algorithm="dgd:lr=0.3", record=("x",))
    assert np.array_equal(mine["x"], known["x"])
    before = mine.info["fingerprint"]
    file.write_text(file.read_text() + "# changed\n")
    assert small(algorithm=f"{file}:lr=0.3").info["fingerprint"] != before
    file.write_text("import nothing_of_the_kind\n")
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        small(algorithm=str(file))


def test_toml_round_trip_and_fingerprint(tmp_path: Path) -> None:
    experiment = Experiment(
        "ring", 8, "moving_target", "gtadam:lr=0.01", rounds=50, trials=2, record=("x", "s"), x0=0.5
    )
    path = tmp_path / "e.toml"
    path.write_text(experiment.to_toml())
    assert read_toml(path) == [experiment] and read_toml(path)[0].fingerprint() == experiment.fingerprint()
    path.write_text(experiment.to_toml().replace('"gtadam:lr=0.01"', '["gt", "dgd"]'))
    assert [e.algorithm for e in read_toml(path)] == ["gt", "dgd"]
    for text, message in [
        ("topology = ", "not TOML"),
        ('topolgy = "ring"', "no setting 'topolgy'"),
        ("agents = 4", "topology is missing"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_toml(path)
    with pytest.raises(InputError, match="Python object"):
        Experiment("ring", 4, Pull(), "gt").to_toml()


def test_fingerprints_differ_with_every_setting() -> None:
    base: dict[str, Any] = {"topology": "ring", "agents": 4, "scenario": "quadratic", "algorithm": "gt", "rounds": 10}
    changes: list[dict[str, Any]] = [
        {"topology": "path"},
        {"agents": 5},
        {"scenario": "quadratic:dim=3"},
        {"algorithm": "dgd"},
        {"rounds": 11},
        {"trials": 2},
        {"seed": 1},
        {"dtype": "float32"},
        {"every": 2},
        {"x0": 1.0},
        {"x0": np.ones(10)},
        {"x0": np.zeros(10)},
        {"weights": "max_degree"},
        {"drop_links": 0.1},
        {"record": ("x",)},
        {"scenario": Pull()},
        {"algorithm": Gossip()},
        {"topology": np.eye(4)},
        {"topology": nx.path_graph(4)},
    ]
    prints = [Experiment(**{**base, **change}).fingerprint() for change in [{}, *changes]]
    assert len(set(prints)) == len(prints)


def test_torn_and_foreign_files_are_refused(tmp_path: Path) -> None:
    run = small()
    run.save(tmp_path / "r")
    with pytest.raises(InputError, match="holds another run"):
        small(rounds=5).save(tmp_path / "r")
    chunk = next((tmp_path / "r").glob("chunk-*.npz"))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        distopt.load(tmp_path / "r")
    manifest = tmp_path / "r" / "manifest.json"
    manifest.write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        distopt.load(tmp_path / "r")
    manifest.write_text("{")
    with pytest.raises(InputError, match="manifest"):
        distopt.load(tmp_path / "r")
    with pytest.raises(InputError, match="no such folder"):
        distopt.load(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty and holds no run"):
        run.save(tmp_path / "other")


def test_pickle_in_a_chunk_is_not_loaded(tmp_path: Path) -> None:
    small().save(tmp_path / "r")
    chunk = next((tmp_path / "r").glob("chunk-*.npz"))
    np.savez(chunk, rounds=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="damaged or not a chunk"):
        distopt.load(tmp_path / "r")


@dataclass(frozen=True)
class Bounded(Pull):
    rounds: int = 7


def test_rounds_beyond_the_data_are_refused_and_default_to_their_length() -> None:
    assert len(small(scenario=Bounded(), rounds=None).rounds) == 7
    with pytest.raises(InputError, match="last 7 rounds"):
        small(scenario=Bounded(), rounds=8)
