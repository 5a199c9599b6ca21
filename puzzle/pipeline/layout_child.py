"""The child of a layout that was chosen elsewhere: by a program, by hand, or by another search."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from puzzle.errors import DataError
from puzzle.evaluation.text_quality import Quality
from puzzle.hardware.torch_state import own_torch_state
from puzzle.library.build import Library
from puzzle.library.child_tensors import streamed_child
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.model_writing import StreamedModel
from puzzle.models.parent import DTYPES
from puzzle.pipeline.opening import Opened
from puzzle.pipeline.steps import Steps
from puzzle.serving.file_names import CHILD_FILES, MODEL_FILES
from puzzle.serving.files import save_tokenizer
from puzzle.serving.writers.source import sources_of
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import publishing_directory, require_replaceable
from search_space import Layout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayoutChild:
    """A child of a layout that was chosen elsewhere.

    Args:
        layout: Its architecture.
        library: Its blocks.
        dtype: Number format of its weights.
        quality: Its quality on the validation text; None where there was no text.
        saved: None: it has to be assembled.
    """

    layout: Layout
    library: Library
    dtype: torch.dtype
    quality: Quality | None = None
    saved: Path | None = None

    @property
    def tokenizer(self) -> Any:
        """The parent's tokenizer; None if it has none."""
        return self.library.parent.tokenizer

    @own_torch_state()
    def child(self) -> PuzzleForCausalLM:
        """Returns the child, assembled."""
        parent, streamed = self.library.parent, self.streamed()
        model = assemble(parent.config, self.layout, streamed.tensors, dtype=self.dtype)
        model.generation_config = streamed.model.generation_config
        parent.require_unchanged()
        return model

    def streamed(self) -> StreamedModel:
        """Returns the child without its weights in memory, which `save` and `export` read."""
        return streamed_child(self.library, self.layout, self.dtype)

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes the child in Hugging Face format, with its tokenizer and `layout.json`.

        Args:
            directory: Where to write. Files that puzzle wrote there before are replaced, and others
                are never.

        Returns:
            The directory.

        Raises:
            WorkspaceError: The disk cannot be written, or the parent or files of others are there.
        """
        path = user_path(directory)
        refuse_source(path, sources_of(self))
        require_replaceable(path, CHILD_FILES)
        with publishing_directory(path, claims=MODEL_FILES) as stage:
            self.streamed().save(stage)
            self.library.parent.require_unchanged()
            if self.tokenizer is not None:
                save_tokenizer(self.tokenizer, stage)
            text = json.dumps(self.layout.to_dict(), indent=1)
            (stage / "layout.json").write_text(f"{text}\n", encoding="utf-8")
        return path


def child_of(opened: Opened, steps: Steps, layout: Layout) -> LayoutChild:
    """Returns the child of a layout, its blocks fitted, and measured on the validation text.

    Args:
        opened: The run.
        steps: The search, whose settings of fits are used.
        layout: The layout; it may be outside the search's space.

    Raises:
        DataError: The layout is that of another parent.
    """
    shape = opened.run.parent.shape
    if layout.shape != shape:
        raise DataError(
            f"the layout is of a parent with {layout.shape.layers} layers of hidden size "
            f"{layout.shape.hidden}, and this parent has {shape.layers} of {shape.hidden}, or they "
            "differ in heads, FFN or vocabulary; give the parent that the layout was made for"
        )
    library = opened.run.for_healing.get(steps.healing(layout))
    return LayoutChild(
        layout=layout,
        library=library,
        quality=opened.run.get(steps.quality(layout, library)),
        dtype=DTYPES[opened.formats.stored.name],
    )
