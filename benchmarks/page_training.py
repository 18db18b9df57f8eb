"""The tables of the page's section on training (see page.py), from training.json. Its parts accuracy and link are put together here."""

from __future__ import annotations

from typing import Any

from cells import number, table

LEVELS = (0.9, 0.97)  # of the best accuracy of the first method, which is DDP with Adam
EQUAL = 20  # its steps whose time all methods are given
OURS = "GTAdam, sign"
TARGETS = {"step": 15, "level": 5, "hidden": 0.8, "overhead": 1.5, "copies": 6}


def rate(mbit: float | None) -> str:
    """A link in words."""
    return "no limit" if mbit is None else f"{mbit:g} Mbit/s"


def times(link: Any) -> dict[tuple[float | None, str], float]:
    """Seconds of a step, by link and method."""
    return {(case["mbit"], case["method"]): case["seconds"] for case in link["cases"]}


def settings(found: dict[str, Any]) -> str:
    names = {"lr": "lr", "gamma": "γ", "outer": "outer", "rule": ""}
    return ", ".join(f"{names[name]} {value}".strip() for name, value in found.items())


def link_table(log: Any) -> str:
    if "refused" in log:
        return f"Not measured: {log['refused']}."
    first = {case["mbit"]: case["seconds"] for case in reversed(log["cases"])}
    rows = [
        [
            rate(c["mbit"]),
            c["method"],
            f"{c['bytes']:,.0f}",
            number(1e3 * c["seconds"]),
            number(1e3 * c["waiting"]),
            number(first[c["mbit"]] / c["seconds"]),
        ]
        for c in log["cases"]
    ]
    head = ["link", "method", "bytes a step", "step ms", "waiting ms", "times faster than DDP, Adam"]
    return table(head, rows)


def levels(kind: Any) -> list[float]:
    """The accuracies that are to be reached."""
    return [share * max(kind["methods"][0]["curve"]["accuracy"]) for share in LEVELS]


def reached(method: Any, level: float) -> int | None:
    """The first step after which the model is as accurate; None if it never is."""
    curve = method["curve"]
    return next((t for t, each in zip(curve["steps"], curve["accuracy"], strict=True) if each >= level), None)


def after(method: Any, steps: float) -> float | None:
    """The accuracy after so many steps, or after the last where there are fewer; None before the first look."""
    curve = method["curve"]
    seen = [each for t, each in zip(curve["steps"], curve["accuracy"], strict=True) if t <= steps]
    return seen[-1] if seen else None


def steps_table(log: Any) -> str:
    """Accuracy against steps, which no link changes."""
    short = log["accuracy"]["short"] // 2
    rows = []
    for kind in log["accuracy"]["kinds"]:
        for m in kind["methods"]:
            there = [reached(m, level) for level in levels(kind)]
            ends = m["curve"]["ends"]
            rows.append(
                [
                    kind["kind"],
                    m["method"],
                    settings(m["settings"]),
                    *(number(after(m, steps)) for steps in (short, log["accuracy"]["steps"])),
                    f"{min(ends):.3f} to {max(ends):.3f}",
                    *("never" if each is None else str(each) for each in there),
                ]
            )
    head = ["data", "method", "settings", f"accuracy, {short} steps", f"{log['accuracy']['steps']} steps", "by seed"]
    return table([*head, *(f"steps to {share:.0%}" for share in LEVELS)], rows)


def seconds_to(log: Any, kind: Any, mbit: float | None, level: float) -> dict[str, float | None]:
    """Seconds to a level, by method."""
    took = times(log["link"])
    steps = {m["method"]: reached(m, level) for m in kind["methods"]}
    return {name: None if count is None else count * took[mbit, name] for name, count in steps.items()}


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below is not None else None


def time_table(log: Any) -> str:
    """Seconds to the same accuracy, and accuracy after the same seconds."""
    if "refused" in log["link"]:
        return f"Not measured: {log['link']['refused']}."
    took, rows = times(log["link"]), []
    for mbit in dict.fromkeys(case["mbit"] for case in log["link"]["cases"]):
        for kind in log["accuracy"]["kinds"]:
            base = kind["methods"][0]["method"]
            there = [seconds_to(log, kind, mbit, level) for level in levels(kind)]
            equal = EQUAL * took[mbit, base]
            for m in kind["methods"]:
                cells = [(each[m["method"]], ratio(each[base], each[m["method"]])) for each in there]
                within = after(m, equal / took[mbit, m["method"]])
                rows.append(
                    [
                        rate(mbit),
                        kind["kind"],
                        m["method"],
                        *(number(each) for pair in cells for each in pair),
                        number(within),
                    ]
                )
    head = ["link", "data", "method"]
    for share in LEVELS:
        head += [f"s to {share:.0%}", "times sooner"]
    return table([*head, f"accuracy after the time of {EQUAL} steps of DDP, Adam"], rows)


def verdict(value: float, target: float, least: bool = True) -> str:
    return "reached" if (value >= target if least else value <= target) else "**missed**"


