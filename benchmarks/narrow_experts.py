"""What narrower experts miss, and what fewer: SmolLM2's first layers cut into a Mixtral's experts.

    OMP_NUM_THREADS=1 nice python benchmarks/narrow_experts.py

Each FFN of real weights is cut into four experts, all for each token. It prints the local errors
before and after the fit of each layer, with the channels that elimination leaves and with the
largest, and times nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from common.demo_parent import open_demo_parent
from common.machine import print_machine
from common.texts import docstrings
from dresses import DATA, first_layers

from puzzle.library.build import build_library
from puzzle.library.settings import LibraryConfig
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import windows
from search_space import SearchSpace
from tests.factories.equivalents import equivalent

LAYERS = 3
FFNS = ("moe4x288k4", "moe4x192k4", "moe4x96k4", "moe3x384k3", "moe2x384k2", "moe2x192k2")


def main() -> None:
    """Prints a table."""
    print_machine(dtype=torch.float32, seed=DATA.seed)
    print("| layer | experts | before | eliminated | largest |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        demo = open_demo_parent(place / "demo", dtype="float32")
        model = equivalent(first_layers(demo, LAYERS), "mixtral")
        cut = windows(docstrings(), demo.tokenizer, DATA)
        workspace = Workspace(place / "mixtral")
        parent = open_parent(model, workspace=workspace, dtype="float32")
        space = SearchSpace.uniform(parent.shape, ffns=FFNS)
        eliminated, largest = (
            build_library(
                parent, space, cut, workspace=workspace, config=LibraryConfig(channels=channels)
            )
            for channels in ("eliminated", "largest")
        )
        attention = parent.shape.parent_blocks[0].attention.label
        for layer in range(LAYERS):
            for ffn in FFNS:
                one, other = (
                    each.errors(layer)[f"ffn/{attention}/{ffn}"] for each in (eliminated, largest)
                )
                cells = (one.before, one.fitted, other.fitted)
                print(f"| {layer} | {ffn} | {' | '.join(f'{cell:.4f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
