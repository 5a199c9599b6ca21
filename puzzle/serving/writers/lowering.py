"""Rewriting a layout exactly into what an engine has: layers first, then their tensors.

`lower` says for every layer that will be written which layer of the child it comes from and what
becomes of its sublayers; `written_tensors` then makes the tensors of one layer, so that a child is
rewritten a layer at a time. Which rewriting is needed where is `search_space.ENGINES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from puzzle.errors import ExportError
from search_space import FFN, Attention, Block, Layout, check_layout
from search_space.engines import engine_named
from search_space.fusion import with_blocks
from search_space.plain_layouts import EMPTY

# SiLU(16) is 16 within 1.2e-7, and 16 and 1/16 are themselves in every number format; the gate
# where SiLU is 1, 1.2785, would be off by 0.3 % in bfloat16.
GATE = 16.0
ZERO_WIDTH = 32

INPUT_NORM, OUTPUT_NORM = "input_layernorm.weight", "post_attention_layernorm.weight"
LINEAR = "linear_proj.weight"


@dataclass(frozen=True, slots=True)
class WrittenLayer:
    """A layer as it is written.

    Args:
        block: Its block in the config that the engine reads.
        source: The child's layer that it comes from.
        attention: "own" (with heads of zeros where the block has more of them), "zeros" (a new
            attention that adds nothing), "repeat" (its KV heads repeated) or "drop" (written
            elsewhere, or absent).
        ffn: "own" (padded with zero channels up to the block's width), "zeros", "linear" (the
            FFN's linear map as a gated FFN), "attention" (the attention's linear map as a gated
            FFN) or "drop".
    """

    block: Block
    source: int
    attention: str = "own"
    ffn: str = "own"


def lower(layout: Layout, engine: str, *, multiple: int = 1) -> tuple[Layout, list[WrittenLayer]]:
    """Returns the layout that is written for an engine, and where its layers come from.

    Args:
        layout: The child's layout.
        engine: One of `search_space.ENGINES`.
        multiple: FFN widths are padded up to a multiple of this.

    Raises:
        ExportError: The engine cannot run the layout; layer, block and what to do are named.
    """
    require_layout(layout, engine)
    if engine_named(engine).support["weights"].how != "native":
        layout = layout.unquantised
    layers = _LOWERINGS[engine](layout)
    layers = [_padded(layer, multiple) for layer in layers]
    return with_blocks(layout.shape, [layer.block for layer in layers]), layers


def require_layout(layout: Layout, engine: str) -> None:
    """Raises ExportError if an engine cannot run a layout, not even rewritten."""
    try:
        check_layout(layout, engine)
    except ValueError as error:
        raise ExportError(str(error)) from error


def _own(layout: Layout) -> list[WrittenLayer]:
    return [
        WrittenLayer(
            block,
            index,
            "drop" if block.attention.kind == "none" else "own",
            "drop" if block.ffn.kind == "none" else "own",
        )
        for index, block in enumerate(layout.blocks)
    ]


def _zero_attention(layer: WrittenLayer, attention: Attention) -> WrittenLayer:
    block = Block(attention, layer.block.ffn)
    return replace(layer, block=block, attention="zeros")


def _with_a_cache(layers: list[WrittenLayer]) -> list[WrittenLayer]:
    """Returns layers of which at least one has softmax attention, so that a cache is not empty."""
    if any(layer.block.attention.kind == "gqa" for layer in layers):
        return layers
    if layers[0].block.attention.kind != "none":
        layers = [WrittenLayer(EMPTY, layers[0].source, "drop", "drop"), *layers]
    return [_zero_attention(layers[0], Attention("gqa", 1)), *layers[1:]]


def _linear_ffn_as_gated(layer: WrittenLayer, hidden: int) -> WrittenLayer:
    if layer.block.ffn.kind != "linear":
        return layer
    block = Block(layer.block.attention, FFN("gated", hidden))
    return replace(layer, block=block, ffn="linear")


def _with_all_heads(layers: list[WrittenLayer], heads: int) -> list[WrittenLayer]:
    """Returns layers whose removed groups of heads are there again, made of zeros."""
    written = []
    for layer in layers:
        own = layer.block.attention
        if own.heads is not None:
            whole = Attention("gqa", heads * (own.kv_heads or 1) // own.heads)
            layer = replace(layer, block=Block(whole, layer.block.ffn))
        written.append(layer)
    return written


def _for_vllm(layout: Layout) -> list[WrittenLayer]:
    hidden, layers = layout.shape.hidden, []
    for layer in _with_all_heads(_own(layout), layout.shape.heads):
        if layer.block.attention.kind == "linear":
            extra = Block(Attention("none"), FFN("gated", hidden))
            layers.append(WrittenLayer(extra, layer.source, "drop", "attention"))
            block = Block(Attention("none"), layer.block.ffn)
            layer = replace(layer, block=block, attention="drop")
        layers.append(_linear_ffn_as_gated(layer, hidden))
    if layers[0].block.attention.kind == "none":
        layers[0] = _zero_attention(layers[0], Attention("gqa", 1))
    return layers


def _for_llama_cpp(layout: Layout) -> list[WrittenLayer]:
    hidden = layout.shape.hidden
    layers = _with_a_cache([_linear_ffn_as_gated(layer, hidden) for layer in _own(layout)])
    if layers[0].block.attention.kind == "none":
        layers[0] = _zero_attention(layers[0], Attention("linear"))
    for index, layer in enumerate(layers):
        # llama.cpp skips a layer with neither sublayer, as it should, unless it is the last.
        inert = layer.block.attention.kind == "none" and index < len(layers) - 1
        if layer.block.ffn.kind == "none" and not inert:
            block = Block(layer.block.attention, FFN("gated", ZERO_WIDTH))
            layers[index] = replace(layer, block=block, ffn="zeros")
    return layers


def _for_mlx(layout: Layout) -> list[WrittenLayer]:
    return _with_a_cache(_with_all_heads(_own(layout), layout.shape.heads))


def _for_tensorrt_llm(layout: Layout) -> list[WrittenLayer]:
    return _with_all_heads(_own(layout), layout.shape.heads)


def _for_sglang(layout: Layout) -> list[WrittenLayer]:
    own = _with_all_heads(_own(layout), layout.shape.heads)
    common = math.lcm(*(layer.block.attention.kv_heads or 1 for layer in own))
    layers = []
    for layer in own:
        if layer.block.attention.kv_heads not in (None, common):
            block = Block(Attention("gqa", common), layer.block.ffn)
            layer = replace(layer, block=block, attention="repeat")
        layers.append(layer)
    return layers


_LOWERINGS = {
    "transformers": _own,
    "vllm": _for_vllm,
    "llama.cpp": _for_llama_cpp,
    "mlx": _for_mlx,
    "tensorrt-llm": _for_tensorrt_llm,
    "sglang": _for_sglang,
}


def _padded(layer: WrittenLayer, multiple: int) -> WrittenLayer:
    width = layer.block.ffn.width
    if width is None or width % multiple == 0:
        return layer
    wider = replace(layer.block.ffn, width=-(-width // multiple) * multiple)
    return replace(layer, block=Block(layer.block.attention, wider))


def needs_ffn_biases(layers: list[WrittenLayer]) -> bool:
    """Returns whether a rewritten FFN needs biases where the child may have none."""
    return any(layer.ffn in ("linear", "attention") for layer in layers)


def width_multiple(engine: str) -> int:
    """Returns the multiple that an engine's FFN widths have to be."""
    return engine_named(engine).width_multiple


