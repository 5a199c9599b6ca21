"""A parent of any family goes through the whole search, and its child is what was predicted."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import puzzle
from puzzle.library.build import build_library
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import windows
from search_space import SearchSpace
from tests.factories.families import CONFIGS, WINDOW, family_model
from tests.factories.parents import SCENARIO, text, tokenizer

# Windows of text longer than those of the attention.
DATA = puzzle.DataConfig(
    window=2 * WINDOW, fit_tokens=1536, score_tokens=192, validation_tokens=192
)


# One of each: fused maps, norms around sublayers and windows, experts, and a hybrid.
OFTEN = ("phi3", "gemma3_text", "qwen3_moe", "lfm2")


@pytest.mark.parametrize(
    "name",
    [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS],
)
def test_a_search_ends_in_a_child_that_loads_and_is_as_small_as_it_says(name, tmp_path):
    result = puzzle.search(
        family_model(name),
        text(count=120),
        tokenizer=tokenizer(),
        constraints=["parameters <= 0.8x"],
        scenario=SCENARIO,
        data=DATA,
        effort="fast",
        hardware="roofline:h100-sxm",
        precision="float32",
        out=tmp_path / "run",
    )
    result.save(tmp_path / "child")
    result.child().save_pretrained(tmp_path / "assembled")
    for file in (tmp_path / "assembled").iterdir():
        assert (tmp_path / "child" / file.name).read_bytes() == file.read_bytes(), file.name
    child = AutoModelForCausalLM.from_pretrained(tmp_path / "child").eval()
    count = sum(parameter.numel() for parameter in child.parameters())
    assert count == result.layout.parameters() <= 0.8 * result.predicted.parent.parameters
    assert 0 < result.measured.child.kl < torch.inf
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(child(tokens).logits, result.child()(tokens).logits)


@pytest.mark.parametrize(
    "name",
    [
        "olmo2",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("gemma3_text", "granite", "qwen3")),
    ],
)
def test_distilled_variants_are_no_worse_than_fitted_ones(name, tmp_path):
    workspace = Workspace(tmp_path)
    parent = open_parent(
        family_model(name), workspace=workspace, tokenizer=tokenizer(), dtype="float32"
    )
    cut = windows(text(count=120), parent.tokenizer, DATA)
    space = SearchSpace.preset(parent.shape, "default")
    config = LibraryConfig(bld=BLDConfig(tokens=3072, learning_rate=1e-3))
    library = build_library(parent, space, cut, workspace=workspace, config=config)
    errors = [library.errors(layer) for layer in range(parent.shape.layers)]
    pairs = [(e.fitted, e.distilled) for own in errors for e in own.values() if e.distilled]
    assert pairs
    assert all(after <= before * (1 + 1e-6) for before, after in pairs)
    assert sum(after for _, after in pairs) < sum(before for before, _ in pairs)
