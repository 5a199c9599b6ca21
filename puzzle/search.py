"""search(): the stages strung together, from a parent and text to a measured child."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from puzzle.child import assemble
from puzzle.choosing import choose, effort_named
from puzzle.constraints import Constraint, parse_constraints
from puzzle.costs import RESOURCES, CostModel, MeasuredCosts, layout_cost
from puzzle.data import DataConfig, windows
from puzzle.disk import require_free
from puzzle.errors import WorkspaceError
from puzzle.evaluate import quality, speed
from puzzle.library import build_library
from puzzle.parents import Parent, open_parent
from puzzle.report import Evidence, describe_run
from puzzle.requirements import describe_infeasible, to_limit, to_limits
from puzzle.result import SearchResult
from puzzle.scenario import Scenario, rate
from puzzle.scoring import Scores, hybrid
from puzzle.workspace import Workspace
from search_space import Layout, SearchSpace
from solvers import ChoiceProblem, InfeasibleError, Limit, solve


def search(
    parent: Any,
    text: Any,
    *,
    constraints: str | Iterable[str | Constraint],
    scenario: Scenario | None = None,
    space: SearchSpace | str = "small",
    effort: str = "default",
    cost_model: CostModel | None = None,
    data: DataConfig | None = None,
    tokenizer: Any = None,
    out: str | os.PathLike[str] = "puzzle-run",
    solver: str = "highs",
    seed: int = 0,
    resume: bool = True,
) -> SearchResult:
    """Finds, builds and measures the child closest to the parent within the constraints.

    Every stage is stored under `out` by the hash of what it depends on: an interrupted search
    goes on where it stopped, and changed inputs never meet old results.

    Args:
        parent: A hub id, a local directory, a GGUF file, or a live transformers model.
        text: A string, a list of strings, or a dataset with a `text` or `messages` column.
        constraints: Such as ["throughput >= 1.25x", "memory <= 6 GiB"].
        scenario: Batch, prompt and generated tokens, and number formats.
        space: The alternatives of each layer, or the name of a preset.
        effort: How much is measured before a layout is chosen: "fast" takes the optimum of the
            scores; "default" measures some layouts near it and moves to better ones for a few
            minutes; "thorough" goes on longer. See `puzzle.choosing.EFFORTS`.
        cost_model: Costs of blocks; by default they are measured on this device.
        data: How much text is used.
        tokenizer: Tokenizer; by default the one beside the parent.
        out: The run directory.
        solver: "highs" or "cbc".
        seed: Seed of the solver; that of the documents is in `data`.
        resume: Go on with what an earlier run left in `out`; if False, there must be nothing.

    Returns:
        The layout, with predictions and measurements; `.save(directory)` writes the child.

    Raises:
        PuzzleError: The parent, the text, a constraint or the disk does not do; nothing long
            has run by then.
        InfeasibleError: No layout of the space meets the constraints; the message says how far
            it reaches.

    Example:
        >>> import puzzle
        >>> result = puzzle.search("model", text,
        ...                        constraints=["throughput >= 1.25x"])  # doctest: +SKIP
    """
    scenario, steps = scenario or Scenario(), effort_named(effort)
    asked = parse_constraints(constraints)
    settings = {
        "space": space if isinstance(space, str) else None,
        "effort": effort,
        "cost_model": type(cost_model).__name__ if cost_model else None,
        "solver": solver,
        "seed": seed,
    }
    workspace = _workspace(out, resume)
    model = open_parent(
        parent, workspace=workspace, tokenizer=tokenizer, dtype=scenario.weight_dtype
    )
    if isinstance(space, str):
        space = SearchSpace.preset(model.shape, space)
    data = data or DataConfig(seed=seed)
    cut = windows(text, model.tokenizer, data)
    own = Layout.parent(model.shape)
    require_free(workspace.root, 2 * own.parameters() * scenario.weight_bytes)

    costs: CostModel = cost_model or MeasuredCosts.measure(
        model, space, scenario, workspace=workspace
    )
    parent_cost = layout_cost(costs, own, scenario)
    limits = to_limits(asked, parent=parent_cost, scenario=scenario)
    _refuse_unreachable(
        _problem(space, costs, scenario, None, limits), asked, parent_cost, scenario
    )

    library = build_library(model, space, cut, workspace=workspace)
    scores = hybrid(library, space, cut, workspace=workspace)
    problem = _problem(space, costs, scenario, scores, limits)
    solution = solve(problem, solver=solver, seed=seed)
    choice = choose(
        problem, solution, library, space, cut, steps, workspace=workspace, solver=solver, seed=seed
    )
    layout = choice.layout
    predicted = {
        "parent": {**parent_cost, "kl": 0.0},
        "child": {**layout_cost(costs, layout, scenario), "kl": choice.predicted},
    }
    return SearchResult(
        layout=layout,
        solution=solution,
        scenario=scenario,
        predicted=predicted,
        measured=_measure(model, library, layout, scenario, cut.validation),
        library=library,
        evidence=Evidence(
            problem=problem,
            scores=scores,
            errors=tuple(map(library.errors, range(len(library.layers)))),
            constraints=asked,
            measured=choice.measured,
            run=describe_run(
                source=parent, parent=model, data=data, windows=cut, costs=costs, **settings
            ),
        ),
    )


def _workspace(out: str | os.PathLike[str], resume: bool) -> Workspace:
    workspace = Workspace(out)
    if not resume and any(workspace.root.glob("*/*/manifest.json")):
        raise WorkspaceError(
            f"{workspace.root} holds results of an earlier run; resume it (--resume) or choose "
            "another run directory (--out)"
        )
    workspace.clean()
    return workspace


def _problem(
    space: SearchSpace,
    costs: CostModel,
    scenario: Scenario,
    scores: Scores | None,
    limits: tuple[Limit, ...],
) -> ChoiceProblem:
    """Returns the program; without scores it only tells what can be reached."""
    groups, score = [], []
    resources: dict[str, list[float]] = {name: [] for name in RESOURCES}
    for layer in range(space.shape.layers):
        blocks = space.blocks(layer)
        groups.append(tuple(block.label for block in blocks))
        for block in blocks:
            score.append(scores.kl(layer, block.label) if scores else 0.0)
            cost = costs.block_cost(layer, block, scenario)
            for name, column in resources.items():
                column.append(cost[name])
    fixed = costs.fixed_cost(space.shape, scenario)
    offsets = {name: fixed[name] for name in RESOURCES}
    return ChoiceProblem(
        tuple(groups),
        np.array(score),
        {name: np.array(column) for name, column in resources.items()},
        offsets=offsets,
        limits=limits,
    )


def _refuse_unreachable(
    problem: ChoiceProblem,
    constraints: Iterable[Constraint],
    parent: dict[str, float],
    scenario: Scenario,
) -> None:
    """Raises InfeasibleError, in the user's units, before any long work."""
    least = {name: problem.bounds(name)[0] for name in problem.resources}
    reached, whole = ({**t, **rate(t, scenario)} for t in (least, parent))
    lines = []
    for constraint in constraints:
        limit = to_limit(constraint, parent=parent, scenario=scenario)
        if limit.slack(least[limit.resource]) < -problem.tolerance(limit.resource):
            lines.append(describe_infeasible(constraint, reached[constraint.resource], whole))
    if lines:
        raise InfeasibleError(problem, "\n".join(lines))


def _measure(
    parent: Parent, library: Any, layout: Layout, scenario: Scenario, validation: Any
) -> dict[str, dict[str, float]]:
    """Runs parent and child in turn; the parent is the identity layout, whose logits it has."""
    models = {
        name: assemble(parent.config, found, library.child_tensors(found), dtype=parent.dtype)
        for name, found in (("parent", Layout.parent(parent.shape)), ("child", layout))
    }
    fast = speed(models, scenario)
    good = quality(models["parent"], models["child"], validation)
    return {name: {**fast[name], **good[name]} for name in models}
