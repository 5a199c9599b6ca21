"""A Llama without biases rewritten as a model of another family that computes the same.

What the other family adds is put at values that cancel: biases of zero, multipliers that the
weights are divided by, rotary positions in all layers, maps side by side in one. The multipliers
are powers of two, so that nothing is rounded.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

EMBEDDING, RESIDUAL, SCORES = 4.0, 0.5, 0.5
# The families, with what their configs say beside the sizes.
FAMILIES = {
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "smollm3": {},
    "granite": {
        "embedding_multiplier": EMBEDDING,
        "logits_scaling": 1.0 / EMBEDDING,
        "residual_multiplier": RESIDUAL,
    },
    "phi3": {},
}
# Those whose floats are added up in the Llama's order.
BITWISE = ("mistral", "qwen2", "smollm3", "granite")
SIZES = (
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps"),
    *("tie_word_embeddings", "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id"),
)


def equivalent(model, family):
    """A model of another family with a Llama's weights, rewritten.

    Args:
        model: The Llama, without biases, its embedding tied.
        family: One of `FAMILIES`.
    """
    sizes = {name: getattr(model.config, name) for name in SIZES}
    given = {**sizes, **FAMILIES[family]}
    if family == "smollm3":
        given["no_rope_layers"] = [1] * sizes["num_hidden_layers"]
    if family == "granite":
        given["attention_multiplier"] = SCORES * model.config.head_dim**-0.5
    config = AutoConfig.for_model(family, **given)
    other = AutoModelForCausalLM.from_config(config, dtype=model.dtype).eval()
    other.load_state_dict(_rewritten(dict(model.state_dict()), family), strict=True)
    return other


def _rewritten(tensors, family):
    """The tensors of a Llama as the family stores them."""
    divisors = {"q_proj": SCORES, "o_proj": RESIDUAL, "down_proj": RESIDUAL}
    divisors |= {"embed_tokens": EMBEDDING, "lm_head": EMBEDDING}
    fused = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
    if family == "granite":
        parts = {name: name.split(".")[-2] for name in tensors}
        return {name: t / divisors.get(parts[name], 1.0) for name, t in tensors.items()}
    if family == "qwen2":
        biases = {
            name.replace("weight", "bias"): torch.zeros(tensor.shape[0])
            for name, tensor in tensors.items()
            if name.split(".")[-2] in fused["qkv_proj"]
        }
        return {**tensors, **biases}
    if family == "phi3":
        for whole, parts in fused.items():
            for first in [name for name in tensors if f".{parts[0]}." in name]:
                rows = [tensors.pop(first.replace(parts[0], part)) for part in parts]
                tensors[first.replace(parts[0], whole)] = torch.cat(rows)
    return tensors
