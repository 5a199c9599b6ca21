"""CheckedReward: a reward whose values are all there and finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from puzzle.errors import DataError


@dataclass(frozen=True, slots=True)
class CheckedReward:
    """A reward as TRL calls it, whose values are checked.

    TRL leaves a NaN out of the mean, so that a fault in a reward looks like a task it is not for.

    Args:
        reward: What TRL would call.
    """

    reward: Any

    @property
    def __name__(self) -> str:
        """The name in the trainer's log."""
        return str(getattr(self.reward, "__name__", type(self.reward).__name__))

    def __call__(self, prompts: Sequence[Any], **columns: Any) -> list[float | None]:
        """Returns the reward of each completion; None where it is not for the task.

        Raises:
            DataError: There is not one for each, or one is not finite.
        """
        values = list(self.reward(prompts=prompts, **columns))
        if len(values) != len(prompts):
            raise DataError(
                f"the reward {self.__name__} returns {len(values)} values for {len(prompts)} "
                "completions"
            )
        for value, prompt in zip(values, prompts, strict=True):
            if value is not None and not math.isfinite(value):
                raise DataError(
                    f"the reward {self.__name__} is {value} for an answer to {prompt!r:.120}; "
                    "return a finite number, or None where it is not for the task"
                )
        return values
