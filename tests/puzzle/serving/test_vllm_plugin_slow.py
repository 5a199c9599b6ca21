"""Claims about children of each family in unmodified vLLM, as they were saved, against torch."""

import copy
import json
import logging
import os
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from puzzle import serve_check
from puzzle.models.families import family_of
from search_space import Block, Layout
from tests.factories import vllm_answers
from tests.factories.families import family_child

logger = logging.getLogger(__name__)
# vLLM lives in an environment of its own; benchmarks/serve_vllm.sh makes one and sets this.
VLLM_PYTHON = os.environ.get("PUZZLE_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(VLLM_PYTHON is None, reason="benchmarks/serve_vllm.sh runs these"),
]
# Windows are shorter than the text that is compared; two processes can share every layer.
LABELS = [
    "none+gated64",
    "gqa1h2+none",
    "linear+gated96",
    "gqa1w20+linear",
    "none+none",
    "gqa1h2w24+gated34",
    "gqa2+gated128",
    "gqa1w40+gated64",
]
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "num_hidden_layers": len(LABELS),
    "eos_token_id": None,  # so that greedy text is as long as wanted
}
FAMILIES = {
    "llama": {},
    "llama-biased": {},
    "mistral": {},
    "mistral-windowed": {},
    "qwen2": {},
    "qwen2-windowed": {},
    "qwen3": {"tie_word_embeddings": True},
    "smollm3": {},
    "phi3": {},
    "granite": {"attention_multiplier": 0.3},
    "gemma2": {"tie_word_embeddings": True},  # as all are; vLLM's has no head of its own
    "gemma3_text": {},
    "olmo2": {},
    "olmo3": {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "attention_factor": 1.1,
            },
        }
    },
}
# Fewer experts, narrower ones, more for each token, and every other kind of half.
MIXTURES = [
    "gqa2+moe8x128k2",
    "none+moe4x128k2",
    "gqa1h2+none",
    "linear+moe8x64k3",
    "gqa1w20+linear",
    "none+none",
    "gqa1h2w24+moe4x64k1",
    "gqa2+moe8x128k2",
]
# Of others than dense families, every kind of half in layers of every kind.
KINDS = {
    "qwen3_moe": (
        {"moe_intermediate_size": 128},
        [*MIXTURES[:-2], "gqa1h2w24+moe4x24k1", "gqa1h2+gated96"],
    ),
    "mixtral": ({"intermediate_size": 128}, MIXTURES),
    "gpt_oss": (
        {
            "intermediate_size": 128,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
            },
        },
        MIXTURES,
    ),
    "lfm2": (
        {"layer_types": ["conv", "conv", "full_attention"] * 3, "tie_word_embeddings": True},
        [
            "conv+gated64",
            "none+gated128",
            "gqa1h2+gated128",
            "conv+none",
            "linear+gated96",
            "gqa1w20+linear",
            "none+none",
            "conv+gated96",
            "gqa2+none",
        ],
    ),
    "nemotron_h": (
        {
            "layers_block_type": ["mlp", "linear_attention", "full_attention"] * 3,
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
        },
        [
            "none+gated64",
            "mamba2+none",
            "gqa1h2+none",
            "none+linear",
            "none+none",
            "gqa1w20+none",
            "none+gated96",
            "mamba2+none",
            "linear+none",
        ],
    ),
}


def mixed(layout, labels=LABELS):
    return Layout(layout.shape, tuple(map(Block.from_label, labels)))


def mixed_child(family):
    changes, labels = KINDS.get(family) or (FAMILIES[family], LABELS)
    sizes = {**SIZES, "num_hidden_layers": len(labels), **changes}
    return family_child(family, lambda layout: mixed(layout, labels), **sizes)


@pytest.mark.parametrize("family", [*FAMILIES, *KINDS])
def test_vllm_serves_the_child_of_each_family_as_it_was_saved(family, tmp_path):
    model = mixed_child(family)
    model.save_pretrained(tmp_path)
    check = serve_check(tmp_path, engine="vllm", python=VLLM_PYTHON, exported=False, speed=False)
    # Shown by pytest --log-cli-level=info: the figure of the docs.
    logger.info("%s: %s", family, check)
    assert check.positions >= 50
    assert check.agreement >= 0.98, str(check)
    assert check.greedy_equal, str(check)
    assert check.max_difference < 5e-3, str(check)


