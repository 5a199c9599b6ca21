"""Exact replace-one scores, each computed from the parent's stream below its layer."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from puzzle.errors import DamagedArtifactError, DataError
from puzzle.estimates import Estimate, Sizes
from puzzle.library.boundary import ParentBoundary
from puzzle.library.build import Library
from puzzle.library.variants import Variants
from puzzle.models.boundaries import windows_together
from puzzle.progress.bars import counted
from puzzle.scoring.reference import DISTANCES, Reference
from puzzle.scoring.replaced_outputs import Replaced, ReplacedOutputs
from puzzle.scoring.scores import Score, Scores, mean_and_error
from puzzle.stages import ArtifactStage, Run, Stage
from puzzle.storage.json_files import interpreting
from puzzle.storage.workspace import Artifact, ArtifactRef, Workspace
from puzzle.text.windows import Windows
from search_space import Block, SearchSpace

Key = tuple[int, str]
SCORES = "scores.json"
METHODS = {"kl": "exact", "cosine": "cosine"}
# All layers are scored in this many passes at most, each of which reads the layers above its own;
# what a kill costs is one of them. Where few blocks of a layer are wanted, a pass goes on to more
# layers until it has this many blocks.
PASSES, PASS_BLOCKS = 8, 64
REFERENCE = "parent's outputs"


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
        """Returns what scoring each block by a pass through the layers above it takes.

        In one process, neighbouring layers share a pass; each job of an executor makes its own.
        """
        count, depth = replaced_blocks(self.space), self.space.shape.layers
        together = 1 if sizes.workers else -(-depth // PASSES)
        passes = -(-depth // together) / 2
        widest = max(len(self.space.blocks(layer)) for layer in range(depth))
        blocks = max(1, sizes.workers) * together * widest
        return Estimate(
            name="scores",
            work=f"{count} blocks exactly, {sizes.tokens('score'):,} tokens",
            seconds=count * exact_seconds(sizes),
            memory=sizes.pass_memory + sizes.logits(sizes.tokens("score")),
            disk=0.0,
            jobs=depth,
            reads=(passes + 0.5) * sizes.weights + sizes.library,
            hashed=sizes.library,
            scratch=(depth + blocks) * sizes.stream("score"),
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

    def build(self, run: Run, directory: Path) -> None:
        """Puts each block into the parent and compares what leaves the last layer."""
        (scores,) = _scored(run, [self])
        self.write(directory, scores)

    def write(self, directory: Path, scores: Mapping[str, Score]) -> None:
        """Writes the scores as the file of the artifact."""
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
        layer: _of_blocks(layers, layer, tuple(blocks), distance)
        for layer, blocks in wanted.items()
        if blocks
    }
    if run.executor is not None and stages:
        run.get(ParentBoundary(part="score", layer=run.parent.shape.layers))
        run.build_all(tuple(stages.values()), unit="layer")
    else:
        missing = [stage for stage in stages.values() if not run.artifact(stage).sound()]
        for stage, scores in _in_passes(run, missing):
            run.store(stage, partial(stage.write, scores=scores))
    run.forget(REFERENCE)
    return {layer: run.get(stages[layer]) if layer in stages else {} for layer in wanted}


def exact_of_some(
    run: Run, layers: tuple[ArtifactRef, ...], keys: Collection[Key]
) -> dict[Key, Score]:
    """Returns the exact scores of some (layer, block label).

    Each is an artifact of its own: a block that was scored for one program is not scored again
    for another. The parent's own blocks score 0.

    Args:
        run: The run; its executor may compute several layers at a time.
        layers: The library's layers.
        keys: The layer and the block's label of each score.
    """
    own, stages = run.parent.shape.parent_blocks, {}
    for layer, label in keys:
        if (block := Block.from_label(label)) != own[layer]:
            stages[layer, label] = _of_blocks(layers, layer, (block,))
    missing: dict[int, list[Block]] = {}
    for (layer, _), stage in sorted(stages.items()):
        if not run.artifact(stage).sound():
            missing.setdefault(layer, []).extend(stage.blocks)
    for layer, scores in _new_rows(run, layers, missing) if missing else ():
        for label, score in scores.items():
            single = stages[layer, label]
            run.store(single, partial(single.write, scores={label: score}))
    run.forget(REFERENCE)
    exact = {key: run.get(stage)[key[1]] for key, stage in stages.items()}
    return {key: exact.get(key, Score(kl=0.0)) for key in keys}


def _of_blocks(
    layers: tuple[ArtifactRef, ...], layer: int, blocks: tuple[Block, ...], distance: str = "kl"
) -> ExactLayerScores:
    return ExactLayerScores(layer=layer, variants=layers[layer], blocks=blocks, distance=distance)


def _new_rows(
    run: Run, layers: tuple[ArtifactRef, ...], wanted: Mapping[int, Sequence[Block]]
) -> Iterator[tuple[int, dict[str, Score]]]:
    """Yields layer and scores by label of some blocks of some layers, as passes return them."""
    if run.executor is not None:
        yield from exact_rows(run, layers, wanted).items()
        return
    stages = [_of_blocks(layers, layer, tuple(blocks)) for layer, blocks in wanted.items()]
    for stage, scores in _in_passes(run, stages):
        yield stage.layer, scores


def _in_passes(
    run: Run, stages: Sequence[ExactLayerScores]
) -> Iterator[tuple[ExactLayerScores, dict[str, Score]]]:
    """Yields stages and their scores, those of some neighbouring layers from one pass."""
    groups = pass_groups([len(each.blocks) for each in stages], run.parent.shape.layers)
    for group in counted(groups, ExactLayerScores.kind, "pass"):
        own = stages[group.start : group.stop]
        yield from zip(own, _scored(run, own), strict=True)


def pass_groups(blocks: Sequence[int], depth: int) -> list[range]:
    """Returns which layers are scored in one pass: some neighbours, more where blocks are few.

    Args:
        blocks: How many blocks are scored of each layer that is.
        depth: How many layers the parent has.

    Example:
        >>> pass_groups([44] * 30, depth=30)[:2], pass_groups([2] * 30, depth=30)
        ([range(0, 4), range(4, 8)], [range(0, 30)])
    """
    least, groups, first = -(-depth // PASSES), [], 0
    for at in range(1, len(blocks) + 1):
        whole = at - first >= least and sum(blocks[first:at]) >= PASS_BLOCKS
        if whole or at == len(blocks):
            groups.append(range(first, at))
            first = at
    return groups


def _scored(run: Run, stages: Sequence[ExactLayerScores]) -> list[dict[str, Score]]:
    """Returns the scores of some layers' blocks, by label, from one pass up through the parent."""
    parent, text = run.parent, run.text.score
    reference: Reference = run.remember(REFERENCE, lambda: _reference(run))
    rows, shape = [], parent.shape
    outputs = ReplacedOutputs(parent, windows_together(shape, text.shape[1], parent.dtype))
    wanted = {}
    for stage in stages:
        own = shape.parent_blocks[stage.layer]
        variants = Variants(parent, stage.layer, run.workspace.find(stage.variants))
        x_BLD = run.get(ParentBoundary(part="score", layer=stage.layer))
        wanted[stage.layer] = Replaced(
            variants=variants, blocks=tuple(b for b in stage.blocks if b != own), x=x_BLD
        )
        zero = Score(kl=0.0, method=METHODS[stage.distance])
        rows.append({block.label: zero for block in stage.blocks if block == own})
    distances = {stage.layer: stage.distance for stage in stages}
    for layer, block, y_BLD in outputs.run(wanted):
        row, distance = rows[list(wanted).index(layer)], distances[layer]
        mean, error = mean_and_error(reference.distance(distance, y_BLD))
        row[block.label] = Score(kl=max(0.0, mean), error=error, method=METHODS[distance])
    return rows


def _reference(run: Run) -> Reference:
    last = run.get(ParentBoundary(part="score", layer=run.parent.shape.layers))
    return Reference(run.parent.head(), last)


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
