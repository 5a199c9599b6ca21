"""Shades of heat maps: light to dark blue, which stays readable in grey."""

from __future__ import annotations

import math

from puzzle.figures.heat_map import HeatMap

# From almost white over a middle blue to almost black, even in lightness.
STOPS = ((247, 251, 255), (158, 202, 225), (66, 146, 198), (8, 81, 156), (8, 29, 68))


def shade(share: float) -> tuple[int, int, int]:
    """Returns red, green and blue for a share from 0, light, to 1, dark."""
    at = min(1.0, max(0.0, share)) * (len(STOPS) - 1)
    first = min(int(at), len(STOPS) - 2)
    low, high = STOPS[first], STOPS[first + 1]
    red, green, blue = (round(a + (at - first) * (b - a)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def hex_shade(share: float) -> str:
    """Returns a shade as CSS has it."""
    return "#{:02x}{:02x}{:02x}".format(*shade(share))


def position(grid: HeatMap, value: float) -> float:
    """Returns where a value lies between a grid's lightest and darkest shade."""
    if grid.scale == "linear":
        share = (value - grid.low) / (grid.high - grid.low)
    elif value <= grid.low or grid.high <= grid.low:
        share = 0.0 if value <= grid.low else 1.0
    else:
        share = math.log(value / grid.low) / math.log(grid.high / grid.low)
    return min(1.0, max(0.0, share))
