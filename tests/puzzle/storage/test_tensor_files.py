"""Claims about files of tensors."""

import torch

from puzzle.storage.hashing import hash_file
from puzzle.storage.tensor_files import save_tensors


def test_slices_are_saved_without_the_rest(tmp_path):
    whole = torch.randn(1000, 10)
    save_tensors(tmp_path / "w", {"a": whole[:2], "b": whole[1:3]}, {"from": "test"})
    assert (tmp_path / "w").stat().st_size < 1000
    assert len(hash_file(tmp_path / "w")) == 32
