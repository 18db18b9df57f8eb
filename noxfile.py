"""The checks of the project, each by one name: ``nox --list`` shows them, ``nox -s lint`` runs one. CI runs these sessions, too.

``lint``, ``types``, ``docs`` and ``release`` are targets of the Makefile. ``tests`` and ``lowest`` make environments of their own.
"""

import nox

nox.needs_version = ">=2024.4.15"

QUICK = ("-n", "2", "-m", "not slow and not battery")
LOWEST = (
    *(f"tests/{room}" for room in ("algorithms", "catalog", "network", "numerics", "simulation")),
    *(f"tests/report/test_{page}.py" for page in ("exporting", "report_page")),
)


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the quick tests with the versions of constraints.txt."""
    session.install("--constraint", "constraints.txt", "--editable", ".[test]")
    session.run("pytest", *QUICK, *session.posargs)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run the quick tests of the core with the lowest versions that pyproject.toml allows."""
    session.install("--constraint", "constraints-lowest.txt", "--editable", ".[test]")
    session.run("pytest", *QUICK, *(session.posargs or LOWEST))


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Run ruff and codespell."""
    session.run("make", "lint", external=True)


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Run mypy."""
    session.run("make", "types", external=True)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the documentation."""
    session.run("make", "docs", external=True)


@nox.session(venv_backend="none")
def release(session: nox.Session) -> None:
    """Build the wheel and the source archive, and install and use each."""
    session.run("make", "release", external=True)
