"""GGUF files of llama.cpp's `deci` and `openelm` architectures, whose layers may differ."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from puzzle.errors import ExportError
from puzzle.progress.bars import counted
from puzzle.serving.writers.gguf_tokenizer import Field
from puzzle.serving.writers.k_quants import (
    FALLBACKS,
    K_BLOCK,
    MIXES,
    mixed_type,
    quantise,
    require_quantiser,
)
from puzzle.serving.writers.lowering import LINEAR, WrittenLayer, each_layer, lower
from puzzle.serving.writers.openelm import openelm_layers, plan_openelm
from puzzle.serving.writers.source import Source
from puzzle.storage.temporary_places import temporary_place
from search_space import WEIGHT_FORMATS, Block, Layout

if TYPE_CHECKING:
    from gguf import GGUFWriter

# What the gguf package quantises; each in blocks of as many weights of a row.
QUANTISED = tuple(WEIGHT_FORMATS)
BLOCK = max(kind.block for kind in WEIGHT_FORMATS.values())
BITS = {"f32": 32, "f16": 16, "bf16": 16, **{n: kind.bits for n, kind in WEIGHT_FORMATS.items()}}
TYPES = tuple(BITS)
# What a file can be written as: one type for all matrices, or one of llama.cpp's mixes of K-quants.
KINDS = (*TYPES, *MIXES)
# At most, since rows of some lengths fall back to q8_0.
_BITS_OF_MIXES = BITS["q8_0"]
OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    f"self_attn.{LINEAR.removesuffix('.weight')}": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

logger = logging.getLogger(__name__)


def plan_gguf(source: Source, kind: str) -> tuple[Layout, list[WrittenLayer]]:
    """Returns the layout that would be written, and where its layers come from.

    Raises:
        ExportError: llama.cpp cannot run the child, `kind` is not one of `KINDS`, or what it needs
            is not installed.
    """
    if kind not in KINDS:
        raise ExportError(f"quantisation {kind!r}; allowed: {', '.join(KINDS)}")
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ExportError('GGUF needs: pip install "puzzle-nas[gguf]"') from error
    if kind in MIXES:
        require_quantiser()
    rope = _rope_kind(source.config)
    # Whole blocks in the rows of the down projection, as in those of the others.
    multiple = BLOCK if kind in (*QUANTISED, *MIXES) else 1
    if _is_openelm(source):
        if rope == "llama3":
            raise ExportError("llama.cpp's openelm has no rope_type='llama3'; export for 'vllm'")
        return plan_openelm(source, "llama.cpp", multiple=multiple), []
    return lower(source.layout, "llama.cpp", multiple=multiple)


def _is_openelm(source: Source) -> bool:
    return source.family.model_types[0] == "qwen3"


def write_gguf(
    source: Source, file: Path, *, kind: str, tokenizer: Sequence[Field], progress: bool = True
) -> Layout:
    """Writes one GGUF file.

    Args:
        source: The child.
        file: The file to write.
        kind: One of `KINDS`, for what has no format of its own in the layout; vectors, and rows
            that do not fill whole blocks, stay unquantised.
        tokenizer: Its tokenizer's fields.
        progress: Whether a bar is shown.

    Returns:
        The layout that was written.

    Raises:
        ExportError: llama.cpp cannot run the child.
    """
    from gguf import GGUFWriter

    written, layers = plan_gguf(source, kind)
    architecture = "openelm" if _is_openelm(source) else "deci"
    writer = GGUFWriter(file, architecture)
    _write_header(writer, source, written, kind)
    for field in tokenizer:
        writer.add_key_value(field.key, field.value, field.kind, field.element)
    with temporary_place(file.parent) as place, (place / "tensors").open("w+b") as spool:
        steps = _tensors(source, layers, kind, progress=progress)
        if _is_openelm(source):
            steps = _openelm_tensors(source, written, kind)
        places: Counter[str] = Counter()
        for name, tensor, type_ in steps:
            if type_ in MIXES:
                type_ = _mixed(type_, name, written, places)
            data = _quantised(name, tensor, type_)
            writer.add_tensor(name, _on_disk(spool, data[0]), raw_dtype=data[1])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    writer.close()
    return written


def file_bytes(layout: Layout, kind: str) -> int:
    """Returns roughly how many bytes the file of a written layout takes."""
    return int(layout.weight_bytes(BITS.get(kind, _BITS_OF_MIXES) / 8))


def _tensors(
    source: Source, layers: list[WrittenLayer], kind: str, *, progress: bool
) -> Iterator[tuple[str, torch.Tensor, str]]:
    """Yields (name, tensor, number format) of everything that is written."""
    for name, tensor in source.outer_tensors().items():
        yield OUTER_NAMES[name], tensor, kind
    factors = _rope_factors(source.config)
    if factors is not None:
        yield "rope_freqs.weight", factors, "f32"
    biases = source.layout.shape.mlp_bias
    steps = each_layer(source.layout, layers, source.tensors, ffn_biases=biases)
    bar = counted(steps, "export", "layer", len(layers), shown=progress)
    for number, layer, tensors in bar:
        for name, tensor in _renamed(source.layout, layer.block, tensors):
            # The identity matrix that a rewritten linear map ends in has to stay exact.
            quantised = kind in (*QUANTISED, *MIXES)
            exact = layer.ffn == "linear" and name == "ffn_down.weight" and quantised
            yield f"blk.{number}.{name}", tensor, "f16" if exact else _own(layer.block, name, kind)


def _openelm_tensors(
    source: Source, written: Layout, kind: str
) -> Iterator[tuple[str, torch.Tensor, str]]:
    for name, tensor in source.outer_tensors().items():
        yield OUTER_NAMES[name], tensor, kind
    for number, tensors in enumerate(openelm_layers(source, written)):
        for name, tensor in tensors.items():
            yield f"blk.{number}.{name}", tensor, _own(written.blocks[number], name, kind)


def _own(block: Block, name: str, kind: str) -> str:
    """Returns the type of one of a block's tensors: that of its sublayer, or the file's."""
    half = block.ffn if name.startswith("ffn") else block.attention
    return half.weights or kind


def _write_header(writer: GGUFWriter, source: Source, written: Layout, kind: str) -> None:
    from gguf import LlamaFileType

    shape, config = written.shape, source.config
    heads, kv_heads, widths = [], [], []
    for block in written.blocks:
        # (heads, kv heads): (H, n) is attention, (H, 0) a linear map, (0, 0) nothing.
        heads.append(0 if block.attention.kind == "none" else block.attention.heads or shape.heads)
        kv_heads.append(block.attention.kv_heads or 0)
        widths.append(block.ffn.width or 0)
    writer.add_type("model")
    writer.add_name(getattr(config, "_name_or_path", "") or "puzzle child")
    name = "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"
    writer.add_file_type(LlamaFileType[name])
    if kind in (*QUANTISED, *MIXES) or written != written.unquantised:
        writer.add_quantization_version(2)
    writer.add_block_count(shape.layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(shape.hidden)
    writer.add_vocab_size(shape.vocab)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_feed_forward_length(widths)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if _rope_kind(config) == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])


def _rope_kind(config: Any) -> str:
    kind = config.rope_parameters.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise ExportError(
            f"rope_type={kind!r} cannot be exported to GGUF; allowed: 'default', 'linear', 'llama3'"
        )
    return kind


def _rope_factors(config: Any) -> torch.Tensor | None:
    """Returns by how much each rotary frequency is divided, where Llama 3 scales them."""
    if _rope_kind(config) != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    return config.rope_parameters["rope_theta"] ** -exponents / scaled


def _renamed(
    layout: Layout, block: Block, tensors: dict[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    rotary_heads = {
        "self_attn.q_proj": block.attention.heads or layout.shape.heads,
        "self_attn.k_proj": block.attention.kv_heads or 0,
    }
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if module in rotary_heads:
            tensor = _interleaved(tensor, rotary_heads[module])
        yield f"{LAYER_NAMES[module]}.{part}", tensor


def _interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Returns rows ordered so that rotary pairs are neighbours, as deci's graph reads them."""
    halves = tensor.unflatten(0, (heads, 2, -1))
    return halves.transpose(1, 2).flatten(0, 2)


