"""Models that hold a decoder beside a vision tower open as that decoder; others are named."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from puzzle.errors import ParentError
from puzzle.models.families import family_of
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from tests.factories.families import family_config
from tests.factories.parents import tokenizer
from tests.puzzle.models.test_families import TOKENS

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


TEXT = {
    "gemma3": "gemma3_text",
    "mistral3": "mistral",
    "qwen3_5": "qwen3_5_text",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
}


def wrapper(kind):
    vision = dict(VISION)
    if kind == "mistral3":
        vision |= {"model_type": "pixtral", "head_dim": 8}
    if kind.startswith("qwen"):
        vision |= {"depth": 1, "num_heads": 2, "out_hidden_size": 48}
        vision |= {"embed_dim": 16, "deepstack_visual_indexes": [0], "fullatt_block_indexes": [0]}
    text = family_config(TEXT[kind]).to_dict()
    if kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        text |= {"model_type": f"{kind}_text"}
        text["rope_parameters"] |= {"mrope_section": [2, 2, 2], "mrope_interleaved": True}
    more = {"mm_tokens_per_image": 1} if kind == "gemma3" else {}
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **more)
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config).eval()


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "from files"])
@pytest.mark.parametrize("kind", TEXT)
@torch.no_grad()
def test_the_decoder_of_a_wrapper_is_the_parent(kind, stored, tmp_path):
    model = wrapper(kind)
    source = model
    if stored:
        source = tmp_path / "model"
        model.save_pretrained(source)
        tokenizer().save_pretrained(source)
    parent = open_parent(source, workspace=Workspace(tmp_path / "run"), dtype="float32")
    x_BLD = parent.embed(TOKENS)
    for index in range(parent.shape.layers):
        x_BLD = parent.run(parent.layer(index), x_BLD)
    want = model(input_ids=TOKENS).logits
    torch.testing.assert_close(parent.head()(x_BLD), want, atol=1e-5, rtol=1e-5)
    assert not any("vision" in name or "projector" in name for name in parent.tensors)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("t5", "'t5' is not supported: it is an encoder-decoder; give a model that has"),
        ("bert", "'bert' is not supported: it is an encoder, which generates no text"),
        ("jamba", "its FFNs are mixtures of experts of a kind that is not searched yet"),
        ("llama4", "its FFNs are mixtures of experts of a kind that is not searched yet"),
        ("falcon_mamba", r"'falcon_mamba' is not supported"),
        ("bamba", r"types \['linear_attention'\], which are not searched in its family"),
        ("deepseek_v3", r"its attention keeps latent vectors \(MLA\)"),
        ("paligemma", "it holds a decoder of the family 'gemma', which is not known"),
        ("gpt2", "'gpt2' is not supported; known families: "),
    ],
)
def test_what_is_in_the_way_of_an_unknown_family_is_said(kind, message):
    with pytest.raises(ParentError, match=message):
        family_of(AutoConfig.for_model(kind))
