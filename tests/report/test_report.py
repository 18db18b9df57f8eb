from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from distopt.errors import InputError
from distopt.network.graphs import Arcs, graph_from_edges, graph_from_matrix, graph_from_networkx
from distopt.numerics.random import Key
from distopt.report import axes, curves, network, tables
from distopt.runs.manifest import Status
from distopt.runs.results import Run


def run(metrics: dict[str, Any], status: Status = "done", label: str = "gt") -> Run:
    arrays = {name: np.atleast_2d(np.asarray(values, dtype=np.float64)) for name, values in metrics.items()}
    length = next(iter(arrays.values())).shape[1]
    info = {"experiment": {"topology": "ring", "scenario": "sea"}, "agents": 16, "left_out": {}}
    return Run(label, status, np.arange(length), arrays, {}, info)


def line_of(fig: Any, points: int) -> tuple[Any, Any]:
    """x and y of the first line with so many points."""
    return next(
        (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
        for line in fig.axes[0].lines
        if len(line.get_xdata()) == points
    )


def texts(fig: Any) -> str:
    return "\n".join([t.get_text() for t in fig.texts] + [t.get_text() for axes in fig.axes for t in axes.texts])


# ------------------------------------------------------------------------------------------------------------------ curves


def test_line_is_the_mean_and_band_the_extremes() -> None:
    values = np.array([[4.0, 6.0, 9.0], [2.0, 2.0, 3.0]])
    fig = curves.figure({"gt": run({"dynamic_regret": values})}, "average_dynamic_regret")
    (axes,) = fig.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    x, y = line_of(fig, 3)
    np.testing.assert_array_equal(x, [1, 2, 3])
    np.testing.assert_allclose(y, [3.0, 2.0, 2.0])
    corners = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert {(float(a), float(b)) for a, b in corners} >= {
        (1.0, 2.0),
        (1.0, 4.0),
        (2.0, 1.0),
        (2.0, 3.0),
        (3.0, 1.0),
        (3.0, 3.0),
    }
    assert "2 trials" in texts(fig)
    assert "smallest to largest" in texts(fig)
    assert "ring, 16 agents" in texts(fig)
    assert "sea" in texts(fig)


def test_baselines_are_named_and_grey() -> None:
    metrics = {"dynamic_regret": [1.0, 2.0], "regret_best_fixed": [3.0, 6.0], "regret_previous_optimum": [0.0, 1.0]}
    fig = curves.figure({"gt": run(metrics)}, "average_dynamic_regret")
    grey = [line for line in fig.axes[0].lines if line.get_color() == curves.SOFT and line.get_linewidth() > 1]
    assert np.asarray(grey[0].get_ydata()).tolist() == [3.0, 3.0]
    assert np.asarray(grey[1].get_ydata())[1] == 0.5
    assert [line.get_linestyle() for line in grey] == ["--", "--"], "dashes of their own, none solid"
    assert "best fixed point" in texts(fig)
    assert "previous optimum\n(hindsight)" in texts(fig), "broken where it is too long"


def test_few_values_of_zero_are_masked_and_counted() -> None:
    values = np.ones(100)
    values[[40, 41]] = 0.0, -1.0
    fig = curves.figure({"gt": run({"consensus_error": values})}, "consensus_error")
    assert fig.axes[0].get_yscale() == "log"
    _, y = line_of(fig, 100)
    assert np.isnan(y[[40, 41]]).all()
    assert "2 of gt" in texts(fig)


def test_negative_values_get_an_axis_that_can_show_them() -> None:
    fig = curves.figure({"gt": run({"static_regret": [1.0, -10.0, -100.0, -1000.0]})}, "static_regret")
    assert fig.axes[0].get_yscale() == "symlog"
    assert "linear between" in texts(fig)
    low, high = fig.axes[0].get_ylim()
    assert low < -1000
    assert high > 1


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.5], "log"),
        ([0.0], "linear"),
        ([0.0, 0.0], "linear"),
        ([math.nan, math.nan], "linear"),
        ([], "linear"),
        ([1.0, math.nan, 1.0], "log"),
    ],
)
def test_degenerate_runs_draw(values: list[float], scale: str, tmp_path: Path) -> None:
    fig = curves.figure({"gt": run({"consensus_error": values})}, "consensus_error")
    fig.savefig(tmp_path / "a.png")
    assert fig.axes[0].get_yscale() == scale
    if not np.isfinite(values).any():
        assert "Nothing to draw of: gt" in texts(fig)


def test_a_diverged_run_neither_flattens_the_others_nor_hides(tmp_path: Path) -> None:
    wild = run({"consensus_error": np.geomspace(1, 1e300, 50)}, "diverged")
    fig = curves.figure({"calm": run({"consensus_error": np.geomspace(1, 1e-3, 100)}), "wild": wild}, "consensus_error")
    fig.savefig(tmp_path / "a.png")
    low, high = fig.axes[0].get_ylim()
    assert low < 1e-3
    assert 1 < high < 1e4
    assert "(diverged) ↑" in texts(fig).replace("\n", " ")
    assert any(line.get_marker() == "X" for line in fig.axes[0].lines)


