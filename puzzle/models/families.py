"""The families that are known, by the `model_type` of their configs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from puzzle.errors import ParentError
from puzzle.models.family import Family
from puzzle.models.slots import GATE, KEY, QUERY, UP, VALUE, Experts, Mixer, Slot

LLAMA = Family(model_types=("llama",), package="llama", classes="Llama")
GEMMA2 = Family(
    model_types=("gemma2",),
    package="gemma2",
    classes="Gemma2",
    attention=replace(LLAMA.attention, after="post_attention_layernorm"),
    ffn=replace(LLAMA.ffn, before="pre_feedforward_layernorm", after="post_feedforward_layernorm"),
    activations=("gelu_pytorch_tanh",),
    root_embedding=True,
    logits_cap="final_logit_softcapping",
    attention_implementation="eager",  # sdpa has no cap of the attention's scores
)
OLMO2 = Family(
    model_types=("olmo2",),
    package="olmo2",
    classes="Olmo2",
    attention=replace(GEMMA2.attention, before=None),
    ffn=replace(GEMMA2.ffn, before=None),
)
LFM2_NORM = "operator_norm"
LFM2 = Family(
    model_types=("lfm2",),
    package="lfm2",
    classes="Lfm2",
    attention=replace(LLAMA.attention, out="out_proj", before=LFM2_NORM),
    ffn=Slot(
        module="feed_forward",
        maps=(("w1", (GATE,)), ("w3", (UP,))),
        out="w2",
        before="ffn_norm",
    ),
    mixers=(
        Mixer(
            kind="conv",
            layer_type="conv",
            slot=Slot(module="conv", maps=(), out="out_proj", before=LFM2_NORM),
            state=lambda config: config.hidden_size * config.conv_L_cache,
        ),
    ),
    norm="model.embedding_norm.weight",
    norm_eps="norm_eps",
    settled=(("block_auto_adjust_ff_dim", False),),
)


def _deltanet_state(config: Any) -> int:
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    convolved = (2 * keys + values) * config.linear_conv_kernel_dim
    return int(convolved + values * config.linear_key_head_dim)


def _mamba2_state(config: Any) -> int:
    channels = config.mamba_num_heads * config.mamba_head_dim
    convolved = (channels + 2 * config.n_groups * config.ssm_state_size) * config.conv_kernel
    return int(convolved + channels * config.ssm_state_size)


QWEN3_5 = Family(
    model_types=("qwen3_5_text",),
    package="qwen3_5",
    classes="Qwen3_5",
    text_model="Qwen3_5TextModel",
    mixers=(
        Mixer(
            kind="deltanet",
            layer_type="linear_attention",
            slot=Slot(module="linear_attn", maps=(), out="out_proj", before="input_layernorm"),
            state=_deltanet_state,
            cache="cache_params",
        ),
    ),
    query_maps=2,
)
QWEN_EXPERTS = Experts(
    count="num_experts",
    width="moe_intermediate_size",
    sparse=(("mlp_only_layers", ()), ("decoder_sparse_step", 1)),
    dense=(("num_experts", 0),),
    is_sparse=lambda config, index: (
        index not in (config.mlp_only_layers or ())
        and config.num_experts > 0
        and (index + 1) % config.decoder_sparse_step == 0
    ),
    files=("mlp", ("gate_proj", "up_proj"), ("down_proj",)),
)
QWEN3_NEXT = replace(
    QWEN3_5,
    model_types=("qwen3_next",),
    package="qwen3_next",
    classes="Qwen3Next",
    text_model=None,
    experts=QWEN_EXPERTS,
)
# All halves are one module of a layer of their own.
NEMOTRON_H = Family(
    model_types=("nemotron_h",),
    package="nemotron_h",
    classes="NemotronH",
    layer_class="Block",
    attention=replace(LLAMA.attention, module="mixer", before="norm"),
    ffn=Slot(module="mixer", maps=(("up_proj", (UP,)),), out="down_proj", before="norm"),
    mixers=(
        Mixer(
            kind="mamba2",
            layer_type="linear_attention",
            slot=Slot(module="mixer", maps=(), out="out_proj", before="norm"),
            state=_mamba2_state,
            cache="cache_params",
        ),
    ),
    ffn_layers="mlp",
    activations=("relu2",),
    ropes=False,
    embedding="model.embeddings.weight",
    norm="model.norm_f.weight",
    norm_eps="layer_norm_epsilon",
)
# One description per family; what is not said is as in Llama.
KNOWN = (
    LLAMA,
    Family(model_types=("mistral",), package="mistral", classes="Mistral"),
    Family(model_types=("qwen2",), package="qwen2", classes="Qwen2"),
    Family(model_types=("qwen3",), package="qwen3", classes="Qwen3"),
    Family(model_types=("smollm3",), package="smollm3", classes="SmolLM3"),
    Family(
        model_types=("phi3",),
        package="phi3",
        classes="Phi3",
        attention=replace(LLAMA.attention, maps=(("qkv_proj", (QUERY, KEY, VALUE)),)),
        ffn=replace(LLAMA.ffn, maps=(("gate_up_proj", (GATE, UP)),)),
    ),
    Family(
        model_types=("granite",),
        package="granite",
        classes="Granite",
        residual_multiplier="residual_multiplier",
        embedding_multiplier="embedding_multiplier",
        logits_divisor="logits_scaling",
    ),
    GEMMA2,
    replace(
        GEMMA2,
        model_types=("gemma3_text",),
        package="gemma3",
        classes="Gemma3",
        text_model="Gemma3TextModel",
        ropes_by_type=True,
        attention_implementation="sdpa",
    ),
    OLMO2,
    replace(OLMO2, model_types=("olmo3",), package="olmo3", classes="Olmo3", ropes_by_type=True),
    LFM2,
    QWEN3_5,
    QWEN3_NEXT,
    NEMOTRON_H,
    Family(
        model_types=("qwen3_moe",),
        package="qwen3_moe",
        classes="Qwen3Moe",
        experts=QWEN_EXPERTS,
    ),
    Family(
        model_types=("mixtral",),
        package="mixtral",
        classes="Mixtral",
        experts=Experts(
            count="num_local_experts",
            width="intermediate_size",
            files=("block_sparse_moe", ("w1", "w3"), ("w2",)),
        ),
    ),
    Family(
        model_types=("gpt_oss",),
        package="gpt_oss",
        classes="GptOss",
        experts=Experts(
            count="num_local_experts",
            width="intermediate_size",
            router="router",
            transposed=True,
            interleaved=True,
        ),
        attention_implementation="eager",  # sdpa drops the sinks, and says nothing
    ),
)
FAMILIES: dict[str, Family] = {name: family for family in KNOWN for name in family.model_types}


def family_of(config: Any) -> Family:
    """Returns the family of a config.

    Raises:
        ParentError: The family is unknown; the message lists those known.
    """
    # The config of a child says whose child it is.
    model_type = getattr(config, "parent_type", None) or getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        raise ParentError(
            f"model family {model_type!r} is not supported{_obstacle(config)}; known families: "
            f"{sorted(FAMILIES)}"
        )
    return FAMILIES[model_type]


def _obstacle(config: Any) -> str:
    """Returns what in a config is in the way of a search, after a colon."""
    inner = getattr(config, "text_config", None) or config
    experts = ("num_experts", "num_local_experts", "n_routed_experts")
    kinds = getattr(inner, "layer_types", None) or getattr(inner, "layers_block_type", None) or ()
    mixers = sorted(set(kinds) - {"full_attention", "sliding_attention", "chunked_attention"})
    if getattr(config, "is_encoder_decoder", False):
        return ": it is an encoder-decoder; give a model that has a decoder only"
    if getattr(config, "is_decoder", None) is False:
        return ": it is an encoder, which generates no text; give a causal language model"
    if not hasattr(inner, "vocab_size"):
        return ": it has no vocabulary, so that it writes no text; give a causal language model"
    if hasattr(config, "logit_scale_init_value"):
        return ": it compares pictures with texts, and writes none; give a causal language model"
    if getattr(inner, "kv_lora_rank", None):
        return ": its attention keeps latent vectors (MLA), which is not searched yet"
    if any(getattr(inner, name, None) for name in experts):
        return ": its FFNs are mixtures of experts of a kind that is not searched yet"
    if mixers:
        return f": its layers are of the types {mixers}, which are not searched in its family yet"
    if inner is not config:
        return f": it holds a decoder of the family {inner.model_type!r}, which is not known either"
    return ""
