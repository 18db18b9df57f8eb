"""What the logs say of speed and memory next to its targets, and why some are missed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from cells import number, table

MIB, KIB = 2**20, 2**10
SMALL = ("ring 16 x 2", "ring 16 x 100")
RANKS = {2: 1024 * KIB, 4: 256 * KIB}
"""The largest boundary to which the target holds, by the number of ranks."""

WHY_BARE = (
    "*Bare rounds of large rings* are bound by memory. x and the tracker lie there twice, as neighbours' values are read while new ones"
    " are written, and the weights lie in tables. A round of 100000 x 10 moves about 117 MB. The tight loop works in place, knows its "
    "ring, and moves 96 MB."
)
WHY_LOGISTIC = (
    "*Logistic rounds*: on a random graph each row of W is as long as the longest one, and terms of weight 0 are computed, too. To "
    "leave them out would change zeros' signs and lose NaNs."
)
WHY_MEASURED = (
    "*Measured rounds*: the mean of the agents, the costs there and three sums of squares over all agents, in one order, are about half"
    " as much arithmetic as the round itself."
)
WHY_WHOLE = (
    "*Whole runs* of a few small agents: beside the compiled loops a block of 4,096 rounds takes some milliseconds of Python and "
    "torch, and the results of all rounds go through a file where they are larger than 1 MiB, so that memory stays flat. With 16 "
    "x 100 a quarter of the time goes into the costs of all agents at every agent's point, of which agent-wise regrets are made."
)
WHY_COMPILING = "*Compiling* takes as long as LLVM takes for the loops of this part."
WHY_WARM = (
    "*Compiled before*: rounds are recorded and written out again, to see whether they are the same. This takes longer for compressors "
    "that are made of very many operations."
)
WHY_MINIMISERS = (
    "*Minimisers*: every round has new rows (of `flights` 1,024 of 18 numbers), and the minimiser of the round before lies far off. Each "
    "takes some Hessians and gradients, and the best fixed point some passes over all rows. All of them are NumPy's products, at the "
    "speed of memory and BLAS."
)
WHY_LONG = (
    "*The long command*: three quarters are the minimisers and the costs of all agents at every agent's point, that is exponentials and"
    " logarithms of rows."
)
WHY_MEMORY = "*Memory*: the imports and what compiles take most of it where a run is small, and copies of the state where it is large."
WHY_START = "*The README's command*: importing torch and matplotlib takes about 1.2 s, compiling three methods and finding fonts 0.6 s."
WHY_RANKS = (
    "*Ranks*: a round has work of its own besides the exchange: about 10 µs with small messages, 40 µs with 256 KiB, and as long as the "
    "exchange itself with 1 MiB, since both move the same bytes through memory. With as many ranks as cores it does not hide behind the "
    "exchange: gloo's threads need the cores. The faster the network, the more it counts."
)
WHY_PEERS = (
    "*A hundred trials at once*: their states do not fit into the first cache. The other package takes half as long on this processor "
    "as on older ones, and 2,000 times less than that would be below our bare round."
)


class Target(NamedTuple):
    """A figure that should be at most, or at least, so large; ``why`` is what is known where it is not."""

    what: str
    least: bool
    wanted: float
    found: float
    unit: str
    why: str

    @property
    def met(self) -> bool:
        """To the digits that are shown."""
        shown, wanted = float(number(self.found)), float(number(self.wanted))
        return shown >= wanted if self.least else shown <= wanted


def at_most(what: str, wanted: float, found: float, why: str, unit: str = "") -> Target:
    return Target(what, False, wanted, found, unit, why)


def at_least(what: str, wanted: float, found: float, why: str, unit: str = "") -> Target:
    return Target(what, True, wanted, found, unit, why)


def of_rounds(log: Any) -> Iterator[Target]:
    for p in log["problems"]:
        t, title = p["seconds"], p["title"]
        why = WHY_LOGISTIC if "logistic" in title else WHY_BARE
        yield at_most(f"bare over tight C, {title}", 2 if title == SMALL[0] else 1.3, t["bare"] / t["tight C"], why)
        yield at_most(
            f"measured over bare, {title}", 1.5 if title in SMALL else 2, t["measured"] / t["bare"], WHY_MEASURED
        )
        if "JAX" in t:
            yield at_most(f"bare over JAX's scan, {title}", 1, t["bare"] / t["JAX"], WHY_BARE)


def of_runs(log: Any) -> Iterator[Target]:
    for p in log["problems"]:
        yield at_most(
            f"whole run over tight C, {p['title']}, minimiser known", p["target"], p["known"] / p["tight C"], WHY_WHOLE
        )


def of_parts(log: Any) -> Iterator[Target]:
    cases = log["compiling"]
    for name in ("gtadam on moving_target", "gtadam on flights"):
        yield at_most(f"compiling {name}, cold", 0.7, cases[name]["cold"], WHY_COMPILING, "s")
    slowest = max(cases, key=lambda name: float(cases[name]["cold"]))
    yield at_most(f"compiling any part, cold: {slowest}", 3, cases[slowest]["cold"], WHY_COMPILING, "s")
    name = max(cases, key=lambda name: float(cases[name]["warm"]))
    yield at_most(f"compiled before, any part: {name}", 0.05, cases[name]["warm"], WHY_WARM, "s")
    for scenario, wanted in (("flights", 3000), ("digits", 150)):
        yield at_least(
            f"minimisers and best fixed point, {scenario}",
            wanted,
            log["minimisers"][scenario],
            WHY_MINIMISERS,
            "rounds a CPU s",
        )
    yield at_most(
        "20,000 rounds of `drifting_logistic`, the command", 4.5, log["command"]["cpu_seconds"], WHY_LONG, "CPU s"
    )
    yield at_most("10⁶ rounds of 4 agents, memory", 350, log["memory"][str(10**6)] / 1e6, WHY_MEMORY, "MB")


def of_start(log: Any) -> Iterator[Target]:
    took = log["example"]
    yield at_most("the README's command, nothing cached", 4, took["distopt"], WHY_START, "CPU s")
    yield at_most("its first method over the NumPy script", 3, took["one method"] / took["NumPy"], WHY_START)


def of_scale(log: Any) -> Iterator[Target]:
    for c in log["cases"]:
        if c["agents"] == 10**6:
            what = f"memory beyond the state, 10⁶ agents, {c['topology']}"
            yield at_most(what, 0.9 * 1024, c["beyond_bytes"] / MIB, WHY_MEMORY, "MiB")


def of_ranks(log: Any) -> Iterator[Target]:
    for c in log["cases"]:
        if c["mode"] == "compiled" and c["boundary"] <= RANKS[c["ranks"]]:
            what = f"{c['ranks']} ranks, {c['boundary'] // KIB} KiB: a round over the bare exchange"
            yield at_most(what, 1.3, c["round"] / c["bare"], WHY_RANKS)


def of_peers(log: Any) -> Iterator[Target]:
    for own in log["distopt"]:
        if own["measured"]:
            trials = own["trials"]
            what = f"a round of {log['fastest']} over a measured one of ours, {trials} trial{'s' if trials > 1 else ''}"
            yield at_least(what, 1000 if trials == 1 else 2000, own["ratio"], WHY_PEERS)


def targets(found: dict[str, Any]) -> list[Target]:
    """All of them."""
    makers = {
        "speed": of_rounds,
        "whole": of_runs,
        "parts": of_parts,
        "startup": of_start,
        "scale": of_scale,
        "engines": of_ranks,
        "peers": of_peers,
    }
    return [each for log, made in makers.items() for each in made(found[log])]


def summary(found: dict[str, Any]) -> str:
    """All of them in a table, and why some are missed."""
    every = targets(found)
    rows = [
        [
            each.what,
            f"{'≥' if each.least else '≤'} {each.wanted:g} {each.unit}".rstrip(),
            f"{number(each.found)} {each.unit}".rstrip(),
            "yes" if each.met else "**no**",
        ]
        for each in every
    ]
    missed = [each for each in every if not each.met]
    said = f"{len(every) - len(missed)} of {len(every)} are met."
    reasons = "\n".join(f"- {why}" for why in dict.fromkeys(each.why for each in missed))
    return "\n\n".join([said, table(["what", "target", "measured", "met"], rows), reasons]).strip()
