"""Block influence: how much each layer turns the residual stream, from the parent alone."""

from __future__ import annotations

import torch
from torch import nn

from puzzle.models.parent import Parent
from puzzle.progress.bars import counted

# Windows run together.
BATCH = 4


@torch.no_grad()
def block_influence(parent: Parent, tokens_BL: torch.Tensor) -> tuple[float, ...]:
    """Returns 1 - cosine similarity of each layer's input and output, averaged over tokens.

    ShortGPT (arXiv 2403.03853, eq. 1) drops the layers of least influence. A baseline: it ignores
    the model's output and knows only whole layers. The parent is streamed.

    Args:
        parent: The parent.
        tokens_BL: Text, (windows, length).
    """
    influences, x_BLD = [], parent.embed(tokens_BL)
    for index in counted(range(parent.shape.layers), "influence", "layer"):
        layer = parent.layer(index)
        y_BLD = torch.cat([parent.run(layer, x) for x in x_BLD.split(BATCH)])
        alike = nn.functional.cosine_similarity(x_BLD.float(), y_BLD.float(), dim=-1)
        influences.append(float(1.0 - alike.double().mean()))
        x_BLD = y_BLD
    return tuple(influences)
