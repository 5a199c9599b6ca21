"""Random models of the families, with nothing that a family adds at its neutral value."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from puzzle.models.child import causal_lm_class
from puzzle.models.child_config import config_from_layout
from puzzle.models.families import family_of
from puzzle.testing import family_checks
from search_space import Layout

SIZES = {**family_checks.SIZES, "tie_word_embeddings": False}
WINDOW = 12
# What a family's config says beside the sizes; a second entry of a family is a variant of it.
CONFIGS = {
    "llama": {},
    "llama-biased": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "mistral": {"head_dim": 16, "sliding_window": None},
    "mistral-windowed": {"sliding_window": WINDOW},
    "qwen2": {},
    "qwen2-windowed": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 3,
    },
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "smollm3": {"no_rope_layer_interval": 4},
    "phi3": {},
    "phi3-partial-windowed": {
        "sliding_window": WINDOW,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
        },
    },
    "granite": {
        "residual_multiplier": 0.3,
        "embedding_multiplier": 7.0,
        "attention_multiplier": 0.2,
        "logits_scaling": 3.0,
    },
    "gemma2": {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 20},
    "gemma3_text": {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 20},
    "olmo2": {},
    "olmo3": {"sliding_window": WINDOW},
    "qwen3_moe": {
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "mlp_only_layers": [1],
        "norm_topk_prob": True,
        "head_dim": 16,
    },
    "mixtral": {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 24,
        "sliding_window": None,
    },
    "gpt_oss": {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 24,
        "head_dim": 16,
        "sliding_window": WINDOW,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"] * 2, "intermediate_size": 120},
    "qwen3_5_text": {
        "head_dim": 16,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 12,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 1, 1],
        },
    },
    "qwen3_next": {
        "head_dim": 16,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 12,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 20,
        "mlp_only_layers": [1],
    },
    "nemotron_h": {
        "head_dim": 12,
        "layers_block_type": ["mlp", "linear_attention", "full_attention"] * 2,
        "mamba_num_heads": 4,
        "mamba_head_dim": 12,
        "n_groups": 2,
        "ssm_state_size": 8,
        # transformers bounds time steps from below in a prompt, and not in a step with a cache.
        "time_step_min": 1e-12,
        "chunk_size": 16,
    },
}

# Of models that differ little, or take long, the default suite tries only some.
OFTEN = ("llama", "qwen3", "phi3", "gemma3_text", "olmo3", "qwen3_moe", "gpt_oss", "lfm2")
EVERY = [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]


def family_config(name, **changes):
    return AutoConfig.for_model(name.partition("-")[0], **{**SIZES, **CONFIGS[name], **changes})


def family_model(name):
    """A model with biases that are not 0 and norms that are not 1, in float32."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family_config(name)).eval()
    return shaken(model)


def shaken(model):
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
        else:
            parameter.data += torch.randn_like(parameter) * 0.2
    return model


def family_child(name, layout_of, **changes):
    """A random child of a random parent, with norms that are not 1 and biases that are not 0."""
    config = family_config(name, **changes)
    layout = layout_of(Layout.parent(family_of(config).shape(config)))
    torch.manual_seed(0)
    model = causal_lm_class(family_of(config))(config_from_layout(config, layout)).eval()
    return shaken(model)
