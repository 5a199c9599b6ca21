"""From a layout and its tensors to a child, loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
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
        tensors: Its whole state dict, by Hugging Face name.
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
    state = dict(tensors)
    if layout.shape.tied:
        state.setdefault("lm_head.weight", state[family.embedding])
    _load(model, state)
    return model.eval()


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
    _load(layer, tensors, assign=True)
    return layer.eval().requires_grad_(False)


def _load(module: nn.Module, tensors: Mapping[str, torch.Tensor], assign: bool = False) -> None:
    try:
        module.load_state_dict(tensors, strict=True, assign=assign)
    except RuntimeError as error:
        raise PuzzleError(f"the tensors do not fit the layout: {error}") from error


def random_model(config: PuzzleConfig, dtype: str, device: str = "cpu") -> PuzzleForCausalLM:
    """Returns a model of a config with random weights, to be timed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            return causal_lm_class(family_of(config))(config).eval()
    finally:
        torch.set_default_dtype(before)
