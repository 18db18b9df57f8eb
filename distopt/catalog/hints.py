"""What a user may have meant by an unknown name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from distopt.errors import either

GRAPHS = (".csv", ".edgelist", ".edges", ".gml", ".graphml", ".mtx", ".npy", ".txt")
"""Suffixes of the files that the topology ``file`` reads."""

OTHERS = {"learning_rate": "lr", "step_size": "lr", "stepsize": "lr", "beta1": "b1", "beta2": "b2", "epsilon": "eps"}
"""Parameters by the names that other packages give them."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean ...?)" with the known names nearest to ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def parameter(key: str, free: Collection[str]) -> str:
    """The same for a parameter, which may have another name in other packages.

    >>> parameter("learning_rate", ["lr", "form"]), parameter("frm", ["lr", "form"])
    (' (did you mean lr?)', ' (did you mean form?)')
    """
    return f" (did you mean {OTHERS[key]}?)" if OTHERS.get(key) in free else nearest(key, free)


def elsewhere(kind: str, name: str, compressors: Collection[str]) -> str:
    """What to write in place of a name that belongs to another kind of part; "" if there is no such part.

    >>> elsewhere("topologies", "class.edges", []), elsewhere("channels", "sign", ["sign"])
    ('to read a graph from a file, write file:path=class.edges', "sign is a compressor: write channel='choco:compressor=sign'")
    """
    if kind == "topologies" and (Path(name).suffix.lower() in GRAPHS or os.path.isfile(name)):
        return f"to read a graph from a file, write file:path={name}"
    if kind == "channels" and name in compressors:
        return f"{name} is a compressor: write " + either("--channel {}", "channel='{}'").format(
            f"choco:compressor={name}"
        )
    return ""
