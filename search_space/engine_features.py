"""What a layout may need of an engine, by name, and how an engine has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "kv_heads": "KV heads that differ between layers",
        "query_heads": "KV heads removed with their query heads",
        "window": "attention within a window",
        "ffn_width": "FFN widths that differ between layers",
        "no_attention": "no attention, FFN kept",
        "no_attention_first": "no attention in the first layer",
        "no_ffn": "attention, no FFN",
        "no_ffn_last": "no FFN in the last layer",
        "no_layer": "a layer that does nothing",
        "no_attention_at_all": "no softmax attention in any layer",
        "linear_attention": "linear attention",
        "linear_ffn": "linear FFN",
        "experts": "mixtures of experts that differ between layers",
        "weights": "weights in a format of a sublayer's own",
    }
)


@dataclass(frozen=True, slots=True)
class Support:
    """How an engine supports a feature.

    Args:
        how: "native", "rewritten" (exactly, by the exporter) or "no".
        note: What the exporter writes, or why the engine cannot.
        costly: Whether the rewriting costs more time or memory than the variant itself; search
            spaces for the engine leave such variants out.
        tried: Whether it was run and compared with torch, rather than read in the engine's code.
    """

    how: str
    note: str = ""
    costly: bool = False
    tried: bool = True

    def __post_init__(self) -> None:
        if self.how not in ("native", "rewritten", "no"):
            raise ValueError(f"how={self.how!r}; allowed: 'native', 'rewritten', 'no'")
        if self.how != "native" and not self.note:
            raise ValueError(f"how={self.how!r} needs a note: what is written, or why it cannot be")
