"""The child's model classes: the family's own forward over layers each of its own block."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Cache,
    PreTrainedModel,
)
from transformers.masking_utils import (
    create_causal_mask,
    create_masks_for_generate,
    create_recurrent_attention_mask,
    create_sliding_window_causal_mask,
)
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaModel,
    LlamaPreTrainedModel,
)

from puzzle.errors import PuzzleError
from puzzle.models.child_config import ChildConfig, PuzzleConfig, config_class
from puzzle.models.child_modules import LayerConfig, LinearSublayer, RepeatedHeads
from puzzle.models.child_saving import ChildSaving
from puzzle.models.families import FAMILIES, LLAMA, family_of
from puzzle.models.family import Family, returned
from puzzle.models.plugins import installed_families
from puzzle.models.slots import QUERY, Slot

# The types of layers whose caches know how many tokens they hold.
ATTENTION_TYPES = {"full_attention", "sliding_attention"}


def record_length(cache: Cache, hidden_states: torch.Tensor, layer: int = 0) -> None:
    """Counts tokens in the cache of a layer without attention, at a byte for each.

    transformers reads the length of the sequence from the first layer of each type.

    Args:
        cache: The cache.
        hidden_states: The residual stream of the tokens, (B, L, any).
        layer: The layer's number.
    """
    batch, length = hidden_states.shape[:2]
    keys = hidden_states.new_zeros((batch, 1, length, 1), dtype=torch.int8)
    cache.update(keys, keys[..., :0], layer)


class LayerMasks:
    """The masks of a child some of whose layers have windows of their own, made in one pass.

    The family's code makes one mask for all layers of a type. These are made as it does that, once
    for each window and for as many tokens as the caches of such layers hold.

    Args:
        given: Which tokens are no padding, or masks that were made before, by window.
    """

    def __init__(self, given: torch.Tensor | dict[str, Any] | None) -> None:
        self.padding = None if isinstance(given, dict) else given
        self.made: dict[str, Any] = dict(given) if isinstance(given, dict) else {}

    def of(self, layer: PuzzleDecoderLayer, x_BLD: torch.Tensor, given: dict[str, Any]) -> Any:
        """Returns the mask of a layer, from what its model gives to all of them."""
        config, index = layer.config, layer.layer_idx
        window = layer.window or layer.family.window(config, index)
        if str(window) not in self.made:
            sizes: Any = copy.copy(config)
            sizes.sliding_window = window
            make = create_sliding_window_causal_mask if window else create_causal_mask
            self.made[str(window)] = make(
                config=sizes,
                inputs_embeds=x_BLD,
                attention_mask=self.padding,
                past_key_values=given.get("past_key_values"),
                position_ids=given.get("position_ids"),
                layer_idx=index,
            )
        return self.made[str(window)]

    def of_padding(
        self, layer: PuzzleDecoderLayer, x_BLD: torch.Tensor, given: dict[str, Any]
    ) -> Any:
        """Returns the mask of a hybrid's mixer, which tells padding alone; as `of`."""
        if "padding" not in self.made:
            self.made["padding"] = create_recurrent_attention_mask(
                config=layer.config,
                inputs_embeds=x_BLD,
                attention_mask=self.padding,
                past_key_values=given.get("past_key_values"),
            )
        return self.made["padding"]


