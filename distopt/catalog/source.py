"""Reading the text of a Python file without running it: the kinds of its classes and functions, and the parameters that a spec may set.

Nothing is imported. What a class inherits is found where it comes from the same file, or from a module of ours.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from distopt.catalog import registry

EMPTY = ("()", "[]", "{}")
"""Defaults that no spec can spell."""
Field = tuple[str, ast.expr | None, ast.expr | None, ast.Module]
"""A parameter: its name, its annotation, its default, and the module that the two are of."""


def definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes that a module defines, in order."""
    yield from (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))


def kind(node: ast.FunctionDef | ast.ClassDef, tree: ast.Module) -> str | None:
    """The kind of a class, or of what a function returns. A function without a return annotation makes a network."""
    if isinstance(node, ast.ClassDef):
        return registry.told(_methods(node, tree))
    given = {each.arg for each in (*node.args.args, *node.args.kwonlyargs)}
    if {"problem", "blocks"} <= given:
        return "engines"
    made = _class(ast.unparse(node.returns), tree) if node.returns else None
    return (made and registry.told(_methods(*made))) or "topologies"


def lineage(node: ast.ClassDef, tree: ast.Module) -> Iterator[tuple[ast.ClassDef, ast.Module]]:
    """A class and its base classes, with their modules, as far as the text shows them."""
    yield node, tree
    for base in node.bases:
        if (above := _class(ast.unparse(base), tree)) is not None:
            yield from lineage(*above)


def _methods(node: ast.ClassDef, tree: ast.Module) -> set[str]:
    """The methods of a class: defined, or assigned, as in ``update = step``; inherited ones included."""
    found: set[str] = set()
    for each in (each for above, _ in lineage(node, tree) for each in above.body):
        if isinstance(each, ast.FunctionDef):
            found.add(each.name)
        elif isinstance(each, ast.Assign) and isinstance(each.value, ast.Name | ast.Attribute | ast.Lambda | ast.Call):
            found |= {ast.unparse(target) for target in each.targets}
    return found


def _class(name: str, tree: ast.Module) -> tuple[ast.ClassDef, ast.Module] | None:
    """The class of a name, where the module defines it or takes it from another module of ours."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, tree
        if (there := _imported(node, name)) is not None:
            return _class(*there)
    return None


def fields(maker: ast.FunctionDef | ast.ClassDef, tree: ast.Module) -> list[Field]:
    """What a function takes, or what an object of a class is made of, be it inherited."""
    if isinstance(maker, ast.ClassDef):
        return next((found for each in lineage(maker, tree) if (found := _made_of(*each)) is not None), [])
    free = [each for each in maker.args.args if each.arg != "self"]
    values = [*[None] * (len(free) - len(maker.args.defaults)), *maker.args.defaults, *maker.args.kw_defaults]
    each_value = zip([*free, *maker.args.kwonlyargs], values, strict=True)
    return [(each.arg, each.annotation, value, tree) for each, value in each_value]


def _made_of(node: ast.ClassDef, tree: ast.Module) -> list[Field] | None:
    """The parameters of a class's ``__init__``; None if the class neither defines nor generates one."""
    init = next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
    if init is not None:
        return fields(init, tree)
    if not _dataclass(node):
        return None
    above = reversed([*lineage(node, tree)])
    return [*{each[0]: each for base in above for each in _own_fields(*base)}.values()]


def _dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(each) for each in node.decorator_list)


def _own_fields(node: ast.ClassDef, tree: ast.Module) -> Iterator[Field]:
    """The fields that a dataclass defines itself, without those that its ``__init__`` does not take."""
    for each in node.body if _dataclass(node) else ():
        if not isinstance(each, ast.AnnAssign) or re.search("ClassVar|KW_ONLY", ast.unparse(each.annotation)):
            continue
        value = each.value
        if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == "field":
            said = {keyword.arg: keyword.value for keyword in value.keywords}
            if "init" in said and ast.unparse(said["init"]) == "False":
                continue
            value = said.get("default") or _made(said.get("default_factory"))
        yield ast.unparse(each.target), each.annotation, value, tree


