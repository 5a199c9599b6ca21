"""SearchRecord: what a search chose, predicted and measured, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from puzzle.hardware.precision import Formats
from puzzle.limits.scenario import Scenario
from puzzle.report.comparison import SPEEDS, Comparison
from puzzle.report.evidence import Evidence
from puzzle.report.words import profile_words
from puzzle.storage.json_files import interpreting
from puzzle.storage.json_values import as_list, as_number, as_object, field_values
from search_space import Layout
from solvers import Solution

MIB = 2**20
ROWS = {
    "throughput (tokens/s)": ("throughput", 1.0, ".1f"),
    "prefill (tokens/s)": ("prefill_throughput", 1.0, ".1f"),
    "decode (tokens/s)": ("decode_throughput", 1.0, ".1f"),
    "parameters (M)": ("parameters", 1e6, ".1f"),
    "memory (MiB)": ("memory", MIB, ".1f"),
    "KL (nats/token)": ("kl", 1.0, ".3f"),
    "perplexity": ("perplexity", 1.0, ".2f"),
    "next-token agreement": ("agreement", 1.0, ".3f"),
}
"""Name, figure, unit and format of each row of the table."""
# A prediction that is off by more than this share is pointed out.
ALARM = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SearchRecord:
    """What a search chose, predicted and measured.

    Args:
        layout: The child's architecture.
        solution: The program's solution, with status, bound and gap; the layout may be another,
            near it, that measured better.
        scenario: What the speeds are of.
        predicted: Parent and child by the cost model, and the child's score as its KL.
        measured: Quality on the validation text, and the seconds that both take on the hardware
            of the costs; no seconds if that is not this machine.
        evidence: What the layout was chosen from; None if that was not kept.
    """

    layout: Layout
    solution: Solution
    scenario: Scenario
    predicted: Comparison
    measured: Comparison
    evidence: Evidence | None = None

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Returns the rows of the table: name, parent and child predicted, then measured.

        Predicted speeds are rounded to what the known error of the predictions leaves of them.
        """
        columns = [
            (part is self.predicted, figures.with_rates())
            for part in (self.predicted, self.measured)
            for figures in (part.parent, part.child)
        ]
        rows = []
        for name, (key, unit, form) in ROWS.items():
            cells = ["", "", "", ""]
            for at, (predicted, figures) in enumerate(columns):
                if key in figures:
                    value, rough = figures[key] / unit, predicted and key in SPEEDS
                    cells[at] = (
                        significant(value, self._digits(key)) if rough else f"{value:{form}}"
                    )
            rows.append((name, *cells))
        return rows  # type: ignore[return-value]

    def _digits(self, speed: str) -> int:
        """Returns how many digits of a predicted speed say something."""
        corrections = self.evidence.corrections if self.evidence else {}
        phase = speed.replace("throughput", "seconds")
        errors = [c.known for name, c in corrections.items() if name == phase or phase == "seconds"]
        error = max((each for each in errors if not math.isnan(each)), default=0.0)
        return 2 if error >= ALARM / 2 else 3

    def gain(self) -> tuple[float, str] | None:
        """Returns how many times the parent's throughput the child's is, and how that is known.

        Returns:
            The factor, and "measured" or "predicted"; None where no seconds are known.
        """
        for part, how in ((self.measured, "measured"), (self.predicted, "predicted")):
            factor = part.ratio("throughput")
            if factor is not None:
                return factor, how
        return None

    @property
    def misprediction(self) -> str:
        """A sentence where the gain was predicted far from what was measured; else empty."""
        gain, measured = (part.ratio("throughput") for part in (self.predicted, self.measured))
        if gain is None or measured is None or abs(gain / measured - 1) <= ALARM:
            return ""
        error = gain / measured - 1
        return (
            f"throughput was predicted to be {gain:.2f} times the parent's, and {measured:.2f} "
            f"times was measured: the prediction is {abs(error):.0%} too "
            f"{'high' if error > 0 else 'low'}, so what the costs say of other layouts is as "
            "uncertain"
        )

    @property
    def untimed(self) -> str:
        """A sentence on why nothing was timed, and what the costs are of; else empty."""
        if self.measured.ratio("throughput") is not None:
            return ""
        origin = self.evidence.run.get("profile") if self.evidence else None
        words = profile_words(origin) if origin else "the costs are not of this machine"
        return f"nothing was timed: {words}"

    @property
    def shared(self) -> str:
        """A sentence on the shared library that the layout was chosen from; else empty."""
        library = self.evidence.run.get("library") if self.evidence else None
        if not library:
            return ""
        unknown = "" if self.measured.child.kl is not None else ", and its quality was not measured"
        return (
            f"the layout was chosen from the shared library {library['place']} as that of the "
            f"least sum of scores{unknown}"
        )

    def table(self) -> str:
        """Returns parent against child, predicted and measured, as text."""
        rows = [self.head, *self.table_rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = (
            row[0].ljust(widths[0]) + "".join("  " + row[i].rjust(widths[i]) for i in range(1, 5))
            for row in rows
        )
        return "\n".join([*lines, *self.notes()])

    @property
    def head(self) -> tuple[str, str, str, str, str]:
        """The names of the table's columns."""
        return ("", "parent pred.", "child pred.", "parent meas.", "child meas.")

    def table_rows(self) -> list[tuple[str, str, str, str, str]]:
        """Returns the rows of the table: those of `rows`, and how many times the parent's speeds
        the child's are.
        """
        rows = self.rows()
        for name in SPEEDS:
            ratios = [part.ratio(name) for part in (self.predicted, self.measured)]
            cells = ["" if ratio is None else f"{ratio:.2f}x" for ratio in ratios]
            if any(cells):
                rows.append((f"{name} gain", "", cells[0], "", cells[1]))
        return rows

    def notes(self) -> list[str]:
        """Returns sentences on what the figures are worth, and the number formats."""
        corrections = self.evidence.corrections if self.evidence else {}
        notes = [
            f"{name} of whole layouts are predicted {c.sure}" for name, c in corrections.items()
        ]
        if self.misprediction:
            notes.append(self.misprediction)
        notes += [self.untimed] if self.untimed else []
        notes += [self.shared] if self.shared else []
        for name, own in (self.evidence.by_text if self.evidence else {}).items():
            error = f" \u00b1 {own['kl_error']:.3f}" if "kl_error" in own else ""
            notes.append(f"KL on {name!r}, {own['share']:.0%} of the text: {own['kl']:.3f}{error}")
        if self.evidence and "formats" in self.evidence.run:
            notes.append(str(Formats.from_dict(self.evidence.run["formats"])))
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; the evidence is written apart."""
        return {
            "layout": self.layout.to_dict(),
            "solution": self.solution.to_dict(),
            "scenario": self.scenario.to_dict(),
            "predicted": self.predicted.to_dict(),
            "measured": self.measured.to_dict(),
            "speedup": {"predicted": self.predicted.speedup(), "measured": self.measured.speedup()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, evidence: Evidence | None = None) -> Self:
        """Returns the record that `to_dict` wrote.

        Args:
            values: What `to_dict` returned.
            evidence: The evidence that was written apart.

        Raises:
            DataError: A value is missing, or of another kind.
        """
        with interpreting("the values", "the record of a search"):
            scenario = Scenario.from_dict(as_object(values["scenario"], "scenario"))
            return cls(
                layout=Layout.from_dict(as_object(values["layout"], "layout")),
                solution=Solution.from_dict(_checked_solution(values["solution"])),
                scenario=scenario,
                predicted=Comparison.from_dict(values["predicted"], scenario),
                measured=Comparison.from_dict(values["measured"], scenario),
                evidence=evidence,
            )

    def __repr__(self) -> str:
        kl, gain = self.measured.child.kl, self.gain()
        parts = [repr(self.layout)]
        parts += [f"{gain[0]:.2f}x {gain[1]}"] if gain else []
        parts += [f"KL {kl:.3f}"] if kl is not None else []
        return f"{type(self).__name__}({', '.join(parts)})"


def significant(value: float, digits: int) -> str:
    """Returns a number without an exponent, rounded to some significant digits.

    Example:
        >>> significant(1380.34, 2), significant(0.99951, 3), significant(0.0, 2)
        ('1400', '1.00', '0.0')
    """
    near = float(f"{value:.{digits}g}")
    places = digits - 1 - (math.floor(math.log10(abs(near))) if near else 0)
    return f"{near:.{max(places, 0)}f}"


def _checked_solution(values: Any) -> Mapping[str, Any]:
    sequences, mappings = ("choices", "labels", "spans"), ("resources", "slack")
    field_values(Solution, values, skip=("status", *sequences, *mappings), finite=False)
    for name in mappings:
        for key, value in as_object(values[name], name).items():
            as_number(value, f"{name} of {key}", finite=False)
    for name in sequences:
        as_list(values[name], name)
    return as_object(values, "solution")
