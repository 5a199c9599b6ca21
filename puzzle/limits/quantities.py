"""What can be constrained: each quantity's units, and the additive resources it is made of."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, DecimalException
from typing import Literal

from puzzle.errors import ConstraintError
from puzzle.limits.scenario import Scenario

__all__ = ["QUANTITIES", "Quantity", "Relation", "exact_amount", "find_quantity", "readable"]
__all__ += ["read_amount", "rounded", "shortest"]

Relation = Literal[">=", "<="]

_RATE_UNITS = {"tokens/s": "1", "tok/s": "1"}
_TIME_UNITS = {"s": "1", "ms": "0.001"}
_BYTE_UNITS = {
    **{f"{prefix}iB": str(1024**power) for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}B": str(1000**power) for power, prefix in enumerate("KMGT", start=1)},
    "B": "1",
}
_COUNT_UNITS = {"K": "1e3", "M": "1e6", "B": "1e9"}
_ENERGY_UNITS = {"J": "1", "mJ": "0.001", "kJ": "1000"}
_FLOP_UNITS = {"FLOP": "1", "GFLOP": "1e9", "TFLOP": "1e12", "PFLOP": "1e15"}
_SCORE_UNITS = {"nats": "1"}
_RELATIVE_UNITS = {"x": "1", "×": "1", "%": "0.01"}  # noqa: RUF001 - people paste the sign
_AMOUNT = re.compile(
    r"(?P<number>[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan))\s*(?P<unit>.*)",
    re.IGNORECASE,
)
_EXACT = Context(prec=400)  # enough for any float times any unit, so it is rounded only once


def _one(scenario: Scenario) -> int:
    return 1


def _generated(scenario: Scenario) -> int:
    return scenario.batch * scenario.generated_tokens


def _prompts(scenario: Scenario) -> int:
    return scenario.batch * scenario.prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """Something that people constrain, as a sum of what cost models give.

    Args:
        terms: (factor, additive resource) of the sum.
        relations: The sides on which it can be bounded.
        units: Size of each unit, as decimal text.
        bare: Whether a number without a unit is understood: "memory <= 6" is not.
        per: What the sum is divided by, or for a rate what is divided by the sum.
        rate: Whether it is a rate, better when larger.
        mixes: Whether several scenarios make one figure by their weights, as for a throughput;
            otherwise the bound applies to each.
    """

    terms: tuple[tuple[float, str], ...]
    relations: tuple[Relation, ...] = ("<=",)
    units: Mapping[str, str]
    bare: bool = False
    per: Callable[[Scenario], float] = _one
    rate: bool = False
    mixes: bool = False


def _rate(additive: str, per: Callable[[Scenario], float]) -> Quantity:
    return Quantity(
        terms=((1.0, additive),), relations=(">=",), units=_RATE_UNITS, bare=True, per=per,
        rate=True, mixes=True,
    )  # fmt: skip


def _amount(
    additive: str,
    units: Mapping[str, str],
    *,
    bare: bool = False,
    per: Callable[[Scenario], float] = _one,
    mixes: bool = False,
) -> Quantity:
    return Quantity(terms=((1.0, additive),), units=units, bare=bare, per=per, mixes=mixes)


QUANTITIES: dict[str, Quantity] = {
    "throughput": _rate("seconds", _generated),
    "decode_throughput": _rate("decode_seconds", _generated),
    "prefill_throughput": _rate("prefill_seconds", _prompts),
    "latency": _amount("seconds", _TIME_UNITS),
    "ttft": _amount("prefill_seconds", _TIME_UNITS),
    "seconds_per_answer": _amount("seconds", _TIME_UNITS, per=lambda s: s.batch, mixes=True),
    "tpot": _amount("decode_seconds", _TIME_UNITS, per=lambda s: s.generated_tokens),
    "memory": _amount("memory", _BYTE_UNITS),
    "weight_memory": Quantity(terms=((1.0, "memory"), (-1.0, "kv_cache")), units=_BYTE_UNITS),
    "peak_memory": _amount("peak_memory", _BYTE_UNITS),
    "kv_cache": _amount("kv_cache", _BYTE_UNITS),
    "parameters": _amount("parameters", _COUNT_UNITS, bare=True),
    "flops": _amount("flops", _FLOP_UNITS, mixes=True),
    "energy": _amount("energy", _ENERGY_UNITS, mixes=True),
    "energy_per_token": _amount("energy", _ENERGY_UNITS, per=_generated, mixes=True),
    "kl": _amount("kl", _SCORE_UNITS, bare=True),
}
"""Every quantity that is known by name; cost models add their own."""


def find_quantity(name: str, own_unit: str | None = None) -> Quantity:
    """Returns a quantity by its name.

    Args:
        name: A name in `QUANTITIES`, or one that a cost model adds.
        own_unit: The unit of a cost model's own resource.

    Raises:
        ConstraintError: The name is in neither.
    """
    if name in QUANTITIES:
        return QUANTITIES[name]
    if own_unit is not None:
        units = {own_unit: "1", **_COUNT_UNITS} if own_unit else dict(_COUNT_UNITS)
        return Quantity(terms=((1.0, name),), relations=("<=", ">="), units=units, bare=True)
    near = difflib.get_close_matches(str(name).lower(), QUANTITIES, n=1, cutoff=0.5)
    hint = f" did you mean {near[0]!r}?" if near else ""
    raise ConstraintError(
        f"Unknown resource {name!r}:{hint} Known resources are {', '.join(QUANTITIES)}; others "
        "come with a cost model that declares them, in its class where a class is given."
    )


def shortest(value: float) -> str:
    """Returns the shortest text that reads back as the value."""
    return repr(value).removesuffix(".0")


def _scaled(number: str, factor: str) -> float:
    try:
        return float(_EXACT.multiply(Decimal(number), Decimal(factor)))
    except (DecimalException, OverflowError):
        return math.inf


def exact_amount(quantity: Quantity, value: float) -> str:
    """Returns the shortest text in any unit of the quantity that reads back as exactly value."""
    units = quantity.units
    plain = next((unit for unit, factor in units.items() if factor == "1"), "")
    best = f"{shortest(value)} {plain}".rstrip()
    for unit, factor in units.items():
        number = shortest(value / float(factor))
        # Counts are written "111.5M"; all other units stand apart from their number.
        text = (
            f"{number}{unit}"
            if unit in _COUNT_UNITS and units is _COUNT_UNITS
            else f"{number} {unit}"
        )
        if factor != "1" and len(text) < len(best) and _scaled(number, factor) == value:
            best = text
    return best


def _find_unit(unit: str, units: Mapping[str, str]) -> str | None:
    if unit in units:
        return units[unit]
    # "gib" is plainly GiB, but "Gb" means gigabits to many, so mixed case has to match.
    lowered = {name.lower(): factor for name, factor in units.items()}
    return lowered.get(unit) if unit == unit.lower() else None


def read_amount(name: str, quantity: Quantity, text: str) -> tuple[float, bool]:
    """Returns the value of an amount given as text, and whether it is a multiple of the parent's.

    Raises:
        ConstraintError: It is not a number, or its unit is missing or that of another quantity.
    """
    allowed = ", ".join([*quantity.units, "x or % (of the parent's)"])
    if quantity.bare:
        allowed += ", or no unit"
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ConstraintError(
            f"The amount of {name} is {text!r}; write a number and a unit, without thousands "
            f"separators. Allowed units: {allowed}."
        )
    number, unit = match["number"], match["unit"]
    relative = _find_unit(unit, _RELATIVE_UNITS)
    if relative is not None:
        return _scaled(number, relative), True
    factor = "1" if not unit and quantity.bare else _find_unit(unit, quantity.units)
    if factor is None:
        given = f"Unit {unit!r} does not fit" if unit else f"A unit is missing for {text!r} of"
        raise ConstraintError(f"{given} {name}; allowed units: {allowed}.")
    return _scaled(number, factor), False


def rounded(value: float, relation: Relation) -> str:
    """Returns three digits, rounded away from the bound.

    Otherwise a message could say "3.42x is needed, 3.42x is reached".
    """
    exponent = math.floor(math.log10(value)) - 2
    step = Decimal(1).scaleb(exponent)
    rounding = "ROUND_FLOOR" if relation == ">=" else "ROUND_CEILING"
    whole = (Decimal(repr(value)) / step).to_integral_value(rounding) * step
    # Sixteen or more digits are easier to read as a power of ten.
    return f"{whole.normalize():f}" if 1e-6 < value < 1e15 else f"{whole.normalize()}"


def readable(quantity: Quantity, value: float, relation: Relation) -> str:
    """Returns a value in the unit that suits its size, rounded away from the bound."""
    units = dict(quantity.units)
    if quantity.units is _BYTE_UNITS:
        units = {name: factor for name, factor in units.items() if "i" in name or name == "B"}
    elif quantity.units is _COUNT_UNITS:
        units[""] = "1"
    elif quantity.units is _RATE_UNITS:
        units = {"tokens/s": "1"}
    fitting = {name: float(f) for name, f in units.items() if float(f) <= value}
    name = max(fitting, key=fitting.__getitem__, default=min(units, key=lambda u: float(units[u])))
    scaled = value / float(units[name])
    number = rounded(scaled, relation) if scaled > 0 else "0"  # the tiniest floats underflow
    return f"{number}{name}" if name in ("", "K", "M") else f"{number} {name}"
