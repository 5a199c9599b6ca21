"""A tiny parent, a child of it, tokens and settings of distillations."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from puzzle.distillation.distill_config import DistillConfig
from puzzle.models.child import PuzzleForCausalLM, causal_lm_class
from puzzle.models.child_config import config_from_layout, shape_of
from puzzle.models.families import LLAMA, family_of
from search_space import Block, Layout

OWN = "gqa3+gated64"
LABELS = [OWN, "none+none", "linear+gated32", "gqa1+linear"]
CONFIG = LlamaConfig(
    num_hidden_layers=4,
    hidden_size=48,
    num_attention_heads=6,
    num_key_value_heads=3,
    intermediate_size=64,
    vocab_size=62,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=0,
)


def randomise(model, seed, std=0.2):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()


def parent_model(**changes):
    return randomise(LlamaForCausalLM(LlamaConfig(**{**CONFIG.to_dict(), **changes})), 0)


def child_model(labels=LABELS, **changes):
    config = LlamaConfig(**{**CONFIG.to_dict(), **changes})
    layout = Layout(LLAMA.shape(config), tuple(map(Block.from_label, labels)))
    child = randomise(PuzzleForCausalLM(config_from_layout(config, layout)), 1)
    # Where parent and child agree in shape the child starts from the parent, as in a search.
    own = child.state_dict()
    shared = {
        name: tensor
        for name, tensor in parent_model(**changes).state_dict().items()
        if name in own and own[name].shape == tensor.shape
    }
    child.load_state_dict(shared, strict=False)
    return child


MIXTURE = Qwen3MoeConfig(
    num_hidden_layers=2,
    hidden_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    moe_intermediate_size=24,
    num_experts=4,
    num_experts_per_tok=2,
    vocab_size=62,
)


def mixtures():
    """A child of two kinds of mixture, and its parent."""
    parent = randomise(Qwen3MoeForCausalLM(MIXTURE), 0)
    labels = ["gqa2+moe4x24k2", "gqa1+moe2x24k2"]
    layout = Layout(shape_of(MIXTURE), tuple(map(Block.from_label, labels)))
    config = config_from_layout(MIXTURE, layout)
    return randomise(causal_lm_class(family_of(config))(config), 1), parent


def tokens(rows=40, length=16, seed=3):
    return torch.randint(1, 62, (rows, length), generator=torch.Generator().manual_seed(seed))


def settings(**changes):
    values = {
        "tokens": 16 * 8 * 6,
        "length": 16,
        "batch": 8,
        "micro_batch": 4,
        "optimizer": "adamw",
        "vocab_chunk": 40,
        "learning_rate": 1e-2,
        "checkpoint_every": 2,
    }
    return DistillConfig(**{**values, **changes})


def losses(result):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in result.history]
