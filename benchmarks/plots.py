"""Writes docs/benchmarks.md (see page.py) and its figures docs/benchmarks-*.png, all from the logs in benchmarks/results.

Usage: python benchmarks/plots.py
"""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from page import HERE, MIB, RESULTS, kind, logs, number, page

DOCS = HERE.parent / "docs"
STYLES = {"bare": "#0b6e8f", "measured": "#7fc4d8", "tight C": "#444444", "NumPy": "#d9822b", "JAX": "#9b59a8"}
METHODS = {"exact": "#444444", "sign": "#0b6e8f", "top-k 1 %": "#d9822b", "QSGD": "#9b59a8"}


def canvas(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, k + 1) for k in range(columns)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def speed_figure(log: Any) -> Figure:
    """Bars of time relative to plain C, problem by problem."""
    figure, (axes,) = canvas(9, 0.78 * len(log["problems"]) + 1.2)
    height = 0.8 / len(STYLES)
    for k, (name, colour) in enumerate(STYLES.items()):
        known = [
            (i, p["seconds"][name] / p["seconds"]["C"]) for i, p in enumerate(log["problems"]) if name in p["seconds"]
        ]
        where = [i + (k - (len(STYLES) - 1) / 2) * height for i, _ in known]
        # On a log axis a bar has no natural foot: these grow from 1, to the left where faster than C.
        axes.barh(where, [ratio - 1 for _, ratio in known], height, left=1, color=colour, label=name)
        for y, (_, ratio) in zip(where, known, strict=True):
            faster = ratio < 1
            axes.annotate(
                number(ratio, 2),
                (ratio, y),
                (-3 if faster else 3, 0),
                textcoords="offset points",
                fontsize=7,
                ha="right" if faster else "left",
                va="center",
            )
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.08)
    axes.set_yticks(range(len(log["problems"])), [p["title"] for p in log["problems"]])
    axes.invert_yaxis()
    axes.set_xlabel("time a round / time of the plain C loop (log scale; left of 1 is faster than C)")
    figure.legend(loc="outside upper center", ncols=len(STYLES), frameon=False)
    return figure


def scale_figure(log: Any) -> Figure:
    """Time and memory against links, with a line of slope 1."""
    figure, (time, memory) = canvas(10, 4.2, 2)
    for (topology, _), marker in zip(log["exponents"].items(), "os", strict=False):
        cases = [c for c in log["cases"] if c["topology"] == topology]
        links = [c["links"] for c in cases]
        for name, colour in (("measured", STYLES["measured"]), ("bare", STYLES["bare"])):
            time.loglog(links, [1e3 * c[name] for c in cases], marker=marker, color=colour, label=f"{name}, {topology}")
        memory.loglog(
            links,
            [c["beyond_bytes"] / MIB for c in cases],
            marker=marker,
            color=STYLES["bare"],
            label=f"beyond the state, {topology}",
        )
        memory.loglog(
            links, [c["state_bytes"] / MIB for c in cases], marker=marker, color="#aaaaaa", label=f"state, {topology}"
        )
    links = sorted({c["links"] for c in log["cases"]})
    first = log["cases"][0]
    time.loglog(
        links, [1e3 * first["bare"] * n / first["links"] for n in links], "k:", linewidth=1, label="linear in links"
    )
    memory.axhline(0.9 * 1024, color="#c0392b", linewidth=1, linestyle="--", label="0.9 GiB, target at 10⁶ agents")
    for axes, label in ((time, "milliseconds a round"), (memory, "MiB")):
        axes.set_xlabel("links")
        axes.set_ylabel(label)
        axes.legend(frameon=False, fontsize=7)
    return figure


def peers_figure(log: Any) -> Figure:
    """CPU time a round of each package and of distopt."""
    bars = [(p["package"], p["cpu"], STYLES["NumPy"]) for p in log["packages"]]
    bars += [
        (f"distopt, {kind(own)}", own["cpu"], STYLES["measured" if own["measured"] else "bare"])
        for own in log["distopt"]
    ]
    bars.sort(key=lambda bar: -bar[1])
    figure, (axes,) = canvas(9, 0.38 * len(bars) + 1)
    low = 10 ** (
        len(f"{int(1e9 * min(cpu for _, cpu, _ in bars))}") - 4
    )  # the power of ten below the shortest, in microseconds
    for k, (_, cpu, colour) in enumerate(bars):
        axes.barh(k, 1e6 * cpu - low, left=low, color=colour)
        axes.annotate(number(1e6 * cpu), (1e6 * cpu, k), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_xlim(left=low)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("CPU microseconds a round, of one trial (log scale)")
    return figure


def compression_figure(log: Any) -> Figure:
    """Average dynamic regret against bits, a panel for each stream."""
    figure, panels = canvas(11, 4.6, len(log["streams"]))
    for axes, stream in zip(panels, log["streams"], strict=True):
        for m in stream["methods"]:
            bits = [m["bits"] * t for t in m["curve"]["rounds"]]
            axes.loglog(bits, m["curve"]["regret"], color=METHODS[m["method"]], label=m["method"])
            if m["reached"]:
                axes.plot(m["reached"]["bits"], stream["level"], "o", color=METHODS[m["method"]])
        axes.axhline(stream["level"], color="#888888", linewidth=1, linestyle=":")
        axes.set_title(stream["scenario"], fontsize=10)
        axes.set_xlabel("bits that an agent has broadcast")
        axes.set_ylabel("average dynamic regret R_t / t")
    lines, names = panels[0].get_legend_handles_labels()
    dots = panels[0].plot([], [], "o:", color="#888888", label="the level, and where it is reached for good")
    figure.legend(
        [*lines, *dots], [*names, dots[0].get_label()], loc="outside upper center", ncols=len(names) + 1, frameon=False
    )
    return figure


def main() -> None:
    """Write the page and the figures."""
    found = logs()
    (DOCS / "benchmarks.md").write_text(page(found, (RESULTS / "regret.txt").read_text()))
    for name, draw in (("speed", speed_figure), ("scale", scale_figure), ("peers", peers_figure)):
        draw(found[name]).savefig(DOCS / f"benchmarks-{name}.png")
    compression_figure(found["compression"]["regret"]).savefig(DOCS / "benchmarks-compression.png")


if __name__ == "__main__":
    main()
