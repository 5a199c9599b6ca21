"""The figures of docs/results/fusion.md: what fusing FFNs does to a child, and which runs to fuse.

Run it with `python benchmarks/ffn_fusion.py`; one JSON object is printed. A child of the demo
model has no attention in a run of layers and is not trained. It is fused in pieces, with either
rule for the norms, and compared with the child that is not fused; KL is in nats per token.
"""

import argparse
import json
import tempfile

import torch
from common.demo_parent import open_demo_parent, without_attention
from common.held_out import kl
from common.machine import print_machine

from puzzle.demo import demo_text
from puzzle.fusion.fused import block_dependency, fuse_child
from puzzle.models.child_config import layout_from_config
from puzzle.text.windows import DataConfig, windows
from search_space import Fusion


def main() -> None:
    """Measures and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=10)
    parser.add_argument("--last", type=int, default=17)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parent = open_demo_parent(folder, dtype="float32")
        data = DataConfig(fit_tokens=1024, score_tokens=1024, seed=options.seed)
        text = windows(demo_text(), parent.tokenizer, data)
        layers = range(options.first, options.last + 1)
        child = without_attention(parent, layers, torch.float32)
    layout = layout_from_config(child.config)
    span = range(options.first, options.last)
    matrix = block_dependency(child, text.score, layers=layers)
    report = {
        "machine": print_machine(dtype=torch.float32, seed=options.seed),
        "layers": [options.first, options.last],
        "tokens": {"kl": text.validation.numel(), "dependency": text.score.numel()},
        "dependency": {f"{i},{i + 1}": round(float(matrix[i, i + 1]), 4) for i in span},
        "kl": [],
    }
    for runs in _runs(options.first, options.last):
        fusion = Fusion.of(layout, runs)
        row = {"runs": runs, "layers": fusion.apply(layout).shape.layers}
        for norms in ("last", "own"):
            row[norms] = round(
                kl(child, fuse_child(child, fusion, norms=norms), text.validation), 4
            )
        report["kl"].append(row)
    print(json.dumps(report, indent=1))


def _runs(first: int, last: int) -> list[list[tuple[int, int]]]:
    pairs = [[(at, at + 1)] for at in range(first, last)]
    all_pairs = [(at, at + 1) for at in range(first, last, 2)]
    return [*pairs, all_pairs, [(first, last - 1)], [(first, last)]]


if __name__ == "__main__":
    main()
