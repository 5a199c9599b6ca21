"""Claims about the computed memory of a distillation; two processes are in test_parallel."""

import pytest
from transformers import Qwen3MoeConfig

from puzzle.distillation import distill_memory
from puzzle.errors import SettingError
from puzzle.models.child_config import layout_from_config
from tests.factories.distillation import CONFIG, child_model, settings


def test_a_layout_takes_what_its_child_does_and_an_offline_teacher_takes_no_parent():
    config, options = child_model().config, settings(losses={"kl": 1.0})
    whole = distill_memory(config, CONFIG, config=options)
    assert distill_memory(layout_from_config(config), CONFIG, config=options) == whole
    alone = distill_memory(config, CONFIG, config=options, offline=4)
    assert alone.parent == 0 < whole.parent
    assert whole.child == alone.child == 4 * sum(p.numel() for p in child_model().parameters())


def test_a_model_whose_passes_depend_on_numbers_is_refused_by_name():
    mixture = Qwen3MoeConfig(
        num_hidden_layers=1,
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        moe_intermediate_size=8,
        num_experts=4,
        num_experts_per_tok=2,
        vocab_size=62,
    )
    with pytest.raises(SettingError, match="Qwen3Moe"):
        distill_memory(mixture, mixture, config=settings())
