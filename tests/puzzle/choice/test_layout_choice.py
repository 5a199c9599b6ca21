"""Claims about measuring and choosing layouts, on a tiny random parent."""

import itertools

import numpy as np
import pytest
import torch

from puzzle.choice import layout_kl as measure_module
from puzzle.choice.around import TrustRegion, scores_around, successive_halving
from puzzle.choice.baselines import at_random, greedy, uniform, whole_layers, within
from puzzle.choice.candidates import other_candidates
from puzzle.choice.layout_choice import (
    EFFORTS,
    Effort,
    LayoutChoice,
    best_of_pool,
    choice_text,
    effort_named,
    refined,
)
from puzzle.choice.layout_kl import LayoutKL, measured_kl
from puzzle.errors import ConstraintError, DataError
from puzzle.evaluation.text_quality import quality
from puzzle.library.build import build_library
from puzzle.library.settings import LibraryConfig
from puzzle.models.assembling import assemble
from puzzle.scoring.exact_scores import replace_one
from puzzle.scoring.fisher_scores import fisher
from puzzle.scoring.influence import block_influence
from puzzle.stages import Run
from search_space import Block, Layout, SearchSpace, counting
from solvers import ChoiceProblem, Limit, solve


def problem_of(space, scores, share):
    rows = [space.blocks(layer) for layer in range(space.shape.layers)]
    sizes = [counting.block_parameters(space.shape, block) for row in rows for block in row]
    whole = sum(counting.block_parameters(space.shape, row[0]) for row in rows)
    return ChoiceProblem(
        tuple(tuple(block.label for block in row) for row in rows),
        [scores.kl(layer, block.label) for layer, row in enumerate(rows) for block in row],
        {"parameters": np.array(sizes, dtype=float)},
        limits=(Limit("parameters", at_most=share * whole),),
    )


def layouts(space):
    rows = [space.blocks(layer) for layer in range(space.shape.layers)]
    return [Layout(space.shape, blocks) for blocks in itertools.product(*rows)]


def test_a_measured_kl_is_that_of_the_assembled_child(built):
    _, parent, _, cut, library = built
    own = Layout.parent(parent.shape)
    reference = assemble(parent.config, own, library.child_tensors(own), dtype=torch.float32)
    layout = own.replace(0, Block.from_label("none+gated32")).replace(
        2, Block.from_label("gqa1+none")
    )
    child = assemble(parent.config, layout, library.child_tensors(layout), dtype=torch.float32)
    expected = quality(reference, child, cut.score).kl
    found = measured_kl(library, layout, cut.score)
    assert found.kl == pytest.approx(expected, rel=1e-4)
    assert measured_kl(library, own, cut.score).kl == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kept", [0, 2**28])
def test_a_shared_prefix_is_not_run_again_and_changes_no_result(built, monkeypatch, kept):
    _, _, space, cut, library = built
    monkeypatch.setattr(measure_module, "PREFIX_BYTES", kept)
    measure = LayoutKL(library, cut.score)
    some = layouts(space)[::97]
    for layout in some:
        assert measure(layout).kl == measured_kl(library, layout, cut.score).kl
    before = measure.layers_run
    first, *_, last = space.blocks(2)
    base = some[-1]
    for block in (first, last):
        measure(base.replace(2, block))
    # With room for prefixes, layers 0 and 1 are known.
    assert measure.layers_run - before <= (2 if kept else 6)
    before = measure.layers_run
    measure(base.replace(2, last))
    assert measure.layers_run == before


def test_scores_around_a_child_are_its_second_order_expansion_at_the_last_layer(built):
    workspace, parent, space, cut, library = built
    measure = LayoutKL(library, cut.score)
    last = parent.shape.layers - 1
    base = Layout.parent(parent.shape).replace(1, Block.from_label("none+gated32"))
    scores = scores_around(measure, space, base, workspace=workspace, probes=64)
    assert all(scores.kl(i, block.label) == 0.0 for i, block in enumerate(base.blocks))
    head, rows = parent.head().double(), len(cut.score)
    p = torch.softmax(head(measure.residual(Layout.parent(parent.shape), rows).double()), -1)
    y = measure.residual(base, rows).double()
    q = torch.softmax(head(y), -1)
    for block in space.blocks(last)[1:]:
        step = 1e-5 * (measure.residual(base.replace(last, block), rows).double() - y)
        change = (head(y + step) - head(y - step)) / 2e-5
        slope = ((q - p) * change).sum(-1).mean()
        bend = ((q * change**2).sum(-1) - (q * change).sum(-1) ** 2).mean() / 2
        expected = pytest.approx(float(slope + bend), abs=0.15 * float(bend))
        assert scores.kl(last, block.label) == expected


def test_scores_around_a_child_see_that_a_step_back_to_the_parent_helps(built):
    workspace, parent, space, cut, library = built
    measure = LayoutKL(library, cut.score)
    base = Layout.parent(parent.shape).replace(1, Block.from_label("gqa1+gated48"))
    scores = scores_around(measure, space, base, workspace=workspace, probes=32)
    assert scores.kl(1, parent.shape.parent_blocks[0].label) < 0.0
    assert measure(base).kl > measure(Layout.parent(parent.shape)).kl


