"""Writing a model as `save_pretrained` does, its tensors as they come."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards

from puzzle.errors import PuzzleError
from puzzle.models.checkpoint import open_checkpoint
from puzzle.models.child import causal_lm_class
from puzzle.models.families import family_of
from puzzle.models.generation import inherit_generation_config
from puzzle.models.pretrained import load_config
from puzzle.models.shards import INDEX
from puzzle.storage.tensor_files import TensorFile

# As transformers has it.
SHARD_BYTES = 50 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamedModel:
    """A child without memory for its weights, which are read when they are needed.

    Args:
        model: The child on the meta device: its config, its generation config, its names.
        tensors: Its weights by name.
    """

    model: Any
    tensors: Mapping[str, torch.Tensor]

    def save(
        self, directory: Path, weights: Iterable[tuple[str, torch.Tensor]] | None = None
    ) -> None:
        """Writes config and weights as `save_pretrained` of the whole model would.

        Args:
            directory: Where to write; exists.
            weights: The weights with their names as they come, in place of those of the model.

        Raises:
            PuzzleError: Tensors are missing, unexpected or of the wrong shape.
        """
        model, places = self.model, stored_tensors(self.model)
        model.config.dtype = str(model.dtype).removeprefix("torch.")
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(directory)
        model.generation_config.save_pretrained(directory)
        split = split_torch_state_dict_into_shards(
            places, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD_BYTES
        )
        with ExitStack() as stack:
            files = {
                file: stack.enter_context(
                    TensorFile(
                        directory / file,
                        {name: (tuple(places[name].shape), places[name].dtype) for name in names},
                        {"format": "pt"},
                    )
                )
                for file, names in split.filename_to_tensors.items()
            }
            left = dict(places)
            for name, tensor in self.tensors.items() if weights is None else weights:
                _require_place(name, tensor, left.pop(name, None))
                files[split.tensor_to_filename[name]].write(name, tensor.to(model.dtype))
            if left:
                raise PuzzleError(f"the tensors do not fit the layout: {sorted(left)} are missing")
        if split.is_sharded:
            metadata = {"total_parameters": model.num_parameters(), **split.metadata}
            index = {"metadata": metadata, "weight_map": split.tensor_to_filename}
            text = json.dumps(index, indent=2, sort_keys=True)
            (directory / INDEX).write_text(text + "\n", encoding="utf-8")


def _require_place(name: str, tensor: torch.Tensor, place: torch.Tensor | None) -> None:
    if place is None:
        raise PuzzleError(f"the tensors do not fit the layout: {name} has no place in it")
    if place.shape != tensor.shape:
        raise PuzzleError(
            f"the tensors do not fit the layout: {name} is {list(tensor.shape)} instead of "
            f"{list(place.shape)}"
        )


def model_of_shapes(config: Any, dtype: torch.dtype) -> Any:
    """Returns a child of a config without memory for its weights."""
    config.dtype = dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = causal_lm_class(family_of(config))(config)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    return model.eval()


def open_streamed(directory: Path) -> StreamedModel:
    """Returns a child that was saved, its weights read when they are needed.

    Args:
        directory: Where it was saved.

    Raises:
        ParentError: It cannot be read.
    """
    config, shards = open_checkpoint(directory, load_config(directory))
    model = model_of_shapes(config, shards[next(iter(shards))].dtype)
    inherit_generation_config(model, directory)
    names = stored_tensors(model)
    return StreamedModel(model=model, tensors=shards.renamed({name: name for name in names}))


def stored_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Returns the tensors of a model that a checkpoint holds: of those that are tied, the first."""
    state = model.state_dict()
    tied = set(model.all_tied_weights_keys)
    return {name: tensor for name, tensor in state.items() if name not in tied}
