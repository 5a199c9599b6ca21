"""Constraints as users write them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from puzzle.errors import ConstraintError
from puzzle.limits.quantities import (
    QUANTITIES,
    Quantity,
    Relation,
    exact_amount,
    find_quantity,
    read_amount,
    shortest,
)
from puzzle.storage.plain_values import make_plain

__all__ = ["Constraint", "parse_constraint", "parse_constraints"]

_AT_LEAST: dict[str, Relation] = dict.fromkeys((">=", ">", "≥"), ">=")
_AT_MOST: dict[str, Relation] = dict.fromkeys(("<=", "<", "≤"), "<=")
_RELATIONS = _AT_LEAST | _AT_MOST
_SHAPE = re.compile(
    r"\s*(?P<name>[^<>=≤≥()]*?)\s*(?:\(\s*(?P<scenario>[^()]*?)\s*\)\s*)?(?P<relation>[<>=≤≥]+)"
    r"\s*(?P<amount>.*?)\s*(?:\bat\b\s*(?P<at>.*?)\s*)?"
)
_AT_FIELDS = {
    "batch": "batch",
    "prompt": "prompt_tokens",
    "generated": "generated_tokens",
}
_AT = re.compile(r"(?:and\s+)?(?P<field>[A-Za-z]+)\s+(?P<count>\d{1,18})\s*")
# Of one constraint; nothing that people write comes near it.
_LONGEST = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One requirement on a child model: at least or at most so much of a resource.

    Args:
        resource: A name in `puzzle.limits.quantities.QUANTITIES`, such as throughput, latency or
            memory, or one that a cost model names itself.
        relation: ">=" for throughputs, "<=" for all others; a cost model's own resource takes
            both.
        value: Tokens/s, seconds, bytes, joules, a count or the cost model's unit; a multiple of
            the parent's when relative.
        relative: Whether the value is a multiple of the parent's.
        unit: The unit of a resource that only the cost model knows.
        scenario: The one of several scenarios that it applies to; None for all.
        at: What differs in that scenario, as (field, count), such as ("batch", 32).

    Raises:
        ConstraintError: The resource is unknown, the relation is not one it can have, or the
            value is not a finite positive number.

    Example:
        >>> str(Constraint(resource="memory", relation="<=", value=6 * 2**30, relative=False))
        'memory <= 6 GiB'
    """

    resource: str
    relation: Relation
    value: float
    relative: bool = False
    unit: str | None = None
    scenario: str | None = None
    at: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        make_plain(self)
        allowed = self.quantity.relations
        if self.relation not in allowed:
            bound = "a lower" if allowed == (">=",) else "an upper"
            raise ConstraintError(
                f"{self.resource} {self.relation} ... is not allowed: {self.resource} takes only "
                f"{bound} bound; write '{self.resource} {allowed[0]} ...'."
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
        if self.resource == "kl" and self.relative:
            raise ConstraintError(
                "kl is 0 for the parent, so a multiple of the parent's has no meaning; write nats "
                "per token, such as 'kl <= 0.1'."
            )
        object.__setattr__(self, "value", value)

    @property
    def quantity(self) -> Quantity:
        """What is constrained: its units and the additive resources it is made of."""
        return find_quantity(self.resource, self.unit)

    @property
    def key(self) -> tuple[str, str | None, tuple[tuple[str, int], ...], str]:
        """What only one constraint may have."""
        both = len(self.quantity.relations) > 1
        return self.resource, self.scenario, self.at, self.relation if both else ""

    @property
    def where(self) -> str:
        """What differs in the scenario, in words: " at batch 32", or nothing."""
        words = {field: word for word, field in _AT_FIELDS.items()}
        at = " and ".join(f"{words[field]} {count}" for field, count in self.at)
        return f" at {at}" if at else ""

    def __str__(self) -> str:
        """Return the canonical text, which parses back to an equal constraint."""
        name = f"{self.resource}({self.scenario})" if self.scenario else self.resource
        amount = f"{shortest(self.value)}x"
        if not self.relative:
            amount = exact_amount(self.quantity, self.value)
        return f"{name} {self.relation} {amount}{self.where}"


def parse_constraint(text: str, *, resources: Mapping[str, str] | None = None) -> Constraint:
    """Read one constraint from text such as "throughput >= 1.25x" or "memory <= 6 GiB".

    Args:
        text: Resource, in brackets one of several scenarios, one of >= <= > < ≥ ≤ (strict means
            the same as not strict), amount, and "at batch 32" where the scenario's batch, prompt
            or generated tokens are different.
        resources: Units of the resources that the cost model names, by name.

    Returns:
        The constraint, its value in tokens/s, seconds, bytes, joules, a count, the cost model's
        unit, or parents.

    Raises:
        ConstraintError: The text, its resource, direction, unit or value is not allowed.

    Example:
        >>> parse_constraint("latency <= 800 ms").value
        0.8
        >>> parse_constraint("memory(chat) <= 6 GiB at batch 32").at
        (('batch', 32),)
        >>> parse_constraint("cycles <= 4M", resources={"cycles": "cycles"}).value
        4000000.0
    """
    if len(text) > _LONGEST:
        raise ConstraintError(
            f"A constraint has at most {_LONGEST} characters; {text[:40]!r}... has {len(text)}."
        )
    match = _SHAPE.fullmatch(text)
    if match is None or match["relation"] not in _RELATIONS:
        known = ", ".join(dict.fromkeys([*QUANTITIES, *(resources or {})]))
        raise ConstraintError(
            f"Cannot read constraint {text!r}: write a resource, >= or <=, and an amount, "
            f"e.g. 'throughput >= 1.25x'. Resources are {known}."
        )
    resource, relation = match["name"], _RELATIONS[match["relation"]]
    unit = None if resource in QUANTITIES else (resources or {}).get(resource)
    value, relative = read_amount(resource, find_quantity(resource, unit), match["amount"])
    return Constraint(
        resource=resource,
        relation=relation,
        value=value,
        relative=relative,
        unit=unit,
        scenario=match["scenario"],
        at=_read_at(text, match["at"]),
    )


def _read_at(text: str, words: str | None) -> tuple[tuple[str, int], ...]:
    if words is None:
        return ()
    counts: dict[str, int] = {}
    rest = words
    while (match := _AT.match(rest)) and match["field"] in _AT_FIELDS:
        counts[_AT_FIELDS[match["field"]]] = int(match["count"])
        rest = rest[match.end() :]
    if rest or not counts or 0 in counts.values():
        raise ConstraintError(
            f"Cannot read 'at {words}' of {text!r}: write 'at batch 32', or 'at batch 32 and "
            "prompt 4096 and generated 128' with any of the three."
        )
    return tuple((field, counts[field]) for field in _AT_FIELDS.values() if field in counts)


def parse_constraints(
    constraints: str | Constraint | Iterable[str | Constraint] | Mapping[str, str | float],
    *,
    resources: Mapping[str, str] | None = None,
) -> tuple[Constraint, ...]:
    """Read constraints, at most one for each resource and scenario.

    Args:
        constraints: One text (several parts are split at commas, semicolons or newlines), or
            any mixture of texts and constraints; or amounts by resource, in which the relation may
            be left out where only one makes sense.
        resources: Units of the resources that the cost model names, by name.

    Returns:
        The constraints in the order given.

    Raises:
        ConstraintError: A text cannot be read, or a resource is constrained twice.

    Example:
        >>> [str(c) for c in parse_constraints("throughput > 2x, memory <= 80%")]
        ['throughput >= 2x', 'memory <= 0.8x']
        >>> [str(c) for c in parse_constraints({"throughput": "2x", "kl": 0.1})]
        ['throughput >= 2x', 'kl <= 0.1 nats']
    """
    if isinstance(constraints, Mapping):
        constraints = [
            _written(name, amount, resources or {}) for name, amount in constraints.items()
        ]
    items = [constraints] if isinstance(constraints, str | Constraint) else constraints
    if not isinstance(items, Iterable):
        raise ConstraintError(f"{items!r} is not a constraint; pass str or Constraint.")
    by_key: dict[object, Constraint] = {}
    for item in items:
        if isinstance(item, Constraint):
            parts = [item]
        elif isinstance(item, str):
            texts = [part for part in re.split(r"[,;\n]", item) if part.strip()]
            parts = [parse_constraint(part, resources=resources) for part in texts or [item]]
        else:
            raise ConstraintError(f"{item!r} is not a constraint; pass str or Constraint.")
        for part in parts:
            if part.key in by_key:
                raise ConstraintError(
                    f"{part.resource} is constrained twice: '{by_key[part.key]}' and "
                    f"'{part}'; each resource may appear once: keep the stricter of the two."
                )
            by_key[part.key] = part
    return tuple(by_key.values())


def _written(name: Any, amount: Any, resources: Mapping[str, str]) -> str:
    """Returns the text of a constraint that is given as an amount by the name of its resource."""
    if isinstance(amount, bool) or not isinstance(amount, str | int | float):
        raise ConstraintError(
            f"{name!r} is given as {amount!r}; write an amount such as '1.25x', '<= 6 GiB' or 0.1."
        )
    text = str(amount).strip()
    if text.startswith(tuple(_RELATIONS)):
        return f"{name} {text}"
    resource = str(name).partition("(")[0].strip()
    unit = None if resource in QUANTITIES else resources.get(resource)
    relations = find_quantity(resource, unit).relations
    if len(relations) > 1:
        raise ConstraintError(
            f"{name!r} is given as {amount!r}, and may have a lower and an upper bound; write "
            f"'>= {text}' or '<= {text}'."
        )
    return f"{name} {relations[0]} {text}"
