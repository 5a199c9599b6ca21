"""How long a text a model can read, and the refusal of longer ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puzzle.errors import DataError, PuzzleError


def most_positions(config: Any) -> int | None:
    """Returns the tokens that a model can read at once, None if its config does not say.

    Args:
        config: A transformers config. Where rotary positions are scaled, what they are scaled to
            counts, if `max_position_embeddings` says less.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or isinstance(positions, bool):
        return None
    scaled = getattr(config, "rope_parameters", None)
    scaled = scaled if isinstance(scaled, Mapping) else {}
    # Configs with several kinds of layers have one entry each.
    for entry in (scaled, *(value for value in scaled.values() if isinstance(value, Mapping))):
        factor, original = (entry.get(n) for n in ("factor", "original_max_position_embeddings"))
        if isinstance(factor, int | float) and isinstance(original, int | float):
            positions = max(positions, int(factor * original))
    return positions


def require_positions(
    tokens: int, config: Any, what: str, *, remedy: str, error: type[PuzzleError] = DataError
) -> None:
    """Raises an error if a model cannot read so many tokens at once.

    Args:
        tokens: The tokens.
        config: The model's config.
        what: What has so many, for the message.
        remedy: What to do.
        error: The error to raise.

    Raises:
        PuzzleError: The class given as `error`.
    """
    positions = most_positions(config)
    if positions is not None and tokens > positions:
        raise error(
            f"{what} of {tokens} tokens: the model reads at most {positions} at once "
            f"(max_position_embeddings); {remedy}"
        )
