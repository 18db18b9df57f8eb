"""The optimiser on ranks has the bits of the simulator, with and without messages that are sent ahead."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import needs
from helpers.spelling import samples, stepping
from helpers.trained import STEPS, Small, loss, on_ranks, points, row, simulated, steps
from torch import Tensor, nn

import distopt
from distopt.algorithms.gt import GT
from distopt.catalog import registry
from distopt.catalog.parts import part
from distopt.codegen.folder import CompileWarning
from distopt.errors import InputError
from distopt.optim import DGD, EFSGD, DAdam, Decentralized, EFSignSGD, ExactDiffusion, GradientTracking, GTAdam
from distopt.scenarios.network import Network

pytestmark = needs.forks

PROVEN: list[tuple[str, dict[str, Any]]] = [
    ("gtadam:lr=0.01", {}),
    ("gt:lr=0.05", {}),
    ("dgd:lr=0.05", {}),
    ("exact_diffusion:lr=0.05", {}),
    ("gtadam:lr=0.01", {"channel": "choco:compressor=sign,gamma=0.4"}),
    ("gtadam:lr=0.01", {"topology": "one_peer_exponential"}),
]
"""What is compared over 100 steps."""

MORE: list[tuple[str, dict[str, Any]]] = [
    ("gt:lr=0.05,form=atc", {}),
    ("gt:lr=0.01", {"channel": "choco:compressor=qsgd,gamma=0.2"}),
    ("ef_signsgd:lr=0.02", {"topology": "complete"}),
    ("ef_sgd:lr=0.02", {"topology": "star"}),
    ("extra:lr=0.02", {}),
    ("nids:lr=0.02", {}),
    ("gtadam:lr=inverse_sqrt(0.02)", {"topology": "random_matching"}),
    ("powergossip:lr=0.01", {}),
    ("beer:lr=0.01", {}),
    ("dadam:lr=0.01,b3=0.1", {"weights": "lazy"}),
    ("signum:lr=0.01", {"topology": "complete"}),
    ("ab:lr=0.02,direction=adam", {"topology": "random_digraph:p=0.5"}),
    ("push_diging:lr=0.02", {"topology": "directed_ring"}),
]


WAYS = [("auto", True), ("auto", False), ("eager", True), ("eager", False)]
"""Compiled or not, with messages sent ahead or within the step."""


def trained(
    rank: int,
    algorithm: Any,
    rounds: int,
    dtype: torch.dtype,
    settings: dict[str, Any],
    ways: Sequence[tuple[str, bool]],
) -> list[list[Tensor]]:
    """A rank's trajectory in each way."""
    found = []
    for mode, overlap in ways:
        model = Small().to(dtype)
        optimizer = Decentralized(model.named_parameters(), algorithm, overlap=overlap, mode=mode, **settings)
        found.append(steps(model, optimizer, rank, range(rounds)))
    return found


def compared(
    cases: list[tuple[str, dict[str, Any]]],
    rounds: int,
    place: Path,
    dtype: torch.dtype = torch.float64,
    ways: Sequence[tuple[str, bool]] = tuple(WAYS),
) -> None:
    def work(rank: int) -> Any:
        return [trained(rank, algorithm, rounds, dtype, settings, ways) for algorithm, settings in cases]

    ranks = on_ranks(4, work, place)
    for k, (algorithm, settings) in enumerate(cases):
        for at, way in enumerate(ways):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the costs are not compiled")  # those of a torch model never are
                wanted = simulated(algorithm, rounds, dtype=dtype, mode=way[0], **settings)
            assert torch.equal(points([each[k][at] for each in ranks]), wanted), (algorithm, settings, way)
            assert not torch.equal(wanted[0], wanted[-1]), "nothing moved"


@pytest.mark.slow
def test_steps_are_the_rounds_of_the_simulator_bit_for_bit(tmp_path: Path) -> None:
    compared(PROVEN[:1] + PROVEN[4:], 12, tmp_path)


@pytest.mark.battery
def test_a_hundred_steps_are_so_too(tmp_path: Path) -> None:
    compared(PROVEN, 100, tmp_path)


@pytest.mark.slow
def test_other_methods_and_networks_are_so_too(tmp_path: Path) -> None:
    compared(MORE, STEPS, tmp_path, ways=WAYS[:1] + WAYS[3:])
    compared(PROVEN, STEPS, tmp_path, torch.float32, WAYS[:1])


