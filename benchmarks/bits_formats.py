"""What uniform formats cost the demo's parent, and one whose weights are on no grid.

    OMP_NUM_THREADS=1 nice python benchmarks/bits_formats.py --out bits-run
    OMP_NUM_THREADS=1 nice python benchmarks/bits_formats.py --grids none --kinds q4_0 q4_1

The parent of benchmarks/bits.py is what a file in Q4_1 unpacks to: its weights lie on the grid of
that format. Is a study of other formats on it fair? A second parent has the same weights with noise
that is uniform over each step of their grid, as if they had never been rounded. Each is rounded to
the uniform formats and to llama.cpp's mixes of K-quants, and compared with itself on 4,096
validation tokens. A mix gives some matrices more bits, and rows that are no multiples of 256, which
all but the down projections are, its fallbacks. The embedding stays as it is. "again" is how much a
second round trip changes the values, as a share of what the first did (both as norms).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bits import DATA
from common.demo_parent import open_demo_parent
from common.held_out import WindowKL
from common.machine import print_machine
from common.texts import docstrings
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from puzzle.models.assembling import assemble
from puzzle.models.parent import Parent
from puzzle.serving.writers.gguf import LAYER_NAMES
from puzzle.serving.writers.k_quants import FALLBACKS, K_BLOCK, mixed_type, quantise
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import windows
from search_space import WEIGHT_FORMATS, Layout

MIXES = ("q6_k", "q5_k_m", "q4_k_m")
GRIDS = ("q4_1", "none")
Tensors = dict[str, torch.Tensor]


def change_matrices(
    tensors: Tensors, change: Callable[[str, torch.Tensor], torch.Tensor]
) -> Tensors:
    """Returns tensors whose matrices of layers are changed, given their names in a GGUF."""
    changed = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and ".layers." in name:
            module = name.split(".layers.")[1].partition(".")[2].removesuffix(".weight")
            changed[name] = change(f"{LAYER_NAMES[module]}.weight", tensor)
    return changed


def off_the_grid(matrix: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Returns a matrix in Q4_1 with noise uniform over the step of each block of 32."""
    blocks = matrix.unflatten(-1, (-1, 32))
    step = (blocks.amax(-1, keepdim=True) - blocks.amin(-1, keepdim=True)) / 15
    noise = torch.rand(blocks.shape, generator=generator) - 0.5
    return (blocks + step * noise).flatten(-2)


def rounded(matrix: torch.Tensor, kind: str) -> tuple[torch.Tensor, float]:
    """Returns the values of a matrix in a type of ggml, and its bytes."""
    if kind in FALLBACKS and matrix.shape[-1] % K_BLOCK:
        kind = FALLBACKS[kind]
    type_, rows = GGMLQuantizationType[kind.upper()], matrix.contiguous().numpy()
    data = quantise(rows, kind) if kind in FALLBACKS else quants.quantize(rows, type_)
    block, size = GGML_QUANT_SIZES[type_]
    return torch.from_numpy(quants.dequantize(data, type_)), matrix.numel() * size / block


def in_format(tensors: Tensors, kind: str, parent: Parent) -> tuple[Tensors, dict[str, float]]:
    """Returns tensors in a format or a mix, their share of the bytes in float16, and "again"."""
    places: Counter[str] = Counter()
    sums: defaultdict[str, float] = defaultdict(float)
    shape = parent.shape
    groups = shape.heads // shape.usual_block.attention.kv_heads

    def change(name: str, matrix: torch.Tensor) -> torch.Tensor:
        own = kind
        if kind in MIXES:
            own = mixed_type(
                kind, name, places[name], shape.layers, head="token_embd.weight", groups=groups
            )
        places[name] += 1
        values, size = rounded(matrix, own)
        sums["bytes"] += size
        sums["float16"] += 2.0 * matrix.numel()
        sums["first"] += float((values - matrix).square().sum())
        sums["second"] += float((rounded(values, own)[0] - values).square().sum())
        return values

    changed = change_matrices(tensors, change)
    again = (sums["second"] / max(sums["first"], 1e-30)) ** 0.5
    return changed, {"bytes": sums["bytes"] / sums["float16"], "again": again}


def tensors_of(parent: Parent, grid: str, seed: int) -> Tensors:
    """Returns the tensors of the parent, or of the one that is on no grid."""
    own, generator = dict(parent.state_dict()), torch.Generator().manual_seed(seed)
    if grid == "q4_1":
        return own
    return change_matrices(own, lambda _, matrix: off_the_grid(matrix, generator))


def report(kls: torch.Tensor, **more: Any) -> None:
    """Prints a mean over windows with its error."""
    values = {"kl": float(kls.mean()), "error": float(kls.std() / len(kls) ** 0.5)}
    print(json.dumps(more | {n: round(v, 6) for n, v in values.items()}), flush=True)


def main() -> None:
    """Prints one line for each parent and format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bits-run"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=GRIDS)
    parser.add_argument("--kinds", nargs="+", default=[*WEIGHT_FORMATS, *MIXES])
    options = parser.parse_args()
    parent = open_demo_parent(Workspace(options.out), dtype="float32")
    print_machine(dtype=parent.dtype, seed=options.seed)
    cut = windows(docstrings(), parent.tokenizer, replace(DATA, seed=options.seed))
    layout = Layout.parent(parent.shape)
    for grid in options.grids:
        tensors = tensors_of(parent, grid, options.seed)
        model = assemble(parent.config, layout, tensors, dtype=parent.dtype)
        judge = WindowKL(model, cut.validation)
        for kind in options.kinds:
            values, sizes = in_format(tensors, kind, parent)
            child = assemble(parent.config, layout, values, dtype=parent.dtype)
            report(
                judge(child), grid=grid, format=kind, **{n: round(v, 4) for n, v in sizes.items()}
            )


if __name__ == "__main__":
    main()
