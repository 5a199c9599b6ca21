"""One stage of post-training: TRL's configuration, a run that resumes, and what it saves."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from puzzle.errors import DataError, DivergedError, SettingError, WorkspaceError
from puzzle.hardware.format_speed import computing_format
from puzzle.models.given_child import given_child
from puzzle.models.pretrained import load_config, load_model, load_tokenizer
from puzzle.models.shards import shard_names
from puzzle.models.watched_files import WatchedFiles
from puzzle.posttraining.posttrain_result import RECORD, PostTrainResult, read_result
from puzzle.serving.file_names import CHILD_FILES, CHILDREN, MODEL_FILES
from puzzle.serving.files import copy_legal, tokenizer_definition
from puzzle.storage.hashing import content_hash
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import make_directory, publishing_directory, require_replaceable

logger = logging.getLogger(__name__)
# What a stage decides itself.
_OWN = ("output_dir", "resume_from_checkpoint", "report_to", "chat_template_kwargs")


def require_trl() -> Any:
    """Returns TRL's module.

    Raises:
        DataError: It is not installed.
    """
    try:
        import trl
    except ImportError as error:
        raise DataError(
            'post-training needs TRL, which is not installed: pip install "puzzle-nas[posttrain]"'
        ) from error
    return trl


def trl_config(kind: str, own: Mapping[str, Any], training: Mapping[str, Any] | None) -> Any:
    """Returns a configuration of TRL.

    Args:
        kind: Its class, such as "SFTConfig".
        own: What the stage says; what a user may change is overruled by `training`.
        training: Fields of the class that a user gives.

    Raises:
        SettingError: A field is unknown, decided by the stage, or not allowed.
    """
    config_class = getattr(require_trl(), kind)
    known = {each.name: each.default for each in dataclasses.fields(config_class) if each.init}
    given = dict(training or {})
    for name, value in given.items():
        if name in _OWN:
            raise SettingError(f"{name!r} is an argument of the stage, or decided by it")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            more = f"; did you mean {near[0]!r}?" if near else ""
            raise SettingError(f"{kind} of TRL has no field {name!r}{more}")
        if type(known[name]) in (int, float) and isinstance(value, str | bool):
            raise SettingError(f"{name}={value!r}; {kind} of TRL takes a number")
    given.setdefault("bf16", _fast_bfloat16() and not given.get("fp16"))
    if given["bf16"] and not _fast_bfloat16():
        raise SettingError(
            "bf16=True on a device without products in bfloat16, where it is emulated and many "
            "times slower than float32; leave it out"
        )
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    common = {"save_total_limit": 2, "use_cpu": not accelerated}
    try:
        return config_class(**{**common, **own, **given})
    except (TypeError, ValueError) as error:
        raise SettingError(f"{kind} of TRL refuses its settings: {error}") from error


def _fast_bfloat16() -> bool:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return computing_format(torch.bfloat16, device) == torch.bfloat16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageRun:
    """A stage whose model is opened and whose run is known by all that its result depends on.

    Args:
        stage: "sft", "rl" or "align".
        source: The directory, or the hub id, of the model that is trained.
        tokenizer: Its tokenizer.
        out: The run directory.
        key: What the run is known by.
        resume: Whether an earlier run of the same key is continued.
    """

    stage: str
    source: str | Path
    tokenizer: Any
    out: Path
    key: str
    resume: bool

    @property
    def path(self) -> Path:
        """Where the model is saved."""
        return self.out / "child"

    @property
    def checkpoints(self) -> Path:
        """Where the trainer writes its checkpoints."""
        return self.out / "checkpoints" / f"{self.stage}-{self.key[:16]}"

    def model(self) -> Any:
        """Returns the model with weights in float32, which small steps do not vanish in."""
        return load_model(self.source, dtype=torch.float32).train()

    def finished(self) -> PostTrainResult | None:
        """Returns the result of an earlier run of the same key, None if there is none.

        Raises:
            WorkspaceError: There are results or checkpoints of it, and `resume` is False.
        """
        result = read_result(self.path, self.key)
        if not self.resume and (result or self.newest()):
            raise WorkspaceError(
                f"{self.out} has checkpoints of this run: give another directory, or resume=True"
            )
        return result

    def newest(self) -> Path | None:
        """Returns the newest checkpoint that was written to its end."""
        # The state is what the trainer writes last.
        whole = [file.parent for file in self.checkpoints.glob("checkpoint-*/trainer_state.json")]
        return max(whole, key=lambda each: int(each.name.rpartition("-")[2]), default=None)

    def train(self, trainer: Any, measure: Callable[[Any], Mapping[str, Any]]) -> PostTrainResult:
        """Trains from the newest checkpoint on, and saves what becomes of the model.

        Args:
            trainer: TRL's trainer.
            measure: Given the trained model, the figures of the result.

        Raises:
            DivergedError: A loss or a weight is not finite.
            WorkspaceError: The disk is full or cannot be written.
        """
        newest = self.newest()
        # Trainers print what they log, and a caller's output is the caller's.
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
        history = [dict(entry) for entry in trainer.state.log_history]
        for entry in history:
            if not math.isfinite(entry.get("loss", 0.0)):
                raise DivergedError(
                    f"the loss is {entry['loss']} at step {entry.get('step')}: lower learning_rate"
                )
        model = trainer.accelerator.unwrap_model(trainer.model)
        tensors = trainer.accelerator.get_state_dict(trainer.model)
        if hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
            tensors = model.state_dict()
        if not all(bool(each.isfinite().all()) for each in tensors.values()):
            raise DivergedError("a weight is not finite after training: lower learning_rate")
        result = PostTrainResult(
            stage=self.stage, path=self.path, figures=dict(measure(model)), history=history
        )
        if trainer.accelerator.is_main_process:
            self._save(result, model, tensors)
        trainer.accelerator.wait_for_everyone()
        return result

    def _save(self, result: PostTrainResult, model: Any, tensors: Mapping[str, Any]) -> None:
        stored = load_config(self.source).dtype or torch.float32
        values = {**result.to_dict(), "key": self.key}
        with publishing_directory(self.path, claims=(*MODEL_FILES, RECORD)) as fresh:
            model.config.dtype = stored
            model.save_pretrained(
                fresh, state_dict={name: each.to(stored) for name, each in tensors.items()}
            )
            self.tokenizer.save_pretrained(fresh)
            if user_path(self.source).is_dir():
                copy_legal(self.source, fresh)
            text = json.dumps(values, indent=1, default=str)
            (fresh / RECORD).write_text(text + "\n", encoding="utf-8")


def open_stage(
    stage: str,
    model: Any,
    tokenizer: Any,
    out: str | os.PathLike[str],
    *,
    depends: Mapping[str, Any],
    resume: bool,
) -> StageRun:
    """Returns a stage that is ready to run, and refuses what would be written over.

    Args:
        stage: "sft", "rl" or "align".
        model: A model, its directory, a hub id, or what a search or a stage returned. One in
            memory is written to `out/start` and is not changed.
        tokenizer: By default the one beside the model.
        out: The run directory.
        depends: What the result depends on beside the model, as JSON values.
        resume: Whether an earlier run is continued.

    Raises:
        DataError: There is no tokenizer.
        WorkspaceError: `out/child` was not written by such a stage.
    """
    root = user_path(out)
    source, tokenizer = given_child(model, tokenizer)
    refuse_source(root / "child", [source])
    require_replaceable(root / "child", CHILD_FILES, kept=CHILDREN)
    make_directory(root.absolute())
    if isinstance(source, PreTrainedModel):
        source = _written_start(source, root / "start")
    path = user_path(source)
    if tokenizer is None and (not path.is_dir() or (path / "tokenizer_config.json").is_file()):
        tokenizer = load_tokenizer(source)
    if tokenizer is None:
        raise DataError("there is no tokenizer beside the model; give one with tokenizer=")
    files = [*shard_names(path), "config.json"] if path.is_dir() else []
    key = content_hash(
        {
            "stage": stage,
            "model": WatchedFiles.of(path, files).content() if files else str(source),
            "tokenizer": tokenizer_definition(tokenizer),
            "template": str(tokenizer.chat_template),
            "depends": json.loads(json.dumps(depends, default=repr)),
        }
    )
    return StageRun(
        stage=stage, source=source, tokenizer=tokenizer, out=root, key=key, resume=resume
    )


def _written_start(model: Any, path: Path) -> Path:
    """Writes a model in memory, for itself and for a reference model to be read from."""
    with publishing_directory(path, claims=MODEL_FILES) as fresh:
        model.save_pretrained(fresh)
    return path


def trackers(report_to: str | Iterable[str] | None) -> list[str]:
    """Returns the names of trackers as transformers takes them."""
    return [report_to] if isinstance(report_to, str) else list(report_to or ["none"])
