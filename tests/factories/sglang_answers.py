"""What SGLang answers on a CPU; for the interpreter that has SGLang, it knows no puzzle.

python sglang_answers.py REQUEST.json ANSWER.json; the request holds `model`, `prompts` (token ids)
and `tokens` to generate. The answer holds, for each prompt, the tokens generated, and maps from
tokens to log-probabilities at each place after the first.
"""

import json
import sys
from pathlib import Path


def main(request):
    """Returns what was answered."""
    from sglang import Engine

    # Attention by torch, which needs no kernels; a short context, for which little is kept free.
    engine = Engine(
        model_path=request["model"],
        device="cpu",
        attention_backend="torch_native",
        dtype="float32",
        skip_tokenizer_init=True,
        disable_overlap_schedule=True,
        context_length=256,
        max_total_tokens=2048,
        mem_fraction_static=0.3,
        log_level="error",
    )
    sampling = {"temperature": 0.0, "max_new_tokens": request["tokens"], "ignore_eos": True}
    answers = engine.generate(
        input_ids=request["prompts"],
        sampling_params=sampling,
        return_logprob=True,
        logprob_start_len=0,
        top_logprobs_num=5,
    )
    found = []
    for answer in answers:
        meta = answer["meta_info"]
        rows = meta["input_top_logprobs"][1:] + meta["output_top_logprobs"]
        scores = [{token: log for log, token, _ in row} for row in rows]
        found.append({"tokens": answer["output_ids"], "scores": scores})
    engine.shutdown()
    return found


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps(main(json.loads(source.read_text()))))
