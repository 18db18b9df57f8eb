"""Step sizes that change from round to round: what each method's mean must do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.driving import at_rate
from helpers.stepping import (
    ROUNDS,
    SCHEDULES,
    START,
    D,
    Linked,
    Moment,
    N,
    network,
    points,
    torch_gradient,
    undrawn,
    walked,
)
from torch import Tensor

from distopt.catalog import registry
from distopt.experiment import Experiment
from distopt.network.net import Net, Rehearsal
from distopt.schedules.inverse_sqrt import InverseSqrt
from distopt.simulation.problem import build


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


def storm(moment: Moment) -> Tensor:
    """... - lr_t mean mu_t z / (sqrt(v_t / (1 - beta^t)) + lam), z the tracker or, without one, the estimate."""
    state = moment.state
    below = torch.sqrt(state.v / (1 - 0.999**state.steps)) + 1e-3
    z = state.s if isinstance(state.s, Tensor) else state.estimate
    return mean(moment.x) - moment.lr * mean(z / (100 + state.steps) ** (1 / 3) / below)


MEANS: dict[str, Callable[[Moment], Tensor]] = {
    **dict.fromkeys(
        (
            "dgd",
            "gt",
            "aug_dgm",
            "extra",
            "nids",
            "exact_diffusion",
            "led",
            "prox_skip",
            "dlm",
            "lt_admm",
            "lead",
            "cedas",
            "choco_sgd",
            "deepsqueeze",
            "beer",
            "c_gt",
            "ab",
            "push_diging",
            "subgradient_push",
            "push_sum_sgd",
        ),
        step,
    ),
    "gtadam": adam,
    "dadam": adam,
    "gt_storm": storm,
    "storm": storm,
    "ef_sgd": step_with_memory,
    "ef_signsgd": step_with_memory,
    "ef21": copies,
    "signsgd": signs,
    "signum": signs_of_momentum,
}
SAMPLING = ("gt_saga", "gt_sarah", "gt_vr")
SPECS = [
    *MEANS,
    "dgd:form=atc",
    "led:local=1",
    "lt_admm:local=1",
    "dlm:rho=3.0",
    "prox_skip:p=1.0",
    "gt:form=atc",
    "gtadam:form=atc",
    "ab:form=atc",
    "aug_dgm:direction=adam",
    "dadam:form=atc",
    "lead:compressor=topk(k=2),gamma=0.4",
    "cedas:compressor=topk(k=2),gamma=0.4",
    "beer:compressor=topk(k=1),gamma=0.1",
    "c_gt:alpha=0.5",
    "ef_sgd:compressor=topk(k=1)",
]


def test_every_algorithm_of_the_catalogue_is_asked_for_its_mean() -> None:
    own = {
        "powergossip",
        "robust_push_diging",
        "robust_lt_admm",
        "k_gt",
        "averaged",
        "lanczos_rate",
        "alternating",
        "admm",
        "atg",
        *SAMPLING,
        "prediction_correction",
        "bandit",
        "ader",
        "domd",
        "online_frank_wolfe",
    }  # links, several gradients a round, any algorithm, a step size of its own, players, a delay, rows: they have test files of their own
    assert set(MEANS) | own == set(registry.names("algorithms"))


@pytest.mark.parametrize(
    ("spec", "schedule"), [(s, t) for s in SPECS for t in SCHEDULES if not (s.startswith("lead") and t == "zigzag")]
)
def test_the_mean_moves_by_the_step_size_of_its_own_round(spec: str, schedule: str) -> None:
    algorithm, relation = (
        undrawn(registry.make("algorithms", spec)),
        adam if spec == "aug_dgm:direction=adam" else MEANS[spec.partition(":")[0]],
    )
    brings = algorithm.channel is not None
    for kind in ["average"] if algorithm.weights == "average" else ["static"] if brings else ["static", "time_varying"]:
        moments = walked(algorithm, network(kind), SCHEDULES[schedule])
        size = max(float(moment.after.abs().max()) for moment in moments)
        assert size < 1e3
        for t, moment in enumerate(moments):
            assert float((mean(moment.after) - relation(moment)).abs().max()) < 1e-12 * max(1.0, size), (kind, t)


@pytest.mark.parametrize("channel", ["choco:compressor=sign,gamma=0.3", "comm:compressor=topk(k=2),gamma=0.3"])
@pytest.mark.parametrize(
    "spec", ["dgd:form=atc", "gt", "gt:form=atc", "extra", "nids", "exact_diffusion", "led:local=1", "prox_skip"]
)
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


@pytest.mark.parametrize("spec", SPECS)
def test_a_schedule_is_the_step_size_of_each_round(spec: str) -> None:
    algorithm, schedule = undrawn(registry.make("algorithms", spec)), InverseSqrt(0.3, shift=4.0)
    weights = network("average" if algorithm.weights == "average" else "static")
    lrs = [float(schedule(torch.tensor(t))) for t in range(ROUNDS)]
    falling, given = (points(walked(algorithm, weights, each)) for each in ([schedule] * ROUNDS, lrs))
    same = (
        (falling - given).abs().max() < 1e-12 if spec.startswith("lead") else torch.equal(falling, given)
    )  # LEAD divides by lr
    assert same and not torch.equal(falling[-1], falling[0])
