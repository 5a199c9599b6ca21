"""What a user gives as a child: a model, its directory, or the result of a search that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeGuard


class HasChild(Protocol):
    """The result of a search or of a distillation, which stands for its child."""

    @property
    def saved(self) -> Path | None:
        """The directory that the child is in; None if it has to be assembled."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The child's tokenizer, if it has one."""
        ...

    def child(self) -> Any:
        """Returns the child."""
        ...


def has_child(source: Any) -> TypeGuard[HasChild]:
    """Whether a value is the result of a search or of a distillation."""
    # Of its class, since to look at a property would read a tokenizer.
    return all(hasattr(type(source), name) for name in ("saved", "tokenizer", "child"))


def is_streamable(source: Any) -> bool:
    """Whether a value is the result of a search that has its child in a library, not in a file."""
    return has_child(source) and hasattr(type(source), "streamed") and source.saved is None


def given_child(source: Any, tokenizer: Any = None) -> tuple[Any, Any]:
    """Returns the model or directory that a user means, and the tokenizer that belongs to it.

    Args:
        source: What a public function was given as a child.
        tokenizer: The tokenizer that it was given.
    """
    if not has_child(source):
        return source, tokenizer
    if source.saved is not None:
        return source.saved, tokenizer
    return source.child(), tokenizer if tokenizer is not None else source.tokenizer
