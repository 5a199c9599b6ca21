"""Writing the distilled child: gathered, in its own number format, complete or not at all."""

from __future__ import annotations

import json
from typing import Any

from puzzle.distillation.distill_result import DistillResult
from puzzle.distillation.parallel import Parallel
from puzzle.models.trainable import OpenModel, empty_model
from puzzle.serving.file_names import DISTILLED, MODEL_FILES
from puzzle.storage.publishing import publishing_directory

RECORD = DISTILLED


def save_child(
    result: DistillResult, child: Any, student: OpenModel, tokenizer: Any, parallel: Parallel
) -> None:
    """Writes the child in Hugging Face format with its tokenizer and the record of its training.

    Args:
        result: The result, which says where to write.
        child: The trained module, possibly sharded; every process has to call this.
        student: The child before training, whose config and number format are kept.
        tokenizer: Tokenizer to put beside it, if any.
        parallel: The processes.

    Raises:
        WorkspaceError: The disk is full or cannot be written.
    """
    tensors = {
        name: tensor.to(student.dtype)
        for name, tensor in parallel.gather(dict(child.named_parameters()))
        if parallel.first
    }
    if parallel.first:
        model = empty_model(student.config, student.dtype)
        for name, parameter in model.named_parameters():
            parameter.data = tensors.pop(name)
        model.config.attention_dropout = student.config.attention_dropout
        with publishing_directory(result.path, claims=MODEL_FILES) as fresh:
            model.save_pretrained(fresh)
            if tokenizer is not None:
                tokenizer.save_pretrained(fresh)
            text = json.dumps(result.to_dict(), indent=1)
            (fresh / RECORD).write_text(text + "\n", encoding="utf-8")
    parallel.barrier()
