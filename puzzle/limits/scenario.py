"""The serving scenario for which throughput, latency and memory are stated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from puzzle.errors import ConstraintError
from puzzle.hardware.precision import AUTO
from puzzle.storage.json_files import interpreting
from puzzle.storage.plain_values import make_plain
from search_space import counting

__all__ = ["Scenario", "Workload", "rate", "require_total"]

_NAME = re.compile(r"[A-Za-z_][\w-]*")
# Kept as a table of names so that reading a scenario never has to import torch.
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_UNDECIDED = "bfloat16"
# Of sequences or tokens; their products still fit a float.
_MOST = 2**40


def _require_count(name: str, value: object) -> None:
    # bool is an int in Python, but Scenario(batch=True) is always a mistake.
    if isinstance(value, int) and value > _MOST:
        raise ConstraintError(f"Scenario.{name} is above {_MOST:,}; pass a smaller count.")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConstraintError(
            f"Scenario.{name} is {value!r}; it must be a whole number of at least 1: "
            f"pass e.g. {name}=8."
        )


def _require_dtype(name: str, value: object, *more: str) -> None:
    allowed = (*more, *_DTYPE_BYTES)
    if not isinstance(value, str) or value not in allowed:
        known = ", ".join(allowed)
        raise ConstraintError(f"Scenario.{name} is {value!r}; pass one of these names: {known}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One batch of requests: every prompt is read, then every reply is generated.

    Args:
        batch: Sequences served together.
        prompt_tokens: Tokens of each prompt.
        generated_tokens: Tokens generated for each sequence.
        weight_dtype: Type of the weights: float32, bfloat16, float16 or "auto", which a search
            replaces by what the hardware serves: on a device of this machine the one it computes
            fast, else bfloat16. Until then "auto" counts two bytes per weight.
        cache_dtype: Type of the KV cache; None means the type of the weights.

    Raises:
        ConstraintError: A count is not a positive int, or a dtype is unknown.

    Example:
        >>> Scenario(batch=2, prompt_tokens=16, generated_tokens=4).total_tokens
        40
    """

    batch: int = 8
    prompt_tokens: int = 128
    generated_tokens: int = 128
    weight_dtype: str = AUTO
    cache_dtype: str | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("batch", "prompt_tokens", "generated_tokens"):
            _require_count(name, getattr(self, name))
        _require_dtype("weight_dtype", self.weight_dtype, AUTO)
        if self.cache_dtype is not None:
            _require_dtype("cache_dtype", self.cache_dtype)

    @property
    def served_dtype(self) -> str:
        """Type of the weights; bfloat16 where that is still "auto"."""
        return _UNDECIDED if self.weight_dtype == AUTO else self.weight_dtype

    def served_in(self, dtype: str) -> Scenario:
        """Return the scenario with the type of its weights decided.

        Args:
            dtype: What takes the place of "auto"; a type that was given stays.

        Example:
            >>> Scenario().served_in("float32").weight_bytes
            4
        """
        return replace(self, weight_dtype=dtype) if self.weight_dtype == AUTO else self

    @property
    def weight_bytes(self) -> int:
        """Bytes of one weight."""
        return _DTYPE_BYTES[self.served_dtype]

    @property
    def cache_bytes(self) -> int:
        """Bytes of one element of the KV cache."""
        return _DTYPE_BYTES[self.cache_dtype or self.served_dtype]

    @property
    def sequence_tokens(self) -> int:
        """Tokens of one sequence when it is complete: prompt and reply."""
        return self.prompt_tokens + self.generated_tokens

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole batch when it is complete: batch x (prompt + reply)."""
        return self.batch * self.sequence_tokens

    @property
    def decoded_tokens(self) -> int:
        """Tokens that the output head computes: one for each prompt, then every generated one."""
        return self.batch * (1 + self.generated_tokens)

    @property
    def attended_pairs(self) -> int:
        """Pairs of a token and one that it attends to, itself included, in the whole batch."""
        return self.pairs_within(None)

    def pairs_within(self, window: int | None) -> int:
        """Return the same where each token attends to at most `window` tokens."""
        return self.batch * counting.attended_pairs(self.sequence_tokens, window)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values.

        Returns:
            A dict that `from_dict` turns back into an equal scenario.

        Example:
            >>> Scenario(batch=4).to_dict()["batch"]
            4
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scenario:
        """Build a scenario from what `to_dict` returned.

        Args:
            values: Fields by name; a missing field takes its default.

        Returns:
            The scenario.

        Raises:
            ConstraintError: A field is unknown or its value is not allowed.

        Example:
            >>> Scenario.from_dict({"batch": 4}) == Scenario(batch=4)
            True
        """
        if not isinstance(values, Mapping):
            raise ConstraintError(f"{values!r} is no scenario; give its fields by name.")
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(name) for name in values if name not in known)
        if unknown:
            raise ConstraintError(
                f"Scenario has no field {', '.join(unknown)}; its fields are {', '.join(known)}: "
                "remove or rename what is not among them."
            )
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Scenarios that one child serves, and how often each occurs.

    Args:
        scenarios: The scenarios by name; a single one may have the empty name.
        weights: How often each is run, in any unit; only the ratios matter.

    Raises:
        ConstraintError: There is no scenario, a name cannot be used in a constraint, a weight is
            not positive, or the scenarios store weights in different types.

    Example:
        >>> chat, long = Scenario(prompt_tokens=128), Scenario(prompt_tokens=2048)
        >>> Workload.of({"chat": (chat, 3.0), "summarise": long}).weights
        {'chat': 3.0, 'summarise': 1.0}
    """

    scenarios: Mapping[str, Scenario]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        make_plain(self, "weights")
        if not self.scenarios:
            raise ConstraintError("A workload needs a scenario; give one, or several by name.")
        for name, scenario in self.scenarios.items():
            named = isinstance(name, str) and _NAME.fullmatch(name)
            if not named and (name != "" or len(self.scenarios) > 1):
                raise ConstraintError(
                    f"The scenario name {name!r} cannot be used in a constraint; use letters, "
                    "digits, _ and -, such as 'chat'."
                )
            weight = self.weights.get(name)
            if not isinstance(scenario, Scenario) or isinstance(weight, bool):
                raise ConstraintError(
                    f"The scenario {name!r} is {scenario!r} with weight {weight!r}; give a "
                    "Scenario, or (Scenario, weight)."
                )
            if not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise ConstraintError(
                    f"The weight of scenario {name!r} is {weight!r}; give a number above zero."
                )
        types = {scenario.weight_dtype for scenario in self.scenarios.values()} - {AUTO}
        if len(types) > 1:
            raise ConstraintError(
                f"The scenarios store weights as {', '.join(sorted(types))}; one child has one "
                "type: use the same weight_dtype."
            )

    @classmethod
    def of(cls, value: WorkloadLike) -> Workload:
        """Build a workload from one scenario, or from several by name with or without weights.

        Args:
            value: A scenario, a workload, or {name: scenario or (scenario, weight)}.

        Returns:
            The workload; weights left out are 1.

        Raises:
            ConstraintError: As for the class.
        """
        if isinstance(value, Workload):
            return value
        if isinstance(value, Scenario):
            return cls(scenarios={"": value}, weights={"": 1.0})
        if not isinstance(value, Mapping):
            raise ConstraintError(
                f"{value!r} is not a scenario; give a Scenario or several by name."
            )
        pairs = {
            n: v if isinstance(v, tuple) and len(v) == 2 else (v, 1.0) for n, v in value.items()
        }
        return cls(
            scenarios={name: scenario for name, (scenario, _) in pairs.items()},
            weights={name: weight for name, (_, weight) in pairs.items()},
        )

    @property
    def weight_dtype(self) -> str:
        """Type of the child's weights: the one that a scenario gives, or "auto"."""
        given = (scenario.weight_dtype for scenario in self.scenarios.values())
        return next((dtype for dtype in given if dtype != AUTO), AUTO)

    def served_in(self, dtype: str) -> Workload:
        """Return the workload with the type of its weights decided, as `Scenario.served_in`."""
        decided = dtype if self.weight_dtype == AUTO else self.weight_dtype
        named = {name: each.served_in(decided) for name, each in self.scenarios.items()}
        return replace(self, scenarios=named)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            name: {"scenario": scenario.to_dict(), "weight": self.weights[name]}
            for name, scenario in self.scenarios.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Workload:
        """Return the workload that `to_dict` wrote."""
        with interpreting("the workload", "scenarios with weights", ConstraintError):
            return cls(
                scenarios={n: Scenario.from_dict(v["scenario"]) for n, v in values.items()},
                weights={n: v["weight"] for n, v in values.items()},
            )

    def find(self, name: str) -> Scenario:
        """Return the scenario of a name.

        Raises:
            ConstraintError: There is none.
        """
        if name not in self.scenarios:
            known = ", ".join(filter(None, self.scenarios)) or "none with a name"
            raise ConstraintError(f"There is no scenario {name!r}; there are: {known}.")
        return self.scenarios[name]


