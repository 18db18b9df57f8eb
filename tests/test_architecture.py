"""Who may import whom, and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "ray", "matplotlib", "networkx", "scipy", "pandas", "sklearn", "cvxpy"}


def imports(path: Path, top_only: bool = False) -> set[str]:
    """Modules a file imports, as dotted names; ``top_only`` leaves out imports inside functions and type checking."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py")


def own(path: Path) -> set[str]:
    return {name for name in imports(path) if name.startswith("distopt")}


@pytest.mark.parametrize("path", files("distopt/algorithms", "distopt/directions", "distopt/channels", "distopt/compressors"), ids=lambda p: p.stem)
def test_methods_know_torch_and_their_protocol_only(path: Path) -> None:
    methods = ("distopt.algorithms", "distopt.directions", "distopt.channels", "distopt.compressors")
    allowed = ("distopt.protocols", "distopt.errors", "distopt.ranges", "distopt.numerics.sums", *methods)
    assert {name for name in own(path) if not name.startswith(allowed)} == set()
    assert {name.split(".")[0] for name in imports(path)} <= {"__future__", "torch", "dataclasses", "typing", "math", "re", "distopt", "collections"}


@pytest.mark.parametrize("path", files("topologies", "scenarios"), ids=lambda p: p.stem)
def test_topologies_and_scenarios_know_randomness_and_graphs_only(path: Path) -> None:
    allowed = ("distopt.numerics.random", "distopt.network.graphs", "distopt.numerics.sums", "distopt.errors", "distopt.numerics.room", "distopt.scenarios._", "distopt.topologies")
    assert {name for name in own(path) if not name.startswith(allowed)} == set()


def test_plotting_lives_in_report_only() -> None:
    inner = [path for path in (ROOT / "distopt").glob("*/*.py") if path.parent.name != "report"]
    for path in [*files("distopt", "topologies", "scenarios"), *inner]:
        assert not any(name.startswith("matplotlib") for name in imports(path)), path


def test_torch_distributed_and_ray_stay_in_their_places() -> None:
    for path in (ROOT / "distopt").rglob("*.py"):
        inside = path.relative_to(ROOT / "distopt").as_posix()
        if inside not in ("engines/gloo.py", "optim.py", "ddp.py"):
            assert not any(name.startswith("torch.distributed") for name in imports(path)), inside
        if inside != "engines/cluster.py":
            assert not any(name == "ray" or name.startswith("ray.") for name in imports(path)), inside


def test_lower_layers_do_not_know_upper_ones() -> None:
    upper = ("distopt.cli.main", "distopt.cli.commands", "distopt.runs.sweep", "distopt.api", "distopt.report", "distopt.runs.results")
    lowest = ("network", "mixing", "links", "weights", "graphs", "random", "data", "comparator", "metrics", "tree")
    for name in (*lowest, "runner", "experiment", "problem", "protocols", "catalog", "errors"):
        assert not any(module.startswith(upper) for module in own(ROOT / "distopt" / f"{name}.py")), name
    for name in lowest:
        assert not any(m.startswith(("distopt.simulation.runner", "distopt.experiment", "distopt.simulation.problem")) for m in own(ROOT / "distopt" / f"{name}.py")), name


def test_the_experiments_of_papers_are_known_to_the_command_line_only() -> None:
    for path in [path for path in (ROOT / "distopt").rglob("*.py") if path.parent.name != "reproduce" and path.name != "cli.py"]:
        assert not any(name.startswith("distopt.reproduce") for name in own(path)), path
    for path in files("distopt/reproduce"):
        assert not any(name.startswith(("distopt.cli.main", "distopt.api", "distopt.report", "distopt.runs.sweep")) for name in own(path)), path


def test_graphs_do_not_know_weights_nor_weights_the_operator() -> None:
    above = {"graphs": ("distopt.network.weights", "distopt.network.mixing"), "weights": ("distopt.network.mixing",), "links": ("distopt.network.mixing", "distopt.network.weights")}
    for name, upper in above.items():
        assert not any(module.startswith(upper) for module in own(ROOT / "distopt" / f"{name}.py")), name


@pytest.mark.parametrize("code", ["import distopt", "import distopt.catalog.registry", "import distopt.cli.main", "import distopt.reproduce"])
def test_imports_are_light(code: str) -> None:
    script = f"{code}; import sys; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded)


def test_every_folder_of_the_catalogue_has_one_maker_per_file() -> None:
    from distopt.catalog import registry

    for kind in registry.KINDS:
        found = registry.names(kind)
        assert found
        for name in found:
            assert callable(registry.maker(kind, name))
            _, sentence = registry.describe(kind, name)
            assert sentence.endswith("."), f"{kind}/{name}: the first line of the docstring is not a sentence"
