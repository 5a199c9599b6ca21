"""A GGUF of random weights, written by the exporter of children: as fast as a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from puzzle.costs.calibrated.engines.random_weights import random_source
from puzzle.errors import EngineError
from puzzle.models.child_config import PuzzleConfig
from puzzle.serving.writers.gguf import TYPES, write_gguf
from puzzle.serving.writers.gguf_tokenizer import Field

FILE = "model.gguf"


def write_random_gguf(config: PuzzleConfig, directory: Path, weights: str) -> Path:
    """Writes `model.gguf` into a directory.

    Args:
        config: Config of the child.
        directory: An existing directory.
        weights: Type of the matrices, one of `puzzle.serving.writers.gguf.TYPES`.

    Raises:
        EngineError: The package gguf is missing, or the type is unknown.
        ExportError: llama.cpp cannot run the layout.
    """
    _gguf(weights)
    source = random_source(config, torch.float32)
    write_gguf(source, directory / FILE, kind=weights, tokenizer=_tokenizer(config), progress=False)
    return directory / FILE


def bytes_per_weight(weights: str) -> float:
    """Returns the bytes that a weight of a type takes; EngineError if there is no such type."""
    gguf = _gguf(weights)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[weights.upper()]]
    return float(size / block)


def _gguf(weights: str) -> Any:
    if weights not in TYPES:
        raise EngineError(f"weights={weights!r}; allowed: {', '.join(TYPES)}")
    try:
        import gguf
    except ImportError:
        raise EngineError(
            "models for llama.cpp are written with the package gguf; run: "
            'pip install "puzzle-nas[serve-llama]"'
        ) from None
    return gguf


def _tokenizer(config: PuzzleConfig) -> list[Field]:
    """Returns a vocabulary of the right size: prompts are token ids, so any will do."""
    from gguf import GGUFValueType as Kind

    vocab = config.vocab_size
    tokens = [f"t{token}" for token in range(vocab)]
    return [
        Field("tokenizer.ggml.model", "gpt2", Kind.STRING),
        Field("tokenizer.ggml.pre", "default", Kind.STRING),
        Field("tokenizer.ggml.tokens", tokens, Kind.ARRAY, Kind.STRING),
        Field("tokenizer.ggml.token_type", [1] * vocab, Kind.ARRAY, Kind.INT32),
        Field("tokenizer.ggml.merges", ["t 0"], Kind.ARRAY, Kind.STRING),
        Field("tokenizer.ggml.eos_token_id", 0, Kind.UINT32),
    ]
