"""Fisher scores of one layer as a job: the pass over the parent leaves what it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from puzzle.errors import DamagedArtifactError, WorkspaceError
from puzzle.library.variants import Variants
from puzzle.scoring.gradient_sweep import TOGETHER, LayerGradients
from puzzle.stages import ArtifactStage, Run
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import Artifact, ArtifactRef
from search_space import Block

# Deleted once the round is there.
BOUNDARY = "gradient-boundary"
BOUNDARY_FORMAT = 1
ROW, FILE = "samples.json", "gradients.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherLayer(ArtifactStage[dict[str, list[float]]]):
    """The observations of one round of probes for the blocks of one layer, by label.

    Args:
        layer: The layer's number.
        variants: Its variants.
        blocks: The blocks.
        gradients: Streams and gradients around the layer, which the round leaves here.
    """

    kind: ClassVar[str] = "fisher-layer"
    format: ClassVar[int] = 1
    layer: int
    variants: ArtifactRef
    blocks: tuple[Block, ...]
    gradients: ArtifactRef

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the observations depend on."""
        return {
            "library": self.variants.key,
            "blocks": [block.label for block in self.blocks],
            "gradients": self.gradients.key,
            "together": TOGETHER,
        }

    def build(self, run: Run, directory: Path) -> None:
        """Multiplies the change that each block makes with the gradients above the layer.

        Raises:
            WorkspaceError: The gradients were deleted, and the observations are not there either.
        """
        try:
            gradients = read_gradients(run.workspace.find(self.gradients))
        except (DamagedArtifactError, FileNotFoundError) as error:
            row = self._made_meanwhile(run, error)
        else:
            variants = Variants(run.parent, self.layer, run.workspace.find(self.variants))
            own = run.parent.shape.parent_blocks[self.layer]
            row = gradients.observations(variants, own, self.blocks)
        (directory / ROW).write_text(json.dumps(row), encoding="utf-8")

    def _made_meanwhile(self, run: Run, error: Exception) -> dict[str, list[float]]:
        """Returns the observations that others made while this process stood still.

        A search and its workers that are stopped for longer than their locks last are taken for
        dead. Another search then ends the round, and deletes the gradients after that.
        """
        artifact = run.artifact(self)
        if not artifact.sound():
            raise WorkspaceError(
                f"what surrounds layer {self.layer} was deleted before its blocks were scored "
                f"({error}); run the search again: what is finished is kept"
            ) from error
        return self.load(run, artifact)

    def load(self, run: Run, artifact: Artifact) -> dict[str, list[float]]:
        """Returns the observations."""
        row: dict[str, list[float]] = artifact.load_json(ROW)
        return row


def gradient_boundary(run: Run, round_key: str, layer: int) -> Artifact:
    """Returns the artifact of what surrounds a layer, which may or may not exist.

    It belongs to one round, so that no other search deletes it.

    Args:
        run: The run.
        round_key: The key of the round's artifact.
        layer: The layer's number.
    """
    spec = {"format": BOUNDARY_FORMAT, "round": round_key, "layer": layer}
    return run.workspace.artifact(BOUNDARY, spec)


def write_gradients(artifact: Artifact, gradients: LayerGradients) -> None:
    """Stores what surrounds a layer, unless it is stored already."""
    tensors = {"x": gradients.x, "y": gradients.y, "g": gradients.g}
    artifact.write(lambda directory: save_tensors(directory / FILE, tensors))


def read_gradients(artifact: Artifact) -> LayerGradients:
    """Returns what `write_gradients` wrote."""
    return LayerGradients(**artifact.load_tensors(FILE))
