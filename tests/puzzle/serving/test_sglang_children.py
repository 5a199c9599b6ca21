"""Claims about what SGLang is told of a child, without SGLang."""

import pytest
import torch

from puzzle.errors import ExportError
from puzzle.models.child import causal_lm_class
from puzzle.models.families import FAMILIES
from puzzle_sglang.sglang_children import CLASSES, repeated_heads, require_servable
from search_space import Block, Layout
from tests.factories.families import family_child

LABELS = ["gqa1+gated64", "none+linear", "gqa1h2+none", "gqa2+gated96", "linear+none", "none+none"]


def child(family, labels=LABELS, **changes):
    def layout_of(parent):
        return Layout(parent.shape, tuple(map(Block.from_label, labels)))

    return family_child(family, layout_of, **changes)


def test_classes_are_named_as_the_children_of_their_families():
    names = {causal_lm_class(family).__name__ for family in FAMILIES.values()}
    assert names >= CLASSES.keys()


@pytest.mark.parametrize("family", ["llama-biased", "qwen2", "qwen3"])
@torch.no_grad()
def test_repeated_kv_heads_change_no_answer(family):
    model, tokens = child(family), torch.arange(20)[None]
    kv_heads = model.config.num_key_value_heads
    labels = [label.replace("gqa1", f"gqa{kv_heads}") for label in LABELS]
    wide = child(family, labels)
    wide.load_state_dict(dict(repeated_heads(model.state_dict().items(), model.config)))
    torch.testing.assert_close(wide(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("family", "label", "words"),
    [
        ("llama", "gqa1w9+none", "layer 2 has a window"),
        ("llama", "gqa1h1+none", "layer 2 has 1 query heads and 1 KV heads"),
        ("mistral-windowed", "gqa1+none", "layer 0 has a window"),
        ("llama-biased", "gqa1+none", "mlp_bias=True"),
        ("granite", "gqa1+none", "children of granite"),
    ],
)
def test_what_sglang_cannot_run_is_named(family, label, words):
    model = child(family, [*LABELS[:2], label, *LABELS[3:]])
    with pytest.raises(ExportError, match=words):
        require_servable(model.config)
