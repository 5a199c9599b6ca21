"""Writing the distilled child: tensor by tensor, in its number format, complete or not at all."""

from __future__ import annotations

import copy
import json
from typing import Any

from puzzle.distillation.distill_result import DistillResult
from puzzle.distillation.parallel import Parallel
from puzzle.models.model_writing import StreamedModel, model_of_shapes
from puzzle.models.trainable import OpenModel
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
    weights = parallel.gather(dict(child.named_parameters()))
    if not parallel.first:
        for _ in weights:
            pass
    else:
        model = model_of_shapes(copy.deepcopy(student.config), student.dtype)
        with publishing_directory(result.path, claims=MODEL_FILES) as fresh:
            StreamedModel(model=model, tensors={}).save(fresh, weights)
            if tokenizer is not None:
                tokenizer.save_pretrained(fresh)
            text = json.dumps(result.to_dict(), indent=1)
            (fresh / RECORD).write_text(text + "\n", encoding="utf-8")
    parallel.barrier()
