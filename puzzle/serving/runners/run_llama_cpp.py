"""Runs a GGUF in llama.cpp, as the package xllamacpp carries it."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener


def _server(request: dict[str, Any], *, limited: bool = False) -> Any:
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
    budget = request.get("budget")
    if limited and budget:
        sampling = params.sampling
        sampling.reasoning_budget_tokens = budget["tokens"]
        sampling.reasoning_budget_start = budget["start"]
        sampling.reasoning_budget_end = [budget["end"]]
        sampling.reasoning_budget_forced = budget["end"]
        params.sampling = sampling
    return xllamacpp.Server(params)


def _limited(request: dict[str, Any]) -> list[int]:
    """Returns greedy tokens of a server that ends thoughts, none if none was wanted."""
    budget = request.get("budget")
    if not budget:
        return []
    tokens = budget["tokens"] + len(budget["end"]) + 1
    options = {"return_tokens": True, "ignore_eos": True}
    return _complete(_server(request, limited=True), request["prompt"], tokens, **options)["tokens"]


def _complete(server: Any, prompt: list[int], tokens: int, **options: Any) -> dict[str, Any]:
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, "top_k": 1, **options}
    # llama.cpp's own interface: the OpenAI-compatible one leaves out tokens that end in the middle
    # of a character.
    completion = Request(
        f"{server.listening_address}/completion",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    # The server is on this machine, so no proxy is used.
    with build_opener(ProxyHandler({})).open(completion) as answer:
        return json.load(answer)


def _likely(server: Any, prompt: list[int], request: dict[str, Any]) -> list[list[float]]:
    """Returns the most likely next tokens with their log-probabilities."""
    options: dict[str, Any] = {"n_probs": request["top"], "cache_prompt": True}
    if request["end"] is not None:
        # Probabilities are those before the bias; but without it, a token that ends in the middle
        # of a character would be held back with its probabilities.
        options["logit_bias"] = [[request["end"], 1e4]]
    answer = _complete(server, prompt, 1, **options)["completion_probabilities"]
    return [[token["id"], token["logprob"]] for token in answer[0]["top_logprobs"]]


def _speed(server: Any, text: list[int], speed: dict[str, int]) -> tuple[float, float]:
    """Returns tokens per second of the prompt and of the tokens after it."""
    prompt = (text * speed["prompt_tokens"])[: speed["prompt_tokens"]]
    options = {"cache_prompt": False, "ignore_eos": True}
    timings = _complete(server, prompt, speed["new_tokens"], **options)["timings"]
    return timings["prompt_per_second"], timings["predicted_per_second"]


def _cpu_speed(server: Any, text: list[int], speed: dict[str, int]) -> tuple[float, float]:
    """Returns the same per CPU-second of this process, for machines that others use too."""
    length, tokens = speed["prompt_tokens"], speed["new_tokens"]
    seconds = []
    for count in (1, tokens + 1):
        start = time.process_time()
        _speed(server, text, {"prompt_tokens": length, "new_tokens": count})
        seconds.append(time.process_time() - start)
    return length / seconds[0], tokens / (seconds[1] - seconds[0])


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request; see the package's docstring."""
    server = _server(request)
    answer = _complete(server, request["prompt"], request["new_tokens"], return_tokens=True)
    text = request["text"]
    lengths = range(request["first"], len(text) + 1)
    top = [_likely(server, text[:length], request) for length in lengths]
    speed = request["speed"] or {"repeats": 0}
    measure = _cpu_speed if request.get("clock") == "cpu" else _speed
    rates = [measure(server, text, speed) for _ in range(speed["repeats"])]
    prefill, decode = ([rate[part] for rate in rates] for part in (0, 1))
    named = f"llama.cpp in xllamacpp {version('xllamacpp')}"
    greedy = answer["tokens"]
    answer = {"version": named, "greedy": greedy, "top": top, "prefill": prefill, "decode": decode}
    del server
    return {**answer, "limited": _limited(request)}


if __name__ == "__main__":
    _request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(_request)), encoding="utf-8")
