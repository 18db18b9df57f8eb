"""The tables of docs/benchmarks.md, and the page itself from page.md and the logs in benchmarks/results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Template
from typing import Any

from cells import number, table
from page_targets import summary
from page_training import parts

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LOGS = ("speed", "whole", "scale", "peers", "startup", "parts", "sums", "engines", "compression", "training")
TIMED = {
    "compression": ("speed", "link"),
    "training": ("link", "overlap", "overhead"),
}  # parts that the load of the machine bears on
COLUMNS = ("bare", "measured", "C", "tight C", "NumPy", "JAX")
MIB, KIB = 2**20, 2**10


def logs() -> dict[str, Any]:
    """Each log by name."""
    return {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in LOGS}


def speed_table(log: Any) -> str:
    def row(each: Any) -> list[str]:
        t = each["seconds"]
        times = [number(1e6 * t[name] if name in t else None) for name in COLUMNS]
        return [
            each["title"],
            *times,
            *(number(t["bare"] / t[name]) for name in ("C", "tight C")),
            number(t["NumPy"] / t["bare"]),
        ]

    return table(["problem", *COLUMNS, "bare / C", "bare / tight C", "NumPy / bare"], map(row, log["problems"]))


def bytes_table(log: Any) -> str:
    rows = [
        [
            p["title"],
            number(p["minimum_bytes"] / 1e6),
            number(1e6 * p["stream"]),
            number(1e6 * p["seconds"]["bare"]),
            number(p["bare_to_stream"]),
        ]
        for p in log["problems"]
        if "stream" in p
    ]
    return table(["problem", "MB a round", "stream µs", "bare µs", "bare / stream"], rows)


def whole_table(log: Any) -> str:
    """CPU microseconds a round of a whole run, and how many times the tightest C loop."""
    ways = ("known", "searched", "tight C", "NumPy")
    rows = [
        [
            p["title"],
            *(number(1e6 * p[way]) for way in ways),
            *(number(p[way] / p["tight C"]) for way in ("known", "searched")),
            str(p["target"]),
            number(p["known"] / p["NumPy"]),
        ]
        for p in log["problems"]
    ]
    head = ["problem", *ways, "known / tight C", "searched / tight C", "target", "known / NumPy"]
    return table(head, rows)


def scale_table(log: Any) -> str:
    rows = [
        [
            c["topology"],
            f"{c['agents']:,}",
            f"{c['links']:,}",
            number(c["topology_and_weights"]),
            number(1 / c["bare"]),
            number(1 / c["measured"]),
            number(c["state_bytes"] / MIB),
            number(c["beyond_bytes"] / MIB),
        ]
        for c in log["cases"]
    ]
    return table(
        ["topology", "agents", "links", "build s", "bare rounds/s", "measured rounds/s", "state MiB", "beyond MiB"],
        rows,
    )


def exponent_table(log: Any) -> str:
    names = {"bare": "bare", "measured": "measured", "beyond_bytes": "memory beyond"}
    rows = [[topology, *(number(found.get(name)) for name in names)] for topology, found in log["exponents"].items()]
    return table(["topology", *names.values()], rows)


def peers_table(log: Any) -> str:
    rows = [[p["package"], p["method"], number(1e6 * p["cpu"]), number(1e6 * p["seconds"])] for p in log["packages"]]
    return table(["package", "our name of its method", "CPU µs a round", "µs by the clock"], rows)


def kind(own: Any) -> str:
    return f"{'measured' if own['measured'] else 'bare'}, {own['trials']} trial{'s' if own['trials'] > 1 else ''}"


def sums_table(log: Any) -> str:
    """Microseconds a round by way of summing neighbours."""
    ways = ("gather", "roll", "links")
    return table(
        ["network", *ways],
        [[title, *(number(found.get(way)) for way in ways)] for title, found in log["microseconds"].items()],
    )


def own_table(log: Any) -> str:
    rows = [[kind(own), number(1e6 * own["cpu"]), number(own["ratio"])] for own in log["distopt"]]
    return table(["distopt", "CPU µs", "times fewer"], rows)


def compiling_table(log: Any) -> str:
    """Milliseconds to compile what a user meets first, and the part that takes longest."""
    cases = log["compiling"]
    slowest = max(cases, key=lambda name: float(cases[name]["cold"]))
    names = dict.fromkeys(["gtadam on moving_target", "gtadam on flights", slowest])
    rows = [[name, *(number(1e3 * cases[name][when]) for when in ("cold", "warm"))] for name in names]
    return table([f"{len(cases)} cases, among them", "cold ms", "warm ms"], rows)


def regret_table(text: str) -> str:
    """One row for each run of regret.py in the log, whose first line names its scenario."""
    rows: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        if found := re.match(r"(\S+) on (\S+), \d+ agents", line):
            rows[found[1]] = {}
        elif found := re.match(r"(\S+) +best lr \S+ +R_T/T (\S+)", line):
            rows[list(rows)[-1]][found[1]] = float(found[2])
    names = list(next(iter(rows.values())))

    def cells(row: dict[str, float]) -> list[str]:
        return [f"**{number(row[name])}**" if row[name] == min(row.values()) else number(row[name]) for name in names]

    return table(["stream", *names], [[f"`{scenario}`", *cells(row)] for scenario, row in rows.items()])


def engines_table(log: Any) -> str:
    """Rounds of ranks beside the bare exchange."""
    times = ("bare", "alike", "local", "round")
    rows = [
        [
            str(c["ranks"]),
            f"{c['boundary'] // KIB} KiB",
            c["mode"],
            *(number(1e6 * c[name]) for name in times),
            number(c["round"] / c["bare"]),
            number(c["round"] / c["alike"]),
            number(c["wire"]),
        ]
        for c in log["cases"]
    ]
    head = [
        "ranks",
        "rows in a message",
        "mode",
        *(f"{name} µs" for name in times),
        "round / bare",
        "round / alike",
        "wire / rows",
    ]
    return table(head, rows)


def ray_line(log: Any) -> str:
    """Ray over ranks, or that it was left out."""
    if "ray" not in log:
        return "Ray was not measured."

    def words(mode: str, ranks: float, ray: float) -> str:
        return f"{mode}, {number(1e6 * ray)} µs on Ray and {number(1e6 * ranks)} µs on ranks, {number(ray / ranks)} times as long"

    return "; ".join(words(mode, **found) for mode, found in log["ray"].items())


def throughput_table(log: Any) -> str:
    """Milliseconds, and in brackets how many times a plain copy."""
    ways = ("copy", "encode", "compiled", "numpy", "eager")

    def cells(found: Any) -> list[str]:
        return [
            number(1e3 * found[way]) + ("" if way == "copy" else f" ({number(found[way] / found['copy'])})")
            for way in ways
        ]

    head = ["numbers", "copy ms", "encode", "encode and decode", "numpy.packbits", "eager torch"]
    return table(head, [[name, *cells(found)] for name, found in log["seconds"].items()])


def payload_table(log: Any) -> str:
    head = ["compressor", "payload bytes", "times fewer than 2 · 32 d", "bytes on the wire", "times fewer", "part lost"]
    whole = next(row["wire"] for row in log["rows"] if row["compressor"] == "identity")
    rows = [
        [
            f"`{r['compressor']}`",
            f"{r['bytes']:,}",
            number(r["times_fewer"]),
            f"{r['wire']:,.0f}",
            number(whole / r["wire"]),
            number(r["lost"]),
        ]
        for r in log["rows"]
    ]
    return table(head, rows)


def fewer(stream: Any, method: Any) -> float | None:
    """How many times fewer bits than with exact messages; None where one of the two never got there."""
    exact = stream["methods"][0]["reached"]
    return exact["bits"] / method["reached"]["bits"] if exact and method["reached"] else None


def bits_table(log: Any) -> str:
    rows = []
    for stream in log["streams"]:
        for m in stream["methods"]:
            there = m["reached"]
            ends = [number(m["regret"].get(str(t))) for t in (log["horizon"], log["rounds"])]
            gamma = m["channel"].partition("gamma=")[2] or "-"
            rows.append(
                [
                    f"`{stream['scenario']}`",
                    m["method"],
                    f"{m['lr']:g}",
                    gamma,
                    f"{m['bits']:,.0f}",
                    *ends,
                    number(stream["level"]),
                    f"{there['rounds']:,}" if there else "never",
                    f"{there['bits'] / 1e6:.3g}" if there else "-",
                    number(fewer(stream, m)),
                ]
            )
    head = [
        "stream",
        "messages",
        "lr",
        "γ",
        "bits a round",
        f"R_t / t, t = {log['horizon']:,}",
        f"t = {log['rounds']:,}",
        "level",
        "rounds to it",
        "Mbit to it",
        "times fewer bits",
    ]
    return table(head, rows)


def link_table(log: Any) -> str:
    if "refused" in log:
        return f"Not measured: {log['refused']}."
    exact = {case["mbit"]: case["seconds"] for case in log["cases"] if case["method"] == "exact"}
    rows = [
        [
            "no limit" if c["mbit"] is None else f"{c['mbit']} Mbit/s",
            c["method"],
            f"{c['bytes']:,.0f}",
            number(1e3 * c["seconds"]),
            number(c["bytes"] * 8 / c["mbit"] / 1e3) if c["mbit"] else "-",
            number(exact[c["mbit"]] / c["seconds"]),
        ]
        for c in log["cases"]
    ]
    return table(
        ["link", "messages", "payload bytes", "round ms", "payload over rate, ms", "times faster than exact"], rows
    )


def machines(found: dict[str, Any]) -> str:
    """The machines, each with the logs that were made there, and the load of each when it began."""
    names = ("processor", "caches", "cores", "gcc", "python", "torch", "numpy", "jax")
    made = {f"`{log}.json`": found[log]["machine"] for log in LOGS if "machine" in found[log]}
    made |= {f"`{log}.json`, {part}": found[log][part]["machine"] for log, each in TIMED.items() for part in each}
    there: dict[tuple[str, ...], list[str]] = {}
    for log, about in made.items():
        machine = tuple(str(about[name] or "-") for name in names)
        there.setdefault(machine, []).append(f"{log} ({about['load']:.2f})")
    return "\n\n".join(
        f"{table(list(names), [list(machine)])}\n\nLogs, and the load when each began: {'; '.join(logs)}."
        for machine, logs in there.items()
    )


def page(found: dict[str, Any], regret: str) -> str:
    """docs/benchmarks.md."""
    peers, packed = found["peers"], found["compression"]
    return Template((HERE / "page.md").read_text()).substitute(
        machines=machines(found),
        targets=summary(found),
        speed=speed_table(found["speed"]),
        bytes=bytes_table(found["speed"]),
        whole=whole_table(found["whole"]),
        scale=scale_table(found["scale"]),
        exponents=exponent_table(found["scale"]),
        peers=peers_table(peers),
        peer_difference=f"{max(p['difference'] for p in peers['packages']):.1e}",
        fastest=peers["fastest"],
        own=own_table(peers),
        sums=sums_table(found["sums"]),
        startup=number(found["startup"]["cpu_seconds"]),
        example=number(found["startup"]["example"]["distopt"]),
        script=number(found["startup"]["example"]["NumPy"]),
        compiling=compiling_table(found["parts"]),
        flights=number(found["parts"]["minimisers"]["flights"]),
        digits=number(found["parts"]["minimisers"]["digits"]),
        command=" ".join(found["parts"]["command"]["arguments"]),
        command_seconds=number(found["parts"]["command"]["cpu_seconds"]),
        memory=number(found["parts"]["memory"]["1000000"] / MIB),
        little=number(found["parts"]["memory"]["1000"] / MIB),
        stages=table(["stage", "CPU s"], [[name, number(s)] for name, s in found["startup"]["stages"].items()]),
        regret=regret_table(regret),
        engines=engines_table(found["engines"]),
        ray=ray_line(found["engines"]),
        numbers=f"{packed['speed']['numbers']:,}",
        throughput=throughput_table(packed["speed"]),
        dim=f"{packed['bytes']['dim']:,}",
        payloads=payload_table(packed["bytes"]),
        race_rounds=f"{packed['regret']['rounds']:,}",
        race_trials=packed["regret"]["trials"],
        horizon=f"{packed['regret']['horizon']:,}",
        within=f"{packed['regret']['within']:g}",
        lrs=", ".join(f"{lr:g}" for lr in packed["regret"]["lrs"]),
        gammas=", ".join(f"{gamma:g}" for gamma in packed["regret"]["gammas"]),
        races=bits_table(packed["regret"]),
        link=link_table(packed["link"]),
        **parts(found["training"]),
    )
