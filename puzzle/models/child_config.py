"""Configs of children: that of the parent's family, with one block label per layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, LlamaConfig

from puzzle.models.families import FAMILIES, LLAMA, family_of
from puzzle.models.family import Family
from puzzle.models.hybrid_layers import layer_blocks, layer_type
from search_space import Block, Layout, ModelShape

# Not taken over from a parent's config: they name its class or place, or are made anew.
NOT_INHERITED = (
    "model_type",
    "architectures",
    "transformers_version",
    "blocks",
    "parent_blocks",
    "_name_or_path",
)
# The attribute with the type of each layer, and all lists of one entry per layer.
TYPES = ("layer_types", "layers_block_type")
PER_LAYER = (*TYPES, "mlp_layer_types", "no_rope_layers")


class ChildConfig:
    """What the configs of children have beside those of their parent's family.

    Sizes that the layers share, and those of the parent's own block, are those of the family.

    Args:
        blocks: One block label per layer, such as "gqa1+gated768"; the parent's if not given.
        parent_blocks: Those of the parent, where they are not all of the family's sizes.

    Attributes:
        parent_type: The `model_type` of the parent's family.
    """

    # Trainers read it of any class that is not transformers' own; `auto_map` of a file comes first.
    auto_map: ClassVar[dict[str, str]] = {}
    parent_type: str
    blocks: list[str] | None
    parent_blocks: list[str] | None
    num_key_value_heads: Any
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int

    def _check_blocks(self) -> None:
        if self.blocks is None:
            self.blocks = self.parent_blocks or self._parents_own()
        if len(self.blocks) != self.num_hidden_layers:
            raise ValueError(
                f"blocks are {len(self.blocks)} and num_hidden_layers is {self.num_hidden_layers}; "
                "there is one block for each layer"
            )
        for label in (*self.blocks, *(self.parent_blocks or ())):
            Block.from_label(label)  # raises if there is no such block

    def _parents_own(self) -> list[str]:
        sizes = self.num_key_value_heads, self.intermediate_size
        if own := layer_blocks(family_of(self), self, *sizes):
            return [block.label for block in own]
        return ["gqa{}+gated{}".format(*sizes)] * self.num_hidden_layers

    def block(self, layer: int) -> Block:
        """Returns the block of a layer."""
        return Block.from_label((self.blocks or [])[layer])

    @property
    def windows(self) -> list[int | None]:
        """How many tokens each layer attends to at most, where a block of its own says so."""
        return [Block.from_label(label).attention.window for label in self.blocks or []]

    @property
    def cache_types(self) -> list[str]:
        """What transformers' caches make of each layer: those of one type have equal lengths."""
        windows = self.windows
        kinds = getattr(self, "layer_types", None) or ["full_attention"] * len(windows)
        return [
            "sliding_attention" if own else kind for own, kind in zip(windows, kinds, strict=True)
        ]

    def get_text_config(self, decoder: Any = None, encoder: Any = None) -> Any:
        """Returns the config that generation and caches read.

        Caches are made from `layer_types` and from the windows of `per_layer_config`, neither of
        which the config itself can have: the family's code reads masks and rotary tables by type.
        """
        config = super().get_text_config(decoder, encoder)  # type: ignore[misc]
        if not decoder or "cached_from" in self.__dict__ or not any(self.windows):
            return config
        view: Any = copy.copy(self)
        view.__dict__["cached_from"] = True
        if getattr(self, "layer_types", None):
            view.layer_types = self.cache_types
        view.sliding_window = getattr(self, "sliding_window", None)
        view.allow_global_per_layer_attribute_access = True
        view.per_layer_config = {
            layer: {"sliding_window": own} for layer, own in enumerate(self.windows) if own
        }
        return view

    def layer_config(self, layer: int) -> Any:
        """Returns a plain config holding the sizes of one layer."""
        family, block = family_of(self), self.block(layer)
        return family.layer_config(family.layer_config(self, block.attention), block.ffn)


