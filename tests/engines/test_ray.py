"""One experiment has the same bits on Ray actors, and from the command line.

All tests of a file share one cluster of two nodes on this machine; conftest.py keeps them in one process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.battery import MATRICES, SMALL, Case, Problems, cases, differences, moves, on, posed
from helpers.cluster import ROOT, Kept, Nodes
from helpers.ranks import made
from torch import Tensor

import distopt
from distopt import engines
from distopt.engines import local
from distopt.engines import ray as engine_of_ray
from distopt.engines.ray.cluster import library
from distopt.engines.workers.partition import divide as shares
from distopt.errors import InputError
from distopt.runs.execution import Comparison, execute

pytestmark = pytest.mark.usefixtures("cluster_is_free")


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [
        "gt:lr=inverse_sqrt(0.02),form=atc",
        f"{ROOT}/examples/extragradient.py:lr=0.01",
        "gt:lr=0.02,direction=adan(clip=1.0,decay=0.1)",
        "dgd:lr=0.01,direction=theopoula(beta=1e4)",
        "aug_dgm:lr=0.01,direction=adashift(n=2)",
    ],
)
def test_actors_have_the_bits_of_one_block(algorithm: str) -> None:
    problem = made("random_matching", algorithm=algorithm, drop_links=0.3)
    problems = Problems(problem, Comparison.of(problem))
    alone = on(problems)
    assert moves(alone)
    assert differences(alone, on(problems, partial(engines.make, "ray:workers=3,timeout=300"))) == []


@pytest.mark.slow
def test_actors_record_what_channels_remember() -> None:
    ask: dict[str, Any] = {
        "agents": 6,
        "scenario": "moving_target:dim=4",
        "algorithm": "gt:lr=0.02",
        "channel": "choco:compressor=sign,gamma=0.2",
        "rounds": 8,
        "record": "memory.s.copy",
    }
    alone, run = distopt.simulate("ring", **ask), distopt.simulate("ring", engine="ray:workers=3,timeout=300", **ask)
    assert len(np.unique(alone["memory.s.copy"])) > 6
    assert np.array_equal(alone["memory.s.copy"], run["memory.s.copy"])


def on_three_actors(cases: list[Case], mode: local.Mode, **settings: Any) -> None:
    first = made()
    team = Kept(
        first, Comparison.of(first).blocks, mode == "compiled", 3, partial(shares, first.network), 300, lambda: None
    )
    try:
        for case in cases:
            problems = posed(case, **settings)
            alone = on(problems, local.local, mode)
            assert moves(alone), case
            assert differences(alone, on(problems, team.engine, mode)) == [], case
    finally:
        team.close()


@pytest.mark.slow
def test_every_case_has_the_same_bits_on_actors() -> None:
    on_three_actors(cases(), "eager")


@pytest.mark.battery
def test_every_case_has_the_same_bits_compiled_on_actors() -> None:
    on_three_actors(cases(MATRICES[1]), "compiled", **SMALL)


@pytest.mark.slow
def test_compiled_rounds_have_the_same_bits_on_actors() -> None:
    problem = made("ring", "drifting_logistic")
    comparison = Comparison.of(problem)
    alone = execute(problem.experiment, problem=problem, comparison=comparison, engine=local.local)
    shared = execute(
        problem.experiment, problem=problem, comparison=comparison, mode="compiled", engine="ray:workers=2,timeout=300"
    )
    assert [name for name in alone if not np.array_equal(alone[name], shared[name], equal_nan=True)] == []


class Unsendable:
    channels = ("x",)

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def init(self, x: Tensor) -> tuple[()]:
        return ()

    def update(self, g: Tensor, state: tuple[()], x: Tensor, mix: Any) -> tuple[Tensor, tuple[()]]:
        return mix("x", x), ()


@pytest.mark.slow
def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made()
    blocks = Comparison.of(problem).blocks
    for spec, message in (
        ("ray:workers=17", "16 agents cannot be shared among 17 workers"),
        ("ray:timeout=0", "at least 1"),
        ("ray:nodes=1", "no parameter 'nodes'"),
        ("ray:workers=16,timeout=1", "the cluster has no room for 16 workers: 4 of its 4 CPUs are free"),
    ):
        with pytest.raises(InputError, match=message):
            engines.make(spec, problem, blocks)
    with pytest.raises(InputError, match="cannot be sent to the workers: TypeError"):
        engine_of_ray.packed(made(algorithm=Unsendable()))
    with (
        monkeypatch.context() as old,
        pytest.raises(InputError, match=r"^Ray 2\.51\.0 has no tokens, .*; pip install --upgrade"),
    ):
        old.setattr("ray.__version__", "2.51.0")
        library()
    here = engine_of_ray.packed(problem)
    monkeypatch.setattr(engine_of_ray, "versions", lambda: "distopt 0")
    with pytest.raises(
        InputError, match=r"has distopt 0 where the driver has distopt .*, torch .*; install the same on all nodes"
    ):
        raise engine_of_ray.WorkerActor.learn(engine_of_ray.WorkerActor(), here)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="install it with: pip install 'distopt"):
        engines.make("ray", problem, blocks)


# The command line


ASK = ["simulate", "ring", "--agents", "5", "--scenario", "moving_target", "--rounds", "20", "--record", "x"]
MINE = "examples/heavy_ball.py"


def command(place: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **more}
    arguments = [sys.executable, "-m", "distopt", *words]
    return subprocess.run(
        arguments, cwd=place, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def as_alone(folder: Path, algorithm: str) -> None:
    run = distopt.load(folder)
    alone = distopt.simulate("ring", agents=5, scenario="moving_target", algorithm=algorithm, rounds=20, record="x")
    assert [name for name in alone if not np.array_equal(run[name], alone[name], equal_nan=True)] == []


@pytest.mark.slow
def test_a_users_file_runs_on_a_cluster_that_is_there(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text((ROOT / MINE).read_text())
    words = ["--algorithm", "mine.py", "--out", "there", "--engine", "ray", "--workers", "2"]
    done = command(tmp_path, *ASK, *words, "--address", nodes.cluster.address)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    as_alone(tmp_path / "there", str(ROOT / MINE))


@pytest.mark.slow
def test_a_cluster_of_its_own_is_started_and_stopped(tmp_path: Path) -> None:
    mark = f"{time.time_ns()}"
    with tempfile.TemporaryDirectory(prefix="own") as short:
        done = command(
            tmp_path, *ASK, "--out", "own", "--engine", "ray", "--workers", "2", DISTOPT_TEST=mark, TMPDIR=short
        )
        assert (done.returncode, done.stderr.count("\n"), os.listdir(short)) == (0, 1, []), done.stderr
    as_alone(tmp_path / "own", "gtadam")
    for _ in range(100):
        if not (left := marked(mark)):
            break
        time.sleep(0.1)
    assert left == []


def marked(mark: str) -> list[str]:
    """The processes that descend from one with this mark in its environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"DISTOPT_TEST={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended, or is another user's
            continue
    return found


