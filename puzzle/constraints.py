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
from puzzle.scenario import Scenario
from solvers import Limit

__all__ = [
    "Constraint",
    "describe_infeasible",
    "parse_constraint",
    "parse_constraints",
    "rate",
    "to_limit",
    "to_limits",
]

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


_RESOURCES: dict[str, _Resource] = {
    "throughput": _Resource(additive="seconds", relation=">=", units=_RATE_UNITS, bare=True),
    "decode_throughput": _Resource(
        additive="decode_seconds", relation=">=", units=_RATE_UNITS, bare=True
    ),
    "prefill_throughput": _Resource(
        additive="prefill_seconds", relation=">=", units=_RATE_UNITS, bare=True
    ),
    "latency": _Resource(additive="seconds", relation="<=", units=_TIME_UNITS, bare=False),
    "memory": _Resource(additive="memory", relation="<=", units=_BYTE_UNITS, bare=False),
    "kv_cache": _Resource(additive="kv_cache", relation="<=", units=_BYTE_UNITS, bare=False),
    "parameters": _Resource(additive="parameters", relation="<=", units=_COUNT_UNITS, bare=True),
}

_RELATIONS: dict[str, Relation] = {">=": ">=", ">": ">=", "≥": ">=", "<=": "<=", "<": "<=", "≤": "<="}
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


def _join(number: str, unit: str) -> str:
    # "111.5M" is how parameters are written; all other units stand apart.
    return number + unit if unit in ("", "K", "M") or unit is _PARAMETER_B else f"{number} {unit}"


def _scaled(number: str, factor: str) -> float:
    try:
        return float(_EXACT.multiply(Decimal(number), Decimal(factor)))
    except DecimalException:
        return math.inf


def parse_constraint(text: str) -> Constraint:
    pass