@pytest.mark.parametrize("share", [pytest.param(0.8, marks=pytest.mark.slow), 0.5])
def test_measuring_never_makes_the_choice_worse_and_keeps_the_limit(built, share):
    workspace, parent, _, cut, library = built
    # Six blocks for each layer, so that all 216 layouts are measured in little time.
    space = SearchSpace.uniform(parent.shape, attentions=["none"], ffns=["gated32", "none"])
    scores = replace_one(library, space, cut, workspace=workspace)
    problem = problem_of(space, scores, share)
    measure = LayoutKL(library, cut.score)
    start = Layout(space.shape, tuple(map(Block.from_label, solve(problem).labels)))
    whole = measure(start).kl
    tried = [
        best_of_pool(problem, start, measure, 4),
        TrustRegion(problem=problem, space=space, rounds=2).improve(
            Run(workspace=workspace, parent=library.parent), start, measure
        ),
        refined(problem, start, measure, 30),
    ]
    allowed = [x for x in layouts(space) if within(problem, [b.label for b in x.blocks])]
    best = min(measure(layout).kl for layout in allowed)
    for layout in tried:
        assert layout in allowed
        assert best <= measure(layout).kl <= whole


def test_other_candidates_are_the_fisher_optimum_and_the_parent_without_whole_layers(built):
    workspace, parent, _, cut, library = built
    space = SearchSpace.uniform(parent.shape, attentions=["none"], ffns=["gated32", "none"])
    library = build_library(parent, space, cut, workspace=workspace)
    for share, dropped in ((0.7, 1), (0.5, 2), (0.0, 3)):
        problem = problem_of(space, replace_one(library, space, cut, workspace=workspace), share)
        by_gradient, whole = other_candidates(
            Run(workspace=workspace, parent=library.parent, windows=cut), problem, library, space
        )
        scores = fisher(library, space, cut, workspace=workspace)
        assert [b.label for b in by_gradient.blocks] == list(
            solve(problem_of(space, scores, share)).labels
        )
        influence = block_influence(parent, cut.score)
        least = sorted(range(3), key=lambda layer: influence[layer])[:dropped]
        gone = [i for i, block in enumerate(whole.blocks) if block.label == "none+none"]
        assert sorted(least) == gone
        assert all(
            b == parent.shape.parent_blocks[0] for b in whole.blocks if b.label != "none+none"
        )


def test_a_choice_is_stored_and_says_what_was_predicted_and_measured(built):
    workspace, _, space, cut, library = built
    problem = problem_of(space, replace_one(library, space, cut, workspace=workspace), 0.6)
    optimum = solve(problem)

    def run(effort):
        run = Run(workspace=workspace, parent=library.parent, windows=cut)
        return run.get(
            LayoutChoice(
                problem=problem,
                optimum=optimum,
                layers=library.refs,
                space=space,
                effort=effort,
            )
        )

    effort = Effort(pool=3, rounds=1, moves=8)
    first = run(effort)
    text = choice_text(cut, LibraryConfig().held_out)
    fitted = round(len(cut.fit) * (1 - LibraryConfig().held_out))
    assert torch.equal(text, torch.cat([cut.score, cut.fit[fitted:]]))
    assert first.measured.kl == measured_kl(library, first.layout, text).kl
    choices = [
        row.index(block.label)
        for row, block in zip(problem.groups, first.layout.blocks, strict=True)
    ]
    assert first.predicted == pytest.approx(problem.evaluate(choices)[0])
    assert run(effort) == first
    labels = tuple(block.label for block in first.layout.blocks)
    assert first.tried[labels] == first.measured.kl
    # Its own quarter of the text chose what was measured on all of it, and the best was taken.
    own = tuple(row[0] for row in problem.groups)
    assert first.measured.kl == min(kl for one, kl in first.tried.items() if one != own)
    assert len(list((workspace.root / "choice").iterdir())) == 1
    fast = run(EFFORTS["fast"])
    assert fast.measured is None
    assert fast.predicted == optimum.objective


def test_halving_measures_most_layouts_on_little_text(built):
    _, _, space, cut, library = built
    measure = LayoutKL(library, cut.score)
    calls = []

    class Counting:
        tokens = cut.score

        def all(self, layouts, *, windows=None):
            calls.extend([windows] * len(layouts))
            return measure.all(layouts, windows=windows)

    some = layouts(space)[5:800:100]
    best = successive_halving(some, Counting())
    assert measure(best).kl <= measure(some[0]).kl
    assert sum(n is None for n in calls) <= 3


def test_baselines_keep_the_limit_and_are_what_they_say(built):
    workspace, parent, space, cut, library = built
    scores = replace_one(library, space, cut, workspace=workspace)
    problem = problem_of(space, scores, 0.55)
    own = parent.shape.parent_blocks[0]
    ladder = [own.label, "gqa3+gated48", "gqa3+gated32", "gqa3+none", "none+none"]
    even = uniform(problem, ladder)
    assert len(set(even)) <= 2
    found = [even, greedy(problem), at_random(problem, seed=3, share=0.9)]
    dropped = whole_layers(problem, [0.3, 0.1, 0.2], empty="none+none")
    assert dropped == (own.label, "none+none", "none+none")
    for labels in [*found, dropped]:
        assert within(problem, labels)
        choices = [row.index(label) for row, label in zip(problem.groups, labels, strict=True)]
        assert problem.evaluate(choices)[0] >= solve(problem).objective - 1e-9
    assert at_random(problem, seed=3, share=0.9) == found[2]
    impossible = problem.with_limits([Limit("parameters", at_most=-1.0)])
    for baseline in (
        lambda: uniform(impossible, ladder),
        lambda: greedy(impossible),
        lambda: whole_layers(impossible, [0.0] * 3, empty="none+none"),
    ):
        with pytest.raises(ConstraintError, match="limit"):
            baseline()


def test_an_unknown_effort_is_refused_with_those_allowed():
    with pytest.raises(DataError, match="allowed: fast, default, thorough"):
        effort_named("heroic")
