"""Claims about FFN fusion and identity layers of layouts."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space import (
    Block,
    FusedRun,
    Fusion,
    Layout,
    ModelShape,
    Pipeline,
    balance_pipeline,
    counting,
    fusible_runs,
    identity_layers,
    insert_identity_layers,
    plan_fusion,
    published_layout,
    remove_identity_layers,
)
from search_space.fusion import candidate_runs, even_widths, ffn_width_within

LABELS = ["gqa2+gated16", "none+gated16", "none+gated8", "none+gated3"]
OTHERS = ["none+none", "none+linear", "linear+gated8", "gqa1+none"]


def layout_of(labels):
    shape = ModelShape(
        layers=len(labels), hidden=8, heads=2, head_dim=4, kv_heads=2, ffn_width=16, vocab=32
    )
    return Layout(shape, tuple(Block.from_label(label) for label in labels))


LAYOUTS = st.lists(st.sampled_from(LABELS * 2 + OTHERS), min_size=1, max_size=14).map(layout_of)


@given(LAYOUTS, st.booleans(), st.sampled_from([None, 16, 30]))
def test_undo_gives_back_exactly_what_apply_fused(layout, keep_last, max_width):
    fusion = plan_fusion(layout, keep_last=keep_last, max_width=max_width)
    fused = fusion.apply(layout)
    assert fusion.undo(fused) == layout
    assert Fusion.from_dict(fusion.to_dict()) == fusion
    assert fused.shape.layers == layout.shape.layers - fusion.layers_saved
    for run, position in zip(fusion.runs, fusion.positions, strict=True):
        assert fused.blocks[position].ffn.width == run.width
        assert max_width is None or run.width <= max_width
    # The norms of all but one member of each run are all that goes.
    assert layout.parameters() - fused.parameters() == fusion.layers_saved * layout.shape.hidden


@given(LAYOUTS)
def test_runs_are_the_longest_stretches_of_gated_layers_without_attention(layout):
    inside = [
        block.attention.kind == "none" and block.ffn.kind == "gated" for block in layout.blocks
    ]
    expected = {
        (a, b)
        for a, b in combinations(range(len(inside)), 2)
        if all(inside[a : b + 1])
        and not (a > 0 and inside[a - 1])
        and not (b + 1 < len(inside) and inside[b + 1])
    }
    assert set(fusible_runs(layout)) == expected
    kept = fusible_runs(layout, keep_last=True)
    assert set(kept) == {(a, b - 1) for a, b in expected if b - a > 1}


def matrices(size):
    values = st.floats(0, 0.2)
    return st.lists(st.lists(values, min_size=size, max_size=size), min_size=size, max_size=size)


@given(
    st.lists(st.sampled_from(LABELS[1:]), min_size=1, max_size=8).flatmap(
        lambda labels: st.tuples(st.just(layout_of(labels)), matrices(len(labels)))
    ),
    st.sampled_from([None, 11, 24, 40]),
)
def test_no_cut_into_allowed_runs_leaves_fewer_layers_than_the_plan(case, max_width):
    layout, matrix = case
    size = layout.shape.layers

    def allowed(first, end):
        widths = sum(layout.blocks[i].ffn.width for i in range(first, end))
        pairs = combinations(range(first, end), 2)
        fits = max_width is None or end - first == 1 or widths <= max_width
        return fits and all(matrix[i][j] <= 0.1 for i, j in pairs)

    best = [0] + [math.inf] * size
    for end in range(1, size + 1):
        best[end] = min(best[first] + 1 for first in range(end) if allowed(first, end))
    fusion = plan_fusion(layout, keep_last=False, max_width=max_width, dependency=matrix)
    assert fusion.apply(layout).shape.layers == best[size]
    runs = candidate_runs(layout, keep_last=False, max_width=max_width, dependency=matrix)
    assert {(run.first, run.last) for run in runs} == {
        (first, end - 1)
        for first, end in combinations(range(size + 1), 2)
        if end - first > 1 and allowed(first, end)
    }


def test_the_papers_policy_finds_the_49_layers_that_ultra_fused():
    before = published_layout("llama-3.1-nemotron-ultra-253b-v1").search_result()
    assert fusible_runs(before)[-1] == (66, 115)
    (*_, longest) = plan_fusion(before, keep_last=True).runs
    assert (longest.first, longest.last) == (66, 114)


def test_candidates_have_at_most_the_layers_asked_for():
    layout = layout_of(["none+gated8"] * 5)
    runs = list(candidate_runs(layout, keep_last=False, max_layers=3))
    assert [(run.first, len(run.widths)) for run in runs] == [
        (0, 2), (0, 3), (1, 2), (1, 3), (2, 2), (2, 3), (3, 2),
    ]  # fmt: skip


def test_the_memory_of_the_devices_bounds_the_fused_width():
    shape = layout_of(LABELS).shape
    width = ffn_width_within(shape, 1000, bytes_per_parameter=2, devices=4)
    assert 3 * shape.hidden * width * 2 <= 4000 < 3 * shape.hidden * (width + 1) * 2
    with pytest.raises(ValueError, match="hold no channel"):
        ffn_width_within(shape, 47)


RUN = layout_of(["gqa2+gated16", "none+gated16", "none+gated8", "none+none", "gqa1+none"])


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([(0, 1)], r"layer 0 has gqa2 attention; allowed in a run: .*\[\[1, 2\]\]"),
        ([(1, 3)], r"layer 3 has no FFN; remove_identity_layers"),
        ([(1, 5)], r"run \[1, 5\] of a layout with 5 layers"),
        ([(-1, 1)], r"allowed: 0 <= first < last <= 4"),
        ([(2, 1)], "allowed: 0 <= first < last"),
        ([(1, 1)], "a run of 1 layers; allowed: 2 or more"),
        ([(1, 2), (2, 2)], "2 or more"),
    ],
)
def test_a_run_that_cannot_be_fused_is_refused_with_the_reason(runs, message):
    with pytest.raises(ValueError, match=message):
        Fusion.of(RUN, runs)


def test_overlapping_runs_are_refused():
    layout = layout_of(["none+gated8"] * 4)
    with pytest.raises(ValueError, match=r"\[0, 2\] and \[2, 3\] overlap"):
        Fusion.of(layout, [(0, 2), (2, 3)])
    with pytest.raises(ValueError, match="out of order"):
        Fusion((FusedRun(2, (8, 8)), FusedRun(0, (8, 8))))


def test_a_fusion_of_another_layout_is_refused():
    fusion = Fusion((FusedRun(1, (16, 9)),))
    with pytest.raises(ValueError, match="not those of the layout"):
        fusion.apply(RUN)
    with pytest.raises(
        ValueError, match=r"layer 1 of the fused layout is none\+gated16; .*gated25"
    ):
        fusion.undo(RUN)
    with pytest.raises(ValueError, match="is missing"):
        Fusion((FusedRun(7, (1, 1)),)).undo(RUN)
    with pytest.raises(ValueError, match="0 or more"):
        FusedRun(-1, (8, 8))
    with pytest.raises(ValueError, match="width=0"):
        FusedRun(0, (8, 0))
    with pytest.raises(ValueError, match="unknown keys"):
        Fusion.from_dict({"runs": [], "norms": "last"})


def test_a_dependency_matrix_of_the_wrong_size_or_with_gaps_is_refused():
    layout = layout_of(["none+gated8"] * 3)
    with pytest.raises(ValueError, match="2 rows for 3 layers"):
        plan_fusion(layout, dependency=[[0, 0], [0, 0]])
    unknown = [[math.nan] * 3] * 3
    with pytest.raises(ValueError, match=r"layer 1 on an earlier layer .* not measured"):
        plan_fusion(layout, keep_last=False, dependency=unknown)


@given(st.integers(1, 500), st.integers(1, 40))
def test_even_widths_add_up_and_differ_by_one_multiple(units, layers):
    if units < layers:
        with pytest.raises(ValueError, match="cannot be split"):
            even_widths(256 * units, layers)
        return
    widths = even_widths(256 * units, layers)
    assert sum(widths) == 256 * units
    assert len(widths) == layers
    assert max(widths) - min(widths) in (0, 256)


@given(LAYOUTS)
def test_identity_layers_go_and_come_back(layout):
    positions = identity_layers(layout)
    if len(positions) == layout.shape.layers:
        with pytest.raises(ValueError, match="at least one other"):
            remove_identity_layers(layout)
        return
    without = remove_identity_layers(layout)
    assert identity_layers(without) == ()
    assert without.parameters() == layout.parameters()
    assert insert_identity_layers(without, positions) == layout


@pytest.mark.parametrize("positions", [[0, 0], [-1], [6]])
def test_identity_layers_at_impossible_positions_are_refused(positions):
    with pytest.raises(ValueError, match="allowed: different layers from 0 to"):
        insert_identity_layers(RUN, positions)


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=9).map(layout_of), st.integers(1, 9))
def test_no_contiguous_cut_has_a_smaller_largest_stage(layout, stages):
    size = layout.shape.layers
    if stages > size:
        with pytest.raises(ValueError, match=f"allowed: 1 to {size}"):
            balance_pipeline(layout, stages)
        return
    loads = [counting.block_parameters(layout.shape, block) for block in layout.blocks]
    cuts = combinations(range(1, size), stages - 1)
    best = min(
        max(sum(loads[a:b]) for a, b in zip((0, *cut), (*cut, size), strict=True)) for cut in cuts
    )
    found = balance_pipeline(layout, stages)
    assert max(found.stage_parameters()) == best
    assert remove_identity_layers(found.layout) == layout


def test_balancing_ultra_over_18_stages_puts_every_identity_layer_where_it_is_published():
    ultra = published_layout("llama-3.1-nemotron-ultra-253b-v1")
    active = ultra.fusion().apply(ultra.search_result())
    assert active == remove_identity_layers(ultra.layout)
    assert balance_pipeline(active, 18).layout == ultra.layout


def test_stages_that_do_not_divide_the_layers_are_refused():
    with pytest.raises(ValueError, match=r"do not divide into 2 equal stages; allowed: \[1, 5\]"):
        Pipeline(RUN, 2)
