"""Claims about merging KV heads."""

import torch

from puzzle.library.kv_merging import candidate_merges, head_options, promising_merges


def test_merges_of_heads_hold_every_subset_and_the_best_head_by_head():
    options = head_options(8, 4, 2)
    assert options == [[(0,), (1,), (0, 1)], [(2,), (3,), (2, 3)]]
    merges = candidate_merges(options)
    assert merges[-1] == ((0, 1), (2, 3))
    errors = torch.tensor([[1.0, 9.0], [5.0, 2.0], [3.0, 3.0]])
    promising = promising_merges(merges, errors)
    assert promising[0] == ((0,), (3,))
    assert merges[-1] in promising
