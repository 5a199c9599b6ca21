"""The two models of a distillation: where their weights are, and modules to put them into."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from puzzle.errors import ParentError
from puzzle.hardware.torch_state import recordable
from puzzle.models.checkpoint import open_checkpoint
from puzzle.models.child import ChildForCausalLM, PuzzleForCausalLM, causal_lm_class
from puzzle.models.child_config import ChildConfig, PuzzleConfig, config_from_layout
from puzzle.models.dequantising import can_dequantise
from puzzle.models.families import family_of
from puzzle.models.parent import DTYPES, Parent, open_parent
from puzzle.models.pretrained import load_config, load_tokenizer
from puzzle.models.shards import refuse_non_finite, shard_names
from puzzle.models.unsuitable import refuse_unsuitable_model
from puzzle.models.watched_files import WatchedFiles
from puzzle.storage.hashing import content_hash, hash_tensors
from puzzle.storage.paths import user_path
from puzzle.storage.workspace import Workspace
from search_space import Layout

NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenModel:
    """A model whose weights are read on access.

    Args:
        config: Its config, as a child's; a plain parent has the parent's block in every layer.
        tensors: Its weights by name.
        tokenizer: Its tokenizer, if it has one.
        dtype: Number format in which it is stored.
        identity: Content hash of config and weights.
    """

    config: PuzzleConfig
    tensors: Mapping[str, torch.Tensor]
    tokenizer: Any
    dtype: torch.dtype
    identity: str


def open_model(
    source: Any, workspace: Workspace, *, tokenizer: Any = None, dtype: str | None = None
) -> OpenModel:
    """Opens a child or a parent.

    Args:
        source: A child or its directory, or what `puzzle.models.parent.open_parent` accepts.
        workspace: Where a GGUF is unpacked.
        tokenizer: Tokenizer; by default the one beside the weights.
        dtype: Number format of a parent; by default the one it is stored in, if it is known.

    Raises:
        ParentError: It cannot be opened, or a weight is not finite.
    """
    if isinstance(source, Parent):
        return from_parent(source)
    if isinstance(source, ChildForCausalLM):
        return _from_child(source, tokenizer)
    if isinstance(source, PreTrainedModel):
        return from_parent(
            open_parent(
                source,
                workspace=workspace,
                tokenizer=tokenizer,
                dtype=dtype or NAMES.get(source.dtype, "float32"),
            )
        )
    if not isinstance(source, str | os.PathLike):
        refuse_unsuitable_model(source)
        raise ParentError(
            f"{type(source).__name__} is not a model; give a directory, a hub id, a GGUF file, a "
            "transformers model, or what puzzle.models.parent.open_parent returns"
        )
    if user_path(source).is_dir() and not can_dequantise(user_path(source)):
        config = load_config(source)
        if isinstance(config, ChildConfig):
            return _from_directory(user_path(source), tokenizer)
        dtype = dtype or NAMES.get(config.dtype)
    return from_parent(
        open_parent(source, workspace=workspace, tokenizer=tokenizer, dtype=dtype or "bfloat16")
    )


def from_parent(parent: Parent) -> OpenModel:
    """Returns an opened parent as a model."""
    return OpenModel(
        config=config_from_layout(parent.config, Layout.parent(parent.shape)),
        tensors=parent.tensors,
        tokenizer=parent.tokenizer,
        dtype=parent.dtype,
        identity=parent.identity,
    )


def _from_child(model: Any, tokenizer: Any) -> OpenModel:
    refuse_unsuitable_model(model)
    tensors = {k: recordable(tensor.detach()) for k, tensor in model.state_dict().items()}
    refuse_non_finite(tensors)
    weights = hash_tensors(tensors)
    return OpenModel(
        config=copy.deepcopy(model.config),
        tensors=tensors,
        tokenizer=tokenizer,
        dtype=model.dtype,
        identity=content_hash({"weights": weights, "config": model.config.to_json_string()}),
    )


def _from_directory(path: Path, tokenizer: Any) -> OpenModel:
    # What the files are is noted first, and compared again once they are open.
    watched = WatchedFiles.of(path, [*shard_names(path), "config.json"])
    config = load_config(path)
    config, shards = open_checkpoint(path, config, watched=watched)
    shards.check()
    identity = watched.content()
    if tokenizer is None and (path / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(path)
    return OpenModel(
        config=config,
        tensors=shards,
        tokenizer=tokenizer,
        dtype=shards[next(iter(shards))].dtype,
        identity=identity,
    )


def empty_model(config: PuzzleConfig, dtype: torch.dtype) -> PuzzleForCausalLM:
    """Returns a model whose weights are not set, which takes no memory until they are."""
    config = copy.deepcopy(config)
    # Distillation compares two functions; noise in one of them only blurs that.
    config.attention_dropout = 0.0
    config.dtype = dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = causal_lm_class(family_of(config))(config)
    finally:
        torch.set_default_dtype(before)
    if family_of(config).experts is not None:
        # What transformers computes by default where it has made a model of the family before, and
        # a loop over the experts where it has not; one of them, so that a run can be repeated.
        model.config._experts_implementation = "grouped_mm"
    model.tie_weights()
    return model


def filled_model(opened: OpenModel) -> PuzzleForCausalLM:
    """Returns a model with its weights, for inference."""
    model = empty_model(opened.config, opened.dtype)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(opened.tensors[name])
    return model.eval()