def _made(factory: ast.expr | None) -> ast.expr | None:
    """What a ``default_factory`` makes."""
    if factory is None or isinstance(factory, ast.Lambda):
        return factory and factory.body
    empty = dict(zip(("tuple", "list", "dict"), EMPTY, strict=True)).get(ast.unparse(factory))
    return ast.parse(empty, mode="eval").body if empty else ast.Call(factory, [], [])


def attributes(maker: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """What the body of a class assigns, as text without types."""
    return [
        f"{ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)} = {ast.unparse(node.value)}"
        for node in maker.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    ]


def default(value: ast.expr, tree: ast.Module) -> str:
    """A default as it is typed in a spec: an object that the module makes, such as ``sign = Sign()``, by the name of its entry."""
    if isinstance(value, ast.Constant):
        return str(value.value) or "''"
    if isinstance(value, ast.Name) and (meant := _assigned(value.id, tree)) is not None:
        return default(*meant)
    if isinstance(value, ast.Call):
        called = ast.unparse(value.func)
        names = {name for kind in registry.NESTED.values() for name in registry.names(kind)}
        name = next((name for name in names if registry.same_name(name, called)), called)
        given = [*value.args, *value.keywords]
        return f"{name}({','.join(map(ast.unparse, given))})" if given else name
    return ast.unparse(value).replace("'", "")


def values(annotation: ast.expr | None, tree: ast.Module) -> str:
    """A type as text: the choices of a ``Literal``, wherever it has its name, and a nested part by its kind."""
    if annotation is None:
        return ""
    if isinstance(annotation, ast.BinOp):
        sides = (values(annotation.left, tree), values(annotation.right, tree))
        return " | ".join(side for side in sides if side)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        return " | ".join(
            part.strip().replace("'", '"') for part in ast.unparse(annotation.slice).strip("()").split(",")
        )
    text = ast.unparse(annotation)
    if text.startswith("Callable["):
        return "FILE.py:NAME"
    if text.startswith("tuple["):
        return ""  # which no spec can spell
    nested = registry.NESTED.get(text.partition("[")[0])
    if nested:
        return one_of(nested)
    if isinstance(annotation, ast.Name) and (meant := _assigned(text, tree)) is not None:
        return values(*meant)
    return text


def one_of(kind: str) -> str:
    """The possible values of a parameter that takes a part of a kind.

    >>> one_of("directions"), one_of("algorithms")
    ('a direction', 'an algorithm')
    """
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind[:-1]}"


def _assigned(name: str, tree: ast.Module) -> tuple[ast.expr, ast.Module] | None:
    """What a module calls ``name``, where it assigns it or takes it from another module of ours."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=False))
                for each, value in pairs:
                    if isinstance(each, ast.Name) and each.id == name:
                        return value, tree
        if (there := _imported(node, name)) is not None:
            return _assigned(*there)
    return None


def _imported(node: ast.stmt, name: str) -> tuple[str, ast.Module] | None:
    """Where an import statement takes ``name`` (or ``module.name``) from: its name there, and that module of distopt."""
    for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
        local = alias.asname or alias.name
        if f"{name}.".startswith(f"{local}."):
            origin = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            package, *inner = f"{origin}{alias.name}{name[len(local) :]}".split(".")
            above = inner[:-1]
            kind = above and above[0] in registry.KINDS  # whose folder may lie beside the package
            base = (
                registry.folder(above[0]).joinpath(*above[1:])
                if kind
                else Path(__file__).parent.parent.joinpath(*above)
            )
            path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
            return (
                (inner[-1], ast.parse(path.read_text())) if package == "distopt" and inner and path.is_file() else None
            )
    return None
