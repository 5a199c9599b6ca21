"""Constraints as people write them, and the limits on additive resources that they mean."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, DecimalException
from typing import Literal

from puzzle.errors import ConstraintError
from puzzle.scenario import Scenario, rate, require_total
from solvers import Limit

__all__ = ["Constraint", "describe_infeasible", "parse_constraint", "parse_constraints"]
__all__ += ["rate", "to_limit", "to_limits"]

Relation = Literal[">=", "<="]

_RATE_UNITS = {"tokens/s": "1", "tok/s": "1"}
_TIME_UNITS = {"s": "1", "ms": "0.001"}
_BYTE_UNITS = {
    **{f"{prefix}iB": str(1024**power) for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}B": str(1000**power) for power, prefix in enumerate("KMGT", start=1)},
    "B": "1",
}
_COUNT_UNITS = {"K": "1e3", "M": "1e6", "B": "1e9"}
_RELATIVE_UNITS = {"x": "1", "×": "1", "%": "0.01"}  # noqa: RUF001 - people paste the sign


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resource:
    additive: str  # what the solvers can sum over blocks
    relation: Relation
    units: Mapping[str, str]
    # A bare "memory <= 6" could mean bytes or GiB, so only some resources do without a unit.
    bare: bool


def _speed(additive: str) -> _Resource:
    return _Resource(additive=additive, relation=">=", units=_RATE_UNITS, bare=True)


def _amount(additive: str, units: Mapping[str, str]) -> _Resource:
    return _Resource(additive=additive, relation="<=", units=units, bare=units is _COUNT_UNITS)


_RESOURCES: dict[str, _Resource] = {
    "throughput": _speed("seconds"),
    "decode_throughput": _speed("decode_seconds"),
    "prefill_throughput": _speed("prefill_seconds"),
    "latency": _amount("seconds", _TIME_UNITS),
    "memory": _amount("memory", _BYTE_UNITS),
    "kv_cache": _amount("kv_cache", _BYTE_UNITS),
    "parameters": _amount("parameters", _COUNT_UNITS),
}

_AT_LEAST: dict[str, Relation] = dict.fromkeys((">=", ">", "≥"), ">=")
_AT_MOST: dict[str, Relation] = dict.fromkeys(("<=", "<", "≤"), "<=")
_RELATIONS = _AT_LEAST | _AT_MOST
_SHAPE = re.compile(r"\s*(?P<name>[^<>=≤≥]*?)\s*(?P<relation>[<>=≤≥]+)\s*(?P<amount>.*?)\s*")
_AMOUNT = re.compile(
    r"(?P<number>[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan))\s*(?P<unit>.*)",
    re.IGNORECASE,
)
_EXACT = Context(prec=400)  # enough for any float times any unit, so it is rounded only once


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One requirement on a child model: at least or at most so much of a resource.

    Args:
        resource: throughput, decode_throughput, prefill_throughput, latency, memory, kv_cache
            or parameters.
        relation: ">=" for throughputs, "<=" for all others.
        value: Tokens/s, seconds, bytes or a count; a multiple of the parent's when relative.
        relative: Whether the value is a multiple of the parent's.

    Raises:
        ConstraintError: The resource is unknown, the relation is not the one it can have, or the
            value is not a finite positive number.

    Example:
        >>> str(Constraint(resource="memory", relation="<=", value=6 * 2**30, relative=False))
        'memory <= 6 GiB'
    """

    resource: str
    relation: Relation
    value: float
    relative: bool = False

    def __post_init__(self) -> None:
        known = _known(self.resource)
        if self.relation != known.relation:
            word = "at least" if known.relation == ">=" else "at most"
            raise ConstraintError(
                f"{self.resource} {self.relation} ... cannot be asked for: {self.resource} takes "
                f"only {word}; write '{self.resource} {known.relation} ...'."
            )
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise ConstraintError(
                f"The value of {self.resource} is {self.value!r}; give a positive number."
            )
        try:
            value = float(self.value)
        except OverflowError:
            value = math.inf
        if not (math.isfinite(value) and value > 0):
            raise ConstraintError(
                f"The value of {self.resource} is {value!r}; only finite values above zero are "
                "allowed: give a positive number."
            )
        object.__setattr__(self, "value", value)

    def __str__(self) -> str:
        """Return the canonical text, which parses back to an equal constraint."""
        if self.relative:
            return f"{self.resource} {self.relation} {_number(self.value)}x"
        return f"{self.resource} {self.relation} {_exact_amount(self.resource, self.value)}"


def _known(resource: str) -> _Resource:
    if resource in _RESOURCES:
        return _RESOURCES[resource]
    near = difflib.get_close_matches(str(resource).lower(), _RESOURCES, n=1, cutoff=0.5)
    hint = f" did you mean {near[0]!r}?" if near else ""
    raise ConstraintError(
        f"Unknown resource {resource!r}:{hint} Known resources are {', '.join(_RESOURCES)}."
    )


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _scaled(number: str, factor: str) -> float:
    try:
        return float(_EXACT.multiply(Decimal(number), Decimal(factor)))
    except (DecimalException, OverflowError):
        return math.inf


