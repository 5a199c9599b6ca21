"""Checkpoints that transformers makes full weights of again: a copy of them, made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import FineGrainedFP8Config, Mxfp4Config

from puzzle.errors import ParentError
from puzzle.models.pretrained import load_dequantised
from puzzle.models.shards import SINGLE, shard_names
from puzzle.models.unsuitable import named, quantisation_of, refuse_pointer
from puzzle.models.watched_files import WatchedFiles
from puzzle.storage.json_files import read_object
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import Workspace

# Raised when a checkpoint is made into another model than before.
DEQUANTISED = 1
# The methods whose full weights transformers computes on any device, without other packages.
METHODS: Mapping[str, Callable[[], Any]] = {
    "fp8": lambda: FineGrainedFP8Config(dequantize=True),
    "mxfp4": lambda: Mxfp4Config(dequantize=True),
}


def can_dequantise(directory: Path) -> bool:
    """Returns whether a directory holds a quantised model whose full weights can be had."""
    file = directory / "config.json"
    refuse_pointer(file)
    if not file.is_file():
        return False
    return quantisation_of(read_object(file, "a model's config", error=ParentError)) in METHODS


def dequantised(directory: Path, workspace: Workspace, dtype: torch.dtype) -> Path:
    """Returns a directory with the full weights of a quantised model.

    Args:
        directory: The model, for which `can_dequantise` is true.
        workspace: Where the copy is.
        dtype: Its number format.

    Raises:
        ParentError: Its family is unknown, or transformers cannot compute its full weights.
    """
    method = str(quantisation_of(read_object(directory / "config.json", "a config")))
    watched = WatchedFiles.of(directory, [*shard_names(directory), "config.json"])

    def build(place: Path) -> None:
        model = load_dequantised(directory, METHODS[method](), dtype=dtype)
        small = [name for name, tensor in model.state_dict().items() if tensor.itemsize == 1]
        if small:
            raise ParentError(f"the scales of the tensors {named(small)} are missing")
        # save_pretrained would undo what was done to the tensors.
        tied = set(model.all_tied_weights_keys)
        own = {name: t for name, t in model.state_dict().items() if name not in tied}
        save_tensors(place / SINGLE, {name: t.contiguous() for name, t in own.items()})
        model.config.save_pretrained(place)
        model.generation_config.save_pretrained(place)
        watched.require_unchanged()

    spec = {"weights": watched.content(), "dtype": str(dtype), "format": DEQUANTISED}
    try:
        return workspace.get_or_build("parent", spec, build).path
    except Exception as error:
        raise ParentError(
            f"{directory} is quantised ({method}), and its full weights cannot be computed: "
            + " ".join(str(error).split())
        ) from error
