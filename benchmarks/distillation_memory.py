"""What training the children of the published layouts takes of GPUs: computed, not run.

    python benchmarks/distillation_memory.py
    python benchmarks/distillation_memory.py --posttraining

Llama 3.3 70B to Super 49B on 16 and 32 GPUs, and Llama 3.1 405B to Ultra 253B, before its FFNs were
fused, on 90 and 180; sharded, in bfloat16, windows of 4,096 tokens, one per GPU and pass. Hours
are those of H100 SXM for a billion tokens, at the share of the published rate that a search is
planned with; nothing that is exchanged is in them.

With `--posttraining`, the hours of sampling answers from the 70B parent or from Super 49B, of DPO
and of GRPO of the latter: prompts of 512 tokens, answers of 4,096, in bfloat16, engines of eight
GPUs that answer 256 prompts at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import LlamaConfig

from puzzle.distillation import DistillConfig, DistillMemory, distill_flops, distill_memory
from puzzle.limits import Scenario
from puzzle.pipeline import (
    Fleet,
    StageSeconds,
    preference_seconds,
    reinforcement_seconds,
    trace_seconds,
)
from search_space import Layout, ModelShape, published_layout

SUPER = published_layout("llama-3.3-nemotron-super-49b-v1")
ULTRA = published_layout("llama-3.1-nemotron-ultra-253b-v1")
RATE = Fleet.named("h100-sxm").rates.model
PARTS = ("child", "gradients", "moments", "parent", "exchanged", "activations")
SETTINGS = {
    "optimizer": "adamw",
    "mixed_precision": "bf16",
    "shard": True,
    "length": 4096,
    "micro_batch": 1,
    "gradient_checkpointing": True,
}


def llama(shape: ModelShape) -> LlamaConfig:
    """Returns the parent's config."""
    return LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.ffn_width,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        dtype=torch.bfloat16,
    )


KL = {"losses": {"kl": 1.0}}
WAYS = {
    "cosine and KL": {},
    "KL alone": KL,
    "KL, offline teacher": KL,
    "KL, offline teacher, Muon": {**KL, "optimizer": "muon"},
}
RECIPES = (
    *(("49B", SUPER.layout, 16, how, options) for how, options in WAYS.items()),
    ("49B", SUPER.layout, 32, "cosine and KL", {}),
    ("49B", SUPER.layout, 32, "LM alone", {"losses": {"lm": 1.0}}),
    ("49B", SUPER.layout, 16, "cosine and KL, not checkpointed", {"gradient_checkpointing": False}),
    *(("253B", ULTRA.search_result(), 90, how, options) for how, options in WAYS.items()),
    ("253B", ULTRA.search_result(), 180, "cosine and KL", {}),
)


def recipes() -> Iterator[tuple[str, DistillMemory, float]]:
    """Yields what is distilled, how, what that takes of memory, and hours per billion tokens."""
    for name, layout, count, how, options in RECIPES:
        config = DistillConfig(batch=count, **{**SETTINGS, **options})
        offline, parent = 20 if "offline" in how else 0, llama(layout.shape)
        memory = distill_memory(layout, parent, config=config, processes=count, offline=offline)
        flops = distill_flops(layout, parent, config=config, offline=bool(offline))
        tokens = config.steps * config.step_windows * config.length
        yield f"{name} on {count} GPUs: {how}", memory, flops * 1e9 / tokens / (count * RATE) / 3600


def stages() -> Iterator[tuple[str, StageSeconds]]:
    """Yields stages of post-training, and what they take."""
    parent = llama(SUPER.layout.shape)
    models = {"70B": Layout.parent(SUPER.layout.shape), "49B": SUPER.layout}
    scenario = Scenario(
        batch=256, prompt_tokens=512, generated_tokens=4096, weight_dtype="bfloat16"
    )
    length, fleets = (
        scenario.sequence_tokens,
        {n: Fleet.named(f"{n}xh100-sxm") for n in (8, 32, 64)},
    )
    sampled = {"scenario": scenario, "tensor_parallel": 8, "parent": parent}
    for name, layout in models.items():
        for count in (8, 64):
            seconds = trace_seconds(layout, fleets[count], answers=100_000, **sampled)
            yield f"100,000 answers of the {name} on {count}", seconds
    for reference in (True, False):
        how = "" if reference else ", reference given"
        seconds = preference_seconds(
            SUPER.layout,
            fleets[32],
            pairs=100_000,
            length=length,
            reference=reference,
            parent=parent,
        )
        yield f"DPO of the 49B, 100,000 pairs on 32{how}", seconds
    for reference in (True, False):
        how = "with a reference" if reference else "without"
        seconds = reinforcement_seconds(
            SUPER.layout,
            fleets[32],
            fleets[8],
            steps=100,
            answers=1024,
            reference=reference,
            **sampled,
        )
        yield f"GRPO of the 49B, 100 steps of 1,024 answers on 32 and 8, {how}", seconds


def main() -> None:
    """Prints a table, in gigabytes and hours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posttraining", action="store_true")
    if parser.parse_args().posttraining:
        print("| | sampling | training | hours |\n|---|---|---|---|")
        for name, seconds in stages():
            parts = (seconds.sampling / 3600, seconds.training / 3600, seconds.hours)
            print("| " + " | ".join((name, *(f"{hours:.1f}" for hours in parts))) + " |")
        return
    print("| | " + " | ".join((*PARTS, "peak", "at", "hours")) + " |")
    print("|---" * (len(PARTS) + 4) + "|")
    for name, memory, hours in recipes():
        sizes = [getattr(memory, part) for part in PARTS] + [memory.total]
        cells = [f"{size / 1e9:.1f}" for size in sizes]
        print("| " + " | ".join((name, *cells, memory.moment, f"{hours:.1f}")) + " |", flush=True)


if __name__ == "__main__":
    main()
