"""Step sizes that change from round to round: the papers' loops, and what each method's mean must do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import pytest
import torch
from helpers import oracles
from helpers.driving import at_rate
from helpers.surviving import TOTALS
from torch import Tensor

from distopt.catalog import registry
from distopt.channels.exact import Exact
from distopt.compressors.sign import Sign
from distopt.compressors.topk import TopK
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.network.net import Net, Rehearsal
from distopt.runs.checkpoint import About, load, save, versions
from distopt.schedules.inverse_sqrt import InverseSqrt
from distopt.simulation.problem import build
from distopt.simulation.runner import begin

N, D, ROUNDS = 6, 3, 90
_random = random.Random(11)
CURVATURE = [[_random.uniform(0.5, 1.5) for _ in range(D)] for _ in range(N)]
CENTRE = [[_random.gauss(0, 2) for _ in range(D)] for _ in range(N)]
START = [[_random.gauss(0, 1) for _ in range(D)] for _ in range(N)]

SCHEDULES = {
    "drops": [0.1] * 20 + [0.001] * 40 + [0.05] * 30,
    "rises": [0.01] * 30 + [0.2] * 60,
    "inverse": [0.3 / (1 + t / 10) for t in range(ROUNDS)],
    "doubles": [0.04] * 30 + [0.08] * 30 + [0.02] * 30,
    "zigzag": [(0.15, 0.02, 0.07)[t % 3] for t in range(ROUNDS)],
}


def gradient(t: int, i: int, x: list[float]) -> list[float]:
    return [CURVATURE[i][k] * (x[k] - CENTRE[i][k] - math.sin(0.1 * t + i)) for k in range(D)]


def torch_gradient(t: int, x: Tensor) -> Tensor:
    a, c = (torch.tensor(each, dtype=torch.float64) for each in (CURVATURE, CENTRE))
    return a * (x - c - torch.sin(0.1 * t + torch.arange(N, dtype=torch.float64))[:, None])


def network(kind: str) -> list[list[list[float]]]:
    """Metropolis weights of a ring with a chord, of it with links that come and go, or the average."""
    draw, out = random.Random(5), []
    links = [*((i, (i + 1) % N) for i in range(N)), (0, 3)]
    for _ in range(ROUNDS):
        graph = nx.Graph()
        graph.add_nodes_from(range(N))
        graph.add_edges_from(link for link in links if kind == "static" or draw.random() < 0.6)
        w = [[0.0] * N for _ in range(N)]
        for i, j in graph.edges:
            w[i][j] = w[j][i] = 1 / (1 + max(graph.degree[i], graph.degree[j]))
        for i in range(N):
            w[i][i] = 1 - sum(w[i])
        out.append([[1 / N] * N] * N if kind == "average" else w)
    return out


class Linked:
    """All agents on one machine."""

    own = slice(None)

    def __init__(self, w: list[list[float]]) -> None:
        self.w = torch.tensor(w, dtype=torch.float64)

    def send(self, payloads: dict[str, Any]) -> None: ...

    def heard(self, name: str, payload: Any) -> Any:
        return payload

    def weigh(self, name: str, rows: Tensor) -> Tensor:
        return torch.einsum("ij,rjd->rid", self.w, rows)


class Moment(NamedTuple):
    """A round: the points before and after it, what was carried after it, the channels' memories before and after it, lr and g."""

    x: Tensor
    after: Tensor
    state: Any
    before: dict[str, Any]
    memory: dict[str, Any]
    lr: Any
    g: Tensor


def walked(algorithm: Any, weights: list[list[list[float]]], lrs: list[Any], trials: int = 1) -> list[Moment]:
    """The rounds of an algorithm that is given another step size whenever it changes, and keeps its state."""
    x = torch.tensor(START, dtype=torch.float64).repeat(trials, 1, 1)
    state, memory, out = algorithm.init(x), {}, []
    for t, (w, lr) in enumerate(zip(weights, lrs, strict=True)):
        algorithm = at_rate(algorithm, lr)
        net, g = (
            Net(dict.fromkeys(algorithm.channels, getattr(algorithm, "channel", Exact())), Linked(w), memory),
            torch_gradient(t, x),
        )
        after, state = algorithm.update(g, state, x, Rehearsal(net.mix, x, t))
        out.append(Moment(x, after, state, memory, net.memory, lr, g))
        x, memory = after, net.memory
    return out


def points(moments: list[Moment]) -> Tensor:
    return torch.cat([moments[0].x, *(moment.after for moment in moments)])


