"""The families that are known, by the `model_type` of their configs."""

from __future__ import annotations

from typing import Any

from puzzle.errors import ParentError
from puzzle.models.family import Family
from puzzle.models.llama import LLAMA

FAMILIES: dict[str, Family] = dict.fromkeys(LLAMA.model_types, LLAMA)


def register_family(family: Family) -> None:
    """Registers a family for each of its model types."""
    FAMILIES.update(dict.fromkeys(family.model_types, family))


def family_of(config: Any) -> Family:
    """Returns the family of a config.

    Raises:
        ParentError: The family is unknown; the message lists those known.
    """
    model_type = getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        raise ParentError(
            f"model family {model_type!r} is not supported; known families: {sorted(FAMILIES)}"
        )
    return FAMILIES[model_type]
