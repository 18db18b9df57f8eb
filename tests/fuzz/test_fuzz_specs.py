"""Specs by the thousand: every name of the catalogue with every parameter, and what none of them is."""

from __future__ import annotations

import inspect
import random
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.fuzzing import Kinds, Outcome, asked, hunt, hunts, retry, typed
from helpers.mutation import CHARS, NUMBERS, mutate

import distopt
from distopt.catalog import registry
from distopt.experiment import Experiment
from distopt.network.topology import build_topology
from distopt.runs.results import Run
from distopt.runs.sweep import points as sweep_points
from distopt.simulation.problem import build

PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WORDS = (
    "circle",
    "cta",
    "atc",
    "sgd",
    "sign",
    "topk",
    "plus",
    "fp16",
    "label",
    "carrier",
    "airport",
    "weather",
    "none",
    "None",
    "true",
    "no",
    "topozoo/Abilene",
    "x",
    "",
)
LARGE = re.compile(r"\d{4,}|[2-9]\d\d|1e[3-9]|1e\d\d")  # what could be asked for, and would take its time


def parameters(kind: str, name: str) -> list[tuple[str, Any]]:
    """(name, default) of what a spec of this name takes."""
    made = registry.maker(kind, name)
    return [
        (key, each.default) for key, each in inspect.signature(made).parameters.items() if key not in ("agents", "key")
    ]


def usual(rng: random.Random, default: Any) -> str:
    """A value that is right, where one is known."""
    return rng.choice(("sign", "topk(k=1)", "qsgd")) if default is inspect.Parameter.empty else str(default) or "x"


def value(rng: random.Random, default: Any, depth: int = 0) -> str:
    """A value for a parameter, that is more often right than not."""
    way = rng.random()
    if way < 0.35 and isinstance(default, bool | int | float | str) and default != "":
        return str(default)
    if way < 0.6:
        return rng.choice(NUMBERS)
    if way < 0.7:
        return rng.choice(WORDS)
    if way < 0.8 and depth < 3:
        kind = rng.choice(("compressors", "directions", "channels", "algorithms"))
        return spec(rng, kind, depth + 1, brackets=rng.random() < 0.8)
    if way < 0.87:
        return "[" + ",".join(value(rng, default, depth + 1) for _ in range(rng.randint(0, 3))) + "]"
    if way < 0.93:
        mark = rng.choice("'\"")
        return mark + rng.choice((*CHARS, *NUMBERS)) + mark
    return rng.choice(CHARS)


def spec(rng: random.Random, kind: str, depth: int = 0, brackets: bool = False) -> str:
    """A spec of a kind."""
    name = rng.choice(registry.names(kind))
    given, free = [], parameters(kind, name)
    odd = (
        rng.choice(free)[0] if free and rng.random() < 0.8 else None
    )  # one at a time, or the first one hides the others
    for key, default in free:
        if key == odd or rng.random() < 0.3 or default is inspect.Parameter.empty:
            text = value(rng, default, depth) if key == odd else usual(rng, default)
            given.append(text if rng.random() < 0.1 else f"{key}{rng.choice(('=', '=', '=', ' = '))}{text}")
    if rng.random() < 0.1:
        rng.shuffle(given)
    text = ",".join(given)
    if depth and not brackets and text:
        return f"'{name}:{text}'"
    return name + (f"({text})" if brackets else f":{text}" if text else "")


def text(rng: random.Random, kind: str) -> str:
    """A spec of a kind, or what is left of one."""
    made = spec(rng, kind)
    way = rng.random()
    if way < 0.6:
        return made
    if way < 0.95:
        return mutate(rng, made)
    deep = rng.choice((50, 500, 5_000, 100_000))
    around = rng.choice(
        (
            ("(", ")"),
            ("[", "]"),
            ("gt:direction=", ""),
            ("adam(", ")"),
            ("choco:compressor=", ""),
            ("topk(k=", ")"),
            ("'", "'"),
            ("a,", ""),
            ("x=1,", ""),
        )
    )
    return made + rng.choice((":", ":lr=", "(", ",")) + around[0] * deep + around[1] * rng.choice((deep, 0))


