"""Claims about near scores: exact where it matters, and no block is scored twice."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import puzzle
from puzzle.choice.sharpening import near_optimal, near_scores, sharpened
from puzzle.executors.executor import InProcess
from puzzle.scoring import exact_scores
from puzzle.scoring.exact_scores import exact_of_some, pass_groups, replace_one
from puzzle.scoring.scores import Score, Scores
from puzzle.stages import Run
from solvers import ChoiceProblem, Limit, solve
from tests.factories.parents import DATA, SCENARIO, save_parent, text

LABELS = ("a", "b", "c")


def program(scores, uses):
    """Returns the program of least score within 0.6 of what the first options use."""
    score = [each.kl for _, _, each in scores.items()]
    amounts = [amount for row in uses for amount in row]
    most = max(0.6 * sum(row[0] for row in uses), sum(map(min, uses)))
    limit = Limit("parameters", at_most=most)
    return ChoiceProblem(tuple(map(tuple, scores)), score, {"parameters": amounts}, limits=(limit,))


def best_layouts(scores, uses, count):
    """Returns the labels of the best layouts within the limit, found by trying all."""
    problem = program(scores, uses)
    every = itertools.product(*(range(len(row)) for row in problem.groups))
    kept = [choices for choices in every if not problem.violations(choices)]
    kept.sort(key=lambda choices: problem.evaluate(choices)[0])
    return [
        tuple(row[at] for row, at in zip(problem.groups, choices, strict=True))
        for choices in kept[:count]
    ]


@st.composite
def cases(draw, most_ratio):
    """Returns exact scores, estimates of them, and what options use; the first are the parent's."""
    layers = draw(st.integers(2, 3))
    amounts = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3)
    truth, guesses, uses = [], [], []
    for _ in range(layers):
        kls = [0.0, *draw(amounts)[1:]]
        ratios = draw(st.lists(st.floats(0.1, most_ratio), min_size=3, max_size=3))
        uses.append([1.0, *draw(amounts)[1:]])
        truth.append({label: Score(kl=kl) for label, kl in zip(LABELS, kls, strict=True)})
        guesses.append(
            {
                label: Score(kl=kl * ratio, method="fisher")
                for label, kl, ratio in zip(LABELS, kls, ratios, strict=True)
            }
        )
    return Scores(tuple(truth)), Scores(tuple(guesses)), uses


def sharpen(truth, guesses, uses, count=1):
    """Returns near scores, and the blocks that were scored for them."""
    scored = []

    def exact_of(keys):
        scored.extend(keys)
        return {(layer, label): truth[layer][label] for layer, label in keys}

    found = sharpened(guesses, lambda scores: best_layouts(scores, uses, count), exact_of)
    return found, scored


@given(cases(most_ratio=1.0))
def test_the_optimum_is_that_of_exact_scores_where_no_estimate_is_too_high(case):
    truth, guesses, uses = case
    found, _ = sharpen(truth, guesses, uses)
    (wanted,), (labels,) = (best_layouts(scores, uses, 1) for scores in (truth, found))
    total, least = (sum(map(truth.kl, range(len(uses)), each)) for each in (labels, wanted))
    assert total == pytest.approx(least, abs=1e-9)


@given(cases(most_ratio=3.0), st.integers(1, 4))
def test_the_best_layouts_hold_no_estimate_and_no_block_is_scored_twice(case, count):
    truth, guesses, uses = case
    found, scored = sharpen(truth, guesses, uses, count)
    best = best_layouts(found, uses, count)
    assert {key for labels in best for key in enumerate(labels)} <= set(scored)
    assert len(scored) == len(set(scored))
    for layer, label, score in found.items():
        own = truth if (layer, label) in scored else guesses
        assert score == own[layer][label]


@given(cases(most_ratio=1.0))
def test_exact_scores_stay_as_they_are(case):
    truth, _, uses = case
    assert sharpen(truth, truth, uses, 3) == (truth, [])


def exact_artifacts(workspace):
    return {each.name for each in (workspace.root / "replace-one").glob("*")}


def test_blocks_scored_alone_have_their_scores_among_all_and_are_not_scored_again(
    built, monkeypatch
):
    workspace, parent, space, cut, library = built
    own = parent.shape.parent_blocks[0].label
    keys = [(2, "none+none"), (0, own), (0, "gqa1+none"), (0, "none+none")]
    run = Run(workspace=workspace, parent=parent, windows=cut)
    found = exact_of_some(run, library.refs, keys)
    assert found[0, own] == Score(kl=0.0)
    first = exact_artifacts(workspace)
    assert len(first) == 3
    asked = []
    scored = exact_scores._scored

    def counting(run, stages):
        asked.extend((stage.layer, block.label) for stage in stages for block in stage.blocks)
        return scored(run, stages)

    monkeypatch.setattr(exact_scores, "_scored", counting)
    again = exact_of_some(run, library.refs, [*keys, (1, "none+none")])
    assert asked == [(1, "none+none")]
    assert {key: again[key] for key in keys} == found
    everything = replace_one(library, space, cut, workspace=workspace)
    for (layer, label), score in again.items():
        assert score.kl == pytest.approx(everything.kl(layer, label), rel=1e-4, abs=1e-7)
        assert score.error == pytest.approx(everything[layer][label].error, rel=1e-3, abs=1e-7)


