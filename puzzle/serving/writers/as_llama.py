"""Children of other families as the same function in a Llama's tensors, where there is one.

The formats whose layers may differ, `nemotron-nas` and llama.cpp's `deci`, are Llamas. A family
that differs from Llama by biases or by constants is one, too: its constants are multiplied into
weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig

from puzzle.errors import ExportError
from puzzle.models.child_config import config_from_layout
from puzzle.serving.writers.source import Source
from search_space import Layout
from search_space.engine_families import AS_LLAMAS, require_family

_COPIED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "mlp_bias",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)

# Families whose children an engine runs as an architecture that is no Llama.
AS_THEY_ARE = (("llama.cpp", "qwen3"), ("mlx", "qwen3"))
Change = Callable[[torch.Tensor], torch.Tensor]


def as_llama(source: Source, engine: str) -> Source:
    """Returns a child as one of the Llama family; one of that family as it is.

    Args:
        source: The child.
        engine: What it is exported for.

    Raises:
        ExportError: No Llama is the same function; the reason and what to do are named.
    """
    config, family = source.config, source.family.model_types[0]
    try:
        require_family(engine, family)
    except ValueError as error:
        raise ExportError(str(error)) from error
    if family == "llama" or (engine, family) in AS_THEY_ARE:
        return source
    if family not in AS_LLAMAS:
        raise ExportError(
            f"{engine} serves children of {family!r} as they are saved, without an export: install "
            "puzzle-nas in its environment and give it the child's directory"
        )
    _refuse_other_functions(config, engine)
    shape = source.layout.shape
    names = {name: getattr(config, name) for name in _COPIED if hasattr(config, name)}
    biased = family == "qwen2" or bool(getattr(config, "attention_bias", False))
    plain = LlamaConfig(**names, head_dim=shape.head_dim, attention_bias=biased)
    shape = replace(shape, attention_bias=biased, counts=None)
    layout = Layout(shape, source.layout.blocks)
    tensors: Mapping[str, torch.Tensor] = source.tensors
    if family == "granite":
        tensors = ChangedTensors(tensors, _granite_changes(config, shape.head_dim))
    if family == "phi3":
        tensors = _unfused(tensors, layout)
    if family == "qwen2":
        tensors = ChangedTensors(tensors, added=_output_biases(tensors, shape.hidden))
    plain.num_hidden_layers = shape.layers
    return replace(source, config=config_from_layout(plain, layout), layout=layout, tensors=tensors)


def _refuse_other_functions(config: Any, engine: str) -> None:
    rotary = config.rope_parameters.get("partial_rotary_factor", 1.0)
    if rotary != 1.0:
        raise ExportError(
            f"this {config.parent_type} rotates {rotary:.0%} of each head, which the format of "
            f"{engine} cannot say. {_INSTEAD}"
        )
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    windowed = "sliding_attention" in kinds or (not kinds and window is not None)
    if windowed and window is not None and window < config.max_position_embeddings:
        raise ExportError(
            f"this {config.parent_type} attends within a window of {window} tokens, which the "
            f"format of {engine} cannot say. {_INSTEAD}"
        )
    if not all(getattr(config, "no_rope_layers", None) or (True,)):
        raise ExportError(
            f"this {config.parent_type} has layers without rotary positions, which the format of "
            f"{engine} cannot say. {_INSTEAD}"
        )


_INSTEAD = (
    "Serve it with vLLM as it was saved (with puzzle installed there), or search again in the "
    "space 'plain' and export for 'plain'"
)


@dataclass(frozen=True, slots=True)
class ChangedTensors(Mapping[str, torch.Tensor]):
    """Tensors of which some are changed when they are read, and some are added.

    Args:
        tensors: The tensors.
        changes: What is done to a tensor, by the end of its name.
        added: Further tensors, by name.
        names: Those of the tensors that are kept; all if None.
    """

    tensors: Mapping[str, torch.Tensor]
    changes: Mapping[str, Change] | None = None
    added: Mapping[str, Callable[[], torch.Tensor]] | None = None
    names: tuple[str, ...] | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        if self.added and name in self.added:
            return self.added[name]()
        tensor = self.tensors[name]
        for end, change in (self.changes or {}).items():
            if name.endswith(end):
                return change(tensor.float()).to(tensor.dtype)
        return tensor

    def __iter__(self) -> Iterator[str]:
        yield from self.tensors if self.names is None else self.names
        yield from self.added or ()

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _times(factor: float) -> Change:
    return lambda tensor: tensor * factor


def _granite_changes(config: Any, head_dim: int) -> dict[str, Change]:
    """Returns Granite's four multipliers as changes of weights.

    A tied head is the changed embedding, so that the final norm takes back what it gained.
    """
    after, before = config.residual_multiplier, config.embedding_multiplier
    tied = before if config.tie_word_embeddings else 1.0
    scores = config.attention_multiplier * head_dim**0.5
    factors = {
        "self_attn.o_proj": after,
        "mlp.down_proj": after,
        "self_attn.q_proj": scores,
        "model.embed_tokens": before,
        "lm_head": tied,
        "model.norm": 1 / config.logits_scaling / tied,
    }
    return {
        f"{module}.{part}": _times(factor)
        for module, factor in factors.items()
        for part in ("weight", "bias")
    }


def _unfused(tensors: Mapping[str, torch.Tensor], layout: Layout) -> ChangedTensors:
    """Returns the tensors of Phi 3 with fused maps cut into those of a Llama."""
    added: dict[str, Callable[[], torch.Tensor]] = {}
    for name in tensors:
        start, _, end = name.rpartition(".qkv_proj.")
        if start:
            layer = int(name.split(".")[2])
            sizes = _head_rows(layout, layer)
            for number, part in enumerate("qkv"):
                added[f"{start}.{part}_proj.{end}"] = partial(_cut, tensors, name, sizes, number)
        start, _, end = name.rpartition(".gate_up_proj.")
        if start:
            for number, part in enumerate(("gate", "up")):
                added[f"{start}.{part}_proj.{end}"] = partial(_cut, tensors, name, None, number)
    fused = (".qkv_proj.", ".gate_up_proj.")
    kept = tuple(name for name in tensors if not any(part in name for part in fused))
    return ChangedTensors(tensors, added=added, names=kept)


def _head_rows(layout: Layout, layer: int) -> list[int]:
    attention, shape = layout.blocks[layer].attention, layout.shape
    kv_rows = (attention.kv_heads or 0) * shape.head_dim
    return [(attention.heads or shape.heads) * shape.head_dim, kv_rows, kv_rows]


def _cut(
    tensors: Mapping[str, torch.Tensor], name: str, sizes: list[int] | None, number: int
) -> torch.Tensor:
    """Returns one part of the rows of a tensor; of two halves if there are no sizes."""
    tensor = tensors[name]
    return tensor.split(sizes or tensor.shape[0] // 2)[number]


def _output_biases(
    tensors: Mapping[str, torch.Tensor], hidden: int
) -> dict[str, Callable[[], torch.Tensor]]:
    """Returns biases of zeros for the last maps of attentions whose other maps have biases."""
    weight = "self_attn.o_proj.weight"
    return {
        name.removesuffix("weight") + "bias": (
            lambda own=name: tensors[own].new_zeros(hidden)  # type: ignore[misc]
        )
        for name in tensors
        if name.endswith(weight)
    }
