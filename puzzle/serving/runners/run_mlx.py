"""Runs a checkpoint in mlx-lm."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def _likeliest(logits: Any) -> int:
    return int(logits[0, -1].argmax().item())


def _greedy(model: Any, prompt: list[int], tokens: int) -> tuple[list[int], float, float]:
    """Returns the continuation, and the seconds of the prompt and of the tokens after it."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    start = time.perf_counter()
    token = _likeliest(model(mx.array(prompt)[None], cache=cache))
    middle, generated = time.perf_counter(), [token]
    while len(generated) < tokens:
        token = _likeliest(model(mx.array([[token]]), cache=cache))
        generated.append(token)
    return generated, middle - start, time.perf_counter() - middle


def _top(model: Any, text: list[int], first: int, count: int) -> list[list[list[float]]]:
    import mlx.core as mx
    import numpy as np
    from mlx_lm.models.cache import make_prompt_cache

    # In two parts, so that the second one reads a cache.
    cache, cut = make_prompt_cache(model), max(1, len(text) // 2)
    parts = [model(mx.array(part)[None], cache=cache)[0] for part in (text[:cut], text[cut:])]
    logits = mx.concatenate(parts).astype(mx.float32)
    logs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[first - 1 :]
    order = np.argsort(-logs, axis=-1)[:, :count]
    return [[[int(i), float(row[i])] for i in ids] for row, ids in zip(logs, order, strict=True)]


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request; see the package's docstring."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    # As a string, mlx-lm would take the path for a hub id.
    model, _ = load_model(Path(request["model"]))
    mx.eval(model.parameters())
    greedy, _, _ = _greedy(model, request["prompt"], request["new_tokens"])
    top = _top(model, request["text"], request["first"], request["top"])
    prefill, decode = [], []
    speed = request["speed"] or {"repeats": 0}
    for _ in range(speed["repeats"]):
        length = speed["prompt_tokens"]
        prompt = (request["text"] * length)[:length]
        _, before, after = _greedy(model, prompt, speed["new_tokens"] + 1)
        prefill.append(length / before)
        decode.append(speed["new_tokens"] / after)
    named = f"mlx-lm {version('mlx-lm')}"
    return {"version": named, "greedy": greedy, "top": top, "prefill": prefill, "decode": decode}


if __name__ == "__main__":
    _request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(_request)), encoding="utf-8")
