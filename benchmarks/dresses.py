"""SmolLM2 rewritten exactly as models of other families: what a search makes of each.

    OMP_NUM_THREADS=1 nice python benchmarks/dresses.py

The first layers of the real weights, so that it takes minutes, and the docstrings of the other
benchmarks. Of each model the library, Fisher scores, the layout of least score, a child and a
healed child are compared with those of the Llama. It prints one line for each, and times nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from common.demo_parent import open_demo_parent
from common.machine import print_machine
from common.texts import docstrings
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

import puzzle
from puzzle.models.parent import Parent
from puzzle.text.windows import windows
from tests.factories.equivalents import FAMILIES, equivalent, searched

DATA = puzzle.DataConfig(window=128, fit_tokens=4096, score_tokens=512, validation_tokens=512)
# One child with each kind of variant.
BLOCKS = ("gqa3+gated768", "gqa1+gated1536", "none+gated1536", "gqa3+linear", "linear+gated768")


def first_layers(parent: Parent, layers: int) -> LlamaForCausalLM:
    """Returns a model of the first layers, with the embedding, final norm and head."""
    values = {**parent.config.to_dict(), "num_hidden_layers": layers, "pad_token_id": None}
    model = LlamaForCausalLM(LlamaConfig.from_dict(values)).eval()
    tensors = parent.state_dict()
    own = {
        name: tensors.get(name, tensors["model.embed_tokens.weight"]) for name in model.state_dict()
    }
    model.load_state_dict(own)
    return model


def apart(one: Any, other: Any) -> float:
    """Returns the largest difference of two tensors, or of tensors by name."""
    if isinstance(one, dict):
        return max(apart(one[name], other[name]) for name in one)
    return float((one - other).abs().max())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=5)
    options = parser.parse_args()
    print_machine(dtype=torch.float32, seed=DATA.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        parent = open_demo_parent(place / "parent", dtype="float32")
        model = first_layers(parent, options.layers)
        cut = windows(docstrings(), parent.tokenizer, DATA)
        labels = [BLOCKS[layer % len(BLOCKS)] for layer in range(options.layers)]

        def made(each: Any, name: str) -> dict[str, Any]:
            return searched(each, cut, labels, place=place / name, share=0.7, ffn_shares=(0.5,))

        llama = made(model, "llama")
        print("| family | model | local errors | scores | layout | child | healed child |")
        print("|---|---|---|---|---|---|---|")
        for family in tqdm(FAMILIES):
            other = equivalent(model, family)
            with torch.no_grad():
                own, rewritten = (each(cut.score).logits for each in (model, other))
            figures = made(other, family)
            same = "the same" if figures["layout"] == llama["layout"] else "another"
            cells = [
                apart(rewritten, own),
                *(apart(figures[n], llama[n]) for n in ("errors", "scores")),
            ]
            cells += [apart(figures[name], llama[name]) for name in ("child", "healed")]
            texts = [f"{value:.1g}" for value in cells]
            print(f"| {family} | {' | '.join([*texts[:3], same, *texts[3:]])} |", flush=True)


if __name__ == "__main__":
    main()