def test_a_missing_metric_is_named() -> None:
    both = {"gt": run({"tracker_invariant": [1e-16, 1e-16], "bits": [1.0, 2.0]}), "dgd": run({"bits": [1.0, 2.0]})}
    fig = curves.figure(both, "tracker_invariant")
    assert "No such metric: dgd" in texts(fig)
    with pytest.raises(InputError, match="no run has the metric 'regrets'; metrics: bits, tracker_invariant"):
        curves.figure(both, "regrets")


def test_accuracy_is_the_mean_so_far() -> None:
    fig = curves.figure({"gt": run({"accuracy": [0.0, math.nan, 1.0, 0.5]})}, "accuracy")
    _, y = line_of(fig, 4)
    np.testing.assert_allclose(y, [0.0, 0.0, 0.5, 0.5])


def test_a_million_rounds_are_thinned_but_keep_their_ends() -> None:
    fig = curves.figure({"gt": run({"consensus_error": np.linspace(2, 1, 10**6)})}, "consensus_error")
    x = max((np.asarray(line.get_xdata()) for line in fig.axes[0].lines), key=len)
    assert 1000 < len(x) <= 2001
    assert x[[0, -1]].tolist() == [1, 10**6]


def test_labels_stand_apart_and_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(1, 9))
        wanted, heights = rng.random(n).tolist(), rng.uniform(0.03, 0.11, n).tolist()
        places = axes.spread(wanted, heights)
        order = np.argsort(places)
        below = np.array(places)[order] + np.array(heights)[order] / 2
        above = np.array(places)[order] - np.array(heights)[order] / 2
        assert (below[:-1] <= above[1:] + 1e-9).all()
        assert above[0] > -0.1
        assert below[-1] < 1.1


def test_dollar_signs_are_no_mathematics(tmp_path: Path) -> None:
    fig = curves.figure({"$x_$": run({"bits": [1.0, 2.0]}), "a$b": run({"bits": [1.0, 3.0]})}, "bits")
    fig.savefig(tmp_path / "a.png")


@pytest.mark.parametrize("scale", [1e-14, 1e-9, 1.0, 1e12])
def test_the_margins_of_an_axis_around_0_are_in_decades(scale: float, tmp_path: Path) -> None:
    values = scale * np.array([1.0, -10.0, -100.0, -1000.0])
    fig = curves.figure({"gt": run({"static_regret": values})}, "static_regret")
    fig.savefig(tmp_path / "a.png")
    low, high = fig.axes[0].get_ylim()
    assert -5000 * scale < low < -1000 * scale
    assert scale < high < 10 * scale


@pytest.mark.parametrize("metric", ["average_dynamic_regret", "dynamic_regret"])
@pytest.mark.parametrize("several", [False, True])
def test_baselines_of_rounding_noise_are_not_drawn(metric: str, several: bool, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-15, 40)
    metrics = {
        "dynamic_regret": np.linspace(1, 2, 40),
        "regret_best_fixed": noise,
        "regret_previous_optimum": np.zeros(40),
    }
    runs = {"gt": run(metrics)}
    if several:
        runs["wild"] = run({"dynamic_regret": np.geomspace(1, 1e300, 40)}, "diverged")
    fig = curves.figure(runs, metric)
    fig.savefig(tmp_path / "a.png")
    assert fig.axes[0].get_yscale() == "log"
    assert fig.axes[0].get_ylim()[0] > 1e-2
    assert "Zero up to rounding, not drawn: best fixed point, previous optimum (hindsight)." in texts(fig)
    assert not [line for line in fig.axes[0].lines if line.get_color() == curves.SOFT]


def test_baselines_do_not_choose_where_the_axis_is_linear(tmp_path: Path) -> None:
    base = np.where(np.arange(40) < 35, 1e-14, 1e-3)
    metrics = {"dynamic_regret": np.where(np.arange(40) % 2, 1.0, -1.0), "regret_best_fixed": base}
    fig = curves.figure({"gt": run(metrics)}, "dynamic_regret")
    fig.savefig(tmp_path / "a.png")
    assert fig.axes[0].get_yscale() == "symlog"
    assert fig.axes[0].yaxis.get_transform().linthresh == 1.0
    assert max(map(abs, fig.axes[0].get_ylim())) < 10


def test_values_near_the_largest_number_draw(tmp_path: Path) -> None:
    for values in (np.geomspace(1e-300, 1e300, 50), -np.geomspace(1e-300, 1e300, 50)):
        fig = curves.figure({"gt": run({"dynamic_regret": values})}, "dynamic_regret")
        fig.savefig(tmp_path / "a.png")
        assert np.isfinite(fig.axes[0].get_ylim()).all()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["quadratic", "moving_target:speed=0,radius=0"])
