"""Scripts that run one engine each, for `puzzle.serve_check`.

Each stands alone: `python run_ENGINE.py REQUEST.json ANSWER.json`, in whatever environment the
engine lives in, without puzzle. The request holds

- model: the path that the engine is given;
- prompt: token ids, continued greedily by `new_tokens` tokens;
- text: token ids, of which the `top` most likely next tokens after each prefix from
  `first` tokens on are wanted;
- speed: {"prompt_tokens", "new_tokens", "repeats"}, or null;
- end: a token that ends a text, or null;
- clock: "cpu" (llama.cpp only) to have tokens per CPU-second of the process, not per second;
- budget: {"tokens", "start", "end", "opening", "tags"} (llama.cpp, transformers and vLLM): after
  so many tokens of a thought the ids of `end` are forced; or missing. In llama.cpp a thought
  starts with the ids of `start`, elsewhere those of `opening`, a tag, are added to the prompt;
- own_code: whether the checkpoint's code is puzzle's own file (transformers only);
- settings: more arguments of the engine (vLLM only); or missing;
- threads, exact (full precision where the engine would otherwise round its cache).

The answer holds `version`, `greedy` (ids), `top` (per position, [[id, log-probability], ...] with
the most likely first) and `prefill` and `decode` (tokens per second, one value per repeat),
and `limited` (ids written with the budget, if there is one).
"""
