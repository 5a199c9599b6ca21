"""Claims about fitting costs to whole layouts, and about calibrating an engine with them."""

import itertools
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from transformers import LlamaConfig

from puzzle.costs.calibrated.additive import fit_additive
from puzzle.costs.calibrated.design import (
    candidates,
    counts,
    options_of,
    spread_out,
    uniform_layouts,
    where_worst,
)
from puzzle.costs.calibrated.engine_costs import EngineCalibrated
from puzzle.costs.calibrated.engines.command import Command
from puzzle.costs.calibrated.engines.torch_generate import TorchGenerate
from puzzle.costs.checked import layout_cost
from puzzle.errors import ConstraintError, CostModelError, EngineError
from puzzle.limits.scenario import Scenario
from puzzle.storage.workspace import Workspace
from search_space import Block, Layout, ModelShape, SearchSpace

SHAPE = ModelShape(
    layers=6, hidden=32, heads=4, head_dim=8, kv_heads=2, ffn_width=48, vocab=64, tied=True
)
PARENT = SimpleNamespace(
    shape=SHAPE,
    config=LlamaConfig(
        num_hidden_layers=6,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=64,
        tie_word_embeddings=True,
    ),
)
SPACE = SearchSpace.uniform(SHAPE, attentions=["gqa1", "none"], ffns=["gated16", "none"])
SCENARIO = Scenario(batch=2, prompt_tokens=10, generated_tokens=5)
PREFILL = {"fixed": 0.2, "gqa2": 0.03, "gqa1": 0.02, "gated48": 0.05, "gated16": 0.01}
DECODE = {"fixed": 0.1, "gqa2": 0.07, "gqa1": 0.04, "gated48": 0.02, "gated16": 0.015}
# An engine that is a program: it adds up costs of its own, counts its runs, and may misbehave.
ENGINE = """
import json, pathlib, sys
model, here = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent
spec = json.loads((here / "spec.json").read_text())
with (here / "runs").open("a") as file:
    file.write("run\\n")
rows = json.loads((model / "layout.json").read_text())["blocks"]
names = [part for row in rows for part in
         (f"gqa{row['attention']['kv_heads']}", f"gated{row['ffn']['width']}")]
if spec["crash"] and names.count("gqa1") == spec["crash"]:
    sys.exit("crashed as asked")
cost = lambda costs: costs["fixed"] + sum(costs.get(name, 0.0) for name in names)
total = {phase: cost(spec[phase]) for phase in ("prefill", "decode")}
for phase in total:
    total[phase] += spec["bend"] * names.count("gated48") * names.count("gqa2")
print(json.dumps({"prefill_throughput": 20 / total["prefill"],
                  "decode_throughput": 10 / total["decode"]}))
"""


def engine(tmp_path, *, crash=0, bend=0.0, **options):
    spec = {"prefill": PREFILL, "decode": DECODE, "crash": crash, "bend": bend}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    (tmp_path / "engine.py").write_text(ENGINE)
    line = f"{sys.executable} -S {tmp_path / 'engine.py'} {{model}}"
    return Command(command=line, weights=False, **options)


def calibrate(tmp_path, box, **options):
    workspace = Workspace(tmp_path / "run")
    return EngineCalibrated.measure(box, PARENT, SPACE, SCENARIO, workspace=workspace, **options)


def runs(tmp_path):
    return len((tmp_path / "runs").read_text().splitlines())


def true_seconds(layout, costs):
    labels = [part for block in layout.blocks for part in block.label.split("+")]
    return costs["fixed"] + sum(costs.get(label, 0.0) for label in labels)


def test_an_additive_engine_is_learned_exactly(tmp_path):
    found = calibrate(tmp_path, engine(tmp_path))
    assert found.reached
    assert max(error["worst"] for error in found.error.values()) < 1e-9
    for layout in uniform_layouts(SPACE, 20, np.random.default_rng(1)):
        cost = layout_cost(found, layout, SCENARIO)
        assert cost["prefill_seconds"] == pytest.approx(true_seconds(layout, PREFILL))
        assert cost["decode_seconds"] == pytest.approx(true_seconds(layout, DECODE))
        assert cost["seconds"] == pytest.approx(cost["prefill_seconds"] + cost["decode_seconds"])
        assert cost["parameters"] == layout.parameters()
    assert "median error prefill 0.0 %" in repr(found)
    assert json.dumps(found.to_dict())