def test_jobs_of_an_executor_score_the_same_blocks(built):
    workspace, parent, space, cut, library = built
    keys = [(0, "gqa1+none"), (0, "none+none"), (2, "none+none")]
    run = Run(workspace=workspace, parent=parent, windows=cut, executor=InProcess())
    found = exact_of_some(run, library.refs, keys)
    before = exact_artifacts(workspace)
    assert exact_of_some(run, library.refs, keys[:2]) == {key: found[key] for key in keys[:2]}
    assert exact_of_some(replace(run, executor=None), library.refs, keys) == found
    assert exact_artifacts(workspace) == before
    everything = replace_one(library, space, cut, workspace=workspace)
    for (layer, label), score in found.items():
        assert score.kl == pytest.approx(everything.kl(layer, label), rel=1e-4, abs=1e-7)


def test_near_scores_go_on_where_they_were_interrupted(built, monkeypatch):
    workspace, parent, space, cut, library = built
    run = Run(workspace=workspace, parent=parent, windows=cut)
    everything = replace_one(library, space, cut, workspace=workspace)
    # All are too low, so that the optimum is that of exact scores, after some rounds.
    halves = {
        (layer, label): Score(kl=score.kl / 2, method="half")
        for layer, label, score in everything.items()
    }
    estimates = everything.replaced(halves)
    uses = [[float(len(row) - at) for at in range(len(row))] for row in everything]

    def near():
        return near_scores(run, library.refs, estimates, lambda scores: program(scores, uses))

    scored, rounds = exact_scores._scored, []

    def interrupted(run, stages):
        if rounds:
            raise KeyboardInterrupt
        rounds.append(len(stages))
        return scored(run, stages)

    monkeypatch.setattr(exact_scores, "_scored", interrupted)
    with pytest.raises(KeyboardInterrupt):
        near()
    kept = {
        name: (workspace.root / "replace-one" / name / "manifest.json").stat().st_mtime_ns
        for name in exact_artifacts(workspace)
    }
    assert kept
    monkeypatch.setattr(exact_scores, "_scored", scored)
    found = near()
    for name, written in kept.items():
        file = workspace.root / "replace-one" / name / "manifest.json"
        assert file.stat().st_mtime_ns == written
    optimum, least = (solve(program(scores, uses)) for scores in (found, everything))
    assert optimum.objective == pytest.approx(least.objective, rel=1e-4)
    assert {found[layer][label].method for layer, label in enumerate(optimum.labels)} == {"exact"}
    assert found.methods()["half"] > 0


@given(st.lists(st.integers(1, 60), max_size=40))
def test_passes_take_every_layer_once_and_few_of_them_few_blocks(blocks):
    groups = pass_groups(blocks, depth=40)
    assert [layer for group in groups for layer in group] == list(range(len(blocks)))
    assert len(groups) <= exact_scores.PASSES
    for group in groups[:-1]:
        own = [blocks[layer] for layer in group]
        assert sum(own) >= exact_scores.PASS_BLOCKS
        assert len(own) == 5 or sum(own[:-1]) < exact_scores.PASS_BLOCKS


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("near")
    settings = {
        "scenario": SCENARIO,
        "precision": "float32",
        "data": DATA,
        "hardware": "roofline:h100-sxm",
        "out": folder / "run",
        "progress": False,
    }
    return save_parent(folder / "parent"), settings


@pytest.mark.slow
def test_a_search_scores_exactly_what_its_best_layouts_are_made_of(searched):
    parent, settings = searched
    result = puzzle.search(parent, text(), constraints="parameters <= 0.8x", **settings)
    evidence = result.evidence
    best = near_optimal(evidence.problem, 8)
    keys = {key for each in best for key in enumerate(each.labels)}
    assert {evidence.scores[layer][label].method for layer, label in keys} == {"exact"}
    assert evidence.scores.methods()["calibrated"] > 0
    assert result.solution.labels == best[0].labels
    predicted = evidence.scores.total(result.layout)
    assert result.predicted.child.kl == pytest.approx(predicted)


@pytest.mark.slow
def test_the_sizes_of_a_nested_family_are_chosen_by_the_same_near_scores(searched):
    parent, settings = searched
    sizes = {"small": "parameters <= 0.6x", "large": "parameters <= 0.8x"}
    how = {"nested": True, "effort": "fast", "scores": "near"}
    nested = puzzle.family(parent, text(), sizes=sizes, **how, **settings)
    scores = nested["small"].evidence.scores
    assert scores == nested["large"].evidence.scores
    assert scores.methods()["calibrated"] > 0
    for result in nested.values():
        labels = result.solution.labels
        assert {scores[layer][label].method for layer, label in enumerate(labels)} == {"exact"}


@pytest.mark.slow
def test_scores_can_be_chosen_apart_from_the_effort(searched):
    parent, settings = searched
    for scores, method in (("exact", "exact"), ("near", "calibrated")):
        result = puzzle.search(
            parent,
            text(),
            constraints="parameters <= 0.8x",
            effort="fast",
            scores=scores,
            **settings,
        )
        assert result.evidence.scores.methods()[method] > 0
        labels = result.solution.labels
        own = [result.evidence.scores[layer][label] for layer, label in enumerate(labels)]
        assert {score.method for score in own} == {"exact"}
        assert not result.evidence.tried
        assert result.evidence.run["settings"]["scores"] == scores
