"""What ``distopt list`` and ``distopt show`` print. Listing imports nothing heavy."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from distopt.catalog import entries, registry
from distopt.catalog.entries import Entry
from distopt.cli.streams import width
from distopt.errors import printable
from distopt.report import tables

PAGE = 100
"""Columns of text beyond which lines are hard to read."""

COMMANDS = {
    "topologies": "distopt simulate {} --agents 16",
    "scenarios": "distopt simulate ring --agents 16 --scenario {}",
    "algorithms": "distopt simulate ring --agents 16 --algorithm {}",
    "channels": "distopt simulate ring --agents 16 --channel {}",
    "directions": "distopt simulate ring --agents 16 --algorithm gt:direction={}",
    "schedules": "distopt simulate ring --agents 16 --algorithm gt:lr={}",
    "compressors": "distopt simulate ring --agents 16 --algorithm gt --channel choco:compressor={}",
    "probes": "distopt simulate ring --agents 16 --scenario digits_mlp:normalised=8 --algorithm gtadam --probe {}",
    "engines": "distopt simulate ring --agents 16 --engine {name}",
}
"""How an entry is used; other kinds do without."""

OWN = {"metrics": "distopt simulate ring --agents 16 --metric {name}"}
"""How the user's own is used, where that differs."""

READS = {("topologies", "file"): "distopt simulate file:path=graph.edges"}
"""How an entry is used that needs a file, which says how many agents there are."""


def shown(kind: str | None) -> None:
    """Print the catalogue, or one kind of it; on a pipe a line for each entry, its spec first."""
    for number, each in enumerate(registry.KINDS if kind is None else (kind,)):
        found = [entries.entry(each, name) for name in registry.names(each)]
        click.echo(("\n" if number else "") + click.style(each, bold=True))
        if not found:
            click.echo(f"  (this version has no {each})")
        if not sys.stdout.isatty():
            for entry in found:
                click.echo(f"  {entry.spec}\t{plain(entry.sentence)}")
        else:
            for line in lines(found, width(), parameters=kind is not None):
                click.echo(line)
    if sys.stdout.isatty():
        click.echo(
            "\ndistopt list NAME explains one of them"
            + (", distopt list KIND shows parameters" if kind is None else "")
        )