@pytest.mark.slow
def test_a_sweep_runs_as_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from distopt.cli.main import cli

    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(
        'topology = "ring"\nagents = 5\nscenario = "moving_target"\nrounds = 20\nrecord = ["x"]\nalgorithm = "mine.py"\n'
    )
    Path("mine.py").write_text((ROOT / MINE).read_text())
    done = CliRunner().invoke(
        cli, ["sweep", "s.toml", "--set", "algorithm.lr=0.01,0.03,no", "--engine", "ray", "--out", "out"]
    )
    assert done.exit_code == 1
    assert "distopt: algorithm.lr=no failed: algorithm mine.py: lr=no is not a number" in done.stderr
    runs = [distopt.load(path) for path in sorted(Path("out").glob("algorithm*"))]
    for run, lr in zip(runs, ("0.01", "0.03"), strict=True):
        alone = distopt.simulate(
            "ring", agents=5, scenario="moving_target", algorithm=f"mine.py:lr={lr}", rounds=20, record="x"
        )
        assert [name for name in alone if not np.array_equal(run[name], alone[name], equal_nan=True)] == []


@pytest.mark.slow
def test_the_cluster_file_is_one() -> None:
    import json

    import jsonschema
    import ray
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(content := yaml.safe_load((ROOT / "launch" / "ray-cluster.yaml").read_text()), schema)
    filled = prepare_config(content)  # as "ray up" does it
    validate_config(filled)
    assert [kind["min_workers"] for kind in filled["available_node_types"].values()] == [
        len(content["provider"]["worker_ips"])
    ]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "provder": 1}, schema)
