"""A scenario that says that nobody knows its minimisers: no comparator is sought, and the cost stands in the regrets' place."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import distopt
from distopt.catalog import entries, registry
from distopt.checks import check_scenario
from distopt.cli.main import cli
from distopt.costs import comparator, newton
from distopt.errors import InputError
from distopt.metrics import catalogue
from distopt.numerics.random import Key
from distopt.numerics.trees import default_dtype
from distopt.runs.recording import Recording
from distopt.scenarios.quadratic import Quadratic

NETWORK = '''
import torch

H = 4  # hidden units


class Network:
    """f_i,t(x) = mean of (v . tanh(W z + c) - y)^2 / 2 over the five samples of agent i in round t: a two-layer network."""

    dim = 4 * H
    comparator = False

    def batch(self, t, key):
        z = key.normal("network.input", 10, t).unflatten(-1, (5, 2))
        return z, torch.sin(z[..., 0] + 0.01 * t) * z[..., 1]

    def start(self, key):
        return 0.5 * key.shared.normal("network.start", self.dim)[0]

    def accuracy(self, x, b):
        return ((self.out(x, b[0])[0] > 0) == (b[1] > 0)).double().mean(-1)

    def persistence(self, b):
        return (b[1] > 0).double().mean(-1)

    def out(self, x, z):
        w, c, v = x[..., : 2 * H].unflatten(-1, (H, 2)), x[..., 2 * H : 3 * H], x[..., 3 * H :].unsqueeze(-2)
        a = torch.tanh((w.unsqueeze(-3) * z.unsqueeze(-2)).sum(-1) + c.unsqueeze(-2))  # [R, n, 5, H]
        return (a * v).sum(-1), a, v

    def loss(self, x, b):
        return 0.5 * (self.out(x, b[0])[0] - b[1]).square().mean(-1)

    def grad(self, x, b):
        out, a, v = self.out(x, b[0])
        e = ((out - b[1]) / 5).unsqueeze(-1)
        back = e * v * (1 - a.square())
        w = (back.unsqueeze(-1) * b[0].unsqueeze(-2)).sum(-3).flatten(-2)
        return torch.cat([w, back.sum(-2), (e * a).sum(-2)], -1)
'''
COMPARES = {name for name, metric in catalogue().items() if metric.compares}


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of the scenario's file; nothing may seek a minimiser of it."""
    monkeypatch.chdir(tmp_path)
    Path("network.py").write_text(NETWORK)

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a minimiser was sought")

    monkeypatch.setattr(comparator, "newton", refused)
    monkeypatch.setattr(newton, "newton", refused)
    return "network.py"


def ask(scenario: str, **more: Any) -> dict[str, Any]:
    return {"agents": 4, "scenario": scenario, "rounds": 60, "trials": 2, "mode": "eager"} | more


def test_the_check_knows_it(network: str) -> None:
    made = registry.make("scenarios", network)
    check_scenario(made)
    with pytest.raises(AssertionError, match="comparator must be True or False, not 0"):
        check_scenario(type("Network", (type(made),), {"comparator": 0})())
    with pytest.raises(AssertionError, match="comparator = False, but it has an optimum"):
        check_scenario(type("Network", (type(made),), {"optimum": lambda self, b: torch.zeros(1, 1, self.dim)})())


def test_what_compares_is_left_out_and_the_cost_is_there(network: str) -> None:
    run = distopt.simulate("ring", algorithm="gtadam:lr=0.02", record="x", **ask(network))
    assert set(run.metrics) == {
        "accuracy",
        "accuracy_last_label",
        "bits",
        "consensus_error",
        "cost",
        "gradients",
        "messages",
        "tracker_invariant",
    }
    stored = {name for name in COMPARES if catalogue()[name].stored}
    assert stored <= run.info["left_out"].keys()
    with pytest.raises(KeyError, match="dynamic_regret is not in this run: the minimisers of the scenario are unknown"):
        _ = run["dynamic_regret"]
    assert run["cost"][:, -10:].mean() < 0.5 * run["cost"][:, :10].mean(), "it learns nothing"
    # the cost is F_t at the network average, from the definition
    scenario = registry.make("scenarios", network)
    with default_dtype(torch.float64):
        data = scenario.batch(torch.arange(60).reshape(-1, 1, 1, 1), Key(0, range(4), range(2), 4))
    mean = torch.from_numpy(run["x"]).mean(2, keepdim=True)  # [R, T + 1, 1, d]
    for t in (0, 7, 59):
        truth = scenario.loss(mean[:, t].expand(-1, 4, -1), tuple(leaf[t] for leaf in data)).sum(-1)
        assert np.allclose(run["cost"][:, t], truth.numpy(), rtol=1e-12)


