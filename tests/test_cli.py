from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click.testing
import numpy as np
import pytest

import distopt
from distopt.cli import cli
from distopt.experiment import Experiment
from distopt.results import Run

ASK = ["simulate", "ring", "--agents", "4", "--scenario", "moving_target", "--rounds", "20"]
TOML = 'topology = "ring"\nagents = 4\nscenario = "moving_target"\nrounds = 20\n'


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTOPT_TRACEBACK", raising=False)


def call(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, list(words))


def one(path: str | Path) -> Run:
    run = distopt.load(path)
    assert isinstance(run, Run)
    return run


def many(path: str | Path) -> dict[str, Run]:
    runs = distopt.load(path)
    assert isinstance(runs, dict)
    return runs


# ------------------------------------------------------------------------------------------------- what a command imports


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list"], ["list", "algorithms"], ["simulate", "--help"]])
def test_light_commands_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom distopt.cli import cli\n"
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
    expected = distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="gtadam", rounds=20, trials=3, seed=5, record=["x", "s"])
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
    assert "no change" in result.stdout
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
    for name in ("regret_best_fixed", "regret_no_change", "path_length"):
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
    np.testing.assert_allclose(runs["./mine.py:lr=0.05"]["dynamic_regret"], runs["dgd:lr=0.05"]["dynamic_regret"], rtol=1e-12)
    assert "mine:lr=0.05" in result.stdout


def test_table_fits_eighty_columns() -> None:
    from distopt.report import tables

    row = {
        "algorithm": "gtadam:lr=0.05,b1=0.9,b2=0.999,eps=1e-08,cap=1000000.0,form=atc", "status": "done", "rounds": 10**6,
        "average_dynamic_regret": 1.23456e-5, "spread": 1.23e-6, "consensus_error": 1.2e-16, "tracker_invariant": 2.2e-16,
        "bits_per_agent": 1.28e11, "rounds_per_second": 12345.6, "accuracy": 0.7912,
        "average_regret_best_fixed": 0.5, "average_regret_no_change": 0.25, "accuracy_best_fixed": 0.6, "accuracy_no_change": 0.7,
    }  # fmt: skip
    lines = tables.text([row], 80).splitlines()
    assert max(map(len, lines)) <= 80
    names = "".join(line[:13].strip() for line in lines[2:-2])
    assert names == row["algorithm"], "a broken name loses nothing"
    assert lines[-1].split() == ["no", "change", "0.25", "70.0", "%"]
    assert len(tables.text([row]).splitlines()) == 5, "on a pipe nothing is broken"


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
    assert call("simulate", "e.toml", "--out", "b", "--seed", "2", "--rounds", "5", "--algorithm", "extra").exit_code == 0
    run = one("b")
    assert (run.label, run.info["experiment"]["seed"], run.info["rounds"]) == ("extra", 2, 5)
    Path("none.toml").write_text(TOML)
    assert call("simulate", "none.toml", "--algorithm", "gt", "--out", "c").exit_code == 0


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["simulate", "rng", "--agents", "4"], "did you mean ring"),
        (["simulate", "ring", "--agents", "4", "--scenario", "movin_target"], "did you mean moving_target"),
        ([*ASK, "--algorithm", "gtadm"], "did you mean gtadam"),
        ([*ASK, "--algorithm", "gtadam:learning=1"], "no parameter 'learning'"),
        ([*ASK, "--algorithm", "gtadam:lr=fast"], "lr=fast is not a number"),
        ([*ASK, "--algorithm", "gtadam:lr=-1"], "lr"),
        ([*ASK, "--algorithm", "gt", "--algorithm", "gt"], "given twice"),
        ([*ASK, "--algorithm", "gt", "--algorithm", "gtx"], "no 'gtx'"),
        ([*ASK, "--algorithm", "nowhere.py"], "nowhere.py"),
        ([*ASK, "--rounds", "0"], "rounds=0"),
        ([*ASK, "--agents", "0"], "agents=0"),
        ([*ASK, "--trials", "0"], "trials=0"),
        ([*ASK, "--every", "0"], "every=0"),
        ([*ASK, "--seed", "-1"], "seed=-1"),
        ([*ASK, "--dtype", "float16"], "float16"),
        ([*ASK, "--drop-links", "1"], "drop_links"),
        ([*ASK, "--weights", "metropolitan"], "metropolis"),
        ([*ASK, "--channel", "exat"], "did you mean exact"),
        ([*ASK, "--record", "y"], "record=y"),
        (["simulate", "ring", "--scenario", "moving_target"], "how many agents"),
        (["simulate", "nothing.toml"], "No such file"),
        (["list", "algorithm"], "did you mean algorithms"),
        (["show", "rng", "--agents", "4"], "did you mean ring"),
        (["show", "ring"], "how many agents"),
        (["show", "ring", "--agents", "0"], "agents=0"),
        (["show", "ring", "--agents", "4", "--out", "a.xyz"], ".png"),
        (["show", "ring", "--agents", "4", "--out", "no/where.png"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words: list[str], says: str) -> None:
    result = call(*words)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith(("gtadam: round", "comparator: "))]
    assert line.startswith("distopt: ")
    assert says in line
    if "--record" not in words:
        assert not Path("runs").exists(), "nothing is written before the input has been checked"


