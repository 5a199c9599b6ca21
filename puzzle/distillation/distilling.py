"""distill(): trains a child to match its parent, and resumes from any checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch

from puzzle.distillation.checkpoints import KIND, Checkpoints
from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.distill_result import DistillResult
from puzzle.distillation.distiller import Distiller
from puzzle.distillation.events import Callback, Events
from puzzle.distillation.loop import Loop, TrainingText
from puzzle.distillation.offline_teacher import (
    OfflineDistiller,
    OfflineTeacher,
    cache_teacher,
    is_url,
    require_offline,
)
from puzzle.distillation.parallel import Parallel
from puzzle.distillation.run_key import run_key
from puzzle.distillation.saving import save_child
from puzzle.errors import DataError, WorkspaceError
from puzzle.hardware.format_speed import computing_format
from puzzle.hardware.threads import limit_threads
from puzzle.hardware.torch_state import own_torch_state
from puzzle.models.child_config import ChildConfig, layout_from_config
from puzzle.models.given_child import given_child
from puzzle.models.trainable import OpenModel, empty_model, open_model
from puzzle.serving.file_names import CHILD_FILES, OTHER_THAN_DISTILLED
from puzzle.serving.writers.source import sources_of
from puzzle.storage.disk import matching, require_free
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import require_replaceable
from puzzle.storage.workspace import Workspace
from puzzle.text.given_text import check_source
from puzzle.text.packing import PackedStream
from puzzle.text.positions import require_positions
from puzzle.text.windows import refuse_foreign


@own_torch_state()
def distill(
    child: Any,
    parent: Any,
    data: Any,
    *,
    config: DistillConfig | None = None,
    validation: Any = None,
    tokenizer: Any = None,
    out: str | os.PathLike[str] = "distilled",
    resume: bool = True,
    callbacks: Iterable[Callback] = (),
    report_to: str | Iterable[str] | None = None,
    teacher: str | os.PathLike[str] | None = None,
) -> DistillResult:
    """Distils a whole child from its parent: hidden states and next-token distributions.

    Global knowledge distillation of Puzzle (arXiv 2411.19146, section 5). Runs in one process, or
    in as many as `accelerate launch` starts, with the same batches and so the same result up to
    rounding. It writes checkpoints and, at the end, the child to `out`.

    Args:
        child: A child, its directory, or the `SearchResult` that has it; it is not changed.
        parent: A directory, a hub id, a GGUF file, a transformers model, or an opened Parent.
        data: Text, rows with `text` or `messages`, a `datasets` data set (streamed or not), token
            windows, or the `pathlib.Path` of a .jsonl, .json or .parquet file or of one of plain
            text. A string is text itself, never the name of a file.
        config: Losses, budget, optimiser and precision.
        validation: Text of any of these kinds, never trained on, of which KL and perplexity are
            measured before, after and, on request, in between.
        tokenizer: Tokenizer; by default the one beside the parent, then the one beside the child.
        out: The run directory.
        resume: Continue from the newest intact checkpoint of the same child, parent, data and
            settings; if False, there must be none in `out`.
        callbacks: TrainerCallback instances of transformers.
        report_to: Trackers that transformers knows, such as "tensorboard" or "wandb".
        teacher: A directory that `cache_teacher` wrote, or the URL of a server from which it is
            filled first; then no parent is opened or needed, and only the losses "kl" and "lm" can
            be computed.

    Returns:
        The history, and where the child is.

    Raises:
        DataError: The models do not match, or data or settings are not valid.
        ParentError: A model cannot be opened.
        WorkspaceError: The disk is full or cannot be written, `out` holds checkpoints and `resume`
            is False, or `out/child` is the child that is read, the child of a search, or was not
            written by puzzle.
        DivergedError: The loss or its gradient is not finite.

    Example:
        >>> import puzzle
        >>> from pathlib import Path
        >>> result = puzzle.distill("run/child", "parent", Path("corpus.jsonl"),
        ...     config=puzzle.DistillConfig(tokens=50_000_000))  # doctest: +SKIP
    """
    for each in (data, validation):
        check_source(each)
    limit_threads()
    config = config or DistillConfig()
    parallel = Parallel(config)
    config.accumulation(parallel.size)
    child, tokenizer = given_child(child, tokenizer)
    target = user_path(out) / "child"
    refuse_source(target, [*sources_of(child), *sources_of(parent)])
    if parallel.first:
        require_replaceable(target, CHILD_FILES, kept=OTHER_THAN_DISTILLED)
    workspace = _workspace(out, resume, parallel)
    student = open_model(child, workspace)
    if teacher is None:
        other = open_model(parent, workspace, tokenizer=tokenizer)
    else:
        require_offline(config)
        other = student
    tokenizer = tokenizer or other.tokenizer or student.tokenizer
    _require_positions(config, student, other)
    _refuse_formats(student.config)
    text = _text(data, validation, tokenizer, config, student.config.vocab_size)
    events = _events(config, workspace, parallel, callbacks, report_to, text)
    empty = empty_model(student.config, torch.float32)
    if teacher is None:
        parents = empty_model(other.config, _teacher_format(other, parallel))
        distiller = Distiller(empty, parents, config)
    else:
        answers = _answers(teacher, workspace, parallel, config, (data, tokenizer), text)
        distiller, other = OfflineDistiller(empty, answers, config), answers.model
    _require_disk(workspace.root, distiller.child, config)
    key = run_key(student, other, config, text, bf16=parallel.bf16)
    loop = Loop(
        distiller=distiller,
        module=_place(parallel, distiller, student, other),
        config=config,
        text=text,
        checkpoints=Checkpoints(workspace, key, parallel, config),
        events=events,
    )
    loop.run()
    result = DistillResult(
        path=workspace.root / "child",
        config=config,
        history=loop.history,
        evaluations=loop.evaluations,
    )
    save_child(result, distiller.child, student, tokenizer, parallel)
    return result


def _events(
    config: DistillConfig,
    workspace: Workspace,
    parallel: Parallel,
    callbacks: Iterable[Callback],
    report_to: str | Iterable[str] | None,
    text: TrainingText,
) -> Events:
    return Events(
        config,
        workspace.root,
        callbacks,
        report_to,
        cpu=parallel.device.type == "cpu",
        evaluates=text.validation is not None,
    )


def _answers(
    teacher: str | os.PathLike[str],
    workspace: Workspace,
    parallel: Parallel,
    config: DistillConfig,
    source: tuple[Any, Any],
    text: TrainingText,
) -> OfflineTeacher:
    """Returns the teacher's answers; those of a server are fetched for all steps first."""
    if not is_url(teacher):
        return OfflineTeacher(teacher)
    place = workspace.root / "teacher"
    if parallel.first:
        vocab = text.stream.vocab or 0
        windows = _stream(*source, config, vocab).take(config.steps * config.step_windows)
        cache_teacher(teacher, windows, place)
        if text.validation is not None:
            cache_teacher(teacher, text.validation, place)
    parallel.barrier()
    return OfflineTeacher(place)


