"""Claims about the computed operations of a distillation."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from puzzle.distillation import DistillConfig, Distiller, distill_flops
from puzzle.distillation.planned_configs import planned_configs
from puzzle.models.child_config import layout_from_config, shape_of
from search_space import counting
from tests.factories.distillation import child_model, parent_model, settings, tokens


def attended(config, length):
    """Returns the operations of attending in one window, which torch's counter leaves out."""
    shape, pairs = shape_of(config), counting.attended_pairs(length)
    return sum(
        counting.attention_flops(shape, block.attention, tokens=0, pairs=pairs)
        for block in layout_from_config(config).blocks
    )


@pytest.mark.parametrize("train_embeddings", [True, False])
@pytest.mark.parametrize("losses", [{"cosine": 1.0, "kl": 1.0}, {"kl": 1.0}, {"lm": 1.0}], ids=str)
def test_a_step_multiplies_what_torch_counts(losses, train_embeddings):
    child, parent = child_model(), parent_model()
    child.lm_head.weight.requires_grad_(train_embeddings)
    config = settings(losses=losses, tokens=4 * 16, batch=4, train_embeddings=train_embeddings)
    with FlopCounterMode(display=False) as counter:
        loss, _ = Distiller(child, parent, config)(tokens(4))
        loss.backward()
    own, taught = (attended(each, 16) for each in planned_configs(child.config, parent.config))
    left_out = 4 * (3 * own + (taught if losses != {"lm": 1.0} else 0))
    flops = distill_flops(child.config, parent.config, config=config)
    assert flops == counter.get_total_flops() + left_out


def test_layers_that_are_computed_again_are_counted_again_and_an_offline_parent_is_not():
    child, parent = child_model().config, parent_model().config

    def flops(offline=False, **changes):
        config = DistillConfig(losses={"kl": 1.0}, tokens=64, length=16, batch=4, **changes)
        return distill_flops(child, parent, config=config, offline=offline)

    alone, head = flops(offline=True), 4 * 16 * counting.head_flops(shape_of(child))
    assert 3 * (flops(offline=True, gradient_checkpointing=True) - alone) == alone - 4 * head
    assert alone - flops(offline=True, train_embeddings=False) == head
    assert flops() - alone == flops(gradient_checkpointing=True) - flops(
        True, gradient_checkpointing=True
    )
