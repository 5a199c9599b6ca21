"""How a child generates: as its parent does."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from puzzle.models.pretrained import load_generation_config


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
