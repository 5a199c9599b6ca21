"""Claims about the computed memory of a distillation; two processes are in test_parallel."""

from transformers import Qwen3MoeConfig

from puzzle.distillation import distill_memory
from puzzle.models.child_config import layout_from_config
from tests.factories.distillation import CONFIG, MIXTURE, child_model, settings


def test_a_layout_takes_what_its_child_does_and_an_offline_teacher_takes_no_parent():
    config, options = child_model().config, settings(losses={"kl": 1.0})
    whole = distill_memory(config, CONFIG, config=options)
    assert distill_memory(layout_from_config(config), CONFIG, config=options) == whole
    alone = distill_memory(config, CONFIG, config=options, offline=4)
    assert alone.parent == 0 < whole.parent
    assert whole.child == alone.child == 4 * sum(p.numel() for p in child_model().parameters())


def test_a_mixture_keeps_what_its_experts_compute_of_each_token_as_often_as_there_are_experts():
    def kept(top_k):
        config = Qwen3MoeConfig(**{**MIXTURE.to_dict(), "num_experts_per_tok": top_k})
        return distill_memory(config, config, config=settings()).kept

    options, hidden, width = settings(), MIXTURE.hidden_size, MIXTURE.moe_intermediate_size
    tokens = 2 * options.micro_batch * options.length  # of two layers
    # An expert's input and output; gate and up, what is activated of them, and their product; and
    # the places and weights of the tokens.
    assert kept(3) - kept(1) == 2 * tokens * (4 * (2 * hidden + 4 * width) + 36)
