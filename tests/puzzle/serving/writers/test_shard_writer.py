"""Claims about checkpoints of several files."""

import torch

from puzzle.models.shards import Shards
from puzzle.serving.writers.shard_writer import ShardWriter


def test_large_checkpoints_are_sharded_and_read_back(tmp_path):
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(5)}
    writer = ShardWriter(tmp_path, shard_bytes=80)
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    writer.close()
    assert len(list(tmp_path.glob("model-*-of-00003.safetensors"))) == 3
    found = Shards(tmp_path)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
