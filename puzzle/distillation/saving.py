"""Writing the distilled child: gathered, in its own number format, complete or not at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from puzzle.distillation.distill_result import DistillResult
from puzzle.distillation.parallel import Parallel
from puzzle.models.trainable import OpenModel, empty_model
from puzzle.storage.disk import disk_errors

RECORD = "distillation.json"


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
        with disk_errors(result.path, result.path.parent):
            _write(result, model, tokenizer)
    parallel.barrier()


def _write(result: DistillResult, model: Any, tokenizer: Any) -> None:
    path = result.path
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as name:
        fresh = Path(name)
        model.save_pretrained(fresh)
        if tokenizer is not None:
            tokenizer.save_pretrained(fresh)
        text = json.dumps(result.to_dict(), indent=1)
        (fresh / RECORD).write_text(text + "\n", encoding="utf-8")
        # The config last, so that an incomplete directory does not look like a model.
        (path / "config.json").unlink(missing_ok=True)
        for old in (*path.glob("model*.safetensors"), *path.glob("*.index.json")):
            old.unlink()
        for file in sorted(fresh.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(path / file.name)
