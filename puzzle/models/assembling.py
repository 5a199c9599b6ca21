"""From a layout and its tensors to a child, loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers import LlamaConfig

from puzzle.errors import PuzzleError
from puzzle.hardware.torch_state import own_torch_state
from puzzle.models.child import PuzzleDecoderLayer, PuzzleForCausalLM, causal_lm_class
from puzzle.models.child_config import PuzzleConfig, config_from_layout
from puzzle.models.families import family_of
from search_space import Block, Layout, ModelShape


@own_torch_state()
def assemble(
    parent_config: LlamaConfig,
    layout: Layout,
    tensors: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype,
    origins: Sequence[int] | None = None,
) -> PuzzleForCausalLM:
    """Returns the child of a layout.

    Args:
        parent_config: The parent's config.
        layout: The child's architecture.
        tensors: Its whole state dict, by Hugging Face name; each is read once.
        dtype: Number format of its weights.
        origins: The parent's layer that each layer comes from, where layers were left out.

    Raises:
        PuzzleError: Tensors are missing, unexpected or of the wrong shape; they are named.
    """
    config, family = (
        config_from_layout(parent_config, layout, origins=origins),
        family_of(parent_config),
    )
    config.dtype = dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = causal_lm_class(family)(config)
    finally:
        torch.set_default_dtype(before)
    _fill(model, tensors)
    return model.eval()


@torch.no_grad()
def _fill(model: PuzzleForCausalLM, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copies tensors into a model one by one, so that no second copy of all is in memory."""
    places = dict(model.state_dict())
    problems = []
    for name, tensor in tensors.items():
        place = places.pop(name, None)
        if place is None:
            problems.append(f"{name} has no place in it")
        elif place.shape != tensor.shape:
            problems.append(f"{name} is {list(tensor.shape)} instead of {list(place.shape)}")
        else:
            place.copy_(tensor)
    tied = model.all_tied_weights_keys
    problems += [f"{name} is missing" for name in places if tied.get(name) not in tensors]
    if problems:
        raise PuzzleError(f"the tensors do not fit the layout: {', '.join(problems)}")


def layer_from_block(
    parent_config: LlamaConfig,
    shape: ModelShape,
    index: int,
    block: Block,
    tensors: Mapping[str, torch.Tensor],
) -> PuzzleDecoderLayer:
    """Returns one of the child's decoder layers alone, loaded, for inference."""
    layout = Layout.parent(shape).replace(index, block)
    config = config_from_layout(parent_config, layout)
    config._attn_implementation = parent_config._attn_implementation
    with torch.device("meta"):
        layer = PuzzleDecoderLayer(config, index)
    try:
        layer.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise PuzzleError(f"the tensors do not fit the layout: {error}") from error
    return layer.eval().requires_grad_(False)


def random_model(config: PuzzleConfig, dtype: str, device: str = "cpu") -> PuzzleForCausalLM:
    """Returns a model of a config with random weights, to be timed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            return causal_lm_class(family_of(config))(config).eval()
    finally:
        torch.set_default_dtype(before)
