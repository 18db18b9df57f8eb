"""Learners of PyNOL and directed methods of disropt beside distopt's own: the same costs, constants and random directions, round by round.

    pynol-xzp      OGD, Ader's parts, bandit descent      our dgd, ader, bandit(...), one agent       costs that move, on a ball
    disropt        directed gradient tracking; push-sum   our ab, subgradient_push, push_diging       fixed costs, two directed graphs

Everything of ours comes from ``distopt.simulate``. PyNOL draws directions from a seed of the system; it is handed the ones that distopt draws. Its
weights of experts and their decay are those of its theory; for the comparison both are set to ours, and its own are one row more.

Usage: DISTOPT_PEERS=/path/to/python python benchmarks/online_peers.py [--log]    --log writes benchmarks/results/online_peers.json and the tables
of docs/online.md and docs/directed.md

where that Python, or one of several with ":" between them, has either package: pip install pynol-xzp multiprocess; pip install disropt, and an MPI,
such as mpich, with mpiexec beside that Python or on the path. Without the variable, one line and no figures.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import online_packages
import peers
import torch
from machine import header, log, machine, written
from online_packages import DESCENT, EPS, EXPERTS, LR, RADIUS, SLOW, SMALL, WIDE, Array

import distopt
from distopt.experiment import Experiment
from distopt.numerics.normal import normal
from distopt.simulation.problem import Problem, build

DOCS = Path(__file__).parents[1] / "docs"
ROUNDS, SETTLING = 1000, 300
TOLERANCE = 1e-9
CIRCLE = f"feasible(moving_target(dim=4,kappa=2,period=100,spread=1),form=ball,radius={RADIUS})"
STILL = "moving_target:motion=line,speed=0,dim=3,kappa=2"
AGENTS, STEP = 6, 0.02
GRAPHS = {"balanced": "directed_exponential", "other": "random_digraph:p=0.4"}
LEARNERS = {
    "descent": ("`OGD`", f"dgd:lr={DESCENT}"),
    "experts": ("`Ader`, our constants", f"ader:lr={LR},experts={EXPERTS},eps={EPS}"),
    "two_point": ("`BGDTwoPoint`", f"bandit(dgd(lr={DESCENT}),form=two_point,delta={SMALL})"),
    "one_point": ("`BGDOnePoint`", f"bandit(dgd(lr={SLOW}),form=one_point,delta={WIDE})"),
    "experts two_point": (
        "`PBGDTwoPoint`, our constants",
        f"bandit(ader(lr={LR},experts={EXPERTS},eps={EPS}),form=two_point,delta={SMALL})",
    ),
}
"""Methods of PyNOL and ours, by what online_packages.py calls them."""
DIRECTED = {
    "tracking": ("`DirectedGradientTracking`", f"ab:lr={STEP},form=atc"),
    "push": ("`PushSumConsensus` and gradient steps", f"subgradient_push:lr={STEP}"),
    "push tracked": ("two `PushSumConsensus` and gradient steps", f"push_diging:lr={STEP}"),
}

ANOTHER = ("directed", GRAPHS["other"], DIRECTED["tracking"][1])
"""Where the recursions are not the same: disropt mixes trackers by C before they move points, and ours, in this form, by R."""


def answer(package: str, streams: Mapping[str, Any]) -> dict[str, Any] | str:
    """What a package finds on these streams, by one of the Pythons; or a line that says why it does not."""
    said: dict[str, Any] | str = f"{package}: skipped; DISTOPT_PEERS must name a Python that has it"
    for python in filter(None, os.environ.get("DISTOPT_PEERS", "").split(os.pathsep)):
        words = [python, str(Path(online_packages.__file__).resolve()), package, "streams.npz", "answer.npz"]
        said = peers.elsewhere(package, words, AGENTS if package == "disropt" else 0, streams)
        if not isinstance(said, str):
            break
    return said


def apart(x: Array, y: Array) -> float:
    """The greatest difference of two trajectories, as a share of the greatest coordinate."""
    return float(np.abs(x - y).max() / np.abs(x).max())


def data(problem: Problem) -> tuple[Array, Array]:
    """Curvatures a [N, d] and targets c [T, N, d] of the problem's quadratics, or c [1, N, d] where they stay."""
    t = torch.arange(problem.rounds).reshape(-1, 1, 1, 1)
    found = problem.scenario.batch(t, problem.key)
    return found.a[0, 0].numpy(), found.c[:, 0].numpy()


