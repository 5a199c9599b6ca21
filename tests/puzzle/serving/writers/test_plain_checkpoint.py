"""Claims about children whose layers are alike: plain checkpoints of the parent's own type."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import puzzle
from puzzle.errors import ExportError
from puzzle.models.families import family_of
from puzzle.serving.exporting import export
from search_space import Block, Layout, SearchSpace
from search_space.plain_layouts import EMPTY
from solvers import InfeasibleError
from tests.factories.children import child_of
from tests.factories.families import CONFIGS, WINDOW, family_child, family_config
from tests.factories.parents import DATA, SCENARIO, parent_model, text, tokenizer

WITHOUT_PUZZLE = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
tokens = torch.arange(3, 43)[None]
logits = {}
for directory in map(Path, sys.argv[2:]):
    model, report = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        logits[directory.name] = model.eval()(tokens).logits
assert not {"puzzle", "puzzle_vllm", "search_space"} & set(sys.modules)
save_file(logits, sys.argv[1])
"""


# Layers of Nemotron-H are halves, which are not all alike.
PLAIN = [name for name in CONFIGS if name != "nemotron_h"]
# A plain child has experts in all layers or in none.
SPARSE = {"qwen3_moe": {"mlp_only_layers": []}, "qwen3_next": {"mlp_only_layers": []}}


def alike(layout):
    """One smaller block in all layers but two, which are removed; the first is among them."""
    block, own = Block.from_label("gqa1h2+gated56"), layout.shape.parent_blocks[-1].ffn
    if own.kind == "moe":
        block = Block(block.attention, replace(own, experts=4))
    blocks = [block] * layout.shape.layers
    blocks[0] = blocks[3] = EMPTY
    return Layout(layout.shape, tuple(blocks))


def load_without_puzzle(directories, tmp_path):
    script = tmp_path / "load.py"
    script.write_text(WITHOUT_PUZZLE)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-P", str(script), str(tmp_path / "logits"), *map(str, directories)]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    return load_file(tmp_path / "logits")


@torch.no_grad()
def test_stock_transformers_without_puzzle_opens_the_plain_child_of_every_family(tmp_path):
    expected = {}
    for name in PLAIN:
        model = family_child(name, alike, **SPARSE.get(name, {}))
        done = export(model, tmp_path / "out" / name, engine="plain")
        assert done.layout.shape.layers == 4
        assert set(done.rewritten) == {0, 3}
        config = AutoConfig.from_pretrained(done.path)
        assert config.model_type == family_config(name).model_type
        expected[name] = model(torch.arange(3, 43)[None]).logits
    assert len(torch.arange(3, 43)) > 2 * WINDOW
    logits = load_without_puzzle([tmp_path / "out" / name for name in PLAIN], tmp_path)
    for name, answer in expected.items():
        torch.testing.assert_close(logits[name], answer, rtol=0, atol=1e-5)


PARENT = parent_model()
SEARCH = {
    "scenario": SCENARIO,
    "data": DATA,
    "hardware": "roofline:h100-sxm",
    "precision": "float32",
    "tokenizer": tokenizer(),
}


@pytest.mark.parametrize(
    ("space", "limit", "effort"),
    [("depth", 0.8, "fast"), ("plain", 0.6, "default")],
)
@torch.no_grad()
def test_a_search_of_a_plain_space_ends_in_a_plain_child(space, limit, effort, tmp_path):
    limits = [f"parameters <= {limit}x"]
    options = {**SEARCH, "constraints": limits, "effort": effort, "out": tmp_path / "run"}
    result = puzzle.search(PARENT, text(), space=space, **options)
    done = puzzle.export(result, tmp_path / "out", engine="plain")
    assert done.layout.parameters() == result.layout.parameters()
    model = AutoModelForCausalLM.from_pretrained(done.path)
    assert type(model) is type(PARENT)
    tokens = torch.arange(3, 43)[None]
    torch.testing.assert_close(model(tokens).logits, result.child()(tokens).logits)


def test_limits_out_of_reach_with_one_block_are_refused_before_the_library(tmp_path):
    space = SearchSpace.preset(family_of(PARENT.config).shape(PARENT.config), "uniform", keep=[0])
    options = {**SEARCH, "constraints": ["parameters <= 0.9x"], "out": tmp_path / "run"}
    with pytest.raises(InfeasibleError, match=r"cannot be met together: parameters <= 0\.9x"):
        puzzle.search(PARENT, text(), space=space, distinct=1, **options)
    assert not list((tmp_path / "run").rglob("library*"))


def test_layers_that_differ_are_named():
    labels = ["gqa3+gated64", "gqa3+gated64", "none+gated64"]
    with pytest.raises(ExportError, match=r"layer 2 \(none\+gated64\): only whole layers") as error:
        export(child_of(labels), "out", engine="plain")
    assert "Search again in the space 'plain', or export for" in str(error.value)
    with pytest.raises(ExportError, match=r"layer 2 \(gqa1\+gated64\): most layers are gqa3"):
        export(child_of([*labels[:2], "gqa1+gated64"]), "out", engine="plain")
    with pytest.raises(ExportError, match=r"layer 1 \(gqa3w8\+gated64\): .*no place for a window"):
        export(child_of(["gqa3w8+gated64"] * 3), "out", engine="plain")
