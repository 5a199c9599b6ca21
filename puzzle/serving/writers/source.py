"""What is exported: a child in memory or on disk, opened without reading its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from puzzle.errors import ExportError
from puzzle.models.checkpoint import open_checkpoint
from puzzle.models.child_config import ChildConfig, config_from_layout, layout_from_config
from puzzle.models.families import family_of
from puzzle.models.family import Family
from puzzle.models.given_child import given_child, is_streamable
from puzzle.models.pretrained import load_config, load_generation_config
from puzzle.models.unsuitable import refuse_unsuitable_model
from puzzle.storage.paths import user_path
from search_space import Layout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """A child, or its parent, about to be exported.

    Args:
        config: Its config.
        layout: Its layout.
        tensors: Its weights by name, read on access.
        directory: Where its tokenizer files are, if it is on disk.
        tokenizer: Its tokenizer, if one was given.
        generation_config: Its generation config, if it has one.
    """

    config: Any
    layout: Layout
    tensors: Mapping[str, torch.Tensor]
    directory: Path | None = None
    tokenizer: Any = None
    generation_config: GenerationConfig | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The number format of its weights."""
        return self.tensors[self.family.norm].dtype

    @property
    def family(self) -> Family:
        """The family of its parent."""
        return family_of(self.config)

    def outer_tensors(self) -> dict[str, torch.Tensor]:
        """Returns embedding, final norm and, unless tied, the output head."""
        family = self.family
        names = [family.embedding, family.norm, *([] if self.layout.shape.tied else [family.head])]
        return {name: self.tensors[name] for name in names}


def sources_of(child: Any) -> list[Any]:
    """Returns the paths that a child is read from, and the names that may be paths.

    Args:
        child: As for `open_source`.
    """
    if isinstance(child, str | os.PathLike):
        return [child]
    if isinstance(child, PreTrainedModel):
        return [child.name_or_path]
    # A search result has its parent in the library, which may not be open yet, and an opened parent
    # is one itself.
    library = getattr(child, "library", None)
    parent = getattr(library, "unopened", None) or getattr(library, "parent", child)
    run = getattr(getattr(child, "evidence", None), "run", None) or {}
    return [
        getattr(child, "saved", None),
        getattr(getattr(parent, "tensors", None), "directory", None),
        getattr(getattr(parent, "tokenizer", None), "name_or_path", None),
        run.get("parent", {}).get("source"),
    ]


def open_source(child: Any, *, tokenizer: Any = None) -> Source:
    """Opens a child.

    Args:
        child: A child or its parent: the model itself, a `SearchResult`, or the directory that
            it was saved to.
        tokenizer: Its tokenizer; by default the files in the directory.

    Raises:
        ExportError: It is none of these, or of an unknown family.
    """
    if is_streamable(child):
        return _streamed(child, tokenizer if tokenizer is not None else child.tokenizer)
    child, tokenizer = given_child(child, tokenizer)
    if isinstance(child, torch.nn.Module):
        refuse_unsuitable_model(child, error=ExportError)
    if isinstance(child, PreTrainedModel):
        config = _child_config(child.config)
        tensors: Mapping[str, torch.Tensor] = child.state_dict()
        generation, directory = child.generation_config, None
    elif isinstance(child, str | os.PathLike) and user_path(child).is_dir():
        directory = user_path(child)
        own = load_config(directory, error=ExportError)
        _child_config(own)  # before its tensors are looked at
        own, tensors = open_checkpoint(directory, own)
        config = _child_config(own)
        generation = None
        if (directory / "generation_config.json").is_file():
            generation = load_generation_config(directory, error=ExportError)
    else:
        raise ExportError(
            f"cannot export {child!r}; allowed: a child, a search result, or the directory that "
            "one was saved to"
        )
    return Source(
        config=config,
        layout=layout_from_config(config),
        tensors=tensors,
        directory=directory,
        tokenizer=tokenizer,
        generation_config=generation,
    )


def _streamed(child: Any, tokenizer: Any) -> Source:
    """Returns a child of a library, which is not assembled."""
    streamed = child.streamed()
    config = _child_config(streamed.model.config)
    return Source(
        config=config,
        layout=layout_from_config(config),
        tensors=streamed.tensors,
        tokenizer=tokenizer,
        generation_config=streamed.model.generation_config,
    )


def _child_config(config: Any) -> Any:
    try:
        shape = family_of(config).shape(config)
    except ValueError as error:
        raise ExportError(f"only children and their parents can be exported: {error}") from error
    if isinstance(config, ChildConfig):
        return config
    return config_from_layout(config, Layout.parent(shape))
