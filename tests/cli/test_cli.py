from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from helpers.asking import ASK, TOML, call, many, one

import distopt
from distopt import engines
from distopt.catalog import registry
from distopt.cli import listing
from distopt.engines.transports.gloo import TIMEOUT

pytestmark = pytest.mark.usefixtures("own_folder")


# ------------------------------------------------------------------------------------------------- what a command imports


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["list"], ["list", "algorithms"], ["list", "gtadam"], ["simulate", "--help"]]
)
def test_light_commands_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom distopt.cli.main import cli\n"
        f"try:\n    cli({words!r})\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "heavy = {'torch', 'ray', 'matplotlib', 'networkx', 'numpy', 'scipy', 'pandas'} & set(sys.modules)\n"
        "sys.stderr.write('heavy: ' + ' '.join(sorted(heavy)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "heavy: "
    assert done.stdout.strip()


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "distopt", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"distopt {distopt.__version__}\n"


# -------------------------------------------------------------------------------------------------------------- simulating


def test_one_algorithm_writes_a_run_a_table_and_a_figure() -> None:
    result = call(*ASK, "--trials", "3", "--record", "x,s", "--seed", "5", "--eager")
    assert result.exit_code == 0, result.output
    (folder,) = Path("runs").iterdir()
    run = one(folder)
    assert (run.status, run.label, run.trials) == ("done", "gtadam", 3)
    assert folder.name == f"ring-4-moving_target-{run.info['fingerprint'][:8]}"
    assert run["x"].shape == (3, 21, 4, 2)
    assert run["s"].shape == (3, 20, 4, 2)
    expected = distopt.simulate(
        "ring",
        agents=4,
        scenario="moving_target",
        algorithm="gtadam",
        rounds=20,
        trials=3,
        seed=5,
        record=["x", "s"],
        mode="eager",
    )
    np.testing.assert_array_equal(run["dynamic_regret"], expected["dynamic_regret"])
    np.testing.assert_array_equal(run["x"], expected["x"])

    with (folder / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    last = expected["dynamic_regret"][:, -1] / 20
    assert float(row["average_dynamic_regret"]) == pytest.approx(last.mean(), rel=1e-14)
    assert float(row["spread"]) == pytest.approx(last.std(ddof=1), rel=1e-12)
    assert (folder / "regret.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert f"{last.mean():.3g}" in result.stdout
    assert "best fixed" in result.stdout
    assert "previous optimum (hindsight)" in result.stdout
    assert str(folder / "regret.png") in result.stdout
    assert "gtadam: round 20 of 20" in result.stderr
    assert not list(folder.rglob("*part*"))


def test_all_options_reach_the_experiment() -> None:
    options = {"trials": 2, "seed": 3, "weights": "lazy_metropolis", "every": 7, "dtype": "float32", "channel": "exact"}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    assert call(*ASK, *words, "--drop-links", "0.25", "--algorithm", "dgd:lr=0.1", "--out", "o").exit_code == 0
    run = one("o")
    what = run.info["experiment"]
    expected = {**options, "drop_links": 0.25, "algorithm": "dgd:lr=0.1", "topology": "ring", "agents": 4, "rounds": 20}
    assert {key: what[key] for key in expected} == expected
    assert run.rounds.tolist() == [6, 13, 19]


def test_several_algorithms_share_the_comparator_and_load_by_label() -> None:
    result = call(*ASK, "--algorithm", "gtadam", "--algorithm", "dgd:lr=0.1", "--algorithm", "gt", "--out", "o")
    assert result.exit_code == 0, result.output
    runs = many("o")
    assert list(runs) == ["gtadam", "dgd:lr=0.1", "gt"]
    for name in ("regret_best_fixed", "regret_previous_optimum", "path_length"):
        for run in runs.values():
            np.testing.assert_array_equal(run[name], runs["gt"][name])
    alone = distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="dgd:lr=0.1", rounds=20)
    np.testing.assert_array_equal(runs["dgd:lr=0.1"]["dynamic_regret"], alone["dynamic_regret"])
    with Path("o/summary.csv").open() as file:
        assert [row["algorithm"] for row in csv.DictReader(file)] == list(runs)
    assert json.loads(Path("o/manifest.json").read_text())["format"] == 1


def test_labels_that_make_the_same_folder_name_do_not_collide() -> None:
    # ":" and "(" both become "-"
    result = call(*ASK, "--algorithm", "dgd:0.1", "--algorithm", "dgd(0.1)", "--algorithm", "dgd: 0.1", "--out", "o")
    assert result.exit_code == 0, result.output
    assert sorted(many("o")) == ["dgd(0.1)", "dgd: 0.1", "dgd:0.1"]


@pytest.mark.slow
def test_the_same_command_overwrites_itself_and_nothing_else() -> None:
    for words in ([], ["--algorithm", "gt", "--algorithm", "dgd"]):
        first, second = call(*ASK, *words), call(*ASK, *words)
        assert (first.exit_code, second.exit_code) == (0, 0), second.output
    assert len(list(Path("runs").iterdir())) == 2
    assert call(*ASK, "--seed", "1").exit_code == 0
    assert len(list(Path("runs").iterdir())) == 3


def test_a_users_algorithm_by_path() -> None:
    Path("mine.py").write_text(
        "class Mine:\n"
        "    channels = ('x',)\n"
        "    def __init__(self, lr: float = 0.1): self.lr = lr\n"
        "    def init(self, x): return ()\n"
        "    def update(self, g, state, x, mix): return mix('x', x) - self.lr * g, state\n"
    )
    result = call(*ASK, "--algorithm", "./mine.py:lr=0.05", "--algorithm", "dgd:lr=0.05", "--out", "o")
    assert result.exit_code == 0, result.output
    runs = many("o")
    np.testing.assert_allclose(
        runs["./mine.py:lr=0.05"]["dynamic_regret"], runs["dgd:lr=0.05"]["dynamic_regret"], rtol=1e-12
    )
    assert "mine:lr=0.05" in result.stdout


def test_table_fits_eighty_columns() -> None:
    from distopt.report import tables

    row = {
        "algorithm": "gtadam:lr=0.05,b1=0.9,b2=0.999,eps=1e-08,cap=1000000.0,form=atc",
        "status": "done",
        "rounds": 10**6,
        "average_dynamic_regret": 1.23456e-5,
        "spread": 1.23e-6,
        "consensus_error": 1.2e-16,
        "tracker_invariant": 2.2e-16,
        "bits_per_agent": 1.28e11,
        "rounds_per_second": 12345.6,
        "accuracy": 0.7912,
        "average_regret_best_fixed": 0.5,
        "average_regret_previous_optimum": 0.25,
        "accuracy_best_fixed": 0.6,
        "accuracy_last_label": 0.7,
    }
    lines = tables.text([row], 80).splitlines()
    assert max(map(len, lines)) <= 80
    names = "".join(line[:13].strip() for line in lines[2:-6])
    assert names == row["algorithm"], "a broken name loses nothing"
    assert [line.split() for line in lines[-6:]] == [
        ["best", "fixed", "0.5", "60.0", "%"],
        ["point"],
        ["previous", "0.25"],
        ["optimum"],
        ["(hindsight)"],
        ["last", "label", "70.0", "%"],
    ]
    assert len(tables.text([row]).splitlines()) == 6, "on a pipe nothing is broken"


# ---------------------------------------------------------------------------------------------------------------- TOML


def test_toml_round_trip() -> None:
    assert call(*ASK, "--algorithm", "gt:lr=0.05", "--trials", "2", "--out", "a").exit_code == 0
    assert call("simulate", "a/experiment.toml", "--out", "b").exit_code == 0
    a, b = one("a"), one("b")
    assert a.info["fingerprint"] == b.info["fingerprint"]
    np.testing.assert_array_equal(a["dynamic_regret"], b["dynamic_regret"])


def test_toml_with_a_list_and_options_over_it() -> None:
    Path("e.toml").write_text(TOML + 'algorithm = ["gt", "dgd"]\nseed = 1\n')
    assert call("simulate", "e.toml", "--out", "a").exit_code == 0
    assert list(many("a")) == ["gt", "dgd"]
    assert (
        call("simulate", "e.toml", "--out", "b", "--seed", "2", "--rounds", "5", "--algorithm", "extra").exit_code == 0
    )
    run = one("b")
    assert (run.label, run.info["experiment"]["seed"], run.info["rounds"]) == ("extra", 2, 5)
    Path("none.toml").write_text(TOML)
    assert call("simulate", "none.toml", "--algorithm", "gt", "--out", "c").exit_code == 0


# ------------------------------------------------------------------------------------------------------------ list and show


def test_list_all_and_one_kind() -> None:
    everything = call("list").stdout
    for kind in registry.KINDS:
        assert f"{kind}\n" in everything
    one_kind = call("list", "algorithms").stdout
    assert "topologies" not in one_kind
    (line,) = [line for line in one_kind.splitlines() if line.startswith("  gtadam")]
    spec, sentence = line.strip().split("\t")
    assert sentence
    assert call(*ASK, "--algorithm", spec).exit_code == 0, "what is listed can be pasted"


def test_list_explains_a_name_with_its_recursion_parameters_papers_and_example() -> None:
    page = call("list", "gtadam").stdout
    for part in (
        "gtadam, one of the algorithms\n",
        "    v_t = min(b2 v_{t-1} + (1 - b2) s_t^2, cap)               v_{-1} = 0\n",
        '  form  cta        "cta" | "atc"\n',
        "  [carnevale2023] Carnevale, Farina, Notarnicola, Notarstefano: GTAdam: Gradient\n",
        "  distopt simulate ring --agents 16 --algorithm gtadam:lr=0.01\n",
        "  >>> algorithm, x = gtadam(lr=0.1), torch.zeros(1, 2, 1)\n",
    ):
        assert part in page
    assert page.index("Parameters") < page.index("Papers") < page.index("Use") < page.index("Example")
    assert call("list", "gtadam:lr=0.1").stdout == page
    both = call("list", "powergossip").stdout
    assert "one of the algorithms" in both and "one of the channels" in both
    wrong = call("list", "gtadm")
    assert wrong.exit_code == 2 and "did you mean gtadam" in wrong.stderr and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_on_a_terminal_columns_are_aligned_and_fit(columns: int) -> None:
    for kind in registry.KINDS:
        found = [listing.entries.entry(kind, name) for name in registry.names(kind)]
        for parameters in (False, True):
            rows = [click.unstyle(line) for line in listing.lines(found, columns, parameters)]
            assert max(map(len, rows)) <= columns
            starts = [row for row in rows if row[2] != " "]
            assert [row.split()[0] for row in starts] == registry.names(kind)
            (at,) = {re.match(r"  \S+ +", row).end() for row in starts}
            assert all(row[:at].strip() == "" for row in rows if row not in starts)


def test_engines_are_listed_as_they_are_asked_for() -> None:
    entries = [line.strip().split("\t") for line in call("list", "engines").stdout.splitlines()[1:]]
    assert [spec.split(":")[0] for spec, _ in entries] == ["local", "ranks", "ray", "threads"]
    for spec, sentence in entries:
        engines.check(spec, agents=16)
        assert sentence
    assert f"ranks:workers=None,timeout={TIMEOUT},partition=contiguous,backend=gloo" in dict(entries)


def test_an_empty_kind_reads_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "folder", lambda kind: Path("nowhere"))
    result = call("list", "compressors")
    assert result.exit_code == 0
    assert "no compressors" in result.stdout


def test_show_prints_what_closed_forms_say() -> None:
    result = call("show", "ring", "--agents", "10", "--out", "r.png")
    assert result.exit_code == 0, result.output
    rows = dict(line.strip().rsplit(None, 1) for line in result.stdout.splitlines() if line.startswith("  "))
    assert (rows["agents"], rows["links"], rows["degree"], rows["diameter"]) == ("10", "10", "2", "5")
    second = (1 + 2 * np.cos(2 * np.pi / 10)) / 3  # eigenvalues of the ring's Metropolis weights, 1/3 each
    assert float(rows["spectral gap"]) == pytest.approx(1 - second, rel=1e-5)
    assert Path("r.png").stat().st_size > 1000
    assert call("show", "star", "--agents", "5").exit_code == 0
    assert Path("star-5.png").exists()


def test_show_says_that_links_fail() -> None:
    text = call("show", "ring", "--agents", "6", "--drop-links", "0.5").stdout
    assert "time-varying                      yes" in text
