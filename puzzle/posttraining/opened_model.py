"""What a user gives as a model to train or to sample from: opened, with its tokenizer."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PreTrainedModel

from puzzle.errors import DataError, ParentError
from puzzle.hardware.format_speed import computing_format
from puzzle.models.given_child import given_child
from puzzle.models.pretrained import load_model, load_tokenizer
from puzzle.models.unsuitable import refuse_unsuitable_model
from puzzle.storage.paths import user_path
from puzzle.text.switch import add_thinking_switch


def opened_with_tokenizer(source: Any, tokenizer: Any = None) -> tuple[Any, Any]:
    """Returns a model in a format that its device computes fast, and its tokenizer.

    Args:
        source: A model, its directory, a hub id, or what a search or a stage returns.
        tokenizer: By default the one beside the model.

    Raises:
        ParentError: It is no model, or cannot be opened.
        DataError: There is no tokenizer.
    """
    source, tokenizer = given_child(source, tokenizer)
    if isinstance(source, PreTrainedModel):
        model = source
    elif isinstance(source, str | os.PathLike):
        model = load_model(source)
        path = user_path(source)
        if tokenizer is None and (not path.is_dir() or (path / "tokenizer_config.json").is_file()):
            tokenizer = load_tokenizer(source)
        if computing_format(model.dtype, model.device) == torch.float32:
            model = model.float()
    else:
        refuse_unsuitable_model(source)
        raise ParentError(
            f"{type(source).__name__} is no model; give a directory, a hub id, a transformers "
            "model, or what a search or a stage returned"
        )
    if tokenizer is None:
        raise DataError("there is no tokenizer beside the model; give one with tokenizer=")
    return model, tokenizer


def switched_tokenizer(source: str | os.PathLike[str]) -> Any:
    """Returns the tokenizer beside a model, with a switch around its chat template.

    Args:
        source: The model's directory, or a hub id.

    Raises:
        ParentError: There is none.
        DataError: As for `puzzle.add_thinking_switch`.
    """
    return add_thinking_switch(load_tokenizer(source))