@strict
class PuzzleConfig(ChildConfig, LlamaConfig):
    """Config of a child of the Llama family; see `ChildConfig`."""

    model_type = "puzzle"
    parent_type = "llama"
    blocks: list[str] | None = None
    parent_blocks: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # Children of puzzle 0.1 name types, for which transformers makes masks and caches by type.
        kwargs.pop("layer_types", None)
        super().__post_init__(**kwargs)
        self._check_blocks()


@cache
def config_class(family: Family) -> Any:
    """Returns the config class of a family's children, known to `AutoConfig`."""
    if family is LLAMA:
        return PuzzleConfig
    stock: Any = CONFIG_MAPPING[family.model_types[0]]

    @strict
    class FamilyConfig(ChildConfig, stock):
        """Config of a child of one family; see `ChildConfig`."""

        model_type = f"puzzle_{family.model_types[0]}"
        parent_type = family.model_types[0]
        # Some versions of transformers compare with a config of the stock defaults, and those of
        # Nemotron-H have mixtures of experts, which no child can have.
        has_no_defaults_at_init: ClassVar[bool] = family.ffn_layers is not None
        blocks: list[str] | None = None
        parent_blocks: list[str] | None = None

        def __post_init__(self, **kwargs: Any) -> None:
            super().__post_init__(**kwargs)
            self._check_blocks()

    name = FamilyConfig.__name__ = FamilyConfig.__qualname__ = f"Puzzle{family.classes}Config"
    # Pickled, as engines do for their processes, a class is looked up by its name.
    globals()[name] = FamilyConfig
    AutoConfig.register(FamilyConfig.model_type, FamilyConfig, exist_ok=True)
    return FamilyConfig


def config_from_layout(
    parent_config: Any, layout: Layout, *, origins: Sequence[int] | None = None
) -> Any:
    """Returns the config of a layout's child; `layout_from_config` is its inverse.

    Args:
        parent_config: The parent's config.
        layout: The layout.
        origins: The parent's layer that each layer comes from, where layers were left out.
    """
    values, family = parent_config.to_dict(), family_of(parent_config)
    for name in NOT_INHERITED:
        values.pop(name, None)
    # A fused layout has fewer layers than the parent.
    values["num_hidden_layers"] = layout.shape.layers
    _set_layer_lists(values, family, layout, origins)
    if family.settled:
        values |= {**dict(family.settled), "intermediate_size": layout.shape.ffn_width}
    values["blocks"] = [block.label for block in layout.blocks]
    if layout.shape.blocks is not None:
        values["parent_blocks"] = [block.label for block in layout.shape.blocks]
    return config_class(family)(**values)


def _set_layer_lists(
    values: dict[str, Any], family: Family, layout: Layout, origins: Sequence[int] | None
) -> None:
    """Gives each layer the types and flags of the parent's layer that it comes from."""
    for name in PER_LAYER:
        if own := values.get(name):
            layers = range(layout.shape.layers) if origins is None else origins
            values[name] = [own[layer % len(own)] for layer in layers]
    for name in TYPES if family.mixers else ():
        if not values.get(name):
            continue
        # A stack of copies of one block has it also in layers of the other types.
        values[name] = [
            layer_type(family, block) or kind
            for block, kind in zip(layout.blocks, values[name], strict=True)
        ]


def layout_from_config(config: Any) -> Layout:
    """Returns the layout of a child's config."""
    shape = shape_with(family_of(config).shape(config), config.parent_blocks)
    return Layout(shape, tuple(map(Block.from_label, config.blocks or [])))


def shape_of(config: Any) -> ModelShape:
    """Returns the shape of a model as a parent; the parent's blocks of a child are its own.

    What a child's record says of formats is left out: as a parent it is what its tensors are.
    """
    shape = family_of(config).shape(config)
    if not isinstance(config, ChildConfig):
        return shape
    labels = [Block.from_label(label).unquantised.label for label in config.blocks or ()]
    return shape_with(shape, labels)


def shape_with(shape: ModelShape, labels: list[str] | None) -> ModelShape:
    """Returns a shape whose layers have the blocks of these labels, where there are any."""
    return replace(shape, blocks=tuple(map(Block.from_label, labels))) if labels else shape


AutoConfig.register(PuzzleConfig.model_type, PuzzleConfig, exist_ok=True)
for _family in dict.fromkeys(FAMILIES.values()):
    config_class(_family)
