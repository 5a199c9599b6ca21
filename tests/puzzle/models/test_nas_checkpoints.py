"""DeciLM and Nemotron checkpoints are opened without their code, and searched again."""

import json

import pytest
import torch

import puzzle
from puzzle.errors import ParentError
from puzzle.models.child_config import shape_of
from puzzle.models.nas_checkpoints import nemotron_nas_config
from puzzle.models.parent import open_parent
from puzzle.models.pretrained import load_config, load_model
from puzzle.serving.exporting import export
from puzzle.storage.workspace import Workspace
from search_space import Layout, published_layout, published_names
from search_space.formats import to_block_configs
from tests.factories.children import MIXED, child_of
from tests.factories.parents import SCENARIO, text, tokenizer

TOKENS = torch.arange(3, 40).reshape(1, -1)


@pytest.mark.parametrize("engine", ["vllm", "mlx", "tensorrt-llm"])
@torch.no_grad()
def test_an_exported_child_is_a_parent_that_computes_the_same(engine, tmp_path):
    child = child_of(MIXED)
    export(child, tmp_path / "out", engine=engine)
    tokenizer().save_pretrained(tmp_path / "out")
    parent = open_parent(tmp_path / "out", workspace=Workspace(tmp_path / "run"), dtype="float32")
    assert parent.tokenizer.get_vocab() == tokenizer().get_vocab()
    x_BLD = parent.embed(TOKENS)
    for index in range(parent.shape.layers):
        x_BLD = parent.run(parent.layer(index), x_BLD)
    want = child(TOKENS).logits
    torch.testing.assert_close(parent.head()(x_BLD), want, atol=1e-4, rtol=1e-4)
    whole = load_model(tmp_path / "out")
    torch.testing.assert_close(whole(TOKENS).logits, want, atol=1e-4, rtol=1e-4)
    built = sum(parameter.numel() for parameter in whole.parameters())
    assert Layout.parent(parent.shape).parameters() == built


def test_it_is_searched_again_from_its_own_blocks(tmp_path):
    export(child_of(MIXED), tmp_path / "out", engine="tensorrt-llm")
    result = puzzle.search(
        tmp_path / "out",
        text(),
        tokenizer=tokenizer(),
        constraints=["parameters <= 0.9x"],
        scenario=SCENARIO,
        data=puzzle.DataConfig(window=16, fit_tokens=512, score_tokens=64, validation_tokens=64),
        effort="fast",
        hardware="roofline:h100-sxm",
        precision="float32",
        out=tmp_path / "run",
    )
    own = load_config(tmp_path / "out").blocks
    assert [block.label for block in result.layout.shape.parent_blocks] == own
    # The exporter had filled the FFN up with channels of zeros.
    assert result.layout.parameters() <= 0.9 * result.predicted.parent.parameters
    assert abs(result.measured.child.kl) < 1e-6
    result.save(tmp_path / "child")
    again = load_model(tmp_path / "child")
    torch.testing.assert_close(again(TOKENS).logits, result.child()(TOKENS).logits)


def published_config(name):
    """A config.json as the published one is, from its layout."""
    layout = Layout.published(name)
    shape = layout.shape
    config = {
        "model_type": "nemotron-nas",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": None,
        "intermediate_size": None,
        "hidden_act": "silu",
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "max_position_embeddings": 131072,
        "block_configs": to_block_configs(layout, widths="ffn_mult"),
    }
    if not published_layout(name).ffn_mult:
        config |= {"model_type": "deci", "intermediate_size": shape.ffn_width}
        config["num_key_value_heads_per_layer"] = [b.attention.kv_heads for b in layout.blocks]
        config |= {"rope_theta": 10000, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
        del config["block_configs"]
    return config


@pytest.mark.parametrize("name", published_names())
def test_published_configs_give_the_published_sizes(name, tmp_path):
    config = nemotron_nas_config(published_config(name), tmp_path)
    found = published_layout(name)
    assert config.rope_parameters["rope_type"] == ("llama3" if found.ffn_mult else "dynamic")
    own = Layout.parent(shape_of(config))
    assert (own.parameters(), own.kv_bytes_per_token(1)) == (
        found.published_parameters,
        found.published_kv_elements,
    )
    assert own.blocks == found.layout.blocks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_sink_tokens": 4}, "a layout has no {'num_sink_tokens': 4}"),
        ({"window_length": 64}, "a layout has no {'window_length': 64}"),
        ({"n_heads_in_group": 5}, "n_heads_in_group=5; allowed"),
    ],
)
def test_what_no_child_of_a_llama_has_is_refused_by_name(change, message, tmp_path):
    export(child_of(MIXED), tmp_path / "out", engine="vllm")
    file = tmp_path / "out" / "config.json"
    config = json.loads(file.read_text())
    config["block_configs"][0]["attention"] |= change
    record = tmp_path / "out" / "puzzle_files.json"
    record.unlink(missing_ok=True)
    file.write_text(json.dumps(config))
    with pytest.raises(ParentError, match="cannot be read") as refusal:
        open_parent(tmp_path / "out", workspace=Workspace(tmp_path / "run"))
    assert message in str(refusal.value)
