"""SearchResult: the record of a search, and what is made from it."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle.distillation.distill_result import DistillResult
from puzzle.errors import DataError, PuzzleError
from puzzle.hardware.torch_state import own_torch_state
from puzzle.library.build import Library
from puzzle.library.error_map import error_map
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.generation import inherit_generation_config
from puzzle.models.parent import DTYPES
from puzzle.models.pretrained import load_model
from puzzle.report.card import model_card
from puzzle.report.charts import costs_chart, frontier_chart
from puzzle.report.cost_points import costs_of
from puzzle.report.evidence import Evidence
from puzzle.report.frontier import frontier_of
from puzzle.report.page import write_report
from puzzle.report.record import SearchRecord
from puzzle.report.training import read_record
from puzzle.report.verdict import verdict
from puzzle.serving.file_names import CHILD_FILES, MODEL_FILES, OTHER_THAN_SEARCHED, SEARCHED
from puzzle.serving.files import copy_tokenizer, save_tokenizer
from puzzle.serving.writers.source import sources_of
from puzzle.storage.disk import require_free
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import publishing_directory, require_replaceable, written_files
from puzzle.storage.temporary_places import temporary_place
from search_space import plot_layout

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

RECORD, EVIDENCE = SEARCHED, "puzzle_evidence.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SearchResult(SearchRecord):
    """What a search chose, and where its child is.

    Args:
        layout: The child's architecture.
        solution: The program's solution, with status, bound and gap; the layout may be another,
            near it, that measured better.
        scenario: What the speeds are of.
        predicted: Parent and child by the cost model, and the child's score as its KL.
        measured: Quality on the validation text, and the seconds that both take on the hardware
            of the costs; no seconds if that is not this machine.
        evidence: What the layout was chosen from, for the report.
        library: Where the weights are; None for a result read from a directory.
        stored_dtype: Number format of the child's weights; None for the one the library is in.
        saved: The directory that a result was read from, which holds its child.

    Example:
        >>> result.measured.child.kl, result.measured.ratio("throughput")  # doctest: +SKIP
        (0.513, 1.336)
    """

    library: Library | None = None
    stored_dtype: str | None = None
    saved: Path | None = None

    @property
    def run_directory(self) -> Path | None:
        """The run directory that the library is in; None for a result that was read."""
        return None if self.library is None else self.library.layers[0].root

    @own_torch_state()
    def child(self) -> PuzzleForCausalLM:
        """Returns the child, assembled from the library or read from where it was saved.

        Its name is where it can be loaded from, which trainers do for a reference model: the
        directory it was read from, or that of the same child in the run directory. There is none
        before one is saved.
        """
        if self.library is None:
            child: PuzzleForCausalLM = load_model(str(self.saved))
            return child
        parent = self.library.parent
        dtype = DTYPES.get(self.stored_dtype or "", parent.dtype)
        tensors = self.library.child_tensors(self.layout, dtype)
        model = assemble(parent.config, self.layout, tensors, dtype=dtype)
        inherit_generation_config(model, getattr(parent.tensors, "directory", None))
        parent.require_unchanged()
        model.name_or_path = model.config._name_or_path = self._saved_in_run()
        return model

    def _saved_in_run(self) -> str:
        """Returns where the run directory holds this child as it was saved, or an empty text."""
        place = None if self.run_directory is None else self.run_directory / "child"
        if place is None or not (place / RECORD).is_file():
            return ""
        try:
            record, written = read_object(place / RECORD, RECORD), written_files(place)
        except PuzzleError:
            return ""
        weights = [file.name for file in place.glob("*.safetensors")]
        whole = bool(weights) and set(weights) <= set(written)
        return str(place) if whole and record == json.loads(json.dumps(self.to_dict())) else ""

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
        record = read_record(distillation, self.saved)
        return write_report(self, path, distillation=record, saved=self.saved)

    def plot_layout(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Returns the layout drawn with matplotlib; see `search_space.plot_layout`."""
        return plot_layout(self.layout, path)

    def plot_frontier(self) -> Figure:
        """Returns quality against throughput: frontier, parent, child, pool and baselines.

        If the program has no time, another limited resource takes the place of throughput.

        Raises:
            DataError: The result has no evidence.
        """
        self._require_evidence()
        frontier = frontier_of(self)
        if frontier is None:
            raise DataError("the program has no resource to draw a frontier over")
        return frontier_chart(frontier).figure()

    def plot_scores(self) -> Figure:
        """Returns the heat map of scores, the child's blocks framed.

        Raises:
            DataError: The result has no evidence.
        """
        return self._require_evidence().scores.heat_map(self.layout).figure()

    def plot_errors(self) -> Figure:
        """Returns the heat map of local errors, the child's variants framed.

        Raises:
            DataError: The result has no evidence, or no local errors.
        """
        errors = self._require_evidence().errors
        if not errors:
            raise DataError("the result holds no local errors: it was not made from a library")
        return error_map(errors, self.layout).figure()

    def plot_costs(self) -> Figure:
        """Returns measured over predicted costs of parent and child."""
        return costs_chart(costs_of(self)).figure()

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

    def _require_evidence(self) -> Evidence:
        if self.evidence is None:
            raise DataError(
                f"the result has no evidence, which search() keeps and save() writes to {EVIDENCE}"
            )
        return self.evidence

    @own_torch_state()
    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes the child in Hugging Face format, with its tokenizer, model card and evidence.

        `puzzle_layout.json` holds the layout and the figures, `puzzle_evidence.json` what it was
        chosen from, README.md the model card; `load_result` reads the result back.

        Everything is written and synced in a temporary place first; what cannot be loaded yet does
        not look like a model.

        Args:
            directory: Where to write. Files that puzzle wrote there before are replaced, and others
                are never.

        Returns:
            The directory, for `AutoModelForCausalLM.from_pretrained` after `import puzzle`.

        Raises:
            WorkspaceError: The disk is full or cannot be written, or the parent, a distilled child
                or files of others are there.
        """
        path = user_path(directory)
        refuse_source(path, sources_of(self))
        require_replaceable(path, CHILD_FILES, kept=OTHER_THAN_SEARCHED)
        # Twice, since files that are replaced stay until the new ones are whole.
        itemsize = DTYPES[self.stored_dtype or self.scenario.served_dtype].itemsize
        require_free(path.parent, 2 * self.layout.parameters() * itemsize)
        with publishing_directory(path, claims=MODEL_FILES) as stage:
            self._write(stage)
        return path

    @own_torch_state()
    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Child made by puzzle",
        endpoint: str | None = None,
    ) -> str:
        """Uploads what `save` writes to a repository of the Hub, which is created if needed.

        Args:
            repo_id: Such as "me/my-child".
            private: Whether a new repository is private; by default as the account is set.
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
        with temporary_place() as directory:
            path = self.save(directory / "child")
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

    def _repr_html_(self) -> str:
        sentence = html.escape(verdict(self))
        return f"<p>{sentence}</p>{self.layout._repr_html_()}<pre>{html.escape(self.table())}</pre>"


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


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
