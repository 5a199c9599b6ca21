"""Which losses to distil with: LM, cosine, KL and their combinations at one budget on SmolLM2.

Run it with `python benchmarks/distill_losses.py --out puzzle-run`; it prints lines of JSON. The
child is the parent without the attention of some layers, with nothing refitted, so that all of
the recovery is the distillation's. Every combination sees the same windows in the same order;
KL to the parent and perplexity are measured on text that no run has seen. `RUNS` is the table of
arXiv 2411.19146 (global distillation of Nemotron-51B), in its order.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

import puzzle
from puzzle.demo import demo_text, fetch_demo_model
from puzzle.hardware.identity import device_record
from puzzle.models.assembling import assemble
from puzzle.models.parent import Parent, open_parent
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, windows
from search_space import Block, Layout

RUNS = [("lm",), ("lm", "kl"), ("kl",), ("lm", "cosine"), ("cosine",), ("lm", "cosine", "kl")]
RUNS += [("cosine", "kl")]


def main() -> None:
    """Distils the child once per combination and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="puzzle-run")
    parser.add_argument("--layers", type=int, nargs="*", default=[6, 12, 18, 24])
    parser.add_argument("--tokens", type=int, default=6144)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    workspace = Workspace(options.out)
    parent = open_parent(fetch_demo_model(), workspace=workspace)
    size = DataConfig(
        window=options.length,
        fit_tokens=options.tokens,
        score_tokens=2 * options.length,
        validation_tokens=1024,
        seed=options.seed,
    )
    cut = windows(demo_text(), parent.tokenizer, size)
    child = without_attention(parent, options.layers)
    report = {
        "device": device_record(),
        "layers_without_attention": options.layers,
        "tokens": options.tokens,
        "validation_tokens": cut.validation.numel(),
        "learning_rate": options.learning_rate,
        "seed": options.seed,
    }
    print(json.dumps(report), flush=True)
    for names in RUNS:
        config = puzzle.DistillConfig(
            losses=dict.fromkeys(names, 1.0),
            tokens=options.tokens,
            length=options.length,
            batch=4,
            micro_batch=4,
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


def without_attention(parent: Parent, layers: list[int]) -> puzzle.PuzzleForCausalLM:
    """Returns the parent without the attention of some layers."""
    layout = Layout.parent(parent.shape)
    block = Block.from_label(f"none+gated{parent.shape.ffn_width}")
    tensors = parent.state_dict()
    for layer in layers:
        layout = layout.replace(layer, block)
        prefix = f"model.layers.{layer}."
        for part in ("self_attn.", "input_layernorm."):
            tensors = {k: v for k, v in tensors.items() if not k.startswith(prefix + part)}
    return assemble(parent.config, layout, tensors, dtype=torch.bfloat16)


def rounded(entry: dict[str, float]) -> dict[str, float]:
    """Returns the values with four decimals."""
    return {name: round(value, 4) for name, value in entry.items()}


if __name__ == "__main__":
    main()
