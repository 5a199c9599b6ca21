"""Claims about the program that scores, costs and constraints make."""

import itertools
import json
import math
from dataclasses import replace

import pytest

from puzzle.choice.goals import Goals
from puzzle.choice.program import program_of
from puzzle.cli import main
from puzzle.costs.profile import Profile
from puzzle.costs.roofline import Roofline
from puzzle.errors import ConstraintError
from puzzle.limits.constraints import parse_constraints
from puzzle.limits.scenario import Scenario, Workload
from puzzle.scoring.scores import Score, Scores
from search_space import ModelShape, SearchSpace
from solvers import solve

SHAPE = ModelShape(
    layers=3, hidden=48, heads=6, head_dim=8, kv_heads=3, ffn_width=1024, vocab=62, tied=True
)
SPACE = SearchSpace.uniform(SHAPE, attentions=["none"], ffns=["gated512"])
SCENARIO = Scenario(batch=2, prompt_tokens=8, generated_tokens=8)
SCORES = Scores(
    tuple(
        {block.label: Score(kl=0.1 * place * (layer + 2)) for place, block in enumerate(row)}
        for layer, row in enumerate(map(SPACE.blocks, range(SHAPE.layers)))
    )
)
UNUSABLE = "none+gated1024"


def profile(*unusable):
    """A profile in which some blocks cannot run."""
    whole = Profile.take(Roofline("h100-sxm", SHAPE), SPACE, SCENARIO, device={"name": "h100"})
    rows = [
        {
            label: {n: math.inf if label in unusable else v for n, v in cost.items()}
            for label, cost in row.items()
        }
        for row in whole.rows
    ]
    return replace(whole, rows=rows)


def cheapest(costs, most):
    """The least score by trying every layout, and its labels."""
    rows = [
        [(label, score.kl, costs.rows[costs.layers[i]][label]) for label, score in row.items()]
        for i, row in enumerate(SCORES.layers)
    ]
    allowed = [
        (math.fsum(kl for _, kl, _ in blocks), tuple(label for label, _, _ in blocks))
        for blocks in itertools.product(*rows)
        if costs.fixed["seconds"] + sum(cost["seconds"] for *_, cost in blocks) <= most
    ]
    return min(allowed)


def test_a_block_of_infinite_cost_is_never_chosen_and_the_others_still_are():
    costs = profile(UNUSABLE)
    problem = program_of(SCORES, costs, SHAPE, SCENARIO, "throughput >= 1.25x")
    assert all(UNUSABLE not in group for group in problem.groups)
    own = costs.fixed["seconds"] + 3 * costs.rows[0][SHAPE.parent_blocks[0].label]["seconds"]
    score, labels = cheapest(costs, own / 1.25)
    solution = solve(problem)
    assert solution.objective == pytest.approx(score)
    assert solution.labels == labels
    free = cheapest(profile(), own / 1.25)
    assert UNUSABLE in free[1], "the limit would be met with the block if it could run"


def test_the_program_of_files_is_the_program_of_a_search():
    costs = profile(UNUSABLE)
    text = "throughput >= 1.25x"
    goals = Goals(parse_constraints(text), Workload.of(SCENARIO), costs, SPACE)
    files, search = program_of(SCORES, costs, SHAPE, SCENARIO, text), goals.problem(SCORES)
    assert files.groups == search.groups
    assert list(files.score) == list(search.score)
    assert [limit.text for limit in files.limits] == [limit.text for limit in search.limits]
    for name, values in search.resources.items():
        assert list(files.resources[name]) == list(values)
        assert files.offsets[name] == search.offsets[name]


def test_a_layer_without_a_block_that_can_run_is_named():
    costs = profile(*SCORES.layers[0])
    with pytest.raises(ConstraintError, match="no block of layer 0 can run"):
        program_of(SCORES, costs, SHAPE, SCENARIO)


def test_puzzle_solve_goes_on_without_the_blocks_that_cannot_run(tmp_path, capsys):
    costs, scores = tmp_path / "costs.json", tmp_path / "scores.json"
    profile(UNUSABLE).save(costs)
    scores.write_text(json.dumps(SCORES.to_dict()))
    arguments = ["solve", str(scores), "--profile", str(costs)]
    assert main([*arguments, "--constraint", "throughput >= 1.25x", "--json"]) == 0
    chosen = json.loads(capsys.readouterr().out)
    expected = solve(program_of(SCORES, profile(UNUSABLE), SHAPE, SCENARIO, "throughput >= 1.25x"))
    assert chosen["objective"] == expected.objective
    assert chosen["status"] == "optimal"
