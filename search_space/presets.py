"""Named search spaces: what each layer may become, for a shape."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from search_space.engines import ENGINES, ServingEngine, attention_kinds, ffn_kinds
from search_space.options import LayerOptions
from search_space.shape import ModelShape

# The published children have widths that engines read from a multiplier.
PUBLISHED_MULTIPLE = 256


@dataclass(frozen=True, slots=True)
class Preset:
    """A named search space.

    Args:
        options: What a layer may become.
        exceptions: Layers with other options, by number; negative ones count from the end.
        whole_layers: As in `SearchSpace`.
        distinct: As in `SearchSpace`.
    """

    options: LayerOptions
    exceptions: Mapping[int, LayerOptions] = field(default_factory=dict)
    whole_layers: bool = False
    distinct: int | None = None


def _small(shape: ModelShape) -> Preset:
    # The fewest KV heads only, whatever the parent's number.
    fewest = (1,) if shape.kv_heads > 1 else ()
    return Preset(
        LayerOptions(
            attention=("gqa", "none"),
            kv_heads=fewest,
            ffn=("gated", "none"),
            ffn_shares=(0.75, 0.5),
        )
    )


def _serving(engine: ServingEngine) -> Callable[[ModelShape], Preset]:
    def options(*, first: bool, last: bool) -> LayerOptions:
        return LayerOptions(
            attention=attention_kinds(engine, first=first),
            ffn=ffn_kinds(engine, last=last),
            multiple=engine.preferred_multiple,
        )

    def preset(shape: ModelShape) -> Preset:
        final = shape.layers - 1
        special = {layer: options(first=layer == 0, last=layer == final) for layer in (0, final)}
        usual = options(first=False, last=False)
        return Preset(usual, {layer: at for layer, at in special.items() if at != usual})

    return preset


def _plain(*kinds: str, distinct: int | None = None) -> Callable[[ModelShape], Preset]:
    return lambda shape: Preset(
        LayerOptions(
            attention=tuple("gqa" if k == "narrow" else k for k in kinds),
            ffn=tuple("gated" if k == "narrow" else k for k in kinds),
        ),
        whole_layers=True,
        distinct=distinct,
    )


def _of(**options: object) -> Callable[[ModelShape], Preset]:
    preset = Preset(LayerOptions(**options))  # type: ignore[arg-type]
    return lambda shape: preset


PRESETS: Mapping[str, Callable[[ModelShape], Preset]] = MappingProxyType(
    {
        "default": _of(),
        "small": _small,
        "attention": _of(ffn=()),
        "ffn": _of(attention=()),
        "no-op-only": _of(attention="none", ffn="none"),
        # arXiv 2411.19146: 6 attention options by 9 FFN options for 8 KV heads.
        "puzzle-paper": _of(
            ffn_shares=(0.87, 0.75, 0.5, 0.25, 0.2, 0.1), multiple=PUBLISHED_MULTIPLE
        ),
        # arXiv 2505.00949: attention is kept or removed, FFNs are narrowed or removed.
        "nemotron-super": _of(
            attention="none",
            ffn=("gated", "none"),
            ffn_shares=(0.75, 0.625, 0.5, 0.25, 0.2, 0.1),
            multiple=PUBLISHED_MULTIPLE,
        ),
        "depth": _plain("none"),
        "uniform": _plain("narrow", distinct=1),
        "plain": _plain("narrow", "none", distinct=1),
        **{
            f"serving:{name}": _serving(engine)
            for name, engine in ENGINES.items()
            if name != "plain"
        },
    }
)


def preset_named(name: str, shape: ModelShape) -> Preset:
    """Returns what a named search space holds for a parent.

    Raises:
        ValueError: There is no preset of that name; the nearest is named.

    Example:
        >>> shape = ModelShape(layers=2, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32)
        >>> preset_named("no-op-only", shape).options.attention
        ('none',)
    """
    if not isinstance(name, str) or name not in PRESETS:
        close = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"search space {name!r}{hint}; allowed: {sorted(PRESETS)}")
    return PRESETS[name](shape)
