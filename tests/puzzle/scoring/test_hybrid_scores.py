"""Claims about calibrated and hybrid scores."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puzzle.errors import DataError
from puzzle.library.build import build_library
from puzzle.scoring.exact_scores import replace_one
from puzzle.scoring.fisher_scores import FisherConfig
from puzzle.scoring.hybrid_scores import (
    HybridConfig,
    anchor_keys,
    calibrate,
    calibrated,
    hybrid,
    kinds,
)
from puzzle.scoring.scores import Score, Scores
from search_space import SearchSpace
from tests.factories.parents import opened


def estimates_of(values):
    return Scores(({str(i): Score(kl=v, error=v / 10) for i, v in enumerate(values)},))


def test_a_power_law_between_estimate_and_truth_is_found_from_its_ends():
    values = [1e-4 * 3**i for i in range(9)]
    truth = {i: 2 * values[i] ** 0.9 for i in range(9)}
    exact = {(0, str(i)): Score(kl=truth[i]) for i in (0, 8)}
    found = calibrate(estimates_of(values), exact)
    for i in range(9):
        assert found.kl(0, str(i)) == pytest.approx(truth[i], rel=1e-9)
        assert found[0][str(i)].method == ("exact" if i in (0, 8) else "calibrated")


positive = st.floats(1e-6, 10.0)


@given(st.lists(positive, min_size=3, max_size=30, unique=True), st.data())
def test_calibration_never_reverses_the_order_of_two_estimates(values, data):
    indices = data.draw(st.lists(st.sampled_from(range(len(values))), min_size=1, unique=True))
    exact = {(0, str(i)): Score(kl=data.draw(positive)) for i in indices}
    found = calibrate(estimates_of(values), exact)
    rest = sorted((i for i in range(len(values)) if i not in indices), key=values.__getitem__)
    mended = [found.kl(0, str(i)) for i in rest]
    assert all(b >= a * (1 - 1e-9) for a, b in itertools.pairwise(mended))


@given(st.integers(1, 60), st.integers(2, 12))
def test_anchors_are_spread_over_the_ranks(blocks, count):
    values = [0.0, *(1.1**i for i in range(blocks))]
    keys = anchor_keys(estimates_of(values), count)
    assert len(keys) == len(set(keys)) == min(count, blocks)
    ranks = [int(label) for _, label in keys]
    assert 0 not in ranks  # the parent's own block scores nothing
    gaps = [b - a for a, b in itertools.pairwise(ranks)]
    assert not gaps or max(gaps) <= math.ceil(blocks / count)


def test_each_kind_of_change_has_a_map_of_its_own():
    labels = {"gqa1+gated8": 0.5, "none+gated8": 0.5, "gqa2+gated4": 2.0, "gqa2+none": 2.0}
    labels |= {"none+gated4": 3.0, "none+none": 3.0}
    rows = tuple(
        {
            "gqa2+gated8": Score(kl=0.0),
            **{k: Score(kl=0.01 * (i + layer + 1)) for i, k in enumerate(labels)},
        }
        for layer in range(6)
    )
    estimates = Scores(rows)

    def exact_of(keys):
        return {k: Score(kl=labels[k[1]] * estimates.kl(*k)) for k in keys}

    found = calibrated(estimates, exact_of, HybridConfig(anchors=6, trust=None))
    for layer, label, score in found.items():
        assert score.kl == pytest.approx(labels.get(label, 0.0) * estimates.kl(layer, label))
    assert [sum(map(len, kind)) for kind in kinds(estimates)] == [12, 12, 12]
    assert found.methods()["calibrated"] == 30


def test_what_is_doubted_is_exact_and_each_score_says_how_it_was_found(saved, tmp_path):
    workspace, parent, _, cut = opened(saved, tmp_path)
    space = SearchSpace.preset(parent.shape, "small")
    library = build_library(parent, space, cut, workspace=workspace)
    exact = replace_one(library, space, cut, workspace=workspace)
    probes = FisherConfig(probes=16, rounds=1)

    def run(trust):
        config = HybridConfig(anchors=6, trust=trust, fisher=probes)
        return hybrid(library, space, cut, workspace=workspace, config=config)

    values = sorted(score.kl for _, _, score in exact.items())
    trust = values[len(values) // 2]
    found = run(trust)
    for layer, label, score in found.items():
        if score.method == "exact":
            assert score.kl == pytest.approx(exact.kl(layer, label), rel=1e-4)
        elif score.method == "calibrated":
            assert score.kl <= trust
    assert found.methods()["calibrated"] > 0
    assert run(None).methods()["exact"] == 6
    own = parent.shape.parent_blocks[0].label
    assert all(found.kl(layer, own) == 0.0 for layer in range(parent.shape.layers))


@pytest.mark.parametrize("wrong", [{"anchors": 5}, {"trust": 0.0}, {"trust": math.inf}])
def test_a_wrong_config_is_refused(wrong):
    with pytest.raises(DataError, match="allowed"):
        HybridConfig(**wrong)
