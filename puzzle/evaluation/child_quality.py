"""ChildQuality: a child's quality on the validation text, as a stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from puzzle.errors import DamagedArtifactError
from puzzle.estimates import Estimate, Sizes
from puzzle.evaluation.text_quality import Quality, quality
from puzzle.library.build import Library
from puzzle.models.assembling import assemble
from puzzle.stages import ArtifactStage, Run
from puzzle.storage.json_files import interpreting
from puzzle.storage.workspace import Artifact, ArtifactRef
from search_space import Layout

FILE = "quality.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildQuality(ArtifactStage[Quality]):
    """KL to the parent, perplexity and agreement of a child on text that no choice was based on.

    Args:
        layout: The child's layout.
        layers: The library that has its blocks.
    """

    kind: ClassVar[str] = "quality"
    format: ClassVar[int] = 1
    layout: Layout
    layers: tuple[ArtifactRef, ...] = ()

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the figures depend on."""
        return {
            "parent": run.parent.identity,
            "layout": [block.label for block in self.layout.blocks],
            "library": [layer.key for layer in self.layers],
            "validation": run.text.hash("validation"),
        }

    def build(self, run: Run, directory: Path) -> None:
        """Runs parent and child side by side on the validation text."""
        parent = run.parent
        library = Library(parent=parent, layers=tuple(map(run.workspace.find, self.layers)))
        states = (
            (Layout.parent(parent.shape), parent.state_dict()),
            (self.layout, library.child_tensors(self.layout)),
        )
        one, other = (
            assemble(parent.config, layout, state, dtype=parent.dtype).to(parent.device)
            for layout, state in states
        )
        figures = quality(one, other, run.text.validation).to_dict()
        (directory / FILE).write_text(json.dumps(figures), encoding="utf-8")

    def load(self, run: Run, artifact: Artifact) -> Quality:
        """Returns the figures."""
        with interpreting(artifact.path / FILE, "the quality of a child", DamagedArtifactError):
            return Quality.from_dict(artifact.load_json(FILE))

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns the cost of reading the validation text twice."""
        tokens = sizes.tokens("validation")
        return Estimate(
            name="quality",
            work=f"{tokens:,} tokens read by parent and child",
            seconds=2 * sizes.whole(tokens),
            memory=sizes.used + 2 * sizes.weights + sizes.logits(sizes.data.window),
            disk=0.0,
        )
