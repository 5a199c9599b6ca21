"""Claims about searches for children of few different blocks, hybrids' included."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import puzzle
from puzzle.choice.goals import Goals
from puzzle.costs.roofline import Roofline
from puzzle.limits.constraints import parse_constraints
from puzzle.limits.scenario import Workload
from puzzle.models.families import family_of
from puzzle.scoring.scores import Score, Scores
from search_space import Block, Layout, SearchSpace
from search_space.plain_layouts import odd_layers
from solvers import InfeasibleError, solve
from tests.factories.families import family_config

SCENARIO = puzzle.Scenario(batch=1, prompt_tokens=8, generated_tokens=8, weight_dtype="float32")
# Halves of one kind in layers of several kinds, beside mixers, which are left as they are.
PARENTS = {
    "llama": {"num_hidden_layers": 3},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention", "full_attention"],
        "num_hidden_layers": 3,
    },
    "qwen3_moe": {"num_hidden_layers": 3},
    "nemotron_h": {
        "layers_block_type": ["mlp", "linear_attention", "full_attention", "mlp"],
        "num_hidden_layers": 4,
    },
}


def shape_of(family):
    config = family_config(family, **PARENTS[family])
    return family_of(config).shape(config)


def space_of(shape, distinct):
    options = {"kv_heads": [1], "windows": [8], "ffn": ["gated", "none"], "ffn_shares": [0.5]}
    return replace(SearchSpace.from_options(shape, **options), distinct=distinct)


def goals(space, share):
    costs, limits = Roofline("h100-sxm", space.shape), f"parameters <= {share}x"
    return Goals(parse_constraints(limits), Workload.of(SCENARIO), costs, space)


@pytest.mark.parametrize("family", PARENTS)
def test_one_block_is_the_best_of_all_plain_layouts(family):
    shape = shape_of(family)
    space, parent, random = space_of(shape, 1), Layout.parent(shape), np.random.default_rng(0)
    # All that the parent's layers can become, not only what a space of one block offers.
    every = space_of(shape, None)
    rows = [every.blocks(layer) for layer in range(shape.layers)]
    scores = Scores(
        tuple({block.label: Score(kl=random.random()) for block in row} for row in rows)
    )
    layouts = [Layout(shape, blocks) for blocks in itertools.product(*rows)]
    plain = [layout for layout in layouts if not odd_layers(layout)]
    assert all(map(space.contains, plain))
    for share in (0.55, 0.7, 0.85):
        small = [own for own in plain if own.parameters() <= share * parent.parameters()]
        solution = solve(goals(space, share).problem(scores))
        assert Layout(shape, tuple(map(Block.from_label, solution.labels))) in small
        assert solution.objective == pytest.approx(min(map(scores.total, small)))


@pytest.mark.parametrize(
    ("labels", "allowed"),
    [
        # Three blocks in all, and two in the layers of a convolution.
        (["conv+gated256", "gqa1+gated128", "conv+gated128"], True),
        (["conv+gated256", "none+none", "none+gated128"], True),
        # Two in layers of each kind, and three widths of FFN.
        (["conv+gated256", "gqa1+gated64", "conv+gated128"], False),
    ],
)
def test_two_blocks_are_two_in_layers_of_each_kind_and_two_halves_of_each_kind(labels, allowed):
    shape = shape_of("lfm2")
    space = replace(SearchSpace.from_options(shape, ffn_shares=[0.5, 0.25]), distinct=2)
    layout = Layout(shape, tuple(map(Block.from_label, labels)))
    assert space.contains(layout) == allowed
    problem = goals(space, 1.0).problem()
    choices = [row.index(label) for row, label in zip(problem.groups, labels, strict=True)]
    assert problem.violations(choices) == (() if allowed else ("at most 2 distinct choices",))


def test_limits_that_one_block_cannot_meet_are_refused_in_the_words_of_the_search():
    space = SearchSpace.from_options(shape_of("lfm2"), attention=(), ffn="gated", keep=[0])
    assert goals(space, 0.9).refuse_unreachable() is None
    with pytest.raises(InfeasibleError, match=r"together: parameters <= 0\.9x and distinct=1"):
        goals(replace(space, distinct=1), 0.9).refuse_unreachable()
