"""What vLLM answers with given settings; for the interpreter that has vLLM, it knows no puzzle.

python vllm_answers.py REQUEST.json ANSWER.json; the request holds `model`, `prompts` (token ids),
`tokens` to generate, `settings` of the engine, and `adapter`, the directory of a LoRA adapter or
None. Each prompt is answered twice, the second time with what a prefix cache may hold. With `top`,
it is answered once, and the log-probabilities of as many tokens at each place of it are returned.
"""

import json
import os
import sys
from pathlib import Path


def main(request):
    """Returns what was answered, and what the caches are made from.

    `answers`: for each prompt and time, tokens, their log-probabilities, and tokens cached.
    `caches`: by the name of what has a cache, its KV heads in one process, and its window.
    `scores`, alone, with `top`: a map from tokens to log-probabilities at each place of a prompt.
    """
    # Before the import, which reads them.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["OMP_NUM_THREADS"] = "1"
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    settings = {"enforce_eager": True, "enable_prefix_caching": False, "dtype": "float32"}
    engine = LLM(
        model=request["model"],
        max_model_len=512,
        skip_tokenizer_init=True,
        **{**settings, **request["settings"]},
    )
    lora = LoRARequest("adapter", 1, request["adapter"]) if request["adapter"] else None
    params = SamplingParams(
        temperature=0.0, max_tokens=request["tokens"], detokenize=False, logprobs=1, ignore_eos=True
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in request["prompts"]]
    if top := request.get("top"):
        params = SamplingParams(max_tokens=1, detokenize=False, prompt_logprobs=top)
        scored = engine.generate(prompts, params, use_tqdm=False)
        places = [answer.prompt_logprobs[1:] for answer in scored]
        logs = [[{t: log.logprob for t, log in row.items()} for row in rows] for rows in places]
        return {"scores": logs}
    answers = []
    for _ in range(2):
        for answer in engine.generate(prompts, params, use_tqdm=False, lora_request=lora):
            out = answer.outputs[0]
            logs = [row[t].logprob for row, t in zip(out.logprobs, out.token_ids, strict=True)]
            answers.append([list(out.token_ids), logs, answer.num_cached_tokens])
    caches = {
        name: [getattr(spec, "num_kv_heads", None), getattr(spec, "sliding_window", None)]
        for specs in engine.collective_rpc("get_kv_cache_spec")
        for name, spec in specs.items()
    }
    return {"answers": answers, "caches": caches}


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps(main(json.loads(source.read_text()))))
