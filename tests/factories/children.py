"""A child with random weights of any blocks, and a tokenizer."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import config_from_layout
from puzzle.models.families import LLAMA
from search_space import Block, Layout

CONFIG = LlamaConfig(
    num_hidden_layers=3,
    hidden_size=48,
    num_attention_heads=6,
    num_key_value_heads=3,
    intermediate_size=64,
    vocab_size=97,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    max_position_embeddings=128,
)
SHAPE = LLAMA.shape(CONFIG)
MIXED = ["none+gated9", "linear+linear", "gqa1+none"]


def layout_of(labels, shape=SHAPE):
    return Layout(shape, tuple(map(Block.from_label, labels)))


def child_of(labels, **changes):
    config = LlamaConfig(**{**CONFIG.to_dict(), **changes})
    torch.manual_seed(0)
    model = PuzzleForCausalLM(config_from_layout(config, layout_of(labels, LLAMA.shape(config))))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def byte_level_tokenizer(pre=None, size=97, **special):
    vocab = {chr(33 + i): i for i in range(size - 2)} | {"!!": size - 2}
    backend = Tokenizer(models.BPE(vocab, merges=[("!", "!")]))
    backend.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = "{{ messages }}"
    return tokenizer