@pytest.mark.parametrize("words", [["simulat"], [*ASK, "--no-such"], [*ASK, "--rounds", "many"], ["simulate"], [*ASK, "--eager", "--compiled"]])
def test_bad_usage_is_exit_2(words: list[str]) -> None:
    assert call(*words).exit_code == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("topology = ", "not TOML"),
        (TOML.replace('topology = "ring"\n', ""), "topology is missing"),
        (TOML + 'algorithm = "gt"\nround = 5\n', "did you mean rounds"),
        (TOML + "algorithm = []\n", "empty list"),
        (TOML.replace("agents = 4", 'agents = "4"') + 'algorithm = "gt"\n', "agents='4' is not a whole number"),
    ],
)
def test_bad_toml(text: str, says: str) -> None:
    Path("e.toml").write_text(text)
    result = call("simulate", "e.toml")
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_toml_file_has_the_defaults_of_the_command_line() -> None:
    Path("e.toml").write_text(TOML)
    assert call("simulate", "e.toml", "--out", "o").exit_code == 0
    run = distopt.load("o")
    assert isinstance(run, distopt.Run) and run.label == "gtadam"
    assert run.info["fingerprint"] == Experiment("ring", 4, "moving_target", "gtadam", rounds=20).fingerprint()


def test_foreign_and_unwritable_folders_are_left_alone() -> None:
    Path("o").mkdir()
    Path("o/thesis.tex").write_text("years of work")
    result = call(*ASK, "--out", "o")
    assert (result.exit_code, [p.name for p in Path("o").iterdir()]) == (2, ["thesis.tex"])
    assert "o is not empty" in result.stderr

    assert call(*ASK, "--out", "a").exit_code == 0
    before = Path("a/manifest.json").read_bytes()
    for words in (["--seed", "9"], ["--algorithm", "gt", "--algorithm", "dgd"]):
        result = call(*ASK, *words, "--out", "a")
        assert result.exit_code == 2
        assert "another run" in result.stderr
    assert Path("a/manifest.json").read_bytes() == before

    Path("file").write_text("")
    result = call(*ASK, "--out", "file/run")
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert "round" not in result.stderr, "refused before anything is computed"


# ---------------------------------------------------------------------------------------------------------- things go wrong


def test_divergence_is_exit_1_and_the_others_still_run() -> None:
    result = call(*ASK, "--rounds", "600", "--algorithm", "gt:lr=5", "--algorithm", "dgd", "--out", "o")
    assert result.exit_code == 1, result.output
    runs = many("o")
    assert [run.status for run in runs.values()] == ["diverged", "done"]
    at = runs["gt:lr=5"].info["diverged_at"]
    assert f"diverged at round {at}; everything before is kept in o/gt-lr=5; lower lr" in result.stderr
    assert runs["gt:lr=5"].rounds.tolist() == list(range(at))
    assert np.isfinite(runs["gt:lr=5"]["dynamic_regret"]).all()
    assert len(runs["dgd"].rounds) == 600


def test_a_record_that_one_algorithm_cannot_give_is_refused_before_any_runs() -> None:
    result = call(*ASK, "--algorithm", "gt", "--algorithm", "dgd", "--record", "s", "--out", "o")
    assert result.exit_code == 2  # dgd has no tracker to record
    assert "record=s" in result.stderr
    assert not Path("o").exists()


def test_a_mistake_that_shows_late_keeps_what_is_done() -> None:
    Path("late.py").write_text(
        "class Late:\n    channels = ('x',)\n    def init(self, x): return ()\n    def update(self, g, state, x, mix): return mix('y', x), state\n"
    )
    result = call(*ASK, "--algorithm", "gt", "--algorithm", "late.py", "--out", "o")
    assert result.exit_code == 2
    assert "sends 'y'" in result.stderr
    assert many("o")["gt"].status == "done"


def test_unexpected_errors_are_one_line_unless_asked() -> None:
    Path("bad.py").write_text(
        "class Bad:\n    channels = ('x',)\n    def init(self, x): return ()\n    def update(self, g, state, x, mix): return 1 / 0\n"
    )
    result = call(*ASK, "--algorithm", "bad.py")
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.stderr
    assert "--traceback" in result.stderr
    assert "Traceback" not in result.stderr
    shown = call(*ASK, "--algorithm", "bad.py", "--traceback")
    assert shown.exit_code == 1
    assert "bad.py" in shown.stderr
    assert "Traceback" in shown.stderr


