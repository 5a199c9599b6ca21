"""A Llama without biases rewritten as a model of another family that computes the same.

What the other family adds is put at values that cancel: biases of zero, multipliers that the
weights are divided by, rotary positions in all layers, maps side by side in one. The multipliers
are powers of two, so that nothing is rounded.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from puzzle.library.build import build_library, heal
from puzzle.models.assembling import assemble
from puzzle.models.parent import open_parent
from puzzle.scoring.fisher_scores import fisher
from puzzle.storage.workspace import Workspace
from search_space import Block, Layout, SearchSpace, counting
from solvers import ChoiceProblem, Limit, solve

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
    "mixtral": {},
}
# In Mixtral's, each FFN is cut into so many experts, and every token goes to all. Which channels
# are kept and how they are fitted differs between experts and one FFN, so that only what leaves
# an FFN as it is, or replaces it, is the same.
EXPERTS = 4
WITHOUT_WIDTHS = {"attention": "gqa", "ffn": ("linear", "none")}
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
    if family == "mixtral":
        given["intermediate_size"] //= EXPERTS
        given |= {"num_local_experts": EXPERTS, "num_experts_per_tok": EXPERTS}
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
    if family == "mixtral":
        return _as_experts(tensors)
    if family == "phi3":
        for whole, parts in fused.items():
            for first in [name for name in tensors if f".{parts[0]}." in name]:
                rows = [tensors.pop(first.replace(parts[0], part)) for part in parts]
                tensors[first.replace(parts[0], whole)] = torch.cat(rows)
    return tensors


def _as_experts(tensors):
    """The tensors with each FFN cut into experts of equal gates, their outputs made up for."""
    cut = {}
    for name, tensor in tensors.items():
        mlp, _, part = name.rpartition("mlp.")
        if part in ("gate_proj.weight", "up_proj.weight", "down_proj.weight"):
            axis = part.startswith("down")
            cut.setdefault(f"{mlp}mlp.", {})[part.split("_")[0]] = tensor.chunk(EXPERTS, int(axis))
    rest = {name: tensor for name, tensor in tensors.items() if ".mlp." not in name}
    for mlp, parts in cut.items():
        pairs = zip(parts["gate"], parts["up"], strict=True)
        rest[f"{mlp}experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in pairs])
        rest[f"{mlp}experts.down_proj"] = EXPERTS * torch.stack(parts["down"])
        rest[f"{mlp}gate.weight"] = torch.zeros(EXPERTS, parts["gate"][0].shape[1])
    return rest


def searched(model, cut, labels, *, place, share, **options):
    """What the stages of a search make of a model.

    Args:
        model: The model.
        cut: Windows of tokens.
        labels: The blocks of the child that is built.
        place: The run directory.
        share: Of the parameters of all layers, that the layout chosen may have.
        options: Of the space.

    Returns:
        The local errors, the scores, the labels of the layout chosen, and the logits of the child
        before and after healing. In labels, the parent's own FFN is "own".
    """
    workspace = Workspace(place)
    parent = open_parent(model, workspace=workspace, dtype="float32")
    space = SearchSpace.from_options(parent.shape, **options)
    library = build_library(parent, space, cut, workspace=workspace)
    scores = fisher(library, space, cut, workspace=workspace)
    own = parent.shape.parent_blocks[0].ffn.label
    blocks = [Block.from_label(label.replace("own", own)) for label in labels]
    layout = Layout(parent.shape, tuple(blocks))
    healed = heal(parent, layout, cut, workspace=workspace)
    layers = range(parent.shape.layers)
    errors = {
        (layer, name.replace(own, "own")): torch.tensor([error.before, error.fitted])
        for layer in layers
        for name, error in library.errors(layer).items()
    }
    kls = [scores.kl(layer, block.label) for layer in layers for block in space.blocks(layer)]
    return {
        "errors": errors,
        "scores": torch.tensor(kls),
        "layout": [label.replace(own, "own") for label in _chosen(space, kls, share)],
        "child": _logits(library, layout, cut.validation),
        "healed": _logits(healed, layout, cut.validation),
    }


@torch.no_grad()
def _logits(library, layout, tokens):
    config, tensors = library.parent.config, library.child_tensors(layout)
    return assemble(config, layout, tensors, dtype=torch.float32)(tokens).logits


def _chosen(space, kls, share):
    """The labels of the layout of least score with a share of the parameters of all layers."""
    shape = space.shape
    rows = [space.blocks(layer) for layer in range(shape.layers)]
    sizes = [counting.block_parameters(shape, block) for row in rows for block in row]
    most = share * sum(counting.block_parameters(shape, block) for block in shape.parent_blocks)
    groups = tuple(tuple(block.label for block in row) for row in rows)
    limits = (Limit("parameters", at_most=most),)
    return solve(ChoiceProblem(groups, kls, {"parameters": sizes}, limits=limits)).labels