def test_what_was_run_is_not_run_again(tmp_path):
    first = calibrate(tmp_path, engine(tmp_path))
    before = runs(tmp_path)
    again = calibrate(tmp_path, engine(tmp_path))
    assert runs(tmp_path) == before == len(first.measurements)
    assert again.to_dict() == first.to_dict()
    calibrate(tmp_path, engine(tmp_path, version="2"))
    assert runs(tmp_path) == 2 * before


def test_layouts_are_added_until_the_goal_is_met_or_the_budget_is_spent(tmp_path, caplog):
    box = engine(tmp_path, bend=0.004)
    easy = calibrate(tmp_path, box, goal=0.5)
    hard = calibrate(tmp_path, box, goal=1e-6, max_layouts=16)
    assert len(easy.measurements) < len(hard.measurements) == 16
    assert easy.reached
    assert not hard.reached
    assert "after 16 layouts; the goal is 0.0 %" in caplog.text


def test_a_budget_too_small_for_the_options_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(CostModelError, match="max_layouts=5 is too few for 5 unknown costs"):
        calibrate(tmp_path, engine(tmp_path), max_layouts=5)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(CostModelError, match="after 0 layouts, and 8 are needed"):
        calibrate(tmp_path, engine(tmp_path), max_seconds=0)


def test_a_layout_that_crashes_the_engine_is_replaced(tmp_path, caplog):
    found = calibrate(tmp_path, engine(tmp_path, crash=6))
    assert found.reached
    for measurement in found.measurements:
        labels = [block.attention.label for block in measurement.layout.blocks]
        assert labels.count("gqa1") != 6
    assert "left out" in caplog.text
    assert any("crashed" in log.read_text() for log in (tmp_path / "run" / "logs").iterdir())


def test_an_engine_that_cannot_run_the_parent_is_an_error_with_its_log(tmp_path):
    box = engine(tmp_path)
    (tmp_path / "engine.py").write_text("raise SystemExit('no licence found')")
    with pytest.raises(EngineError, match=r"logs/python.*\.log(.|\n)*no licence found"):
        calibrate(tmp_path, box)


def test_costs_are_refused_for_what_was_not_calibrated(tmp_path):
    found = calibrate(tmp_path, engine(tmp_path))
    other = Scenario(batch=3, prompt_tokens=10, generated_tokens=5)
    with pytest.raises(ConstraintError, match="calibrate again for this one"):
        found.block_cost(0, SHAPE.parent_blocks[0], other)
    with pytest.raises(CostModelError, match=r"linear\+none was not calibrated; known are gqa2"):
        found.block_cost(0, Block.from_label("linear+none"), SCENARIO)


def test_an_engine_that_tells_the_whole_alone_has_no_phases(tmp_path):
    box = engine(tmp_path)
    text = ENGINE.replace(
        'print(json.dumps({"prefill',
        'print(json.dumps({"throughput": 10 / sum(total.values())})) or (json.dumps({"prefill',
    )
    (tmp_path / "engine.py").write_text(text)
    found = calibrate(tmp_path, box)
    layout = Layout.parent(SHAPE)
    cost = layout_cost(found, layout, SCENARIO)
    assert set(cost) == {"seconds", "memory", "kv_cache", "parameters"}
    assert cost["seconds"] == pytest.approx(
        true_seconds(layout, PREFILL) + true_seconds(layout, DECODE)
    )


def test_torch_is_calibrated_beside_the_parent(tmp_path):
    space = SearchSpace.uniform(SHAPE, attentions=["none"], ffns=["none"])
    workspace = Workspace(tmp_path)
    scenario = Scenario(batch=2, prompt_tokens=4, generated_tokens=24)
    found = EngineCalibrated.measure(
        TorchGenerate(rounds=1), PARENT, space, scenario, workspace=workspace, goal=9.0
    )
    assert all(m.parent is not None for m in found.measurements)
    cost = layout_cost(found, Layout.parent(SHAPE), scenario)
    assert cost["decode_seconds"] > 0


