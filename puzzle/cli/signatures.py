"""Signatures and docstrings of public functions, read from their source and not by importing it.

The options of a subcommand are the parameters of a library function. To show them takes the
source of that function alone; to import its module takes torch, which takes seconds.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzle._lazy import exported_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a function or class takes, and how it describes that.

    Args:
        signature: Its parameters; annotations are text.
        docstring: Its docstring.
    """

    signature: inspect.Signature
    docstring: str


def declared(function: Callable[..., Any]) -> Declaration:
    """Returns the declaration of a function or dataclass that is imported anyway."""
    return Declaration(
        signature=inspect.signature(function), docstring=inspect.getdoc(function) or ""
    )


def declared_in_source(package: str, name: str) -> Declaration:
    """Returns the declaration of a function that a package's stub exports, without importing it.

    Args:
        package: The package, such as "puzzle".
        name: The function, such as "search".

    Raises:
        LookupError: The package does not export it, or it is not a function.

    Example:
        >>> list(declared_in_source("puzzle", "devices").signature.parameters)
        []
    """
    module = exported_names(_file(package).with_suffix(".pyi"))[name]
    tree = _parsed(module)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return Declaration(
                signature=inspect.Signature(_parameters(node.args, tree)),
                docstring=ast.get_docstring(node) or "",
            )
    raise LookupError(f"{module} defines no function {name}")


def _file(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"there is no module {module}")
    return Path(spec.origin)


def _parsed(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _parameters(arguments: ast.arguments, tree: ast.Module) -> list[inspect.Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = [None] * (len(positional) - len(arguments.defaults))
    pairs = [
        *zip(positional, [*missing, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return [
        inspect.Parameter(
            argument.arg,
            inspect.Parameter.KEYWORD_ONLY
            if argument in arguments.kwonlyargs
            else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if default is None else _value(default, tree),
            annotation="" if argument.annotation is None else ast.unparse(argument.annotation),
        )
        for argument, default in pairs
    ]


def _value(node: ast.expr, tree: ast.Module) -> Any:
    """Returns a default: a literal, or the literal that a name of the module stands for."""
    if not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and node.id in map(ast.unparse, statement.targets):
            return ast.literal_eval(statement.value)
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                if node.id == (alias.asname or alias.name):
                    source = _parsed(statement.module)
                    return _value(ast.Name(id=alias.name), source)
    raise LookupError(f"the default {node.id} is not defined in its module")
