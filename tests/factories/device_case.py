"""Runs every stage of a search on a device and prints what each finds, as JSON.

`python -m tests.factories.device_case OUT cpu|pretend`: in a process of its own, for torch knows of
the pretended device ever after.
"""

import json
import sys

import pytest
import torch

from puzzle.choice.around import scores_around
from puzzle.choice.layout_kl import LayoutKL
from puzzle.costs.measured.replies import time_pair
from puzzle.evaluation.text_quality import quality
from puzzle.library.build import build_library, heal
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.models.assembling import assemble
from puzzle.models.parent import open_parent
from puzzle.scoring.exact_scores import replace_one
from puzzle.scoring.fisher_scores import fisher
from puzzle.scoring.hybrid_scores import hybrid
from puzzle.scoring.influence import block_influence
from puzzle.scoring.task import task_scores
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import windows
from search_space import Block, Layout, SearchSpace
from tests.factories.parents import DATA, SCENARIO, parent_model, text, tokenizer


def stages(out, device):
    """Returns what every stage finds, as numbers."""
    workspace, config = Workspace(out), LibraryConfig(bld=BLDConfig(tokens=256))
    parent = open_parent(
        parent_model(), workspace=workspace, tokenizer=tokenizer(), dtype="float32", device=device
    )
    space = SearchSpace.preset(parent.shape, "default")
    cut = windows(text(), parent.tokenizer, DATA)
    library = build_library(parent, space, cut, workspace=workspace, config=config)
    place = (library, space, cut)
    own = Layout.parent(parent.shape)
    layout = own.replace(1, Block.from_label("gqa1+gated32"))
    healed = heal(parent, layout, cut, workspace=workspace, config=config)
    measure = LayoutKL(library, cut.score)
    models = {
        name: assemble(parent.config, each, found.child_tensors(each), dtype=parent.dtype)
        for name, each, found in (("parent", own, library), ("child", layout, healed))
    }
    time_pair(models["parent"], models["child"], SCENARIO, device=device, most=1)

    def bend(model):
        return -float(model(cut.score[:1].to(model.device)).logits.square().mean())

    scores = {
        "fisher": fisher(*place, workspace=workspace),
        "exact": replace_one(*place, workspace=workspace),
        "cosine": replace_one(*place, workspace=workspace, distance="cosine"),
        "hybrid": hybrid(*place, workspace=workspace),
        "task": task_scores(library, space, bend, name="bend", workspace=workspace),
        "around": scores_around(measure, space, layout, workspace=workspace),
    }
    return {
        "quality": list(quality(*models.values(), cut.validation).to_dict()["child"].values()),
        "influence": block_influence(parent, cut.score),
        "measured": measure(layout).kl,
        "healed": LayoutKL(healed, cut.score)(layout).kl,
        "errors": [e.value for layer in range(3) for e in library.errors(layer).values()],
        **{name: [one.kl for _, _, one in found.items()] for name, found in scores.items()},
    }


def refuses():
    """Checks that the pretended device refuses what a GPU refuses."""
    x, linear = torch.randn(3, 3), torch.nn.Linear(3, 3)
    y = x.to(DEVICE)
    assert torch.equal((y @ y).cpu(), x @ x)
    for wrong in (lambda: y + x, lambda: linear(y), lambda: linear.to(DEVICE)(x)):
        with pytest.raises(RuntimeError, match="of pretend and of the CPU"):
            wrong()
    x[1:] = y[:2].cpu()
    assert torch.equal(x[1:], y[:2].cpu())


def main(out, device):
    """Writes what the stages find."""
    sys.stdout.write(json.dumps(stages(out, device)) + "\n")


if __name__ == "__main__":
    if sys.argv[2] == "cpu":
        main(sys.argv[1], "cpu")
    else:
        from tests.factories.pretend_device import DEVICE, pretend_device

        with pretend_device():
            refuses()
            main(sys.argv[1], DEVICE)
