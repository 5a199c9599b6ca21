"""Size: what one member of a family has to achieve, and where."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from puzzle.costs.protocol import CostModel
from puzzle.errors import ConstraintError, SettingError
from puzzle.limits.constraints import Constraint
from puzzle.limits.scenario import WorkloadLike
from solvers import InfeasibleError

_NAME = re.compile(r"[A-Za-z_][\w-]*")
Constraints = str | Iterable[str | Constraint] | Mapping[str, str | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one member of a family has to achieve.

    Args:
        constraints: As for `puzzle.search`.
        scenario: As for `puzzle.search`; by default that of the family.
        hardware: What its costs describe; by default that of the family.
        weight: How much its KL counts in a nested family.

    Raises:
        SettingError: The weight is not a finite number above zero.

    Example:
        >>> Size(constraints="memory <= 2 GiB", hardware="roofline:h100-sxm").weight
        1.0
    """

    constraints: Constraints
    scenario: WorkloadLike | None = None
    hardware: str | os.PathLike[str] | CostModel | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if not number or not 0 < self.weight < math.inf:
            raise SettingError(f"weight={self.weight!r}; give a finite number above zero")


def given_sizes(sizes: Mapping[str, Any]) -> dict[str, Size]:
    """Returns the sizes of a family by name, the smallest first.

    Args:
        sizes: A `Size`, or its constraints alone, by name.

    Raises:
        SettingError: There are fewer than two, or a name is none for a directory.
    """
    if not isinstance(sizes, Mapping) or len(sizes) < 2:
        raise SettingError(
            f"sizes={sizes!r}; give two or more by name, the smallest first, such as "
            '{"nano": "throughput >= 2x", "super": "throughput >= 1.25x"}'
        )
    for name in sizes:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SettingError(f"the size {name!r}: use letters, digits, _ and -, such as 'nano'")
    return {
        name: size if isinstance(size, Size) else Size(constraints=size)
        for name, size in sizes.items()
    }


@contextmanager
def size_named(size: str) -> Iterator[None]:
    """Names the size in what is raised about its constraints."""
    try:
        yield
    except ConstraintError as error:
        raise ConstraintError(f"size {size!r}: {error}") from error
    except InfeasibleError as error:
        raise InfeasibleError(error.problem, f"size {size!r}: {error.explanation}") from error
