"""Parent: a pretrained model, opened from anywhere and read one decoder layer at a time."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from puzzle.errors import ParentError
from puzzle.hardware.format_speed import fast_format
from puzzle.hardware.identity import require_device
from puzzle.hardware.precision import AUTO
from puzzle.hardware.torch_state import own_torch_state, recordable
from puzzle.models.checkpoint import open_checkpoint, refuse_incomplete
from puzzle.models.child import PuzzleDecoderLayer
from puzzle.models.child_config import ChildConfig, shape_of
from puzzle.models.dequantising import can_dequantise, dequantised
from puzzle.models.families import family_of
from puzzle.models.family import Family
from puzzle.models.pretrained import load_config, load_tokenizer
from puzzle.models.rotary_tables import Rope, map_rope
from puzzle.models.shards import SINGLE, refuse_non_finite, shard_names
from puzzle.models.unpacking import unpacked_gguf
from puzzle.models.unsuitable import (
    refuse_unsuitable_directory,
    refuse_unsuitable_model,
    refuse_unsuitable_tokenizer,
)
from puzzle.models.watched_files import BESIDE, Record, WatchedFiles
from puzzle.models.wrappers import text_config, text_names
from puzzle.progress.foreign_bars import ForeignBar
from puzzle.storage.hashing import content_hash, hash_tensors
from puzzle.storage.json_files import interpreting
from puzzle.storage.paths import user_path
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import Workspace
from search_space import ModelShape

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Parent:
    """A pretrained model whose layers are built on demand.

    Args:
        config: Its transformers config.
        tensors: Its weights by name, read lazily.
        tokenizer: Its tokenizer, if it has one.
        dtype: Number format in which it runs.
        device: Where its layers run, one at a time.
        identity: Content hash of config and weights.
        checked: Whether the weights are known to be finite already.
        stored_dtype: Number format of its own checkpoint; None where that is not known.

    Raises:
        ParentError: The family is unknown or the weights are not all finite.
    """

    def __init__(
        self,
        config: Any,
        tensors: Mapping[str, torch.Tensor],
        tokenizer: Any,
        *,
        dtype: torch.dtype,
        identity: str,
        device: torch.device | str = "cpu",
        checked: bool = False,
        stored_dtype: str | None = None,
    ) -> None:
        self.family: Family = family_of(config)
        with interpreting("config.json", "the config of a parent", ParentError):
            self.shape: ModelShape = shape_of(config)
        self.config = copy.deepcopy(config)
        self.config._attn_implementation = self.family.attention_implementation
        self.tensors, self.tokenizer = tensors, tokenizer
        self.dtype, self.device = dtype, torch.device(device)
        self.weights = identity
        self.stored_dtype = stored_dtype
        self.identity = content_hash({"weights": identity, "dtype": str(dtype)})
        refuse_unsuitable_tokenizer(tokenizer, self.shape.vocab)
        if not checked:
            refuse_non_finite(tensors)

    def __repr__(self) -> str:
        return f"Parent({self.config.model_type}, {self.shape.layers} layers, {self.dtype})"

    def cast(self, dtype: torch.dtype) -> Parent:
        """Returns the same parent in another number format, its weights as its checkpoint has them.

        What was fitted to this one is valid for the other as well.
        """
        other = copy.copy(self)
        other.dtype = dtype
        return other

    def require_unchanged(self) -> None:
        """Raises ParentError if a file of the parent is not what it was when it was opened."""
        watched: WatchedFiles | None = getattr(self.tensors, "watched", None)
        if watched is not None:
            watched.require_unchanged()

    def layer_tensors(self, index: int) -> dict[str, torch.Tensor]:
        """Returns the tensors of one decoder layer under their names within the layer."""
        prefix = self.family.layer_prefix.format(index)
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.tensors[name].to(self.dtype) for name in names}

    def layer(self, index: int) -> nn.Module:
        """Returns one decoder layer, loaded; nothing else of the parent is read."""
        with torch.device("meta"):
            if isinstance(self.config, ChildConfig):
                module: nn.Module = PuzzleDecoderLayer(self.config, index)
            else:
                module = self.family.layer(self.config, index)
        return _loaded(module, self.layer_tensors(index), f"layer {index}").to(self.device)

    def outer_tensors(self) -> dict[str, torch.Tensor]:
        """Returns the tensors outside the layers: embedding, final norm and untied head."""
        family = self.family
        names = [family.embedding, family.norm, *([] if self.shape.tied else [family.head])]
        return {name: self.tensors[name].to(self.dtype) for name in names}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns the whole parent's tensors by their Hugging Face names."""
        tensors = self.outer_tensors()
        for index in range(self.shape.layers):
            prefix = self.family.layer_prefix.format(index)
            tensors.update({prefix + k: v for k, v in self.layer_tensors(index).items()})
        return tensors

    def embedding(self) -> torch.Tensor:
        """Returns the embedding table, (vocab, hidden)."""
        return self.tensors[self.family.embedding].to(self.dtype)

    def embed(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        """Returns the residual stream that enters layer 0, (B, L, hidden)."""
        # Of the tokens' rows alone, so that the table is not copied into another format.
        x_BLD = nn.functional.embedding(tokens_BL, self.tensors[self.family.embedding])
        x_BLD = x_BLD.to(self.dtype)
        return self.family.scale_embedding(self.config, x_BLD).to(self.device)

    def head(self) -> nn.Sequential:
        """Returns final norm and output head: residual stream in, logits out."""
        with torch.device("meta"):
            norm = self.family.final_norm(self.config)
            out = nn.Linear(self.shape.hidden, self.shape.vocab, bias=False)
        table = self.embedding() if self.shape.tied else self.tensors[self.family.head]
        norm = _loaded(norm, {"weight": self.tensors[self.family.norm].to(self.dtype)}, "norm")
        linear = _loaded(out, {"weight": table.to(self.dtype)}, "head")
        return nn.Sequential(norm, linear, *self.family.after_head(self.config)).to(self.device)

    def rope(self, length: int) -> Rope:
        """Returns the rotary tables of `length` positions."""
        rope = self.family.rope(self.config, length)
        return map_rope(rope, lambda table: table.to(self.device))

    def run(self, layer: nn.Module, x_BLD: torch.Tensor) -> torch.Tensor:
        """Returns the residual stream after a layer made by `layer`."""
        return self.family.run(layer, x_BLD, self.rope(x_BLD.shape[1]))

    def ref(self, workspace: Workspace) -> ParentRef:
        """Returns a reference by which another process can open this parent.

        Args:
            workspace: Where a parent that is in memory only is stored.
        """
        directory = getattr(self.tensors, "directory", None)
        files: tuple[Record, ...] = ()
        if directory is not None:
            files = self.tensors.watched.records()  # type: ignore[attr-defined]
        else:
            spec = {"weights": self.weights}
            directory = workspace.get_or_build("parent-copy", spec, self._write).path
        return ParentRef(
            directory=str(directory),
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            weights=self.weights,
            files=files,
        )

    def _write(self, directory: Path) -> None:
        save_tensors(directory / SINGLE, {k: t.contiguous() for k, t in self.tensors.items()})
        self.config.save_pretrained(directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRef:
    """A reference to a parent that was opened and checked, for other processes to open.

    Args:
        directory: Its config and safetensors.
        dtype: Number format in which it runs.
        device: Where it runs.
        weights: Content hash of config and weights, which is not computed again.
        files: Its files, as they were when that was computed.
    """

    directory: str
    dtype: str
    device: str
    weights: str
    files: tuple[Record, ...] = ()

    def open(self, *, device: str | None = None) -> Parent:
        """Returns the parent, without its tokenizer.

        Args:
            device: Where it runs, if not on the reference's device.
        """
        path = Path(self.directory)
        watched = WatchedFiles.restored(path, self.files) if self.files else None
        config, shards = open_checkpoint(path, load_config(path), watched=watched)
        return Parent(
            config,
            shards,
            None,
            dtype=DTYPES[self.dtype],
            identity=self.weights,
            device=device or self.device,
            checked=True,
        )


def _loaded(module: nn.Module, tensors: Mapping[str, torch.Tensor], what: str) -> nn.Module:
    try:
        module.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ParentError(f"the parent's {what} does not fit its config: {error}") from error
    return module.eval().requires_grad_(False)


@own_torch_state()
def open_parent(
    source: str | os.PathLike[str] | PreTrainedModel,
    *,
    workspace: Workspace,
    tokenizer: Any = None,
    dtype: str = AUTO,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> Parent:
    """Opens a parent from a live model, a local directory, a GGUF file or a hub id.

    Args:
        source: What to open; an existing path takes precedence over a hub id.
        workspace: Where a GGUF is unpacked, and FP8 and MXFP4 made full weights of, once.
        tokenizer: Tokenizer; by default the one beside the weights.
        dtype: Number format in which it runs: "float32", "bfloat16", "float16", or "auto" for what
            the device computes fast.
        device: Where its layers run, one at a time.
        revision: Hub revision.
        token: Hub token.
        local_files_only: Never contact the hub.
        trust_remote_code: Whether code of the repository may run; off by default.

    Returns:
        The parent, its weights checked for NaN and infinity and otherwise read layer by layer.

    Raises:
        ParentError: It cannot be opened, its family is unknown, a weight is not finite, or torch
            cannot use the device.
    """
    if dtype not in (AUTO, *DTYPES):
        raise ParentError(f"dtype={dtype!r}; allowed: {[AUTO, *sorted(DTYPES)]}")
    require_device(device)
    if dtype == AUTO:
        dtype = fast_format(device, workspace=workspace).name
    if not isinstance(source, str | os.PathLike):
        return _from_model(source, tokenizer, DTYPES[dtype], device)
    path, known = user_path(source), None
    unpacked = path.is_file()
    if unpacked:
        if path.suffix != ".gguf":
            raise ParentError(f"{path} is a file; allowed: a .gguf file or a model directory")
        known = unpacked_gguf(path, workspace, DTYPES[dtype])
        path = known.directory
    elif not path.is_dir():
        path = _download(str(source), revision, token, local_files_only)
    if known is None and can_dequantise(path):
        if tokenizer is None:
            tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
        path, unpacked = dequantised(path, workspace, DTYPES[dtype]), True
    # What the files are is noted first, and compared again once they are open.
    watched = known or WatchedFiles.of(path, _read_files(path, tokenizer is None))
    config = load_config(path, trust_remote_code=trust_remote_code)
    family_of(config)
    config, shards = open_checkpoint(path, config, watched=watched)
    if known is None:
        shards.check()
    identity = watched.content([*shards.shard_names, "config.json"])
    if tokenizer is None:
        tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    return Parent(
        config,
        shards,
        tokenizer,
        dtype=DTYPES[dtype],
        device=device,
        identity=identity,
        checked=True,
        stored_dtype=None if unpacked else shards.number_format(),
    )


def _read_files(directory: Path, tokenizer: bool) -> list[str]:
    """Returns the files of a model that are read."""
    refuse_unsuitable_directory(directory)
    patterns = BESIDE if tokenizer else ("generation_config.json",)
    others = {file.name for pattern in patterns for file in directory.glob(pattern)}
    return [*shard_names(directory), "config.json", *sorted(others)]


def _from_model(
    model: Any, tokenizer: Any, dtype: torch.dtype, device: torch.device | str
) -> Parent:
    refuse_unsuitable_model(model)
    if not isinstance(model, PreTrainedModel):
        raise ParentError(
            f"{type(model).__name__} is no model; give a directory, a hub id, a GGUF file or a "
            "transformers model"
        )
    config = text_config(model.config)
    family_of(config)
    refuse_incomplete(model)
    state = model.state_dict()
    names = text_names(state)
    tensors = {name: recordable(state[own].detach().cpu()) for name, own in names.items()}
    identity = content_hash({"weights": hash_tensors(tensors), "config": config.to_json_string()})
    stored = str(model.dtype).removeprefix("torch.")
    return Parent(
        config,
        tensors,
        tokenizer,
        dtype=dtype,
        device=device,
        identity=identity,
        stored_dtype=stored if stored in DTYPES else None,
    )


def _download(hub_id: str, revision: str | None, token: str | None, local: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.jinja", "tokenizer*"]
    try:
        directory = snapshot_download(
            hub_id,
            revision=revision,
            token=token,
            local_files_only=local,
            allow_patterns=wanted,
            tqdm_class=ForeignBar,
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ParentError(
            f"{hub_id!r} is neither a local path nor a model that can be downloaded: {error}"
        ) from error
    return Path(directory)
