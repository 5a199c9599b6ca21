"""SearchResult: the record of a search, and what is made from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from puzzle.distillation.distill_result import DistillResult
from puzzle.distillation.distilling import distill
from puzzle.errors import DataError, PuzzleError
from puzzle.evaluation.evaluating import Evaluation, evaluate
from puzzle.hardware.torch_state import own_torch_state
from puzzle.library.build import Library
from puzzle.library.child_tensors import streamed_child
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.generation import Prompt, generated_text
from puzzle.models.model_writing import StreamedModel, open_streamed
from puzzle.models.parent import DTYPES
from puzzle.models.pretrained import load_model, load_tokenizer
from puzzle.pipeline.drawn_record import DrawnRecord
from puzzle.pipeline.later_library import LaterLibrary
from puzzle.report.answer_seconds import AnswerSeconds
from puzzle.report.card import model_card
from puzzle.report.exploring import write_explorer
from puzzle.report.page import write_report
from puzzle.report.samples import Sample, samples_of
from puzzle.report.training import read_record
from puzzle.serving.exporting import Exported, export
from puzzle.serving.file_names import CHILD_FILES, MODEL_FILES, OTHER_THAN_SEARCHED, SEARCHED
from puzzle.serving.files import copy_tokenizer, save_tokenizer
from puzzle.serving.writers.source import sources_of
from puzzle.storage.disk import require_free
from puzzle.storage.json_files import read_object
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import publishing_directory, require_replaceable, written_files
from puzzle.storage.temporary_places import temporary_place

RECORD, EVIDENCE = SEARCHED, "puzzle_evidence.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SearchResult(DrawnRecord):
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
        library: Where the weights are, or will be when needed; None for a result that was read.
        stored_dtype: Number format of the child's weights; None for the one the library is in.
        saved: The directory that a result was read from, which holds its child.
        validation: The windows of text that quality was measured on; None for a result that was
            read.

    Example:
        >>> result.measured.child.kl, result.measured.ratio("throughput")  # doctest: +SKIP
        (0.513, 1.336)
    """

    library: Library | LaterLibrary | None = None
    stored_dtype: str | None = None
    saved: Path | None = None
    validation: torch.Tensor | None = None
    # The child that generates, assembled once.
    _kept: dict[str, Any] = field(default_factory=dict, init=False)

    @property
    def run_directory(self) -> Path | None:
        """The run directory that the library is in; None for a result that was read."""
        return None if self.library is None else self.library.root

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
        parent, streamed = self.library.parent, self.streamed()
        dtype = streamed.model.dtype
        model = assemble(parent.config, self.layout, streamed.tensors, dtype=dtype)
        model.generation_config = streamed.model.generation_config
        parent.require_unchanged()
        model.name_or_path = model.config._name_or_path = self._saved_in_run()
        return model

    def streamed(self) -> StreamedModel:
        """Returns the child without its weights in memory, which `save` and `export` read."""
        if self.library is None:
            return open_streamed(self.saved or Path())
        library = self.library if isinstance(self.library, Library) else self.library.opened
        dtype = DTYPES.get(self.stored_dtype or "", library.parent.dtype)
        return streamed_child(library, self.layout, dtype)

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
        path: str | os.PathLike[str] | None = None,
        *,
        distillation: DistillResult | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        samples: bool | Sequence[Prompt] = False,
        answers: Evaluation | AnswerSeconds | None = None,
    ) -> Path:
        """Writes the report: one HTML page that needs no other file and no network.

        What the result does not hold is left out: without evidence, that is frontier, scores,
        constraints and how to find the result again.

        Args:
            path: The file; by default `report.html` in the run directory, or beside the child.
            distillation: The child's distillation, its record, or the directory it was written
                to; by default the record in the directory that the result was read from.
            samples: Prompts after which parent and child each write on the page, which takes as
                long as generating takes; True for three, of text that nothing was chosen with.
            answers: What both answered, as for `answer_seconds`, or what that returned: the page
                then says what the lengths of their answers make of the gain.

        Returns:
            The file.

        Raises:
            DataError: The directory has no record of a distillation.
            WorkspaceError: The file cannot be written.
        """
        record = read_record(distillation, self.saved)
        return write_report(
            self,
            path or self.place("report.html"),
            distillation=record,
            saved=self.saved,
            samples=self._samples(samples),
            answers=self.answer_seconds(answers) if isinstance(answers, Evaluation) else answers,
        )

    def _samples(self, given: bool | Sequence[Prompt]) -> tuple[Sample, ...]:
        if not given:
            return ()
        return samples_of(given, self.parent, self._generating(), self.tokenizer, self.validation)

    def _generating(self) -> PuzzleForCausalLM:
        if "child" not in self._kept:
            self._kept["child"] = self.child()
        kept: PuzzleForCausalLM = self._kept["child"]
        return kept

    def explore(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Writes the explorer: a page with a slider for each budget, and layouts side by side.

        Every point is a layout that the program was solved for; nothing is measured again.

        Args:
            path: The file; by default `explore.html` in the run directory, or beside the child. One
                that ends in .json gets the layouts alone.

        Returns:
            The file, which needs no other and no network.

        Raises:
            PuzzleError: plotly is not installed.
            DataError: The result holds no evidence, or nothing in it can be explored.
            WorkspaceError: The file cannot be written.
        """
        return write_explorer(self, path or self.place("explore.html"), saved=self.saved)

    @property
    def tokenizer(self) -> Any:
        """The child's tokenizer; None if it has none."""
        if self.library is not None:
            return self.library.parent.tokenizer
        has = self.saved is not None and (self.saved / "tokenizer_config.json").is_file()
        return load_tokenizer(str(self.saved)) if has else None

    @property
    def parent(self) -> Any:
        """The parent, opened, or what it was opened from for a result that was read.

        Raises:
            DataError: The result does not say: the parent was a model in memory.
        """
        if self.library is not None:
            return self.library.parent
        run: Mapping[str, Any] = self.evidence.run if self.evidence else {}
        source = run.get("parent", {}).get("source")
        if source is None:
            raise DataError("the result does not say where its parent is; give parent=")
        return source

    @own_torch_state()
    def generate(self, prompt: Prompt, *, max_new_tokens: int = 64, **options: Any) -> str:
        """Returns what the child writes after a prompt.

        Args:
            prompt: Text, or turns with `role` and `content`, which the chat template renders.
            max_new_tokens: The most tokens that it writes.
            options: As for `generate` of transformers, such as `do_sample=True`; by default, the
                child generates as its parent does.

        Returns:
            The text, without the prompt.

        Raises:
            DataError: There is no tokenizer, no prompt, or no chat template for turns.

        Example:
            >>> result.generate("In the beginning", max_new_tokens=16)  # doctest: +SKIP
            ' God created the heaven and the earth.'
        """
        return generated_text(
            self._generating(), self.tokenizer, prompt, max_new_tokens=max_new_tokens, **options
        )

    def distill(
        self,
        text: Any,
        *,
        out: str | os.PathLike[str] | None = None,
        parent: Any = None,
        **settings: Any,
    ) -> DistillResult:
        """Trains the child to match its parent; as `puzzle.distill`.

        Args:
            text: What it is trained on; as `data` of `puzzle.distill`.
            out: The run directory; by default `distilled` beside the child.
            parent: By default the parent of the search.
            settings: The other arguments of `puzzle.distill`, such as `config`. The validation text
                is by default that of the search, which nothing was chosen with.

        Returns:
            The history, and where the distilled child is.

        Raises:
            PuzzleError: As `puzzle.distill`.
        """
        if self.validation is not None:
            settings.setdefault("validation", self.validation)
        parent = self.parent if parent is None else parent
        return distill(self, parent, text, out=out or self.place("distilled"), **settings)

    def evaluate(
        self, data: Any = None, *, tasks: Sequence[Any] = (), parent: Any = None, **settings: Any
    ) -> Evaluation:
        """Measures the child beside its parent; as `puzzle.evaluate`.

        Args:
            data: Held-out text; by default, if there are no tasks either, that on which the search
                reported, which nothing was chosen with and which a result that was read has not.
            tasks: As for `puzzle.evaluate`.
            parent: By default the parent of the search.
            settings: The other arguments of `puzzle.evaluate`.

        Raises:
            DataError: There is neither text nor a task; or as `puzzle.evaluate`.
        """
        if data is None and not tasks:
            data = self.validation
        parent = self.parent if parent is None else parent
        return evaluate(self, parent=parent, data=data, tasks=tasks, **settings)

    def export(
        self, engine: str, directory: str | os.PathLike[str] | None = None, **options: Any
    ) -> Exported:
        """Writes the child in the form that a serving engine reads; as `puzzle.export`.

        Args:
            engine: Such as "vllm" or "llama.cpp".
            directory: By default one that is named after the engine, beside the child.
            options: The other arguments of `puzzle.export`, such as `quantisation`.

        Raises:
            ExportError: As `puzzle.export`.
        """
        target = directory or self.place(f"for-{engine}")
        return export(self, target, engine=engine, **options)

    def place(self, name: str) -> Path:
        """Returns where something made from the result is written by default.

        Args:
            name: Of the file or directory: it lies in the run directory, or beside the saved child,
                with the child's name before it unless that is "child".
        """
        if self.run_directory is not None:
            return self.run_directory / name
        saved = (self.saved or Path("child")).absolute()
        return saved.parent / (name if saved.name == "child" else f"{saved.name}-{name}")

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
        self.streamed().save(path)
        if self.library is None:
            copy_tokenizer(self.saved or path, path)
        else:
            self.library.parent.require_unchanged()
            if self.library.parent.tokenizer is not None:
                save_tokenizer(self.library.parent.tokenizer, path)
        records = {RECORD: self.to_dict()}
        if self.evidence is not None:
            records[EVIDENCE] = self.evidence.to_dict()
        for name, values in records.items():
            (path / name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        (path / "README.md").write_text(model_card(self), encoding="utf-8")
