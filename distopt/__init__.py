"""distopt: distributed online optimisation, simulated and run for real."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distopt._version import __version__

if TYPE_CHECKING:
    from distopt.api import compare as compare
    from distopt.api import load as load
    from distopt.api import resume as resume
    from distopt.api import simulate as simulate
    from distopt.report.verdict import Verdict as Verdict
    from distopt.runs.results import Run as Run
    from distopt.runs.tuned import Tuned as Tuned
    from distopt.studies import sweep as sweep
    from distopt.studies import tune as tune

__all__ = ["Run", "Tuned", "Verdict", "__version__", "compare", "load", "resume", "simulate", "sweep", "tune"]

if not (
    Path(__file__).parent / "topologies"
).is_dir():  # a bare checkout: topologies/ and scenarios/ lie beside this folder
    __path__.append(str(Path(__file__).parent.parent))

_LAZY = {
    "simulate": "distopt.api",
    "resume": "distopt.api",
    "sweep": "distopt.studies",
    "tune": "distopt.studies",
    "compare": "distopt.api",
    "load": "distopt.api",
    "Run": "distopt.runs.results",
    "Tuned": "distopt.runs.tuned",
    "Verdict": "distopt.report.verdict",
}


def __getattr__(name: str) -> Any:  # torch takes seconds to import, so it is imported on first use
    if name not in _LAZY:
        raise AttributeError(f"module 'distopt' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
