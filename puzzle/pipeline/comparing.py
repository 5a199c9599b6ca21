"""compare(): several runs in one table, one picture and one page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from puzzle.errors import DataError
from puzzle.pipeline.loading import load_result
from puzzle.pipeline.result import SearchResult
from puzzle.report.compared_runs import RunComparison, distinct_names

RunLike = SearchResult | str | os.PathLike[str]


def compare(runs: Iterable[RunLike] | Mapping[str, RunLike]) -> RunComparison:
    """Puts several runs beside each other.

    Args:
        runs: Results, run directories, or directories of saved children; or any of these by name.

    Returns:
        Their figures as a table, a picture, a DataFrame or a page. Runs that differ in nothing but
        their seed are summed up as mean and standard deviation.

    Raises:
        DataError: There are fewer than two, or a directory has no saved result.

    Example:
        >>> import puzzle
        >>> puzzle.compare(["run-1.25x", "run-1.5x"]).report("both.html")  # doctest: +SKIP
    """
    if isinstance(runs, str | os.PathLike):
        raise DataError(f"runs={os.fspath(runs)!r} is one run; give a list of two or more")
    given = dict(runs) if isinstance(runs, Mapping) else None
    each = list(given.values()) if given is not None else list(runs)
    if len(each) < 2:
        raise DataError(f"{len(each)} runs were given; to compare takes two or more")
    results = [run if isinstance(run, SearchResult) else load_result(run) for run in each]
    if given is not None:
        names = list(map(str, given))
    else:
        names = distinct_names([_name(run, number) for number, run in enumerate(each, 1)])
    return RunComparison(records=dict(zip(names, results, strict=True)))


def _name(run: RunLike, number: int) -> str:
    if not isinstance(run, SearchResult):
        return os.fspath(run)
    return str(run.run_directory or run.saved or f"result {number}")
