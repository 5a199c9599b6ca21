"""Whether an answer follows from its thought, as far as that can be checked."""

from __future__ import annotations

import re
from math import prod

# Sums and products of whole numbers, and what they are said to be.
_NUMBER = r"-?\d+"
_STEP = re.compile(
    rf"(?<![\w.])({_NUMBER}(?:\s*[-+*]\s*\d+)+)\s*=\s*({_NUMBER})(?!\w|\.\d)", re.ASCII
)


def consistency(thought: str, answer: str) -> float:
    """Returns how far an answer follows from its thought, from 0 to 1.

    One half is the share of the thought's steps that hold, of those that can be checked: sums and
    products of whole numbers. The other is whether the last number of the thought is the answer's.
    What a thought does not have counts as held.

    Example:
        >>> consistency("1+1=2; 2+2=5", "5"), consistency("as one sees", "5")
        (0.75, 1.0)
    """
    steps, place = [], 0
    while step := _STEP.search(thought, place):
        steps.append(_value(step[1]) == int(step[2]))
        place = step.start(2)  # where the next sum may start
    held = sum(steps) / len(steps) if steps else 1.0
    last, own = (re.findall(_NUMBER, text, re.ASCII)[-1:] for text in (thought, answer))
    return (held + float(not last or not own or last == own)) / 2


def _value(expression: str) -> int:
    """Returns the value of a sum of products of whole numbers."""
    terms = re.findall(r"([-+]?)\s*(\d+(?:\s*\*\s*\d+)*)", expression)
    return sum(
        (-1 if sign == "-" else 1) * prod(int(number) for number in product.split("*"))
        for sign, product in terms
    )
