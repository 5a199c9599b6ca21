"""Costs learned from a serving engine as a black box."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from puzzle.costs.calibrated.additive import AdditiveFit, fit_additive
from puzzle.costs.calibrated.design import (
    candidates,
    counts,
    farthest,
    options_of,
    spread_out,
    sublayers,
    where_worst,
)
from puzzle.costs.calibrated.engines.engine import Engine
from puzzle.costs.calibrated.session import Measurement, Session
from puzzle.costs.protocol import RESOURCES, counted_cost
from puzzle.errors import ConstraintError, CostModelError, EngineError
from puzzle.limits.scenario import Scenario
from puzzle.models.parent import Parent
from puzzle.progress.bars import Count
from puzzle.storage.workspace import Workspace
from search_space import WEIGHT_FORMATS, Block, Layout, ModelShape, SearchSpace, counting

logger = logging.getLogger(__name__)

POOL = 1500
STEP = 4  # layouts added before the fit is checked again
SPARE = 3  # layouts beyond the number of costs, needed to check the fit


class EngineCalibrated:
    """Non-negative costs per sublayer, fitted to whole layouts timed in an engine.

    Layouts of random weights are run in the engine, each taking turns with the parent where the
    engine can hold two models. Prefill and decode are fitted separately.

    Args:
        shape: The parent's sizes.
        scenario: The scenario that was run.
        fits: The fit of "prefill" and "decode", or of "seconds" where the engine reports no more.
        measurements: What was run.
        weight_bytes: Bytes of one weight in the engine.
        goal: The error to reach.
        session: Runs further layouts; None where no engine is available.

    Attributes:
        resources: As for every model of time; without prefill and decode where the engine reports
            only the total.

    Example:
        >>> costs = EngineCalibrated.measure(LlamaCpp(), parent, space, scenario,
        ...                                  workspace=Workspace("out"))  # doctest: +SKIP
        >>> costs.error  # doctest: +SKIP
        {'prefill': {'median': 0.004, 'worst': 0.02}, 'decode': {'median': 0.011, 'worst': 0.04}}
    """

    def __init__(
        self,
        shape: ModelShape,
        scenario: Scenario,
        fits: Mapping[str, AdditiveFit],
        measurements: Sequence[Measurement],
        *,
        weight_bytes: float,
        goal: float,
        session: Session | None = None,
    ) -> None:
        self.session = session
        self.shape, self.scenario, self.fits = shape, scenario, dict(fits)
        self.measurements, self.weight_bytes, self.goal = tuple(measurements), weight_bytes, goal
        hidden = () if "prefill" in fits else ("prefill_seconds", "decode_seconds")
        self.resources: Mapping[str, str] = {
            name: unit for name, unit in RESOURCES.items() if name not in hidden
        }

    @classmethod
    def measure(
        cls,
        engine: Engine,
        parent: Parent,
        space: SearchSpace,
        scenario: Scenario,
        *,
        workspace: Workspace,
        goal: float = 0.05,
        max_layouts: int = 60,
        max_seconds: float = float("inf"),
        seed: int = 0,
    ) -> EngineCalibrated:
        """Runs layouts in an engine until they are predicted well, or the budget is spent.

        Every layout that was run is stored, so a second call continues where the first stopped.

        Args:
            engine: The engine.
            parent: The parent; only its sizes matter.
            space: The space whose options are calibrated.
            scenario: Batch and lengths.
            workspace: Where measured layouts are stored.
            goal: Median cross-validated error, as a share of the seconds, that ends the search
                for more layouts.
            max_layouts: Maximum number of layouts to run.
            max_seconds: No further layout is started after this long.
            seed: Seed of the candidates.

        Raises:
            EngineError: The engine is missing, fails on the parent, or fails repeatedly.
            CostModelError: The budget is too small for the number of options.
        """
        engine.check()
        _require_formats(engine, space)
        session = Session(
            engine=engine, config=parent.config, scenario=scenario, workspace=workspace
        )
        plan = _Plan(space, seed)
        if max_layouts < plan.needed:
            raise CostModelError(
                f"max_layouts={max_layouts} is too few for {plan.rank} unknown costs "
                f"({', '.join(plan.options)} and the fixed part); allow {plan.needed} or more, or "
                "search among fewer options"
            )
        fits, done = _run(session, plan, goal, max_layouts, time.monotonic() + max_seconds)
        bytes_of = getattr(engine, "weight_bytes", None)
        costs = cls(
            parent.shape,
            scenario,
            fits,
            done,
            weight_bytes=bytes_of(scenario) if bytes_of else scenario.weight_bytes,
            goal=goal,
            session=session,
        )
        if not costs.reached:
            logger.warning(
                "%s is predicted with a median error of %s after %d layouts; the goal is %.1f %%",
                engine.name,
                ", ".join(f"{100 * fit.median_error:.1f} % ({n})" for n, fit in fits.items()),
                len(done),
                100 * goal,
            )
        return costs

    def timed(self, layout: Layout) -> dict[str, dict[str, float]]:
        """Returns the seconds that the engine takes for "parent" and for a layout as "child".

        The layout runs with random weights, in turns with the parent where the engine can hold
        both; its seconds are then scaled to the machine's usual speed.

        Raises:
            EngineError: The engine failed, or these costs have no engine.
        """
        if self.session is None:
            raise EngineError("these costs have no engine to run layouts in; measure them again")
        own = Layout.parent(self.shape)
        child, times = self.session.measure(layout), {}
        for phase in self.fits:
            if child.parent is None:
                parent = self.session.measure(own).timing.median(phase)
                times[phase] = (parent, child.timing.median(phase))
            else:
                parent = _median_parent(self.measurements, phase)
                times[phase] = (parent, parent * child.ratio(phase))
        return {
            who: _resources({phase: seconds[at] for phase, seconds in times.items()})
            for at, who in enumerate(("parent", "child"))
        }

    @property
    def error(self) -> dict[str, dict[str, float]]:
        """Cross-validated error of each phase, as a share: median and worst layout."""
        return {
            phase: {"median": fit.median_error, "worst": fit.worst_error}
            for phase, fit in self.fits.items()
        }

    @property
    def reached(self) -> bool:
        """Whether the goal was met."""
        return all(fit.median_error <= self.goal for fit in self.fits.values())

    def _with_format(self, scenario: Scenario) -> Scenario:
        """Returns the scenario with "auto" replaced by the number format that was run."""
        return scenario.served_in(self.scenario.weight_dtype)

    def _seconds(self, value: Any, scenario: Scenario) -> dict[str, float]:
        """Returns the resources of time; `value` gives the seconds of a fit."""
        if self._with_format(scenario) != self.scenario:
            raise ConstraintError(
                f"costs calibrated for {self.scenario} cannot be used for {scenario}: nothing is "
                "known about scenarios that were not run; calibrate again for this one"
            )
        return _resources({phase: value(fit) for phase, fit in self.fits.items()})

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        """Returns the cost of one block; the same in every layer.

        Raises:
            CostModelError: The block was not among the options that were calibrated.
            ConstraintError: The scenario differs from the calibrated one.
        """
        parts = sublayers(block)
        known = next(iter(self.fits.values())).costs
        for part in parts:
            if part not in known:
                raise CostModelError(
                    f"{block.label}: {part} was not calibrated; known are {', '.join(known)}: "
                    "calibrate with a space that has it"
                )
        limited = self.shape.windowed(layer, block)
        counted = counted_cost(self.shape, limited, self._with_format(scenario))
        held = counting.block_weight_bytes(self.shape, limited, self.weight_bytes)
        counted["memory"] = counted["kv_cache"] + held
        timed = self._seconds(lambda fit: sum(fit.costs[part] for part in parts), scenario)
        return {name: {**timed, **counted}[name] for name in self.resources}

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        """Returns the fixed cost, which every layout takes."""
        parameters = float(counting.fixed_parameters(shape))
        return {
            **self._seconds(lambda fit: fit.fixed, scenario),
            "memory": parameters * self.weight_bytes,
            "kv_cache": 0.0,
            "parameters": parameters,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "scenario": self.scenario.to_dict(),
            "layouts": len(self.measurements),
            "error": self.error,
            "fits": {phase: fit.to_dict() for phase, fit in self.fits.items()},
        }

    def __repr__(self) -> str:
        errors = ", ".join(f"{phase} {100 * e['median']:.1f} %" for phase, e in self.error.items())
        return f"EngineCalibrated({len(self.measurements)} layouts, median error {errors})"


def _require_formats(engine: Engine, space: SearchSpace) -> None:
    """Raises CostModelError if a space has formats that the engine would not be run in."""
    formats = {one.weights for row in space.attentions for one in row}
    formats |= {one.weights for row in space.ffns for one in row}
    used = {name for name in formats if name is not None}
    if other := sorted(name for name in used if engine.name not in WEIGHT_FORMATS[name].engines):
        raise CostModelError(
            f"{engine.name} has no weights in {', '.join(other)}, so that their time cannot be "
            "measured there; measure in an engine that has: "
            + ", ".join(sorted({name for one in other for name in WEIGHT_FORMATS[one].engines}))
        )


def _resources(parts: Mapping[str, float]) -> dict[str, float]:
    """Returns the resources of time from the seconds of each phase, or from the total."""
    if "seconds" in parts:
        return {"seconds": parts["seconds"]}
    return {
        "prefill_seconds": parts["prefill"],
        "decode_seconds": parts["decode"],
        "seconds": parts["prefill"] + parts["decode"],
    }


class _Plan:
    """The candidates of a calibration, and which of them to run first."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.options = options_of(space)
        rng = np.random.default_rng(seed)
        drawn = [Layout.parent(space.shape), *candidates(space, POOL, rng)]
        # A small space gives duplicates, and a layout says nothing new the second time.
        self.pool = list(dict.fromkeys(drawn))
        self.rows = counts(self.pool, self.options)
        # Where every layer has attention, say, part of its cost is as good as fixed.
        self.rank = int(np.linalg.matrix_rank(self.rows))
        self.needed = min(self.rank + SPARE, len(self.pool))

    def first(self) -> list[int]:
        return [0, *spread_out(self.rows, [0], self.needed - 1)]


