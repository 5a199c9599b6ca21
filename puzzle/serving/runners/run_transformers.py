"""Runs a checkpoint in transformers, with puzzle if it is installed, else with puzzle's file."""

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
        importlib.import_module("puzzle.models.child")
    elif not request["own_code"]:
        sys.exit(
            "this interpreter has no puzzle, and the model has no modelling file that puzzle "
            "wrote: write it with puzzle.serving.add_modelling_file, or install puzzle here"
        )
    dtype = torch.float32 if request["exact"] else "auto"
    return AutoModelForCausalLM.from_pretrained(
        request["model"], dtype=dtype, trust_remote_code=not installed, use_safetensors=True
    ).eval()


def _generate(model: Any, prompt: list[int], tokens: int, **options: Any) -> list[int]:
    import torch

    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return output[0, len(prompt) :].tolist()


def _limited(model: Any, request: dict[str, Any]) -> list[int]:
    """Returns the start of a thought and what follows with a budget, none if none was wanted."""
    budget = request.get("budget")
    if not budget:
        return []
    if importlib.util.find_spec("puzzle") is None:
        sys.exit("a budget of thought is puzzle's own in transformers: install puzzle here")
    from transformers import LogitsProcessorList

    processor = importlib.import_module("puzzle.models.thinking_budget").ThinkingBudget
    load = importlib.import_module("puzzle.models.pretrained").load_tokenizer
    limit = processor(load(request["model"]), budget["tokens"])
    tokens, opening = budget["tokens"] + len(budget["end"]), budget["opening"]
    # No end of text before: a thought that is shorter by itself would prove nothing.
    options = {"min_new_tokens": tokens, "logits_processor": LogitsProcessorList([limit])}
    written = _generate(model, [*request["prompt"], *opening], tokens, **options)
    return [opening[-1], *written]


def _speed(model: Any, prompt: list[int], tokens: int) -> tuple[float, float]:
    """Returns tokens per second of the prompt and of the tokens after it."""
    times = [time.perf_counter()]

    def note(*_: Any, **__: Any) -> bool:
        times.append(time.perf_counter())
        return False

    _generate(model, prompt, tokens + 1, min_new_tokens=tokens + 1, stopping_criteria=[note])
    return len(prompt) / (times[1] - times[0]), tokens / (times[-1] - times[1])


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
        speed = request["speed"] or {"repeats": 0, "prompt_tokens": 0, "new_tokens": 0}
        prompt = (text * speed["prompt_tokens"])[: speed["prompt_tokens"]]
        rates = [_speed(model, prompt, speed["new_tokens"]) for _ in range(speed["repeats"])]
        limited = _limited(model, request)
    prefill, decode = ([rate[part] for rate in rates] for part in (0, 1))
    return {
        "version": f"transformers {transformers.__version__}",
        "greedy": greedy,
        "top": top,
        "prefill": prefill,
        "decode": decode,
        "limited": limited,
    }


if __name__ == "__main__":
    _request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(_request)), encoding="utf-8")
