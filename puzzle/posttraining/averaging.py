"""average_models(): the mean of several checkpoints or policies of one layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from puzzle.errors import DataError
from puzzle.models.given_child import given_child
from puzzle.models.trainable import OpenModel, empty_model, open_model
from puzzle.serving.file_names import CHILD_FILES, CHILDREN, MODEL_FILES
from puzzle.storage.json_values import as_number
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import publishing_directory, require_replaceable
from puzzle.storage.temporary_places import temporary_place
from puzzle.storage.workspace import Workspace


@torch.no_grad()
def average_models(
    models: Sequence[Any],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
) -> Path:
    """Writes the weighted mean of models that differ in their weights alone.

    One tensor of each is in memory at a time, beside the mean.

    Args:
        models: Two or more children, their directories, checkpoints of a trainer, or results of
            stages.
        out: The directory of the mean, which gets the first one's number format and tokenizer.
        weights: Of each model, above 0; they are divided by their sum. By default equal.

    Returns:
        The directory.

    Raises:
        DataError: There is one model alone, the models differ in their blocks or sizes, or there
            is not one weight for each.
        WorkspaceError: The disk is full or cannot be written, or `out` holds something else.

    Example:
        >>> puzzle.posttraining.average_models(["sft/child", "rl/child"], "mean",
        ...     weights=[1, 3])  # doctest: +SKIP
    """
    given = list(weights or [1.0] * len(models))
    if (
        len(models) < 2
        or len(given) != len(models)
        or any(as_number(w, "a weight") <= 0 for w in given)
    ):
        raise DataError(
            f"{len(models)} models and the weights {given}; give two models or more, and a weight "
            "above 0 for each"
        )
    target = user_path(out)
    sources = [given_child(each)[0] for each in models]
    refuse_source(target, sources)
    require_replaceable(target, CHILD_FILES, kept=CHILDREN)
    with temporary_place() as place:
        opened = [open_model(source, Workspace(place)) for source in sources]
        _require_same(opened)
        model = empty_model(opened[0].config, opened[0].dtype)
        total = sum(given)
        for name, parameter in model.named_parameters():
            mean = torch.zeros(parameter.shape)
            for each, weight in zip(opened, given, strict=True):
                mean += each.tensors[name].float() * (weight / total)
            parameter.data = mean.to(parameter.dtype)
        with publishing_directory(target, claims=MODEL_FILES) as fresh:
            model.save_pretrained(fresh)
            if opened[0].tokenizer is not None:
                opened[0].tokenizer.save_pretrained(fresh)
    return target


def _require_same(opened: Sequence[OpenModel]) -> None:
    first = opened[0]
    for number, other in enumerate(opened[1:], 2):
        different = [
            name
            for name in first.tensors
            if name not in other.tensors or other.tensors[name].shape != first.tensors[name].shape
        ]
        if different or other.config.blocks != first.config.blocks:
            raise DataError(
                f"model {number} is no other version of the first: "
                f"{different[0] if different else 'its blocks'} differs; give models of one layout"
            )
