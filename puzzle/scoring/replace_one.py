"""Exact replace-one scores, each computed from the cached prefix below its layer."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from puzzle.data import Windows
from puzzle.library.build import Library
from puzzle.library.outputs import LayerOutputs
from puzzle.parents import Parent
from puzzle.scoring.scores import Score, Scores, mean_and_error
from puzzle.workspace import Artifact, Workspace
from search_space import Block, SearchSpace

KIND, SCORES = "replace-one", "scores.json"
# Part of every artifact's name: raise it when what is stored changes.
FORMAT = 2
# Blocks whose suffixes run in one batch.
PACK = 4


def replace_one(
    library: Library, space: SearchSpace, windows: Windows, *, workspace: Workspace
) -> Scores:
    """Returns, per layer and block, KL(parent || parent with that one block) in nats per token.

    The residual stream below a layer is the same for all its blocks, so each score starts from
    there and pays for the layers above only. The parent's own block scores exactly 0.

    Args:
        library: The variants.
        space: Which blocks to score.
        windows: The text; only its score part is used.
        workspace: Where finished layers are stored.
    """
    wanted = {layer: space.blocks(layer) for layer in range(space.shape.layers)}
    found = replace_some(library, wanted, windows, workspace=workspace)
    return Scores(tuple(found[layer] for layer in wanted))


@torch.no_grad()
def replace_some(
    library: Library,
    wanted: Mapping[int, Collection[Block]],
    windows: Windows,
    *,
    workspace: Workspace,
) -> dict[int, dict[str, Score]]:
    """Returns the exact scores of some blocks of some layers, by layer and label.

    Args:
        library: The variants.
        wanted: Blocks to score, by layer.
        windows: The text; only its score part is used.
        workspace: Where finished layers are stored.
    """
    artifacts = {
        layer: _artifact(library, layer, blocks, windows, workspace)
        for layer, blocks in wanted.items()
        if blocks
    }
    missing = [layer for layer, artifact in artifacts.items() if not artifact.sound()]
    if missing:
        suffix = Suffix(library.parent, windows.score)
        x_BLD = library.parent.embed(windows.score)
        for index in tqdm(range(max(missing) + 1), desc="scores", unit="layer"):
            if index in missing:
                build = partial(_write, library, wanted[index], suffix, index, x_BLD)
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
) -> Artifact:
    spec = {
        "format": FORMAT,
        "library": library.layers[layer].key,
        "blocks": [block.label for block in blocks],
        "score": windows.hash("score"),
    }
    return workspace.artifact(KIND, spec)


class Suffix:
    """The parent's layers and head, resident, and its log-probabilities on the score text.

    Args:
        parent: The parent.
        tokens_BL: Score windows.
    """

    def __init__(self, parent: Parent, tokens_BL: torch.Tensor) -> None:
        self.parent = parent
        self.layers = [parent.layer(index) for index in range(parent.shape.layers)]
        self.head = parent.head()
        x_BLD = self._above(parent.embed(tokens_BL), 0)
        self.log_p = [self._log_probabilities(x_LD) for x_LD in x_BLD]

    def kl(self, x_BLD: torch.Tensor, first: int) -> Iterator[torch.Tensor]:
        """Yields KL(parent || this) per token, (windows, length), entering layer `first` with x.

        Args:
            x_BLD: Residual streams of one or several variants, each of all the windows.
            first: The layer they enter.
        """
        x_BLD = self._above(x_BLD, first)
        for one_BLD in x_BLD.split(len(self.log_p)):
            rows = zip(self.log_p, one_BLD, strict=True)
            yield torch.stack([self._row_kl(log_p, x_LD) for log_p, x_LD in rows])

    def _above(self, x_BLD: torch.Tensor, first: int) -> torch.Tensor:
        for layer in self.layers[first:]:
            x_BLD = self.parent.run(layer, x_BLD)
        return x_BLD

    def _log_probabilities(self, x_LD: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.head(x_LD).float(), dim=-1)

    def _row_kl(self, log_p_LV: torch.Tensor, x_LD: torch.Tensor) -> torch.Tensor:
        log_q_LV = self._log_probabilities(x_LD)
        kl = nn.functional.kl_div(log_q_LV, log_p_LV, log_target=True, reduction="none")
        return kl.sum(-1)


def _write(
    library: Library,
    blocks: Collection[Block],
    suffix: Suffix,
    index: int,
    x_BLD: torch.Tensor,
    directory: Path,
) -> None:
    outputs = LayerOutputs(library.variants(index))
    own = library.parent.shape.parent_block
    scores = {block.label: Score(kl=0.0) for block in blocks if block == own}
    pairs = outputs([block for block in blocks if block != own], x_BLD)
    while pack := list(islice(pairs, PACK)):
        together = torch.cat([y for _, y in pack])
        for (block, _), kl in zip(pack, suffix.kl(together, index + 1), strict=True):
            mean, error = mean_and_error(kl)
            scores[block.label] = Score(kl=max(0.0, mean), error=error)
    text = json.dumps({label: score.to_dict() for label, score in scores.items()}, indent=1)
    (directory / SCORES).write_text(text, encoding="utf-8")
