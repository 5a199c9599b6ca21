"""SearchResult: the layout found, what was predicted of it and what was measured."""

from __future__ import annotations

import html
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle.errors import DataError
from puzzle.library.build import Library
from puzzle.limits.scenario import Scenario, rate
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.generation import inherit_generation_config
from puzzle.report.card import model_card
from puzzle.report.curves import read_record
from puzzle.report.evidence import Evidence
from puzzle.serving.files import copy_tokenizer, save_tokenizer, staged
from puzzle.storage.disk import require_free
from search_space import Layout, plot_layout
from solvers import Solution

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from puzzle.distillation.outcome import DistillResult

MIB = 2**20
RECORD, EVIDENCE = "puzzle_layout.json", "puzzle_evidence.json"
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
        measured: Quality on the validation text, and the seconds that both take where the costs
            are of; no seconds where that is not here.
        library: Where the weights are; None for a result read from a directory.
        evidence: What the layout was chosen from, for the report.
        saved: The directory that a result was read from, which holds its child.
    """

    layout: Layout
    solution: Solution
    scenario: Scenario
    predicted: Mapping[str, Mapping[str, float]]
    measured: Mapping[str, Mapping[str, float]]
    library: Library | None = None
    evidence: Evidence | None = None
    saved: Path | None = None

    def child(self) -> PuzzleForCausalLM:
        """Returns the child, assembled from the library or read from where it was saved."""
        if self.library is None:
            return PuzzleForCausalLM.from_pretrained(self.saved, dtype="auto").eval()
        parent = self.library.parent
        tensors = self.library.child_tensors(self.layout)
        model = assemble(parent.config, self.layout, tensors, dtype=parent.dtype)
        inherit_generation_config(model, getattr(parent.tensors, "directory", None))
        return model

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Returns the rows of the table: name, parent and child predicted, then measured."""
        columns = [
            {**part[who], **self.rates(part[who])}
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
            parent, child = (self.rates(part[who]) for who in ("parent", "child"))
            found[name] = {key: child[key] / parent[key] for key in RATES if key in parent}
        return found

    def gain(self) -> tuple[float, str] | None:
        """Returns how many times the parent's throughput the child's is, and how that is known.

        Returns:
            The factor, and "measured" or "predicted"; None where no seconds are known.
        """
        found = self.speedup()
        known = [how for how in ("measured", "predicted") if "throughput" in found[how]]
        return (found[known[0]]["throughput"], known[0]) if known else None

    def rates(self, totals: Mapping[str, float]) -> dict[str, float]:
        """Returns the rates of totals such as `measured["child"]`; those that they tell."""
        if {"prefill_seconds", "decode_seconds"} <= set(totals):
            return rate(totals, self.scenario)
        if "seconds" not in totals:
            return {}
        generated = self.scenario.batch * self.scenario.generated_tokens
        return {"throughput": generated / totals["seconds"], "latency": totals["seconds"]}

    def table(self) -> str:
        """Returns parent against child, predicted and measured, as text."""
        head = ("", "parent pred.", "child pred.", "parent meas.", "child meas.")
        rows = [head, *self.rows()]
        gains = self.speedup()
        for name in RATES:
            told = [f"{each[name]:.2f}x" if name in each else "" for each in gains.values()]
            if any(told):
                rows.append((f"{name} gain", "", told[0], "", told[1]))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        sure = self.evidence.corrections.items() if self.evidence else ()
        notes = [f"{name} of whole layouts are predicted {found.sure}" for name, found in sure]
        lines = (
            row[0].ljust(widths[0]) + "".join("  " + row[i].rjust(widths[i]) for i in range(1, 5))
            for row in rows
        )
        if "throughput" not in gains["measured"]:
            notes.append("nothing was timed: the costs are not of this machine")
        return "\n".join([*lines, *notes])

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        distillation: DistillResult | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> Path:
        """Writes the report: one HTML page that needs no other file and no network.

        What the result does not hold is left out: without evidence, that is frontier, scores,
        constraints and how to find the result again.

        Args:
            path: The file, such as "report.html".
            distillation: The child's distillation, its record, or the directory it was written
                to; by default the record in the directory that the result was read from.

        Returns:
            The file.

        Raises:
            DataError: The directory has no record of a distillation.
            WorkspaceError: The file cannot be written.
        """
        from puzzle.report.page import write_report

        return write_report(self, path, distillation=read_record(distillation, self.saved))

    def plot_layout(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Returns the layout drawn with matplotlib; see `search_space.plot_layout`."""
        return plot_layout(self.layout, path)

    def plot_frontier(self) -> Figure:
        """Returns quality against throughput: frontier, parent, child, pool and baselines.

        Where the program knows no time, another limited resource takes the place of throughput.

        Raises:
            DataError: The result has no evidence.
            ImportError: matplotlib is not installed.
        """
        from puzzle.report import frontier, plots

        self._require_evidence()
        found = frontier.frontier_of(self)
        if found is None:
            raise DataError("the program has no resource to draw a frontier over")
        return plots.frontier_figure(found)

    def plot_scores(self) -> Figure:
        """Returns the heat map of scores, the child's blocks framed.

        Raises:
            DataError: The result has no evidence.
            ImportError: matplotlib is not installed.
        """
        from puzzle.report import grids, plots

        return plots.heat_figure(grids.score_grid(self._require_evidence().scores, self.layout))

    def plot_errors(self) -> Figure:
        """Returns the heat map of local errors, the child's variants framed.

        Raises:
            DataError: The result has no evidence, or no local errors.
            ImportError: matplotlib is not installed.
        """
        from puzzle.report import grids, plots

        errors = self._require_evidence().errors
        if not errors:
            raise DataError("the result holds no local errors: it was not made from a library")
        return plots.heat_figure(grids.error_grid(errors, self.layout))

    def plot_costs(self) -> Figure:
        """Returns measured over predicted costs of parent and child.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from puzzle.report import cost_points as costs
        from puzzle.report import plots

        return plots.costs_figure(costs.costs_of(self))

    def to_dataframe(self) -> pandas.DataFrame:
        """Returns parent and child, predicted and measured, as a pandas DataFrame.

        Returns:
            One row for each of the four, by (which, how), and a column for each figure, in tokens
            per second, seconds, bytes, nats per token and counts.
        """
        import pandas

        rows = {
            (who, how): {**part[who], **self.rates(part[who])}
            for who in ("parent", "child")
            for how, part in (("predicted", self.predicted), ("measured", self.measured))
        }
        index = pandas.MultiIndex.from_tuples(rows, names=("model", "source"))
        return pandas.DataFrame(list(rows.values()), index=index)

    def _require_evidence(self) -> Evidence:
        if self.evidence is None:
            raise DataError(
                f"the result has no evidence, which search() keeps and save() writes to {EVIDENCE}"
            )
        return self.evidence

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
        """Writes the child in Hugging Face format, with its tokenizer, model card and evidence.

        `puzzle_layout.json` holds the layout and the figures, `puzzle_evidence.json` what it was
        chosen from, README.md the model card; `load_result` reads the result back.

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

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Child found by puzzle",
        endpoint: str | None = None,
    ) -> str:
        """Uploads what `save` writes to a repository of the Hub, which is made if need be.

        Args:
            repo_id: Such as "me/my-child".
            private: Whether a new repository is private; by default as the account has it.
            token: Hub token; by default the one that is logged in.
            commit_message: Of the one commit.
            endpoint: Another Hub.

        Returns:
            The URL of the commit.

        Raises:
            WorkspaceError: The disk has no room for the child.
            HfHubHTTPError: The Hub refuses.

        Example:
            >>> result.push_to_hub("me/my-child", private=True)  # doctest: +SKIP
        """
        from huggingface_hub import HfApi

        hub = HfApi(endpoint=endpoint, token=token)
        with tempfile.TemporaryDirectory() as directory:
            path = self.save(Path(directory) / "child")
            hub.create_repo(repo_id, private=private, exist_ok=True)
            done = hub.upload_folder(
                repo_id=repo_id, folder_path=path, commit_message=commit_message
            )
        return str(done.commit_url)

    def _write(self, path: Path) -> None:
        self.child().save_pretrained(path)
        if self.library is None:
            copy_tokenizer(self.saved or path, path)
        elif self.library.parent.tokenizer is not None:
            save_tokenizer(self.library.parent.tokenizer, path)
        _write_json(path / RECORD, self.to_dict())
        if self.evidence is not None:
            _write_json(path / EVIDENCE, self.evidence.to_dict())
        (path / "README.md").write_text(model_card(self), encoding="utf-8")

    def __repr__(self) -> str:
        kl, gain = self.measured["child"]["kl"], self.gain()
        told = f"{gain[0]:.2f}x {gain[1]}, " if gain else ""
        return f"SearchResult({self.layout!r}, {told}KL {kl:.3f})"

    def _repr_html_(self) -> str:
        from puzzle.report.verdict import verdict

        said = html.escape(verdict(self))
        return f"<p>{said}</p>{self.layout._repr_html_()}<pre>{html.escape(self.table())}</pre>"


def load_result(directory: str | os.PathLike[str]) -> SearchResult:
    """Returns the result that `SearchResult.save` wrote; its child is read when asked for.

    Args:
        directory: Where the child was saved, or the run directory that has it in `child`.

    Raises:
        DataError: There is no saved result.
    """
    path = Path(directory)
    found = [each for each in (path, path / "child") if (each / RECORD).is_file()]
    if not found:
        raise DataError(
            f"{path} has no {RECORD}; give the directory that result.save() wrote, or the run "
            "directory of 'puzzle search'"
        )
    values = json.loads((found[0] / RECORD).read_text(encoding="utf-8"))
    evidence = found[0] / EVIDENCE
    return SearchResult(
        layout=Layout.from_dict(values["layout"]),
        solution=Solution.from_dict(values["solution"]),
        scenario=Scenario.from_dict(values["scenario"]),
        predicted=values["predicted"],
        measured=values["measured"],
        evidence=_read_evidence(evidence) if evidence.is_file() else None,
        saved=found[0],
    )


def _read_evidence(file: Path) -> Evidence:
    return Evidence.from_dict(json.loads(file.read_text(encoding="utf-8")))


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
