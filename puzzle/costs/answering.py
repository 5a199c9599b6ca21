"""What a cost model answers; an exception of one that somebody wrote says where it comes from."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from puzzle.costs.protocol import CostModel
from puzzle.errors import CostModelError, PuzzleError
from puzzle.limits.scenario import Scenario
from search_space import Block, ModelShape

__all__ = ["block_cost_of", "fixed_cost_of", "model_name", "own_model", "resources_of"]


def block_cost_of(
    costs: CostModel, layer: int, block: Block, scenario: Scenario
) -> dict[str, float]:
    """Returns what a model gives as the cost of a block, its values unchecked.

    Raises:
        CostModelError: It is no mapping, or a model of somebody's own raises an exception.
    """
    what = f"block {block.label} of layer {layer}"
    with _named(costs, f"block_cost, for {what},"):
        return _mapping(costs, what, costs.block_cost(layer, block, scenario))


def fixed_cost_of(costs: CostModel, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
    """Returns what a model gives as the fixed cost, its values unchecked.

    Raises:
        CostModelError: As for a block.
    """
    with _named(costs, "fixed_cost"):
        return _mapping(costs, "the fixed cost", costs.fixed_cost(shape, scenario))


def resources_of(costs: Any) -> Any:
    """Returns what a model or its class declares as its resources, or None.

    Raises:
        CostModelError: A property of somebody's own raises an exception.
    """
    with _named(costs, "resources"):
        return getattr(costs, "resources", None)


def model_name(costs: Any) -> str:
    """Returns the class of a cost model that somebody wrote or chose, not of what wraps it."""
    return _chosen(costs).__name__


def own_model(costs: Any) -> Any:
    """Returns the cost model that somebody wrote or chose, without what wraps it."""
    for name in ("costs", "first"):
        inner = getattr(costs, name, None)
        if hasattr(inner, "block_cost"):
            return own_model(inner)
    return costs


def _chosen(costs: Any) -> type:
    own = own_model(costs)
    return own if isinstance(own, type) else type(own)


@contextmanager
def _named(costs: Any, what: str) -> Iterator[None]:
    """Names the model and the place of an exception; one in a model of ours is a bug of ours."""
    try:
        yield
    except PuzzleError:
        raise
    except Exception as error:
        if _chosen(costs).__module__.partition(".")[0] == "puzzle":
            raise
        *_, last = traceback.extract_tb(error.__traceback__)
        place = f"{Path(last.filename).name}, line {last.lineno}"
        raise CostModelError(
            f"{model_name(costs)}.{what} raises {type(error).__name__}: {error} ({place})"
        ) from error


def _mapping(costs: CostModel, what: str, given: Any) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise CostModelError(
            f"{model_name(costs)}: {what} costs {given!r}; return a mapping of "
            f"{', '.join(costs.resources)}"
        )
    return dict(given)
