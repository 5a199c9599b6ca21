"""Measuring a child against its parent: speed side by side, and quality on held-out text."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import DynamicCache

from puzzle.scenario import Scenario


@torch.no_grad()
def quality(
    parent: Any, child: Any, tokens_NL: torch.Tensor, *, progress: bool = True
) -> dict[str, dict[str, float]]:
    """Returns KL to the parent, perplexity and next-token agreement of both models.

    Args:
        parent: The parent as a causal language model.
        child: The child.
        tokens_NL: Validation windows, (windows, length).
        progress: Whether a bar is shown.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    bar = tqdm(tokens_NL.split(1), desc="validation", unit="window", disable=not progress)
    for tokens in bar:
        log_p, log_q = (torch.log_softmax(m(tokens).logits[0].float(), -1) for m in (parent, child))
        kl = nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
        target = tokens[0, 1:, None]
        losses = [-log[:-1].gather(1, target).mean() for log in (log_p, log_q)]
        agree = (log_p.argmax(-1) == log_q.argmax(-1)).double().mean()
        sums += torch.stack([kl.mean(), *losses, agree]).double()
    kl_mean, parent_loss, child_loss, agreement = (sums / len(tokens_NL)).tolist()
    return {
        "parent": {"kl": 0.0, "perplexity": math.exp(parent_loss), "agreement": 1.0},
        "child": {"kl": kl_mean, "perplexity": math.exp(child_loss), "agreement": agreement},
    }


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
    cache = DynamicCache(config=model.config)
    start = time.perf_counter()
    token = model(prompt, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)
    middle = time.perf_counter()
    for _ in range(steps):
        token = model(token, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)
    end = time.perf_counter()
    held = [
        tensor.nbytes
        for layer in cache.layers
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if tensor is not None
    ]
    return middle - start, end - middle, sum(held)
