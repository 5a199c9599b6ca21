"""DrawnRecord: the figures and tables of a search, as notebooks show them."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from puzzle.errors import DataError
from puzzle.evaluation.evaluating import Evaluation
from puzzle.library.error_map import error_map
from puzzle.plotting.html_table import html_table
from puzzle.plotting.page_width import fit_width
from puzzle.report.answer_seconds import AnswerSeconds, answer_seconds
from puzzle.report.charts import answers_chart, costs_chart, frontier_chart
from puzzle.report.cost_points import costs_of
from puzzle.report.evidence import Evidence
from puzzle.report.frontier import frontier_of
from puzzle.report.record import SearchRecord
from puzzle.report.verdict import verdict
from search_space import plot_layout
from search_space.user_files import save_file

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

# "column" or "page" of a paper, or inches.
Width = str | float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class DrawnRecord(SearchRecord):
    """What a search chose, with figures and tables of it."""

    def plot_layout(
        self, path: str | os.PathLike[str] | None = None, *, width: Width = None
    ) -> Figure:
        """Returns the layout drawn with matplotlib; see `search_space.plot_layout`.

        Args:
            path: A file to write.
            width: "column" or "page" of a paper, or inches; by default as wide as it needs.
        """
        if width is None:
            return plot_layout(self.layout, path)
        figure = fit_width(plot_layout(self.layout), width)
        if path is not None:
            save_file(path, figure.savefig)
        return figure

    def plot_frontier(self, *, width: Width = None) -> Figure:
        """Returns quality against throughput: frontier, parent, child, pool and baselines.

        If the program has no time, another limited resource takes the place of throughput.

        Args:
            width: As for `plot_layout`.

        Raises:
            DataError: The result has no evidence.
        """
        self._require_evidence()
        frontier = frontier_of(self)
        if frontier is None:
            raise DataError("the program has no resource to draw a frontier over")
        return fit_width(frontier_chart(frontier).figure(), width)

    def plot_scores(self, *, width: Width = None) -> Figure:
        """Returns the heat map of scores, the child's blocks framed.

        Args:
            width: As for `plot_layout`.

        Raises:
            DataError: The result has no evidence.
        """
        return fit_width(self._require_evidence().scores.heat_map(self.layout).figure(), width)

    def plot_errors(self, *, width: Width = None) -> Figure:
        """Returns the heat map of local errors, the child's variants framed.

        Args:
            width: As for `plot_layout`.

        Raises:
            DataError: The result has no evidence, or no local errors.
        """
        errors = self._require_evidence().errors
        if not errors:
            raise DataError("the result holds no local errors: it was not made from a library")
        return fit_width(error_map(errors, self.layout).figure(), width)

    def plot_costs(self, *, width: Width = None) -> Figure:
        """Returns measured over predicted costs of parent and child.

        Args:
            width: As for `plot_layout`.
        """
        return fit_width(costs_chart(costs_of(self)).figure(), width)

    def to_dataframe(self) -> pandas.DataFrame:
        """Returns parent and child, predicted and measured, as a pandas DataFrame.

        Returns:
            One row for each of the four, by (which, how), and a column for each figure, in tokens
            per second, seconds, bytes, nats per token and counts.
        """
        import pandas

        rows = {
            (who, how): getattr(part, who).with_rates()
            for who in ("parent", "child")
            for how, part in (("predicted", self.predicted), ("measured", self.measured))
        }
        index = pandas.MultiIndex.from_tuples(rows, names=("model", "source"))
        return pandas.DataFrame(list(rows.values()), index=index)

    def answer_seconds(
        self, evaluation: Evaluation, *, budgets: Mapping[int, Evaluation] | None = None
    ) -> AnswerSeconds:
        """Returns what an answer takes of parent and child, each as long as its own answers are.

        Args:
            evaluation: What `evaluate` measured of both with `thinking="both"` and an AnswerTask.
            budgets: The same under budgets of thought, by their tokens.

        Raises:
            DataError: The search had no scenario for each mode (`answer_workload`).
        """
        return answer_seconds(self, evaluation, budgets or {})

    def plot_answers(
        self,
        evaluation: Evaluation,
        *,
        budgets: Mapping[int, Evaluation] | None = None,
        width: Width = None,
    ) -> Figure:
        """Returns the share of right answers over the seconds of one, of both models and modes.

        Args:
            evaluation: As for `answer_seconds`.
            budgets: Likewise; they are a curve for each model.
            width: As for `plot_layout`.

        Raises:
            DataError: As for `answer_seconds`.
        """
        found = self.answer_seconds(evaluation, budgets=budgets)
        return fit_width(answers_chart(found).figure(), width)

    def _require_evidence(self) -> Evidence:
        if self.evidence is None:
            raise DataError(
                "the result has no evidence, which search() keeps and save() writes with the child"
            )
        return self.evidence

    def _repr_html_(self) -> str:
        sentence, table = html.escape(verdict(self)), html_table(self.head, self.table_rows())
        notes = "<br>".join(map(html.escape, self.notes()))
        return f"<p>{sentence}</p>{self.layout._repr_html_()}{table}<p><small>{notes}</small></p>"
