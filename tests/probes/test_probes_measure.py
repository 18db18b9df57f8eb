"""What probes measure, against whole Hessians and closed forms; what they refuse; and users' own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import distopt
from distopt.algorithms.dgd import DGD
from distopt.catalog import registry
from distopt.checks import check_probe
from distopt.costs.data import Blocks
from distopt.directions.adam import Adam
from distopt.errors import InputError
from distopt.experiment import Experiment
from distopt.numerics.random import Key
from distopt.numerics.trees import at
from distopt.protocols import Preconditioned, Probe
from distopt.scenarios.quadratic import Quadratic
from distopt.simulation.problem import build
from distopt.simulation.snapshot import Snapshot

SMALL: dict[str, Any] = {
    "agents": 4,
    "scenario": "quadratic:dim=6",
    "algorithm": "gt:lr=0.02",
    "rounds": 12,
    "trials": 2,
}


def snapshot(scenario: str, t: int = 0, agents: int = 3, x: Tensor | None = None) -> Snapshot:
    """A run of the scenario at its start, or at x."""
    problem = build(Experiment("ring", agents, scenario, "gt", rounds=t + 1))
    blocks = Blocks(problem.scenario, problem.key, t + 1)
    points = problem.x0[0] if x is None else x.expand(agents, -1)
    state, key = problem.algorithm.init(problem.x0), Key(0, range(1), [0], 1)

    def data(tau: int) -> Any:
        return at(blocks.get(tau // blocks.length), tau % blocks.length)

    return Snapshot(t, problem.scenario, problem.algorithm, points, points.mean(0), state, key, data)


def hessian(seen: Snapshot, y: Tensor) -> Tensor:
    """By central differences of the mean gradient."""
    width, units = 1e-5, torch.eye(len(y), dtype=torch.float64)
    return torch.stack([(seen.grad(y + width * e) - seen.grad(y - width * e)) / (2 * width) for e in units])


# ------------------------------------------------------------------------------------------------- products with the Hessian


@pytest.mark.parametrize(
    "scenario",
    ["quadratic:dim=5", "drifting_logistic", "localization", "hyperplane", "digits:window=2", "moving_target:dim=3"],
)
def test_products_are_those_of_differences(scenario: str) -> None:
    seen = snapshot(scenario, t=3)
    generator = torch.Generator().manual_seed(2)
    y, v = (0.3 * torch.randn(len(seen.mean), generator=generator, dtype=torch.float64) for _ in range(2))
    near = (seen.grad(y + 1e-4 * v) - seen.grad(y - 1e-4 * v)) / 2e-4
    for product in (seen.curvature(y), seen._twice(y), seen._along(y)):
        assert float((product(v) - near).norm()) <= 1e-6 * float(near.norm())


def test_gradients_without_a_loss_will_do() -> None:
    class Pull(Quadratic):
        def loss(self, x: Tensor, b: Any) -> Tensor:
            return torch.full(x.shape[:-1], torch.nan, dtype=x.dtype)  # a game, say, which has none

    both = [snapshot("quadratic:dim=4"), replace(snapshot("quadratic:dim=4"), scenario=Pull(dim=4))]
    first, second = (seen.curvature(seen.mean)(seen.normal(1)) for seen in both)
    torch.testing.assert_close(first, second, rtol=1e-14, atol=0)


@pytest.mark.parametrize("normalised", [0, 8])
def test_products_of_the_network_are_those_of_differences_and_symmetric(normalised: float) -> None:
    seen = snapshot(f"digits_mlp:rows=30,normalised={normalised}")
    u, v, product = seen.normal(1), seen.normal(2), seen.curvature(seen.mean)
    near = (seen.grad(seen.mean + 1e-5 * v) - seen.grad(seen.mean - 1e-5 * v)) / 2e-5
    assert float((product(v) - near).norm()) <= 1e-6 * float(near.norm())
    assert float(u @ product(v)) == pytest.approx(float(v @ product(u)), rel=1e-9)


def test_costs_that_differentiate_themselves_are_differentiated_twice() -> None:
    """The gradients of ``network`` are made by autograd: torch's derivative of them along v is zero."""
    seen = snapshot("network:batch_size=16")
    v = seen.normal(3)
    found = seen.curvature(seen.mean)(v)
    near = (seen.grad(seen.mean + 1e-6 * v) - seen.grad(seen.mean - 1e-6 * v)) / 2e-6
    assert float((found - near).norm()) <= 1e-2 * float(near.norm()), "rectified units have kinks"


