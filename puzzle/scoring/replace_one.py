"""Exact replace-one scores, each computed from the cached prefix below its layer."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from tqdm.auto import tqdm

from puzzle.errors import DataError
from puzzle.library.build import Library
from puzzle.library.layer_outputs import LayerOutputs
from puzzle.scoring.reference import DISTANCES, Suffix
from puzzle.scoring.scores import Score, Scores, mean_and_error
from puzzle.storage.workspace import Artifact, Workspace
from puzzle.text.windows import Windows
from search_space import Block, SearchSpace

KIND, SCORES = "replace-one", "scores.json"
# Part of every artifact's name: raise it when what is stored changes.
FORMAT = 3
METHODS = {"kl": "exact", "cosine": "cosine"}
# Blocks whose suffixes run in one batch.
PACK = 4


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
    there and pays for the layers above only. The parent's own block scores exactly 0.

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
    wanted = {layer: space.blocks(layer) for layer in range(space.shape.layers)}
    found = replace_some(library, wanted, windows, workspace=workspace, distance=distance)
    return Scores(tuple(found[layer] for layer in wanted))


@torch.no_grad()
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
    if distance not in DISTANCES:
        raise DataError(f"distance={distance!r}; allowed: {', '.join(DISTANCES)}")
    artifacts = {
        layer: _artifact(library, layer, blocks, windows, workspace, distance)
        for layer, blocks in wanted.items()
        if blocks
    }
    missing = [layer for layer, artifact in artifacts.items() if not artifact.sound()]
    if missing:
        suffix = Suffix(library.parent, windows.score)
        x_BLD = library.parent.embed(windows.score)
        for index in tqdm(range(max(missing) + 1), desc="scores", unit="layer"):
            if index in missing:
                build = partial(_write, library, wanted[index], suffix, index, x_BLD, distance)
                workspace.get_or_build(KIND, artifacts[index].spec, build)
            x_BLD = library.parent.run(suffix.layers[index], x_BLD)
    read = {layer: artifact.load_json(SCORES) for layer, artifact in artifacts.items()}
    return {
        layer: {label: Score(**score) for label, score in read.get(layer, {}).items()}
        for layer in wanted
    }


def _artifact(
    library: Library,
    layer: int,
    blocks: Iterable[Block],
    windows: Windows,
    workspace: Workspace,
    distance: str,
) -> Artifact:
    spec = {
        "format": FORMAT,
        "distance": distance,
        "library": library.layers[layer].key,
        "blocks": [block.label for block in blocks],
        "score": windows.hash("score"),
    }
    return workspace.artifact(KIND, spec)


def _write(
    library: Library,
    blocks: Collection[Block],
    suffix: Suffix,
    index: int,
    x_BLD: torch.Tensor,
    distance: str,
    directory: Path,
) -> None:
    outputs = LayerOutputs(library.variants(index))
    own, method = library.parent.shape.parent_block, METHODS[distance]
    scores = {block.label: Score(kl=0.0, method=method) for block in blocks if block == own}
    pairs = outputs([block for block in blocks if block != own], x_BLD)
    while pack := list(islice(pairs, PACK)):
        above = suffix.above(torch.cat([y for _, y in pack]), index + 1)
        for (block, _), one_BLD in zip(pack, above.split(len(x_BLD)), strict=True):
            mean, error = mean_and_error(suffix.reference.distance(distance, one_BLD))
            scores[block.label] = Score(kl=max(0.0, mean), error=error, method=method)
    text = json.dumps({label: score.to_dict() for label, score in scores.items()}, indent=1)
    (directory / SCORES).write_text(text, encoding="utf-8")
