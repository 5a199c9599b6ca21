"""What peft adapts in a child unless it is told: the modules that it adapts in the parent."""

from __future__ import annotations

from types import ModuleType

from puzzle.models.child_config import config_class
from puzzle.models.families import FAMILIES


def add_children(constants: ModuleType) -> None:
    """Enters children into peft's tables of default modules, by the types of their parents.

    Args:
        constants: The module `peft.utils.constants`. A type that a table lacks stays out of it.
    """
    types = {kind: config_class(family).model_type for kind, family in FAMILIES.items()}
    for name, table in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(table, dict):
            for parent, child in types.items():
                if parent in table:
                    table.setdefault(child, table[parent])
