"""Claims about searches for children whose layers several devices share."""

import pytest

import puzzle
from puzzle.costs.protocol import activation_bytes
from search_space import counting
from search_space.device_shares import device_share
from tests.factories.parents import DATA, SCENARIO, parent_model, text, tokenizer


@pytest.mark.slow
@pytest.mark.parametrize(
    "hardware", ["roofline:h100-sxm,tensor_parallel=3", "cpu,tensor_parallel=3,link=10"]
)
def test_a_child_is_chosen_by_what_each_of_three_devices_has_and_can_be_divided(hardware, tmp_path):
    result = puzzle.search(
        parent_model(intermediate_size=72),
        text(),
        tokenizer=tokenizer(),
        constraints=["memory <= 0.8x"],
        scenario=SCENARIO,
        space="default",
        effort="fast",
        hardware=hardware,
        precision="float32",
        data=DATA,
        out=tmp_path,
        progress=False,
    )
    shape = result.layout.shape
    shares = [device_share(shape, block, 3) for block in result.layout.blocks]
    assert None not in shares
    # Each block of a device is one of its sizes, with one KV head of three.
    held = sum(4 * counting.block_parameters(shape, share) for share in shares)
    cached = sum(2 * counting.block_kv_bytes(shape, share, 16, 4) for share in shares)
    fixed = 4 * counting.fixed_parameters(shape) / 3
    child = result.predicted.child
    assert child.memory == pytest.approx(held + cached + fixed)
    assert child.kv_cache == cached
    assert child.peak_memory == pytest.approx(child.memory + activation_bytes(shape, SCENARIO, 3))
    assert child.memory <= 0.8 * result.predicted.parent.memory
    assert child.parameters == result.layout.parameters()
    # What one device took is no speed of a whole model.
    assert result.measured.child.seconds is None
