"""Several runs beside each other: one table, one picture, one page."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from puzzle.plotting.chart import Chart, Mark, Series
from puzzle.plotting.html_table import html_table
from puzzle.report.frontier import frontier_of
from puzzle.report.record import SearchRecord
from puzzle.report.templates import template
from puzzle.report.verdict import verdict
from puzzle.report.words import scenario_words
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import publish_text
from search_space import layout_svg

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

# Okabe-Ito's palette, and a mark of its own for each run.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
_MARKS: tuple[Mark, ...] = ("circle", "square", "diamond", "triangle", "plus", "cross")
_FIGURES = {
    "throughput": ("throughput", ".3f"),
    "memory": ("memory", ".3f"),
    "parameters": ("parameters", ".3f"),
    "KL (nats/token)": ("kl", ".4f"),
    "agreement": ("agreement", ".4f"),
    "perplexity": ("perplexity", ".2f"),
}
_RATIOS = ("throughput", "memory", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunComparison:
    """Runs beside each other; those that differ in nothing but their seed are summed up as well.

    Args:
        records: What each run chose, by its name.
        heading: The title of the page; by default how many runs there are.
        notes: Sentences for the page on what they have in common.

    Example:
        >>> print(puzzle.compare(["run-a", "run-b"]).table())  # doctest: +SKIP
    """

    records: Mapping[str, SearchRecord]
    heading: str = ""
    notes: Sequence[str] = ()

    @property
    def head(self) -> tuple[str, ...]:
        """The names of the table's columns; ratios are to the parent."""
        return ("run", *(f"{n} (x parent)" if n in _RATIOS else n for n in _FIGURES), "constraints")

    def figures(self) -> dict[str, dict[str, float]]:
        """Returns what is known of each run's child, by run: ratios to the parent, and quality.

        Throughput and memory are measured, or predicted where they were not measured.
        """
        return {name: _figures(record) for name, record in self.records.items()}

    def seeds(self) -> dict[str, tuple[str, ...]]:
        """Returns the runs that differ in nothing but their seed, by the name of the first."""
        alike: dict[str, list[str]] = {}
        for name, record in self.records.items():
            alike.setdefault(_without_seed(record) or name, []).append(name)
        return {names[0]: tuple(names) for names in alike.values() if len(names) > 1}

    def rows(self) -> list[tuple[str, ...]]:
        """Returns the rows of the table: a run each, then mean and deviation over seeds."""
        known, rows = self.figures(), []
        for name, record in self.records.items():
            limits = record.evidence.constraints if record.evidence else ()
            cells = (_shown(known[name].get(key), form) for key, form in _FIGURES.values())
            rows.append((name, *cells, "; ".join(map(str, limits))))
        for names in self.seeds().values():
            cells_of = []
            for key, form in _FIGURES.values():
                values = [known[name][key] for name in names if key in known[name]]
                both = len(values) == len(names)
                deviation = statistics.stdev(values) if both else 0.0
                mean = f"{statistics.mean(values):{form}} \u00b1 {deviation:{form}}" if both else ""
                cells_of.append(mean)
            label = f"{len(names)} seeds: {', '.join(names)}"
            rows.append((label, *cells_of, "mean and deviation of one"))
        return rows

    def table(self) -> str:
        """Returns the table as text."""
        rows = [self.head, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.head))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i in (0, len(widths) - 1) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )

    def chart(self) -> Chart:
        """Returns quality against throughput: the frontier of each program, and each child.

        The line of a run joins the best layouts that its program predicts; its mark is the child.
        """
        series = [Series(label="parent", points=[(1.0, 0.0)], mark="ring")]
        axes = set()
        for number, (name, record) in enumerate(self.records.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            frontier, known = frontier_of(record), _figures(record)
            if frontier is not None:
                axes.add(frontier.axis)
                line = sorted((p.share, p.kl) for p in frontier.points if p.kind == "frontier")
                if line:
                    series.append(Series(label="", points=line, colour=colour, line=True))
            if "throughput" in known and "kl" in known:
                point = (known["throughput"], known["kl"])
                mark = _MARKS[number % len(_MARKS)]
                series.append(Series(label=name, points=[point], mark=mark, colour=colour))
        axis = "throughput" if not axes or "throughput" in axes else sorted(axes)[0]
        return Chart(
            title=f"Quality against {axis} of {len(self.records)} runs",
            series=tuple(series),
            x=f"{axis}, times the parent's",
            y="KL to the parent, nats per token",
        )

    def plot(self) -> Figure:
        """Returns the picture of `chart`, drawn with matplotlib."""
        return self.chart().figure()

    def to_dataframe(self) -> pandas.DataFrame:
        """Returns the figures as a pandas DataFrame, a row for each run."""
        import pandas

        return pandas.DataFrame.from_dict(self.figures(), orient="index").rename_axis("run")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"runs": self.figures(), "seeds": {k: list(v) for k, v in self.seeds().items()}}

    def report(self, path: str | os.PathLike[str] = "comparison.html") -> Path:
        """Writes one HTML page with the table, the picture and every layout.

        Args:
            path: The file.

        Returns:
            The file.

        Raises:
            WorkspaceError: The file cannot be written.
        """
        file = user_path(path)
        refuse_source(file, self.records)
        css = resources.files("puzzle.report").joinpath("page.css").read_text("utf-8")
        first = next(iter(self.records.values()))
        values = {
            "style": Markup(css),
            "heading": self.heading or f"{len(self.records)} runs compared",
            "notes": self.notes,
            "table": Markup(html_table(self.head, self.rows())),
            "chart": Markup(self.chart().svg()),
            "scenario": scenario_words(first.scenario),
            "layouts": [
                (name, verdict(record), Markup(layout_svg(record.layout)))
                for name, record in self.records.items()
            ],
        }
        publish_text(file, template("comparison.html", html=True).render(values))
        return file

    def _repr_html_(self) -> str:
        return f"{html_table(self.head, self.rows())}{self.chart().svg()}"


