"""Every command and every Python block of the README and of the pages in docs/ runs, as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from helpers.asking import call

from distopt.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
}
BLOCKS = [
    (page, kind, text)
    for page, whole in sorted(PAGES.items())
    for kind, text in re.findall(r"```(\w+)\n(.*?)```", whole, re.S)
]
SHELL = [
    (page, line.split(" #")[0].strip())
    for page, kind, text in BLOCKS
    if kind == "sh"
    for line in text.splitlines()
    if line.split("#")[0].strip()
]
ALL = list(dict.fromkeys(line for _, line in SHELL if line.startswith("distopt ")))
# Lines that need GPUs, a cluster, other machines, the reader's own files, or many minutes: their options are checked.
ELSEWHERE = {
    line for line in ALL if re.search(r"nccl|--address|sweep experiment|~/|reproduce \S+$|--out runs/ls", line)
}
COMMANDS = ["distopt simulate ring --agents 16", *(line for line in ALL if line not in ELSEWHERE)]
# Commands that start processes run in an interpreter of their own, since they fork.
FORKING = [line for line in COMMANDS if re.search(r"--engine|^distopt sweep|^distopt reproduce", line)]
LAUNCHED = [line for _, line in SHELL if re.search(r"launch/\S+ simulate|-m distopt ", line)]
MAKE = [line.split()[1] for _, line in SHELL if line.startswith("make ")]
TRAINED = [line for _, line in SHELL if "launch/train.py" in line]  # run in tests/optim/test_training_page.py
SCRIPTS = [line for _, line in SHELL if line.startswith("python examples/")]  # run in tests/test_examples.py
OTHER = [line for _, line in SHELL if line.startswith(("pip install ", "ray start ", "python3 -m venv ", ". .venv/"))]
PYTHON = {page: [text for where, kind, text in BLOCKS if where == page and kind == "python"] for page in PAGES}
# Commands of this process that take several seconds: compiled ones, and long ones.
SECONDS = re.compile(
    r"ring --agents 16$|^distopt tune |model=cnn|trials 10|runs/four|\[0\.001|k=5|digits_mlp|trials 6|rounds [13]000|doctor"
    r"|runs/(first|patient|experts|portfolio|lossy|leaving|rare|rows)"
)


def run(arguments: list[str], where: Path) -> str:
    done = subprocess.run(arguments, cwd=where, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def say(command: str, where: Path) -> str:
    """What a command prints: in this process, unless it starts others."""
    words = shlex.split(command)
    if command in FORKING:
        return run([sys.executable, "-m", *words], where)
    done = call(*words[1:])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the checkout's examples in it, where runs may be written."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pages_have_commands() -> None:
    assert len(COMMANDS) >= 20 and MAKE == ["simulate", "test"]
    left = {line for _, line in SHELL} - {*ALL, *LAUNCHED, *TRAINED, *SCRIPTS, *OTHER, "make simulate", "make test"}
    assert not left, "shell lines that no test runs"
    assert SCRIPTS == ["python examples/teacher.py consensus.gif"]
    assert {page for page, blocks in PYTHON.items() if blocks} == {
        "README.md",
        "docs/architecture.md",
        "docs/clock.md",
        "docs/coming-from.md",
        "docs/comparing.md",
        "docs/concepts.md",
        "docs/directed.md",
        "docs/exporting.md",
        "docs/faq.md",
        "docs/losses.md",
        "docs/metrics.md",
        "docs/probes.md",
        "docs/quick-start.md",
        "docs/reports.md",
        "docs/simulate.md",
        "docs/theory.md",
        "docs/training-script.md",
        "docs/tuning.md",
        "docs/your-model.md",
        *(
            f"docs/your-own-{kind}.md"
            for kind in ("algorithm", "compressor", "direction", "metric", "probe", "scenario")
        ),
        "docs/your-own-topology.md",  # these are run in tests/test_own_pages.py
    }


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 100


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = ROOT / page if not path else (ROOT / page).parent / path
            assert target.exists(), link
            heads = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if anchor else []
            assert not anchor or anchor in {
                re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads
            }, link


@pytest.mark.parametrize("target", MAKE)
def test_make_targets_do_what_the_readme_says(target: str) -> None:
    recipe = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    told = {"simulate": "distopt simulate ring --agents 16", "test": 'pytest -n 2 -m "not slow and not battery"\n'}
    assert told[target] in recipe


@pytest.mark.parametrize("line", [*sorted(ELSEWHERE), *LAUNCHED])
def test_options_of_lines_that_cannot_run_here_exist(line: str) -> None:
    told = re.split(r"launch/\S+ |-m distopt |^distopt ", line)[-1]
    name, *words = shlex.split(told)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    command.make_context(name, words)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(each, marks=[pytest.mark.slow] if each in FORKING or SECONDS.search(each) else [])
        for each in COMMANDS
    ],
)
def test_command_runs(command: str, place: Path) -> None:
    if re.match("distopt (resume|compare|export|report) ", command):
        for folder in re.findall(r"(?<!--out )runs/\w+", command):
            say(next(each for each in COMMANDS if re.match(rf"distopt simulate .* --out {folder}$", each)), place)
    out = say(command, place)
    assert out.startswith("nothing to resume") == command.startswith("distopt resume ")
    if command.startswith("distopt simulate"):
        folders = [path.parent for path in place.rglob("summary.csv")]
        measured = re.search(r'--scenario "?(?:normalised\()?(network|digits_mlp|dirac_gan)', command)
        picture = {"network": "cost.png", "digits_mlp": "cost.png", "dirac_gan": "radius.png"}.get(
            measured[1] if measured else "", "regret.png"
        )
        assert len(folders) == 1 and (folders[0] / picture).stat().st_size > 10_000
        assert picture in out


def test_the_python_of_reports_runs(place: Path) -> None:
    say(next(command for command in COMMANDS if command.endswith("--out runs/one")), place)
    exec(PYTHON["docs/reports.md"][0], {})
    assert {path.name for path in place.rglob("*.html")} == {"one.html", "report.html"}


@pytest.mark.slow
def test_the_ten_lines_of_python_run(place: Path) -> None:
    first = PYTHON["README.md"][0]
    exec(first, {})
    assert (place / "regret.png").stat().st_size > 10_000
    assert len([line for line in first.splitlines() if line.strip()]) <= 10


def test_the_run_that_a_command_wrote_is_read_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(next(command for command in COMMANDS if "--out runs/karate" in command), place)
    exec(
        "import distopt\n" + PYTHON["docs/simulate.md"][0] + "\nprint(run['x'].shape, run['dynamic_regret'].shape)", {}
    )
    assert capsys.readouterr().out.strip() == "(1, 201, 34, 2) (1, 200)"


def test_what_theory_says_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    said: dict[str, Any] = {}
    exec(PYTHON["docs/theory.md"][0], said)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("bound for gradient descent, ρ = 0.") and 1 < float(first.split()[-1]) < 20
    settled, speed = (float(each) for each in second.split())
    assert 0 < speed < settled
    assert (said["run"]["dynamic_regret_low"] < said["run"]["dynamic_regret_high"]).all()


@pytest.mark.slow
def test_the_comparison_and_the_paper_in_python_are_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared, written, tuned = PYTHON["docs/comparing.md"]
    exec(compared, {})
    assert "dgd" in capsys.readouterr().out and (place / "differences.png").stat().st_size > 10_000
    assert (place / "compared" / "comparison.tex").exists()
    say(next(command for command in COMMANDS if command.endswith("--out runs/four")), place)
    exec(written, {})
    assert (place / "paper" / "figures" / "ecdf.pdf").exists() and (place / "paper" / "bibliography.bib").exists()
    tuning = (
        "distopt tune ring --agents 8 --scenario moving_target --algorithm gt --algorithm dgd --rounds 50 --trials 2"
    )
    say(f"{tuning} --grid lr=0.01,0.02 --report-trials 2 --out runs/tuned", place)
    exec(tuned, {})
    (table,) = (place / "winners" / "tables").glob("*.md")
    assert re.findall(r"(gt|dgd)(:lr=)?", table.read_text()) in (
        [("gt", ":lr="), ("dgd", ":lr=")],
        [("dgd", ":lr="), ("gt", ":lr=")],
    )


def test_the_dataset_has_the_axes_that_the_page_names(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec("import distopt\n" + PYTHON["docs/exporting.md"][0], {})
    assert capsys.readouterr().out.strip() == "('trial', 'point', 'agent', 'coordinate') bits"


def test_a_directed_graph_in_python_is_simulated() -> None:
    said: dict[str, Any] = {}
    exec(PYTHON["docs/directed.md"][0], said)
    assert said["run"]["dynamic_regret"].shape == (1, 300) and said["run"]["tracker_invariant"].max() < 1e-12


@pytest.mark.slow
def test_the_sweep_in_python_runs(place: Path) -> None:
    text = (
        "import distopt\n"
        + PYTHON["docs/simulate.md"][2]
        + "\nprint(len(runs), distopt.resume('runs/mine').keys() == runs.keys())"
    )
    assert run([sys.executable, "-c", text], place).strip() == "8 True"  # two algorithms


@pytest.mark.slow
def test_the_tuning_in_python_runs(place: Path) -> None:
    said: dict[str, Any] = {}
    exec("import distopt\n" + PYTHON["docs/tuning.md"][0], said)
    assert set(said["tuned"].winners) == {"gtadam", "dgd"} and (place / "sensitivity.png").stat().st_size > 10_000


def test_the_own_algorithm_is_the_example_and_keeps_its_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    from distopt.checks import check_algorithm

    text = PYTHON["README.md"][1].removeprefix("# examples/heavy_ball.py, after its imports\n")
    assert text in (ROOT / "examples" / "heavy_ball.py").read_text()
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from heavy_ball import HeavyBall

    check_algorithm(HeavyBall())


def test_the_weights_of_each_channel_are_given(place: Path) -> None:
    said: dict[str, Any] = {}
    exec("import distopt\n" + PYTHON["docs/your-own-algorithm.md"][1], said)
    assert said["run"].status == "done" and said["run"]["tracker_invariant"].max() < 1e-12


@pytest.mark.slow
def test_probes_are_read_and_the_own_one_keeps_its_promises(place: Path) -> None:
    from distopt.checks import check_probe

    measured, own = PYTHON["docs/probes.md"]
    said: dict[str, Any] = {}
    exec(f"{measured}\n{own}", said)
    assert said["rounds"].tolist() == [19, 39, 59, 79, 99] and said["sharpness"].shape == (1, 5)
    check_probe(said["Alignment"](every=2))


def test_the_model_that_was_trained_knows_the_test_part(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated, script = PYTHON["docs/your-model.md"]
    exec(f"{simulated}{script}", {})
    mean, one, alone = (float(each) for each in capsys.readouterr().out.split())
    assert mean > 0.85 and one > 0.5 and alone > 0.5


@pytest.mark.slow
def test_the_hook_of_a_training_script_runs(place: Path) -> None:
    group = "import torch; torch.distributed.init_process_group('gloo', 'file://' + __import__('os').path.abspath('store'), rank=0, world_size=1)"
    model = "model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1)); x = torch.ones(1, 3)"
    step = "model(x).sum().backward(); print(next(model.parameters()).grad.tolist()); torch.distributed.destroy_process_group()"
    (hook,) = [text for text in PYTHON["docs/training-script.md"] if "register_comm_hook" in text]
    assert run([sys.executable, "-c", f"{group}; {model}\n{hook}\n{step}"], place).strip() == "[[1.0, 1.0, 1.0]]"
