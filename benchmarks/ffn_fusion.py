"""The figures of docs/fusion.md: what fusing FFNs does to a real child, and which runs to fuse.

Run it with `python benchmarks/ffn_fusion.py`; one JSON object is printed. A child of the demo
model has no attention in a run of layers and is not trained. It is fused in pieces, with either
rule for the norms, and compared with the child that is not fused; KL is in nats per token.
"""

import argparse
import json
import tempfile

import torch
import transformers

import puzzle
from puzzle.demo import demo_model, demo_text
from puzzle.fusion.fused import block_dependency, fuse_child
from puzzle.hardware.identity import device_record
from puzzle.models.assembling import assemble
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, windows
from search_space import Block, Fusion, Layout


@torch.no_grad()
def kl(reference: torch.nn.Module, model: torch.nn.Module, tokens: torch.Tensor) -> float:
    """Returns KL(reference || model), the mean over tokens."""
    total = 0.0
    for rows in tokens.split(2):
        p, q = (m(rows).logits.float().log_softmax(-1) for m in (reference, model))
        total += float((p.exp() * (p - q)).sum())
    return total / tokens.numel()


def main() -> None:
    """Measures and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=10)
    parser.add_argument("--last", type=int, default=17)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parent = open_parent(demo_model(), workspace=Workspace(folder), dtype="float32")
        data = DataConfig(fit_tokens=1024, score_tokens=1024, seed=options.seed)
        text = windows(demo_text(), parent.tokenizer, data)
        layout, tensors = (
            Layout.parent(parent.shape),
            {n: parent.tensors[n] for n in parent.tensors},
        )
    removed = Block.from_label(f"none+gated{parent.shape.ffn_width}")
    names = ("self_attn.", "input_layernorm.")
    for layer in range(options.first, options.last + 1):
        layout = layout.replace(layer, removed)
        prefixes = tuple(f"model.layers.{layer}.{name}" for name in names)
        tensors = {n: tensor for n, tensor in tensors.items() if not n.startswith(prefixes)}
    child = assemble(parent.config, layout, tensors, dtype=torch.float32)
    span = range(options.first, options.last)
    matrix = block_dependency(child, text.score, layers=range(options.first, options.last + 1))
    report = {
        "device": device_record(),
        "versions": {"puzzle": puzzle.__version__, "transformers": transformers.__version__},
        "seed": options.seed,
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