def targets_table(log: Any) -> str:
    """What was aimed at, and what is."""
    rows = []

    def add(what: str, value: float, target: float, least: bool = True) -> None:
        rows.append([what, ("≥ " if least else "≤ ") + f"{target:g}", number(value), verdict(value, target, least)])

    if "refused" not in log["link"]:
        took, slow = times(log["link"]), log["link"]["cases"][0]["mbit"]
        base = log["link"]["cases"][0]["method"]
        add(
            f"{rate(slow)}, {OURS}: times faster a step than {base}",
            took[slow, base] / took[slow, OURS],
            TARGETS["step"],
        )
        for kind in log["accuracy"]["kinds"]:
            for share, level in zip(LEVELS, levels(kind), strict=True):
                found = seconds_to(log, kind, slow, level)
                sooner = ratio(found[base], found[OURS])
                add(
                    f"{rate(slow)}, {OURS}, {kind['kind']}: times sooner at {share:.0%}",
                    sooner or 0.0,
                    TARGETS["level"],
                )
    if "refused" not in log["overlap"]:
        add("share of the exchange that is hidden", hidden(log["overlap"]), TARGETS["hidden"])
    for case in log["overhead"]["cases"]:
        words = (
            f"step of the optimiser itself over Adam (foreach), {case['threads']} thread{'s' * (case['threads'] > 1)}"
        )
        add(words, case["gtadam"]["median"] / case["foreach"]["median"], TARGETS["overhead"], False)
    add("copies of the model beyond x, s, g, m, v by `memory()`", beyond(log["memory"]), TARGETS["copies"], False)
    add(
        "the same by the memory of the process",
        log["memory"]["kept"] / log["memory"]["model"] - 5,
        TARGETS["copies"],
        False,
    )
    return table(["what", "target", "measured", ""], rows)


def hidden(log: Any) -> float:
    return 1 - float(log["with"]) / float(log["without"])


def beyond(log: Any) -> float:
    """Copies of the model that the optimiser has beyond x, s, g, m and v, by its own count."""
    return float(sum(log["bytes"].values()) - log["bytes"]["x"] - log["bytes"]["state"]) / float(log["model"])


def losses(log: Any) -> str:
    """Where GTAdam with signs is not the first at the first level, and who is sooner."""
    if "refused" in log["link"]:
        return ""
    lines = []
    for mbit in dict.fromkeys(case["mbit"] for case in log["link"]["cases"]):
        for kind in log["accuracy"]["kinds"]:
            for share, level in zip(LEVELS, levels(kind), strict=True):
                found = seconds_to(log, kind, mbit, level)
                own = found[OURS]
                sooner = sorted(
                    (took, name) for name, took in found.items() if took is not None and (own is None or took < own)
                )
                told = ", ".join(
                    name + (f" ({number(own / took)} times sooner)" if own else "") for took, name in sooner
                )
                lines.append(f"- {rate(mbit)}, {kind['kind']}, {share:.0%}: {told or 'none'}.")
    return "\n".join(lines)


def overhead_table(log: Any) -> str:
    ways = ("gtadam", "foreach", "fused")
    rows = [
        [
            str(case["threads"]),
            *(number(1e3 * case[way]["median"]) for way in ways),
            *(number(case["gtadam"]["median"] / case[way]["median"]) for way in ways[1:]),
        ]
        for case in log["cases"]
    ]
    head = ["threads", "GTAdam ms", "Adam (foreach) ms", "Adam (fused) ms", "GTAdam / foreach", "GTAdam / fused"]
    return table(head, rows)


def memory_table(log: Any) -> str:
    """By the optimiser's own count, and by what the process has beyond the model, its gradients and what is loaded once."""
    rows = [[f"`memory()`: {name}", number(count / log["model"])] for name, count in log["bytes"].items() if count]
    rows += [
        [f"process, {when}", number(log[name] / log["model"])]
        for name, when in (("kept", "after"), ("peak", "at most"))
    ]
    return table(["what", "copies of the model"], rows)


def overlap_line(log: Any) -> str:
    if "refused" in log:
        return f"Not measured: {log['refused']}."
    return (
        f"{rate(log['mbit'])}, {log['numbers']:,} parameters, {1e3 * log['computing']:.0f} ms of computing: "
        f"a step waits {1e3 * log['without']:.0f} ms with `overlap=False` and {1e3 * log['with']:.1f} ms with `overlap=True`, "
        f"so {hidden(log):.0%} of the exchange is hidden"
    )


def parts(log: Any) -> dict[str, str]:
    """What page.md names."""
    about = log["accuracy"]
    best = [max(kind["methods"][0]["curve"]["accuracy"]) for kind in about["kinds"]]
    return {
        "training_data": about["data"],
        "training_numbers": f"{about['numbers']:,}",
        "training_batch": str(about["batch"]),
        "training_steps": str(about["steps"]),
        "training_short": str(about["short"]),
        "training_seeds": str(about["seeds"]),
        "training_tries": str(len(about["kinds"][0]["methods"][0]["tried"])),
        "training_best": " and ".join(
            f"{number(each)} on {kind['kind']}" for each, kind in zip(best, about["kinds"], strict=True)
        ),
        "training_targets": targets_table(log),
        "training_link": link_table(log["link"]),
        "training_accuracy": steps_table(log),
        "training_time": time_table(log),
        "training_losses": losses(log),
        "training_overlap": overlap_line(log["overlap"]),
        "training_overhead": overhead_table(log["overhead"]),
        "training_memory": memory_table(log["memory"]),
    }
