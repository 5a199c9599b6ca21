"""Whatever a search accepts, its child loads in stock transformers and is right with any cache."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import puzzle
from puzzle.models.families import LLAMA
from search_space import FFN, Attention, SearchSpace
from solvers import InfeasibleError
from tests.factories.parents import DATA, SCENARIO, parent_model, text, tokenizer

MODEL = parent_model()
SHAPE = LLAMA.shape(MODEL.config)
ATTENTIONS = [
    Attention("gqa", 1),
    Attention("gqa", 2, heads=4),
    Attention("gqa", 1, heads=2, window=3),
    Attention("gqa", 3, window=4),
    Attention("linear"),
    Attention("none"),
]
FFNS = [FFN("gated", 40), FFN("gated", 24), FFN("linear"), FFN("none")]
LIMITS = st.dictionaries(
    st.sampled_from(["parameters", "memory", "kv_cache", "flops"]),
    st.sampled_from([0.6, 0.8, 0.95]),
    min_size=1,
    max_size=2,
)


def of_each_layer(alternatives):
    """For each layer the parent's own and some alternatives."""
    some = st.lists(st.sampled_from(alternatives), max_size=3, unique=True)
    return st.tuples(*[some] * SHAPE.layers)


@pytest.mark.parametrize("count", [6, pytest.param(16, marks=pytest.mark.slow)])
def test_the_child_of_any_search_generates_the_same_with_any_cache(count):
    @settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=True,
    )
    @given(
        attentions=of_each_layer(ATTENTIONS),
        ffns=of_each_layer(FFNS),
        limits=LIMITS,
    )
    def holds(attentions, ffns, limits):
        check_search(attentions, ffns, limits)

    holds()


def check_search(attentions, ffns, limits):
    own = SHAPE.parent_blocks[0]
    space = SearchSpace(
        shape=SHAPE,
        attentions=tuple((own.attention, *more) for more in attentions),
        ffns=tuple((own.ffn, *more) for more in ffns),
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = puzzle.search(
                MODEL,
                text(),
                tokenizer=tokenizer(),
                constraints=[f"{name} <= {share}x" for name, share in limits.items()],
                scenario=SCENARIO,
                data=DATA,
                effort="fast",
                space=space,
                hardware="roofline:h100-sxm",
                precision="float32",
                out=Path(folder) / "run",
            )
        except InfeasibleError:
            event("infeasible")
            return
        event("a child")
        result.save(Path(folder) / "child")
        child = AutoModelForCausalLM.from_pretrained(Path(folder) / "child").eval()
        own_child = result.child()
    count = sum(parameter.numel() for parameter in child.parameters())
    assert count == result.layout.parameters()
    prompt = torch.arange(2, 22).view(2, 10)
    mask = torch.ones_like(prompt)
    mask[0, :4] = 0  # padded on the left
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False}
    options |= {"eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        wanted = own_child.generate(prompt, use_cache=False, **options)
        for cache in ("dynamic", "static"):
            answer = child.generate(prompt, cache_implementation=cache, **options)
            assert answer.tolist() == wanted.tolist()
