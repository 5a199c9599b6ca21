"""Runs a checkpoint in vLLM, with the config's class that the checkpoint or our wheel carries."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any


def _engine(request: dict[str, Any]) -> Any:
    # Before the import, which reads them.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ["OMP_NUM_THREADS"] = str(request["threads"])
    from vllm import LLM

    known = {point.name for point in entry_points(group="vllm.general_plugins")}
    limits: dict[str, Any] = {"skip_tokenizer_init": True}
    if budget := request.get("budget"):
        from vllm.config.reasoning import ReasoningConfig

        # The tags are turned into tokens by vLLM's own tokenizer.
        start, end = budget["tags"]
        tags = ReasoningConfig(reasoning_start_str=start, reasoning_end_str=end)
        limits = {"reasoning_config": tags}
    return LLM(
        model=request["model"],
        dtype="float32" if request["exact"] else "auto",
        max_model_len=request["context"],
        max_logprobs=request["top"],
        enforce_eager=True,
        enable_prefix_caching=False,
        **limits,
        # The checkpoint's own config class is needed only where our plugin is not installed.
        trust_remote_code="puzzle" not in known,
        **request.get("settings", {}),
    )


def _generate(engine: Any, prompt: list[int], tokens: int, **options: Any) -> Any:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=tokens, detokenize=False, **options)
    (answer,) = engine.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
    return answer


def _limited(engine: Any, request: dict[str, Any]) -> list[int]:
    """Returns the start of a thought and what follows with a budget, none if none was wanted."""
    budget = request.get("budget")
    if not budget:
        return []
    tokens, opening = budget["tokens"] + len(budget["end"]), budget["opening"]
    options = {"thinking_token_budget": budget["tokens"], "ignore_eos": True}
    answer = _generate(engine, [*request["prompt"], *opening], tokens, **options)
    return [opening[-1], *answer.outputs[0].token_ids]


def _seconds(engine: Any, prompt: list[int], tokens: int) -> float:
    start = time.perf_counter()
    _generate(engine, prompt, tokens, ignore_eos=True)
    return time.perf_counter() - start


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request; see the package's docstring."""
    import vllm

    engine, text = _engine(request), request["text"]
    greedy = _generate(engine, request["prompt"], request["new_tokens"]).outputs[0].token_ids
    answer = _generate(engine, text, 1, prompt_logprobs=request["top"], logprobs=request["top"])
    # Entry i is of token i given those before it; the last one is that of the token generated.
    rows = [*answer.prompt_logprobs[request["first"] :], answer.outputs[0].logprobs[0]]
    top = []
    for row in rows:
        pairs = sorted(((value.logprob, token) for token, value in row.items()), reverse=True)
        top.append([[token, log] for log, token in pairs[: request["top"]]])
    prefill, decode = [], []
    speed = request["speed"] or {"repeats": -1}
    for turn in range(speed["repeats"] + 1):
        length, tokens = speed["prompt_tokens"], speed["new_tokens"]
        prompt = (text * length)[:length]
        if not turn:
            # What happens only once, such as compiling, is not part of the speed.
            _seconds(engine, prompt, tokens + 1)
            continue
        before, whole = _seconds(engine, prompt, 1), _seconds(engine, prompt, tokens + 1)
        prefill.append(length / before)
        decode.append(tokens / (whole - before))
    named = f"vLLM {vllm.__version__}"
    return {
        "version": named,
        "greedy": list(greedy),
        "top": top,
        "prefill": prefill,
        "decode": decode,
        "limited": _limited(engine, request),
    }


if __name__ == "__main__":
    _request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(_request)), encoding="utf-8")