def numbers(kind: str, made: str, built: Any) -> list[str]:
    """What is wrong with the numbers that a built part holds: they are those that stand in the text, to Python's float()."""
    faults = []
    parsed = registry.Spec.parse(made)
    free = [key for key, _ in parameters(kind, parsed.name.replace("-", "_"))]
    for key, given in (*zip(free, parsed.args, strict=False), *parsed.kwargs):
        held = getattr(built, key, None)
        if isinstance(held, bool) or not isinstance(held, int | float):
            continue
        if not PLAIN.fullmatch(given):
            if not (given.lower().lstrip("+-") in ("inf", "infinity") and held in (float("inf"), float("-inf"))):
                faults.append(f"accepts {key}={given[:40]!r} as {held!r}")
        elif float(given) != float(held):
            faults.append(f"takes {key}={given[:40]} for {held!r}")
    return faults


def command(kind: str, made: str, agents: int | None) -> list[str]:
    """The part as it is typed."""
    if kind == "topologies":
        return ["show", *([] if agents is None else ["--agents", str(agents)]), "--out", "out.png", "--", made]
    role = (
        kind[:-1]
        if kind in ("scenarios", "algorithms", "channels")
        else "algorithm"
        if kind == "directions"
        else "channel"
    )
    spec = f"gt:direction={made}" if kind == "directions" else f"choco:{made}" if kind == "compressors" else made
    parts = {"scenario": "quadratic:dim=3", "algorithm": "gt:lr=0.02", "channel": "exact"} | {role: spec}
    return [
        "simulate",
        "ring",
        "--agents",
        "4",
        *(word for key, each in parts.items() for word in (f"--{key}", each)),
        "--rounds",
        "3",
        "--eager",
        "--out",
        f"out{time.time_ns()}",
    ]


def ask(kind: str, made: str, agents: int | None, typing: bool) -> Outcome:
    """Build the part, and run it for three rounds where it is accepted and small; or type it."""

    if typing:
        return typed(*command(kind, made, agents))

    def action() -> Any:
        if kind == "topologies":
            return build_topology(made, agents, 0)
        if kind in ("directions", "compressors"):
            return registry.make(kind, made)
        parts = {"scenario": "moving_target", "algorithm": "gt:lr=0.02", "channel": "exact"}
        parts["scenario" if kind == "scenarios" else kind[:-1]] = made
        experiment = Experiment("ring", 4, **parts, rounds=3, trials=1)
        first = build(experiment.points()[0])
        if first.x0.shape[-1] > 300:
            return None
        return distopt.simulate("ring", agents=4, **parts, rounds=3, mode="eager")

    outcome = asked(action)
    if outcome.line is None and not outcome.faults:
        for run in outcome.value.values() if isinstance(outcome.value, dict) else [outcome.value]:
            if isinstance(run, Run) and run.status == "done" and not np.isfinite(run[run.leading]).all():
                outcome.faults.append(f"is done, with a figure that is no number ({run.leading})")
        if "[" not in made and kind != "topologies":
            plain = asked(lambda: registry.make(kind, made, {"agents": 4}))
            outcome.faults += numbers(kind, made, plain.value) if plain.value is not None else []
        elif kind == "topologies":
            parsed = registry.Spec.parse(made)
            odd = [v for _, v in parsed.kwargs if re.search(r"\d_\d|[^\x00-\x7f]", v) and "file" not in parsed.name]
            outcome.faults += [f"accepts {v[:40]!r}" for v in odd]
    return outcome


