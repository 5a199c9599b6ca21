"""Tiny children of two families and their parents, with a tokenizer of single characters."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from puzzle.models.child_config import config_from_layout
from puzzle.models.families import family_of
from tests.factories.children import layout_of

SPECIAL = ["<pad>", "<eos>", "<unk>", "<|user|>", "<|assistant|>", "<|system|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SIZES = {
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}
FAMILIES = ("llama", "qwen3")
LAYOUTS = {
    "mixed": ["gqa1+gated32", "none+gated9", "gqa3+linear"],
    "removed": ["linear+none", "gqa3+none", "none+none"],
    "without": ["none+gated32", "linear+linear", "none+none"],
}


def character_tokenizer(template=TEMPLATE):
    """A tokenizer whose every printable ASCII character, and line break, is a token."""
    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *characters])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=template,
    )


def random_model(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def save_pair(folder, family, labels):
    """Saves a parent and a child of it, with random weights of its own, and their tokenizer."""
    tokenizer = character_tokenizer()
    config = AutoConfig.for_model(family, **SIZES, vocab_size=len(tokenizer))
    layout = layout_of(labels, family_of(config).shape(config))
    for name, kind in (("parent", config), ("child", config_from_layout(config, layout))):
        random_model(kind).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
