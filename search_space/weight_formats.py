"""Number formats of a sublayer's matrices: the one list of them, with sizes and engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """A format in which an engine stores the matrices of a sublayer.

    Args:
        name: Its name in layouts and in the engine.
        bits: Bits of a weight, with its share of the scales.
        block: Neighbouring weights of a row that share a scale; rows consist of whole blocks.
        engines: The names in `search_space.ENGINES` of those that compute with it.
    """

    name: str
    bits: float
    block: int
    engines: tuple[str, ...]

    @property
    def bytes(self) -> float:
        """Bytes of a weight, with its share of the scales."""
        return self.bits / 8


_BITS = {"q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5}

WEIGHT_FORMATS: Mapping[str, WeightFormat] = MappingProxyType(
    {
        name: WeightFormat(name=name, bits=bits, block=32, engines=("llama.cpp",))
        for name, bits in _BITS.items()
    }
)
"""The formats that a sublayer may have in place of the one that is served, most bits first."""


def weight_format(name: str) -> WeightFormat:
    """Returns the format of a name.

    Raises:
        ValueError: There is none; the allowed ones are named.

    Example:
        >>> weight_format("q4_0").bits
        4.5
    """
    if not isinstance(name, str) or name not in WEIGHT_FORMATS:
        raise ValueError(f"weights={name!r:.60}; allowed: {', '.join(WEIGHT_FORMATS)}")
    return WEIGHT_FORMATS[name]
