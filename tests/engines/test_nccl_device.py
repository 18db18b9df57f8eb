"""What ranks by NCCL do on their GPUs: on a device of which only the forms of tensors exist, and on GPUs where there are some."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import distopt
from distopt.engines.workers import agents, halo, worker
from distopt.engines.workers.exchange import Tag
from distopt.engines.workers.partition import Partition
from distopt.experiment import Experiment
from distopt.numerics import trees
from distopt.numerics.trees import tensors
from distopt.runs.execution import Comparison
from distopt.simulation.problem import build


class Nobody:
    """Rows and reports that are sent nowhere and never arrive; their places stay as they are."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.carried = device, Counter[str]()

    def expect(self, tag: Tag, into: dict[int, Tensor]) -> Any:
        self._see(into)
        return SimpleNamespace(wait=lambda: None)

    def send(self, tag: Tag, outgoing: dict[int, Tensor]) -> None:
        self._see(outgoing)

    def _see(self, buffers: dict[int, Tensor]) -> None:
        for each in buffers.values():
            self.carried[each.device.type] += 1

    def confirm(self) -> None: ...


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Any]:
    """Another process: a device stays with its process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool
    pool.join()


@pytest.mark.parametrize(
    ("network", "scenario", "algorithm", "settings"),
    [
        ("ring", "drifting_logistic", "gtadam:lr=0.01", {"dtype": "float32", "trials": 2}),
        ("random_matching", "moving_target:dim=6", "gt:lr=0.01,form=atc", {}),
        ("complete", "digits:window=2", "gt:lr=0.01", {}),
        ("star", "quadratic", "ef_signsgd:lr=0.01", {}),
        (
            "erdos_renyi",
            "moving_target:dim=6",
            "gtadam:lr=0.01",
            {"channel": "choco:compressor=sign,gamma=0.3,resync=3"},
        ),
        ("erdos_renyi", "drifting_logistic", "gtadam:lr=0.01", {"channel": "choco:compressor=topk(k=2),gamma=0.3"}),
        ("erdos_renyi", "moving_target:dim=6", "powergossip:lr=0.01", {}),
        ("ring", "moving_target:dim=6", "gt:lr=0.01", {"channel": "naive:compressor=qsgd"}),
    ],
)
def test_rows_never_leave_the_device_and_reports_never_enter_it(
    network: str, scenario: str, algorithm: str, settings: dict[str, Any], elsewhere: Any
) -> None:
    for me in range(2):
        assert elsewhere.apply(stretch_of_forms, (me, network, scenario, algorithm, settings)) == (
            {"gpu"},
            {"cpu"},
            {"gpu"},
        )


def stretch_of_forms(*asked: Any) -> tuple[set[str], set[str], set[str]]:
    """``all_it_does``, with errors that can go from process to process."""
    try:
        return all_it_does(*asked)
    except Exception:
        raise AssertionError(traceback.format_exc()[-2000:]) from None


def all_it_does(
    me: int, network: str, scenario: str, algorithm: str, settings: dict[str, Any]
) -> tuple[set[str], set[str], set[str]]:
    """Let a worker live on a device of which only the forms of tensors are there: what was left in main memory is refused beside them.

    Where its rows, its reports and what it holds are in the end.
    """
    if not hasattr(torch, "gpu"):
        _setup_privateuseone_for_python_backend("gpu")
    device, forms = torch.device("gpu", 0), FakeTensorMode(allow_non_fake_inputs=True)
    select = torch.ops.aten.index_select

    def selected(
        rows: Tensor, dim: int, places: Tensor, *, out: Tensor | None = None
    ) -> Tensor:  # which has no form with ``out``
        found = select(rows, dim, places)
        return found if out is None else out.copy_(found)

    def moved(tree: Any, device: torch.device) -> Any:
        with forms:
            return trees.tree_map(
                lambda leaf: (forms.from_tensor(leaf) if type(leaf) is Tensor else leaf).to(device), tree
            )

    torch.index_select, worker.moved, agents.moved, halo.moved = selected, moved, moved, moved
    problem = build(Experiment(network, 12, scenario, algorithm, rounds=6, record=("x",), **settings))
    rows, reports = Nobody(device), Nobody(torch.device("cpu"))
    length = Comparison.of(problem).blocks.length
    one = worker.Worker(problem, Partition.even(12, 2), me, reports, length, rows=rows)
    with trees.default_dtype(torch.float64):
        one.load(0, 6)
    with trees.default_dtype(problem.x0.dtype):
        one.place(None)
        with forms:
            one.walk(range(1, 6), ("x",))
    with trees.default_dtype(torch.float64), forms:
        report, whole = one.measure(torch.zeros(6, 1, problem.x0.shape[-1])), one.fetch()
    assert {leaf.device.type for leaf in tensors((report, whole))} == ({"cpu"} if me == 0 else set())
    return set(rows.carried), set(reports.carried), {leaf.device.type for leaf in tensors(one.agents.held)}


@pytest.mark.cuda
@needs.gpus(2)
@pytest.mark.parametrize(
    ("network", "algorithm", "settings"),
    [
        ("ring", "gtadam:lr=0.01,eps=1e-4", {}),
        ("random_matching", "gt:lr=0.01,form=atc", {}),
        ("erdos_renyi", "gt:lr=0.01", {"channel": "choco:compressor=sign,gamma=0.3"}),
    ],
)
@pytest.mark.parametrize("scenario", ["moving_target:dim=3", "drifting_logistic"])
def test_gpus_give_the_bits_of_one_gpu_and_the_numbers_of_the_host(
    network: str, scenario: str, algorithm: str, settings: dict[str, Any]
) -> None:
    ask: dict[str, Any] = {
        "agents": 16,
        "scenario": scenario,
        "algorithm": algorithm,
        "rounds": 300,
        "record": "x",
        "mode": "eager",
        **settings,
    }
    host, one = distopt.simulate(network, **ask), distopt.simulate(network, engine="local:device=cuda", **ask)
    several = distopt.simulate(network, engine=f"ranks:workers={min(needs.GPUS, 4)},backend=nccl", **ask)
    assert [name for name in one if not np.array_equal(several[name], one[name], equal_nan=True)] == []
    if "channel" not in settings:  # a sign of a number near zero may be the other one
        for name in ("x", "dynamic_regret", "consensus_error"):
            assert np.allclose(host[name], several[name], rtol=1e-9, atol=1e-11), name


LOST = """
import distopt
from distopt.engines.workers import group
from helpers.ranks import Fails, {how}

workers.PATIENCE = 0
ask = dict(agents=16, scenario="moving_target", algorithm=Fails({how}), rounds=9)
distopt.simulate("ring", engine="ranks:workers=3,timeout=5,backend=nccl", **ask)
"""


@pytest.mark.cuda
@needs.gpus(3)
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "sleep",
            r"(rank 1 or )?rank 2 did not answer within 5 s in round 3",
        ),  # rank 1 looks at a number in every round: there it waits for its GPU
        ("die", r"rank 2 was lost in round \d"),
    ],
)
def test_a_rank_that_is_lost_ends_the_run_on_gpus(how: str, message: str) -> None:
    paths = os.pathsep.join([str(Path(distopt.__file__).parent.parent), str(Path(__file__).parents[1])])
    command = [
        sys.executable,
        "-c",
        LOST.format(how=how),
    ]  # from here a rank cannot be forked: this process may have used a GPU
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1 and re.search(message, done.stderr), done.stderr