def test_a_space_without_none_is_fitted_as_far_as_it_can_be_told_apart(tmp_path):
    space = SearchSpace.uniform(SHAPE, attentions=["gqa1"], ffns=["gated16"])
    workspace = Workspace(tmp_path / "run")
    found = EngineCalibrated.measure(engine(tmp_path), PARENT, space, SCENARIO, workspace=workspace)
    for layout in uniform_layouts(space, 5, np.random.default_rng(3)):
        cost = layout_cost(found, layout, SCENARIO)
        assert cost["decode_seconds"] == pytest.approx(true_seconds(layout, DECODE))


@given(st.lists(st.floats(0, 2), min_size=4, max_size=4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_fit_finds_non_negative_costs_and_predicts_what_it_did_not_see(costs, seed):
    rng = np.random.default_rng(seed)
    rows = np.hstack([np.ones((12, 1)), rng.integers(0, 6, (12, 3))])
    seconds = rows @ np.array(costs) + 0.05
    fit = fit_additive(rows, seconds, ["a", "b", "c"])
    assert [fit.fixed, *fit.costs.values()] == pytest.approx(
        [costs[0] + 0.05, *costs[1:]], abs=1e-6
    )
    assert fit.worst_error < 1e-6


def test_a_fit_is_the_bounded_least_squares_of_relative_errors_and_its_errors_are_of_others():
    rng = np.random.default_rng(0)
    rows = np.hstack([np.ones((10, 1)), rng.integers(0, 6, (10, 2))])
    seconds = rng.uniform(1, 3, 10)

    def reference(keep):
        scaled = rows[keep] / seconds[keep, None]
        return lsq_linear(scaled, np.ones(len(keep)), bounds=(0, np.inf), tol=1e-14).x

    fit = fit_additive(rows, seconds, ["a", "b"])
    assert [fit.fixed, *fit.costs.values()] == pytest.approx(reference(np.arange(10)), abs=1e-6)
    for left in range(10):
        others = np.delete(np.arange(10), left)
        expected = rows[left] @ reference(others) / seconds[left] - 1
        assert fit.errors[left] == pytest.approx(expected, abs=1e-6)


def test_too_few_layouts_cannot_be_fitted():
    with pytest.raises(CostModelError, match="3 layouts are too few to fit 3 costs"):
        fit_additive(np.array([[1, 0, 1], [1, 1, 0], [1, 2, 2]]), [1, 2, 3], ["a", "b"])


def test_spread_out_rows_make_costs_more_certain_than_random_ones():
    rng = np.random.default_rng(0)
    options = options_of(SPACE)
    pool = counts(candidates(SPACE, 300, rng), options)
    ours = pool[[0, *spread_out(pool, [0], 9)]]
    best = max(
        np.linalg.det(rows.T @ rows)
        for rows in (pool[rng.choice(300, 10, replace=False)] for _ in range(50))
    )
    assert np.linalg.det(ours.T @ ours) > best
    assert len({tuple(row) for row in ours}) == 10


def test_every_candidate_has_a_layer_with_a_cache_where_the_space_has_one():
    space = SearchSpace.uniform(SHAPE, attentions=["linear", "none"], ffns=["gated48", "none"])
    drawn = candidates(space, 200, np.random.default_rng(0))
    assert all(any(b.attention.kind == "gqa" for b in layout.blocks) for layout in drawn)
    assert all(space.contains(layout) for layout in drawn)
    rare = [sum(b.attention.kind == "gqa" for b in layout.blocks) for layout in drawn]
    assert min(rare) == 1
    assert max(rare) == SHAPE.layers


def test_candidates_differ_more_than_uniform_layouts():
    options = options_of(SPACE)
    spread = [
        counts(draw(SPACE, 200, np.random.default_rng(0)), options).std(0)[1:]
        for draw in (candidates, uniform_layouts)
    ]
    assert (spread[0] > 1.3 * spread[1]).all()


def test_new_layouts_are_taken_near_the_worst_predicted_one():
    pool = np.array([[1, x, y] for x, y in itertools.product(range(7), repeat=2)], dtype=float)
    corners = [0, 6, 42, 48]  # (0, 0), (0, 6), (6, 0), (6, 6)
    errors = np.array([0.01, 0.01, 0.01, 0.4])
    for at in where_worst(pool, corners, errors, 2):
        assert pool[at, 1:].sum() >= 7
        assert at not in corners
