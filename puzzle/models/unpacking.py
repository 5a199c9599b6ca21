"""A GGUF file's model as safetensors: a copy of it, made once."""

from __future__ import annotations

from pathlib import Path

import torch

from puzzle.models.gguf_reading import files_read_once
from puzzle.models.pretrained import load_model, load_tokenizer
from puzzle.models.shards import Shards
from puzzle.models.watched_files import WatchedFiles
from puzzle.storage.workspace import Workspace

# Raised when a GGUF is unpacked into another model than before, or that is checked for more.
UNPACKED = 3


def unpacked_gguf(path: Path, workspace: Workspace, dtype: torch.dtype) -> WatchedFiles:
    """Returns the files of a copy of a GGUF as safetensors, hashed.

    The weights were checked for NaN and infinity when they were unpacked, and have the hashes of
    then.

    Args:
        path: The file.
        workspace: Where the copy is.
        dtype: Its number format.

    Raises:
        ParentError: The file cannot be read or was changed meanwhile, or a weight is not finite.
    """
    hashes: dict[str, str] = {}

    def build(directory: Path) -> None:
        with files_read_once():
            model, tokenizer = load_model(path, dtype=dtype), load_tokenizer(path)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        shards = Shards(directory)
        shards.check()
        hashes.update(shards.watched.hashes)
        watched.require_unchanged()

    watched = WatchedFiles.of(path.parent, [path.name])
    spec = {"gguf": watched.content(), "dtype": str(dtype), "format": UNPACKED}
    artifact = workspace.get_or_build("parent", spec, build, hashes=hashes)
    files = artifact.manifest["files"]
    unpacked = WatchedFiles.of(artifact.path, files)
    unpacked.hashes.update({name: each["hash"] for name, each in files.items()})
    return unpacked
