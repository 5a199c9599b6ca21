"""A child with layers that can be fused, and tokens for it."""

import torch
from transformers import LlamaConfig

from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import config_from_layout
from search_space import Block, Layout, ModelShape

SHAPE = ModelShape(
    layers=6, hidden=32, heads=4, head_dim=8, kv_heads=2, ffn_width=48, vocab=61, tied=True
)


def child_of(labels, *, mlp_bias=False, attention="sdpa"):
    config = LlamaConfig(
        num_hidden_layers=len(labels),
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        vocab_size=61,
        tie_word_embeddings=True,
        mlp_bias=mlp_bias,
    )
    shape = ModelShape(**{**SHAPE.to_dict(), "layers": len(labels), "mlp_bias": mlp_bias})
    layout = Layout(shape, tuple(map(Block.from_label, labels)))
    torch.manual_seed(0)
    model = PuzzleForCausalLM(config_from_layout(config, layout)).double().eval()
    model.set_attn_implementation(attention)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def tokens(rows=3, length=11):
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(1))