def _exact_amount(resource: str, value: float) -> str:
    """Return the shortest text in any unit of the resource that reads back as exactly value."""
    known = _RESOURCES[resource]
    plain = (
        "" if known.units is _COUNT_UNITS else next(u for u, f in known.units.items() if f == "1")
    )
    best = f"{_number(value)} {plain}".rstrip()
    for unit, factor in known.units.items():
        number = _number(value / float(factor))
        # Counts are written "111.5M"; all other units stand apart from their number.
        text = f"{number}{unit}" if known.units is _COUNT_UNITS else f"{number} {unit}"
        if factor != "1" and len(text) < len(best) and _scaled(number, factor) == value:
            best = text
    return best


def _find_unit(unit: str, units: Mapping[str, str]) -> str | None:
    if unit in units:
        return units[unit]
    # "gib" is plainly GiB, but "Gb" means gigabits to many, so mixed case has to match.
    lowered = {name.lower(): factor for name, factor in units.items()}
    return lowered.get(unit) if unit == unit.lower() else None


def _read_amount(resource: str, text: str) -> tuple[float, bool]:
    known = _RESOURCES[resource]
    allowed = ", ".join([*known.units, "x or % (of the parent's)"])
    if known.bare:
        allowed += ", or no unit"
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ConstraintError(
            f"The amount of {resource} is {text!r}; write a number and a unit, without thousands "
            f"separators. Allowed units: {allowed}."
        )
    number, unit = match["number"], match["unit"]
    relative = _find_unit(unit, _RELATIVE_UNITS)
    if relative is not None:
        return _scaled(number, relative), True
    factor = "1" if not unit and known.bare else _find_unit(unit, known.units)
    if factor is None:
        given = f"Unit {unit!r} does not fit" if unit else f"A unit is missing for {text!r} of"
        raise ConstraintError(f"{given} {resource}; allowed units: {allowed}.")
    return _scaled(number, factor), False


def parse_constraint(text: str) -> Constraint:
    """Read one constraint from text such as "throughput >= 1.25x" or "memory <= 6 GiB".

    Args:
        text: Resource, one of >= <= > < ≥ ≤ (strict means the same as not strict), and amount.

    Returns:
        The constraint, its value in tokens/s, seconds, bytes, a count, or parents.

    Raises:
        ConstraintError: The text, its resource, direction, unit or value is not allowed.

    Example:
        >>> parse_constraint("latency <= 800 ms").value
        0.8
    """
    match = _SHAPE.fullmatch(text)
    if match is None or match["relation"] not in _RELATIONS:
        raise ConstraintError(
            f"Cannot read constraint {text!r}: write a resource, >= or <=, and an amount, "
            f"e.g. 'throughput >= 1.25x'. Resources are {', '.join(_RESOURCES)}."
        )
    resource, relation = match["name"], _RELATIONS[match["relation"]]
    _known(resource)
    value, relative = _read_amount(resource, match["amount"])
    return Constraint(resource=resource, relation=relation, value=value, relative=relative)


def parse_constraints(
    constraints: str | Constraint | Iterable[str | Constraint],
) -> tuple[Constraint, ...]:
    """Read constraints, at most one for each resource.

    Args:
        constraints: One text (several parts are split at commas, semicolons or newlines), or
            texts and constraints in any mixture.

    Returns:
        The constraints in the order given.

    Raises:
        ConstraintError: A text cannot be read, or a resource is constrained twice.

    Example:
        >>> [str(c) for c in parse_constraints("throughput > 2x, memory <= 80%")]
        ['throughput >= 2x', 'memory <= 0.8x']
    """
    items = [constraints] if isinstance(constraints, str | Constraint) else constraints
    found: dict[str, Constraint] = {}
    for item in items:
        if isinstance(item, Constraint):
            parts = [item]
        elif isinstance(item, str):
            texts = [part for part in re.split(r"[,;\n]", item) if part.strip()]
            parts = [parse_constraint(part) for part in texts or [item]]
        else:
            raise ConstraintError(f"{item!r} is not a constraint; pass str or Constraint.")
        for part in parts:
            if part.resource in found:
                raise ConstraintError(
                    f"{part.resource} is constrained twice: '{found[part.resource]}' and "
                    f"'{part}'; each resource may appear once: keep the stricter of the two."
                )
            found[part.resource] = part
    return tuple(found.values())