def close(path: Tensor, oracle: list[list[list[float]]]) -> None:
    truth = torch.tensor(oracle, dtype=torch.float64)
    assert truth.isfinite().all() and truth.abs().max() < 100 and (truth[-1] - truth[0]).abs().max() > 0.1, (
        "the comparison would mean nothing"
    )
    assert (path - truth).abs().max() < 1e-12 * truth.abs().max()


def top(z: list[float]) -> list[float]:
    kept = sorted(range(len(z)), key=lambda k: -abs(z[k]))[:2]
    return [each if k in kept else 0.0 for k, each in enumerate(z)]


def sign(z: list[float]) -> list[float]:
    scale = sum(abs(each) for each in z) / len(z)
    return [scale if each >= 0 else -scale for each in z]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["static", "time_varying"])
@pytest.mark.parametrize("name", ["extra", "nids", "exact_diffusion"])
def test_corrected_methods_are_the_papers_loops(name: str, kind: str, schedule: str) -> None:
    weights = network(kind)
    path = points(walked(registry.make("algorithms", name), weights, SCHEDULES[schedule]))
    close(path, getattr(oracles, name)(oracles.Problem(weights, gradient, START), SCHEDULES[schedule]))


COMPRESSED = {
    "topk": ("compressor=topk(k=2),gamma=0.7,alpha=0.5", top, 0.7, 0.5),
    "sign": ("compressor=sign,gamma=0.4,alpha=0.8", sign, 0.4, 0.8),
}


STEEP = ("drops", "rises", "zigzag")
"""LEAD's dual is D / lr: where lr rises by a factor at once, so does gamma. Its rounding errors grow, and zigzag drives it away."""


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        *(("cedas", schedule) for schedule in SCHEDULES),
        *(("lead", schedule) for schedule in SCHEDULES if schedule not in STEEP),
    ],
)
@pytest.mark.parametrize("compressor", COMPRESSED)
def test_compressed_corrected_methods_are_the_papers_loops(compressor: str, name: str, schedule: str) -> None:
    weights, (spec, compress, gamma, alpha) = network("static"), COMPRESSED[compressor]
    posed = oracles.Problem(weights, gradient, START)
    loops = {
        each: getattr(oracles, each)(posed, SCHEDULES[schedule], compress, gamma, alpha) for each in ("lead", "cedas")
    }
    own, other = loops.pop(name), loops.popitem()[1]
    close(points(walked(registry.make("algorithms", f"{name}:{spec}"), weights, SCHEDULES[schedule])), own)
    assert (torch.tensor(own) - torch.tensor(other)).abs().max() > 1e-2, "LEAD and CEDAS would pass for each other"


def test_lead_and_cedas_are_one_method_while_the_step_size_stays() -> None:
    posed = oracles.Problem(network("static"), gradient, START)
    lead, cedas = (
        torch.tensor(each(posed, 0.1, top, 0.7, 0.5), dtype=torch.float64) for each in (oracles.lead, oracles.cedas)
    )
    assert (lead - cedas).abs().max() < 1e-11
    for name, path in (("lead", lead), ("cedas", cedas)):
        algorithm = registry.make("algorithms", f"{name}:compressor=topk(k=2),gamma=0.7")
        close(points(walked(algorithm, network("static"), [0.1] * ROUNDS)), path.tolist())


def test_cedas_without_loss_is_exact_diffusion_whose_first_round_does_not_mix() -> None:
    weights = network("static")
    unmixed = [[[float(i == j) for j in range(N)] for i in range(N)], *weights[1:]]
    for lrs in SCHEDULES.values():
        one = oracles.cedas(oracles.Problem(weights, gradient, START), lrs, list, 1.0, 1.0)
        other = oracles.exact_diffusion(oracles.Problem(unmixed, gradient, START), lrs)
        assert (torch.tensor(one, dtype=torch.float64) - torch.tensor(other, dtype=torch.float64)).abs().max() < 1e-11


# The mean


def mean(z: Tensor) -> Tensor:
    return z.mean(-2)


def step(moment: Moment) -> Tensor:
    """mean x_{t+1} = mean x_t - lr_t mean g_t."""
    return mean(moment.x) - moment.lr * mean(moment.g)


def adam(moment: Moment) -> Tensor:
    """... - lr_t mean m_t / sqrt(v_t + eps)."""
    m, v, _ = moment.state.direction
    return mean(moment.x) - moment.lr * mean(m / torch.sqrt(v + 1e-8))