def _mixed(mix: str, name: str, written: Layout, places: Counter[str]) -> str:
    """Returns the type of a tensor in one of llama.cpp's mixes; `places` counts those before it."""
    first, layers = written.blocks[0].attention, written.shape.layers
    own = name.partition(".")[2].partition(".")[2] if name.startswith("blk.") else name
    if own == "attn_v.weight":
        layers = sum(block.attention.kind == "gqa" for block in written.blocks)
    places[own] += 1
    return mixed_type(
        mix,
        own,
        places[own] - 1,
        layers,
        head="token_embd.weight" if written.shape.tied else "output.weight",
        groups=(first.heads or written.shape.heads) // (first.kv_heads or written.shape.heads + 1),
    )


def _quantised(name: str, tensor: torch.Tensor, kind: str) -> tuple[np.ndarray, Any]:
    """Returns the bytes of a tensor as an array, and their GGML type."""
    from gguf import GGMLQuantizationType, quants

    if kind in FALLBACKS and tensor.shape[-1] % K_BLOCK:
        kind = FALLBACKS[kind]
    if tensor.dim() == 1:
        kind = "f32"
    elif kind in QUANTISED and tensor.shape[-1] % BLOCK:
        logger.info("%s has rows of %d, not multiples of %d: f16", name, tensor.shape[-1], BLOCK)
        kind = "f16"
    data = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    type_ = GGMLQuantizationType[kind.upper()]
    return quantise(data, kind) if kind in FALLBACKS else quants.quantize(data, type_), type_


def _on_disk(spool: Any, data: np.ndarray) -> np.ndarray:
    """Returns an array whose contents are in a file: sizes come before contents in a GGUF."""
    start = spool.seek(0, os.SEEK_END)
    spool.write(data.tobytes())
    spool.flush()
    return np.memmap(spool, data.dtype, "r", offset=start, shape=data.shape)
