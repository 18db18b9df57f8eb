"""Which neighbour sum compiles to the fastest round: gathers, rolls, or sums over a list of links.

Usage: python benchmarks/sums.py [--log]    --log writes benchmarks/results/sums.json

One GTAdam round with elementwise quadratics, in one compiled function for 64 rounds, one thread, float64; only W z differs:

    gather    distopt's: a padded table, unrolled over its columns; long rows apart (``distopt.network.rows.apply``)
    roll      z[i - 1] + z[i] + z[i + 1] by ``torch.roll``: circulant graphs only
    links     every link's row picked and added to its receiver (``index_add``): what a sparse product does
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from machine import header, log, machine
from torch import Tensor

from distopt.codegen.function import compiled
from distopt.network.graphs import Graph
from distopt.network.mixing import ConstantMixing
from distopt.network.rows import Table, apply
from distopt.network.topology import build_topology

ROUNDS, REPEATS = 64, 7
CASES = [
    ("ring", 16, 100),
    ("ring", 1000, 10),
    ("ring", 1000, 16),
    ("ring", 100, 7850),
    ("star", 1000, 16),
    ("random_regular:degree=4", 1000, 16),
    ("barabasi_albert", 1000, 16),
]
Mix = Callable[[Tensor], Tensor]


def sums(topology: str, agents: int) -> dict[str, Mix]:
    """The ways to apply W."""
    graph = build_topology(topology, agents, 0)
    assert isinstance(graph, Graph)
    network = ConstantMixing(graph, "metropolis")
    table = Table(*(leaf[0] for leaf in network.rows(torch.zeros(1, 1, 1, 1, dtype=torch.int64))))
    own = torch.from_numpy(network.terms.own).reshape(-1, 1)
    receiver, sender = torch.from_numpy(network.terms.receiver), torch.from_numpy(network.terms.sender)
    weight = torch.from_numpy(network.terms.weight).reshape(-1, 1)
    ways: dict[str, Mix] = {
        "gather": lambda z: apply(table, z),
        "links": lambda z: (own * z).index_add(-2, receiver, weight * z[:, sender]),
    }
    if topology == "ring":
        third = 1 / 3
        ways["roll"] = lambda z: third * torch.roll(z, 1, -2) + third * z + third * torch.roll(z, -1, -2)
    return ways


def timed(mix: Mix, agents: int, dim: int) -> tuple[Tensor, float]:
    """x after some rounds, and the best microseconds a round."""
    generator = torch.Generator().manual_seed(0)
    a, c = torch.rand(1, agents, dim, generator=generator) + 0.5, torch.randn(1, agents, dim, generator=generator)

    def round(carry: list[Tensor], _: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        x, s, m, v, g = carry
        fresh = a * (x - c)
        s = mix(s) + fresh - g
        m, v = 0.9 * m + 0.1 * s, 0.999 * v + 0.001 * s * s
        return [mix(x) - 0.01 * m / (v + 1e-8).sqrt(), s, m, v, fresh], []

    zeros = [torch.zeros(1, agents, dim) for _ in range(5)]
    bound = compiled(round, zeros, []).bound(zeros, [], [])
    bound(0, ROUNDS)
    x, best = bound.carry[0].clone(), float("inf")
    for _ in range(REPEATS):
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < 0.05:
            bound(0, ROUNDS)
            calls += 1
        best = min(best, (time.perf_counter() - began) / calls / ROUNDS * 1e6)
    return x, best


def main() -> None:
    """Print the table; stop where two ways disagree."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", action="store_true")
    keep = parser.parse_args().log
    about = machine()
    print(header(about))
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    found: dict[str, dict[str, float]] = {}
    for topology, agents, dim in CASES:
        answers = {name: timed(mix, agents, dim) for name, mix in sums(topology, agents).items()}
        for name, (x, _) in answers.items():
            assert torch.allclose(x, answers["gather"][0], rtol=1e-9, atol=1e-12), (topology, name)
        title = f"{topology} {agents} x {dim}"
        found[title] = {name: round(microseconds, 2) for name, (_, microseconds) in answers.items()}
        print(f"{title:34s}" + "".join(f"{name:>10s} {value:9.2f}" for name, value in found[title].items()), flush=True)
    if keep:
        log("sums", {"microseconds": found}, about)


if __name__ == "__main__":
    main()
