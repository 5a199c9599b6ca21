"""Reading the result of a search that was saved."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from puzzle.errors import DataError
from puzzle.pipeline.result import EVIDENCE, RECORD, SearchResult
from puzzle.report.evidence import Evidence
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.paths import user_path


def load_result(directory: str | os.PathLike[str]) -> SearchResult:
    """Returns the result that `SearchResult.save` wrote; its child is read when it is needed.

    Args:
        directory: Where the child was saved, or the run directory that has it in `child`.

    Raises:
        DataError: There is no saved result, or a file of it is damaged.
    """
    path = user_path(directory)
    places = [each for each in (path, path / "child") if (each / RECORD).is_file()]
    if not places:
        raise DataError(
            f"{path} has no {RECORD}; give the directory that result.save() wrote, or the run "
            "directory of 'puzzle search'"
        )
    evidence = places[0] / EVIDENCE
    file = places[0] / RECORD
    with interpreting(file, "the record of a search"):
        result = SearchResult.from_dict(
            read_object(file, "the record of a search"),
            evidence=_read_evidence(evidence) if evidence.is_file() else None,
        )
        if result.evidence is not None:
            solution = result.solution
            labels = result.evidence.problem.labels(solution.choices, solution.spans)
            if labels != solution.labels:
                raise DataError("the solution's labels are not those of its choices")
    return replace(result, saved=places[0])


def _read_evidence(file: Path) -> Evidence:
    with interpreting(file, "the evidence of a search"):
        return Evidence.from_dict(read_object(file, "the evidence of a search"))
