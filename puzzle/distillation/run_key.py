"""run_key(): all that the result of a distillation depends on, under which its checkpoints are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.loop import TrainingText
from puzzle.models.trainable import OpenModel
from puzzle.serving.files import tokenizer_definition
from puzzle.storage.hashing import content_hash, hash_tensors


def run_key(
    child: OpenModel, parent: OpenModel, config: DistillConfig, text: TrainingText, *, bf16: bool
) -> dict[str, Any]:
    """Returns all that a distillation's child and its record depend on, as JSON values.

    The number of processes, and where they run, are not in it: a run may go on elsewhere.

    Args:
        child: The child, whose identity covers its config and weights.
        parent: The parent, likewise.
        config: The settings; those that do not change the result are left out.
        text: The rows, the windows that quality is measured on, and the tokenizer, which is saved
            beside the child.
        bf16: Whether products are computed in bfloat16, which `accelerate launch` may decide.
    """
    held_out = text.validation
    return {
        "child": _model(child),
        "parent": _model(parent),
        "data": text.stream.rows.identity,
        "config": config.result_fields(),
        "tokenizer": tokenizer_key(text.tokenizer),
        "validation": None if held_out is None else hash_tensors({"windows": held_out}),
        "bf16": bf16,
    }


def _model(opened: OpenModel) -> Mapping[str, str]:
    return {"identity": opened.identity, "dtype": str(opened.dtype)}


def tokenizer_key(tokenizer: Any) -> str | None:
    """Returns a hash of what a tokenizer makes of text and turns; None if there is none.

    Args:
        tokenizer: A transformers tokenizer, or anything that is called like one.
    """
    if tokenizer is None:
        return None
    definition = tokenizer_definition(tokenizer)
    if definition is None:
        vocabulary: Mapping[str, int] = getattr(tokenizer, "get_vocab", dict)()
        definition = {"vocabulary": sorted(map(list, vocabulary.items()))}
    special = getattr(tokenizer, "special_tokens_map", {})
    return content_hash(
        {
            "class": type(tokenizer).__name__,
            "definition": definition,
            "template": getattr(tokenizer, "chat_template", None),
            "special": {name: repr(token) for name, token in special.items()},
        }
    )