def _figures(record: SearchRecord) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in _RATIOS:
        for part in (record.measured, record.predicted):
            ratio = part.ratio(name)
            if ratio is not None:
                values[name] = ratio
                break
    child = record.measured.child.to_dict()
    return {**values, **{k: child[k] for k in ("kl", "agreement", "perplexity") if k in child}}


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _without_seed(record: SearchRecord) -> str | None:
    """Returns all that a run was given except its seed, as text; None if that is not known."""
    evidence = record.evidence
    if evidence is None or not evidence.run:
        return None
    run = evidence.run
    given = {
        "parent": run.get("parent", {}).get("hash"),
        "constraints": list(map(str, evidence.constraints)),
        "scenario": record.scenario.to_dict(),
        "settings": {k: v for k, v in run.get("settings", {}).items() if k != "seed"},
        "data": {k: v for k, v in run.get("data", {}).items() if k != "seed"},
        "costs": run.get("costs"),
    }
    return json.dumps(given, sort_keys=True, default=str)


def distinct_names(given: Sequence[str]) -> list[str]:
    """Returns names that tell runs apart, as short as that goes: the last parts of their paths.

    Example:
        >>> distinct_names(["a/run", "b/run", "other"])
        ['a/run', 'b/run', 'other']
    """
    parts = [Path(name).absolute().parts for name in given]
    for count in range(1, max(map(len, parts), default=1) + 1):
        longer = ["/".join(each[-count:]) for each in parts]
        if len(set(longer)) == len(longer):
            ends = [each[-1] for each in parts]
            pairs = zip(longer, ends, strict=True)
            return [end if ends.count(end) == 1 else name for name, end in pairs]
    return [f"{name} ({number})" for number, name in enumerate(given, 1)]
