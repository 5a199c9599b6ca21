"""Claims about the order in which features of a map are given up."""

from itertools import combinations

import pytest
import torch

from puzzle.library import elimination
from puzzle.library.elimination import BLOCK, damped, elimination_order


def problem(seed, features, outputs):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(features, features, generator=generator)
    phi = torch.randn(3 * features, features, generator=generator) @ mixed
    weight = torch.randn(features, outputs, generator=generator)
    return damped(phi.T @ phi), weight.double()


def cost(curvature, weight, kept):
    """What is missed of the map by the best map of some of its features."""
    cross = curvature[kept] @ weight
    best = torch.linalg.solve(curvature[kept][:, kept], cross)
    return float((weight * (curvature @ weight)).sum() - (best * cross).sum())


def greedy(curvature, weight, size, fixed, least):
    """Groups in the order of removal: each time all refits are tried, and the cheapest wins."""
    groups = list(range((len(curvature) - fixed) // size))
    always = list(range(len(groups) * size, len(curvature)))
    removed = []

    def features(of):
        return [group * size + at for group in of for at in range(size)] + always

    while len(groups) > least:
        rest = {group: features([g for g in groups if g != group]) for group in groups}
        best = min(groups, key=lambda group: cost(curvature, weight, rest[group]))
        groups.remove(best)
        removed.append(best)
    return groups + removed[::-1]


@pytest.mark.parametrize(("size", "fixed", "least"), [(1, 0, 0), (1, 1, 3), (4, 0, 0), (3, 1, 2)])
def test_each_step_gives_up_the_feature_whose_loss_a_refit_makes_up_for_best(size, fixed, least):
    for seed in range(6):
        curvature, weight = problem(seed, 12 * size + fixed, 1 + 3 * seed)
        order = elimination_order(curvature.clone(), weight, size=size, fixed=fixed, least=least)
        assert order.tolist() == greedy(curvature, weight, size, fixed, least)


def test_blocks_of_removals_are_those_of_one_removal_at_a_time(monkeypatch):
    curvature, weight = problem(0, 2 * BLOCK + 30, 20)
    together = elimination_order(curvature.clone(), weight)
    monkeypatch.setattr("puzzle.library.elimination.BLOCK", 1)
    assert together.equal(elimination_order(curvature.clone(), weight))
    # Stopping early changes nothing of what is given up before.
    assert together[40:].equal(elimination_order(curvature.clone(), weight, least=40)[40:])


def test_an_order_does_not_depend_on_the_number_of_threads():
    curvature, weight = problem(1, 200, 40)
    threads, orders = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            orders.append(elimination_order(curvature.clone(), weight).tolist())
    finally:
        torch.set_num_threads(threads)
    assert orders[0] == orders[1] == orders[2]


def test_the_first_step_and_two_in_all_are_as_good_as_any_choice_of_a_tiny_map():
    """Greedy elimination is optimal for one feature; for two it stays near the best pair."""
    for seed in range(10):
        curvature, weight = problem(seed, 7, 2)
        order = elimination_order(curvature.clone(), weight).tolist()
        for gone, slack in ((1, 1 + 1e-9), (2, 2.0)):
            every = [list(kept) for kept in combinations(range(7), 7 - gone)]
            least = min(cost(curvature, weight, kept) for kept in every)
            assert cost(curvature, weight, order[:-gone]) <= slack * least


def test_silent_and_equal_features_and_fewer_tokens_than_features_are_ordered():
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(5, 12, generator=generator)
    phi[:, 3] = 0.0
    phi[:, 8] = phi[:, 2]
    weight = torch.randn(12, 4, generator=generator)
    order = elimination_order(damped(phi.T @ phi), weight).tolist()
    assert sorted(order) == list(range(12))
    assert order[-1] == 3
    assert (
        elimination_order(damped(torch.zeros(4, 4)), weight[:4])
        .sort()
        .values.equal(torch.arange(4))
    )


def test_an_order_does_not_depend_on_how_many_features_a_block_is_chosen_from(monkeypatch):
    curvature, weight = problem(2, 90, 20)
    together = elimination_order(curvature.clone(), weight, fixed=2)
    # So few that blocks often end where another feature becomes cheaper.
    monkeypatch.setattr(elimination, "CANDIDATES", 5)
    assert together.equal(elimination_order(curvature.clone(), weight, fixed=2))


def test_a_matrix_is_converted_in_its_own_memory(monkeypatch):
    monkeypatch.setattr(elimination, "CHUNK", 4)
    matrix = torch.randn(13, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected, place = matrix.float(), matrix.data_ptr()
    first, second = elimination._halved(matrix)
    assert first.equal(expected)
    assert first.data_ptr() == place
    assert second.data_ptr() == place + expected.nbytes
