"""The explorer: one self-contained page in which budgets are moved and layouts compared."""

from __future__ import annotations

import importlib.util
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from puzzle.errors import PuzzleError
from puzzle.report.record import SearchRecord
from puzzle.report.solved_layouts import solved_layouts
from puzzle.report.templates import template
from puzzle.report.verdict import heading
from puzzle.report.words import scenario_words
from puzzle.serving.file_names import CHILD_FILES
from puzzle.serving.writers.source import sources_of
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import publish_text

__all__ = ["write_explorer"]


def write_explorer(
    record: SearchRecord, path: str | os.PathLike[str], *, saved: Path | None = None
) -> Path:
    """Writes the explorer of a search; the plotting library is in the page, some 5 MB.

    Args:
        record: The record, with its evidence.
        path: The file; one that ends in .json gets the layouts alone, for a page of one's own.
        saved: The directory that holds the child, if it is saved.

    Returns:
        The file.

    Raises:
        PuzzleError: plotly is not installed.
        DataError: The record has no evidence, or nothing in it can be explored.
        WorkspaceError: The file cannot be written.
    """
    file = user_path(path)
    alone = file.suffix == ".json"
    if not alone and importlib.util.find_spec("plotly") is None:
        raise PuzzleError('the explorer needs plotly; run: pip install "puzzle-nas[explore]"')
    refuse_source(file, [saved, *sources_of(record)], inside=CHILD_FILES)
    data = _explored(record)
    text = json.dumps(data)
    publish_text(file, text if alone else _page(record, text))
    return file


def _explored(record: SearchRecord) -> dict[str, Any]:
    """Returns what is explored, as JSON values."""
    layouts = solved_layouts(record)
    run = record.evidence.run if record.evidence else {}
    settings = run.get("settings", {}) if run else {}
    name = run["parent"]["source"] or run["parent"]["name"] if run else "PARENT"
    # A shared library is searched without text.
    shared = run.get("library")
    source = f"--library {shared['place']}" if shared else f"{name} --text TEXT"
    hardware = f"--hardware {settings.get('hardware') or 'cpu'}"
    if settings.get("profile"):
        hardware = f"--profile {settings['profile']}"
    return {
        "heading": heading(record),
        "scenario": scenario_words(record.scenario),
        "layouts": [each.to_dict() for each in layouts],
        "resources": list(layouts[0].shares),
        "command": f'puzzle search {source} {hardware} --constraint "CONSTRAINTS"',
    }


def _page(record: SearchRecord, text: str) -> str:
    here = resources.files("puzzle.report")
    return template("explorer.html", html=True).render(
        heading=heading(record),
        style=Markup(here.joinpath("page.css").read_text("utf-8")),
        plotly=Markup(_plotly().replace("</script", "<\\/script")),
        script=Markup(here.joinpath("explorer.js").read_text("utf-8")),
        # Within a script element, "</" would end it.
        data=Markup(text.replace("</", "<\\/")),
        scenario=scenario_words(record.scenario),
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script
