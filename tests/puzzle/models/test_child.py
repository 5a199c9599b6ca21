"""Claims about the child's model class, on tiny random models."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from puzzle.errors import PuzzleError
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import config_from_layout, layout_from_config
from puzzle.models.families import LLAMA
from search_space import Block, Layout

CONFIG = LlamaConfig(
    num_hidden_layers=4,
    hidden_size=48,
    num_attention_heads=6,
    num_key_value_heads=3,
    intermediate_size=64,
    vocab_size=97,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=None,
    pad_token_id=0,
)
SHAPE = LLAMA.shape(CONFIG)
OWN = "gqa3+gated64"
LAYOUTS = {
    "first": ["none+gated32", OWN, OWN, OWN],
    "last": [OWN, OWN, OWN, "none+gated64"],
    "many": ["none+none", "linear+gated8", "gqa1+linear", "none+gated64"],
    "mixed": ["gqa1+none", "gqa3+linear", "linear+none", OWN],
    "no attention": ["none+gated64", "linear+gated64", "none+linear", "none+gated16"],
}


def layout_of(name):
    return Layout(SHAPE, tuple(Block.from_label(label) for label in LAYOUTS[name]))


def child_of(name, dtype=torch.float32):
    torch.manual_seed(0)
    model = PuzzleForCausalLM(config_from_layout(CONFIG, layout_of(name))).to(dtype).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def greedy_without_cache(model, tokens, steps):
    for _ in range(steps):
        logits = model(tokens, use_cache=False).logits[:, -1]
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    return tokens


def test_the_identity_layout_has_exactly_the_parents_logits():
    parent = LlamaForCausalLM(CONFIG).eval()
    child = assemble(CONFIG, Layout.parent(SHAPE), parent.state_dict(), dtype=torch.float32)
    tokens = torch.randint(0, 97, (2, 17))
    with torch.no_grad():
        assert torch.equal(child(tokens).logits, parent(tokens).logits)


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_cached_generation_equals_uncached(name):
    model = child_of(name)
    tokens = torch.randint(2, 97, (2, 7), generator=torch.Generator().manual_seed(1))
    cached = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False
    )
    assert torch.equal(cached, greedy_without_cache(model, tokens, 12))


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_a_left_padded_batch_generates_what_its_rows_do_alone(name):
    model = child_of(name)
    rows = [torch.tensor([[5, 9, 11, 40, 3]]), torch.tensor([[7, 8]])]
    padded = torch.tensor([[5, 9, 11, 40, 3], [0, 0, 0, 7, 8]])
    mask = (padded != 0).long()
    together = model.generate(padded, attention_mask=mask, max_new_tokens=8, do_sample=False)
    for row, alone in enumerate(rows):
        expected = greedy_without_cache(model, alone, 8)[0, alone.shape[1] :]
        assert torch.equal(together[row, 5:], expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_parameters_are_as_counted_and_the_config_gives_the_layout_back(name, tmp_path):
    model = child_of(name)
    assert sum(p.numel() for p in model.parameters()) == layout_of(name).parameters()
    model.config.save_pretrained(tmp_path)
    assert layout_from_config(type(model.config).from_pretrained(tmp_path)) == layout_of(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_and_loading_in_a_new_process_keeps_every_bit(dtype, tmp_path, other_process):
    state = child_of("many", dtype).state_dict()
    model = assemble(CONFIG, layout_of("many"), state, dtype=dtype)
    model.save_pretrained(tmp_path / "child")
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        save_file({"logits": model(tokens).logits}, tmp_path / "logits")
    code = (
        "import sys, torch, puzzle.models; from transformers import AutoModelForCausalLM as M;"
        "from safetensors.torch import load_file;"
        "m = M.from_pretrained(sys.argv[1] + '/child').eval();"
        "y = load_file(sys.argv[1] + '/logits')['logits'];"
        "assert torch.equal(m(torch.arange(10)[None]).logits.detach(), y) and y.dtype == m.dtype"
    )
    done = other_process.run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_missing_tensor_is_named():
    state = LlamaForCausalLM(CONFIG).state_dict()
    del state["model.layers.2.mlp.up_proj.weight"]
    with pytest.raises(PuzzleError, match=r"layers\.2\.mlp\.up_proj"):
        assemble(CONFIG, Layout.parent(SHAPE), state, dtype=torch.float32)


def test_gradients_reach_every_parameter_with_checkpointing():
    model = child_of("mixed").train()
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)()
    tokens = torch.arange(12)[None]
    model(tokens, labels=tokens).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