def one(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    role = kind.removeprefix("specs of ")
    made = text(rng, role)
    agents = rng.choice((4, 4, 4, None, 1, 2, 5, 8, 16))
    return (made, agents) if role == "topologies" else made, ask(role, made, agents, rng.random() < 0.15)


def settings(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    """The --set of a sweep, down to its points; nothing runs."""
    listed = []
    for _ in range(rng.choice((1, 1, 2))):
        part = rng.choice(("topology", "scenario", "algorithm", "channel"))
        key = rng.choice(
            (
                part,
                f"{part}.{rng.choice(('lr', 'b1', 'path', 'p', 'gamma', 'dim', 'compressor'))}",
                "seed",
                "rounds",
                "agents",
                "x0",
                "every",
                "trials",
                "drop_links",
            )
        )
        many = ",".join(
            rng.choice((rng.choice(NUMBERS), spec(rng, "algorithms"), "'gt:lr=1'", ""))
            for _ in range(rng.randint(1, 3))
        )
        listed.append(f"{key}={many}" if rng.random() < 0.7 else mutate(rng, f"{key}={many}"))
    made = {"topology": "ring", "agents": 4, "scenario": "moving_target", "algorithm": "gt:lr=0.1"}
    outcome = asked(lambda: sweep_points(made, listed, "file.toml"))
    if outcome.line is None and not outcome.faults:
        for point in outcome.value:
            for key, given in point.chosen:
                if key in ("seed", "rounds", "agents", "every", "trials", "drop_links", "x0") and not PLAIN.fullmatch(
                    given
                ):
                    outcome.faults.append(f"--set accepts {key}={given[:40]!r}")
    return listed, outcome


def options(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    """Whole command lines of show and simulate that never run: too many rounds, or none."""
    words = [rng.choice(("ring", "complete", "path", spec(rng, "topologies")))]
    right = {
        "--agents": "4",
        "--seed": "3",
        "--drop-links": "0.2",
        "--weights": "lazy",
        "--rounds": "3",
        "--trials": "2",
        "--every": "2",
        "--record": "x,s",
        "--dtype": "float32",
    }
    for name in rng.sample(list(right), 3):
        words += [name, right[name] if rng.random() < 0.6 else rng.choice((*NUMBERS, "metropolis", *CHARS))]
    if "--rounds" not in words:
        words += ["--rounds", "3"]
    if "--agents" not in words:
        words += ["--agents", "4"]
    if "--trials" not in words:
        words += ["--trials", "1"]
    words = [
        "simulate",
        *words,
        "--scenario",
        "quadratic:dim=2",
        "--algorithm",
        "gt:lr=0.02",
        "--eager",
        "--out",
        f"out{rng.random()}",
    ]
    outcome = typed(*words)
    if outcome.line is None and not outcome.faults:
        odd = [w for w in words if re.search(r"\d_\d|[^\x00-\x7f]", w)]
        outcome.faults += [f"accepts {w!r}" for w in odd]
    return words, outcome


def grids(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    """Specs with lists, some of them long, down to their points; nothing is built."""
    many = rng.choice((1, 2, 3, 10, 300, 3_000, 20_000))
    keys = ("lr", "b1", "b2", "eps", "cap")
    way = rng.randrange(5)
    if way == 0:
        made = "gtadam:" + ",".join(
            f"{key}=[{','.join(value(rng, 0.1) for _ in range(rng.randint(0, 4)))}]"
            for key in rng.sample(keys, rng.randint(1, 4))
        )
    elif way == 1:
        made = f"gt:lr=[{','.join(str(k % rng.choice((many, 10**6)) + 1) for k in range(many))}]"
    elif way == 2:
        made = "gt:" + ",".join(rng.choice(("lr=[1]", f"k{k}=1", "[1]", "(1)")) for k in range(many))
    elif way == 3:
        made = f"gt:lr={'[' * many}1{']' * rng.choice((many, 0))}"
    else:
        made = "gtadam:" + ",".join(
            f"{key}=[{','.join(f'0.{k}' for k in range(1, min(many, 20) + 1))}]" for key in keys[: rng.randint(1, 5)]
        )
    outcome = asked(lambda: [point.algorithm for point in Experiment("ring", 4, "quadratic", made).points()])
    if outcome.line is None and not outcome.faults and len(set(outcome.value)) < len(outcome.value):
        outcome.faults.append("holds a point twice")
    return made, outcome


KINDS: Kinds = {
    "specs of topologies": (700, one),
    "specs of scenarios": (400, one),
    "specs of algorithms": (500, one),
    "specs of channels": (400, one),
    "specs of directions": (200, one),
    "specs of compressors": (300, one),
    "sweep settings": (500, settings),
    "command lines": (400, options),
    "grids": (150, grids),
}


def again(kind: str, number: int, seed: int) -> None:
    """Try one input again, as it was tried."""
    retry(KINDS, kind, number, seed)


@pytest.mark.parametrize("kind", hunts(KINDS))
@pytest.mark.usefixtures("own_folder", "no_figures")
def test_a_spec_is_taken_at_its_word_or_refused_in_a_line(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    hunt(KINDS, kind, "test_fuzz_specs", record_property)
