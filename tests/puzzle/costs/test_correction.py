import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puzzle.costs.checked import layout_cost
from puzzle.costs.correction import Corrected, fit_correction, tighten
from puzzle.costs.roofline import Roofline
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from puzzle.testing import check_cost_model
from search_space import Layout, ModelShape, SearchSpace
from solvers import Limit

SHAPE = ModelShape(
    layers=4, hidden=64, heads=4, head_dim=16, kv_heads=2, ffn_width=256, vocab=100, tied=False
)
SPACE = SearchSpace.uniform(SHAPE, attentions=["gqa1", "none"], ffns=["gated128", "none"])
SCENARIO = Scenario(batch=2, prompt_tokens=8, generated_tokens=4)
COSTS = Roofline("h100-sxm", SHAPE)


@given(scale=st.floats(0.1, 10), rest=st.floats(0, 10), fixed=st.floats(0, 0.5), seed=st.integers())
def test_a_device_that_is_affine_is_corrected_exactly(scale, rest, fixed, seed):
    rng = random.Random(seed)
    predicted = [fixed + 1.0, fixed + 2.0, *(fixed + rng.uniform(1, 5) for _ in range(4))]
    measured = [scale * (p - fixed) + rest for p in predicted]
    found = fit_correction(predicted, measured, fixed=fixed)
    assert found.scale == pytest.approx(scale, rel=1e-6)
    assert found.fixed == pytest.approx(rest, rel=1e-6, abs=1e-9)
    assert found.error == pytest.approx(0, abs=1e-6)


def test_the_error_is_that_of_layouts_the_fit_has_not_seen():
    predicted, measured = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 6.0, 4.0, 5.0]
    found = fit_correction(predicted, measured)
    unseen = []
    for i in range(5):
        rest = [j for j in range(5) if j != i]
        one = fit_correction([predicted[j] for j in rest], [measured[j] for j in rest])
        unseen.append(abs((one.scale * predicted[i] + one.fixed) / measured[i] - 1))
    assert found.error == pytest.approx(sorted(unseen)[2])
    assert found.error_before == 0.0  # the median is of the four that were right


def test_few_or_equal_layouts_scale_all_alike():
    one = fit_correction([2.0], [3.0], fixed=0.5)
    assert (one.scale, one.fixed) == (1.5, 0.75)
    assert math.isnan(one.error)
    same = fit_correction([2.0, 2.01, 1.99], [3.0, 3.0, 3.0], fixed=0.5)
    assert same.fixed == pytest.approx(same.scale * 0.5)


@pytest.mark.parametrize(
    ("predicted", "measured", "message"),
    [
        ([1.0], [0.0], "measured totals are"),
        ([math.nan], [1.0], "predicted totals are"),
        ([1.0, 2.0], [1.0], "2 predicted and 1 measured"),
        ([], [], "give both of one or more"),
    ],
)
def test_totals_that_are_none_are_refused(predicted, measured, message):
    with pytest.raises(CostModelError, match=message):
        fit_correction(predicted, measured)


def test_a_corrected_model_predicts_what_was_measured():
    rng = random.Random(0)
    layouts = [
        Layout(SHAPE, tuple(rng.choice(SPACE.blocks(i)) for i in range(4))) for _ in range(6)
    ]
    fixed, names = COSTS.fixed_cost(SHAPE, SCENARIO), ("prefill_seconds", "decode_seconds")

    def device(total):  # prefill is 1.2 times as slow, decoding takes 1 ms more
        return {
            "prefill_seconds": 1.2 * total["prefill_seconds"],
            "decode_seconds": total["decode_seconds"] + 1e-3,
        }

    totals = [layout_cost(COSTS, layout, SCENARIO) for layout in layouts]
    fits = {
        name: fit_correction(
            [t[name] for t in totals], [device(t)[name] for t in totals], fixed=fixed[name]
        )
        for name in names
    }
    costs = Corrected(COSTS, {SCENARIO: fits})
    for layout, total in zip(layouts, totals, strict=True):
        found = layout_cost(costs, layout, SCENARIO)
        for name in names:
            assert found[name] == pytest.approx(device(total)[name])
        assert found["seconds"] == pytest.approx(sum(device(total).values()))
        assert found["memory"] == total["memory"]
    check_cost_model(costs, SPACE, SCENARIO)
    other = Scenario(batch=9)
    assert layout_cost(costs, layouts[0], other) == layout_cost(COSTS, layouts[0], other)


def test_a_correction_of_what_the_model_does_not_give_is_refused():
    one = fit_correction([1.0], [1.0])
    with pytest.raises(CostModelError, match="corrections of cycles; Roofline gives"):
        Corrected(COSTS, {SCENARIO: {"cycles": one}})
    with pytest.raises(CostModelError, match="seconds are corrected by their two parts"):
        Corrected(COSTS, {SCENARIO: {"seconds": one}})


@given(bound=st.floats(1e-3, 1e3), error=st.floats(1e-3, 2.0))
def test_what_is_predicted_within_a_tightened_limit_is_measured_within_the_limit(bound, error):
    at_most = tighten(Limit("seconds", at_most=bound), error).at_most
    assert at_most * (1 + error) == pytest.approx(bound)
    less = -error / 3
    at_least = tighten(Limit("quality", at_least=bound), less).at_least
    assert at_least * (1 + less) == pytest.approx(bound)


@pytest.mark.parametrize("error", [0.0, -0.1, math.nan, math.inf])
def test_only_a_miss_tightens(error):
    with pytest.raises(CostModelError, match="tighten only what is missed"):
        tighten(Limit("seconds", at_most=5.0), error)
