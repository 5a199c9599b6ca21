"""PuzzleConfig: a Llama config with one block label per layer."""

from __future__ import annotations

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, LlamaConfig

from search_space import Block, Layout, ModelShape


@strict
class PuzzleConfig(LlamaConfig):
    """Config of a child.

    Sizes that the layers share, and those of the parent's own block, are those of LlamaConfig.

    Args:
        blocks: One block label per layer, such as "gqa1+gated768"; the parent's if not given.
    """

    model_type = "puzzle"
    blocks: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # Children of puzzle 0.1 name types, for which transformers makes masks and caches by type.
        kwargs.pop("layer_types", None)
        super().__post_init__(**kwargs)
        if self.blocks is None:
            own = f"gqa{self.num_key_value_heads}+gated{self.intermediate_size}"
            self.blocks = [own] * self.num_hidden_layers
        for label in self.blocks:
            Block.from_label(label)  # raises if there is no such block

    def block(self, layer: int) -> Block:
        """Returns the block of a layer."""
        return Block.from_label((self.blocks or [])[layer])

    def layer_config(self, layer: int) -> LlamaConfig:
        """Returns a plain config holding the sizes of one layer."""
        block, sizes = self.block(layer), copy.copy(self)
        if block.attention.kv_heads is not None:
            sizes.num_key_value_heads = block.attention.kv_heads
        if block.ffn.width is not None:
            sizes.intermediate_size = block.ffn.width
        return sizes


def config_from_layout(parent_config: LlamaConfig, layout: Layout) -> PuzzleConfig:
    """Returns the config of a layout's child; `layout_from_config` is its inverse."""
    values = parent_config.to_dict()
    for name in ("model_type", "architectures", "layer_types", "transformers_version", "blocks"):
        values.pop(name, None)
    # A fused layout has fewer layers than the parent.
    values["num_hidden_layers"] = layout.shape.layers
    return PuzzleConfig(**values, blocks=[block.label for block in layout.blocks])


def layout_from_config(config: PuzzleConfig) -> Layout:
    """Returns the layout of a child's config."""
    shape = ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        ffn_width=config.intermediate_size,
        vocab=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        attention_bias=bool(config.attention_bias),
        mlp_bias=bool(config.mlp_bias),
    )
    return Layout(shape, tuple(Block.from_label(label) for label in config.blocks or []))


AutoConfig.register(PuzzleConfig.model_type, PuzzleConfig, exist_ok=True)
