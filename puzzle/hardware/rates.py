"""How fast this machine computes and moves data: the rates from which estimates follow."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from search_space import ModelShape

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast this machine computes and moves data.

    Args:
        model: Operations per second of products in the model's number format.
        fits: The same in float32, in which variants are fitted.
        bandwidth: Bytes per second.
        hashing: Bytes per second that one thread hashes and looks through for NaN; by default as
            measured on one core of an EPYC.
    """

    model: float
    fits: float
    bandwidth: float
    hashing: float = 1.25e9

    @classmethod
    def measure(cls, shape: ModelShape, dtype: str) -> Rates:
        """Times a product of the parent's FFN, and a copy, for about a second in all."""
        tokens = 512
        rates = []
        for number_format in (DTYPES[dtype], torch.float32):
            x = torch.randn(tokens, shape.hidden).to(number_format)
            weight = torch.randn(shape.hidden, shape.ffn_width).to(number_format)
            flops = 2.0 * tokens * shape.hidden * shape.ffn_width
            rates.append(flops / shortest_seconds(lambda x=x, w=weight: x @ w))  # type: ignore[misc]
        source, target = torch.zeros(2**25), torch.zeros(2**25)
        copy = shortest_seconds(lambda: target.copy_(source))
        piece = source[: 2**20]
        hashed = shortest_seconds(lambda: _hash(piece))
        return cls(
            model=rates[0],
            fits=rates[1],
            bandwidth=2.0 * source.nbytes / copy,
            hashing=piece.nbytes / hashed,
        )


def _hash(tensor: torch.Tensor) -> tuple[str, Any]:
    digest = hashlib.blake2b(tensor.numpy().data, digest_size=16).hexdigest()
    return digest, tensor.aminmax()


def shortest_seconds(run: Callable[[], Any], budget: float = 0.3) -> float:
    """Returns the seconds of the fastest run within a time budget, after one warm-up.

    With one thread they are the processor's, so that other processes do not count.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    run()
    best, end = math.inf, time.perf_counter() + budget
    while True:
        start = clock()
        run()
        best = min(best, clock() - start)
        if time.perf_counter() > end:
            return best
