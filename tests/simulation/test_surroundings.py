"""What surrounds a run in its process, set by whoever calls: the numbers are those of a new process, or one line says what cannot be."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.surviving import fresh
from simulation.test_robustness import Pull

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.runs import execution, sweep

ASKS: dict[str, dict[str, Any]] = {
    "gtadam": {"scenario": "drifting_logistic", "algorithm": "gtadam:lr=0.02", "record": "x"},
    "float32": {"scenario": "drifting_logistic", "algorithm": "gt:lr=0.05", "dtype": "float32", "record": "x"},
    "randomk": {
        "scenario": "moving_target:dim=6",
        "algorithm": "gt:lr=0.02",
        "channel": "choco:compressor=randomk(k=2),gamma=0.3",
        "record": "x",
    },
    "grid": {
        "scenario": "moving_target:dim=3",
        "algorithm": "gt:lr=[0.02,0.05]",
        "channel": "choco:compressor=qsgd,gamma=0.2",
    },
    "cut": {"scenario": "sea", "algorithm": "dgd:lr=0.05", "drop_links": 0.3, "weights": "best_constant"},
}


def numbers(what: str = "gtadam", engine: str = "local", **more: Any) -> dict[str, np.ndarray[Any, Any]]:
    """All numbers of a small run."""
    found = distopt.simulate("ring", agents=6, rounds=12, engine=engine, **{**ASKS[what], **more})
    runs = found if isinstance(found, dict) else {"": found}
    return {f"{label} {name}": run[name] for label, run in runs.items() for name in run}


def same(one: dict[str, np.ndarray[Any, Any]], other: dict[str, np.ndarray[Any, Any]]) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


@pytest.fixture(scope="module")
def right() -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    return {what: numbers(what) for what in ASKS}


@contextlib.contextmanager
def undone(set_: Callable[[Any], Any], value: Any, before: Any) -> Iterator[None]:
    set_(value)
    try:
        yield
    finally:
        set_(before)


SET: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "default device meta": lambda: undone(torch.set_default_device, "meta", None),
    "default device cpu": lambda: undone(torch.set_default_device, "cpu", None),
    "within meta": lambda: torch.device("meta"),
    "float16": lambda: undone(torch.set_default_dtype, torch.float16, torch.float32),
    "bfloat16": lambda: undone(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "float64": lambda: undone(torch.set_default_dtype, torch.float64, torch.float32),
    "inference": torch.inference_mode,
    "no grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": lambda: undone(torch.use_deterministic_algorithms, True, False),
    "one thread": lambda: undone(torch.set_num_threads, 1, torch.get_num_threads()),
    "three threads": lambda: undone(torch.set_num_threads, 3, torch.get_num_threads()),
    "low products": lambda: undone(torch.set_float32_matmul_precision, "medium", "highest"),
    "numpy raises": lambda: np.errstate(all="raise"),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
}


@pytest.mark.parametrize("what", ASKS)
@pytest.mark.parametrize("name", SET)
def test_what_is_set_around_a_run_changes_no_number_and_stays_set(right: Any, name: str, what: str) -> None:
    with SET[name]():
        before = settings()
        found = numbers(what)
        assert settings() == before
    assert same(found, right[what])


def settings() -> list[Any]:
    return [
        torch.empty(0).device,
        torch.get_default_dtype(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        np.geterr(),
        torch.is_autocast_enabled("cpu"),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
        torch.initial_seed(),
    ]


@pytest.mark.parametrize("what", ASKS)
def test_nobodys_random_numbers_are_used(right: Any, what: str) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state().clone(), np.random.get_state(), random.getstate()
    assert same(numbers(what), right[what])
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[2]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))


@pytest.mark.parametrize("name", ["default device meta", "float16", "inference", "autocast"])
def test_other_engines_and_entries_do_as_well(right: Any, tmp_path: Path, name: str) -> None:
    experiment = Experiment("ring", 6, **{**ASKS["gtadam"], "rounds": 12})
    with SET[name]():
        for engine in ("threads:workers=2", "ranks:workers=2"):
            assert same(numbers(engine=engine), right["gtadam"]), engine
        assert np.array_equal(
            execution.execute(experiment, folder=tmp_path / "r", checkpoint_every=4)["x"], right["gtadam"][" x"]
        )
        loaded = distopt.load(tmp_path / "r")
    assert isinstance(loaded, distopt.Run) and np.array_equal(loaded["x"], right["gtadam"][" x"])


@pytest.mark.parametrize("engine", ["local", "threads:workers=2", "ranks:workers=2"])
def test_runs_in_threads_at_the_same_time_wait_for_each_other(right: Any, engine: str) -> None:
    found: dict[str, Any] = {}

    def live(what: str) -> None:
        found[what] = numbers(what, engine)

    threads = [threading.Thread(target=live, args=(what,)) for what in ("gtadam", "float32", "randomk")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(same(found[each], right[each]) for each in ("gtadam", "float32", "randomk"))
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.usefixtures("usual_blocks")
def test_threads_do_not_change_the_precision_of_each_other() -> None:
    """Of ``Pull`` the data are made in torch's default precision, which is the whole process's."""

    def run(dtype: str) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = distopt.simulate(
            "ring", agents=4, scenario=Pull(), algorithm="gt", dtype=dtype, rounds=300, record="x"
        )["x"]
        return found

    like = {dtype: run(dtype) for dtype in ("float64", "float32")}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, ["float64", "float32"] * 4))
    assert all(np.array_equal(each, like[dtype]) for each, dtype in zip(found, ["float64", "float32"] * 4, strict=True))


def told(engine: str) -> Any:
    """What a worker of a pool makes of it: the numbers, or the error's kind and text."""
    try:
        return numbers(engine=engine)
    except Exception as error:
        return [type(error).__name__, str(error)]


