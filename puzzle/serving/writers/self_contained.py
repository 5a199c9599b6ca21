"""A modelling file inside a checkpoint, for those who do not have puzzle.

The file is assembled from the source of the child's own classes, so that there is one
definition of what a child computes.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import puzzle.errors
import puzzle.models.child
import puzzle.models.child_config
import puzzle.models.child_modules
import puzzle.models.child_saving
import puzzle.models.families
import puzzle.models.family
import puzzle.models.hybrid_layers
import puzzle.models.slots
import search_space.blocks
from puzzle.errors import ExportError
from puzzle.storage.json_files import read_object
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import add_files

FILE = "modeling_puzzle.py"
AUTO_MAP = {
    "AutoConfig": "modeling_puzzle.PuzzleConfig",
    "AutoModel": "modeling_puzzle.PuzzleModel",
    "AutoModelForCausalLM": "modeling_puzzle.PuzzleForCausalLM",
}
_LEFT_OUT = ("config_from_layout", "layout_from_config", "shape_of", "shape_with")
_CALLED = ("installed_families",)
_HEADER = '''"""A Llama whose layers differ, as transformers loads it with trust_remote_code=True.

Written by puzzle from its own classes; with puzzle installed, those are used instead.
"""

from __future__ import annotations

'''


def add_modelling_file(directory: str | os.PathLike[str]) -> Path:
    """Makes a saved child loadable where puzzle is not installed.

    There, `AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)` then works;
    with puzzle it still works without that argument, and without running the file.

    Args:
        directory: A child that `save_pretrained` or `SearchResult.save` wrote.

    Returns:
        The file that was written.

    Raises:
        ExportError: The directory holds no child.

    Example:
        >>> from puzzle.serving import add_modelling_file
        >>> add_modelling_file("out/child")  # doctest: +SKIP
    """
    path = user_path(directory) / "config.json"
    config = read_object(path, "a model's config", error=ExportError) if path.is_file() else {}
    if config.get("model_type") != puzzle.models.child_config.PuzzleConfig.model_type:
        raise ExportError(
            f"{directory} holds no child (model_type {config.get('model_type')!r}) of a Llama; "
            "give the directory that save_pretrained wrote one to"
        )
    text = json.dumps({**config, "auto_map": AUTO_MAP}, indent=2, sort_keys=True)
    add_files(path.parent, {FILE: modelling_source(), path.name: text + "\n"})
    return path.with_name(FILE)


def is_self_contained(directory: str | os.PathLike[str]) -> bool:
    """Returns whether the code that a checkpoint names is this version's modelling file.

    Only then may it be run.
    """
    file = Path(directory) / FILE
    config = read_object(Path(directory) / "config.json", "a model's config", error=ExportError)
    return (
        config.get("auto_map") == AUTO_MAP
        and file.is_file()
        and file.read_bytes() == modelling_source().encode()
    )


def modelling_source() -> str:
    """Returns the source of the modelling file."""
    models = puzzle.models
    described = (search_space.blocks, models.slots, models.family, models.families)
    own = (
        models.hybrid_layers,
        models.child_modules,
        models.child_config,
        models.child_saving,
        models.child,
    )
    modules = (puzzle.errors, *described, *own)
    imports: list[str] = []
    parts: list[str] = []
    for module in modules:
        for node, text in _statements(module):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.append(text)
            else:
                parts.append(text)
    head = "\n".join(dict.fromkeys(imports))
    return _HEADER + head + "\n\n\n" + "\n\n\n".join(parts) + "\n"


def _statements(module: ModuleType) -> Iterator[tuple[ast.stmt, str]]:
    """Yields the top-level statements of a module, except those that only puzzle needs."""
    lines = Path(str(module.__file__)).read_text(encoding="utf-8").splitlines()
    for node in ast.parse("\n".join(lines)).body:
        names = {getattr(node, "name", ""), getattr(node, "module", "") or ""}
        own = any(name.split(".")[0] in ("puzzle", "search_space") for name in names)
        docstring = isinstance(node, ast.Expr)
        if isinstance(node, ast.For):
            called = {part.id for part in ast.walk(node.iter) if isinstance(part, ast.Name)}
            own |= bool(called & {*_CALLED})
        if own or docstring or names & {*_LEFT_OUT, "__future__"}:
            continue
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        yield node, "\n".join(lines[first - 1 : node.end_lineno])
