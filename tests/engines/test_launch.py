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


@pytest.mark.slow
def test_two_hosts_share_a_run(tmp_path: Path, hosts: ModuleType) -> None:
    if (why := hosts.refusal()) is not None:
        pytest.skip(why)
    words = [*WORDS, "--rounds", "50", "--out", str(tmp_path / "shared")]
    with hosts.pair() as pair:
        running = []
        for k, host in enumerate(pair):
            settings = environment(
                NODES="2", NODE=str(k), ADDRESS=pair[0].address, RANKS="1", GLOO_SOCKET_IFNAME=host.interface
            )
            command = host.command(str(ROOT / "launch" / "torchrun.sh"), *words)
            running.append(
                subprocess.Popen(
                    command, cwd=tmp_path, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
        try:
            said = [each.communicate(timeout=120) for each in running]
        finally:
            for each in running:
                each.kill()
    assert [each.returncode for each in running] == [0, 0], said
    assert [out.count("written: ") for out, _ in said] == [1, 0]
    same(tmp_path / "shared", 50)


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


@pytest.mark.slow
def test_a_batch_job_goes_on_when_it_is_queued_again(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (
        ("srun", SRUN),
        ("scontrol", '#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "127.0.0.1\\n127.0.0.2\\n"\n'),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    rounds = 4_000
    words = [str(ROOT / "launch" / "slurm.sbatch"), *WORDS, "--rounds", str(rounds)]

    def job() -> "subprocess.Popen[str]":
        settings = environment(
            PATH=f"{tools}{os.pathsep}{os.environ['PATH']}",
            SLURM_JOB_NODELIST="node[1-2]",
            SLURM_NNODES="2",
            SLURM_JOB_ID="7",
            SLURM_CPUS_PER_TASK="1",
            OUT=str(tmp_path / "out"),
            EVERY="100",
            PORT=free_port(),
            GLOO_SOCKET_IFNAME="lo",
        )
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    first = job()
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("out/**/*checkpoint*")):
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGTERM)  # srun replaced the script
        out, err = first.communicate(timeout=60)
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    assert first.returncode != 0
    assert "interrupted; everything before is kept" in err, err
    second = job()
    try:
        out, err = second.communicate(timeout=200)
    finally:
        if second.poll() is None:
            os.killpg(second.pid, signal.SIGKILL)
    assert second.returncode == 0, err
    assert "goes on from round" in out
    same(tmp_path / "out", rounds)
