"""A parent whose layers differ, such as a child, is searched again."""

import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM

import puzzle
from puzzle.library.build import build_library
from puzzle.models.assembling import assemble
from puzzle.models.parent import open_parent
from puzzle.scoring.exact_scores import replace_one
from puzzle.scoring.fisher_scores import FisherConfig, fisher
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import windows
from search_space import Layout, SearchSpace
from tests.factories.parents import SCENARIO, text, tokenizer
from tests.puzzle.models.test_families import random_child
from tests.puzzle.pipeline.test_search_of_families import DATA

LABELS = ["none+gated48", "gqa1+none", "linear+gated80", "gqa2+linear", "gqa2+gated80", "none+none"]
TOKENS = torch.arange(3, 40)[None]


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_child_is_a_parent_and_its_own_child_is_it(name, tmp_path):
    model, layout = random_child(name, LABELS)
    workspace = Workspace(tmp_path)
    parent = open_parent(model, workspace=workspace, tokenizer=tokenizer(), dtype="float32")
    assert parent.shape.parent_blocks == layout.blocks
    own = Layout.parent(parent.shape)
    again = assemble(parent.config, own, parent.state_dict(), dtype=torch.float32)
    with torch.no_grad():
        x_BLD = parent.embed(TOKENS)
        for index in range(parent.shape.layers):
            x_BLD = parent.run(parent.layer(index), x_BLD)
        torch.testing.assert_close(parent.head()(x_BLD), model(TOKENS).logits)
        torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits, atol=0, rtol=0)
    cut = windows(text(count=120), parent.tokenizer, DATA)
    space = SearchSpace.preset(parent.shape, "default")
    library = build_library(parent, space, cut, workspace=workspace)
    for layer, block in enumerate(layout.blocks):
        errors = library.errors(layer)
        assert errors[f"attention/{block.attention.label}"].fitted == 0
        assert errors[f"ffn/{block.attention.label}/{block.ffn.label}"].fitted == 0
        assert all(error.fitted <= error.before * (1 + 1e-6) for error in errors.values())
    exact = replace_one(library, space, cut, workspace=workspace)
    estimated = fisher(library, space, cut, workspace=workspace, config=FisherConfig(probes=8))
    pairs = [(score.kl, estimated.kl(layer, label)) for layer, label, score in exact.items()]
    assert spearmanr(*zip(*pairs, strict=True)).statistic > 0.9


def test_a_search_from_a_childs_directory_ends_in_a_smaller_child(tmp_path):
    model, layout = random_child("llama", LABELS)
    model.save_pretrained(tmp_path / "first")
    tokenizer().save_pretrained(tmp_path / "first")
    result = puzzle.search(
        tmp_path / "first",
        text(count=120),
        constraints=["parameters <= 0.8x"],
        scenario=SCENARIO,
        data=DATA,
        effort="fast",
        hardware="roofline:h100-sxm",
        precision="float32",
        out=tmp_path / "run",
    )
    assert result.predicted.parent.parameters == layout.parameters()
    result.save(tmp_path / "second")
    child = AutoModelForCausalLM.from_pretrained(tmp_path / "second").eval()
    count = sum(parameter.numel() for parameter in child.parameters())
    assert count == result.layout.parameters() <= 0.8 * layout.parameters()
    assert open_parent(child, workspace=Workspace(tmp_path)).shape.blocks == result.layout.blocks
    with torch.no_grad():
        torch.testing.assert_close(child(TOKENS).logits, result.child()(TOKENS).logits)
    page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "layers differ from the parent; " in page