def written_tensors(
    layout: Layout, layer: WrittenLayer, tensors: Mapping[str, torch.Tensor], *, ffn_biases: bool
) -> dict[str, torch.Tensor]:
    """Returns the tensors of a written layer by their names within the layer.

    Args:
        layout: The child's layout.
        layer: What is written.
        tensors: The tensors of the child's layer that it comes from.
        ffn_biases: Whether every gated FFN has biases.

    Raises:
        ExportError: The child's layer has tensors that a Llama does not have.
    """
    _refuse_unknown(layer.source, layout.blocks[layer.source], tensors)
    like = next(iter(tensors.values()), torch.zeros(0))
    written: dict[str, torch.Tensor] = {}
    if layer.attention != "drop":
        written |= _attention_tensors(layout, layer, tensors, like)
    if layer.ffn != "drop":
        written |= _ffn_tensors(layout, layer, tensors, like, ffn_biases)
    return {name: tensor.contiguous() for name, tensor in written.items()}


def _refuse_unknown(source: int, block: Block, tensors: Mapping[str, torch.Tensor]) -> None:
    known = {INPUT_NORM, OUTPUT_NORM, f"self_attn.{LINEAR}", f"mlp.{LINEAR}"}
    for sublayer, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down"))):
        known |= {f"{sublayer}.{n}_proj.{part}" for n in names for part in ("weight", "bias")}
    unknown = sorted(set(tensors) - known)
    if unknown:
        raise ExportError(
            f"layer {source} ({block.label}) has tensors {unknown}, which no export format here "
            "has a place for; allowed: those of a Llama layer and linear maps without a bias"
        )


def _attention_tensors(
    layout: Layout, layer: WrittenLayer, tensors: Mapping[str, torch.Tensor], like: torch.Tensor
) -> dict[str, torch.Tensor]:
    if layer.attention == "zeros":
        return _zero_attention_tensors(layout, layer.block.attention, like)
    written = {n: t for n, t in tensors.items() if n.startswith(("self_attn.", "input_"))}
    source, shape = layout.blocks[layer.source].attention, layout.shape
    own = source.kv_heads or 1
    if source.heads is not None and layer.block.attention.heads is None:
        group, own = source.heads // own, shape.heads * own // source.heads
        rows = {"q": own * group, "k": own, "v": own}
        written = {n: _with_zero_heads(n, t, rows, shape.head_dim) for n, t in written.items()}
    if layer.attention == "repeat":
        times = (layer.block.attention.kv_heads or own) // own
        for name in [n for n in written if n.startswith(("self_attn.k_", "self_attn.v_"))]:
            heads = written[name].unflatten(0, (own, shape.head_dim))
            written[name] = heads.repeat_interleave(times, 0).flatten(0, 1)
    return written


