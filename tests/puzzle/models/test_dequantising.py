"""Quantised checkpoints whose full weights transformers computes are opened as those."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from puzzle.models.parent import open_parent
from puzzle.models.trainable import open_model
from puzzle.storage.workspace import Workspace
from tests.factories.families import family_config
from tests.factories.parents import parent_model, save_parent, tokenizer

BLOCK = 8


def to_blocks_of_fp8(directory):
    """Quantises a saved model as FP8 with a scale for each block; returns what its weights are."""
    tensors = load_file(directory / "model.safetensors")
    weights = dict(tensors)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, columns = tensors[name].shape
        blocks = tensors[name].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        scale = blocks.abs().amax((1, 3)) / 448
        small = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        weights[name] = (small.float() * scale[:, None, :, None]).reshape(rows, columns)
        tensors[name], tensors[f"{name}_scale_inv"] = small.reshape(rows, columns), scale
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
    }
    (directory / "config.json").write_text(json.dumps(config))
    return weights


@pytest.mark.parametrize("use", ["parent", "teacher"])
def test_fp8_weights_are_what_their_scales_say(use, tmp_path):
    weights = to_blocks_of_fp8(save_parent(tmp_path / "model"))
    workspace = Workspace(tmp_path / "run")
    if use == "parent":
        opened = open_parent(tmp_path / "model", workspace=workspace, dtype="float32")
    else:
        opened = open_model(tmp_path / "model", workspace, dtype="float32")
    assert opened.tokenizer is not None
    for name, weight in weights.items():
        torch.testing.assert_close(opened.tensors[name], weight, atol=0, rtol=0)
    original = parent_model().state_dict()
    assert not torch.equal(
        opened.tensors["model.layers.0.mlp.up_proj.weight"],
        original["model.layers.0.mlp.up_proj.weight"],
    )


def test_the_full_weights_are_computed_once_and_again_when_the_file_changes(tmp_path):
    place, workspace = save_parent(tmp_path / "model"), Workspace(tmp_path / "run")
    to_blocks_of_fp8(place)
    first = open_parent(place, workspace=workspace, dtype="float32")
    second = open_parent(place, workspace=workspace, dtype="float32")
    assert first.tensors.directory == second.tensors.directory
    assert first.identity == second.identity
    save_parent(place)
    tensors = load_file(place / "model.safetensors")
    tensors["model.norm.weight"] *= 2
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    to_blocks_of_fp8(place)
    assert open_parent(place, workspace=workspace, dtype="float32").identity != first.identity


# The sixteen values of E2M1, by their four bits.
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
FP4 = torch.cat([FP4, -FP4])


def to_mxfp4(directory):
    """Gives a saved gpt-oss random experts in MXFP4; returns what their maps are."""
    tensors = load_file(directory / "model.safetensors")
    random, maps = torch.Generator().manual_seed(0), {}
    for name in [name for name in tensors if name.endswith(("up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        size = (experts, outputs, inputs // 32)
        bits = torch.randint(0, 16, (*size, 32), generator=random)
        exponents = torch.randint(120, 126, size, generator=random)
        values = FP4[bits] * 2.0 ** (exponents[..., None] - 127)
        maps[name] = values.flatten(2).transpose(1, 2)
        low, high = bits[..., ::2], bits[..., 1::2]
        tensors[f"{name}_blocks"] = (low | high << 4).to(torch.uint8)
        tensors[f"{name}_scales"] = exponents.to(torch.uint8)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    (directory / "config.json").write_text(json.dumps(config))
    return maps


def test_experts_in_mxfp4_are_what_their_bits_say(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2}
    config = family_config("gpt_oss", **sizes, layer_types=None)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    maps = to_mxfp4(tmp_path / "model")
    parent = open_parent(tmp_path / "model", workspace=Workspace(tmp_path / "run"), dtype="float32")
    assert len(maps) == 4
    for name, tensor in maps.items():
        torch.testing.assert_close(parent.tensors[name], tensor, atol=0, rtol=0)
