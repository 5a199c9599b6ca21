"""Residual streams at layer boundaries, as artifacts: all that a layer's job needs to run alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from puzzle.errors import DamagedArtifactError, ParentError, WorkspaceError
from puzzle.models.boundaries import in_batches
from puzzle.stages import ArtifactStage, Run
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import Artifact

FILE, NAME = "stream.safetensors", "x"
# Windows run together.
BATCH = 8
# How many times a stream is built that other processes delete.
ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentBoundary(ArtifactStage[torch.Tensor]):
    """The residual stream that enters a layer of the parent, (windows, length, hidden).

    Args:
        part: The part of the text: "fit" or "score".
        layer: The layer; the number of layers for what leaves the last one.
    """

    kind: ClassVar[str] = "boundary"
    format: ClassVar[int] = 1
    part: str
    layer: int

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the stream depends on."""
        text = run.text.hash(self.part)
        return {"parent": run.parent.identity, "text": text, "layer": self.layer}

    def result(self, run: Run) -> torch.Tensor:
        """Returns the stream; those below are built first, from the nearest that exists."""
        return kept_stream(run, self._at, self.layer)

    def _at(self, layer: int) -> ParentBoundary:
        return ParentBoundary(part=self.part, layer=layer)

    @torch.no_grad()
    def build(self, run: Run, directory: Path) -> None:
        """Runs the layer below on the stream that enters it.

        Raises:
            ParentError: The parent's number format cannot hold the stream.
        """
        parent = run.parent
        if self.layer == 0:
            write_stream(directory, parent.embed(getattr(run.text, self.part)).cpu())
            return
        below = run.get(self._at(self.layer - 1))
        above, layer = torch.empty_like(below), parent.layer(self.layer - 1)

        def run_rows(rows: slice) -> torch.Tensor:
            return parent.run(layer, below[rows].to(parent.device)).cpu()

        for rows, y in in_batches(range(len(below)), BATCH, run_rows):
            refuse_overflow(y, self.layer - 1)
            above[rows] = y
        write_stream(directory, above)

    def load(self, run: Run, artifact: Artifact) -> torch.Tensor:
        """Returns the stream from its file."""
        return read_stream(artifact)

    def publish(self, run: Run, stream: torch.Tensor) -> None:
        """Stores a stream that was computed along the way, unless it is stored already."""
        artifact = run.artifact(self)
        if not artifact.exists():
            artifact.write(lambda directory: write_stream(directory, stream))


def build_below(run: Run, at: Callable[[int], ArtifactStage[torch.Tensor]], layer: int) -> None:
    """Builds the streams below a layer, from the nearest one that exists.

    Args:
        run: The run.
        at: Returns the stage of a layer's stream.
        layer: The layer.
    """
    first = layer
    while first > 0 and not run.artifact(at(first)).exists():
        first -= 1
    for below in range(first, layer):
        run.build(at(below))


def kept_stream(
    run: Run, at: Callable[[int], ArtifactStage[torch.Tensor]], layer: int
) -> torch.Tensor:
    """Returns a layer's stream, built again if another process deletes it before it is read.

    A process whose library is whole deletes the streams, and others may still be building theirs.

    Args:
        run: The run.
        at: Returns the stage of a layer's stream.
        layer: The layer.

    Raises:
        WorkspaceError: It is deleted again and again.
    """
    for _ in range(ATTEMPTS):
        build_below(run, at, layer)
        artifact = run.build(at(layer))
        try:
            return read_stream(artifact)
        except (DamagedArtifactError, FileNotFoundError):
            if artifact.exists():
                raise
    raise WorkspaceError(
        f"{artifact.path} was deleted {ATTEMPTS} times by another process before it was read; run "
        "one search of this directory at a time"
    )


def refuse_overflow(y_BLD: torch.Tensor, layer: int) -> None:
    """Raises ParentError if a layer of the parent gives values that are not finite."""
    if not bool(torch.isfinite(y_BLD).all()):
        raise ParentError(
            f"layer {layer} of the parent gives values that {y_BLD.dtype} cannot hold on this "
            "text; work in bfloat16 or float32 instead (precision=, --working-dtype)"
        )


def write_stream(directory: Path, stream: torch.Tensor) -> None:
    """Writes a stream as the only file of an artifact."""
    save_tensors(directory / FILE, {NAME: stream})


def read_stream(artifact: Artifact) -> torch.Tensor:
    """Returns the stream that `write_stream` wrote."""
    return artifact.load_tensors(FILE)[NAME]