@pytest.mark.slow
def test_every_algorithm_trains_as_it_is_simulated(tmp_path: Path) -> None:
    """A closure gives those that take several gradients in a round what they ask for.

    Nobody knows the costs of the round before, or values of the costs: see ``test_what_only_the_simulator_knows_is_refused``.
    """
    known = [name for name in registry.names("algorithms") if name not in ("prediction_correction", "bandit")]
    names = [name for name in known if not samples(name)]
    averaging = [name for name in names if part("algorithms", name, (), {}).weights == "average"]
    at = {name: "complete" if name in averaging else "ring" for name in names}

    def work(rank: int) -> Any:
        found = {}
        for name, topology in at.items():
            model = Small().double()
            optimizer = Decentralized(model.named_parameters(), stepping(name, 0.005), topology=topology)

            def closure(model: nn.Module = model, optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                value = loss(model, rank, optimizer.round)
                value.backward()
                return value

            for _ in range(6):
                optimizer.step(closure)
            found[name] = row(model)
        return found

    ranks = on_ranks(4, work, tmp_path, timeout=240)
    for name, topology in at.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=CompileWarning)  # the costs of a torch model are not compiled
            wanted = simulated(stepping(name, 0.005), 6, topology=topology)
        assert torch.equal(torch.stack([each[name] for each in ranks]), wanted[-1]), name
        assert not torch.equal(wanted[0], wanted[-1]), name


def test_what_only_the_simulator_knows_is_refused() -> None:
    model = Small().double()
    with pytest.raises(InputError, match="a closure gives gradients; use the algorithm without bandit"):
        Decentralized(model.named_parameters(), stepping("bandit", 0.005))
    optimizer = Decentralized(model.named_parameters(), stepping("prediction_correction", 0.005))

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model, 0, 0)
        value.backward()
        return value

    with pytest.raises(InputError, match="only the simulator has them"):
        optimizer.step(closure)


@pytest.mark.slow
def test_several_buckets_are_several_instances_of_the_algorithm(tmp_path: Path) -> None:
    """Coordinate by coordinate nothing changes; only rows that are compressed as a whole become several rows."""

    def work(rank: int) -> Any:
        found = []
        for megabytes in (25, 1e-4):
            model = Small().double()
            optimizer = GTAdam(model.named_parameters(), lr=0.01, bucket_mb=megabytes)
            assert len(optimizer._buckets) == (1 if megabytes == 25 else 5)
            found.append(steps(model, optimizer, rank, range(STEPS)))
        return found

    ranks = on_ranks(4, work, tmp_path)
    assert torch.equal(points([one for one, _ in ranks]), points([many for _, many in ranks]))


def test_one_rank_is_adam_without_bias_correction() -> None:
    """torch's Adam, with its correction undone by the step size and eps of each step, and eps outside the root."""
    model, twin = Small().double(), Small().double()
    ours = Decentralized(model.named_parameters(), "gt:direction=adam(eps=1e-8,eps_inside=false,cap=none)", lr=0.01)
    theirs = torch.optim.Adam(twin.parameters(), lr=0.01, foreach=False)
    for t in range(STEPS):
        correction = (1 - 0.9 ** (t + 1)) / (1 - 0.999 ** (t + 1)) ** 0.5
        theirs.param_groups[0]["lr"] = 0.01 * correction
        theirs.param_groups[0]["eps"] = 1e-8 / (1 - 0.999 ** (t + 1)) ** 0.5
        for one, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            loss(one, 0, t).backward()
            optimizer.step()
    assert torch.allclose(row(model), row(twin), rtol=0, atol=1e-13)
    assert (row(model) - row(Small().double())).abs().max() > 0.01


def test_equal_data_on_a_complete_graph_is_one_process(tmp_path: Path) -> None:
    """As DistributedDataParallel with SGD: all ranks stay together and go where one process goes."""

    def work(rank: int) -> Any:
        model = Small().double()
        optimizer = GradientTracking(model.named_parameters(), lr=0.05, topology="complete")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = steps(model, optimizer, 0, range(STEPS))
        told = [(str(each.message)[:73], Path(each.filename).name) for each in said]
        wanted = "all ranks have the same gradients (shuffle=True with equal seeds?); give "
        assert told == [(wanted, "trained.py")] * (rank == 0), "once, at the line that steps"
        return found

    alone = Small().double()
    wanted = torch.stack(steps(alone, torch.optim.SGD(alone.parameters(), lr=0.05), 0, range(STEPS)))
    for found in on_ranks(4, work, tmp_path):
        assert torch.allclose(torch.stack(found), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "spec"),
    [
        (lambda p: GTAdam(p, lr=0.02, b1=0.8, b2=0.99), "gtadam:lr=0.02,b1=0.8,b2=0.99"),
        (lambda p: GradientTracking(p, lr=0.02, form="atc"), "gt:lr=0.02,form=atc"),
        (lambda p: DGD(p, lr=0.02), "dgd:lr=0.02"),
        (lambda p: DAdam(p, lr=0.02, b3=0.5), "dadam:lr=0.02,b3=0.5"),
        (lambda p: ExactDiffusion(p, lr=0.02), "exact_diffusion:lr=0.02"),
        (lambda p: EFSGD(p, lr=0.02, compressor="topk(k=3)"), "ef_sgd:lr=0.02,compressor=topk(k=3)"),
        (lambda p: EFSignSGD(p, lr=0.02, segments=""), "ef_signsgd:lr=0.02"),
        (lambda p: EFSignSGD(p, lr=0.02), "ef_signsgd:lr=0.02,segments=35+7+21+3+1"),
    ],
    ids=["GTAdam", "GradientTracking", "DGD", "DAdam", "ExactDiffusion", "EFSGD", "EFSignSGD", "EFSignSGD tensors"],
)
def test_a_constructor_makes_the_algorithm_of_its_paper(make: Any, spec: str) -> None:
    # the order of named_parameters: gain comes first
    spec = spec.replace("35+7+21+3+1", "+".join(str(each.numel()) for each in Small().parameters()))
    found = []
    for maker in (make, lambda p: Decentralized(p, spec)):
        model: nn.Module = Small().double()
        found.append(torch.stack(steps(model, maker(model.named_parameters()), 0, range(8))))
    assert torch.equal(*found)