def _run(
    session: Session, plan: _Plan, goal: float, max_layouts: int, deadline: float
) -> tuple[dict[str, AdditiveFit], list[Measurement]]:
    """Measures layouts and fits them in turn, until the goal is met or the budget is spent."""
    queue = plan.first()
    left_out: list[int] = []
    done: dict[int, Measurement] = {}
    fits: dict[str, AdditiveFit] = {}
    with Count(session.engine.name, "layout", max_layouts) as bar:
        while queue:
            at = queue.pop(0)
            if time.monotonic() > deadline:
                break
            try:
                done[at] = session.measure(plan.pool[at])
                bar.update()
            except EngineError as error:
                # Without the parent there is nothing to compare with, and if one layout in four
                # fails, that is no accident.
                if at == 0 or len(left_out) >= max(3, len(done) // 3):
                    raise
                logger.warning("a layout is left out: %s", error)
                left_out.append(at)
                # What failed may fail again in a layout like it.
                queue.append(farthest(plan.rows, [*done, *queue, *left_out]))
            if queue or len(done) < plan.needed:
                continue
            fits = _fit(plan, done)
            if all(fit.median_error <= goal for fit in fits.values()):
                break
            errors = np.max([np.abs(fit.errors) for fit in fits.values()], axis=0)
            left = len(plan.pool) - len(done) - len(left_out)
            room = min(STEP, max_layouts - len(done), left)
            queue = where_worst(plan.rows, list(done), errors, room) if room > 0 else []
    if len(done) < plan.needed:
        raise CostModelError(
            f"the time was spent after {len(done)} layouts, and {plan.needed} are needed for "
            f"{plan.rank} unknown costs; raise max_seconds: what was measured is kept"
        )
    return _fit(plan, done), list(done.values())


def _fit(plan: _Plan, done: Mapping[int, Measurement]) -> dict[str, AdditiveFit]:
    measurements = list(done.values())
    rows = plan.rows[list(done)]
    return {
        phase: fit_additive(rows, _drift_corrected(measurements, phase), plan.options)
        for phase in measurements[0].timing.phases
    }


def _drift_corrected(measurements: Sequence[Measurement], phase: str) -> list[float]:
    """Returns the seconds of each layout as if the machine had been equally fast all the time.

    Each took turns with the parent, whose seconds show how slow the machine was at the time.
    """
    if any(m.parent is None for m in measurements):
        return [m.timing.median(phase) for m in measurements]
    usual = _median_parent(measurements, phase)
    return [m.ratio(phase) * usual for m in measurements]


def _median_parent(measurements: Sequence[Measurement], phase: str) -> float:
    return statistics.median(m.parent.median(phase) for m in measurements if m.parent)
