"""Claims about children whose layers are alike: plain checkpoints of the parent's own type."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import puzzle
from puzzle.errors import ExportError
from puzzle.models.families import family_of
from puzzle.serving.exporting import export
from search_space import FFN, Attention, Block, Layout, SearchSpace
from search_space.plain_layouts import EMPTY
from solvers import InfeasibleError
from tests.factories.children import child_of
from tests.factories.families import CONFIGS, WINDOW, family_child, family_config, family_model
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


def alike(layout):
    """Each half narrower in the same way wherever it is, and two layers removed."""
    blocks = []
    for own in layout.shape.parent_blocks:
        attention, ffn = own.attention, own.ffn
        if attention.kind == "gqa":
            attention = Attention("gqa", 1, heads=2)
        if ffn.kind == "moe":
            ffn = replace(ffn, experts=4)
        if ffn.kind == "gated":
            ffn = FFN("gated", 56)
        blocks.append(Block(attention, ffn))
    return Layout(layout.shape, (EMPTY, *blocks[1:3], EMPTY, *blocks[4:]))


# Two FFNs of Nemotron-H are removed, and one is left.
PLAIN = {name: {} for name in CONFIGS} | {
    "nemotron_h": {
        "layers_block_type": ["mlp", "linear_attention", "full_attention"] * 2 + ["mlp"],
        "num_hidden_layers": 7,
    },
}


@torch.no_grad()
def test_stock_transformers_without_puzzle_opens_the_plain_child_of_every_family(
    tmp_path, other_process
):
    expected = {}
    for name, changes in PLAIN.items():
        model = family_child(name, alike, **changes)
        done = export(model, tmp_path / "out" / name, engine="plain")
        assert done.layout.shape.layers == model.config.num_hidden_layers - 2
        assert set(done.rewritten) == {0, 3}
        config = AutoConfig.from_pretrained(done.path)
        assert config.model_type == family_config(name).model_type
        expected[name] = model(torch.arange(3, 43)[None]).logits
    assert len(torch.arange(3, 43)) > 2 * WINDOW
    children = [tmp_path / "out" / name for name in PLAIN]
    done = other_process.run(WITHOUT_PUZZLE, tmp_path / "logits", *children)
    assert done.returncode == 0, done.stderr
    logits = load_file(tmp_path / "logits")
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


# Hybrids and mixtures of experts in a space that holds anything, for children of one block.
HYBRIDS = ("qwen3_5_text", "qwen3_next", "nemotron_h", "qwen3_moe")
SPACES = [
    ("small", 1, 0.7, "fast", "lfm2"),
    ("plain", None, 0.6, "default", None),
    pytest.param("depth", None, 0.8, "fast", "lfm2", marks=pytest.mark.slow),
    *(pytest.param("small", 1, 0.7, "fast", each, marks=pytest.mark.slow) for each in HYBRIDS),
]


@pytest.mark.parametrize(("space", "distinct", "limit", "effort", "family"), SPACES)
@torch.no_grad()
def test_a_search_for_a_plain_child_ends_in_one(space, distinct, limit, effort, family, tmp_path):
    parent = family_model(family) if family else PARENT
    limits = [f"parameters <= {limit}x"]
    options = {**SEARCH, "constraints": limits, "effort": effort, "out": tmp_path / "run"}
    result = puzzle.search(parent, text(), space=space, distinct=distinct, **options)
    done = puzzle.export(result, tmp_path / "out", engine="plain")
    assert done.layout.parameters() == result.layout.parameters()
    model = AutoModelForCausalLM.from_pretrained(done.path)
    assert type(model) is type(parent)
    tokens = torch.arange(3, 43)[None]
    torch.testing.assert_close(model(tokens).logits, result.child()(tokens).logits)


def test_limits_out_of_reach_with_one_block_are_refused_before_the_library(tmp_path):
    space = SearchSpace.preset(family_of(PARENT.config).shape(PARENT.config), "uniform", keep=[0])
    options = {**SEARCH, "constraints": ["parameters <= 0.9x"], "out": tmp_path / "run"}
    with pytest.raises(InfeasibleError, match=r"cannot be met together: parameters <= 0\.9x"):
        puzzle.search(PARENT, text(), space=space, distinct=1, **options)
    assert not list((tmp_path / "run").rglob("library*"))


@pytest.mark.parametrize(("removed", "moved"), [(0, True), (5, False)])
def test_layers_left_at_places_of_another_kind_are_warned_of(removed, moved, tmp_path, caplog):
    child = family_child("gemma3_text", lambda own: own.replace(removed, EMPTY))
    export(child, tmp_path / "out", engine="plain")
    assert ("layer_types of the layers that are left" in caplog.text) == moved


def test_layers_that_differ_are_named():
    labels = ["gqa3+gated64", "gqa3+gated64", "none+gated64"]
    with pytest.raises(ExportError, match=r"layer 2 \(none\+gated64\): only whole layers") as error:
        export(child_of(labels), "out", engine="plain")
    assert "Search again in the space 'plain', or export for" in str(error.value)
    with pytest.raises(ExportError, match=r"layer 2 \(gqa1\+gated64\): most layers are gqa3"):
        export(child_of([*labels[:2], "gqa1+gated64"]), "out", engine="plain")
    with pytest.raises(ExportError, match=r"layer 1 \(gqa3w8\+gated64\): .*no place for a window"):
        export(child_of(["gqa3w8+gated64"] * 3), "out", engine="plain")


@pytest.mark.parametrize(
    ("label", "message"),
    [("none+gated256", "only whole layers"), ("gqa2+gated120", r"most layers are gqa2\+gated256")],
)
def test_what_makes_a_hybrid_no_smaller_model_of_its_family_is_named(label, message):
    child = family_child("lfm2", lambda own: own.replace(2, Block.from_label(label)))
    with pytest.raises(ExportError, match=rf"layer 2 \({re.escape(label)}\): {message}"):
        export(child, "out", engine="plain")


def test_rotary_embeddings_are_written_in_the_notation_that_older_readers_have(tmp_path):
    rope = {"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0}
    scaled = child_of(["gqa3+gated64"] * 3, rope_parameters=rope)
    values = json.loads(
        (export(scaled, tmp_path / "a", engine="plain").path / "config.json").read_text()
    )
    assert values["rope_theta"] == 5e4
    assert values["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    again = AutoConfig.from_pretrained(tmp_path / "a")
    assert again.rope_parameters == rope
    gemma = family_child("gemma3_text", lambda layout: layout)
    values = json.loads(
        (export(gemma, tmp_path / "b", engine="plain").path / "config.json").read_text()
    )
    by_type = gemma.config.rope_parameters
    assert values["rope_theta"] == by_type["full_attention"]["rope_theta"]
    assert values["rope_local_base_freq"] == by_type["sliding_attention"]["rope_theta"]
