"""SearchResult: the layout found, what was predicted of it and what was measured."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzle.child import PuzzleForCausalLM, assemble
from puzzle.child.generation import inherit_generation_config
from puzzle.disk import require_free
from puzzle.export.files import save_tokenizer, staged
from puzzle.library.build import Library
from puzzle.scenario import Scenario, rate
from search_space import Layout
from solvers import Solution

MIB = 2**20
RATES = ("throughput", "prefill_throughput", "decode_throughput")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SearchResult:
    """What a search found.

    Args:
        layout: The child's architecture.
        solution: The program's solution, with status, bound and gap; the layout may be another,
            near it, that measured better.
        scenario: What the speeds are of.
        predicted: Resources of "parent" and "child" by the cost model, and the child's score.
        measured: The same by running both, with quality on the validation text.
        library: Where the weights are.
    """

    layout: Layout
    solution: Solution
    scenario: Scenario
    predicted: Mapping[str, Mapping[str, float]]
    measured: Mapping[str, Mapping[str, float]]
    library: Library

    def child(self) -> PuzzleForCausalLM:
        """Returns the child, assembled from the library."""
        parent = self.library.parent
        tensors = self.library.child_tensors(self.layout)
        model = assemble(parent.config, self.layout, tensors, dtype=parent.dtype)
        inherit_generation_config(model, getattr(parent.tensors, "directory", None))
        return model

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Returns the rows of the table: name, parent and child predicted, then measured."""
        columns = [
            {**part[who], **rate(part[who], self.scenario)}
            for part in (self.predicted, self.measured)
            for who in ("parent", "child")
        ]
        lines = {
            "throughput (tokens/s)": ("throughput", 1.0, ".1f"),
            "prefill (tokens/s)": ("prefill_throughput", 1.0, ".1f"),
            "decode (tokens/s)": ("decode_throughput", 1.0, ".1f"),
            "parameters (M)": ("parameters", 1e6, ".1f"),
            "memory (MiB)": ("memory", MIB, ".1f"),
            "KL (nats/token)": ("kl", 1.0, ".3f"),
            "perplexity": ("perplexity", 1.0, ".2f"),
            "next-token agreement": ("agreement", 1.0, ".3f"),
        }
        return [
            (name, *(f"{c[key] / unit:{form}}" if key in c else "" for c in columns))  # type: ignore[misc]
            for name, (key, unit, form) in lines.items()
        ]

    def speedup(self) -> dict[str, dict[str, float]]:
        """Returns child / parent for each rate, predicted and measured."""
        found = {}
        for name, part in (("predicted", self.predicted), ("measured", self.measured)):
            parent, child = (rate(part[who], self.scenario) for who in ("parent", "child"))
            found[name] = {key: child[key] / parent[key] for key in RATES}
        return found

    def table(self) -> str:
        """Returns parent against child, predicted and measured, as text."""
        head = ("", "parent pred.", "child pred.", "parent meas.", "child meas.")
        rows = [head, *self.rows()]
        for name, predicted in self.speedup()["predicted"].items():
            measured = self.speedup()["measured"][name]
            rows.append((f"{name} gain", "", f"{predicted:.2f}x", "", f"{measured:.2f}x"))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join(
            row[0].ljust(widths[0]) + "".join("  " + row[i].rjust(widths[i]) for i in range(1, 5))
            for row in rows
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "layout": self.layout.to_dict(),
            "solution": self.solution.to_dict(),
            "scenario": self.scenario.to_dict(),
            "predicted": {k: dict(v) for k, v in self.predicted.items()},
            "measured": {k: dict(v) for k, v in self.measured.items()},
            "speedup": self.speedup(),
        }

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes the child in Hugging Face format, its tokenizer, and `puzzle_layout.json`.

        Everything is written beside the directory first and moved into it file by file, the
        config last: what cannot be loaded yet does not look like a model.

        Args:
            directory: Where to write; files of the same names are replaced.

        Returns:
            The directory, for `AutoModelForCausalLM.from_pretrained` after `import puzzle`.

        Raises:
            WorkspaceError: The disk is full or cannot be written.
        """
        path = Path(directory)
        require_free(path.parent, 2 * self.layout.parameters() * self.scenario.weight_bytes)
        with staged(path) as stage:
            self._write(stage)
        return path

    def _write(self, path: Path) -> None:
        self.child().save_pretrained(path)
        if self.library.parent.tokenizer is not None:
            save_tokenizer(self.library.parent.tokenizer, path)
        text = json.dumps(self.to_dict(), indent=1)
        (path / "puzzle_layout.json").write_text(text + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        gain = self.speedup()["measured"]["throughput"]
        kl = self.measured["child"]["kl"]
        return f"SearchResult({self.layout!r}, {gain:.2f}x measured, KL {kl:.3f})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>{self.layout._repr_html_()}"
