"""The families that are known, by the `model_type` of their configs."""

from __future__ import annotations

from typing import Any

from puzzle.errors import ParentError
from puzzle.models.family import Family

LLAMA = Family(model_types=("llama",), package="llama", classes="Llama")
# One description per family; what is not said is as in Llama.
KNOWN = (
    LLAMA,
    Family(model_types=("mistral",), package="mistral", classes="Mistral"),
    Family(model_types=("qwen2",), package="qwen2", classes="Qwen2"),
    Family(model_types=("qwen3",), package="qwen3", classes="Qwen3"),
    Family(model_types=("smollm3",), package="smollm3", classes="SmolLM3"),
    Family(
        model_types=("granite",),
        package="granite",
        classes="Granite",
        residual_multiplier="residual_multiplier",
        embedding_multiplier="embedding_multiplier",
        logits_divisor="logits_scaling",
    ),
)
FAMILIES: dict[str, Family] = {name: family for family in KNOWN for name in family.model_types}


def register_family(family: Family) -> None:
    """Registers a family for each of its model types."""
    FAMILIES.update(dict.fromkeys(family.model_types, family))


def family_of(config: Any) -> Family:
    """Returns the family of a config.

    Raises:
        ParentError: The family is unknown; the message lists those known.
    """
    # The config of a child says whose child it is.
    model_type = getattr(config, "parent_type", None) or getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        raise ParentError(
            f"model family {model_type!r} is not supported; known families: {sorted(FAMILIES)}"
        )
    return FAMILIES[model_type]
