"""The report: one self-contained page, for screens, phones and paper."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from puzzle.hardware.precision import Formats
from puzzle.library.error_map import error_map, median_errors
from puzzle.report.answer_seconds import AnswerSeconds
from puzzle.report.charts import (
    answers_chart,
    corrections_chart,
    costs_chart,
    frontier_chart,
    training_charts,
)
from puzzle.report.cost_points import costs_of
from puzzle.report.evidence import Evidence
from puzzle.report.frontier import frontier_of
from puzzle.report.outcomes import constraint_outcomes
from puzzle.report.record import SearchRecord
from puzzle.report.reproduce import search_call, serve_commands
from puzzle.report.samples import Sample
from puzzle.report.stability import Stability, stability
from puzzle.report.templates import template
from puzzle.report.verdict import heading, measured_rows, sure, verdict
from puzzle.report.verdict_card import conditions, tiles
from puzzle.report.words import device_words, methods_words, scenario_words, version_words
from puzzle.serving.file_names import CHILD_FILES
from puzzle.serving.writers.source import sources_of
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import publish_text
from search_space import Layout, layout_svg

PHONE, UNSTABLE_LAYERS = 360, 12


def write_report(
    record: SearchRecord,
    path: str | os.PathLike[str],
    *,
    distillation: Mapping[str, Any] | None = None,
    saved: Path | None = None,
    samples: Sequence[Sample] = (),
    answers: AnswerSeconds | None = None,
) -> Path:
    """Writes the report of a search; sections without data are left out.

    Args:
        record: The record.
        path: The file.
        distillation: The record of the child's distillation, `DistillResult.to_dict()`.
        saved: The directory that holds the child, if it is saved.
        samples: What parent and child write.
        answers: What their answers take.

    Returns:
        The file.

    Raises:
        WorkspaceError: The file cannot be written.
    """
    file = user_path(path)
    refuse_source(file, [saved, *sources_of(record)], inside=CHILD_FILES)
    more: dict[str, Any] = {"samples": samples, "answers": answers}
    publish_text(file, page(record, distillation=distillation, saved=saved, **more))
    return file


def page(
    record: SearchRecord,
    *,
    distillation: Mapping[str, Any] | None = None,
    saved: Path | None = None,
    samples: Sequence[Sample] = (),
    answers: AnswerSeconds | None = None,
) -> str:
    """Returns the report as HTML.

    Args:
        record: The record.
        distillation: The record of the child's distillation.
        saved: The directory that holds the child.
        samples: What parent and child write.
        answers: What their answers take.
    """
    costs = costs_of(record)
    corrections = record.evidence.corrections if record.evidence else {}
    stable = stability(record.evidence, record.solution) if record.evidence else None
    values: dict[str, Any] = {
        "style": Markup(resources.files("puzzle.report").joinpath("page.css").read_text("utf-8")),
        "heading": heading(record),
        "tiles": tiles(record),
        "conditions": conditions(record),
        "samples": samples,
        "answers": answers,
        "answers_picture": Markup(answers_chart(answers).svg()) if answers else None,
        "verdict": verdict(record),
        "sure": sure(record, stable),
        "layout_wide": Markup(layout_svg(record.layout)),
        "layout_narrow": Markup(layout_svg(record.layout, width=PHONE)),
        "layout_words": _layout_words(record.layout),
        "comparison": measured_rows(record),
        "untimed": record.untimed,
        "scenario": scenario_words(record.scenario),
        "constraints": constraint_outcomes(record, solve_again=True),
        "costs": costs,
        "costs_picture": Markup(costs_chart(costs).svg()) if costs else None,
        "scatter": Markup(corrections_chart(corrections).svg()) if corrections else None,
        "curves": [(c, Markup(chart.svg())) for c, chart in training_charts(distillation or {})],
        "commands": serve_commands(record.layout, saved),
        **_evidence(record),
        **_stability(record, stable),
    }
    return template("page.html", html=True).render(values)


def _evidence(record: SearchRecord) -> dict[str, Any]:
    """What the page says about a record's evidence; all None without evidence."""
    names = ("axis", "frontier", "scores", "methods", "errors", "stages", "run", "call")
    values: dict[str, Any] = dict.fromkeys(names)
    evidence = record.evidence
    if evidence is None:
        return values
    frontier = frontier_of(record)
    scores = evidence.scores.heat_map(record.layout)
    if frontier is not None:
        values["axis"], values["frontier"] = frontier.axis, Markup(frontier_chart(frontier).svg())
    values["scores"] = Markup(scores.svg())
    values["methods"] = f"Estimated by: {methods_words(evidence.scores)}"
    if evidence.errors:
        errors = error_map(evidence.errors, record.layout)
        values["errors"] = Markup(errors.svg())
        medians = ", ".join(
            f"{value:.3g} {name}" for name, value in median_errors(evidence.errors).items()
        )
        values["stages"] = f"Median over fitted variants: {medians}." if medians else ""
    if evidence.run:
        parent = evidence.run["parent"]
        name = parent["source"] or parent["name"]
        values["call"] = search_call(evidence, record.scenario, parent=name)
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
        *([("number formats", str(Formats.from_dict(run["formats"])))] if "formats" in run else []),
        ("date", run["date"]),
    ]


def _stability(record: SearchRecord, stable: Stability | None) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(("stable", "unstable_layers", "moved"))
    blocks = [block.label for block in record.layout.blocks]
    pairs = zip(record.solution.labels, blocks, strict=True)
    changed = [layer for layer, (old, new) in enumerate(pairs) if old != new]
    if stable is None:
        return values
    values["stable"] = (
        f"With every score moved at random by its standard error, {stable.draws} times over, the "
        f"program chose the same block in {stable.stable} of {len(blocks)} layers each time."
    )
    values["unstable_layers"] = stable.unstable_layers()[:UNSTABLE_LAYERS]
    if changed:
        values["moved"] = (
            f"Measuring whole layouts then changed {len(changed)} layers of the program's "
            f"optimum: {', '.join(map(str, changed))}."
        )
    return values


def _layout_words(layout: Layout) -> str:
    changed = len(layout.diff(Layout.parent(layout.shape)))
    share = layout.parameters() / Layout.parent(layout.shape).parameters()
    blocks = {block.label for block in layout.shape.parent_blocks}
    own = f"'s {blocks.pop()}" if len(blocks) == 1 else ""
    return (
        f"{changed} of {layout.shape.layers} layers differ from the parent{own}; "
        f"{layout.parameters():,} parameters, {100 * share:.1f} % of the parent's."
    )