def test_threads_ranks_grids_and_agentwise_give_the_same_bits(network: str) -> None:
    one = distopt.simulate("ring", algorithm="gt:lr=0.05", **ask(network))
    for more in ({"engine": "threads:workers=2"}, {"engine": "ranks:workers=2"}, {"agentwise": True}, {"trials": 2}):
        other = distopt.simulate("ring", algorithm="gt:lr=0.05", **ask(network, **more))
        assert one.metrics.keys() == other.metrics.keys()
        assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one.metrics), more
    both = distopt.simulate("ring", algorithm=["gt:lr=0.05", "gt:lr=0.02"], **ask(network))
    assert np.array_equal(both["gt:lr=0.05"]["cost"], one["cost"])


def test_the_table_the_csv_and_the_picture_show_the_cost(network: str) -> None:
    words = "simulate ring --agents 4 --rounds 60 --trials 2 --eager --out out --algorithm gt:lr=0.05 --algorithm dgd:lr=0.05"
    result = CliRunner().invoke(cli, [*words.split(), "--scenario", network], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert re.search(r"^algorithm +cost +spread", result.stdout, re.M) and "regret  " not in result.stdout
    assert result.stdout.count(" *") == 1
    assert (
        "left out: the dynamic regret, the regrets at each agent's own point, the static regret: the minimisers"
        in result.stdout
    )
    assert Path("out/cost.png").stat().st_size > 10_000 and not Path("out/regret.png").exists()
    with Path("out/summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    runs = distopt.load("out")
    assert isinstance(runs, dict) and rows[0].keys() >= {"cost", "spread", "accuracy", "consensus_error"}
    assert not [key for key in rows[0] if "regret" in key]
    for row in rows:
        assert float(row["cost"]) == pytest.approx(runs[row["algorithm"]]["cost"].mean(), rel=1e-12)


def test_a_run_is_resumed_with_the_same_bits(network: str) -> None:
    """It stops in the middle, goes on on another engine, and is as one that nothing disturbed."""
    whole = distopt.simulate("ring", algorithm="gt:lr=0.05", **ask(network))
    where = Path("half")

    class Interrupted(Exception):
        pass

    take = Recording.take

    def interrupted(self: Any, chunk: Any) -> None:
        if chunk.start >= 40:
            raise Interrupted
        take(self, chunk)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Recording, "take", interrupted)
        distopt.simulate("ring", algorithm="gt:lr=0.05", out=where, checkpoint_every=20, **ask(network))
    resumed = distopt.resume(where, engine="threads:workers=2")
    assert np.array_equal(resumed["cost"], whole["cost"]) and resumed.metrics.keys() == whole.metrics.keys()


def test_a_sweep_shows_it(network: str) -> None:
    Path("sweep.toml").write_text(
        f'topology = "ring"\nagents = 4\nscenario = "{network}"\nalgorithm = "gt:lr=0.05"\nrounds = 20\n'
    )
    words = ["sweep", "sweep.toml", "--workers", "1", "--out", "swept", "--eager", "--set", "seed=0,1"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0 and "cost" in result.output, result.output


def test_a_users_metric_that_compares_is_left_out(network: str) -> None:
    class Mine:
        def value(self, seen: Any) -> Any:
            return seen["cost"] - seen.reference.cost

    class Own:
        def value(self, seen: Any) -> Any:
            return 2 * seen["cost"]

    run = distopt.simulate("ring", algorithm="gt:lr=0.05", metrics=[Mine(), Own()], **ask(network))
    assert "mine" not in run and np.array_equal(run["own"], 2 * run["cost"]) and "mine" in run.info["left_out"]


def test_the_catalogue_says_it(monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    assert "comparator = False" in entries.entry("metrics", "tracking_error").text
    assert "comparator = False" not in entries.entry("metrics", "consensus_error").text
    monkeypatch.setattr(registry, "files", lambda kind: {"network": Path(network)})
    assert "Its minimisers are unknown" in entries.entry("scenarios", "network").text


def test_other_scenarios_keep_no_cost() -> None:
    run = distopt.simulate("ring", agents=4, scenario="quadratic:dim=2", algorithm="gt", rounds=3)
    assert "cost" not in run.metrics and not catalogue()["cost"].kept(SimpleNamespace(comparator=True))


@pytest.mark.parametrize("said", ["False", "no", 0, 1, torch.tensor(False)])
def test_a_comparator_is_true_or_false(said: Any) -> None:
    class Saying(Quadratic):
        comparator = said

    with pytest.raises(InputError, match="^scenario Saying: comparator must be true or false, got "):
        distopt.simulate("ring", algorithm="dgd", scenario=Saying(), agents=4, rounds=2)
