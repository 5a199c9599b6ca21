"""Which losses to distil with: LM, cosine, KL and their combinations at one budget on SmolLM2.

Run it with `python benchmarks/distill_losses.py --out puzzle-run`; it prints lines of JSON. The
child is the parent without the attention of some layers, with nothing refitted, so that all of
the recovery comes from distillation. Every combination sees the same windows in the same order;
KL to the parent and perplexity are measured on text that no run has seen. `RUNS` is the table of
arXiv 2411.19146 (global distillation of Nemotron-51B), in its order.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from common.demo_parent import open_demo_parent, without_attention
from common.machine import print_machine

import puzzle
from puzzle.demo import demo_text
from puzzle.text.windows import DataConfig, windows

RUNS = [("lm",), ("lm", "kl"), ("kl",), ("lm", "cosine"), ("cosine",), ("lm", "cosine", "kl")]
RUNS += [("cosine", "kl")]


def main() -> None:
    """Distils the child once per combination and prints KL and perplexity before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="puzzle-run")
    parser.add_argument("--layers", type=int, nargs="*", default=[6, 12, 18, 24])
    parser.add_argument("--tokens", type=int, default=6144)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    parent = open_demo_parent(options.out)
    size = DataConfig(
        window=options.length,
        fit_tokens=options.tokens,
        score_tokens=2 * options.length,
        validation_tokens=1024,
        seed=options.seed,
    )
    cut = windows(demo_text(), parent.tokenizer, size)
    child = without_attention(parent, options.layers, torch.bfloat16)
    report = {
        "machine": print_machine(dtype=torch.bfloat16, seed=options.seed),
        "layers_without_attention": options.layers,
        "tokens": options.tokens,
        "validation_tokens": cut.validation.numel(),
        "learning_rate": options.learning_rate,
    }
    print(json.dumps(report), flush=True)
    for names in RUNS:
        config = puzzle.DistillConfig(
            losses=dict.fromkeys(names, 1.0),
            tokens=options.tokens,
            length=options.length,
            batch=4,
            micro_batch=4,
            optimizer="adamw",
            learning_rate=options.learning_rate,
            mixed_precision="bf16",
            checkpoint_every=10**6,
            seed=options.seed,
        )
        started = time.process_time()
        with tempfile.TemporaryDirectory(dir=options.out) as out:
            result = puzzle.distill(
                child, parent, cut.fit, config=config, validation=cut.validation, out=Path(out)
            )
        line = {
            "losses": names,
            "before": rounded(result.evaluations[0]),
            "after": rounded(result.evaluations[-1]),
            "cpu_seconds": round(time.process_time() - started),
        }
        print(json.dumps(line), flush=True)


def rounded(entry: dict[str, float]) -> dict[str, float]:
    """Returns the values with four decimals."""
    return {name: round(value, 4) for name, value in entry.items()}


if __name__ == "__main__":
    main()
