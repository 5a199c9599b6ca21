"""Writing a shared library: one file per variant, the scores, the profiles, and a card."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from puzzle.costs.profile import Profile
from puzzle.errors import DataError
from puzzle.library.build import Library
from puzzle.library.settings import LibraryConfig
from puzzle.library.variants import TENSORS
from puzzle.report.templates import template
from puzzle.scoring.scores import Scores
from puzzle.serving.files import copy_legal
from puzzle.sharing.index import FILES, INDEX, SCORES, Index, ParentRecord, VariantFile
from puzzle.storage.hashing import hash_file
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import publishing_directory, require_replaceable
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.versions import versions
from search_space import SearchSpace

__all__ = ["push", "share"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def share(
    library: Library,
    scores: Scores,
    space: SearchSpace,
    directory: str | os.PathLike[str],
    *,
    name: str,
    profiles: Mapping[str, Profile] | None = None,
    config: LibraryConfig | None = None,
    text: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a library that others choose children of the same parent from.

    A layer is in memory at a time, and each variant is a file of its own.

    Args:
        library: The variants of all blocks of the space.
        scores: A score for each.
        space: The blocks.
        directory: Where to write; what an earlier call wrote there is replaced.
        name: The parent's hub id, or what else it is called.
        profiles: Costs of the blocks on some devices, by a name for each.
        config: How the variants were fitted.
        text: What the text was, for the record.

    Returns:
        The directory.

    Raises:
        DataError: A profile is of another parent, or its name is no file name.
        WorkspaceError: The disk cannot be written, or files of others are there.
    """
    path, parent = user_path(directory), library.parent
    for label, profile in (profiles or {}).items():
        if not re.fullmatch(r"[\w.-]+", label):
            raise DataError(f"profile {label!r}: give it a name of letters, digits, '.', '_', '-'")
        profile.require(shape=parent.shape)
    require_replaceable(path, FILES)
    with publishing_directory(path, claims=FILES) as stage:
        (stage / SCORES).write_text(json.dumps(scores.to_dict()), encoding="utf-8")
        index = Index(
            parent=ParentRecord(
                name=name,
                weights=parent.weights,
                dtype=str(parent.dtype).removeprefix("torch."),
            ),
            space=space,
            variants=[_write_layer(library, layer, stage) for layer in range(len(library.layers))],
            scores=_entry(stage, stage / SCORES),
            profiles={
                label: _entry(stage, profile.save(stage / "profiles" / f"{label}.json"))
                for label, profile in (profiles or {}).items()
            },
            made={
                "config": (config or LibraryConfig()).to_dict(),
                "text": dict(text or {}),
                "versions": versions(),
            },
        )
        (stage / INDEX).write_text(json.dumps(index.to_dict(), indent=1), encoding="utf-8")
        (stage / "README.md").write_text(_card(index, scores), encoding="utf-8")
        if (source := getattr(parent.tensors, "directory", None)) is not None:
            copy_legal(source, stage)
    return path


def _write_layer(library: Library, layer: int, stage: Path) -> dict[str, VariantFile]:
    variants: dict[str, dict[str, Any]] = {}
    for stored, tensor in library.layers[layer].load_tensors(TENSORS).items():
        name, _, inner = stored.rpartition("/")
        variants.setdefault(name, {})[inner] = tensor
    folder = stage / "layers" / f"{layer:03}"
    folder.mkdir(parents=True)
    entries = {}
    for name, tensors in variants.items():
        file = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}.safetensors"
        if file.exists():
            raise DataError(f"two variants of layer {layer} would both be {file.name}")
        save_tensors(file, tensors)
        entries[name] = _entry(stage, file)
    return entries


def _entry(stage: Path, file: Path) -> VariantFile:
    name = file.relative_to(stage).as_posix()
    return VariantFile(file=name, size=file.stat().st_size, hash=hash_file(file))


def _card(index: Index, scores: Scores) -> str:
    name = index.parent.name
    data = ModelCardData(
        base_model=name if _HUB_ID.fullmatch(name) else None,
        library_name="puzzle",
        tags=["puzzle", "block-library", "neural-architecture-search"],
    )
    sizes = [each.size for layer in index.variants for each in layer.values()]
    blocks = {block.label for layer in range(len(scores)) for block in index.space.blocks(layer)}
    text = template("library_card.md", html=False).render(
        parent=asdict(index.parent),
        shape=index.space.shape,
        blocks=sorted(blocks),
        methods=scores.methods(),
        profiles=sorted(index.profiles),
        gigabytes=sum(sizes) / 1e9,
        files=len(sizes),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def push(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Uploads a shared library to a repository of the Hub, which is created if needed.

    Args:
        directory: What `share` wrote.
        repo_id: Such as "me/my-library".
        private: Whether a new repository is private; by default as the account is set.
        token: Hub token; by default the one that is logged in.
        endpoint: Another Hub.

    Returns:
        The URL of the commit.

    Raises:
        DataError: There is no shared library.
        HfHubHTTPError: The Hub refuses.
    """
    from huggingface_hub import HfApi

    path = user_path(directory)
    if not (path / INDEX).is_file():
        raise DataError(f"{path} has no {INDEX}; give the directory that share() wrote")
    hub = HfApi(endpoint=endpoint, token=token)
    hub.create_repo(repo_id, private=private, exist_ok=True)
    done = hub.upload_folder(
        repo_id=repo_id, folder_path=path, commit_message="Block library made by puzzle"
    )
    return str(done.commit_url)