class PuzzleDecoderLayer(GradientCheckpointingLayer):
    """A decoder layer with the sublayers its block names; a missing one has no parameters.

    Its halves and their norms are those of the family's stock layer, under the same names. A linear
    sublayer has the norm before it and is added as it is.

    Args:
        config: The child's config.
        layer_idx: The layer's number, counting those without attention.
    """

    def __init__(self, config: ChildConfig, layer_idx: int) -> None:
        super().__init__()
        block, self.family = config.block(layer_idx), family_of(config)
        self.layer_idx, self.config = layer_idx, config
        kinds, self.token_mixer = config.cache_types, self.family.mixer(block.attention)
        # transformers asks the first layer of each type of attention how many tokens are cached.
        first = kinds.index(kinds[layer_idx]) == layer_idx
        self.tells_length = first and kinds[layer_idx] in ATTENTION_TYPES
        self.mixing = self.family.mixing(block.attention)
        self.window, self.block_type = block.attention.window, kinds[layer_idx]
        self.attention_kind, self.ffn_kind = block.attention.kind, block.ffn.kind
        stock = self.family.layer(config.layer_config(layer_idx), layer_idx)
        for slot, kind in self._slots():
            names = slot.names if kind not in ("linear", "none") else slot.norms_before
            for name in () if kind == "none" else names:
                setattr(self, name, getattr(stock, name))
            if kind == "linear":
                setattr(self, slot.module, LinearSublayer(config.hidden_size))
        if self.attention_kind == "gqa":
            # Only its sizes are the layer's own: `set_attn_implementation` changes the model's.
            heads = block.attention.heads
            own = config if heads is None else LayerConfig(config, num_attention_heads=heads)
            getattr(self, self.family.attention.module).config = own
        if (mixture := self.family.mixture(self)) is not None and self.family.experts:
            getattr(mixture, self.family.experts.experts).config = config

    def _slots(self) -> tuple[tuple[Slot, str], tuple[Slot, str]]:
        return (self.mixing, self.attention_kind), (self.family.ffn, self.ffn_kind)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Returns the residual stream after the layer, (B, L, hidden)."""
        cache, masks = kwargs.get("past_key_values"), kwargs.pop("layer_masks", None)
        if masks is not None and self.attention_kind == "gqa":
            kwargs["attention_mask"] = masks.of(self, hidden_states, kwargs)
        elif masks is not None and self.token_mixer:
            kwargs["attention_mask"] = masks.of_padding(self, hidden_states, kwargs)
        if self.attention_kind != "gqa" and self.tells_length and cache is not None:
            record_length(cache, hidden_states, self.layer_idx)
        for slot, kind in self._slots():
            if kind == "none":
                continue
            normed = self.family.normed(self, slot.before, hidden_states)
            if kind == "gqa":
                paged = kwargs.get("cache") is not None
                attention = self._paged_attention() if paged else getattr(self, slot.module)
                update, _ = attention(hidden_states=normed, **kwargs)
            elif slot is self.mixing and self.token_mixer:
                taken = {
                    "attention_mask": kwargs.get("attention_mask"),
                    self.token_mixer.cache: cache,
                }
                update = getattr(self, slot.module)(normed, **taken)
            else:
                update = returned(getattr(self, slot.module)(normed))
            if kind != "linear":
                update = self.family.added(self, slot, update, self.config)
            hidden_states = hidden_states + update
        return hidden_states

    def _paged_attention(self) -> nn.Module:
        """Returns the attention with as many heads of keys and values as a paged cache has.

        The cache of continuous batching has one number of heads for all layers, the parent's.
        Repeated heads give the same attention, at the parent's memory.
        """
        slot, sizes = self.family.attention, self.config
        attention: Any = getattr(self, slot.module)
        own, kv_heads = sizes.block(self.layer_idx).attention, sizes.num_key_value_heads
        times, heads = kv_heads // own.kv_heads, own.heads or sizes.num_attention_heads
        if times == 1:
            return attention
        # Of the same modules; the copy alone is changed.
        other: Any = copy.copy(attention)
        other._modules = dict(attention._modules)
        for name, parts in slot.maps:
            if parts != (QUERY,):
                linear, queries = attention._modules[name], heads if QUERY in parts else 0
                other._modules[name] = RepeatedHeads(linear, attention.head_dim, times, queries)
        other.num_key_value_groups, other.num_key_value_heads = heads // kv_heads, kv_heads
        return other


class ChildModel:
    """What children of all families have in place of the stock decoder's layers."""

    def __init__(self, config: Any) -> None:
        # The stock constructor would build layers that are all alike.
        empty = copy.copy(config)
        empty.num_hidden_layers = 0
        if empty.num_hidden_layers:  # some configs count their layers by their types
            empty.layer_types = []
        super().__init__(empty)  # type: ignore[call-arg]
        self.config = config
        self.layers = nn.ModuleList(
            [PuzzleDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        )
        self.post_init()  # type: ignore[attr-defined]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Returns what the stock decoder does, each layer within its own window."""
        if any(self.config.windows):
            implementation = str(self.config._attn_implementation)
            if "flash" in implementation or "paged" in implementation:
                raise PuzzleError(
                    f"{implementation!r} attention gets one window for all layers, and those of "
                    "this child differ; set attn_implementation to 'sdpa', 'eager' or "
                    "'flex_attention'"
                )
            masks = kwargs["layer_masks"] = LayerMasks(attention_mask)
            if isinstance(attention_mask, dict):  # the stock decoder's own masks are not used
                made = (mask for mask in masks.made.values() if mask is None or mask.dim() == 4)
                attention_mask = next(made, None)
        return super().forward(  # type: ignore[misc]
            input_ids=input_ids, attention_mask=attention_mask, **kwargs
        )


class ChildForCausalLM:
    """What children of all families have in common as causal language models."""

    decoder: type[nn.Module]

    def __init__(self, config: Any) -> None:
        PreTrainedModel.__init__(self, config)
        self.config = config
        self.model: Any = self.decoder(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[attr-defined]

    def create_masks_for_generate(self, config: Any, **given: Any) -> Any:
        """Returns the masks that generation makes before a compiled forward pass."""
        if not any(config.windows):
            stock = getattr(super(), "create_masks_for_generate", create_masks_for_generate)
            return stock(config=config, **given)
        masks = LayerMasks(given["attention_mask"])
        for layer in self.model.layers:
            if layer.attention_kind == "gqa":
                masks.of(layer, given["inputs_embeds"], given)
            elif layer.token_mixer:
                masks.of_padding(layer, given["inputs_embeds"], given)
        return masks.made

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Prepares transformers' continuous batching; `generate_batch` and serving call it.

        Raises:
            PuzzleError: A layer's heads of keys and values cannot fill the one cache of all layers,
                or it has a window of its own.
        """
        most = self.config.num_key_value_heads
        uneven: dict[int, str] = {}
        for index in range(self.config.num_hidden_layers):
            own = self.config.block(index).attention
            heads = own.heads or self.config.num_attention_heads
            if own.kind == "gqa" and (most % own.kv_heads or heads % most or own.window):
                uneven[index] = own.label
        if uneven:
            raise PuzzleError(
                f"continuous batching keeps one cache of {most} heads and all tokens for all "
                f"layers, which those of these layers do not fill evenly: {uneven}; use "
                "generate(), or export the child for vLLM or llama.cpp, whose caches are the "
                "layers' own"
            )
        return super().init_continuous_batching(*args, **kwargs)  # type: ignore[misc]


class PuzzlePreTrainedModel(ChildSaving, LlamaPreTrainedModel):
    """Settings that transformers reads from the child's classes."""

    config_class = PuzzleConfig
    _no_split_modules = ["PuzzleDecoderLayer"]  # noqa: RUF012 - transformers reads a list
    _can_record_outputs = {  # noqa: RUF012 - transformers reads a dict
        "hidden_states": PuzzleDecoderLayer,
        "attentions": LlamaAttention,
    }


class PuzzleModel(ChildModel, PuzzlePreTrainedModel, LlamaModel):
    """The child without its head."""


class PuzzleForCausalLM(ChildForCausalLM, PuzzlePreTrainedModel, LlamaForCausalLM):
    """The child as a causal language model.

    Example:
        >>> import puzzle
        >>> from transformers import AutoModelForCausalLM
        >>> model = AutoModelForCausalLM.from_pretrained("out/child")  # doctest: +SKIP
    """

    decoder = PuzzleModel


class PuzzleForSequenceClassification(GenericForSequenceClassification, PuzzlePreTrainedModel):
    """The child with a score for each text, such as a reward model."""


class PuzzleForTokenClassification(GenericForTokenClassification, PuzzlePreTrainedModel):
    """The child with a class for each token."""


class PuzzleForQuestionAnswering(GenericForQuestionAnswering, PuzzlePreTrainedModel):
    """The child with the start and end of an answer in the text."""


HEADS = (
    (AutoModelForSequenceClassification, GenericForSequenceClassification),
    (AutoModelForTokenClassification, GenericForTokenClassification),
    (AutoModelForQuestionAnswering, GenericForQuestionAnswering),
)


@cache
def causal_lm_class(family: Family) -> Any:
    """Returns the class of a family's children, known with its like to the Auto classes."""
    if family is LLAMA:
        return PuzzleForCausalLM
    stem, config = f"Puzzle{family.classes}", config_class(family)
    settings = {
        "config_class": config,
        "_no_split_modules": ["PuzzleDecoderLayer"],
        "_can_record_outputs": {
            "hidden_states": PuzzleDecoderLayer,
            "attentions": family.stock("Attention"),
        },
    }

    def made(name: str, *bases: Any, **more: Any) -> Any:
        cls = type(stem + name, bases, {"__module__": __name__, **settings, **more})
        globals()[cls.__name__] = cls  # where pickle looks for it
        return cls

    base = made("PreTrainedModel", ChildSaving, family.stock("PreTrainedModel"))
    decoder = made("Model", ChildModel, base, family.stock("Model"))
    lm = made("ForCausalLM", ChildForCausalLM, base, family.stock("ForCausalLM"), decoder=decoder)
    AutoModel.register(config, decoder, exist_ok=True)
    AutoModelForCausalLM.register(config, lm, exist_ok=True)
    for auto, generic in HEADS:
        name = generic.__name__.removeprefix("Generic")
        auto.register(config, made(name, generic, base), exist_ok=True)
    return lm


def register_family(family: Family) -> None:
    """Makes a family known: its parents can be searched, and its children loaded.

    Call it in each process, as `import puzzle` does for the families that come with it and for
    those that installed packages have in the entry-point group `puzzle.families`.

    Args:
        family: The description. It takes the place of another one of the same model types.

    Example:
        >>> register_family(Family(model_types=("helium",), package="helium", classes="Helium"))
    """
    FAMILIES.update(dict.fromkeys(family.model_types, family))
    causal_lm_class(family)


AutoModel.register(PuzzleConfig, PuzzleModel, exist_ok=True)
AutoModelForCausalLM.register(PuzzleConfig, PuzzleForCausalLM, exist_ok=True)
for auto, child in (
    (AutoModelForSequenceClassification, PuzzleForSequenceClassification),
    (AutoModelForTokenClassification, PuzzleForTokenClassification),
    (AutoModelForQuestionAnswering, PuzzleForQuestionAnswering),
):
    auto.register(PuzzleConfig, child, exist_ok=True)
for _family in dict.fromkeys(FAMILIES.values()):
    causal_lm_class(_family)
for _family in installed_families():
    register_family(_family)
