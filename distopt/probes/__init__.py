"""Probes: what is measured once in several rounds, one file each, found by file name.

A probe looks at a run between two segments of rounds, on what ``engine.fetch()`` gives, and never inside of one. So a run has the same bits
with and without probes, and the probes' series have the same bits on every engine. A series is stored and shown like a metric's. It is nan
in the rounds between, and ``run.readings(name)`` leaves these out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distopt import metrics
from distopt.catalog import registry
from distopt.catalog.spec import shown
from distopt.errors import InputError
from distopt.metrics import Metric
from distopt.optional import ProbeDefaults, completed


def added(specs: Sequence[Any], taken: Iterable[str], recorded: int) -> dict[str, Any]:
    """The probes of a run by name: specs of the catalogue, paths of Python files, or objects. A probe is called as its file, or as its class.

    Args:
        specs: the user's probes.
        taken: names that the run has already.
        recorded: in how many rounds the run records its metrics once.

    Raises:
        InputError: one that measures nothing, whose rounds are not recorded, or one of whose series has a name that is taken.

    >>> list(added(["sharpness:every=50"], taken=(), recorded=10))
    ['sharpness']
    """
    found: dict[str, Any] = {}
    names = {*metrics.catalogue(), *taken, "x"}
    for spec in specs:
        own = registry.make("probes", spec) if isinstance(spec, str) else spec
        name = Path(registry.Spec.parse(spec).name).stem if isinstance(spec, str) else type(own).__name__.lower()
        name = name.replace("-", "_")
        if isinstance(own, type):
            raise InputError(f"probe {own.__name__} was given as a class; give an object of it, as in {own.__name__}()")
        if not callable(getattr(own, "measure", None)):
            raise InputError(f"probe {name}: it has no method measure(seen)")
        probe = completed(ProbeDefaults, own)
        every = getattr(probe, "every", None)  # the second thing that it must have
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"probe {name}: every={shown(every)}: must be a whole number of at least 1")
        if every % recorded:
            raise InputError(
                f"probe {name}: every={every}: must be a multiple of {recorded}, since the run records every {recorded}th round only"
            )
        _check_columns(name, probe)
        for each in series(name, probe):
            if each in names or each.startswith("average_"):
                raise InputError(f"probe {name}: a run has something called {each} already; give the file another name")
            names.add(each)
        found[name] = probe
    return found


def _check_columns(name: str, probe: Any) -> None:
    for attribute, fewest in (("columns", 1), ("titles", 0)):
        given = getattr(probe, attribute)
        fits = isinstance(given, tuple | list) and all(isinstance(each, str) for each in given)
        if not fits or len(given) < fewest or len(set(given)) < len(given):
            raise InputError(f"probe {name}: {attribute}={shown(given)}: must be different texts, as in ('', 'lowest')")
    if len(probe.titles) not in (0, len(probe.columns)):
        raise InputError(f"probe {name}: {len(probe.titles)} titles for {len(probe.columns)} columns")
    if not isinstance(probe.unit, str):
        raise InputError(f"probe {name}: unit={shown(probe.unit)}: must be a text")


def series(name: str, probe: Any) -> dict[str, Metric]:
    """How the series of a probe are shown, by name, in the order of its columns.

    >>> from distopt.probes.sharpness import Sharpness
    >>> {each: metric.title for each, metric in series("sharpness", Sharpness()).items()}
    {'sharpness': 'Sharpness', 'sharpness_lowest': 'Lowest curvature'}
    """
    found: dict[str, Metric] = {}
    for k, column in enumerate(probe.columns):
        each = Metric()
        own = f"{name}_{column}" if column else name
        each.title = probe.titles[k] if probe.titles else own.replace("_", " ").capitalize()
        each.unit, each.signed, each.measured_every = probe.unit, True, probe.every
        found[own] = each
    return found
