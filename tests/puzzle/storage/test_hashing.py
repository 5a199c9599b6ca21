"""Claims about the hashes of values and of tensors."""

import math

import pytest
import torch

from puzzle.errors import DataError
from puzzle.limits.scenario import Scenario
from puzzle.storage.hashing import content_hash, hash_tensors


def test_content_hash_sees_content_only():
    assert content_hash({"a": (1, 2), "b": Scenario()}) == content_hash(
        {"b": Scenario().to_dict(), "a": [1, 2]}
    )
    assert len({content_hash(v) for v in (1, "1", 1.5, True, None, [1], {"a": 1}, {}, [])}) == 9
    assert len(content_hash(None)) == 32


@pytest.mark.parametrize("value", [math.nan, [math.inf], {1: 2}, {"a": object()}, {1, 2}, b""])
def test_content_hash_refuses_what_json_cannot_hold(value):
    with pytest.raises(DataError, match="cannot be stored as JSON"):
        content_hash(value)


def test_tensor_hashes_see_name_dtype_shape_and_bytes():
    base = torch.zeros(2, 3)
    variants = [
        {"w": base},
        {"v": base},
        {"w": base.reshape(3, 2)},
        {"w": base.to(torch.int32)},
        {"w": base.to(torch.bfloat16)},
        {"w": base.to(torch.float16)},
        {"w": base + 1},
        {"w": torch.zeros(())},
        {"w": torch.zeros(0)},
        {"w": base, "v": base},
        {},
    ]
    assert len({hash_tensors(tensors) for tensors in variants}) == len(variants)


def test_tensor_hashes_ignore_order_and_strides():
    a, b = torch.randn(2, 3), torch.randn(3)
    assert hash_tensors({"a": a, "b": b}) == hash_tensors({"b": b, "a": a.T.contiguous().T})
