"""The report: one page that needs nothing else, for screens, phones and paper."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from puzzle.report.asked import asked
from puzzle.report.cost_points import costs_of
from puzzle.report.curves import curves_svg
from puzzle.report.figures import corrections_svg, costs_svg, frontier_svg
from puzzle.report.frontier import frontier_of
from puzzle.report.grids import error_grid, score_grid, stages
from puzzle.report.reproduce import search_call, serve_commands
from puzzle.report.stability import Stability, stability
from puzzle.report.svg import heat
from puzzle.report.templates import template
from puzzle.report.verdict import comparison, heading, sure, verdict
from puzzle.report.words import device_words, methods_words, scenario_words, version_words
from puzzle.storage.disk import disk_errors
from search_space import Layout, layout_svg

if TYPE_CHECKING:
    from puzzle.pipeline.result import SearchResult
    from puzzle.report.evidence import Evidence

PHONE, OPEN_LAYERS = 360, 12


def write_report(
    result: SearchResult,
    path: str | os.PathLike[str],
    *,
    distillation: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the report of a result; sections whose data is not there are left out.

    Args:
        result: The result.
        path: The file.
        distillation: The record of the child's distillation, `DistillResult.to_dict()`.

    Returns:
        The file.

    Raises:
        WorkspaceError: The file cannot be written.
    """
    file = Path(path)
    with disk_errors(file, file.absolute().parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page(result, distillation=distillation), encoding="utf-8")
    return file


def page(result: SearchResult, *, distillation: Mapping[str, Any] | None = None) -> str:
    """Returns the report as HTML.

    Args:
        result: The result.
        distillation: The record of the child's distillation.
    """
    costs = costs_of(result)
    corrections = result.evidence.corrections if result.evidence else {}
    found = stability(result.evidence, result.solution) if result.evidence else None
    values: dict[str, Any] = {
        "style": Markup(resources.files("puzzle.report").joinpath("page.css").read_text("utf-8")),
        "heading": heading(result),
        "verdict": verdict(result),
        "sure": sure(result, found),
        "layout_wide": Markup(layout_svg(result.layout)),
        "layout_narrow": Markup(layout_svg(result.layout, width=PHONE)),
        "layout_words": _layout_words(result.layout),
        "comparison": comparison(result),
        "scenario": scenario_words(result.scenario),
        "asked": asked(result, solve_again=True),
        "costs": costs,
        "costs_picture": Markup(costs_svg(costs)) if costs else None,
        "scatter": Markup(corrections_svg(corrections)) if corrections else None,
        "curves": [(c, Markup(svg)) for c, svg in curves_svg(distillation or {})],
        "commands": serve_commands(result.layout, result.saved),
        **_evidence(result),
        **_firm(result, found),
    }
    return template("page.html", html=True).render(values)


def _evidence(result: SearchResult) -> dict[str, Any]:
    """What the page says of a result's evidence; all of it empty without."""
    names = ("axis", "frontier", "scores", "methods", "errors", "stages", "run", "call")
    values: dict[str, Any] = dict.fromkeys(names)
    evidence = result.evidence
    if evidence is None:
        return values
    frontier = frontier_of(result)
    grid = score_grid(evidence.scores, result.layout)
    if frontier is not None:
        values["axis"], values["frontier"] = frontier.axis, Markup(frontier_svg(frontier))
    values["scores"] = Markup(heat(grid, title="Scores by layer and block"))
    values["methods"] = f"Found by: {methods_words(evidence.scores)}"
    if evidence.errors:
        grid = error_grid(evidence.errors, result.layout)
        values["errors"] = Markup(heat(grid, title="Local errors by layer and variant"))
        medians = ", ".join(
            f"{value:.3g} {name}" for name, value in stages(evidence.errors).items()
        )
        values["stages"] = f"Median over fitted variants: {medians}." if medians else ""
    if evidence.run:
        parent = evidence.run["parent"]
        name = parent["source"] or parent["name"]
        values["call"] = search_call(evidence, result.scenario, parent=name)
        values["run"] = _run(evidence)
    return values


def _run(evidence: Evidence) -> list[tuple[str, str]]:
    run = evidence.run
    parts = [
        (f"{part} text", f"{text['tokens']:,} tokens, {text['hash']}")
        for part, text in run["text"].items()
    ]
    return [
        ("parent", f"{run['parent']['name']}, {run['parent']['hash']}"),
        *parts,
        ("cost model", run["costs"]),
        ("versions", version_words(run["versions"])),
        ("device", device_words(run["device"])),
        ("date", run["date"]),
    ]


def _firm(result: SearchResult, found: Stability | None) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(("firm", "open_layers", "moved"))
    blocks = [block.label for block in result.layout.blocks]
    pairs = zip(result.solution.labels, blocks, strict=True)
    changed = [layer for layer, (old, new) in enumerate(pairs) if old != new]
    if found is None:
        return values
    values["firm"] = (
        f"With every score moved at random by its standard error, {found.draws} times over, the "
        f"program chose the same block in {found.firm} of {len(blocks)} layers each time."
    )
    values["open_layers"] = found.open_layers()[:OPEN_LAYERS]
    if changed:
        values["moved"] = (
            f"Measuring whole layouts then changed {len(changed)} layers of the program's "
            f"optimum: {', '.join(map(str, changed))}."
        )
    return values


def _layout_words(layout: Layout) -> str:
    changed = len(layout.diff(Layout.parent(layout.shape)))
    share = layout.parameters() / Layout.parent(layout.shape).parameters()
    own = layout.shape.parent_block.label
    return (
        f"{changed} of {layout.shape.layers} layers differ from the parent's {own}; "
        f"{layout.parameters():,} parameters, {100 * share:.1f} % of the parent's."
    )
