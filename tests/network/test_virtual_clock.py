"""The virtual clock against times that are counted round by round, and what it leaves as it is."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.asking import TOML, call, one
from helpers.battery import Case, differences, on, posed, threads
from helpers.surviving import same_folders, short, struck

import distopt
from distopt.engines.workers.partition import Partition
from distopt.errors import InputError
from distopt.experiment import Experiment, read_toml
from distopt.network.clock import Clock, ticking
from distopt.network.graphs import graph_from_edges
from distopt.network.lengths import measured
from distopt.report import series
from distopt.simulation.problem import build

COMPUTE, LATENCY, BANDWIDTH = 2e-3, 5e-3, 1e5
CLOCK = f"compute={COMPUTE},latency={LATENCY},bandwidth={BANDWIDTH}"
ASK: dict[str, Any] = {"agents": 6, "scenario": "moving_target:dim=3", "rounds": 8, "trials": 2, "seed": 3}
KILOMETRES = {(0, 1): 100.0, (1, 2): 700.0, (2, 3): 300.0, (3, 4): 2000.0, (4, 5): 40.0, (0, 5): 900.0, (1, 4): 0.0}
ROADS = measured(graph_from_edges(6, list(KILOMETRES)), list(KILOMETRES), list(KILOMETRES.values()))


def lasted(run: Any) -> np.ndarray:
    """Seconds of each round [R, T]."""
    seconds: np.ndarray = np.diff(run["simulated_seconds"], axis=1, prepend=0.0)
    return seconds


@pytest.mark.parametrize(
    ("algorithm", "channel", "gradients", "bits"),
    [
        ("dgd", "exact", 1, 3 * 64),
        ("gt", "exact", 1, 2 * 3 * 64),
        ("k_gt:local=3", "exact", 3, 2 * 3 * 64),
        ("gt", "choco:compressor=sign", 1, 2 * (64 + 8)),
        ("gt_storm", "exact", 2, 2 * 3 * 64),
    ],
)
def test_a_round_lasts_its_gradients_and_a_message(algorithm: str, channel: str, gradients: int, bits: int) -> None:
    run = distopt.simulate("ring", algorithm=algorithm, channel=channel, clock=CLOCK, **ASK)
    assert run["bits"][0, 0] == bits
    expected = COMPUTE * gradients + LATENCY + bits / BANDWIDTH
    np.testing.assert_allclose(lasted(run), expected, rtol=1e-12)


def test_a_message_for_one_neighbour_takes_its_own_bits() -> None:
    run = distopt.simulate("star", algorithm="powergossip", clock=CLOCK, **ASK)
    message = run["bits"][0, 0] / 5  # the hub has five links
    np.testing.assert_allclose(lasted(run), COMPUTE + LATENCY + message / BANDWIDTH, rtol=1e-12)


def test_rounds_without_an_exchange_take_no_time_to_send() -> None:
    run = distopt.simulate("ring", algorithm="prox_skip:p=0.4", clock=CLOCK, **{**ASK, "rounds": 40})
    sent = np.diff(run["messages"], axis=1, prepend=0.0) > 0
    assert 0.2 < sent.mean() < 0.6
    np.testing.assert_allclose(
        lasted(run), np.where(sent, COMPUTE + LATENCY + 192 / BANDWIDTH, COMPUTE), rtol=1e-10, atol=0
    )


def test_an_agent_alone_sends_nothing() -> None:
    run = distopt.simulate("ring", algorithm="gt", clock=CLOCK, **{**ASK, "agents": 1})
    np.testing.assert_allclose(lasted(run), COMPUTE, rtol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"drop_links": 0.6}, {"sleep": 0.5}, {"drop_messages": 0.5}], ids=str)
@pytest.mark.parametrize("algorithm", ["dgd", "push_diging"])
def test_the_slowest_link_that_is_there_decides(algorithm: str, settings: Mapping[str, float]) -> None:
    if algorithm == "push_diging" and "drop_links" in settings:
        algorithm = "gt"  # out-degrees and links that fail do not go together
    ask = {**ASK, "rounds": 30}
    run = distopt.simulate(ROADS, algorithm=algorithm, clock=f"latency=length,bandwidth={BANDWIDTH}", **settings, **ask)
    network = build(Experiment(ROADS, algorithm=algorithm, **settings, **ask)).network
    t = torch.arange(30).reshape(-1, 1, 1, 1)
    seconds, bits = np.zeros((2, 30)), run["bits"][0, 0]
    for table in [mixing.sent(t) for mixing in network.mixings]:
        for r in range(2):
            for k in range(30):
                index = table.index[min(k, len(table.index) - 1), min(r, table.index.shape[1] - 1)]
                weight = table.weight[min(k, len(table.weight) - 1), min(r, table.weight.shape[1] - 1)]
                there = [
                    KILOMETRES[min(i, j), max(i, j)]
                    for i in range(6)
                    for j, w in zip(index[i].tolist(), weight[i].tolist(), strict=True)
                    if w != 0 and i != j
                ]
                if there:
                    seconds[r, k] = max(seconds[r, k], max(there) / 200_000 + bits / BANDWIDTH)
    np.testing.assert_allclose(lasted(run), seconds, rtol=1e-9, atol=1e-15)
    changes = "drop_links" in settings or "sleep" in settings
    assert (len(np.unique(seconds)) > 2) == changes, "what is lost takes its time, what is not sent takes none"


def test_lengths_of_a_complete_graph() -> None:
    pairs = [(i, j) for i in range(4) for j in range(i)]
    graph = measured(graph_from_edges(4, pairs), pairs, [100.0 * (i + j) for i, j in pairs])
    run = distopt.simulate(graph, scenario="quadratic", algorithm="dgd", rounds=2, clock="latency=length")
    np.testing.assert_allclose(run["simulated_seconds"], [[0.0025, 0.005]], rtol=1e-12)


def test_it_changes_nothing_else() -> None:
    plain, timed = (distopt.simulate("ring", algorithm="gt", **ASK, **more) for more in ({}, {"clock": CLOCK}))
    assert set(timed.metrics) - set(plain.metrics) == {"simulated_seconds"}
    for name in plain.metrics:
        np.testing.assert_array_equal(plain[name], timed[name])
    with pytest.raises(KeyError):
        plain["simulated_seconds"]
    bare, clocked = (Experiment("ring", algorithm="gt", **ASK, clock=clock) for clock in ("", CLOCK))
    assert "clock" not in bare.describe() and bare.fingerprint() != clocked.fingerprint()
    assert clocked.fingerprint() == Experiment("ring", algorithm="gt", **ASK, clock=ticking(CLOCK)).fingerprint()


def test_a_graph_without_lengths_keeps_its_fingerprint() -> None:
    told = Experiment(graph_from_edges(3, [[0, 1], [1, 2]]), None, "quadratic", "gt").describe()["topology"]
    assert "lengths" not in told and "names" in told
    assert "lengths" in Experiment(ROADS, None, "quadratic", "gt").describe()["topology"]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"clock": "compute=fast"}, "clock: compute='fast' is not a number"),
        ({"clock": "compute=1,compute=2"}, "compute is given twice"),
        ({"clock": "speed=1"}, "its keys are compute, latency, bandwidth"),
        ({"clock": "1e-3"}, "its keys are"),
        ({"clock": 3}, "must be a text"),
        ({"clock": "compute=-1"}, "0 or more"),
        ({"clock": "bandwidth=0"}, "above 0"),
        ({"clock": "compute=0"}, "nothing costs any time"),
        ({"clock": "compute=length"}, "compute='length' is not a number"),
        ({"clock": "latency=length"}, "does not know the lengths"),
        ({"clock": "latency=length", "topology": "one_peer_exponential"}, "does not know the lengths"),
        ({"clock": CLOCK, "delay": 2}, "clock and delay do not go together"),
        (
            {"clock": CLOCK, "algorithm": "ef_sgd", "topology": "star"},
            "averages on a server, whose answers are not counted",
        ),
    ],
)
def test_what_it_cannot_tell_is_refused(ask: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        distopt.simulate(**{"topology": "ring", "algorithm": "gt", **ASK, "agents": 8, **ask})


def test_a_clock_reads_what_it_writes() -> None:
    for text in ("compute=0.1", "latency=length", "compute=1e-09,latency=0.30000000000000004,bandwidth=12345678"):
        assert str(Clock.of(text)) == text and Clock.of(str(Clock.of(text))) == Clock.of(text)


@pytest.mark.parametrize("settings", [{"drop_links": 0.5}, {}], ids=str)
def test_engines_agree(settings: dict[str, Any]) -> None:
    case = Case("prox_skip:lr=0.01,p=0.5", "exact", "moving_target:dim=3", "float64", 2)
    problems = posed(case, network="ring", clock=CLOCK, **settings)
    alone = on(problems)
    assert "simulated_seconds" in alone.run.metrics
    assert differences(alone, on(problems, threads(Partition.even(problems[0].agents, 3)))) == []


def test_points_of_a_grid_and_several_methods_have_times_of_their_own() -> None:
    runs = distopt.simulate("ring", algorithm=["dgd:lr=[0.1,0.2]", "k_gt:local=2"], clock="compute=1", **ASK)
    assert [run["simulated_seconds"][0, -1] for run in runs.values()] == [8.0, 8.0, 16.0]


@pytest.mark.usefixtures("own_folder")
def test_a_resumed_run_goes_on_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ["simulate", "ring", "--agents", "4", "--scenario", "moving_target", "--trials", "2", "--rounds", "40"]
    ask += ["--algorithm", "prox_skip:p=0.5", "--clock", CLOCK]
    assert call(*ask, "--out", "a").exit_code == 0
    short(monkeypatch)
    with struck(18):
        assert call(*ask, "--out", "b", "--checkpoint-every", "5").exit_code == 143
    assert call("resume", "b").exit_code == 0
    same_folders("a", "b")


@pytest.mark.usefixtures("own_folder")
def test_it_is_a_setting_of_files_tables_sweeps_and_pages() -> None:
    Path("one.toml").write_text(f'{TOML}algorithm = "gt"\nclock = "{CLOCK}"\n')
    (experiment,) = read_toml(Path("one.toml"))
    Path("two.toml").write_text(experiment.to_toml())
    assert read_toml(Path("two.toml"))[0].fingerprint() == experiment.fingerprint()
    assert call("simulate", "one.toml", "--out", "run").exit_code == 0
    run = one("run")
    (row,) = csv.DictReader(Path("run/summary.csv").read_text().splitlines())
    assert float(row["simulated_seconds"]) == run["simulated_seconds"][0, -1]
    assert series.along(run, "simulated_seconds").shape == run["bits"].shape
    assert call("report", "run", "--page-only").exit_code == 0
    text = Path("run/report/report.html").read_text()
    assert "simulated seconds" in text and "--clock compute=0.002,latency=0.005,bandwidth=100000" in text
    done = call("sweep", "one.toml", "--set", f"clock='{CLOCK}','compute=1'", "--out", "sweep")
    assert done.exit_code == 0, done.output
    ends = [row["simulated_seconds"] for row in csv.DictReader(Path("sweep/sweep.csv").read_text().splitlines())]
    assert float(ends[0]) == run["simulated_seconds"][0, -1] and float(ends[1]) == 20.0


@pytest.mark.parametrize("name", ["topozoo/Abilene", "sndlib/polska"])
def test_topohub_knows_its_lengths(name: str) -> None:
    import topohub

    from distopt.topologies.topohub import topohub as ours

    graph, read = ours(name=name), topohub.get(name)
    number = {node["id"]: i for i, node in enumerate(read["nodes"])}
    theirs = {tuple(sorted((number[e["source"]], number[e["target"]]))): e["dist"] for e in read["edges"]}
    assert graph.lengths is not None and graph.lengths.max() > 300
    assert dict(zip(map(tuple, graph.edges.tolist()), graph.lengths.tolist(), strict=True)) == theirs


GRAPHML = """<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><key id="d0" for="edge" attr.name="Length"/>
<key id="d1" for="edge" attr.name="weight"/><graph edgedefault="undirected"><node id="b"/><node id="a"/><node id="c"/>
<edge source="b" target="a"><data key="d1">7</data><data key="d0">30.5</data></edge>
<edge source="c" target="b">{}</edge></graph></graphml>"""
GML = "graph [ node [ id 2 ] node [ id 1 ] node [ id 3 ] edge [ source 2 target 1 dist 30.5 ] edge [ source 3 target 2 {} ] ]"


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize(
    ("suffix", "text", "said"), [("graphml", GRAPHML, '<data key="d0">{}</data>'), ("gml", GML, "length {}")]
)
def test_graph_files_say_lengths(tmp_path: Path, suffix: str, text: str, said: str, directed: bool) -> None:
    from distopt.topologies.file import file

    path = tmp_path / f"graph.{suffix}"
    if directed and suffix == "gml":
        text = "graph [ directed 1 edge [ source 1 target 2 dist 40 ] edge [ source 2 target 3 ] " + text[8:]
    path.write_text(text.format(said.format("12")))
    graph = file(path=str(path), directed=directed)
    assert graph.lengths is not None and graph.edges.tolist() == [[0, 1], [1, 2]]
    assert graph.lengths.tolist() == [30.5, 12.0]
    path.write_text(text.format(""))
    assert file(path=str(path), directed=directed).lengths is None, "a link without one"
    path.write_text(text.format(said.format("-1")))
    with pytest.raises(InputError, match=r"has the length -1; give kilometres"):
        file(path=str(path), directed=directed)


@pytest.mark.usefixtures("own_folder")
def test_a_page_of_runs_with_and_without_a_clock_shows_both() -> None:
    from distopt.report import page

    runs = [distopt.simulate("ring", algorithm="gt", **ASK, clock=clock) for clock in ("", CLOCK)]
    text = page.write(runs, "report").read_text()
    (data,) = [part.split(">", 1)[1] for part in text.split("<script")[1:] if 'id="data"' in part.split(">", 1)[0]]
    shown = json.loads(data.split("</script>")[0])["groups"][0]
    assert [run["name"] for run in shown["runs"]] == ["gt, clock none", f"gt, clock {ticking(CLOCK)}"]


def test_tuned_methods_say_what_they_take() -> None:
    ask = {**ASK, "rounds": 12, "report_trials": 2, "grid": [0.02, 0.05], "clock": "compute=1"}
    rows = distopt.tune("ring", algorithm=["gt", "k_gt:local=3"], **ask).rows()
    assert {row["given"]: row["simulated_seconds"] for row in rows} == {"gt": 12.0, "k_gt:local=3": 12.0}