def to_limit(constraint: Constraint, *, parent: Mapping[str, float], scenario: Scenario) -> Limit:
    """Convert a constraint to the limit on an additive resource that means the same.

    Args:
        constraint: What is required.
        parent: The parent's totals: prefill_seconds, decode_seconds, seconds, memory, kv_cache,
            parameters. Only relative constraints read it.
        scenario: What the seconds are for.

    Returns:
        An upper bound; throughput >= R becomes seconds <= batch * generated_tokens / R.

    Raises:
        ConstraintError: The parent's total is needed and missing, or not finite and positive.

    Example:
        >>> c = parse_constraint("throughput >= 2x")
        >>> to_limit(c, parent={"seconds": 3.0}, scenario=Scenario()).at_most
        1.5
    """
    known = _RESOURCES[constraint.resource]
    value = constraint.value
    if constraint.relative:
        base = require_total(parent, known.additive, "The parent's totals")
        bound = base / value if known.relation == ">=" else base * value
    elif known.relation == ">=":
        prefill = known.additive == "prefill_seconds"
        tokens = scenario.prompt_tokens if prefill else scenario.generated_tokens
        bound = scenario.batch * tokens / value
    else:
        bound = value
    if not math.isfinite(bound):
        raise ConstraintError(
            f"'{constraint}' means {known.additive} <= {bound}, which limits nothing: leave the "
            "constraint out or give a moderate value."
        )
    return Limit(known.additive, at_most=bound)


def to_limits(
    constraints: Iterable[Constraint], *, parent: Mapping[str, float], scenario: Scenario
) -> tuple[Limit, ...]:
    """Convert constraints to limits, one for each additive resource.

    Args:
        constraints: What is required.
        parent: The parent's totals, as for `to_limit`.
        scenario: What the seconds are for.

    Returns:
        The limits; where two constraints bound the same resource (throughput and latency both
        bound seconds), only the tighter is kept.

    Raises:
        ConstraintError: As for `to_limit`.

    Example:
        >>> both = parse_constraints("throughput >= 2x, latency <= 1 s")
        >>> [l.at_most for l in to_limits(both, parent={"seconds": 3.0}, scenario=Scenario())]
        [1.0]
    """
    tightest: dict[str, Limit] = {}
    for constraint in constraints:
        limit = to_limit(constraint, parent=parent, scenario=scenario)
        other = tightest.get(limit.resource)
        if other is None or (limit.at_most or 0.0) < (other.at_most or 0.0):
            tightest[limit.resource] = limit
    return tuple(tightest.values())


def _rounded(value: float, relation: Relation) -> str:
    # Three digits, rounded away from the bound: "3.42x is needed, 3.42x is reached" helps nobody.
    exponent = math.floor(math.log10(value)) - 2
    step = Decimal(1).scaleb(exponent)
    rounding = "ROUND_FLOOR" if relation == ">=" else "ROUND_CEILING"
    rounded = (Decimal(repr(value)) / step).to_integral_value(rounding) * step
    # Sixteen or more digits are easier to read as a power of ten.
    return f"{rounded.normalize():f}" if 1e-6 < value < 1e15 else f"{rounded.normalize()}"


def _readable(resource: str, value: float, relation: Relation) -> str:
    units = _RESOURCES[resource].units
    if units is _BYTE_UNITS:
        units = {name: factor for name, factor in units.items() if "i" in name or name == "B"}
    elif units is _COUNT_UNITS:
        units = {**units, "": "1"}
    elif units is _RATE_UNITS:
        units = {"tokens/s": "1"}
    fitting = {name: float(f) for name, f in units.items() if float(f) <= value}
    name = max(fitting, key=fitting.__getitem__, default=min(units, key=lambda u: float(units[u])))
    scaled = value / float(units[name])
    number = _rounded(scaled, relation) if scaled > 0 else "0"  # the tiniest floats underflow
    return f"{number}{name}" if name in ("", "K", "M") else f"{number} {name}"


def describe_infeasible(
    constraint: Constraint, most_reachable: float, parent: Mapping[str, float]
) -> str:
    """Say that a constraint cannot be met and how near the search space comes to it.

    Args:
        constraint: What was required.
        most_reachable: The best value of the constraint's own resource in the space, absolute:
            tokens/s, seconds, bytes or a count. For an at-most resource that is the least.
        parent: The parent's values by resource, for the multiple of the parent's: its totals
            together with its `rate`. Without the resource only the absolute value is named.

    Returns:
        One sentence, its numbers rounded to the side that does not meet the constraint.

    Example:
        >>> c = parse_constraint("throughput >= 9x")
        >>> describe_infeasible(c, 412.0, {"throughput": 120.4})
        'throughput >= 9x cannot be reached: the most this space reaches is 3.42x (412 tokens/s)'
    """
    resource, relation = constraint.resource, constraint.relation
    if not (math.isfinite(most_reachable) and most_reachable > 0):
        return f"{constraint} cannot be reached: no value of {resource} can be reached at all"
    absolute = _readable(resource, most_reachable, relation)
    base = parent.get(resource, parent.get("seconds", 0.0) if resource == "latency" else 0.0)
    ratio = most_reachable / base if base > 0 else 0.0
    multiple = f"{_rounded(ratio, relation)}x" if 0 < ratio < math.inf else ""
    first, second = (multiple, absolute) if constraint.relative else (absolute, multiple)
    figures = f"{first} ({second})" if first and second else absolute
    word = "most" if relation == ">=" else "least"
    return f"{constraint} cannot be reached: the {word} this space reaches is {figures}"
