"""No module but those of `client_internals` reaches into kafka-python, and the check knows all that these use."""

import ast
import importlib
import inspect
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

import worker
from worker.consumer.client_check import PARTS

ROOT = Path(worker.__file__).parent
INTERNALS = ROOT / "consumer" / "client_internals"
MODULES = sorted(ROOT.rglob("*.py"))
OTHERS = [path for path in MODULES if INTERNALS not in path.parents]
INSIDE = [path for path in MODULES if INTERNALS in path.parents]

PUBLIC = {"kafka", "kafka.admin", "kafka.errors", "kafka.structs", "kafka.coordinator.assignors.cooperative_sticky"}
"""What kafka-python documents for its users."""

OF_PYTHON = {
    *("_asdict", "_exit", "_replace", "_fields"),
    *("Final", "Struct", "append", "close", "get", "items", "pop", "values"),
}
"""Names of Python's own objects."""

FRAMES = {"tb_frame", "f_locals", "f_back", "_getframe", "currentframe"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def of_the_client(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each module of the client, and the name in it, that a file imports."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "kafka")
        elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "kafka":
            yield from ((str(node.module), alias.name) for alias in node.names)


def used(tree: ast.AST, leave_out: Collection[int] = ()) -> Iterator[str]:
    """Yield the attributes that are read or set, by a dot or by `getattr` and `setattr`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if id(node) not in leave_out:
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            yield from (str(each.value) for each in node.args[1:2] if isinstance(each, ast.Constant))


def defined(tree: ast.AST) -> set[str]:
    """Return the names that a file gives to attributes, functions, classes and variables of its own."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in OTHERS])
def test_a_module_imports_what_the_client_documents(path: Path) -> None:
    assert {module for module, _ in of_the_client(path)} - PUBLIC == set()


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in OTHERS])
def test_a_module_uses_no_private_name_but_its_own(path: Path) -> None:
    tree = tree_of(path)
    assert {name for name in used(tree) if is_private(name)} - defined(tree) - OF_PYTHON == set()


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in MODULES])
def test_no_module_reads_the_variables_of_another_function(path: Path) -> None:
    assert set(used(tree_of(path))) & FRAMES == set()


def checked_names() -> set[str]:
    names = {name.partition("(")[0] for part in PARTS for name in part.names}
    return names | {owner for part in PARTS for owner in part.owner.partition(":")[2].split(".")}


def own_names(path: Path) -> set[str]:
    """Return the attributes and methods that a file's classes add, and no class of the client above them has."""
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    found: set[str] = set()
    for each in vars(importlib.import_module(name)).values():
        if inspect.isclass(each) and each.__module__ == name:
            above = [base for base in inspect.getmro(each)[1:] if base.__module__.partition(".")[0] == "kafka"]
            found |= {method for method in vars(each) if not any(hasattr(base, method) for base in above)}
    stored = {
        node.attr
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    return found | stored


def overridden(path: Path) -> set[str]:
    """Return the methods that a file's classes have in place of those of a class of the client."""
    methods = {
        node.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return {name for name in methods if is_private(name)} - own_names(path)


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in INSIDE])
def test_each_class_of_the_client_that_is_used_is_checked(path: Path) -> None:
    imported = {name for module, name in of_the_client(path) if module not in PUBLIC}
    assert imported - checked_names() == set()


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in INSIDE])
def test_each_attribute_that_is_used_of_the_client_is_checked(path: Path) -> None:
    """Everything behind a dot that is neither of this package, nor of Python, nor of a module that is imported whole."""
    tree = tree_of(path)
    of_modules = {
        id(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in ("kafka_errors", "operator", "socket", "struct")
    }
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    found = set(used(tree, leave_out=of_modules)) | (overridden(path) - functions)
    assert found - set().union(*map(own_names, INSIDE)) - OF_PYTHON - checked_names() == set()
