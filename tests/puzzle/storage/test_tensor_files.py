"""Claims about files of tensors."""

import pytest
import torch

from puzzle.errors import WorkspaceError
from puzzle.storage.hashing import hash_file
from puzzle.storage.tensor_files import TensorFile, save_tensors


def test_slices_are_saved_without_the_rest(tmp_path):
    whole = torch.randn(1000, 10)
    save_tensors(tmp_path / "w", {"a": whole[:2], "b": whole[1:3]}, {"from": "test"})
    assert (tmp_path / "w").stat().st_size < 1000
    assert len(hash_file(tmp_path / "w")) == 32


def test_tensors_written_one_by_one_make_the_same_file_as_all_together(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "layers.10.w": torch.randn(3, 5),
        "layers.2.ü": torch.randn(7).to(torch.bfloat16),
        "kept": torch.arange(9, dtype=torch.int32),
        "half": torch.randn(2, 1, 2).half(),
        "count": torch.tensor(3),
        "none": torch.zeros(0, 4),
    }
    metadata = {"format": "pt"}
    save_tensors(tmp_path / "together", tensors, metadata)
    sizes = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    with TensorFile(tmp_path / "one by one", sizes, metadata) as file:
        for name in reversed(tensors):
            file.write(name, tensors[name])
    assert (tmp_path / "one by one").read_bytes() == (tmp_path / "together").read_bytes()
    file = TensorFile(tmp_path / "less", sizes)
    file.write("kept", tensors["kept"])
    with pytest.raises(WorkspaceError, match="lacks count, half"):
        file.close()
