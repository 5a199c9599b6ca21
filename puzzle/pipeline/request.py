"""Request: the arguments of a search, checked before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from puzzle.choice.goals import Goals
from puzzle.choice.layout_choice import effort_named
from puzzle.costs.by_name import has_standard_resources, own_resources, require_hardware
from puzzle.costs.protocol import STANDARD_UNITS, CostModel
from puzzle.errors import SettingError
from puzzle.executors.executor import Executor
from puzzle.library.settings import LibraryConfig
from puzzle.limits.constraints import Constraint, parse_constraints
from puzzle.limits.requirements import SCORE, objective
from puzzle.limits.scenario import Scenario, Workload, WorkloadLike
from puzzle.pipeline.already_met import warn_of_met
from puzzle.pipeline.opening import Opened
from puzzle.pipeline.steps import Priced, Steps
from puzzle.storage.hashing import content_hash
from puzzle.storage.plain_values import count_of, make_plain
from puzzle.text.data_config import DataConfig
from search_space import PRESETS, SearchSpace
from solvers import check_settings

# Tokens that a chosen layout is healed on, times those of the fits, by effort.
HEALING = {"fast": 1, "default": 4, "thorough": 4}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """The arguments of a search, as for `puzzle.search`.

    Raises:
        PuzzleError: The effort or a constraint is invalid.
    """

    constraints: str | Iterable[str | Constraint] | Mapping[str, str | float]
    scenario: WorkloadLike | None
    space: SearchSpace | str
    effort: str
    hardware: str | os.PathLike[str] | CostModel
    minimise: str
    library: LibraryConfig | None
    profile: str | None = None
    distinct: int | None = None
    scores: str | None = None
    executor: Executor | None = None
    solver: str = "highs"
    seed: int = 0

    def __post_init__(self) -> None:
        make_plain(self, "effort", "scores", "minimise", "solver", "seed")
        require_hardware(self.hardware)
        units = own_resources(self.hardware)
        parsed = parse_constraints(self.constraints, resources=units)
        object.__setattr__(self, "constraints", parsed)
        effort_named(self.effort, self.scores)
        if isinstance(self.space, str) and self.space not in PRESETS:
            raise SettingError(
                f"space={self.space!r}; allowed: a SearchSpace, {', '.join(PRESETS)}"
            )
        if self.executor is not None and not callable(getattr(self.executor, "submit", None)):
            raise SettingError(
                f"executor={self.executor!r} has no submit(); give e.g. Processes(2)"
            )
        count_of("seed", self.seed, least=0)
        if self.distinct is not None:
            count_of("distinct", self.distinct, least=1)
        try:
            check_settings(self.solver, self.seed)
        except ValueError as error:
            raise SettingError(str(error)) from error
        if units is not None or has_standard_resources(self.hardware):
            known = units or STANDARD_UNITS
            objective(self.minimise, self.workload, constraints=parsed, resources=known)
        content_hash(self.settings())  # raises if something in them cannot be stored

    @property
    def workload(self) -> Workload:
        """The scenarios."""
        return Workload.of(self.scenario or Scenario())

    def data(self, given: DataConfig | None) -> DataConfig:
        """Returns how much text is used, with the seed and the healing of this search.

        Args:
            given: As for `puzzle.search`.
        """
        data = given or DataConfig()
        return replace(
            healed_on(data, self.effort), seed=self.seed if data.seed is None else data.seed
        )

    def steps(self, opened: Opened) -> Steps:
        """Returns the stages of the search.

        Args:
            opened: The run, which knows the parent's sizes and what is served.
        """
        space = self.space
        if isinstance(space, str):
            space = SearchSpace.preset(opened.run.parent.shape, space)
        if self.distinct is not None:
            space = replace(space, distinct=self.distinct)
        # Measuring picks the least KL, which is wrong if something else is minimised.
        measured = self.effort if self.minimise == SCORE else "fast"
        effort = effort_named(measured, self.scores)
        return Steps(
            space=space,
            workload=opened.workload,
            hardware=self.hardware,
            effort=effort,
            config=self.library or LibraryConfig(),
        )

    def goals(self, steps: Steps, priced: Priced) -> Goals:
        """Returns constraints and objective over the blocks that can run.

        Raises:
            InfeasibleError: No layout of the space meets the constraints.
        """
        assert isinstance(self.constraints, tuple)
        goals = Goals(self.constraints, steps.workload, priced.costs, steps.space, self.minimise)
        goals.refuse_unreachable()
        warn_of_met(goals)
        return goals

    def description(self, parent: Any) -> dict[str, Any]:
        """Returns what trackers record of a search, as JSON values.

        Args:
            parent: The parent, as it was given.
        """
        assert isinstance(self.constraints, tuple)
        return {
            "parent": str(parent) if isinstance(parent, str | os.PathLike) else None,
            "constraints": [str(each) for each in self.constraints],
            **{k: v for k, v in self.settings().items() if v is not None},
            "seed": self.seed,
        }

    def settings(self) -> dict[str, Any]:
        """Returns what the result records of the arguments, as JSON values."""
        given = self.hardware
        default = self.library in (None, LibraryConfig())
        return {
            "space": self.space if isinstance(self.space, str) else None,
            "distinct": self.distinct,
            "effort": self.effort,
            "scores": self.scores,
            "hardware": str(given) if isinstance(given, str | os.PathLike) else None,
            "profile": self.profile,
            "cost_model": None if isinstance(given, str) else type(given).__name__,
            "minimise": self.minimise,
            "library": None if default or self.library is None else self.library.to_dict(),
        }


def healed_on(data: DataConfig, effort: str) -> DataConfig:
    """Returns the same with the tokens for healing of an effort, if no number is given.

    Args:
        data: How much text.
        effort: Name of the effort.

    Example:
        >>> healed_on(DataConfig(fit_tokens=8192), "default").healing_tokens
        32768
    """
    if data.healing_tokens is not None:
        return data
    return replace(data, healing_tokens=HEALING[effort] * data.fit_tokens)
