"""The block library as stages: one artifact per layer, in any order where the parent's stream
enters, and from the first layer to the last where a child's does.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from puzzle.estimates import Estimate, Sizes
from puzzle.library.boundary import ParentBoundary
from puzzle.library.error_map import error_map
from puzzle.library.fitting import attention_key, ffn_key
from puzzle.library.layers import ERRORS, ChildBoundary, LibrarySpec
from puzzle.library.local_error import LocalError
from puzzle.library.settings import LibraryConfig
from puzzle.library.streams import Streams
from puzzle.library.text_length import advice, require_longer_text
from puzzle.library.variants import TENSORS, Variants
from puzzle.library.work import healing_work, library_work
from puzzle.models.parent import Parent
from puzzle.progress.bars import counted
from puzzle.stages import ArtifactStage, Run, Stage
from puzzle.storage.workspace import Artifact, ArtifactRef, Workspace
from puzzle.text.windows import Windows
from search_space import Layout, SearchSpace

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Library:
    """The variants of every layer, on disk.

    Args:
        parent: The parent they replace parts of.
        layers: One artifact per layer.
    """

    parent: Parent
    layers: tuple[Artifact, ...]

    @property
    def root(self) -> Path:
        """The run directory that the layers are in."""
        return self.layers[0].root

    @property
    def refs(self) -> tuple[ArtifactRef, ...]:
        """The layers' artifacts as values."""
        return tuple(layer.ref for layer in self.layers)

    def errors(self, layer: int) -> dict[str, LocalError]:
        """Returns the held-out local errors of a layer's variants, by name."""
        return LocalError.read(self.layers[layer].load_json(ERRORS))

    def to_dataframe(self) -> pandas.DataFrame:
        """Returns the local errors as a pandas DataFrame, one row per layer and variant."""
        import pandas

        return pandas.DataFrame(
            {"layer": layer, "variant": name, **error.to_dict(), "value": error.value}
            for layer in range(len(self.layers))
            for name, error in self.errors(layer).items()
        )

    def __repr__(self) -> str:
        return f"Library({self.parent!r}, {len(self.layers)} layers)"

    def _repr_html_(self) -> str:
        """The local errors as a heat map."""
        errors = error_map(map(self.errors, range(len(self.layers))))
        return f"<p>{html.escape(repr(self))}</p>{errors.svg()}"

    def variants(self, layer: int) -> Variants:
        """Returns the weights of a layer's blocks."""
        return Variants(self.parent, layer, self.layers[layer])

    def refits_own(self, layer: int) -> bool:
        """Returns whether the parent's own block is a variant, as in the library of a child."""
        own = self.parent.shape.parent_blocks[layer]
        halves = (attention_key(own.attention), ffn_key(own.attention, own.ffn))
        names = self.layers[layer].tensor_names(TENSORS)
        return any(name.startswith(f"{half}/") for name in names for half in halves)

    def child_tensors(
        self, layout: Layout, dtype: torch.dtype | None = None
    ) -> dict[str, torch.Tensor]:
        """Returns the whole state dict of a layout's child.

        Args:
            layout: The layout.
            dtype: Number format of the parent's own tensors; by default that of the library.

        Raises:
            PuzzleError: The library does not have one of the blocks.
        """
        parent = self.parent.cast(dtype or self.parent.dtype)
        tensors = parent.outer_tensors()
        for layer, block in enumerate(layout.blocks):
            prefix = parent.family.layer_prefix.format(layer)
            variants = Variants(parent, layer, self.layers[layer])
            for name, tensor in variants.block_tensors(block).items():
                tensors[prefix + name] = tensor
        return tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLibrary(Stage[Library]):
    """The library of a space.

    Args:
        spec: What it holds and how it is made.
    """

    spec: LibrarySpec

    def result(self, run: Run) -> Library:
        """Returns the library, with every layer built."""
        require_longer_text(self.spec.space, run.text.fit.shape[1])
        depth = run.parent.shape.layers
        stages = [self.spec.layer(layer) for layer in range(depth)]
        if not all(run.artifact(stage).sound() for stage in stages):
            _warn_of_little_text(run, self.spec)
            self._build(run, stages)
        # Also those of a run that was killed between its last layer and their deletion.
        for layer in range(depth + 1):
            self._discard_streams(run, layer)
        return Library(parent=run.parent, layers=tuple(map(run.artifact, stages)))

    def _build(self, run: Run, stages: Sequence[ArtifactStage[Any]]) -> None:
        depth = len(stages)
        if self.spec.around is not None:
            # Each layer's child stream comes through the layers below it.
            for layer in counted(range(depth), "healing", "layer"):
                run.build(stages[layer])
                self._discard_streams(run, layer)
        else:
            if run.executor is not None:
                run.get(ParentBoundary(part="fit", layer=depth - 1))
            numbers = {stage: layer for layer, stage in enumerate(stages)}
            run.build_all(
                stages, unit="layer", done=lambda stage: self._discard_streams(run, numbers[stage])
            )

    def _discard_streams(self, run: Run, layer: int) -> None:
        """Deletes the streams that nothing above a finished layer needs."""
        run.artifact(ParentBoundary(part="fit", layer=layer)).discard()
        if self.spec.around is not None and layer > 0:
            run.artifact(ChildBoundary(library=self.spec, layer=layer - 1)).discard()

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns what closed-form fits take; gradient steps are not counted."""
        if self.spec.around is not None:
            return healing_work(sizes, self.spec.config)
        rows = [self.spec.row(layer) for layer in range(sizes.shape.layers)]
        return library_work(rows, self.spec.config, sizes)


def build_library(
    parent: Parent,
    space: SearchSpace | Layout,
    windows: Windows,
    *,
    workspace: Workspace,
    config: LibraryConfig | None = None,
    around: Layout | None = None,
) -> Library:
    """Returns the library of a space; finished layers are not built again.

    Memory holds one layer and one batch, and the activations of one layer are in files, so that
    neither grows with depth.

    Args:
        parent: The parent.
        space: The alternatives of each layer; of a layout, its blocks alone.
        windows: The text; only its fit part is used.
        workspace: Where the layers are stored.
        config: How variants are fitted and distilled.
        around: As for `LibrarySpec`.

    Raises:
        ParentError: A layer's activations are not finite in the parent's number format.
    """
    spec = LibrarySpec(space=space, config=config or LibraryConfig(), around=around)
    return Run(workspace=workspace, parent=parent, windows=windows).get(BlockLibrary(spec=spec))


def heal(
    parent: Parent,
    layout: Layout,
    windows: Windows,
    *,
    workspace: Workspace,
    config: LibraryConfig | None = None,
) -> Library:
    """Returns a library of one layout, each block fitted to the stream that its child feeds it.

    One sweep from the first layer to the last: every last map, also that of a block like the
    parent's, is refitted to bring the residual stream back to the parent's.

    Args:
        parent: The parent.
        layout: The layout.
        windows: The text; only its fit part is used.
        workspace: Where the layers are stored.
        config: How the blocks are fitted and distilled.
    """
    return build_library(parent, layout, windows, workspace=workspace, config=config, around=layout)


def _warn_of_little_text(run: Run, spec: LibrarySpec) -> None:
    count, length = run.text.fit.shape
    tokens, shape = Streams.split(count, spec.config.held_out) * length, run.parent.shape
    if spec.around is None and (said := advice(spec.space, length)):
        logger.warning("%s", said)
    widest = max(shape.ffn_width, shape.heads * shape.head_dim)
    if tokens < widest:
        logger.warning(
            "%d tokens are fitted and the widest map has %d inputs: fits stay near the parent's "
            "weights; more text (fit_tokens) makes better variants",
            tokens,
            widest,
        )
