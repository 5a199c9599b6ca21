"""Speed of models that take turns: what `generate()` takes, which is what people call."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from tqdm.auto import tqdm

from puzzle.limits.scenario import Scenario

# A clock may tell no difference between one token and a few of a tiny model.
SHORTEST = 1e-9


@torch.no_grad()
def speed(
    models: dict[str, Any],
    scenario: Scenario,
    *,
    rounds: int = 5,
    device: str = "cpu",
    clock: str = "wall",
) -> dict[str, dict]:
    """Returns prefill and decode seconds of the scenario, the models taking turns.

    Prefill is greedy `generate()` of one token, decode what `generated_tokens` more take.

    Args:
        models: Causal language models by name.
        scenario: Batch, prompt and generated tokens.
        rounds: Times each model runs the scenario, after one warm-up.
        device: Where they run; the models are moved there.
        clock: "wall", or on a CPU "cpu": processor seconds, which other work hardly disturbs.

    Returns:
        Per model: medians `prefill_seconds`, `decode_seconds`, `seconds`, its `parameters`, and
        the bytes of its `kv_cache` and, with its weights, of its `memory`.
    """
    size = (scenario.batch, scenario.prompt_tokens)
    vocab = min(model.config.vocab_size for model in models.values())
    prompt = torch.randint(1, vocab, size, generator=torch.Generator().manual_seed(0)).to(device)
    models = {name: model.to(device) for name, model in models.items()}
    samples: dict[str, list[list[float]]] = {name: [] for name in models}
    caches: dict[str, int] = {}
    for turn in tqdm(range(rounds + 1), desc="speed", unit="round"):
        for name, model in models.items():
            steps = (1, 1 + scenario.generated_tokens)
            times = [generate_seconds(model, prompt, tokens, clock) for tokens in steps]
            if turn:
                samples[name].append([seconds for seconds, _ in times])
            caches[name] = times[1][1]
    found = {}
    for name, model in models.items():
        prefill, total = (statistics.median(column) for column in zip(*samples[name], strict=True))
        weights = sum(parameter.nbytes for parameter in model.parameters())
        found[name] = {
            "prefill_seconds": prefill,
            "decode_seconds": max(total - prefill, SHORTEST),
            "seconds": total,
            "kv_cache": caches[name],
            "memory": weights + caches[name],
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
    return found


def generate_seconds(
    model: Any, prompt_BL: torch.Tensor, tokens: int, clock: str = "wall"
) -> tuple[float, int]:
    """Returns the seconds of greedy `generate()`, and the bytes of the cache it leaves.

    Args:
        model: A causal language model, on the prompt's device.
        prompt_BL: Prompts of one length.
        tokens: How many tokens are generated for each, whatever they are.
        clock: "wall" or "cpu", as for `speed`.
    """
    now = time.process_time if clock == "cpu" else time.perf_counter
    _wait(prompt_BL.device)
    start = now()
    found = model.generate(
        prompt_BL,
        attention_mask=torch.ones_like(prompt_BL),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
    )
    _wait(prompt_BL.device)
    seconds = now() - start
    return seconds, _cache_bytes(getattr(found, "past_key_values", None))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cache_bytes(cache: Any) -> int:
    # A model without attention has no cache.
    held = [
        tensor.nbytes
        for layer in (() if cache is None else cache.layers)
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if tensor is not None
    ]
    return sum(held)
