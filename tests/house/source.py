"""The packages as text: modules, what they import and define, without importing any of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("search_space", "solvers", "puzzle", "puzzle_sglang", "puzzle_vllm")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """A module of ours that a statement imports.

    Args:
        target: The module, or the package if only its door is used.
        line: Where.
        deferred: Whether it stands in a function.
        typing: Whether only type checkers read it.
        names: What is taken from the target.
    """

    target: str
    line: int
    deferred: bool
    typing: bool
    names: tuple[str, ...]


@dataclass(frozen=True)
class Module:
    """One file of a package."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def package(self) -> str:
        """The package that relative names start from."""
        is_door = self.path.stem == "__init__"
        return self.name if is_door else self.name.rpartition(".")[0]

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(_imports(self.tree, deferred=False, typing=False))

    @cached_property
    def bindings(self) -> set[str]:
        """The names that the module itself defines or assigns at the top."""
        names = set()
        for node in self.tree.body:
            if isinstance(node, Function | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = ast.walk(node)
                names |= {
                    n.id for n in targets if isinstance(n, ast.Name) and type(n.ctx) is ast.Store
                }
        return names

    def functions(self) -> Iterator[tuple[str, Function]]:
        """Yields every function and method with its dotted name inside the module."""
        yield from _functions(self.tree, "")

    def definitions(self) -> Iterator[str]:
        """Yields the public functions and classes of the module."""
        for node in self.tree.body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                yield node.name


@cache
def modules() -> dict[str, Module]:
    """Returns every module of the packages by dotted name; a package is its `__init__`."""
    every = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            every[name] = Module(name, path)
    return every


@cache
def doors() -> frozenset[str]:
    """Returns the packages that give out names: by a stub, or by `__all__`."""
    stubs = {stub.parent for name in PACKAGES for stub in (ROOT / name).rglob("__init__.pyi")}
    named = {".".join(folder.relative_to(ROOT).parts) for folder in stubs}
    return frozenset({*named, "search_space", "solvers"})


@cache
def exported(door: str) -> dict[str, str]:
    """Returns the module of each name that a package gives out."""
    module = modules()[door]
    stub = module.path.with_suffix(".pyi")
    source = stub if stub.exists() else module.path
    return {
        alias.asname or alias.name: str(statement.module)
        for statement in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
        if f"{statement.module}.{alias.name}" not in modules()
    }


def _imports(node: ast.AST, *, deferred: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                if alias.name in modules():
                    yield Import(alias.name, child.lineno, deferred, typing, ())
        elif isinstance(child, ast.ImportFrom) and child.module in modules():
            yield from _from(child, deferred, typing)
        elif isinstance(child, Function | ast.Lambda):
            yield from _imports(child, deferred=True, typing=typing)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from _imports(child, deferred=deferred, typing=True)
        else:
            yield from _imports(child, deferred=deferred, typing=typing)


def _from(node: ast.ImportFrom, deferred: bool, typing: bool) -> Iterator[Import]:
    rest = []
    for alias in node.names:
        submodule = f"{node.module}.{alias.name}"
        if submodule in modules():
            yield Import(submodule, node.lineno, deferred, typing, ())
        else:
            rest.append(alias.name)
    if rest:
        yield Import(str(node.module), node.lineno, deferred, typing, tuple(rest))


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


def calls() -> Iterator[tuple[str, str, dict[str | None, ast.expr]]]:
    """Yields every call in the packages: module, dotted name, keywords."""
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                yield module.name, ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
