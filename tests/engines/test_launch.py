"""The launch scripts: several hosts, a batch system that queues a job again."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.launching import started

import distopt

ROOT = Path(__file__).parents[2]
WORDS = ["simulate", "ring", "--agents", "6", "--scenario", "moving_target", "--algorithm", "gtadam:lr=0.02", "--eager"]


@pytest.fixture
def hosts() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("hosts")


def environment(**settings: str) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "SLURM"))}
    paths = os.pathsep.join([str(Path(distopt.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    return {**outside, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "PYTHONPATH": paths, **settings}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def same(folder: Path, rounds: int) -> None:
    """The run in ``folder`` has the bits of a local one."""
    alone = distopt.simulate(
        "ring", agents=6, scenario="moving_target", algorithm="gtadam:lr=0.02", rounds=rounds, mode="eager"
    )
    found = distopt.load(folder)
    assert isinstance(found, distopt.Run)
    assert list(found) == list(alone)
    assert [name for name in alone if not np.array_equal(found[name], alone[name], equal_nan=True)] == []


def on_two_hosts(words: list[str], where: Path, hosts: ModuleType, **settings: str) -> list[str]:
    """What launch/torchrun.sh prints on two hosts, a rank on each."""
    if (why := hosts.refusal()) is not None:
        pytest.skip(why)
    with hosts.pair() as pair:
        running = []
        for k, host in enumerate(pair):
            own = environment(
                NODES="2",
                NODE=str(k),
                ADDRESS=pair[0].address,
                RANKS="1",
                GLOO_SOCKET_IFNAME=host.interface,
                **settings,
            )
            command = host.command(str(ROOT / "launch" / "torchrun.sh"), *words)
            running.append(
                subprocess.Popen(command, cwd=where, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
        try:
            said = [each.communicate(timeout=120) for each in running]
        finally:
            for each in running:
                each.kill()
    assert [each.returncode for each in running] == [0, 0], said
    return [out for out, _ in said]


@pytest.mark.slow
def test_two_hosts_share_a_run(tmp_path: Path, hosts: ModuleType) -> None:
    said = on_two_hosts([*WORDS, "--rounds", "50", "--out", str(tmp_path / "shared")], tmp_path, hosts)
    assert [out.count("written: ") for out in said] == [1, 0]
    same(tmp_path / "shared", 50)


def trained(folder: Path) -> dict[str, torch.Tensor]:
    """The mean model that launch/train.py wrote."""
    found: dict[str, torch.Tensor] = torch.load(folder / "model.pt", weights_only=True)
    return found


def alike(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_two_hosts_train_a_model(tmp_path: Path, hosts: ModuleType) -> None:
    """With the bits of two ranks on one."""
    words = ["--channel", "sign", "--steps", "30", "--report-every", "15"]
    said = on_two_hosts([*words, "--out", "shared"], tmp_path, hosts, SCRIPT=str(ROOT / "launch" / "train.py"))
    assert [out.count("step 30 ") for out in said] == [1, 0]
    started(ROOT / "launch" / "train.py", [*words, "--out", "alone"], 2, tmp_path)
    assert alike(trained(tmp_path / "shared"), trained(tmp_path / "alone"))


SRUN = """#!/bin/bash
# Starts its command once for each node, as srun does, and sends SIGTERM on to all.
shift  # --kill-on-bad-exit=1
trap 'kill -TERM $(jobs -p)' TERM
for ((k = 0; k < SLURM_NNODES; k++)); do SLURM_NODEID=$k "$@" & done
code=0
for job in $(jobs -p); do
    while kill -0 "$job" 2>/dev/null; do wait "$job"; last=$?; done
    [ "${last:-0}" -eq 0 ] || code=$last
done
exit $code
"""


def batch_job(words: list[str], tmp_path: Path, **settings: str) -> "subprocess.Popen[str]":
    """launch/slurm.sbatch as job 7 on two nodes."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in (
        ("srun", SRUN),
        ("scontrol", '#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "127.0.0.1\\n127.0.0.2\\n"\n'),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    own = environment(
        PATH=f"{tools}{os.pathsep}{os.environ['PATH']}",
        SLURM_JOB_NODELIST="node[1-2]",
        SLURM_NNODES="2",
        SLURM_JOB_ID="7",
        SLURM_CPUS_PER_TASK="1",
        OUT=str(tmp_path / "out"),
        PORT=free_port(),
        GLOO_SOCKET_IFNAME="lo",
        **settings,
    )
    return subprocess.Popen(
        [str(ROOT / "launch" / "slurm.sbatch"), *words],
        cwd=ROOT,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended_and_queued_again(words: list[str], tmp_path: Path, found: str, **settings: str) -> tuple[str, str, str]:
    """A job that gets SIGTERM when it has written ``found``, and is started again: what both print, and the first one's errors."""
    first = batch_job(words, tmp_path, **settings)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(found)):
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGTERM)  # srun replaced the script
        before, wrong = first.communicate(timeout=60)
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    assert first.returncode != 0
    second = batch_job(words, tmp_path, **settings)
    try:
        out, err = second.communicate(timeout=200)
    finally:
        if second.poll() is None:
            os.killpg(second.pid, signal.SIGKILL)
    assert second.returncode == 0, err
    return before, out, wrong


@pytest.mark.slow
def test_a_batch_job_goes_on_when_it_is_queued_again(tmp_path: Path) -> None:
    rounds = 4_000
    words = [*WORDS, "--rounds", str(rounds)]
    _, out, wrong = ended_and_queued_again(words, tmp_path, "out/**/*checkpoint*", EVERY="100")
    assert "interrupted; everything before is kept" in wrong, wrong
    assert "goes on from round" in out
    same(tmp_path / "out", rounds)


@pytest.mark.slow
def test_a_batch_job_that_trains_does_so_too(tmp_path: Path) -> None:
    words = ["--channel", "sign", "--steps", "1500", "--report-every", "500"]
    settings = {"SCRIPT": "launch/train.py", "EVERY": "50"}
    before, out, _ = ended_and_queued_again(words, tmp_path, "out/checkpoints/*/rank-1.pt", **settings)
    assert "the same command goes on from here" in before and "goes on from step" in out
    started(ROOT / "launch" / "train.py", [*words, "--out", "alone"], 2, tmp_path)
    assert alike(trained(tmp_path / "out"), trained(tmp_path / "alone"))


@pytest.mark.parametrize(
    ("known", "missing"), [({}, "NODE: is 0 on the first"), ({"NODE": "0"}, "ADDRESS: is the address")]
)
def test_the_script_says_which_setting_of_several_machines_is_missing(known: dict[str, str], missing: str) -> None:
    command = ["sh", str(ROOT / "launch" / "torchrun.sh"), *WORDS]
    others = {name: value for name, value in os.environ.items() if name not in ("NODE", "ADDRESS")}
    done = subprocess.run(command, env={**others, "NODES": "2", **known}, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and missing in done.stderr and not done.stdout
