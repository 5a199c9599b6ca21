"""Rebuild the published Llama-3.1-Nemotron-Ultra-253B from the layout its search found.

    python examples/reproduce_ultra.py [--pictures FOLDER]

No weights are needed: the 126 layers of the search result become 81 by FFN fusion and 162 by
identity layers for a pipeline of 18 stages, and the result has to equal the published config in
every block. Then the memory claims of the papers are checked, in GB and in GiB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from search_space import (
    Layout,
    balance_pipeline,
    fusible_runs,
    identity_layers,
    plan_fusion,
    plot_layout,
    published_layout,
)
from search_space.formats import from_block_configs, to_block_configs

SUPER, ULTRA = "llama-3.3-nemotron-super-49b-v1", "llama-3.1-nemotron-ultra-253b-v1"
STAGES = 18
# Model, GPUs of 80 "GB", tokens in the cache, bytes of a weight and of a cached element.
CLAIMS = (
    (SUPER, 1, 300_000, 1, 1),
    (ULTRA, 8, 3_000_000, 1, 1),
    (ULTRA, 8, 600_000, 2, 2),
)


def rebuild() -> tuple[Layout, Layout, Layout]:
    """Prints the steps; returns the layout before fusion, after it, and padded."""
    ultra = published_layout(ULTRA)
    before, fusion = ultra.search_result(), ultra.fusion()
    _line("search result", before)
    print(f"  layers without attention that could be fused: {fusible_runs(before)}")
    longest = plan_fusion(before).runs[-1]
    print(f"  the longest run with its last FFN kept: {longest.first} to {longest.last}")

    fused = fusion.apply(before)
    _line("fused", fused)
    for run, position in zip(fusion.runs, fusion.positions, strict=True):
        print(f"  {run.first}-{run.last} -> layer {position}, FFN width {run.width:,}")
    print(f"  taken apart again it is the search result: {fusion.undo(fused) == before}")

    pipeline = balance_pipeline(fused, STAGES)
    _line(f"padded for {STAGES} stages", pipeline.layout)
    loads = pipeline.stage_parameters()
    print(f"  {len(identity_layers(pipeline.layout))} identity layers; stages of", end=" ")
    print(f"{min(loads) / 1e9:.1f} to {max(loads) / 1e9:.1f} billion parameters")
    for note in ultra.inferred:
        print(f"  inferred: {note}")
    return before, fused, pipeline.layout


def _line(name: str, layout: Layout) -> None:
    kv = layout.kv_bytes_per_token(1)
    print(f"{name}: {layout.shape.layers} layers, {layout.parameters():,} parameters,", end=" ")
    print(f"{kv:,} KV elements per token")


def check_memory() -> bool:
    """Prints what each claim needs; returns whether all hold in GiB."""
    holds = True
    for name, gpus, tokens, weight_bytes, cache_bytes in CLAIMS:
        layout = Layout.published(name)
        weights = layout.parameters() * weight_bytes
        cache = layout.kv_bytes_per_token(cache_bytes) * tokens
        need, in_gb, in_gib = weights + cache, gpus * 80 * 10**9, gpus * 80 * 2**30
        kind = "FP8" if cache_bytes == 1 else "BF16"
        print(f"{name}: {tokens:,} tokens in {kind} on {gpus} x 80")
        print(f"  weights {weights / 1e9:.2f} GB + cache {cache / 1e9:.2f} GB", end=" ")
        print(f"= {need / 1e9:.2f} GB = {need / 2**30:.2f} GiB")
        for unit, limit, size in (("GB", in_gb, 1e9), ("GiB", in_gib, 2**30)):
            verdict = "true" if need <= limit else "false"
            print(f"  {verdict} of {gpus} x 80 {unit}: {(limit - need) / size:+.2f} {unit} left")
        holds &= need <= in_gib
    return holds


def main() -> int:
    """Returns 0 if the published layout and the claims are reproduced."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="a folder to draw the three layouts in")
    arguments = parser.parse_args()
    published = Layout.published(ULTRA)
    layouts = rebuild()
    read = from_block_configs(published.shape, to_block_configs(layouts[-1]))
    same = layouts[-1] == published == read
    print(f"equal to the published {published.shape.layers} blocks: {same}")
    fits = check_memory()
    if arguments.pictures is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        for name, layout in zip(("search", "fused", "padded"), layouts, strict=True):
            plot_layout(layout, arguments.pictures / f"ultra-{name}.png")
    return 0 if same and fits else 1


if __name__ == "__main__":
    raise SystemExit(main())
