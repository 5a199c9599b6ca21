"""Runs a GGUF in llama.cpp, as the package xllamacpp carries it."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def _server(request: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_ctx = request["context"]
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
    params.warmup = False
    if request["exact"]:
        # The cache is float16 otherwise, and the rounding of attention depends on the kernel.
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = off
    return xllamacpp.Server(params)


def _complete(server: Any, prompt: list[int], tokens: int, **options: Any) -> dict[str, Any]:
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, "top_k": 1}
    return server.handle_completions({**body, "n_probs": 1, "cache_prompt": True, **options})


def _positions(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return answer["choices"][0]["logprobs"]["content"]


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request; see the package's docstring."""
    server = _server(request)
    answer = _complete(server, request["prompt"], request["new_tokens"])
    greedy = [position["id"] for position in _positions(answer)]
    text, top = request["text"], []
    for length in range(request["first"], len(text) + 1):
        answer = _complete(server, text[:length], 1, n_probs=request["top"])
        likely = _positions(answer)[0]["top_logprobs"]
        top.append([[token["id"], token["logprob"]] for token in likely])
    prefill, decode = [], []
    speed = request["speed"] or {"repeats": 0}
    for _ in range(speed["repeats"]):
        prompt = (text * speed["prompt_tokens"])[: speed["prompt_tokens"]]
        options = {"n_probs": 0, "cache_prompt": False, "ignore_eos": True}
        timings = _complete(server, prompt, speed["new_tokens"], **options)["timings"]
        prefill.append(timings["prompt_per_second"])
        decode.append(timings["predicted_per_second"])
    named = f"llama.cpp in xllamacpp {version('xllamacpp')}"
    return {"version": named, "greedy": greedy, "top": top, "prefill": prefill, "decode": decode}


if __name__ == "__main__":
    _request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(_request)), encoding="utf-8")