def _workspace(out: str | os.PathLike[str], resume: bool, parallel: Parallel) -> Workspace:
    workspace = Workspace(out)
    if not resume and parallel.share(any(matching(workspace.root, f"{KIND}/*/manifest.json"))):
        raise WorkspaceError(
            f"{workspace.root} holds checkpoints of an earlier run; resume it or choose another "
            "run directory"
        )
    if parallel.first:
        workspace.clean()
    parallel.barrier()
    return workspace


def _require_positions(config: DistillConfig, *models: OpenModel) -> None:
    for model in models:
        require_positions(
            config.length, model.config, "windows", remedy="lower length= of DistillConfig"
        )


def _text(
    data: Any, validation: Any, tokenizer: Any, config: DistillConfig, vocab: int
) -> TrainingText:
    return TrainingText(
        stream=_stream(data, tokenizer, config, vocab),
        validation=_windows(validation, tokenizer, config, vocab),
        tokenizer=tokenizer,
    )


def _stream(
    data: Any, tokenizer: Any, config: DistillConfig, vocab: int, *, resumable: bool = True
) -> PackedStream:
    return PackedStream(
        data,
        tokenizer,
        length=config.length,
        seed=config.seed,
        thinking=config.thinking,
        system_prompts=config.system_prompts,
        buffer=config.shuffle_buffer,
        vocab=vocab,
        resumable=resumable,
    )


def _windows(
    validation: Any, tokenizer: Any, config: DistillConfig, vocab: int
) -> torch.Tensor | None:
    if validation is None:
        return None
    if isinstance(validation, torch.Tensor):
        if validation.dim() != 2 or validation.is_floating_point() or not len(validation):
            raise DataError(
                f"validation is a tensor of shape {tuple(validation.shape)}; give token windows"
            )
        refuse_foreign(validation, vocab)
        return validation
    stream = _stream(validation, tokenizer, config, vocab, resumable=False)
    return stream.take_once(config.validation_windows)


def _refuse_formats(config: Any) -> None:
    layout = layout_from_config(config) if isinstance(config, ChildConfig) else None
    if layout and layout != layout.unquantised:
        raise DataError(
            "this child has weights in formats of an engine, which gradient steps would leave; "
            "distil the child of `layout.unquantised`, then search for formats with that child as "
            "the parent"
        )


def _require_disk(path: Path, child: Any, config: DistillConfig) -> None:
    # Float32 weights and two moments, at most, per checkpoint; one more while writing; the child.
    parameters = sum(parameter.numel() for parameter in child.parameters())
    require_free(path, parameters * (12 * (config.keep_checkpoints + 1) + 4))


def _teacher_format(teacher: OpenModel, parallel: Parallel) -> torch.dtype:
    """Returns the number format the parent computes in, the same in every process."""
    if parallel.bf16:
        return teacher.dtype  # each product is cast anyway, and 16 bits take less memory
    return cast(torch.dtype, parallel.share(computing_format(teacher.dtype, parallel.device)))


def _place(parallel: Parallel, distiller: Distiller, student: OpenModel, teacher: OpenModel) -> Any:
    def source(name: str) -> torch.Tensor:
        side, _, rest = name.partition(".")
        return (student if side == "child" else teacher).tensors[rest]

    return parallel.place(distiller, source)