def _with_zero_heads(
    name: str, tensor: torch.Tensor, heads: Mapping[str, int], head_dim: int
) -> torch.Tensor:
    """Returns a tensor of an attention with heads of zeros added up to some numbers of them."""
    part = name.removeprefix("self_attn.")[0]
    if name == "self_attn.o_proj.weight":
        missing = heads["q"] * head_dim - tensor.shape[1]
        return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing)], 1)
    if not name.startswith("self_attn.") or part not in heads:
        return tensor
    missing = heads[part] * head_dim - tensor.shape[0]
    return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])


def _zero_attention_tensors(
    layout: Layout, attention: Attention, like: torch.Tensor
) -> dict[str, torch.Tensor]:
    shape = layout.shape
    tensors = {INPUT_NORM: like.new_ones(shape.hidden)}
    if attention.kind == "linear":
        return {**tensors, f"self_attn.{LINEAR}": like.new_zeros(shape.hidden, shape.hidden)}
    queries, keys = shape.heads * shape.head_dim, (attention.kv_heads or 0) * shape.head_dim
    sizes = {
        "q": (queries, shape.hidden),
        "k": (keys, shape.hidden),
        "v": (keys, shape.hidden),
        "o": (shape.hidden, queries),
    }
    for name, size in sizes.items():
        tensors[f"self_attn.{name}_proj.weight"] = like.new_zeros(size)
        if shape.attention_bias:
            tensors[f"self_attn.{name}_proj.bias"] = like.new_zeros(size[0])
    return tensors


def _ffn_tensors(
    layout: Layout,
    layer: WrittenLayer,
    tensors: Mapping[str, torch.Tensor],
    like: torch.Tensor,
    biases: bool,
) -> dict[str, torch.Tensor]:
    hidden, width = layout.shape.hidden, layer.block.ffn.width
    if width is None:
        return {n: t for n, t in tensors.items() if n.startswith(("mlp.", "post_"))}
    if layer.ffn in ("linear", "attention"):
        module, norm = ("mlp", OUTPUT_NORM) if layer.ffn == "linear" else ("self_attn", INPUT_NORM)
        written = _map_as_gated(tensors[f"{module}.{LINEAR}"])
        written[OUTPUT_NORM] = tensors[norm]
    elif layer.ffn == "zeros":
        empty = like.new_zeros(0, hidden)
        written = {"mlp.gate_proj.weight": empty, "mlp.up_proj.weight": empty}
        written |= {"mlp.down_proj.weight": empty.T, OUTPUT_NORM: like.new_ones(hidden)}
    else:
        written = {n: t for n, t in tensors.items() if n.startswith(("mlp.", "post_"))}
    if biases:
        for name, size in (("gate", width), ("up", width), ("down", hidden)):
            written.setdefault(f"mlp.{name}_proj.bias", like.new_zeros(size))
    return {name: _widened(name, tensor, width) for name, tensor in written.items()}


def _map_as_gated(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns a gated FFN that is a linear map: down(SiLU(gate) * up) = I/16 (16 * W x)."""
    hidden = weight.shape[0]
    return {
        "mlp.gate_proj.weight": torch.zeros_like(weight),
        "mlp.gate_proj.bias": weight.new_full((hidden,), GATE),
        "mlp.up_proj.weight": weight,
        "mlp.down_proj.weight": torch.eye(hidden, dtype=weight.dtype, device=weight.device) / GATE,
    }


def _widened(name: str, tensor: torch.Tensor, width: int) -> torch.Tensor:
    """Returns a tensor of an FFN with zero channels added up to a width."""
    if name.startswith(("mlp.gate_proj.", "mlp.up_proj.")):
        missing = width - tensor.shape[0]
        return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])
    if name == "mlp.down_proj.weight":
        return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], width - tensor.shape[1])], 1)
    return tensor


def each_layer(
    layout: Layout,
    layers: list[WrittenLayer],
    tensors: Mapping[str, torch.Tensor],
    *,
    ffn_biases: bool,
) -> Iterator[tuple[int, WrittenLayer, dict[str, torch.Tensor]]]:
    """Yields (number, layer, tensors) of every written layer, read from the child one by one."""
    names: dict[int, list[str]] = {}
    for name in tensors:
        if name.startswith("model.layers."):
            names.setdefault(int(name.split(".")[2]), []).append(name)
    for number, layer in enumerate(layers):
        prefix = f"model.layers.{layer.source}."
        own = {name.removeprefix(prefix): tensors[name] for name in names.get(layer.source, [])}
        yield number, layer, written_tensors(layout, layer, own, ffn_biases=ffn_biases)