def learners() -> dict[str, Any] | str:
    """PyNOL beside distopt: for each method the cumulative costs of both and how far their points are apart."""
    ask: dict[str, Any] = {"agents": 1, "scenario": CIRCLE, "rounds": ROUNDS}
    problem = build(Experiment("ring", algorithm="dgd", **ask))
    a, c = (each.squeeze(-2) for each in data(problem))
    z = normal(problem.key.uniform("uniform", len(a), torch.arange(ROUNDS).reshape(-1, 1, 1, 1)))[:, 0, 0].numpy()
    found = answer("pynol-xzp", {"a": a, "c": c, "u": z / np.linalg.norm(z, axis=-1, keepdims=True)})
    if isinstance(found, str):
        return found

    def cost(x: Array) -> float:
        return float(0.5 * (a * (x - c) ** 2).sum())

    rows, least = [], 0.0
    for name, (theirs, ours) in LEARNERS.items():
        run = distopt.simulate("ring", algorithm=ours, record="x", **ask)
        x = run["x"][0, :ROUNDS, 0]
        least = cost(x) - float(run["dynamic_regret"][0, -1])
        held = int((np.linalg.norm(x, axis=-1) > RADIUS - 1e-9).sum())
        gap = apart(x, found[name])
        rows.append(
            {"theirs": theirs, "ours": ours, "costs": [cost(found[name]), cost(x)], "gap": gap, "on_the_edge": held}
        )
        print(f"{ours:58s} cumulative cost {cost(x):9.3f}, {theirs} {cost(found[name]):9.3f}, points apart {gap:.1e}")
    own = cost(found["its own constants"])
    print(f"PyNOL's Ader with the constants of its theory: {own:.3f}; the least possible: {least:.3f}")
    return {"version": str(found["version"]), "rows": rows, "own_constants": own, "least": least}


def directed() -> dict[str, Any] | str:
    """disropt beside distopt: for each method and graph how far their points are apart, and how far both end from the minimiser."""
    ask: dict[str, Any] = {"agents": AGENTS, "scenario": STILL, "rounds": SETTLING}
    a, c = data(build(Experiment(GRAPHS["balanced"], algorithm="ab", **ask)))
    streams: dict[str, Any] = {"a": a, "c": c[0], "lr": STEP, "rounds": SETTLING}
    for graph, topology in GRAPHS.items():
        network, first = build(Experiment(topology, algorithm="ab", **ask)).network, torch.zeros(1, 1, 1, 1).long()
        for letter, channel in (("R", "x"), ("C", "s")):
            dense = network.mixings[network.which[channel]].dense(first)
            streams[f"{graph} {letter}"] = dense.reshape(AGENTS, AGENTS).numpy()
    found = answer("disropt", streams)
    if isinstance(found, str):
        return found
    best, rows = (a * c[0]).sum(0) / a.sum(0), []
    for graph, topology in GRAPHS.items():
        for name, (theirs, ours) in DIRECTED.items():
            x, y = (
                distopt.simulate(topology, algorithm=ours, record="x", **ask)["x"][0, :SETTLING],
                found[f"{graph} {name}"],
            )
            gap, ends = apart(x, y), [float(np.abs(each[-1] - best).max()) for each in (y, x)]
            rows.append({"graph": topology, "theirs": theirs, "ours": ours, "gap": gap, "ends": ends})
            print(
                f"{topology:22s}{ours:28s} points apart {gap:.1e}, ends from the minimiser: {theirs} {ends[0]:.1e}, ours {ends[1]:.1e}"
            )
    return {"version": str(found["version"]), "rows": rows}


def learners_table(found: Mapping[str, Any]) -> str:
    """What docs/online.md shows of PyNOL."""
    lines = [
        f"| PyNOL {found['version']} | ours | Σ f_t(x_t), PyNOL | Σ f_t(x_t), ours | points apart, at most |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        theirs, ours = row["costs"]
        lines.append(f"| {row['theirs']} | `{row['ours']}` | {theirs:.3f} | {ours:.3f} | {row['gap']:.0e} |")
    lines.append(f"| `Ader`, constants of its theory | | {found['own_constants']:.3f} | | |")
    return "\n".join(
        [*lines, f"| the best allowed point of each round | | {found['least']:.3f} | {found['least']:.3f} | |"]
    )


def directed_table(found: Mapping[str, Any]) -> str:
    """What docs/directed.md shows of disropt."""
    lines = [
        f"| graph | disropt {found['version']} | ours | points apart, at most | distance from the minimiser at the end: disropt, ours |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        theirs, ours = row["ends"]
        lines.append(
            f"| `{row['graph']}` | {row['theirs']} | `{row['ours']}` | {row['gap']:.0e} | {theirs:.0e}, {ours:.0e} |"
        )
    return "\n".join(lines)


def pages(found: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """The pages that have tables of the log, and what then stands on them."""
    for name, table in (("online", learners_table(found["learners"])), ("directed", directed_table(found["directed"]))):
        page = DOCS / f"{name}.md"
        yield page, written(page.read_text(), "online_peers.py", table)


def main() -> None:
    """Print the comparisons; exit 1 where points that must agree do not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", action="store_true")
    asked, about = parser.parse_args(), machine()
    print(header(about), flush=True)
    found = {"learners": learners(), "directed": directed()}
    missing = [each for each in found.values() if isinstance(each, str)]
    print("\n".join(missing))
    for name, each in found.items():
        for row in [] if isinstance(each, str) else each["rows"]:
            if row["gap"] > TOLERANCE and (name, row.get("graph"), row["ours"]) != ANOTHER:
                sys.exit(f"{row['ours']}: {row['gap']:.1e} from {row['theirs']}, more than {TOLERANCE:g}")
    if asked.log and not missing:
        log("online_peers", found, about)
        for page, text in pages(found):
            page.write_text(text)


if __name__ == "__main__":
    main()
