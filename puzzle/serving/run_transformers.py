"""Runs a checkpoint in transformers, with puzzle if it is installed, else with its own code."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any


def _load(request: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(request["threads"])
    installed = importlib.util.find_spec("puzzle") is not None
    if installed:
        importlib.import_module("puzzle.child")
    dtype = torch.float32 if request["exact"] else "auto"
    return AutoModelForCausalLM.from_pretrained(
        request["model"], dtype=dtype, trust_remote_code=not installed
    ).eval()


def _generate(model: Any, prompt: list[int], tokens: int, **options: Any) -> list[int]:
    import torch

    ids = torch.tensor([prompt])
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return found[0, len(prompt) :].tolist()


def _seconds(model: Any, prompt: list[int], tokens: int) -> float:
    start = time.perf_counter()
    _generate(model, prompt, tokens, min_new_tokens=tokens)
    return time.perf_counter() - start


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request; see the package's docstring."""
    import torch
    import transformers

    model, text = _load(request), request["text"]
    with torch.inference_mode():
        greedy = _generate(model, request["prompt"], request["new_tokens"])
        logits = model(torch.tensor([text])).logits[0, request["first"] - 1 :].float()
        values, ids = torch.log_softmax(logits, -1).topk(request["top"])
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        top = [[list(pair) for pair in zip(*row, strict=True)] for row in pairs]
        prefill, decode = [], []
        speed = request["speed"] or {"repeats": 0}
        for _ in range(speed["repeats"]):
            length, tokens = speed["prompt_tokens"], speed["new_tokens"]
            prompt = (text * length)[:length]
            before, whole = _seconds(model, prompt, 1), _seconds(model, prompt, tokens + 1)
            prefill.append(length / before)
            decode.append(tokens / (whole - before))
    named = f"transformers {transformers.__version__}"
    return {"version": named, "greedy": greedy, "top": top, "prefill": prefill, "decode": decode}


if __name__ == "__main__":
    _request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(_request)), encoding="utf-8")
