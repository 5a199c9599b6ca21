"""Claims about checkpoints in the format of Nemotron-NAS."""

import json
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from puzzle.serving.exporting import export
from search_space import Layout
from search_space.formats import from_per_layer_config, layout_from_json
from tests.factories.children import MIXED, child_of, layout_of


@pytest.mark.parametrize("engine", ["vllm", "mlx", "tensorrt-llm"])
def test_the_config_says_the_layout_in_both_notations(engine, tmp_path):
    done = export(child_of(MIXED), tmp_path / "out", engine=engine)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert layout_from_json(config).blocks == done.layout.blocks
    shape = replace(done.layout.shape, mlp_bias=config["mlp_bias"])
    assert from_per_layer_config(shape, config["per_layer_config"]).blocks == done.layout.blocks
    assert Layout.load(tmp_path / "out" / "layout.json") == layout_of(MIXED)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert 0 in done.rewritten


def test_engines_other_than_vllm_get_widths_as_multipliers_and_their_own_names(tmp_path):
    export(child_of(MIXED), tmp_path / "mlx", engine="mlx")
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    assert config["block_configs"][0]["ffn"]["ffn_mult"] == 3 * 256 / (2 * 48)
    names = load_file(tmp_path / "mlx" / "model.safetensors")
    assert "model.layers.1.self_attn.linear.weight" in names
    assert "model.layers.1.mlp.linear.weight" in names
    assert names["model.layers.0.mlp.down_proj.weight"].shape == (48, 256)
    assert not any("layers.2.mlp" in name or "layers.2.post" in name for name in names)
    assert "lm_head.weight" not in names
    export(child_of(MIXED), tmp_path / "trt", engine="tensorrt-llm")
    names = load_file(tmp_path / "trt" / "model.safetensors")
    assert "model.layers.1.self_attn.linear_attn.weight" in names
    assert "model.layers.1.mlp.linear_mlp.weight" in names


READ = (
    "import sys, copy, pickle; {register}"
    "from transformers import AutoConfig as A;"
    "c = A.from_pretrained(sys.argv[1], trust_remote_code={trust});"
    "c = pickle.loads(pickle.dumps(copy.deepcopy(c))); b = c.block_configs;"
    "print(type(c).__name__, b[0].attention.no_op, b[0].attention.n_heads_in_group,"
    " hasattr(b[0].ffn, 'ffn_mult'), b[0].ffn.intermediate_size, c.num_key_value_heads);"
    "assert 'puzzle' not in sys.modules"
)


@pytest.mark.parametrize("plugin", [True, False])
def test_the_config_is_read_with_our_plugin_or_with_its_own_file(plugin, tmp_path, other_process):
    export(child_of(MIXED), tmp_path / "out", engine="vllm")
    register = "import puzzle_vllm; puzzle_vllm.register();" if plugin else ""
    code = READ.format(register=register, trust=not plugin)
    done = other_process.run(code, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["DeciLMConfig", "False", "6", "False", "9", "3"]