def test_static_scenarios_draw_whatever_the_seed(scenario: str, tmp_path: Path) -> None:
    import distopt

    for seed in range(12):
        done = distopt.simulate(
            "ring", agents=4, scenario=scenario, algorithm="gtadam", rounds=20, seed=seed, mode="eager"
        )
        for metric in ("average_dynamic_regret", "static_regret", "consensus_error"):
            fig = curves.figure({"gtadam": done}, metric)
            fig.savefig(tmp_path / f"{metric}-{seed}.png")
            assert np.isfinite(fig.axes[0].get_ylim()).all()


# ------------------------------------------------------------------------------------------------------------------ tables


def test_csv_keeps_every_digit() -> None:
    import csv
    import io

    value = 0.1 + 0.2
    (row,) = csv.DictReader(
        io.StringIO(tables.to_csv([{"algorithm": "gt:lr=1,b=2", "regret": value, "spread": math.nan}]))
    )
    assert row["algorithm"] == "gt:lr=1,b=2"
    assert float(row["regret"]) == value
    assert row["spread"] == ""


@pytest.mark.parametrize("value", [9999.6, 999.96, 0.00099999, 1e-300, -12.3456, 123456.0])
def test_numbers_are_short_and_right(value: float) -> None:
    text = tables.number(value)
    assert len(text) <= 9
    assert float(text) == pytest.approx(value, rel=0.05)


# ----------------------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize(
    "G", [nx.cycle_graph(9), nx.star_graph(6), nx.petersen_graph(), nx.path_graph(7), nx.complete_graph(5)]
)
def test_portrait_agrees_with_networkx_and_numpy(G: Any) -> None:
    what = network.portrait(graph_from_networkx(G))
    degrees = [d for _, d in G.degree()]
    assert what.degrees == pytest.approx((min(degrees), np.mean(degrees), max(degrees)))
    assert what.diameter == str(nx.diameter(G))
    n = len(G)
    W = np.zeros((n, n))
    for a, b in G.edges():
        W[a, b] = W[b, a] = 1 / (1 + max(degrees[a], degrees[b]))
    W += np.diag(1 - W.sum(1))
    second = sorted(np.abs(np.linalg.eigvalsh(W)))[-2]
    assert what.second == pytest.approx(second, abs=1e-12)
    assert what.gap == pytest.approx(1 - second, abs=1e-12)


class Alternating:
    """Two perfect matchings of four agents in turn."""

    agents = 4

    def arcs(self, t: torch.Tensor, key: Key) -> Arcs:
        rounds = t.reshape(-1).numpy()
        receiver, sender = [], []
        for k in rounds:
            pairs = [(0, 1), (2, 3)] if k % 2 == 0 else [(1, 2), (0, 3)]
            both = pairs + [(b, a) for a, b in pairs]
            receiver += [a for a, _ in both]
            sender += [b for _, b in both]
        where = np.repeat(np.arange(len(rounds)), 4)
        trials = len(key.trials)
        ids = np.tile(np.arange(trials), len(where))
        repeat = [np.repeat(np.asarray(v), trials) for v in (where, receiver, sender)]
        return Arcs(repeat[0], ids, repeat[1], repeat[2])


def test_portrait_of_a_network_that_changes() -> None:
    what = network.portrait(Alternating())
    assert what.degrees == (1, 1.0, 1)
    assert what.presence.tolist() == [0.5] * 4
    assert (what.rounds, what.diameter) == (network.ROUNDS, "2")
    assert what.second == pytest.approx(0.5)  # the mean W has 1/2 on the diagonal and 1/4 for each of the two partners
    assert "mean W" in texts(network.figure(what, "alternating"))


def test_layouts() -> None:
    ring = network.layout(network.portrait(graph_from_networkx(nx.cycle_graph(12))))
    np.testing.assert_allclose(np.hypot(*ring.T), 1.0)
    given = np.array([[0.0, 0.0], [3.0, 1.0], [5.0, 5.0]])
    np.testing.assert_array_equal(network.layout(network.portrait(graph_from_edges(3, [[0, 1], [1, 2]], given))), given)
    star = network.layout(network.portrait(graph_from_networkx(nx.star_graph(8))))
    np.testing.assert_array_equal(star[0], 0.0)
    for graph in (nx.gnp_random_graph(40, 0.2, seed=1), nx.random_labeled_tree(200, seed=1), nx.empty_graph(1)):
        where = network.layout(network.portrait(graph_from_networkx(graph)))
        assert where.shape == (len(graph), 2)
        assert np.isfinite(where).all()
        assert len(np.unique(where.round(9), axis=0)) == len(graph)


def test_pictures_of_every_size(tmp_path: Path) -> None:
    for n in (1, 2, 3, 400):
        graph = graph_from_networkx(nx.path_graph(n))
        fig = network.figure(network.portrait(graph), "path")
        network.save(fig, tmp_path / f"{n}.png")
        links = [c for c in fig.axes[0].collections if hasattr(c, "get_segments")]
        assert sum(len(c.get_segments()) for c in links) == n - 1
    W = np.full((3, 3), 1 / 3)
    assert network.portrait(graph_from_matrix(W)).own_weights
