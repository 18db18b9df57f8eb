"""What the files of the project say of it: they agree with each other and with the package."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {"test", "docs"}  # extras for whoever works on the project
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
    """The version and the date of the newest heading of the changelog; ``Unreleased`` stands for a date."""
    found = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert found is not None
    parts = re.fullmatch(r"(Unreleased|\d[\d.]*) \((\S+)\)", found[1])
    assert parts is not None, found[1]
    return (parts[2], parts[1]) if parts[1] == "Unreleased" else (parts[1], parts[2])


def test_the_changelog_the_citation_and_the_package_have_one_version() -> None:
    from distopt import __version__

    citation = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.M))
    assert newest() == (__version__, citation.get("date-released", "Unreleased"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]


def test_only_the_newest_heading_waits_for_its_release() -> None:
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert not [heading for heading in headings[1:] if "Unreleased" in heading]


def test_classifiers_name_the_licence_nowhere_and_the_pythons_that_are_tried() -> None:
    """The licence is an SPDX expression: beside it a classifier of a licence is an error."""
    found = [each.rpartition(" :: ")[2] for each in PROJECT["classifiers"] if each.startswith("Programming Language")]
    assert [each for each in found if each != "Only"] == ["3.11", "3.12", "3.13"]
    assert not [each for each in PROJECT["classifiers"] if each.startswith("License")]
    assert PROJECT["requires-python"] == ">=3.11"


# ------------------------------------------------------------------------------------------------------ nox, make, CI


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    asked = [each for name, extra in EXTRAS.items() if name != "docs" for each in extra]
    lowest = {each.replace(">=", "==") for each in [*PROJECT["dependencies"], *asked]}
    assert (ROOT / "constraints-lowest.txt").read_text() == "\n".join(sorted(lowest, key=str.lower)) + "\n"


def sessions() -> dict[str, str]:
    """The sessions of noxfile.py, and what each does."""
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    return {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_sessions_run_the_targets_of_their_names() -> None:
    made = {name for name, text in sessions().items() if "'make'" in text}
    assert made == {"lint", "types", "docs", "release"}
    for name in made:
        assert f"session.run('make', '{name}', external=True)" in sessions()[name]


def test_ci_runs_every_session_on_every_python() -> None:
    content = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = content["jobs"]["session"]
    asked = [each["session"] for each in job["strategy"]["matrix"]["include"]]
    pythons = re.findall(r"'(3\.\d+)'", sessions()["tests"])
    assert pythons == ["3.11", "3.12", "3.13"]
    assert sorted(asked) == sorted([*(sessions().keys() - {"tests"}), *(f"tests-{each}" for each in pythons)])
    assert content["permissions"] == {"contents": "read"} and "permissions" not in job
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", each) for each in used)
    scripts = [step["run"] for step in job["steps"] if "run" in step]
    assert not [script for script in scripts if "${{" in script], "what a matrix says reaches a shell by a variable"
