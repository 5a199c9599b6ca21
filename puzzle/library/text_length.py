"""Whether the text is long enough to tell what an attention within a window loses."""

from __future__ import annotations

from puzzle.errors import DataError
from search_space import Layout, SearchSpace

# Windows of text should be so many times as long as an attention's.
TIMES = 4


def longest_window(space: SearchSpace | Layout) -> int:
    """Returns the longest window of an alternative attention; 0 if none has a window."""
    if isinstance(space, Layout):
        attentions = [block.attention for block in space.blocks]
    else:
        attentions = [attention for row in space.attentions for attention in row[1:]]
    return max((attention.window or 0 for attention in attentions), default=0)


def require_longer_text(space: SearchSpace | Layout, length: int) -> None:
    """Raises DataError if an attention's window is as long as the text that it is fitted on.

    Args:
        space: What is searched.
        length: Tokens in each window of the text.
    """
    window = longest_window(space)
    if isinstance(space, SearchSpace) and window >= length:
        raise DataError(
            f"an attention within {window} tokens is the parent's own on text in windows of "
            f"{length}, and would seem to lose nothing; allowed: windows below {length}, "
            f"or longer text: DataConfig(window={TIMES * window}) or more"
        )


def advice(space: SearchSpace | Layout, length: int) -> str | None:
    """Returns what to say where the text is long enough to run, but not to be relied on."""
    window = longest_window(space)
    if not window or TIMES * window <= length:
        return None
    return (
        f"attention within {window} tokens is judged on text in windows of {length}, most of whose "
        f"tokens see all that the parent's see; use DataConfig(window={TIMES * window}) or more"
    )
