"""Exact replace-one scores, each computed from the cached prefix below its layer."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch

from puzzle.errors import DamagedArtifactError, DataError
from puzzle.estimates import Estimate, Sizes
from puzzle.library.boundary import ParentBoundary
from puzzle.library.build import Library
from puzzle.library.layer_outputs import LayerOutputs
from puzzle.library.variants import Variants
from puzzle.scoring.reference import DISTANCES, Suffix
from puzzle.scoring.scores import Score, Scores, mean_and_error
from puzzle.stages import ArtifactStage, Run, Stage
from puzzle.storage.json_files import interpreting
from puzzle.storage.workspace import Artifact, ArtifactRef, Workspace
from puzzle.text.windows import Windows
from search_space import Block, SearchSpace

SCORES = "scores.json"
METHODS = {"kl": "exact", "cosine": "cosine"}
# Blocks whose suffixes run in one batch.
PACK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactScores(Stage[Scores]):
    """The exact score of every block of a space.

    Args:
        space: Which blocks to score.
        layers: The library's layers.
        distance: As in `replace_one`.
    """

    space: SearchSpace
    layers: tuple[ArtifactRef, ...] = ()
    distance: str = "kl"

    def result(self, run: Run) -> Scores:
        """Returns the scores of every layer."""
        wanted = {layer: self.space.blocks(layer) for layer in range(self.space.shape.layers)}
        rows = exact_rows(run, self.layers, wanted, self.distance)
        return Scores(tuple(rows[layer] for layer in wanted))

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns what scoring each block by a pass through the layers above it takes."""
        count = replaced_blocks(self.space)
        return Estimate(
            name="scores",
            work=f"{count} blocks exactly, {sizes.tokens('score'):,} tokens",
            seconds=count * exact_seconds(sizes),
            memory=sizes.used + sizes.weights + sizes.logits(sizes.tokens("score")),
            disk=0.0,
        )


def replaced_blocks(space: SearchSpace) -> int:
    """Returns how many blocks of a space are not the parent's."""
    return sum(len(space.blocks(layer)) - 1 for layer in range(space.shape.layers))


def exact_seconds(sizes: Sizes) -> float:
    """Returns the seconds of one exact score: half of the layers on average, and the head."""
    tokens = sizes.tokens("score")
    return sizes.forward(tokens, sizes.own.blocks) / 2 + sizes.head(tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactLayerScores(ArtifactStage[dict[str, Score]]):
    """The exact scores of some blocks of one layer, by label.

    Args:
        layer: The layer's number.
        variants: Its variants.
        blocks: The blocks.
        distance: As in `replace_one`.
    """

    kind: ClassVar[str] = "replace-one"
    format: ClassVar[int] = 4
    layer: int
    variants: ArtifactRef
    blocks: tuple[Block, ...]
    distance: str

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the scores depend on."""
        return {
            "distance": self.distance,
            "library": self.variants.key,
            "blocks": [block.label for block in self.blocks],
            "score": run.text.hash("score"),
        }

    @torch.no_grad()
    def build(self, run: Run, directory: Path) -> None:
        """Puts each block into the parent and compares what leaves the last layer."""
        suffix = run.remember("suffix", lambda: Suffix(run.parent, run.text.score))
        x_BLD = run.get(ParentBoundary(part="score", layer=self.layer)).to(run.parent.device)
        stored = run.workspace.find(self.variants)
        outputs = LayerOutputs(Variants(run.parent, self.layer, stored))
        own, method = run.parent.shape.parent_blocks[self.layer], METHODS[self.distance]
        scores = {b.label: Score(kl=0.0, method=method) for b in self.blocks if b == own}
        pairs = outputs([block for block in self.blocks if block != own], x_BLD)
        while pack := list(islice(pairs, PACK)):
            above = suffix.above(torch.cat([y for _, y in pack]), self.layer + 1)
            for (block, _), one_BLD in zip(pack, above.split(len(x_BLD)), strict=True):
                mean, error = mean_and_error(suffix.reference.distance(self.distance, one_BLD))
                scores[block.label] = Score(kl=max(0.0, mean), error=error, method=method)
        text = json.dumps({label: score.to_dict() for label, score in scores.items()}, indent=1)
        (directory / SCORES).write_text(text, encoding="utf-8")

    def load(self, run: Run, artifact: Artifact) -> dict[str, Score]:
        """Returns the scores by label."""
        with interpreting(artifact.path / SCORES, "exact scores", DamagedArtifactError):
            rows = artifact.load_json(SCORES).items()
            return {label: Score.from_dict(score) for label, score in rows}


def exact_rows(
    run: Run,
    layers: tuple[ArtifactRef, ...],
    wanted: Mapping[int, Collection[Block]],
    distance: str = "kl",
) -> dict[int, dict[str, Score]]:
    """Returns the exact scores of some blocks of some layers, by layer and label.

    Args:
        run: The run; its executor may compute several layers at a time.
        layers: The library's layers.
        wanted: Blocks to score, by layer.
        distance: As in `replace_one`.

    Raises:
        DataError: There is no such distance.
    """
    if distance not in DISTANCES:
        raise DataError(f"distance={distance!r}; allowed: {', '.join(DISTANCES)}")
    stages = {
        layer: ExactLayerScores(
            layer=layer, variants=layers[layer], blocks=tuple(blocks), distance=distance
        )
        for layer, blocks in wanted.items()
        if blocks
    }
    if run.executor is not None and stages:
        run.get(ParentBoundary(part="score", layer=max(stages)))
    run.build_all(tuple(stages.values()), unit="layer")
    run.forget("suffix")
    return {layer: run.get(stages[layer]) if layer in stages else {} for layer in wanted}


def replace_one(
    library: Library,
    space: SearchSpace,
    windows: Windows,
    *,
    workspace: Workspace,
    distance: str = "kl",
) -> Scores:
    """Returns, per layer and block, how far the parent moves with that one block in it.

    The residual stream below a layer is the same for all its blocks, so each score starts from
    there and takes only the layers above it. The parent's own block scores exactly 0.

    Args:
        library: The variants.
        space: Which blocks to score.
        windows: The text; only its score part is used.
        workspace: Where finished layers are stored.
        distance: "kl", KL(parent || changed) in nats per token (Puzzle, arXiv 2411.19146); or
            "cosine", 1 - cosine similarity of the normed final hidden states, a baseline.

    Raises:
        DataError: There is no such distance.
    """
    run = Run(workspace=workspace, parent=library.parent, windows=windows)
    return run.get(ExactScores(space=space, layers=library.refs, distance=distance))


def replace_some(
    library: Library,
    wanted: Mapping[int, Collection[Block]],
    windows: Windows,
    *,
    workspace: Workspace,
    distance: str = "kl",
) -> dict[int, dict[str, Score]]:
    """Returns the exact scores of some blocks of some layers, by layer and label.

    Args:
        library: The variants.
        wanted: Blocks to score, by layer.
        windows: The text; only its score part is used.
        workspace: Where finished layers are stored.
        distance: As in `replace_one`.

    Raises:
        DataError: There is no such distance.
    """
    run = Run(workspace=workspace, parent=library.parent, windows=windows)
    return exact_rows(run, library.refs, wanted, distance)
