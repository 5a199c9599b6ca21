"""The three number formats of a search: what it works in, what it serves, what it stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puzzle.errors import PuzzleError
from puzzle.storage.json_values import field_values

__all__ = ["AUTO", "NUMBER_FORMATS", "FormatChoice", "Formats", "Precision", "choose_format"]

AUTO = "auto"
# By preference among those that are about equally fast: bfloat16 takes half the memory of float32,
# and float16 overflows where neither of them does.
NUMBER_FORMATS = ("bfloat16", "float32", "float16")
# A processor without products in a format converts every operand, and is two to forty times
# slower in it; smaller differences are noise, or too small to matter.
CLEARLY = 1.25
AS_GIVEN = "as given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The number formats that do not decide what is served, which `Scenario.weight_dtype` does.

    Args:
        working: What the parent runs in while variants are fitted and scored: "float32",
            "bfloat16" or "float16"; "auto" for what the device computes fast.
        stored: What the child's files hold: one of these, or "auto" for what the parent's own
            checkpoint holds (where that is not known, as with a GGUF, what is served).

    Raises:
        PuzzleError: A format is unknown.

    Example:
        >>> Precision.of("float32")
        Precision(working='float32', stored='float32')
    """

    working: str = AUTO
    stored: str = AUTO

    def __post_init__(self) -> None:
        for name in ("working", "stored"):
            value = getattr(self, name)
            if value != AUTO and value not in NUMBER_FORMATS:
                allowed = ", ".join((AUTO, *NUMBER_FORMATS))
                raise PuzzleError(f"Precision.{name} is {value!r}; allowed: {allowed}")

    @classmethod
    def of(cls, value: Precision | str) -> Precision:
        """Returns a precision as it is, or one whose two formats are both the given one."""
        return value if isinstance(value, Precision) else cls(working=value, stored=value)


@dataclass(frozen=True, slots=True)
class FormatChoice:
    """A number format, and why it was chosen.

    Args:
        name: "float32", "bfloat16" or "float16".
        reason: In a few words.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """What a search works in, serves and stores.

    Args:
        working: What the parent runs in while variants are fitted and scored.
        served: What parent and child are timed in, and their bytes counted in.
        stored: What the child's files hold.
    """

    working: FormatChoice
    served: FormatChoice
    stored: FormatChoice

    def __str__(self) -> str:
        return f"works in {self.working}, serves in {self.served}, stores in {self.stored}"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values: name and reason of each."""
        return {
            part: {"name": choice.name, "reason": choice.reason}
            for part, choice in (
                ("working", self.working),
                ("served", self.served),
                ("stored", self.stored),
            )
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, str]]) -> Formats:
        """Returns the formats that `to_dict` wrote.

        Raises:
            DataError: A value is missing, or of another kind.
        """
        parts = field_values(cls, values, skip=("working", "served", "stored"))
        return cls(**{k: FormatChoice(**field_values(FormatChoice, v)) for k, v in parts.items()})


def choose_format(seconds: Mapping[str, float], device: str) -> FormatChoice:
    """Returns the first of `NUMBER_FORMATS` that is not clearly slower than the fastest one.

    Args:
        seconds: What the same products take in each format; float32 is among them.
        device: What to call the device.

    Example:
        >>> choose_format({"float32": 1.0, "bfloat16": 4.1}, "this CPU (AVX2)").reason
        'bfloat16 products run 4.1 times slower on this CPU (AVX2)'
    """
    fastest = min(seconds.values())
    name = next(n for n in NUMBER_FORMATS if seconds.get(n, float("inf")) <= CLEARLY * fastest)
    if name != "bfloat16" and "bfloat16" in seconds:
        slower = seconds["bfloat16"] / seconds[name]
        return FormatChoice(name, f"bfloat16 products run {slower:.1f} times slower on {device}")
    faster = seconds["float32"] / seconds[name]
    if faster > CLEARLY:
        return FormatChoice(name, f"float32 products run {faster:.1f} times slower on {device}")
    return FormatChoice(name, f"as fast as float32 on {device}, in half the memory")
