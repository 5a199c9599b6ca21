"""Speed of models that take turns."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import DynamicCache

from puzzle.scenario import Scenario


@torch.no_grad()
def speed(models: dict[str, Any], scenario: Scenario, *, rounds: int = 5) -> dict[str, dict]:
    """Returns prefill and decode seconds of the scenario, the models taking turns.

    Args:
        models: Causal language models by name.
        scenario: Batch, prompt and generated tokens.
        rounds: Times each model runs the scenario, after one warm-up.

    Returns:
        Per model: medians `prefill_seconds`, `decode_seconds`, `seconds`, and the bytes its
        `weights` and its `kv_cache` took.
    """
    size = (scenario.batch, scenario.prompt_tokens)
    vocab = min(model.config.vocab_size for model in models.values())
    prompt = torch.randint(0, vocab, size, generator=torch.Generator().manual_seed(0))
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    caches: dict[str, int] = {}
    for turn in tqdm(range(rounds + 1), desc="speed", unit="round"):
        for name, model in models.items():
            prefill, decode, caches[name] = _generate(model, prompt, scenario.generated_tokens)
            if turn:
                samples[name].append((prefill, decode))
    found = {}
    for name, model in models.items():
        prefill, decode = (statistics.median(column) for column in zip(*samples[name], strict=True))
        total = statistics.median(sum(pair) for pair in samples[name])
        weights = sum(parameter.nbytes for parameter in model.parameters())
        found[name] = {
            "prefill_seconds": prefill,
            "decode_seconds": decode,
            "seconds": total,
            "kv_cache": caches[name],
            "memory": weights + caches[name],
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
    return found


def _generate(model: Any, prompt: torch.Tensor, steps: int) -> tuple[float, float, int]:
    # Transformers cannot read a length from the cache of a model without attention.
    cache = DynamicCache(config=model.config) if model.config.use_cache else None
    start = time.perf_counter()
    token = model(prompt, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)
    middle = time.perf_counter()
    for _ in range(steps):
        token = model(token, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)
    end = time.perf_counter()
    held = [
        tensor.nbytes
        for layer in (() if cache is None else cache.layers)
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if tensor is not None
    ]
    return middle - start, end - middle, sum(held)