def step_with_memory(moment: Moment) -> Tensor:
    """mean (x - e) moves by - lr_t mean g_t: memory keeps its size when lr changes."""
    before = mean(moment.before["step"].e) if moment.before else 0.0
    return mean(moment.x) - before - moment.lr * mean(moment.g) + mean(moment.memory["step"].e)


def copies(moment: Moment) -> Tensor:
    return mean(moment.x) - moment.lr * mean(moment.memory["g"].copy)


def signs(moment: Moment) -> Tensor:
    return mean(moment.x) - moment.lr * mean(torch.where(moment.g >= 0, 1.0, -1.0).double())


def signs_of_momentum(moment: Moment) -> Tensor:
    return mean(moment.x) - moment.lr * mean(torch.where(moment.state.direction.m >= 0, 1.0, -1.0).double())


MEANS: dict[str, Callable[[Moment], Tensor]] = {
    **dict.fromkeys(
        (
            "dgd",
            "gt",
            "aug_dgm",
            "extra",
            "nids",
            "exact_diffusion",
            "lead",
            "cedas",
            "choco_sgd",
            "deepsqueeze",
            "beer",
            "c_gt",
        ),
        step,
    ),
    "gtadam": adam,
    "dadam": adam,
    "ef_sgd": step_with_memory,
    "ef_signsgd": step_with_memory,
    "ef21": copies,
    "signsgd": signs,
    "signum": signs_of_momentum,
}
SPECS = [
    *MEANS,
    "dgd:form=atc",
    "gt:form=atc",
    "gtadam:form=atc",
    "aug_dgm:direction=adam",
    "dadam:form=atc",
    "lead:compressor=topk(k=2),gamma=0.4",
    "cedas:compressor=topk(k=2),gamma=0.4",
    "beer:compressor=topk(k=1),gamma=0.1",
    "c_gt:alpha=0.5",
    "ef_sgd:compressor=topk(k=1)",
]


def undrawn(algorithm: Any) -> Any:
    """With a compressor that draws nothing in the place of one that does."""
    draws = any(f.name == "compressor" and hasattr(algorithm.compressor, "words") for f in fields(algorithm))
    return replace(algorithm, compressor=TopK(2)) if draws else algorithm


def test_every_algorithm_of_the_catalogue_is_asked_for_its_mean() -> None:
    assert set(MEANS) | {"powergossip"} == set(
        registry.names("algorithms")
    )  # its links have a test file of their own, below with a schedule


@pytest.mark.parametrize(
    ("spec", "schedule"), [(s, t) for s in SPECS for t in SCHEDULES if not (s.startswith("lead") and t == "zigzag")]
)
def test_the_mean_moves_by_the_step_size_of_its_own_round(spec: str, schedule: str) -> None:
    algorithm, relation = (
        undrawn(registry.make("algorithms", spec)),
        adam if spec == "aug_dgm:direction=adam" else MEANS[spec.partition(":")[0]],
    )
    brings = hasattr(algorithm, "channel")
    for kind in (
        ["average"]
        if getattr(algorithm, "weights", "") == "average"
        else ["static"]
        if brings
        else ["static", "time_varying"]
    ):
        moments = walked(algorithm, network(kind), SCHEDULES[schedule])
        size = max(float(moment.after.abs().max()) for moment in moments)
        assert size < 1e3
        for t, moment in enumerate(moments):
            assert float((mean(moment.after) - relation(moment)).abs().max()) < 1e-12 * max(1.0, size), (kind, t)


@pytest.mark.parametrize("channel", ["choco:compressor=sign,gamma=0.3", "comm:compressor=topk(k=2),gamma=0.3"])
@pytest.mark.parametrize("spec", ["dgd:form=atc", "gt", "gt:form=atc", "extra", "nids", "exact_diffusion"])
def test_the_mean_moves_alike_through_a_channel_that_keeps_means(spec: str, channel: str) -> None:
    algorithm, through = registry.make("algorithms", spec), registry.make("channels", channel)
    object.__setattr__(algorithm, "channel", through)
    x = torch.tensor(START, dtype=torch.float64)[None]
    state, memory = algorithm.init(x), {}
    for t, (w, lr) in enumerate(zip(network("static"), SCHEDULES["drops"], strict=True)):
        object.__setattr__(algorithm, "lr", lr)
        net, g = Net(dict.fromkeys(algorithm.channels, through), Linked(w), memory), torch_gradient(t, x)
        after, state = algorithm.update(g, state, x, Rehearsal(net.mix, x, t))
        assert float((mean(after) - mean(x) + lr * mean(g)).abs().max()) < 1e-12
        x, memory = after, net.memory