WorkloadLike = Scenario | Workload | Mapping[str, Scenario | tuple[Scenario, float]]


def require_total(totals: Mapping[str, float], name: str, whose: str) -> float:
    """Return one of a model's totals once it is known to be finite and above zero.

    Args:
        totals: Totals by resource.
        name: The resource.
        whose: How a message names the totals, e.g. "The parent's totals".

    Returns:
        The total.

    Raises:
        ConstraintError: The total is missing, or not finite and positive.

    Example:
        >>> require_total({"seconds": 2}, "seconds", "The totals")
        2.0
    """
    value = totals.get(name)
    if value is None:
        raise ConstraintError(
            f"{whose} lack {name!r} (given: {', '.join(sorted(totals)) or 'nothing'}); measure it."
        )
    if not (math.isfinite(value) and value > 0):
        raise ConstraintError(
            f"{whose} say {name} = {value!r}; only finite values above zero are allowed: "
            "measure again, or correct the cost model."
        )
    return float(value)


def rate(resource_totals: Mapping[str, float], scenario: Scenario) -> dict[str, float]:
    """Turn a model's seconds into the rates that constraints refer to.

    Args:
        resource_totals: prefill_seconds and decode_seconds; seconds, where absent, is their sum.
        scenario: What the seconds are for.

    Returns:
        throughput, decode_throughput, prefill_throughput in tokens/s; latency, ttft and tpot in
        seconds, as docs/constraints.md defines them.

    Raises:
        ConstraintError: A total is missing, or not finite and positive.

    Example:
        >>> rate({"prefill_seconds": 1.0, "decode_seconds": 3.0}, Scenario(batch=2))["throughput"]
        64.0
    """
    prefill = require_total(resource_totals, "prefill_seconds", "The totals")
    decode = require_total(resource_totals, "decode_seconds", "The totals")
    given = "seconds" in resource_totals
    seconds = require_total(resource_totals, "seconds", "The totals") if given else prefill + decode
    generated = scenario.batch * scenario.generated_tokens
    return {
        "throughput": generated / seconds,
        "decode_throughput": generated / decode,
        "prefill_throughput": scenario.batch * scenario.prompt_tokens / prefill,
        "latency": seconds,
        "ttft": prefill,
        "tpot": decode / scenario.generated_tokens,
    }
