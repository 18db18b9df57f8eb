"""What the files of the project say of it: they agree with each other and with the package."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
SHIPPED = sorted(path for folder in ("distopt", "topologies", "scenarios") for path in (ROOT / folder).rglob("*.py"))
CALLED = {"Jinja2": "jinja2", "scikit-learn": "sklearn", "pytest-xdist": "xdist"}  # packages imported by other names


def package(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement)[0]


def imported(requirements: list[str]) -> set[str]:
    """The names by which Python imports some requirements."""
    return {CALLED.get(name, name.replace("-", "_")) for name in map(package, requirements)}


def imports(path: Path) -> set[str]:
    """The first parts of all names that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


# --------------------------------------------------------------------------------------------------------- dependencies


def test_few_packages_are_needed() -> None:
    assert len(PROJECT["dependencies"]) < 12


def test_what_is_imported_is_what_pyproject_names() -> None:
    """Whatever is imported is a dependency or in an extra that users install; every dependency is imported somewhere."""
    users = [each for name, extra in EXTRAS.items() if name != "test" for each in extra]
    used = set().union(
        *(imports(path) for path in SHIPPED if path.parent.name != "data")
    )  # there: scripts that made data
    found = used - set(sys.stdlib_module_names) - {"distopt", "markupsafe"}  # Jinja2's texts are of its types
    assert found <= imported(PROJECT["dependencies"]) | imported(users)
    assert imported(PROJECT["dependencies"]) <= found


def test_the_tests_need_what_the_extras_bring() -> None:
    users = {each for name, extra in EXTRAS.items() if name != "test" for each in extra}
    assert users <= set(EXTRAS["test"])


def test_every_requirement_has_a_lowest_version_and_a_pinned_one() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    pinned = {name.lower().replace("_", "-") for name in pins}
    for each in [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", each), each
        assert package(each).lower() in pinned, each


# -------------------------------------------------------------------------------------------------------------- version


def newest() -> tuple[str, str]:
    """The version and the date of the newest heading of the changelog; ``unreleased`` stands for a date."""
    found = re.search(r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert found is not None
    return found[1], found[2]


def test_the_changelog_and_the_package_have_one_version() -> None:
    from distopt import __version__

    assert newest()[0] == __version__
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert not [heading for heading in headings[1:] if "unreleased" in heading]
