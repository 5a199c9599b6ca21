"""Claims about the generation settings that a child inherits."""

from transformers import GenerationConfig

from puzzle.models.generation import inherit_generation_config
from tests.factories.children import MIXED, child_of


def test_a_child_ends_its_text_where_the_parent_does(tmp_path):
    stored = GenerationConfig(eos_token_id=[2, 7], temperature=0.6, do_sample=True)
    stored.save_pretrained(tmp_path)
    for labels in (MIXED, ["none+gated64"] * 3):
        model = child_of(labels)
        inherit_generation_config(model, tmp_path)
        assert model.generation_config.eos_token_id == [2, 7]
        assert model.generation_config.temperature == 0.6
