"""A tiny Llama or Gemma 3 as a GGUF file, written as llama.cpp's converter writes one."""

import gguf
import torch

from tests.factories.children import byte_level_tokenizer

HALVES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Of a Gemma 3, beside the maps; its norms are stored as what they multiply by.
NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}


def _interleaved(weight, heads):
    return weight.view(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def gguf_tensors(model):
    """The tensors of a Llama or a Gemma 3 by their names in a GGUF file."""
    state, config = model.state_dict(), model.config
    if config.model_type == "gemma3_text":
        return _gemma3_tensors(state, config.num_hidden_layers)
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
    }
    if not config.tie_word_embeddings:
        tensors["output.weight"] = state["lm_head.weight"]
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for short, long in HALVES.items():
            weight = state[f"model.layers.{layer}.{long}.weight"]
            if short in heads:
                weight = _interleaved(weight, heads[short])
            tensors[f"blk.{layer}.{short}.weight"] = weight
    return tensors


def _gemma3_tensors(state, layers):
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"] + 1,
    }
    for layer in range(layers):
        names = {short: (long, 0) for short, long in HALVES.items() if "norm" not in short}
        names |= {short: (long, 1) for short, long in NORMS.items()}
        for short, (long, added) in names.items():
            weight = state[f"model.layers.{layer}.{long}.weight"] + added
            tensors[f"blk.{layer}.{short}.weight"] = weight
    return tensors


def write_gguf_parent(path, model, *, tensors=None, fields=(), kind=None):
    """Writes a Llama, or a Gemma 3, and a tokenizer to a GGUF file.

    Args:
        path: The file.
        model: The model.
        tensors: Its tensors by their names there, if not the usual ones.
        fields: More fields: (method of the writer, arguments...).
        kind: Format of the maps, such as gguf.GGMLQuantizationType.Q4_1; float32 by default.
    """
    config, gemma = model.config, model.config.model_type == "gemma3_text"
    rope, writer = config.rope_parameters, gguf.GGUFWriter(path, "gemma3" if gemma else "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if gemma:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
    else:
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    tokenizer = byte_level_tokenizer(eos_token="<end>")
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    tokens = [names.get(i, f"unused{i}") for i in range(config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    for method, *arguments in fields:
        getattr(writer, method)(*arguments)
    for name, tensor in (tensors or gguf_tensors(model)).items():
        values = tensor.detach().float().numpy().copy()
        own = kind if values.ndim == 2 else None
        writer.add_tensor(name, gguf.quantize(values, own) if own else values, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rope_factors(theta, dimensions, scaled):
    """What the plain frequencies are divided by to have the scaled ones."""
    exponents = torch.arange(0, dimensions, 2, dtype=torch.float32) / dimensions
    return theta**-exponents / scaled
