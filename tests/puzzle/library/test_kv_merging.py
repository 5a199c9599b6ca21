"""Claims about merging KV heads."""

import torch

from puzzle.library.kv_merging import head_options, promising_ways, whole_ways


def test_ways_of_merging_heads_hold_every_subset_and_the_best_head_by_head():
    options = head_options(8, 4, 2)
    assert options == [[(0,), (1,), (0, 1)], [(2,), (3,), (2, 3)]]
    ways = whole_ways(options)
    assert ways[-1] == ((0, 1), (2, 3))
    errors = torch.tensor([[1.0, 9.0], [5.0, 2.0], [3.0, 3.0]])
    found = promising_ways(ways, errors)
    assert found[0] == ((0,), (3,))
    assert ways[-1] in found