def heavy() -> None:
    """Let torch's threads begin, if it has any."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(500, 500) @ torch.randn(500, 500)
    torch.ones(10**6).exp().sum()
    torch.set_num_threads(before)


def pooled(method: str) -> None:
    heavy()
    right = {"gtadam": numbers()}
    engines = ["local", "threads:workers=2", "ranks:workers=2"]
    with multiprocessing.get_context(method).Pool(1) as pool:
        local, threads, (kind, message) = pool.map_async(told, engines).get(200)
    assert same(local, right["gtadam"]) and same(threads, right["gtadam"])
    assert (
        kind == "InputError"
        and "a worker of multiprocessing.Pool may not do; use another engine" in message
        and "\n" not in message
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_pool_have_the_right_numbers_or_one_line(method: str) -> None:
    fresh(f"simulation.test_surroundings.pooled({method!r})")


def executed() -> None:
    heavy()
    right = {"gtadam": numbers()}
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        for engine in ("local", "ranks:workers=2"):
            assert same(pool.submit(told, engine).result(200), right["gtadam"])


def swept(_: int) -> str:
    try:
        list(sweep.processes([], 1))
    except InputError as error:
        return str(error)
    return "went on"


@pytest.mark.slow
def test_workers_of_an_executor_may_have_ranks() -> None:
    fresh("simulation.test_surroundings.executed()")


def swept_in_a_pool() -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert "a sweep starts processes" in pool.map_async(swept, [0]).get(100)[0]


@pytest.mark.slow
def test_a_sweep_in_a_worker_of_a_pool_is_one_line() -> None:
    fresh("simulation.test_surroundings.swept_in_a_pool()")


def forked_beside_a_thread() -> None:
    right = {"gtadam": numbers()}
    inside, over = threading.Event(), threading.Event()

    def wait(phase: str, done: int, total: int) -> None:
        inside.set()
        assert over.wait(300)

    experiment = Experiment("ring", 6, **{**ASKS["gtadam"], "rounds": 12})
    thread = threading.Thread(target=lambda: execution.execute(experiment, progress=wait))
    thread.start()
    try:
        assert inside.wait(100)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert same(pool.map_async(told, ["local"]).get(100)[0], right["gtadam"])
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_a_fork_while_another_thread_runs_does_not_wait_for_it() -> None:
    fresh("simulation.test_surroundings.forked_beside_a_thread()")