def test_costs_without_derivatives_are_refused() -> None:
    class Numpy(Quadratic):
        def grad(self, x: Tensor, b: Any) -> Tensor:
            a, c = b
            return torch.from_numpy(a.numpy() * (x.detach().numpy() - c.numpy()))

        def loss(self, x: Tensor, b: Any) -> Tensor:
            a, c = b
            return torch.from_numpy((0.5 * a.numpy() * (x.detach().numpy() - c.numpy()) ** 2).sum(-1))

    asked = {"agents": 3, "scenario": Numpy(dim=4), "algorithm": "dgd", "rounds": 4, "mode": "eager"}
    with pytest.raises(
        InputError, match="scenario Numpy: torch can differentiate neither its loss twice nor its gradients"
    ):
        distopt.simulate("ring", **asked, probe="sharpness:every=2")


# --------------------------------------------------------------------------------------------------------------- the probes


def test_sharpness_is_that_of_the_whole_hessian() -> None:
    run = distopt.simulate("ring", **SMALL, probe="sharpness:every=4,tolerance=1e-12")
    problem = build(Experiment("ring", **SMALL))
    curvature = at(Blocks(problem.scenario, problem.key, 12).get(0), 0).a.mean(1)  # of F: [R, d], on the diagonal
    rounds, sharpness = run.readings("sharpness")
    assert rounds.tolist() == [3, 7, 11]
    for found, exact in ((sharpness, curvature.amax(-1)), (run.readings("sharpness_lowest")[1], curvature.amin(-1))):
        np.testing.assert_allclose(found, np.broadcast_to(exact[:, None].numpy(), found.shape), rtol=1e-9)
    assert np.isnan(run["sharpness"][:, :3]).all() and np.isnan(run["sharpness"]).sum() == 2 * 9


def test_sharpness_of_a_small_network_is_that_of_its_hessian() -> None:
    seen = snapshot("localization", agents=5, x=torch.tensor([0.4, -0.3], dtype=torch.float64))
    exact = torch.linalg.eigvalsh(hessian(seen, seen.mean))
    top, low = registry.make("probes", "sharpness").measure(seen)
    assert top == pytest.approx(float(exact[-1]), rel=1e-6) and low == pytest.approx(float(exact[0]), rel=1e-6)


@pytest.mark.parametrize("rule", ["adam", "amsgrad"])
@pytest.mark.parametrize("switches", ["", ",eps_inside=false,cap=none,bias_correction=true"])
def test_the_preconditioner_is_what_the_direction_divides_by(rule: str, switches: str) -> None:
    direction = registry.make("directions", f"{rule}:b1=0.8,b2=0.9,eps=0.01{switches}")
    assert isinstance(direction, Preconditioned)
    x = torch.zeros(1, 2, 3, dtype=torch.float64)
    state = direction.init(x)
    for k in range(4):
        d, state = direction(torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=x.dtype), state)
        torch.testing.assert_close(d * direction.preconditioner(state), state.m, rtol=1e-13, atol=0)


def test_preconditioned_sharpness_is_that_of_the_whole_matrix() -> None:
    algorithm = DGD(lr=0.05, direction=Adam(b2=0.9, eps_inside=False, cap=None, bias_correction=True))
    asked = {**SMALL, "algorithm": algorithm, "trials": 1, "record": ("direction.v",), "rounds": 9}
    run = distopt.simulate("ring", **asked, probe="preconditioned_sharpness:every=3")
    problem = build(Experiment("ring", **SMALL))
    h = torch.diag(at(Blocks(problem.scenario, problem.key, 12).get(0), 0).a.mean(1)[0])
    rounds, found = run.readings("preconditioned_sharpness")
    for t, value in zip(rounds.tolist(), found[0], strict=True):
        v = torch.from_numpy(run["direction.v"][0, t - 1])  # after round t - 1: t updates
        p = (1 - 0.9**t) * (torch.sqrt(v / (1 - 0.9**t)) + 1e-8)
        exact = torch.linalg.eigvals(torch.diag((1 / p).mean(0)) @ h).real.max()
        assert value == pytest.approx(float(exact), rel=1e-6), t


def test_before_the_first_round_there_is_no_preconditioner_and_no_way() -> None:
    probe = ["preconditioned_sharpness:every=1", "flow_distance:every=1"]
    run = distopt.simulate("ring", **{**SMALL, "algorithm": "gt:direction=adam(bias_correction=true)"}, probe=probe)
    assert np.isnan(run["preconditioned_sharpness"][:, 0]).all() and (run["preconditioned_sharpness"][:, 1:] > 0).all()
    assert (run["flow_distance"][:, 0] == 0).all() and np.isnan(run["flow_distance_relative"][:, 0]).all()


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("gt", "the direction sgd has no preconditioner; use one that does, as in direction=adam"),
        ("extra", "extra has no direction rule; use an algorithm with direction=adam"),
    ],
)
def test_what_has_no_preconditioner_is_refused_by_name(algorithm: str, message: str) -> None:
    with pytest.raises(InputError, match=f"probe preconditioned_sharpness: {message}"):
        distopt.simulate("ring", **{**SMALL, "algorithm": algorithm}, probe="preconditioned_sharpness")


