"""distill_flops(): the operations of a distillation, before it runs."""

from __future__ import annotations

from typing import Any

from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.planned_configs import planned_configs
from puzzle.models.child_config import layout_from_config, shape_of
from search_space import counting

# Forward, and for the gradients of what enters a map and of its weights.
TRAINED = 3
# Logits are computed again in the backward pass, where they are needed in parts.
LOGITS = 2
LOGIT_LOSSES = frozenset({"kl", "reverse_kl", "lm"})


def distill_flops(
    child: Any,
    parent: Any,
    *,
    config: DistillConfig | None = None,
    offline: bool = False,
) -> int:
    """Returns the operations of all steps of `distill` on all devices; only configs are read.

    Counted are the matrix products of the passes, a multiply-add as two, and with
    `gradient_checkpointing` the layers' forward pass twice. Left out are what Muon multiplies,
    which does not grow with the tokens of a step, and all that is exchanged between devices.

    Args:
        child: Its directory, its config, or a `Layout` of the parent.
        parent: Its directory, hub id or config.
        config: The settings.
        offline: Whether an offline teacher answers (`cache_teacher`), and the parent is not run.

    Example:
        >>> from transformers import LlamaConfig
        >>> parent = LlamaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        ...                      intermediate_size=128, vocab_size=100, head_dim=16)
        >>> taught, alone = (distill_flops(parent, parent, config=DistillConfig(losses={name: 1.0}))
        ...                  for name in ("cosine", "lm"))
        >>> f"{taught:.2e} {alone:.2e}"
        '1.70e+13 1.33e+13'
    """
    config = config or DistillConfig()
    names = set(config.losses)
    own, taught = planned_configs(child, parent)
    layers, head = forward_flops(own, config.length)
    window = (TRAINED + config.gradient_checkpointing) * layers
    if names & LOGIT_LOSSES:
        window += (LOGITS + 1 + config.train_embeddings) * head
    if names != {"lm"} and not offline:
        layers, head = forward_flops(taught, config.length)
        window += layers + (LOGITS * head if names & LOGIT_LOSSES - {"lm"} else 0)
    return window * config.step_windows * config.steps


def forward_flops(config: Any, length: int) -> tuple[int, int]:
    """Returns the operations of one window in a model's layers and in its head.

    Args:
        config: The config of a child, as `planned_configs` returns it.
        length: Tokens of the window.
    """
    shape, layout = shape_of(config), layout_from_config(config)
    layers = 0
    for number, block in enumerate(layout.blocks):
        limited = shape.windowed(number, block)
        pairs = counting.attended_pairs(length, limited.attention.window)
        layers += counting.block_flops(shape, limited, tokens=length, pairs=pairs)
    return layers, counting.head_flops(shape) * length
