"""Choosing which attention-free layers of a child to fuse, after a search has removed attention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from puzzle.costs.protocol import RESOURCES, CostModel
from puzzle.errors import ConstraintError
from puzzle.evaluation.text_quality import quality
from puzzle.fusion.fused import fuse_child, fusion_candidates
from puzzle.limits.scenario import Scenario
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import layout_from_config
from puzzle.progress.bars import counted
from search_space import Fusion, Layout
from solvers import ChoiceProblem, Limit, Solution, Span, solve


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionChoice:
    """The fusion a search chose.

    Args:
        fusion: The runs to fuse, for `fuse_child`; None where fusing nothing is best.
        solution: The program's solution; its spans are runs, its objective the sum of their KLs.
        problem: The program, one group for each layer of the child and one span for each run.
    """

    fusion: Fusion | None
    solution: Solution
    problem: ChoiceProblem


def choose_fusion(
    child: PuzzleForCausalLM,
    costs: CostModel,
    scenario: Scenario,
    tokens_NL: torch.Tensor,
    *,
    limits: Iterable[Limit],
    norms: str = "last",
    solver: str = "highs",
    seed: int = 0,
    **runs: Any,
) -> FusionChoice:
    """Chooses the runs of attention-free layers whose fusion meets the limits at the least KL.

    Every candidate run is scored by the KL, on the given text, of the child with that run fused
    to the child as it is; the program then covers each layer once, alone or in a run.

    Args:
        child: A child with attention-free layers next to each other; it is left as it is.
        costs: Costs of single layers and of the fused ones: for `MeasuredCosts`, pass the runs'
            blocks to `measure(..., extra=)`.
        scenario: The scenario of the costs.
        tokens_NL: Text to score on, (windows, length); not the validation text.
        limits: On the resources of `puzzle.costs.RESOURCES`, such as `to_limits` gives.
        norms: As in `fuse_child`.
        solver: As in `solvers.solve`.
        seed: Seed of the solver.
        **runs: `keep_last`, `max_width`, `max_layers`, `dependency` and `max_dependency` of
            `search_space.fusion.candidate_runs`.

    Raises:
        ConstraintError: No layers can be fused, or the cost model does not know a fused block.
        InfeasibleError: No fusion meets the limits.

    Example:
        >>> chosen = choose_fusion(child, costs, scenario, cut.score, limits=limits,
        ...                        max_layers=4)  # doctest: +SKIP
        >>> faster = fuse_child(child, chosen.fusion)  # doctest: +SKIP
    """
    layout = layout_from_config(child.config)
    candidates = fusion_candidates(layout, costs, scenario, **runs)
    if not candidates:
        raise ConstraintError(
            f"no layers of {layout!r} can be fused: that takes two or more layers in a row that "
            "have no attention and a gated FFN, and keep_last=True leaves the last of them alone"
        )
    spans = []
    for run in counted(candidates, "fusion", "run"):
        fused = fuse_child(child, Fusion.of(layout, [(run.first, run.last)]), norms=norms)
        kl = quality(child, fused, tokens_NL, progress=False).kl
        used = {name: run.resources[name] for name in RESOURCES}
        spans.append(Span(run.first, run.last, f"{run.label} for {run.first}-{run.last}", kl, used))
    problem = _problem(layout, costs, scenario, tuple(spans), tuple(limits))
    solution = solve(problem, solver=solver, seed=seed)
    chosen = [(problem.spans[at].first, problem.spans[at].last) for at in solution.spans]
    fusion = Fusion.of(layout, chosen) if chosen else None
    return FusionChoice(fusion=fusion, solution=solution, problem=problem)


def _problem(
    layout: Layout,
    costs: CostModel,
    scenario: Scenario,
    spans: tuple[Span, ...],
    limits: tuple[Limit, ...],
) -> ChoiceProblem:
    rows = [costs.block_cost(layer, block, scenario) for layer, block in enumerate(layout.blocks)]
    fixed = costs.fixed_cost(layout.shape, scenario)
    return ChoiceProblem(
        tuple((block.label,) for block in layout.blocks),
        np.zeros(len(rows)),
        {name: np.array([row[name] for row in rows]) for name in RESOURCES},
        offsets={name: fixed[name] for name in RESOURCES},
        limits=limits,
        spans=spans,
    )
