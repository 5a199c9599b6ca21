"""SmolLM2 rewritten exactly as models of other families: what a search makes of each.

    OMP_NUM_THREADS=1 nice python benchmarks/dresses.py
    OMP_NUM_THREADS=1 nice python benchmarks/dresses.py --layers 3 --families mixtral

The first layers of the real weights, so that it takes minutes, and the docstrings of the other
benchmarks. Of each model the library, Fisher scores, the layout of least score, a child and a
healed child are compared with those of the Llama. As a Mixtral, whose experts are narrowed and
healed each by itself, in a space without widths, before healing, and by fitted errors alone. It
prints one line for each, and times nothing.
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
from tests.factories.equivalents import FAMILIES, WITHOUT_WIDTHS, equivalent, searched

DATA = puzzle.DataConfig(window=128, fit_tokens=4096, score_tokens=512, validation_tokens=512)
# One child with each kind of variant.
BLOCKS = ("gqa3+gated768", "gqa1+own", "none+own", "gqa3+linear", "linear+gated768")
WHOLE = ("gqa1+own", "gqa3+linear", "gqa3+none")
WIDTHS = {"ffn_shares": (0.5,)}


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


def compared(one: dict[str, Any], other: dict[str, Any], *, experts: bool) -> list[str]:
    """Returns the cells of a row: the differences of two models' figures."""
    errors = [
        {name: error[1] if experts else error for name, error in each["errors"].items()}
        for each in (one, other)
    ]
    same = "the same" if one["layout"] == other["layout"] else "another"
    numbers = [apart(*errors), *(apart(one[n], other[n]) for n in ("scores", "child", "healed"))]
    texts = [f"{value:.1g}" for value in numbers]
    return [*texts[:2], same, texts[2], "" if experts else texts[3]]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=tuple(FAMILIES))
    given = parser.parse_args()
    print_machine(dtype=torch.float32, seed=DATA.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        parent = open_demo_parent(place / "parent", dtype="float32")
        model = first_layers(parent, given.layers)
        cut = windows(docstrings(), parent.tokenizer, DATA)
        made: dict[str, dict[str, Any]] = {}

        def figures(each: Any, name: str, experts: bool) -> dict[str, Any]:
            cycle, options = (WHOLE, WITHOUT_WIDTHS) if experts else (BLOCKS, WIDTHS)
            labels = tuple(cycle[layer % len(cycle)] for layer in range(given.layers))
            if (key := f"{name}-{experts}") not in made:
                made[key] = searched(each, cut, labels, place=place / key, share=0.7, **options)
            return made[key]

        print("| family | model | local errors | scores | layout | child | healed child |")
        print("|---|---|---|---|---|---|---|")
        for family in tqdm(given.families):
            other, experts = equivalent(model, family), family == "mixtral"
            with torch.no_grad():
                own, rewritten = (each(cut.score).logits for each in (model, other))
            pair = (figures(other, family, experts), figures(model, "llama", experts))
            cells = [f"{apart(rewritten, own):.1g}", *compared(*pair, experts=experts)]
            print(f"| {family} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
