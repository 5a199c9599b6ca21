"""What an engine computes with when it has quantised matrices: their values in the format."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from puzzle.errors import PuzzleError

Tensors = dict[str, torch.Tensor]


def require_gguf() -> None:
    """Raises PuzzleError if the package that quantises is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise PuzzleError(
            'weights in a format of llama.cpp need: pip install "puzzle-nas[gguf]"'
        ) from error


def rounded_to(tensors: Mapping[str, torch.Tensor], weights: str | None) -> Tensors:
    """Returns tensors whose matrices have the values that they have in a format.

    The package gguf quantises, as when the child is exported. What has its values in the format
    keeps them, but for the rounding of a number format of 16 bits.

    Args:
        tensors: Weights of a sublayer; vectors stay as they are.
        weights: One of `search_space.WEIGHT_FORMATS`; nothing is changed if None.

    Raises:
        PuzzleError: The package gguf is not installed.
    """
    if weights is None:
        return dict(tensors)
    require_gguf()
    return {
        name: _rounded(tensor, weights) if tensor.dim() == 2 else tensor
        for name, tensor in tensors.items()
    }


def _rounded(matrix: torch.Tensor, weights: str) -> torch.Tensor:
    from gguf import GGMLQuantizationType, quants

    type_ = GGMLQuantizationType[weights.upper()]
    data = matrix.detach().to("cpu", torch.float32).contiguous().numpy()
    values = quants.dequantize(quants.quantize(data, type_), type_)
    return torch.from_numpy(values).to(matrix.device, matrix.dtype)