def test_powergossip_keeps_the_relation() -> None:
    problem = build(Experiment("ring", N, f"moving_target:dim={D}", "powergossip", rounds=3))
    from distopt.network.net import Whole
    from distopt.numerics.trees import at

    tables = problem.network.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64))
    algorithm, memory, x = problem.algorithm, {}, torch.tensor(START, dtype=torch.float64)[None]
    for t, lr in enumerate(SCHEDULES["zigzag"]):
        algorithm = at_rate(algorithm, lr)
        net, g = Net(problem.channels, Whole(at(tables, 0)), memory), torch_gradient(t, x)
        after, _ = algorithm.update(g, algorithm.init(x), x, net.mix)
        assert float((mean(after) - mean(x) + lr * mean(g)).abs().max()) < 1e-12
        x, memory = after, net.memory


# What stays


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lr", [0.1, 0.013])
def test_extra_has_the_bits_that_it_had_while_the_step_size_stays(lr: float, dtype: torch.dtype) -> None:
    extra, x = registry.make("algorithms", f"extra:lr={lr}"), torch.tensor(START, dtype=dtype)[None]
    w, state = torch.tensor(network("static")[0], dtype=dtype), extra.init(x)
    other, half, before = x, x, torch.zeros_like(x)
    for t in range(ROUNDS):
        x, state = extra.update(torch_gradient(t, x.double()).to(dtype), state, x, lambda _, z: w @ z)
        g, twice = torch_gradient(t, other.double()).to(dtype), other + w @ other
        other, half, before = twice - half - lr * (g - before), twice / 2, g
        assert torch.equal(x, other)


@pytest.mark.parametrize("spec", SPECS)
def test_a_schedule_is_the_step_size_of_each_round(spec: str) -> None:
    algorithm, schedule = undrawn(registry.make("algorithms", spec)), InverseSqrt(0.3, shift=4.0)
    weights = network("average" if getattr(algorithm, "weights", "") == "average" else "static")
    lrs = [float(schedule(torch.tensor(t))) for t in range(ROUNDS)]
    falling, given = (points(walked(algorithm, weights, each)) for each in ([schedule] * ROUNDS, lrs))
    same = (
        (falling - given).abs().max() < 1e-12 if spec.startswith("lead") else torch.equal(falling, given)
    )  # LEAD divides by lr
    assert same and not torch.equal(falling[-1], falling[0])


@pytest.mark.parametrize("name", ["extra", "nids", "exact_diffusion", "lead", "cedas", "gt"])
def test_a_step_size_for_each_trial_may_change_too(name: str) -> None:
    algorithm, each = undrawn(registry.make("algorithms", name)), ["drops", "rises", "zigzag"]
    lrs = [torch.tensor([SCHEDULES[s][t] for s in each], dtype=torch.float64).reshape(3, 1, 1) for t in range(ROUNDS)]
    together = walked(algorithm, network("static"), lrs, trials=3)
    for r, schedule in enumerate(each):
        alone = walked(algorithm, network("static"), SCHEDULES[schedule])
        assert torch.equal(together[-1].after[r], alone[-1].after[0])


def test_a_checkpoint_of_the_old_state_of_extra_is_refused(tmp_path: Path) -> None:
    class Before(NamedTuple):
        half: Tensor
        g: Tensor

    class Old:
        channels = ("x",)

        def init(self, x: Tensor) -> Before:
            return Before(x.clone(), torch.zeros_like(x))

    problem = build(Experiment("ring", N, "moving_target", "extra", rounds=9))
    old = replace(problem, algorithm=Old())
    about = About(problem.experiment.fingerprint(), "a run", False, "cpu", 1.0, versions())
    totals = {name: torch.zeros(1, dtype=torch.float64) for name in TOTALS}
    save(tmp_path, old, begin(old)._replace(t=3, totals=totals), about)
    with pytest.raises(InputError, match="does not fit extra"):
        load(tmp_path, problem, "a run")
    save(tmp_path, problem, begin(problem)._replace(t=3, totals=totals), about)
    assert load(tmp_path, problem, "a run") is not None


def test_sign_is_the_compressor_that_its_loop_says() -> None:
    z = torch.tensor(START, dtype=torch.float64)
    decoded = Sign().decode(Sign().encode(z), D, z.dtype)
    assert torch.allclose(decoded, torch.tensor([sign(row) for row in START], dtype=torch.float64))
