"""Times GGUF models with llama.cpp, taking turns; a script of its own that needs only xllamacpp.

It runs in a process of its own, so that a failed assertion in llama.cpp ends only that process,
and with any interpreter that has xllamacpp. Usage: llama_cpp_worker.py '<JSON>'; it prints one
line of JSON.
"""

import json
import sys
import time
from typing import Any


def server(xllamacpp: Any, path: str, spec: dict[str, Any]) -> Any:
    """Returns a server that holds one model and as many slots as the batch has sequences."""
    params = xllamacpp.CommonParams()
    params.model.path = path
    tokens = spec["prompt_tokens"] + spec["generated_tokens"] + 8
    # llama.cpp rounds the context of a sequence up to a multiple of 256.
    params.n_ctx = spec["batch"] * -(-tokens // 256) * 256
    params.n_parallel = spec["batch"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = spec["threads"]
    params.n_gpu_layers = spec["gpu_layers"]
    flash = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = (
        flash.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if spec["flash_attention"]
        else flash.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    cache = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{spec['cache'].upper()}")
    params.cache_type_k = params.cache_type_v = cache
    # Nothing may be reused from an earlier request.
    params.cache_prompt, params.cache_ram_mib, params.n_ctx_checkpoints = False, 0, 0
    params.verbosity = 1
    return xllamacpp.Server(params)


def request_seconds(model: Any, spec: dict[str, Any], tokens: int, clock: Any) -> float:
    """Returns the seconds of one request that holds the whole batch."""
    batch, length, vocabulary = spec["batch"], spec["prompt_tokens"], spec["vocabulary"]
    prompts = [
        [1 + (31 * row + 7 * at) % (vocabulary - 1) for at in range(length)] for row in range(batch)
    ]
    body = {
        "prompt": prompts,
        "n_predict": tokens,
        "ignore_eos": True,
        "cache_prompt": False,
        "samplers": ["top_k"],
        "top_k": 1,
    }
    start = clock()
    answer = model.handle_completions(body)
    seconds = clock() - start
    answers = answer if isinstance(answer, list) else [answer]
    for each in answers:
        generated = each.get("timings", {}).get("predicted_n")
        if generated != tokens:
            raise SystemExit(f"llama.cpp generated {generated} tokens instead of {tokens}: {each}")
    return seconds


def main() -> None:
    """Runs all rounds and prints {"first": [[...] per model], "whole": ...}: one token, and all."""
    spec = json.loads(sys.argv[1])
    import xllamacpp

    clock = time.process_time if spec["clock"] == "cpu" else time.perf_counter
    models = [server(xllamacpp, path, spec) for path in spec["models"]]
    times: dict[str, list[list[float]]] = {
        name: [[] for _ in models] for name in ("first", "whole")
    }
    for turn in range(spec["rounds"] + 1):
        for at, model in enumerate(models):
            first = request_seconds(model, spec, 1, clock)
            whole = request_seconds(model, spec, 1 + spec["generated_tokens"], clock)
            if turn:  # the first is a warm-up
                times["first"][at].append(first)
                times["whole"][at].append(whole)
    sys.stdout.write(json.dumps(times) + "\n")


if __name__ == "__main__":
    main()
