"""Exact replace-one scores, each computed from the cached prefix below its layer."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from puzzle.data import Windows
from puzzle.library.build import Library, Variants
from puzzle.parents import Parent
from puzzle.workspace import Workspace
from search_space import Block, SearchSpace

KIND, SCORES = "replace-one", "scores.json"


@torch.no_grad()
def replace_one(
    library: Library, space: SearchSpace, windows: Windows, *, workspace: Workspace
) -> list[dict[str, float]]:
    """Returns, per layer, KL(parent || parent with that one block) in nats per token.

    The residual stream below a layer is the same for all its blocks, so each score starts from
    there and pays for the layers above only. The parent's own block scores exactly 0.

    Args:
        library: The variants.
        space: Which blocks to score.
        windows: The text; only its score part is used.
        workspace: Where finished layers are stored.
    """
    parent = library.parent
    specs = [
        {
            "library": library.layers[layer].key,
            "blocks": [block.label for block in space.blocks(layer)],
            "score": windows.hash("score"),
        }
        for layer in range(parent.shape.layers)
    ]
    artifacts = [workspace.artifact(KIND, spec) for spec in specs]
    if not all(artifact.sound() for artifact in artifacts):
        suffix = Suffix(parent, windows.score)
        x_BLD = parent.embed(windows.score)
        for index in tqdm(range(parent.shape.layers), desc="scores", unit="layer"):
            build = partial(_write, library, space, suffix, index, x_BLD)
            workspace.get_or_build(KIND, specs[index], build)
            x_BLD = parent.run(suffix.layers[index], x_BLD)
    return [dict(artifact.load_json(SCORES)) for artifact in artifacts]


class Suffix:
    """The parent's layers and head, resident, and its log-probabilities on the score text."""

    def __init__(self, parent: Parent, tokens_BL: torch.Tensor) -> None:
        self.parent = parent
        self.layers = [parent.layer(index) for index in range(parent.shape.layers)]
        self.head = parent.head()
        self.log_p = self.log_probabilities(parent.embed(tokens_BL), 0)

    def log_probabilities(self, x_BLD: torch.Tensor, first: int) -> torch.Tensor:
        """Returns log-probabilities from the residual stream entering layer `first`."""
        for layer in self.layers[first:]:
            x_BLD = self.parent.run(layer, x_BLD)
        return torch.log_softmax(self.head(x_BLD).float(), dim=-1)

    def kl(self, x_BLD: torch.Tensor, first: int) -> float:
        """Returns KL(parent || this) in nats per token, entering layer `first` with x."""
        log_q = self.log_probabilities(x_BLD, first)
        kl = nn.functional.kl_div(log_q, self.log_p, log_target=True, reduction="none").sum(-1)
        return max(0.0, float(kl.mean(dtype=torch.float64)))


def _write(
    library: Library,
    space: SearchSpace,
    suffix: Suffix,
    index: int,
    x_BLD: torch.Tensor,
    directory: Path,
) -> None:
    variants = library.variants(index)
    scores = {
        block.label: _score(variants, suffix, index, block, x_BLD) for block in space.blocks(index)
    }
    (directory / SCORES).write_text(json.dumps(scores, indent=1), encoding="utf-8")


def _score(
    variants: Variants, suffix: Suffix, index: int, block: Block, x_BLD: torch.Tensor
) -> float:
    from puzzle.child import layer_from_block

    parent = variants.parent
    if block == parent.shape.parent_block:
        return 0.0
    tensors = variants.block_tensors(block)
    layer = layer_from_block(parent.config, parent.shape, index, block, tensors)
    return suffix.kl(parent.run(layer, x_BLD), index + 1)
