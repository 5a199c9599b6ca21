"""K-quants: which of a model's matrices has which, and their bytes from llama.cpp's own code.

The package gguf reads these formats and does not write them. The llama.cpp that xllamacpp has
compiled does, in a function of ggml's public interface.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch

from puzzle.errors import ExportError

# What most matrices of a mix have. Other matrices have more bits, as `mixed_type` says.
MIXES = {"q6_k": "q6_k", "q5_k_m": "q5_k", "q4_k_m": "q4_k", "q3_k_m": "q3_k", "q2_k": "q2_k"}
K_BLOCK = 256
# Of rows that are no multiples of K_BLOCK.
FALLBACKS = {"q6_k": "q8_0", "q5_k": "q5_1", "q4_k": "q5_0", "q3_k": "q4_0", "q2_k": "q4_0"}
# The model of which llama.cpp makes an exception: its values are a small part of its weights.
_LAYERS_OF_70B = 80


def mixed_type(mix: str, name: str, place: int, layers: int, *, head: str, groups: int) -> str:
    """Returns the type that llama.cpp's quantiser gives a matrix in one of its mixes.

    Args:
        mix: One of `MIXES`.
        name: The tensor's name in the GGUF, without the number of its layer.
        place: How many layers below have such a tensor.
        layers: How many layers there are; of "attn_v.weight", how many have one.
        head: The name of the tensor that gives the logits.
        groups: Query heads for each KV head in the first layer.

    Example:
        >>> mixed_type("q4_k_m", "ffn_down.weight", 0, 32, head="output.weight", groups=4)
        'q6_k'
    """
    usual, part = MIXES[mix], name.removesuffix(".weight")
    if name == head:
        return "q6_k"
    if part == "attn_v":
        values = _type_of_values(mix, usual, place, layers, groups)
        few = layers == _LAYERS_OF_70B and values in ("q3_k", "q4_k")
        return "q5_k" if few else values
    if part == "ffn_down":
        early = {"q2_k": "q3_k", "q3_k_m": "q5_k" if place < layers // 16 else "q4_k"}
        return early.get(mix) or ("q6_k" if _has_more_bits(place, layers) else usual)
    if part == "attn_output":
        return {"q2_k": "q3_k", "q3_k_m": "q4_k"}.get(mix, usual)
    if part == "attn_qkv":
        return {"q3_k_m": "q4_k", "q4_k_m": "q5_k", "q5_k_m": "q6_k"}.get(mix, usual)
    return usual


def _type_of_values(mix: str, usual: str, place: int, layers: int, groups: int) -> str:
    if mix == "q2_k":
        return "q4_k" if groups >= 4 else "q3_k"
    if mix == "q3_k_m":
        return "q5_k" if place < 2 else "q4_k"
    return "q6_k" if _has_more_bits(place, layers) else usual


def _has_more_bits(place: int, layers: int) -> bool:
    eighth = layers // 8
    return place < eighth or place >= 7 * layers // 8 or (place - eighth) % 3 == 2


def require_quantiser() -> None:
    """Raises ExportError if there is no llama.cpp that quantises."""
    _quantiser()


def quantise(rows: np.ndarray, kind: str) -> np.ndarray:
    """Returns the bytes of a matrix in a K-quant, one row of bytes for each row.

    Args:
        rows: A float32 matrix, (n, a multiple of 256).
        kind: One of `FALLBACKS`.

    Raises:
        ExportError: There is no llama.cpp that quantises.

    Example:
        >>> quantise(np.ones((2, 256), np.float32), "q4_k").shape  # doctest: +SKIP
        (2, 144)
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    type_ = GGMLQuantizationType[kind.upper()]
    block, size = GGML_QUANT_SIZES[type_]
    rows = np.ascontiguousarray(rows, np.float32)
    length, function = rows.shape[1], _quantiser()
    out = np.empty((len(rows), length // block * size), np.uint8)
    workers = torch.get_num_threads()

    def run(first: int) -> None:
        part = rows[first : first + step]
        place = out[first : first + step]
        function(int(type_), part.ctypes.data, place.ctypes.data, 0, len(part), length, None)

    step = max(1, -(-len(rows) // workers))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, range(0, len(rows), step)))
    return out


@cache
def _quantiser() -> Any:
    """Returns ggml_quantize_chunk(type, source, target, start, rows, row length, importance)."""
    try:
        from xllamacpp import xllamacpp

        function = ctypes.CDLL(xllamacpp.__file__).ggml_quantize_chunk
    except ImportError as error:
        raise ExportError(
            'K-quants need the package xllamacpp: pip install "puzzle-nas[serve-llama]"'
        ) from error
    except (AttributeError, OSError) as error:
        raise ExportError(
            "this build of xllamacpp does not share llama.cpp's quantiser; export for 'f16', and "
            "quantise the file with llama.cpp's own llama-quantize"
        ) from error
    function.restype, pointer, count = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    return function
