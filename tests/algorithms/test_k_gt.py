"""K-GT against a loop written from its paper, in the simulator and as local steps of the optimiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs
from helpers.trained import Small, loss, on_ranks, points, row, steps
from torch import Tensor

import distopt
from distopt.algorithms.k_gt import KGT
from distopt.errors import InputError
from distopt.network.net import Rehearsal
from distopt.optim import Decentralized

N, D, ROUNDS = 5, 3, 60
draw = np.random.default_rng(3)
CURVATURE, CENTRE = draw.uniform(0.5, 2.0, (N, D)), draw.normal(0, 2, (N, D))
W = np.zeros((N, N))
for i in range(N):
    W[i, i] = W[i, (i + 1) % N] = W[i, (i - 1) % N] = 1 / 3


def from_the_paper(local: int, lr: float, server: float) -> Any:
    """z as the paper has it: what the local steps moved, divided by K lr."""
    x, c, path = np.zeros((N, D)), np.zeros((N, D)), [np.zeros((N, D))]
    for _ in range(ROUNDS):
        y = x.copy()
        for _ in range(local):
            y = y - lr * (CURVATURE * (y - CENTRE) + c)
        z = (x - y) / (local * lr)
        c = c - z + W @ z
        x = W @ (x - local * server * lr * z)
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize(("local", "server"), [(1, 1.0), (5, 1.0), (4, 0.5), (3, 1.2)])
def test_rounds_are_those_of_the_paper(local: int, server: float) -> None:
    algorithm = KGT(0.05, local, server)
    a, b, w = (torch.from_numpy(each) for each in (CURVATURE, CENTRE, W))
    x = torch.zeros(1, N, D, dtype=torch.float64)
    state, path = algorithm.init(x), [x]
    for t in range(ROUNDS):
        round = Rehearsal(lambda name, z: w @ z, x, t, grad=lambda y: a * (y - b))
        x, state = algorithm.update(a * (x - b), state, x, round)
        path.append(x)
        assert float(state.c.sum(1).abs().max()) < 1e-12, "the corrections no longer sum to zero"
        assert round.gradients == local - 1
    wanted = from_the_paper(local, 0.05, server)
    assert np.abs(torch.cat(path).numpy() - wanted).max() < 1e-12 * np.abs(wanted).max()
    optimum = (CURVATURE * CENTRE).sum(0) / CURVATURE.sum(0)
    assert np.abs(wanted[-1] - optimum).max() < np.abs(wanted[0] - optimum).max() / 5


def test_without_correction_local_steps_are_biased_where_costs_differ() -> None:
    ends = {}
    for correction in (True, False):
        run = distopt.simulate(
            "ring",
            agents=6,
            scenario="quadratic",
            algorithm=KGT(0.05, 5, correction=correction),
            rounds=600,
        )
        ends[correction] = float(run["consensus_error"][:, -1].mean())
    assert ends[True] < 1e-6 < ends[False] / 100


@pytest.mark.slow
@needs.forks
def test_local_steps_of_the_optimiser_are_those_of_the_paper(tmp_path: Path) -> None:
    """x, c and z are of each rank's own batches; the simulator has no such rounds, so a loop over the ranks stands for it."""
    local, lr, rounds, ranks = 4, 0.02, 24, 4

    def work(rank: int) -> Any:
        found = {}
        for name in ("gt", "dgd", "k_gt:local=9"):  # every= says how many, whatever k_gt was given
            model = Small().double()
            optimizer = Decentralized(model.named_parameters(), name, lr=lr, every=local)
            found[name] = steps(model, optimizer, rank, range(rounds))
            assert optimizer.bits_sent == (rounds // local) * 2 * (1 if name == "dgd" else 2) * 64 * len(row(model))
        return found

    def gradient(x: Tensor, rank: int, t: int) -> Tensor:
        model = Small().double()
        torch.nn.utils.vector_to_parameters(x, model.parameters())
        return torch.cat([each.reshape(-1) for each in torch.autograd.grad(loss(model, rank, t), model.parameters())])

    def loop(correct: bool) -> Tensor:
        w = torch.zeros(ranks, ranks, dtype=torch.float64)
        for i in range(ranks):
            w[i, i] = w[i, (i + 1) % ranks] = w[i, (i - 1) % ranks] = 1 / 3
        x = torch.stack([row(Small().double())] * ranks)
        c, start, path = torch.zeros_like(x), x, [x]
        for t in range(rounds):
            x = x - lr * (torch.stack([gradient(x[i].clone(), i, t) for i in range(ranks)]) + c)
            if (t + 1) % local == 0:
                z = (start - x) / (local * lr)
                c = c - z + w @ z if correct else c
                start = x = w @ x
            path.append(x)
        return torch.stack(path)

    found = on_ranks(ranks, work, tmp_path)
    for name, correct in (("gt", True), ("dgd", False), ("k_gt:local=9", True)):
        wanted = loop(correct)
        assert (points([each[name] for each in found]) - wanted).abs().max() < 1e-11
        assert (wanted[-1] - wanted[0]).abs().max() > 0.01


@pytest.mark.slow
@needs.forks
def test_local_steps_go_on_from_a_state_saved_between_two_exchanges(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        whole, first = Small().double(), Small().double()
        settings: dict[str, Any] = {"lr": 0.01, "every": 4, "channel": "choco:compressor=sign,gamma=0.4"}
        wanted = steps(whole, Decentralized(whole.named_parameters(), "gtadam", **settings), rank, range(13))
        before = Decentralized(first.named_parameters(), "gtadam", **settings)
        steps(first, before, rank, range(6))
        saved = before.state_dict()
        second = Small().double()
        after = Decentralized(second.named_parameters(), "gtadam", **settings)
        after.load_state_dict(saved)
        return wanted[-1], steps(second, after, rank, range(6, 13))[-1]

    for wanted, found in on_ranks(4, work, tmp_path):
        assert torch.equal(wanted, found)


def test_other_algorithms_have_no_local_steps() -> None:
    with pytest.raises(InputError, match="every=4: exact_diffusion has no version with local steps"):
        Decentralized(Small().named_parameters(), "exact_diffusion", every=4)
