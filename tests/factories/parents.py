"""A tiny random parent, its tokenizer and text, and what the stages of its search are given."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import puzzle
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, windows
from search_space import SearchSpace

DATA = DataConfig(window=16, fit_tokens=512, score_tokens=64, validation_tokens=64)
SCENARIO = puzzle.Scenario(batch=2, prompt_tokens=8, generated_tokens=8, weight_dtype="float32")
WORDS = [f"w{i}" for i in range(60)]


def tokenizer(template=None):
    vocabulary = {word: i for i, word in enumerate(["<eos>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", unk_token="<unk>", chat_template=template
    )


def text(seed=0, count=60):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 60, (count, 20), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in row) for row in rows]


def parent_model(**changes):
    torch.manual_seed(0)
    sizes = {
        "num_hidden_layers": 3,
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "intermediate_size": 64,
        "vocab_size": 62,
        "tie_word_embeddings": True,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def save_parent(directory):
    """Saves the parent and its tokenizer; returns the directory."""
    parent_model().save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def opened(saved, tmp_path):
    workspace = Workspace(tmp_path / "run")
    parent = open_parent(saved, workspace=workspace, dtype="float32")
    space = SearchSpace.preset(parent.shape, "default")
    return workspace, parent, space, windows(text(), parent.tokenizer, DATA)