TOKENS = 8
# A part of a prompt at a time; blocks of the cache that the second answer takes from the first;
# compiled by inductor; two processes of two kinds. Between stages in a pipeline, vLLM's CPU build
# makes the buffers only where a model is compiled, so here it is, by the quickest backend.
SETTINGS = {
    "chunked prefill": {"enable_chunked_prefill": True, "max_num_batched_tokens": 32},
    "prefix caching": {"enable_prefix_caching": True, "block_size": 32},
    "torch.compile": {"enforce_eager": False},
    "tensor parallel": {"tensor_parallel_size": 2},
    "pipeline parallel": {
        "pipeline_parallel_size": 2,
        "enforce_eager": False,
        "compilation_config": {"mode": 1, "backend": "eager"},
    },
    "LoRA": {"enable_lora": True, "max_lora_rank": 8},
}
TARGETS = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")


def with_adapter(model, directory):
    """Writes a random adapter for a model, as PEFT does; returns the model with it added."""
    torch.manual_seed(1)
    merged, tensors = copy.deepcopy(model), {}
    for name, weight in merged.named_parameters():
        path, _, kind = name.rpartition(".")
        if kind == "weight" and path.rpartition(".")[2] in TARGETS:
            a, b = torch.randn(8, weight.shape[1]) * 0.1, torch.randn(weight.shape[0], 8) * 0.1
            tensors[f"base_model.model.{path}.lora_A.weight"] = a
            tensors[f"base_model.model.{path}.lora_B.weight"] = b
            weight.data += b @ a
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": list(TARGETS)}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return merged


@torch.no_grad()
def torch_answer(model, prompt):
    """Returns the likeliest tokens after a prompt, one by one, and their log-probabilities."""
    ids, logs = list(prompt), []
    for _ in range(TOKENS):
        row = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)
        ids.append(int(row.argmax()))
        logs.append(float(row.max()))
    return ids[len(prompt) :], logs


def own_caches(config, processes):
    """Returns, by layer, the KV heads that one process holds, and the window."""
    family, caches = family_of(config), {}
    for layer in range(config.num_hidden_layers):
        attention = config.block(layer).attention
        if attention.kind == "gqa":
            window = attention.window or family.window(config, layer)
            caches[layer] = max(1, attention.kv_heads // processes), window
        elif attention.kind not in ("none", "linear"):
            caches[layer] = None, None
    return caches


# Hybrids keep states of their mixers from one part of a prompt to the next. The norms of OLMo's
# queries and keys, and experts, are shared out in ways of their own.
TRIED = [("llama", setting) for setting in SETTINGS]
TRIED += [(family, "chunked prefill") for family in KINDS]
TRIED += [(family, "tensor parallel") for family in ("olmo3", "mixtral", "gpt_oss")]
TRIED += [("olmo3", "torch.compile"), *(("qwen3_moe", name) for name in list(SETTINGS)[1:5])]
HYBRIDS = "lfm2", "nemotron_h"
TRIED += [(family, setting) for family in HYBRIDS for setting in list(SETTINGS)[2:5]]


@pytest.mark.parametrize(("family", "setting"), TRIED)
def test_a_setting_of_vllm_changes_no_answer(family, setting, tmp_path):
    model = mixed_child(family)
    model.save_pretrained(tmp_path / "child")
    prompts = torch.randint(96, (2, 170), generator=torch.Generator().manual_seed(0))
    prompts[1, :150] = prompts[0, :150]
    lora = setting == "LoRA"
    expected = with_adapter(model, tmp_path / "adapter") if lora else model
    request = {
        "model": str(tmp_path / "child"),
        "adapter": str(tmp_path / "adapter") if lora else None,
        "prompts": prompts.tolist(),
        "tokens": TOKENS,
        "settings": SETTINGS[setting],
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    files = [str(tmp_path / "request.json"), str(tmp_path / "answer.json")]
    command = [VLLM_PYTHON, "-P", vllm_answers.__file__, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    answer = json.loads((tmp_path / "answer.json").read_text())
    answers = answer["answers"]
    assert len(answers) == 4
    caches = {int(name.split(".")[2]): tuple(cache) for name, cache in answer["caches"].items()}
    assert caches == own_caches(model.config, SETTINGS[setting].get("tensor_parallel_size", 1))
    for prompt, (tokens, logs, _) in zip([*request["prompts"]] * 2, answers, strict=True):
        own_tokens, own_logs = torch_answer(expected, prompt)
        assert tokens == own_tokens
        torch.testing.assert_close(torch.tensor(logs), torch.tensor(own_logs), rtol=0, atol=2e-3)
    if setting == "prefix caching":
        assert min(cached for *_, cached in answers[2:]) >= 128
