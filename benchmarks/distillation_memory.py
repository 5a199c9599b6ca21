"""What distilling the children of the published layouts takes of GPUs: computed, not run.

    python benchmarks/distillation_memory.py

Llama 3.3 70B to Super 49B on 16 and 32 GPUs, and Llama 3.1 405B to Ultra 253B, before its FFNs were
fused, on 90 and 180; sharded, in bfloat16, windows of 4,096 tokens, one per GPU and pass. Hours
are those of H100 SXM for a billion tokens, at the share of the published rate that a search is
planned with; nothing that is exchanged is in them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import LlamaConfig

from puzzle.distillation import DistillConfig, DistillMemory, distill_flops, distill_memory
from puzzle.pipeline import Fleet
from search_space import ModelShape, published_layout

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


def main() -> None:
    """Prints the table, in gigabytes and hours."""
    print("| | " + " | ".join((*PARTS, "peak", "at", "hours")) + " |")
    print("|---" * (len(PARTS) + 4) + "|")
    for name, memory, hours in recipes():
        sizes = [getattr(memory, part) for part in PARTS] + [memory.total]
        cells = [f"{size / 1e9:.1f}" for size in sizes]
        print("| " + " | ".join((name, *cells, memory.moment, f"{hours:.1f}")) + " |", flush=True)


if __name__ == "__main__":
    main()
