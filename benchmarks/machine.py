"""The machine a benchmark ran on, and the log it leaves in benchmarks/results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
VERSIONS = ("gcc", "python", "torch", "numpy", "scipy", "jax")


def machine() -> dict[str, Any]:
    """Processor, caches, cores, load and the versions of what does the arithmetic; None for what is not there.

    >>> sorted(machine())[:3]
    ['caches', 'cores', 'gcc']
    """
    return {
        "processor": _processor(),
        "caches": _caches(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "gcc": _output("gcc", "-dumpfullversion"),
        "python": platform.python_version(),
        **{package: _version(package) for package in VERSIONS[2:]},
    }


def header(about: dict[str, Any]) -> str:
    """The machine as comment lines."""
    versions = ", ".join(f"{name} {about[name] or 'not there'}" for name in VERSIONS)
    return (
        f"# {about['processor']}, {about['cores']} cores, caches {about['caches']}; load {about['load']}\n# {versions}"
    )


def log(name: str, figures: dict[str, Any], about: dict[str, Any]) -> None:
    """Write results/NAME.json: the machine as it was before the run, the command, the figures."""
    _write(name, {"command": _command(), "machine": about, **figures})


def log_parts(name: str, parts: dict[str, dict[str, Any]], about: dict[str, Any]) -> None:
    """Write results/NAME.json part by part, each with its machine and command; parts that were not measured now stay as they are."""
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    _write(
        name, {**old, **{part: {"command": _command(), "machine": about, **figures} for part, figures in parts.items()}}
    )


def written(page: str, script: str, tables: str) -> str:
    """A page with these tables in place of those that the benchmark ``script`` wrote before.

    >>> written("before <!-- written by benchmarks/a.py --> old <!-- end of what benchmarks/a.py writes --> after", "a.py", "new").split()[-9:]
    ['new', '<!--', 'end', 'of', 'what', 'benchmarks/a.py', 'writes', '-->', 'after']
    """
    begins, ends = f"<!-- written by benchmarks/{script} -->", f"<!-- end of what benchmarks/{script} writes -->"
    before, rest = page.split(begins)
    return f"{before}{begins}\n\n{tables}\n\n{ends}{rest.split(ends)[1]}"


def _write(name: str, content: dict[str, Any]) -> None:
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _command() -> str:
    """The command as typed, the script by its place in the repository."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def _processor() -> str:
    """Model name with family and model number, which distinguish generations of the same name."""
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    numbers = ", ".join(f"{key} {found[key]}" for key in ("cpu family", "model") if key in found)
    return found.get("model name", platform.machine()) + (f" ({numbers})" if numbers else "")


def _caches() -> str:
    """Size of each cache as the first core sees it, such as "L1d 32K, L2 1024K"."""
    seen = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            seen.append(f"L{level}{'d' if kind == 'Data' else ''} {size}")
    return ", ".join(seen)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
