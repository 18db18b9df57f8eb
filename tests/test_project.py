"""What the files of the project say of it: they agree with each other and with the package."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {"test", "dev", "docs"}  # extras for whoever works on the project
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
    users = [each for name, extra in EXTRAS.items() if name not in OURS for each in extra]
    used = set().union(
        *(imports(path) for path in SHIPPED if path.parent.name != "data")
    )  # there: scripts that made data
    found = used - set(sys.stdlib_module_names) - {"distopt", "markupsafe"}  # Jinja2's texts are of its types
    assert found <= imported(PROJECT["dependencies"]) | imported(users)
    assert imported(PROJECT["dependencies"]) <= found


def test_the_tests_need_what_the_extras_bring() -> None:
    users = {each for name, extra in EXTRAS.items() if name not in OURS for each in extra}
    assert users <= set(EXTRAS["test"])


def test_every_requirement_has_a_lowest_version_and_a_pinned_one() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    pinned = {name.lower().replace("_", "-") for name in pins}
    for each in [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+(,<\d+)?", each), each
        assert package(each).lower() in pinned, each


# -------------------------------------------------------------------------------------------------------------- version


def newest() -> tuple[str, str]:
    """The version and the date of the newest heading of the changelog; ``unreleased`` stands for a date."""
    found = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert found is not None
    parts = re.fullmatch(r"(\S+) \((unreleased|\d{4}-\d\d-\d\d)\)", found[1])
    assert parts is not None, found[1]
    return parts[1], parts[2]


def test_the_changelog_the_citation_and_the_package_have_one_version() -> None:
    from distopt import __version__

    citation = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.M))
    assert newest() == (__version__, citation.get("date-released", "unreleased"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]


def test_only_the_newest_heading_waits_for_its_release() -> None:
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert not [heading for heading in headings[1:] if "unreleased" in heading]


def test_classifiers_name_the_licence_nowhere_and_the_pythons_that_are_tried() -> None:
    """The licence is an SPDX expression: beside it a classifier of a licence is an error."""
    found = [each.rpartition(" :: ")[2] for each in PROJECT["classifiers"] if each.startswith("Programming Language")]
    assert [each for each in found if each != "Only"] == ["3.11", "3.12", "3.13"]
    assert not [each for each in PROJECT["classifiers"] if each.startswith("License")]
    assert PROJECT["requires-python"] == ">=3.11"
