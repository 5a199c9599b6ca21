"""One layer of a library as stages: its fitted variants, its distilled ones, a child's stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from puzzle.library.bld import LayerDistill
from puzzle.library.boundary import (
    BATCH,
    ParentBoundary,
    kept_stream,
    read_stream,
    write_stream,
)
from puzzle.library.fitting import Fitting
from puzzle.library.layer_fit import LayerFit
from puzzle.library.layer_outputs import LayerOutputs
from puzzle.library.layer_streams import layer_streams
from puzzle.library.local_error import LocalError
from puzzle.library.settings import LibraryConfig
from puzzle.library.streams import Streams
from puzzle.library.variants import TENSORS, Variants
from puzzle.models.boundaries import MappedTensors, in_batches
from puzzle.stages import ArtifactStage, Run
from puzzle.storage.tensor_files import TensorFile
from puzzle.storage.workspace import Artifact
from search_space import Block, Layout, SearchSpace

ERRORS = "errors.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LibrarySpec:
    """What a library holds and how it is made.

    Args:
        space: The alternatives of each layer; of a layout, its blocks alone.
        config: How variants are fitted and distilled.
        around: A layout of the space whose child's activations enter each layer's variants, which
            then make up for what the layers below lost. By default the parent's.
    """

    space: SearchSpace | Layout
    config: LibraryConfig = field(default_factory=LibraryConfig)
    around: Layout | None = None

    @property
    def final(self) -> bool:
        """Whether these are the weights of a child: one block a layer, and no steps to follow."""
        alone = isinstance(self.space, Layout) and self.around is not None
        return alone and self.config.bld is None

    def row(self, layer: int) -> tuple[Block, ...]:
        """Returns the blocks of a layer as they are fitted, before they are quantised."""
        if isinstance(self.space, Layout):
            return (self.space.blocks[layer].unquantised,)
        return tuple(dict.fromkeys(block.unquantised for block in self.space.blocks(layer)))

    def layer(self, layer: int) -> FittedLayer | DistilledLayer:
        """Returns the stage of a layer's final variants."""
        fitted = FittedLayer(library=self, layer=layer)
        return fitted if self.config.bld is None else DistilledLayer(fitted=fitted)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLayer(ArtifactStage[Artifact]):
    """One layer's variants, fitted in closed form.

    Args:
        library: The library it belongs to.
        layer: The layer's number.
    """

    kind: ClassVar[str] = "library-layer"
    format: ClassVar[int] = 6
    library: LibrarySpec
    layer: int

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the variants depend on."""
        key: dict[str, Any] = {
            "parent": run.parent.identity,
            "layer": self.layer,
            "blocks": [block.label for block in self.library.row(self.layer)],
            "fit": run.text.hash("fit"),
            "config": self.library.config.fit_spec(),
        }
        if self.library.around is not None:
            key["child"] = ChildBoundary(library=self.library, layer=self.layer).key(run)
        if self._final is not None and self._final != self._final.unquantised:
            key["formats"] = [half.weights for half in (self._final.attention, self._final.ffn)]
        return key

    @property
    def _final(self) -> Block | None:
        """The block that a child gets, in its formats, if this is a fit of no other."""
        around = self.library.around
        return around.blocks[self.layer] if around is not None and self.library.final else None

    def build(self, run: Run, directory: Path) -> None:
        """Fits every variant of the layer."""
        with run.workspace.scratch() as scratch:
            layer, streams = self.streams(run, scratch)
            config, final = self.library.config, self._final
            fits = Fitting(run.parent, self.layer, layer, streams, config, final=final)
            # A variant leaves the device when it is made.
            fits.tensors = MappedTensors(run.workspace.root)
            with torch.no_grad():
                LayerFit(fits).build(self.library.row(self.layer), final=final)
            write_variants(directory, fits.tensors, fits.errors)

    def streams(self, run: Run, scratch: Path) -> tuple[torch.nn.Module, Streams]:
        """Returns the parent's layer, loaded, and what enters its variants."""
        layer = run.parent.layer(self.layer)
        child_x = None
        if self.library.around is not None:
            child_x = run.get(ChildBoundary(library=self.library, layer=self.layer))
        streams = layer_streams(
            run,
            self.layer,
            layer,
            held_out=self.library.config.held_out,
            directory=scratch,
            child_x=child_x,
        )
        return layer, streams

    def load(self, run: Run, artifact: Artifact) -> Artifact:
        """Returns the artifact, which `Variants` reads."""
        return artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilledLayer(ArtifactStage[Artifact]):
    """One layer's variants after gradient steps of their own.

    Args:
        fitted: The variants they start from.
    """

    kind: ClassVar[str] = "library-distilled"
    format: ClassVar[int] = 2
    fitted: FittedLayer

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the variants depend on."""
        config = self.fitted.library.config.bld
        assert config is not None
        return {"fit": run.artifact(self.fitted).key, "bld": asdict(config)}

    def build(self, run: Run, directory: Path) -> None:
        """Trains every variant of the layer."""
        config = self.fitted.library.config.bld
        assert config is not None
        start = run.get(self.fitted)
        with run.workspace.scratch() as scratch:
            _, streams = self.fitted.streams(run, scratch)
            variants = Variants(run.parent, self.fitted.layer, start)
            errors = LocalError.read(start.load_json(ERRORS))
            with torch.no_grad():
                # Steps run whole variants, which take nothing of the parent's FFN.
                training = LayerDistill(variants, replace(streams, features=None), config)
                blocks = self.fitted.library.row(self.fitted.layer)
                write_variants(directory, *training.train(blocks, errors))

    def load(self, run: Run, artifact: Artifact) -> Artifact:
        """Returns the artifact, which `Variants` reads."""
        return artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildBoundary(ArtifactStage[torch.Tensor]):
    """The residual stream that enters a layer of a child whose layers below are built.

    Args:
        library: The library of the child, with its layout in `around`.
        layer: The layer.
    """

    kind: ClassVar[str] = "child-boundary"
    format: ClassVar[int] = 1
    library: LibrarySpec
    layer: int

    @property
    def block(self) -> Block:
        """The child's block below the boundary."""
        assert self.library.around is not None
        return self.library.around.blocks[self.layer - 1]

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the stream depends on."""
        if self.layer == 0:
            return {"parent": run.parent.identity, "text": run.text.hash("fit")}
        below = run.artifact(self.library.layer(self.layer - 1)).key
        return {"block": self.block.label, "below": below}

    def result(self, run: Run) -> torch.Tensor:
        """Returns the stream; those below are built first, from the nearest that exists."""
        return kept_stream(run, self._at, self.layer)

    def _at(self, layer: int) -> ChildBoundary:
        return ChildBoundary(library=self.library, layer=layer)

    @torch.no_grad()
    def build(self, run: Run, directory: Path) -> None:
        """Runs the child's block below on the stream that enters it."""
        if self.layer == 0:
            write_stream(directory, run.get(ParentBoundary(part="fit", layer=0)))
            return
        below = run.get(self._at(self.layer - 1))
        final = run.build(self.library.layer(self.layer - 1))
        outputs = LayerOutputs(Variants(run.parent, self.layer - 1, final))
        above = torch.empty_like(below)

        def run_rows(rows: slice) -> torch.Tensor:
            ((_, y_BLD),) = outputs([self.block], below[rows].to(run.parent.device))
            return y_BLD.cpu()

        for rows, y_BLD in in_batches(range(len(below)), BATCH, run_rows):
            above[rows] = y_BLD
        write_stream(directory, above)

    def load(self, run: Run, artifact: Artifact) -> torch.Tensor:
        """Returns the stream from its file."""
        return read_stream(artifact)


def write_variants(
    directory: Path, tensors: dict[str, torch.Tensor], errors: dict[str, LocalError]
) -> None:
    """Writes the variants of a layer and their local errors as the files of an artifact."""
    sizes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with TensorFile(directory / TENSORS, sizes) as file:
        for name, tensor in tensors.items():
            file.write(name, tensor)
    text = json.dumps({name: error.to_dict() for name, error in errors.items()}, indent=1)
    (directory / ERRORS).write_text(text, encoding="utf-8")
