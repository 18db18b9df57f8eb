"""Who may import whom, as the table of docs/architecture.md says, and what stays light.

``python tests/test_architecture.py`` prints the table of rooms as the imports are now.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
HEAVY = {"torch", "ray", "matplotlib", "bokeh", "jinja2", "networkx", "scipy", "pandas", "sklearn", "cvxpy"}
METHODS = ("algorithms", "directions", "schedules", "channels", "compressors")
KNOWN = ("__future__", "dataclasses", "typing", "math", "re", "collections")
CONFINED = ("matplotlib", "bokeh", "jinja2", "torch.distributed", "ray")


def modules() -> dict[str, Path]:
    """Every module by its dotted name as installed."""
    found = {}
    for folder in ("distopt", "topologies", "scenarios"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "distopt" else ("distopt", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def table(head: str) -> dict[str, set[str]]:
    """The rows of the page's table with that head: first cell -> names in the second."""
    rows = PAGE.split(f"| {head} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {key.strip("`"): set(re.findall(r"[\w./]+", names)) for key, names in cells}


def targets(name: str, node: ast.stmt) -> Iterator[str]:
    """What one import statement names, as dotted names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
            up = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*up, base] if base else up)
        yield from (f"{base}.{alias.name}" for alias in node.names)


def confined(target: str) -> bool:
    """Whether a dotted name is of a library that the page keeps in a few places."""
    return any(target == library or target.startswith(library + ".") for library in CONFINED)


def handed() -> dict[str, str]:
    """Libraries that a module binds and others may take from it: ``distopt.a.dist`` -> ``torch.distributed``."""
    found: dict[str, str] = {}
    size = -1
    while size < len(found):  # once more, as long as some module hands on what it has taken
        size = len(found)
        for name, path in MODULES.items():
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    for alias, target in zip(node.names, targets(name, node), strict=True):
                        if confined(whole := found.get(target, target)):
                            found[f"{name}.{alias.asname or alias.name}"] = whole
                elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Attribute | ast.Name):
                    value = ast.unparse(node.value)
                    whole = found.get(f"{name}.{value}", value)
                    for left in node.targets if isinstance(node, ast.Assign) else [node.target]:
                        if confined(whole) and isinstance(left, ast.Name):
                            found[f"{name}.{left.id}"] = whole
    return found


HANDED = handed()


def own(target: str) -> str | None:
    """The module of ours that a target names or lies in."""
    return target if target in MODULES else parent if (parent := target.rpartition(".")[0]) in MODULES else None


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "distopt"


def used(name: str, tree: ast.AST) -> set[str]:
    """All that a module's text imports, inside functions too; a library handed on by another module counts as the library."""
    found, bound = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias, target in zip(node.names, targets(name, node), strict=True):
                found.add(HANDED.get(target, target))
                bound[alias.asname or alias.name] = target
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            taken = f"{bound.get(node.value.id)}.{node.attr}"
            found |= {HANDED[taken]} if taken in HANDED else set()
    return found


def imports(name: str) -> set[str]:
    return used(name, ast.parse(MODULES[name].read_text()))


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            typing_only = "TYPE_CHECKING" in ast.unparse(node.test)
            yield from at_import([*([] if typing_only else node.body), *node.orelse])
        elif isinstance(node, ast.Try):
            yield from at_import(
                [*node.body, *(n for h in node.handlers for n in h.body), *node.orelse, *node.finalbody]
            )
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from at_import(node.body)


ROOMS = sorted({room(module) for module in MODULES})


def imported(name: str) -> set[str]:
    """The rooms from which a room imports anything."""
    found = {own(target) for module in MODULES if room(module) == name for target in imports(module)}
    return {room(module) for module in found if module} - {name}


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_what_the_table_allows_and_is_allowed_nothing_else(name: str) -> None:
    allowed, found = table("room | may import").get(name, set()) - {"nothing"}, imported(name)
    assert found <= allowed, f"{name} imports {sorted(found - allowed)}, which the table does not allow"
    assert allowed <= found, f"{name} is allowed {sorted(allowed - found)} and imports none of it"


def test_the_table_names_each_room_once() -> None:
    assert list(table("room | may import")) == ROOMS


@pytest.mark.parametrize("library", CONFINED)
def test_libraries_stay_in_their_places(library: str) -> None:
    places = table("library | only in")[library]
    found = {
        MODULES[module].relative_to(ROOT / "distopt").as_posix()
        for module in MODULES
        if any(target == library or target.startswith(library + ".") for target in imports(module))
    }
    assert {
        path for path in found if not any(path == place or path.startswith(place + "/") for place in places)
    } == set()


@pytest.mark.parametrize(
    "text",
    [
        "import torch.distributed as d",
        "def f():\n    from torch import distributed",
        "from distopt.engines.transports.gloo import dist",
        "from distopt.engines.transports import gloo\ngloo.dist.barrier()",
    ],
)
def test_a_library_is_seen_wherever_it_is_taken_from(text: str) -> None:
    assert "torch.distributed" in used("distopt.metrics", ast.parse(text))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page: Path) -> None:
    tops = [ROOT / "distopt", ROOT / "distopt" / "engines", ROOT]
    for path in re.findall(r"`([a-z_]+/(?:[a-z_/]+/)?(?:\w+\.py)?)`", page.read_text()):
        assert any((top / path).exists() for top in tops), path


@pytest.mark.parametrize("name", [m for m in MODULES if room(m) in METHODS and m.count(".") == 2])
def test_methods_know_torch_and_the_standard_library_only(name: str) -> None:
    assert {target.split(".")[0] for target in imports(name)} <= {"distopt", "torch", *KNOWN}
    allowed = ("distopt.numerics.sums", "distopt.numerics.normal")
    assert all(target.startswith(allowed) for target in imports(name) if target.startswith("distopt.numerics."))


def test_topologies_know_graphs_and_randomness_only() -> None:
    graphs = ("distopt.network.graphs", "distopt.network.digraphs", "distopt.network.lengths")
    allowed = (*graphs, "distopt.numerics.random", "distopt.numerics.sums", "distopt.numerics.room")
    for name in MODULES:
        if room(name) in ("topologies", "scenarios"):
            found = {t for t in imports(name) if t.startswith(("distopt.network", "distopt.numerics"))}
            assert all(target.startswith(allowed) for target in found), name


def test_graphs_do_not_know_weights_nor_weights_the_operator() -> None:
    above = {
        "graphs": ("weights", "mixing"),
        "digraphs": ("weights", "mixing"),
        "weights": ("mixing",),
        "links": ("mixing", "weights"),
    }
    for name, upper in above.items():
        wrong = tuple(f"distopt.network.{each}" for each in upper)
        assert not any(target.startswith(wrong) for target in imports(f"distopt.network.{name}")), name


def test_no_circle_of_imports() -> None:
    left = {}
    for name, path in MODULES.items():
        found = {own(target) for node in at_import(ast.parse(path.read_text()).body) for target in targets(name, node)}
        left[name] = {module for module in found if module} - {name}
    while free := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, f"imports go round among {sorted(left)}"


def test_the_house_stays_small() -> None:
    assert len(list((ROOT / "distopt").glob("*.py"))) <= 13
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 400}
    assert not long, f"files of more than 400 lines: {long}"


@pytest.mark.parametrize(
    "code", ["import distopt", "import distopt.catalog.registry", "import distopt.cli.main", "import distopt.reproduce"]
)
def test_imports_are_light(code: str) -> None:
    script = f"{code}; import sys; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded)


@pytest.mark.slow
def test_an_ordinary_run_does_without_scipy(tmp_path: Path) -> None:
    words = "simulate ring --agents 4 --rounds 3 --out"
    run = [sys.executable, "-X", "importtime", "-m", "distopt", *words.split(), str(tmp_path / "run")]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True).stderr
    assert "matplotlib.figure" in loaded
    assert "scipy" not in loaded


def test_every_folder_of_the_catalogue_has_one_maker_per_file() -> None:
    from distopt.catalog import entries, registry

    for kind in registry.KINDS:
        found = registry.names(kind)
        assert found
        for name in found:
            assert callable(registry.maker(kind, name))
            sentence = entries.entry(kind, name).sentence
            assert sentence.endswith("."), f"{kind}/{name}: the first line of the docstring is not a sentence"


if __name__ == "__main__":
    for each in ROOMS:
        print(f"| {each} | {', '.join(sorted(imported(each))) or 'nothing'} |")


def test_every_folder_with_modules_is_installed() -> None:
    """An editable install finds a folder that ``packages`` forgets; a wheel does not have it."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in MODULES.items()}
    assert set(content) == folders - {"distopt.scenarios.data"}  # a script beside the data that it made
