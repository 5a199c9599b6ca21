"""ChildQuality: a child's quality on a part of the text, as a stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from puzzle.errors import DamagedArtifactError
from puzzle.estimates import Estimate, Sizes
from puzzle.evaluation.text_quality import Quality, compared
from puzzle.library.build import Library
from puzzle.library.layout_pass import LayoutPass
from puzzle.stages import ArtifactStage, Run
from puzzle.storage.json_files import interpreting
from puzzle.storage.workspace import Artifact, ArtifactRef
from search_space import Layout

FILE = "quality.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildQuality(ArtifactStage[Quality]):
    """KL to the parent, perplexity and agreement of a child on a part of the text.

    Args:
        layout: The child's layout.
        layers: The library that has its blocks.
        part: The part; by default the one that no choice is based on.
    """

    kind: ClassVar[str] = "quality"
    format: ClassVar[int] = 1
    layout: Layout
    layers: tuple[ArtifactRef, ...] = ()
    part: str = "validation"

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the figures depend on."""
        return {
            "parent": run.parent.identity,
            "layout": [block.label for block in self.layout.blocks],
            "library": [layer.key for layer in self.layers],
            self.part: run.text.hash(self.part),
        }

    @torch.no_grad()
    def build(self, run: Run, directory: Path) -> None:
        """Takes parent and child through the text side by side, layer by layer."""
        parent, tokens_NL = run.parent, getattr(run.text, self.part)
        library = Library(parent=parent, layers=tuple(map(run.workspace.find, self.layers)))
        sweep = LayoutPass(library, tokens_NL, together=1, title=self.part)
        streams = sweep.residuals([None, self.layout], len(tokens_NL))
        head = parent.head()
        windows = zip(tokens_NL, *streams, strict=True)
        figures = compared(
            (tokens, *(head(x[None].to(parent.device))[0] for x in pair))
            for tokens, *pair in windows
        )
        (directory / FILE).write_text(json.dumps(figures.to_dict()), encoding="utf-8")

    def load(self, run: Run, artifact: Artifact) -> Quality:
        """Returns the figures."""
        with interpreting(artifact.path / FILE, "the quality of a child", DamagedArtifactError):
            return Quality.from_dict(artifact.load_json(FILE))

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns the cost of reading the text twice."""
        tokens = sizes.tokens(self.part)
        return Estimate(
            name="quality",
            work=f"{tokens:,} tokens read by parent and child",
            seconds=2 * sizes.whole(tokens),
            memory=sizes.pass_memory + 2 * sizes.logits(sizes.data.window),
            disk=0.0,
            reads=2 * sizes.weights,
            scratch=2 * sizes.stream(self.part),
        )