def lines(found: Sequence[Entry], room: int, parameters: bool) -> Iterator[str]:
    """The entries as aligned columns in a terminal ``room`` columns wide: names, sentences, and optionally parameters.

    >>> made = Entry("directions", "mine", "Go downhill, but not too fast.", (entries.Parameter("b", "float", "0.9", ""),), "")
    >>> for line in lines([made], 36, parameters=True):
    ...     print(click.unstyle(line))
      mine  Go downhill, but not   b=0.9
            too fast.
    """
    names = max((len(entry.name) for entry in found), default=0)
    left = room - names - 4
    last = min(left * 2 // 5, max(len(_defaults(entry)) for entry in found)) if parameters and found else 0
    middle = left - (last + 2 if last else 0)
    for entry in found:
        sentence = textwrap.wrap(plain(entry.sentence), middle)
        given = tables.broken(_defaults(entry), last) if last else []
        for k in range(max(len(sentence), len(given), 1)):
            first, what, how = (part[k] if k < len(part) else "" for part in ([entry.name], sentence, given))
            end = f"{what.ljust(middle)}  {click.style(how, dim=True)}" if how else what
            yield f"  {click.style(first, fg='cyan')}{' ' * (names - len(first))}  {end}".rstrip()


def explained(name: str) -> None:
    """Print the page of each entry of a name: what it computes, its parameters, papers, and an example."""
    for number, entry in enumerate(entries.find(name)):
        click.echo(("\n" * 2 if number else "") + "\n".join(page(entry, min(width(), PAGE))))


def pictured(
    topology: str,
    agents: int | None,
    weights: str,
    drop_links: float,
    seed: int,
    out: Path | None,
    drop_messages: float = 0.0,
) -> None:
    """Print a network's degrees, diameter and spectral gap, and write its picture."""
    from distopt.experiment import Experiment, titled
    from distopt.network.faults import Faults
    from distopt.network.topology import build_topology
    from distopt.report import network
    from distopt.runs.results import folder_name

    Experiment(
        topology, agents, "", "", seed=seed, drop_links=drop_links, drop_messages=drop_messages
    )  # checks the numbers
    graph = build_topology(topology, agents, seed)
    what = network.portrait(graph, weights, seed, drop_links, Faults(drop_messages))
    title = f"{titled(topology)}, {what.agents} agents"
    path = out or Path(f"{folder_name(titled(topology))}-{what.agents}.png")
    network.save(network.figure(what, title), path)
    click.echo(click.style(title, bold=True))
    for name, value in what.rows(weights).items():
        click.echo(f"  {name:<34}{value}")
    for note in what.notes:
        click.echo(f"distopt: note: {printable(note)}", err=True)
    click.echo(f"written: {printable(str(path))}")


def page(entry: Entry, room: int) -> Iterator[str]:
    """The lines of an entry's page.

    >>> [click.unstyle(line) for line in page(Entry("directions", "mine", "Go downhill.", (), ""), 80)]
    ['mine, one of the directions', '', 'Go downhill.', '', 'Use', '  distopt simulate ring --agents 16 --algorithm gt:direction=mine']
    """
    own = entry.name.endswith(".py")
    yield click.style(entry.name, bold=True) + f", one of {'your own' if own else 'the'} {entry.kind}"
    yield ""
    yield from filled(plain(entry.text), room)
    if entry.parameters:
        yield from ("", click.style("Parameters", bold=True))
        names, defaults, values = (
            max(len(text) for text in column)
            for column in zip(*((p.name, p.default or "", p.values) for p in entry.parameters), strict=True)
        )
        for each in entry.parameters:
            head = f"  {each.name.ljust(names)}  {(each.default or '').ljust(defaults)}  {each.values.ljust(values)}  "
            fits = room - len(head) >= 24
            meaning = plain(each.meaning) or ("must be given" if each.default is None else "")
            text = textwrap.wrap(meaning, room - len(head) if fits else room - 6) or [""]
            yield (head + text[0]).rstrip() if fits else head.rstrip()
            yield from (" " * (len(head) if fits else 6) + line for line in (text[1:] if fits else text) if line)
    if entry.papers:
        yield from ("", click.style("Papers", bold=True))
        for paper in entry.papers:
            yield from textwrap.wrap(paper, room, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    use = READS.get((entry.kind, entry.name)) or (OWN if own and entry.kind in OWN else COMMANDS).get(entry.kind)
    if use is not None:
        command = [word.format(typed(entry), name=entry.name) for word in use.split()]
        yield from ("", click.style("Use", bold=True), f"  {shlex.join(command)}")
    if entry.example:
        yield from ("", click.style("Example", bold=True), textwrap.indent(entry.example, "  "))


def typed(entry: Entry) -> str:
    """The entry as a word of a command: its first parameter shows how to set one, and what must be given is given.

    >>> typed(entries.entry("algorithms", "gt")), typed(entries.entry("channels", "choco"))
    ('gt:lr=0.01', 'choco:compressor=sign')
    """
    given = [p for p in entry.parameters if p.default is None] or list(entry.parameters[:1])
    values = ",".join(f"{p.name}={p.default or _some(p)}" for p in given if p.default not in ("''", "()"))
    nested = entry.kind in ("directions", "schedules", "compressors")  # the other columns are independent, too
    return entry.name + ((f"({values})" if nested else f":{values}") if values else "")


def _some(parameter: entries.Parameter) -> str:
    """A value for a parameter that has no default."""
    return "sign" if parameter.values == "a compressor" else "..."


def _defaults(entry: Entry) -> str:
    return entry.spec.removeprefix(entry.name).removeprefix(":")


def plain(text: str) -> str:
    """A docstring without its marks of code."""
    return text.replace("``", "").replace("`", "")


def filled(text: str, room: int) -> Iterator[str]:
    """A text in lines of at most ``room`` characters; lines that are indented, as formulas are, stay as they are.

    >>> list(filled("Two items:\\n\\n- the first one,\\n  longer\\n- the second", 20))
    ['Two items:', '', '- the first one,', '  longer', '- the second']
    """
    words: list[str] = []

    def wrapped() -> list[str]:
        indent = "  " if words and words[0].startswith("- ") else ""
        return textwrap.wrap(" ".join(words), room, subsequent_indent=indent, break_on_hyphens=False)

    for line in text.splitlines():
        item = bool(words) and words[0].startswith("- ") and line.startswith("  ")
        if line and (line[0] != " " or item):
            if line.startswith("- "):
                yield from wrapped()
                words.clear()
            words.append(line.strip())
            continue
        yield from wrapped()
        words.clear()
        yield line
    yield from wrapped()
