"""The same function in another family's words: library, scores, layout and child are the same."""

import pytest
import torch

from puzzle.library.build import build_library, heal
from puzzle.models.assembling import assemble
from puzzle.models.parent import open_parent
from puzzle.scoring.fisher_scores import fisher
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import Windows
from search_space import Block, Layout, SearchSpace, counting
from solvers import ChoiceProblem, Limit, solve
from tests.factories.equivalents import BITWISE, FAMILIES, equivalent
from tests.factories.parents import parent_model

# Of a child with a variant of each kind.
BLOCKS = ("none+gated32", "gqa1+linear", "gqa3+gated48")


def chosen(space, scores):
    """The labels of the layout of least score with 60 % of the parameters of all layers."""
    shape, layers = space.shape, range(space.shape.layers)
    rows = [space.blocks(layer) for layer in layers]
    sizes = [counting.block_parameters(shape, block) for row in rows for block in row]
    most = 0.6 * sum(counting.block_parameters(shape, block) for block in shape.parent_blocks)
    kls = [scores.kl(layer, block.label) for layer in layers for block in rows[layer]]
    groups = tuple(tuple(block.label for block in row) for row in rows)
    limits = (Limit("parameters", at_most=most),)
    problem = ChoiceProblem(groups, kls, {"parameters": sizes}, limits=limits)
    return solve(problem).labels


@torch.no_grad()
def searched(model, place):
    """The local errors, the scores, the layout chosen, and logits of a child and a healed child."""
    generator = torch.Generator().manual_seed(1)
    cut = Windows(
        **{
            part: torch.randint(0, model.config.vocab_size, (count, 16), generator=generator)
            for part, count in {"fit": 40, "score": 6, "validation": 6}.items()
        }
    )
    workspace = Workspace(place)
    parent = open_parent(model, workspace=workspace, dtype="float32")
    space = SearchSpace.from_options(parent.shape, ffn_shares=(0.75, 0.5))
    library = build_library(parent, space, cut, workspace=workspace)
    with torch.enable_grad():
        scores = fisher(library, space, cut, workspace=workspace)
    layout = Layout(parent.shape, tuple(map(Block.from_label, BLOCKS)))
    healed = heal(parent, layout, cut, workspace=workspace)
    logits = [
        assemble(parent.config, layout, each.child_tensors(layout), dtype=torch.float32)(
            cut.validation
        ).logits
        for each in (library, healed)
    ]
    layers = range(parent.shape.layers)
    errors = {
        (layer, name): torch.tensor([error.before, error.fitted])
        for layer in layers
        for name, error in library.errors(layer).items()
    }
    kls = [scores.kl(layer, block.label) for layer in layers for block in space.blocks(layer)]
    figures = {"errors": errors, "scores": torch.tensor(kls), "logits": logits}
    return figures, chosen(space, scores)


@pytest.fixture(scope="module")
def of_the_llama(tmp_path_factory):
    return searched(parent_model(), tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_llama_in_another_family_s_words_has_the_same_library_scores_and_child(
    family, of_the_llama, tmp_path
):
    model = equivalent(parent_model(), family)
    assert model.config.model_type == family
    figures, layout = searched(model, tmp_path)
    # Bit for bit; the products of fused maps may be added up in another order.
    close = {"rtol": 0.0, "atol": 0.0} if family in BITWISE else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(figures, of_the_llama[0], **close)
    assert layout == of_the_llama[1]
