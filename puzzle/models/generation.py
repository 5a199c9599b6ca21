"""How a child generates: as its parent does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from puzzle.errors import DataError
from puzzle.models.pretrained import load_generation_config
from puzzle.text.template_rendering import apply_template

Prompt = str | Sequence[Mapping[str, Any]]


def generated_text(model: Any, tokenizer: Any, prompt: Prompt, **options: Any) -> str:
    """Returns what a model writes after a prompt, without the prompt.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompt: Text, or turns with `role` and `content` for the chat template.
        options: As for `generate` of transformers.

    Raises:
        DataError: There is no tokenizer, no prompt, or no chat template for turns.
    """
    if tokenizer is None:
        raise DataError("the child has no tokenizer; give puzzle.search one with tokenizer=")
    turns = None if isinstance(prompt, str) else list(prompt)
    if turns is not None and not getattr(tokenizer, "chat_template", None):
        raise DataError("the tokenizer has no chat template for turns; give the prompt as text")
    text = prompt if turns is None else apply_template(tokenizer, turns, prompt=True)
    tokens = tokenizer(text, return_tensors="pt", add_special_tokens=turns is None)
    count = tokens["input_ids"].shape[1]
    if not count:
        raise DataError(f"the prompt {prompt!r} has no tokens; give some text to go on from")
    place = {name: tokens[name].to(model.device) for name in ("input_ids", "attention_mask")}
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        options.setdefault("pad_token_id", tokenizer.eos_token_id)
    with torch.no_grad():
        written = model.generate(**place, **options)
    return str(tokenizer.decode(written[0, count:], skip_special_tokens=True))


def inherit_generation_config(model: PreTrainedModel, directory: Path | None) -> None:
    """Gives a child its parent's generation config: sampling, and the tokens that end a text.

    Args:
        model: The child; changed in place.
        directory: Where the parent is stored; nothing happens if it has no generation config.
    """
    if directory is None or not (directory / "generation_config.json").is_file():
        return
    inherited = load_generation_config(directory)
    model.generation_config = inherited
