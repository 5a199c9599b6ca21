"""Packages whose names are imported when they are first used, so that importing one is fast.

The stub beside a package's `__init__.py` is the one list of what the package exports: type
checkers and editors read it, and so does this module.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from wrapt import when_imported

Door = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]


def exported_names(stub: Path) -> dict[str, str]:
    """Returns the module of each name that a stub imports, by name."""
    statements = ast.parse(stub.read_text(encoding="utf-8")).body
    return {
        alias.asname or alias.name: str(statement.module)
        for statement in statements
        if isinstance(statement, ast.ImportFrom) and statement.module != "__future__"
        for alias in statement.names
    }


def open_door(package: str, file: str) -> Door:
    """Returns `__getattr__`, `__dir__` and `__all__` of a package, as its stub says.

    Args:
        package: The package's `__name__`.
        file: The package's `__file__`.

    Example:
        >>> __getattr__, __dir__, __all__ = open_door(__name__, __file__)  # doctest: +SKIP
    """
    modules = exported_names(Path(file).with_suffix(".pyi"))
    names = sorted(modules)

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return get, lambda: names, names


# Of which modules of transformers the child's are made, and with which they register themselves.
_CONFIG, _CHILD = "puzzle.models.child_config", "puzzle.models.child"
_AUTO = "transformers.models.auto.modeling_auto"
_NEEDED = {
    _CONFIG: (
        "transformers.models.auto.configuration_auto",
        "transformers.models.llama.configuration_llama",
    ),
    _CHILD: (
        _AUTO,
        "transformers.modeling_layers",
        "transformers.models.llama.configuration_llama",
        "transformers.models.llama.modeling_llama",
    ),
}
_OUTER = (
    "transformers.configuration_utils",
    "transformers.modeling_utils",
    "transformers.models.auto.auto_factory",
    _AUTO,
)


def register_child_with_transformers() -> None:
    """Lets `AutoConfig` and `AutoModelForCausalLM` open a child, once they are loaded.

    Importing the child's modules registers them. That waits for transformers, which takes seconds
    to load and which a listing of layouts does not need.
    """
    for own, needed in _NEEDED.items():
        for name in needed:
            when_imported(name)(partial(_import_when_complete, own))
    for name in (_CONFIG, *_OUTER):
        when_imported(name)(_import_child_that_waited)
    when_imported("peft.utils.constants")(_add_children_to_peft)


def _import_child_that_waited(module: ModuleType) -> None:
    # Where a module of ours, or one of these, is what imports the others, it is the last to end.
    if {_CONFIG, _AUTO} <= sys.modules.keys():
        _import_when_complete(_CHILD, module)


def _add_children_to_peft(constants: ModuleType) -> None:
    importlib.import_module("puzzle.models.peft_targets").add_children(constants)


def _import_when_complete(own: str, module: ModuleType) -> None:
    # The modules import each other: only after the last of them is there anything to import.
    parts = (*_NEEDED, *_NEEDED[own])
    if any(_is_loading(name) for name in parts if name != module.__name__):
        return
    try:
        importlib.import_module(own)
    except ImportError:
        # Others may be in the middle of loading, which then goes on to a module that comes here.
        if not any(_is_loading(name) for name in _OUTER):
            raise


def _is_loading(name: str) -> bool:
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))