def test_warns_of_a_weak_certificate_and_says_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from distopt import metrics
    from distopt.comparator import Comparator

    assert "warning" not in call(*ASK).stderr
    monkeypatch.setattr(Comparator, "certificate", lambda self: 3e-5)
    monkeypatch.setattr(metrics, "AGENTWISE_LIMIT", 1)
    result = call(*ASK, "--seed", "1")
    assert result.exit_code == 0, result.output
    assert "warning: the comparator's relative gradient norm is 3.0e-05" in result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("left out")]
    assert "4^2 costs" in line


def test_a_figure_that_cannot_be_drawn_does_not_cost_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    def fails(self: Figure, *where: object) -> None:
        Path(str(where[0])).write_text("half a picture")
        raise ValueError("no\nink")

    monkeypatch.setattr(Figure, "savefig", fails)
    result = call(*ASK, "--out", "o")
    assert result.exit_code == 0, result.output
    assert "distopt: warning: regret.png could not be drawn: ValueError: no ink\n" in result.stderr
    assert one("o").status == "done"
    assert Path("o/summary.csv").exists()
    assert not list(Path("o").glob("*.png")), "not even half a picture"
    assert "regret.png" not in result.stdout


def test_a_static_scenario_from_end_to_end() -> None:
    for seed in range(2):
        result = call("simulate", "ring", "--agents", "4", "--scenario", "quadratic", "--rounds", "20", "--seed", str(seed), "--eager")
        assert result.exit_code == 0, result.output
        assert "regret.png" in result.stdout


def test_specs_with_quotes_and_paths_with_brackets() -> None:
    Path("d (x)").mkdir()
    Path("d (x)/mine.py").write_text(
        "class Mine:\n"
        "    channels = ('x',)\n"
        "    def __init__(self, lr: float = 0.1): self.lr = lr\n"
        "    def init(self, x): return ()\n"
        "    def update(self, g, state, x, mix): return mix('x', x) - self.lr * g, state\n"
    )
    Path("a,b(1).csv").write_text("x,y\n" + "1,0\n2,1\n3,0\n4,1\n" * 5)
    words = ["simulate", "ring", "--agents", "4", "--scenario", "stream:path='a,b(1).csv',label=y", "--algorithm", "d (x)/mine.py:lr=.2"]
    result = call(*words, "--out", "o")
    assert result.exit_code == 0, result.output
    assert len(one("o").rounds) == 5, "as long as the file"
    assert "mine:lr=.2" in result.stdout
    with Path("a,b(1).csv").open("a") as file:
        file.write("5,0\n")
    assert call(*words, "--out", "o").exit_code == 2, "another file is another experiment"


SLOW = """
import time
class Slow:
    channels = ("x",)
    def init(self, x): return x
    def update(self, g, state, x, mix):
        time.sleep(0.002)
        return mix("x", x) - 0.01 * g, state
"""


@pytest.mark.parametrize("several", [False, True])
def test_ctrl_c_leaves_loadable_runs(several: bool) -> None:
    Path("slow.py").write_text(SLOW)
    rounds = 1000 if several else 3000
    words = ["simulate", "ring", "--agents", "4", "--scenario", "moving_target", "--rounds", str(rounds), "--out", "o"]
    if several:
        words += ["--algorithm", "dgd"]
        Path("slow.py").write_text(SLOW.replace("0.002", "0.02"))
    words += ["--algorithm", "slow.py"]
    process = subprocess.Popen([sys.executable, "-m", "distopt", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    awaited = "dgd: round 1,000 of 1,000" if several else "slow: round"  # all of the first algorithm; some blocks of the only one
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(awaited):
            break
    time.sleep(0.3)  # into the next block
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (lines, out, err)
    assert "Traceback" not in err
    assert "distopt: interrupted; everything before is kept in o" in err
    assert "written: o" in out
    if several:
        runs = many("o")
        assert {label: run.status for label, run in runs.items()} == {"dgd": "done", "slow.py": "interrupted"}
        assert len(runs["dgd"].rounds) == 1000
        return
    run = one("o")
    assert run.status == "interrupted"
    assert 0 < len(run.rounds) < rounds
    assert run.rounds.tolist() == list(range(len(run.rounds)))
    assert np.isfinite(run["dynamic_regret"]).all()
    assert os.path.getsize("o/regret.png") > 1000


# ------------------------------------------------------------------------------------------------------------ list and show


def test_list_all_and_one_kind() -> None:
    everything = call("list").stdout
    for kind in ("topologies", "scenarios", "algorithms", "directions", "channels", "compressors"):
        assert f"{kind}\n" in everything
    one_kind = call("list", "algorithms").stdout
    assert "topologies" not in one_kind
    (line,) = [line for line in one_kind.splitlines() if line.startswith("  gtadam")]
    spec, sentence = line.strip().split("\t")
    assert sentence
    assert call(*ASK, "--algorithm", spec).exit_code == 0, "what is listed can be pasted"


def test_an_empty_kind_reads_well(monkeypatch: pytest.MonkeyPatch) -> None:
    from distopt import catalog

    monkeypatch.setattr(catalog, "folder", lambda kind: Path("nowhere"))
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
