"""Claims about what transformers offers for a child as for its parent's family."""

import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
)

from puzzle.errors import PuzzleError
from puzzle.models.child_config import config_from_layout
from puzzle.models.families import LLAMA
from search_space import Layout
from tests.factories.children import CONFIG, MIXED, SHAPE, child_of

OWN = "gqa3+gated64"
FEW = "gqa1+gated9"
LAYOUTS = {
    "own": [OWN] * 3,
    "mixed": MIXED,
    "few heads": [FEW, OWN, "gqa1+none"],
    "first without": ["none+gated64", OWN, FEW],
    "last without": [OWN, FEW, "linear+none"],
    "none": ["none+gated64", "linear+linear", "none+none"],
}
# By default the cache takes what memory there is.
SMALL = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64, page_size=32)
HEADS = {
    "score": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "answers": AutoModelForQuestionAnswering,
}


def prompts():
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, 97, (n,), generator=generator).tolist() for n in (7, 3, 12)]


def alone(model, prompt, **how):
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False, **how
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_child_has_each_head_of_the_family_with_its_own_weights(tmp_path, head, name):
    child = child_of(LAYOUTS[name])
    child.save_pretrained(tmp_path)
    model = HEADS[head].from_pretrained(tmp_path, num_labels=2, pad_token_id=0)
    body = getattr(model, model.base_model_prefix)
    ours = child.model.state_dict()
    assert all(torch.equal(tensor, ours[key]) for key, tensor in body.state_dict().items())
    with torch.no_grad():
        states = child.model(torch.tensor([[5, 6, 7]])).last_hidden_state
        assert torch.equal(body(torch.tensor([[5, 6, 7]])).last_hidden_state, states)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_on_the_identity_layout_is_the_one_on_the_parent(head):
    settings = {"num_labels": 2, "pad_token_id": 0}
    one = HEADS[head].from_config(LlamaConfig(**{**CONFIG.to_dict(), **settings})).eval()
    config = config_from_layout(one.config, Layout.parent(SHAPE))
    other = HEADS[head].from_config(config).eval()
    body, own = one.base_model_prefix, other.base_model_prefix
    weights = {
        own + name.removeprefix(body) if name.startswith(body) else name: tensor
        for name, tensor in one.state_dict().items()
    }
    other.load_state_dict(weights, strict=True)
    with torch.no_grad():
        outputs = [model(torch.tensor([[5, 6, 7, 8]])).to_tuple() for model in (one, other)]
    # The last is the cache.
    assert all(map(torch.equal, outputs[0][:-1], outputs[1][:-1]))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_continuous_batching_gives_greedy_tokens(name, implementation):
    model = child_of(LAYOUTS[name], eos_token_id=None)
    expected = [alone(model, prompt) for prompt in prompts()]
    model.set_attn_implementation(implementation)
    how = GenerationConfig(max_new_tokens=9, do_sample=False, pad_token_id=0, eos_token_id=96)
    answers = model.generate_batch(
        inputs=prompts(),
        generation_config=how,
        continuous_batching_config=SMALL,
        progress_bar=False,
    )
    by_prompt = {tuple(a.prompt_ids): list(a.generated_tokens) for a in answers.values()}
    assert [by_prompt[tuple(prompt)] for prompt in prompts()] == expected


@pytest.mark.parametrize("label", ["gqa2", "gqa2h4", "gqa3w8"])
def test_heads_and_windows_that_no_common_cache_holds_are_refused(label):
    config = LlamaConfig(**{**CONFIG.to_dict(), "num_key_value_heads": 3})
    layout = Layout.parent(LLAMA.shape(config))
    child = child_of([f"{label}+gated64", OWN, OWN])
    assert config_from_layout(config, layout).num_key_value_heads == 3
    with pytest.raises(
        PuzzleError, match=rf"one cache of 3 heads .*\{{0: '{label}'\}}; use generate"
    ):
        child.generate_batch(inputs=prompts(), continuous_batching_config=SMALL, progress_bar=False)
    assert len(alone(child, prompts()[0])) == 9


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_other_caches_give_the_tokens_of_no_cache(name, kind):
    model = child_of(LAYOUTS[name], eos_token_id=None)
    for prompt in prompts():
        uncached = alone(model, prompt, use_cache=False)
        assert alone(model, prompt, cache_implementation=kind, disable_compile=True) == uncached


def test_the_implementation_of_attention_is_set_in_every_layer():
    model = child_of([OWN, FEW, "linear+none"])
    before = model(torch.tensor([prompts()[0]])).logits
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(torch.tensor([prompts()[0]]), output_attentions=True)
    # Only eager attention returns its weights, so it is what runs.
    assert [weights.shape[1] for weights in output.attentions] == [6, 6]
    torch.testing.assert_close(output.logits, before)


FIRST = """
import pkgutil, sys
import puzzle
pkgutil.resolve_name(sys.argv[1])
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
import transformers.modeling_layers
config = AutoConfig.from_pretrained(sys.argv[2])
assert type(config).__name__ == "PuzzleConfig"
assert type(config) in AutoModelForCausalLM._model_mapping
assert transformers.modeling_layers.AutoModel is AutoModel
"""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("transformers:AutoConfig", marks=pytest.mark.slow),
        pytest.param("transformers:LlamaConfig", marks=pytest.mark.slow),
        pytest.param("transformers:AutoModelForCausalLM", marks=pytest.mark.slow),
        "transformers:Trainer",
        "puzzle.models.child_config:PuzzleConfig",
        pytest.param("puzzle.posttraining:switched_tokenizer", marks=pytest.mark.slow),
    ],
)
def test_a_child_is_known_whatever_is_imported_first(tmp_path, name):
    child_of(MIXED).config.save_pretrained(tmp_path)
    command = [sys.executable, "-c", FIRST, name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_config_that_names_types_of_layers_is_read_as_one_that_does_not(tmp_path):
    config = child_of(MIXED).config
    older = type(config)(**{**config.to_dict(), "layer_types": ["moe", "moe", "full_attention"]})
    assert older.to_dict() == config.to_dict()
    assert not hasattr(older, "layer_types")