def test_spherical_sharpness_is_that_at_length_one() -> None:
    seen = snapshot("digits_mlp:rows=24,normalised=8")
    top, length = registry.make("probes", "spherical_sharpness").measure(seen)
    assert length == pytest.approx(float(seen.mean.norm()), rel=1e-14)
    here, _ = registry.make("probes", "sharpness").measure(seen)
    assert top == pytest.approx(here * length**2, rel=1e-4), "second derivatives of a function of x / |x|"
    with pytest.raises(
        InputError, match="the costs of scenario digits_mlp depend on the length of x; use normalised ones"
    ):
        registry.make("probes", "spherical_sharpness").measure(snapshot("digits_mlp:rows=24"))


def test_the_mean_of_the_spectrum_is_the_trace_and_quantiles_are_those_of_the_eigenvalues() -> None:
    run = distopt.simulate(
        "ring", **{**SMALL, "scenario": "quadratic:dim=200", "trials": 1}, probe="spectrum:every=12,vectors=20"
    )
    problem = build(Experiment("ring", **{**SMALL, "scenario": "quadratic:dim=200", "trials": 1}))
    exact = at(Blocks(problem.scenario, problem.key, 12).get(0), 0).a.mean(1)[0].sort().values
    assert run["spectrum_mean"][0, -1] == pytest.approx(float(exact.mean()), rel=0.02)
    for name, place in (("spectrum_q10", 20), ("spectrum_q50", 100), ("spectrum_q90", 180)):
        assert run[name][0, -1] == pytest.approx(float(exact[place]), rel=0.05), name


@pytest.mark.parametrize("lr", ["0.02", "inverse_sqrt(0.05)"])
def test_the_flow_of_a_quadratic_is_an_exponential(lr: str) -> None:
    asked = {**SMALL, "algorithm": f"dgd:lr={lr}", "agents": 1, "record": "x", "x0": 0.7}
    run = distopt.simulate("complete", **asked, probe="flow_distance:every=4")
    problem = build(Experiment("complete", **{**asked, "record": ()}))
    a, c = (leaf[:, 0].numpy() for leaf in at(Blocks(problem.scenario, problem.key, 12).get(0), 0))
    steps = [0.02] * 12 if lr == "0.02" else [0.05 / np.sqrt(t + 1) for t in range(12)]
    for t in (3, 7, 11):
        flow = c + (0.7 - c) * np.exp(-a * sum(steps[:t]))
        exact = np.linalg.norm(run["x"][:, t, 0] - flow, axis=-1)
        np.testing.assert_allclose(run["flow_distance"][:, t], exact, rtol=1e-6)
        way = np.linalg.norm(flow - 0.7, axis=-1)
        np.testing.assert_allclose(run["flow_distance_relative"][:, t], exact / way, rtol=1e-6)


def test_the_flow_follows_costs_that_change() -> None:
    """Against steps a hundred times as small, each of the costs of its own round."""
    asked = {
        **SMALL,
        "scenario": "moving_target:dim=2",
        "algorithm": "dgd:lr=0.1",
        "agents": 2,
        "trials": 1,
        "rounds": 7,
        "x0": 0.5,
    }
    run = distopt.simulate("complete", **asked, record="x", probe="flow_distance:every=7")
    problem = build(Experiment("complete", **asked))
    data, x = Blocks(problem.scenario, problem.key, 7).get(0), torch.full((1, 2, 2), 0.5, dtype=torch.float64)
    for t in range(6):
        for _ in range(1000):
            g = problem.scenario.grad(x, at(data, t)).mean(1, keepdim=True)
            x = x - 1e-4 * g
    exact = np.linalg.norm(run["x"][0, 6].mean(0) - x[0, 0].numpy())
    assert run["flow_distance"][0, -1] == pytest.approx(exact, rel=2e-2)


def test_a_step_size_that_tells_no_time_is_refused() -> None:
    class Still:
        channels = ()

        def init(self, x: Tensor) -> Tensor:
            return x.clone()

        def update(self, g: Tensor, state: Tensor, x: Tensor, mix: Any) -> tuple[Tensor, Tensor]:
            return x.clone(), state

    with pytest.raises(
        InputError, match="probe flow_distance: Still has no step size lr that is a number or a schedule"
    ):
        distopt.simulate("ring", **{**SMALL, "algorithm": Still()}, probe="flow_distance")


@pytest.mark.parametrize("name", [name for name in registry.names("probes") if name != "mini_batch_edge"])
def test_shipped_probes_keep_their_promises(name: str) -> None:
    probe = registry.make("probes", f"{name}:every=2,{'parts' if name == 'flow_distance' else 'steps'}=3")
    assert isinstance(probe, Probe)
    scenario = "digits_mlp:rows=8,normalised=8" if name == "spherical_sharpness" else "quadratic:dim=3"
    check_probe(probe, scenario, "gt:direction=adam")