@pytest.mark.slow
@pytest.mark.parametrize("model", needs.slow_but("mlp", ["mlp", "cnn", "transformer"]))
def test_the_scenario_network_trains_as_ranks_do(model: str, tmp_path: Path) -> None:
    """Bit for bit where it takes gradients agent by agent, as a script does; by rounding where all agents are one batch."""
    rounds, ranks = 100 if model == "mlp" else 12, 4
    made = {each: Network(model=model, alpha=0.3, batch_size=8, gradients=each) for each in ("each", "batched")}
    channels = {"exact": 1e-10, "choco:compressor=sign,gamma=0.3": None}  # a rounding turns signs over

    def work(rank: int) -> list[Tensor]:
        network, found = made["each"], []
        for channel in channels:
            own = network.build_model(torch.float64)
            optimizer = Decentralized(own.named_parameters(), "gtadam:lr=0.003", channel=channel)
            for t in range(rounds):
                x, y = network.minibatch(t, rank, ranks, dtype=torch.float64)
                optimizer.zero_grad()
                network.batch_loss(own(x), y).backward()
                optimizer.step()
            found.append(row(own))
        return found

    trained = on_ranks(ranks, work, tmp_path)
    for k, (channel, bound) in enumerate(channels.items()):
        found = torch.stack([each[k] for each in trained])
        assert (found[0] - found[1]).abs().max() > 1e-4
        for how, network in made.items():
            settings = {"algorithm": "gtadam:lr=0.003", "channel": channel, "rounds": rounds, "every": rounds}
            run = distopt.simulate("ring", agents=ranks, scenario=network, record="x", **settings)
            wanted = torch.as_tensor(run["x"]).reshape(-1, ranks, network.dim)[-1]
            if how == "each":
                assert torch.equal(found, wanted)
            elif bound is not None:
                assert (found - wanted).abs().max() < bound


def test_memory_is_what_the_rounds_take_too(tmp_path: Path) -> None:
    """Compiled rounds write over what the agent holds, and need no second place for it."""

    def work(rank: int) -> list[dict[str, Any]]:
        found = []
        for mode in ("auto", "eager"):
            param = nn.Parameter(torch.ones(1000))
            optimizer = GTAdam([param], mode=mode)
            for _ in range(2):
                param.grad = torch.full((1000,), rank + 1.0)
                optimizer.step()
            found.append({name: size / 4000 for name, size in optimizer.memory().items()})
        return found

    for compiled, eager in on_ranks(2, work, tmp_path):
        assert compiled == eager
        assert eager == {
            "x": 1,
            "state": 4,
            "memory of compression": 0,
            "gradient": 1,
            "messages": pytest.approx(4, rel=0.01),
            "compiled rounds": 0,
        }


class Counting(GT):
    """Steps that shrink with the rounds, which it counts itself."""

    def update(self, g: Tensor, state: Any, x: Tensor, mix: Any) -> Any:
        calls = getattr(self, "calls", 0) + 1
        object.__setattr__(self, "calls", calls)
        return super().update(g / calls, state, x, mix)


def test_an_algorithm_that_counts_its_rounds_is_not_compiled() -> None:
    ends = []
    for mode in ("auto", "eager"):
        model = Small()
        optimizer = Decentralized(model.named_parameters(), Counting(lr=0.05), mode=mode)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            ends.append(steps(model, optimizer, 0, range(5))[-1])
        assert any("each round changes algorithm.calls" in str(each.message) for each in seen) == (mode == "auto")
    assert torch.equal(*ends)


def test_an_error_of_the_constructor_is_told_once_and_the_method_is_named(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        model = Small()
        with pytest.raises(InputError, match="sign is a compressor: write channel='choco:compressor=sign'") as caught:
            GTAdam(model.named_parameters(), channel="sign")
        return caught.value.__cause__ is None and caught.value.__suppress_context__

    assert on_ranks(2, work, tmp_path) == [True, True]
    assert 'GTAdam through "exact", rank 0 of 1' in repr(GTAdam(Small().named_parameters()))
    assert 'gt:form=atc through "exact", rank 0 of 1' in repr(Decentralized(Small().named_parameters(), "gt:form=atc"))
