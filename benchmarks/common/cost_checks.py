"""Predicted against measured seconds of whole layouts."""

import argparse
import json
import statistics
import sys
import time
from types import SimpleNamespace

import numpy as np
from common.machine import print_machine
from common.programs import choice_problem
from transformers import LlamaConfig

from puzzle.costs.calibrated.design import candidates, uniform_layouts
from puzzle.costs.calibrated.session import Session
from puzzle.costs.checked import layout_cost
from puzzle.limits.scenario import Scenario
from puzzle.storage.workspace import Workspace
from search_space import Block, Layout, ModelShape, SearchSpace
from solvers import Limit, solve

# SmolLM2-135M; random weights are as fast as trained ones.
SHAPE = ModelShape(
    layers=30, hidden=576, heads=9, head_dim=64, kv_heads=3, ffn_width=1536, vocab=49152, tied=True
)
PARENT = SimpleNamespace(
    shape=SHAPE,
    config=LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    ),
)
SPACE = SearchSpace.preset(SHAPE, "default")
GAINS = (1.1, 1.25, 1.5, 1.75, 2.0)
PHASES = {"prefill": "prefill_seconds", "decode": "decode_seconds", "seconds": "seconds"}


def arguments(description):
    """Returns the parser of the options that all such scripts share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", default="out/costs", help="where measured layouts are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", type=int, default=20, help="random layouts to check")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", default="cpu", choices=["wall", "cpu"])
    parser.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="stop after this long; the next run resumes",
    )
    for name, value in (("batch", 1), ("prompt-tokens", 128), ("generated-tokens", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser


def scenario_of(options, dtype):
    """Returns the scenario that the options name."""
    return Scenario(
        batch=options.batch,
        prompt_tokens=options.prompt_tokens,
        generated_tokens=options.generated_tokens,
        weight_dtype=dtype,
    )


def random_layouts(count, seed):
    """Returns layouts unlike those of a calibration: half uniform, half with rare options."""
    rng = np.random.default_rng(1000 + seed)
    half = count // 2
    return [*uniform_layouts(SPACE, half, rng), *candidates(SPACE, count - half, rng)]


def searched_layouts(costs, scenario, seed):
    """Returns what searches with made-up scores choose for several gains of throughput.

    A block's score grows with the parameters that it loses, by an amount that differs by layer.
    """
    rng = np.random.default_rng(2000 + seed)
    parent = layout_cost(costs, Layout.parent(SHAPE), scenario)["seconds"]
    rows = [SPACE.blocks(layer) for layer in range(SHAPE.layers)]
    layouts = []
    for gain in GAINS:
        weight = rng.lognormal(0.0, 1.0, (SHAPE.layers, 2))
        problem = choice_problem(
            rows,
            lambda layer, block, weight=weight: _lost_shares(block) @ weight[layer],
            {"seconds": lambda layer, b: costs.block_cost(layer, b, scenario)["seconds"]},
            [Limit("seconds", at_most=parent / gain)],
            offsets={"seconds": costs.fixed_cost(SHAPE, scenario)["seconds"]},
        )
        labels = solve(problem, seed=seed).labels
        layouts.append(Layout(SHAPE, tuple(map(Block.from_label, labels))))
    return layouts


def _lost_shares(block):
    attention = {"gqa": 1 - (block.attention.kv_heads or 0) / 3, "linear": 1.2, "none": 1.5}
    ffn = {"gated": 1 - (block.ffn.width or 0) / 1536, "linear": 1.2, "none": 1.5}
    return np.array([attention[block.attention.kind], ffn[block.ffn.kind]])


def check(costs, session, layouts, deadline):
    """Returns predicted / measured of each layout, and of its ratio to the parent's."""
    parent = layout_cost(costs, Layout.parent(SHAPE), session.scenario)
    rows = []
    for layout in layouts:
        if time.monotonic() > deadline:
            sys.exit("time is up; run again to resume")
        measured = session.measure(layout)
        cost = layout_cost(costs, layout, session.scenario)
        row = {"gain": round(1 / measured.ratio("seconds"), 3)}
        for phase, name in PHASES.items():
            ratio = cost[name] / parent[name] / measured.ratio(phase)
            row[phase] = round(cost[name] / measured.timing.median(phase), 4)
            row[f"{phase}_ratio"] = round(ratio, 4)
        rows.append(row)
    return rows


def summary(rows):
    """Returns median and worst error of each column, in percent."""
    columns = {}
    for name in rows[0]:
        if name != "gain":
            errors = [100 * abs(row[name] - 1) for row in rows]
            columns[name] = {
                "median %": round(statistics.median(errors), 2),
                "worst %": round(max(errors), 2),
            }
    return columns


def report(costs, engine, options, scenario, deadline):
    """Checks costs against an engine and prints one JSON object."""
    session = Session(
        engine=engine, config=PARENT.config, scenario=scenario, workspace=Workspace(options.out)
    )
    groups = {
        "random": random_layouts(options.layouts, options.seed),
        "searched": searched_layouts(costs, scenario, options.seed),
    }
    rows = {name: check(costs, session, each, deadline) for name, each in groups.items()}
    record = {
        "machine": print_machine(dtype=scenario.weight_dtype, seed=options.seed),
        "engine": engine.record(),
        "scenario": scenario.to_dict(),
        "space": repr(SPACE),
        "costs": repr(costs),
        "error": getattr(costs, "error", None),
        "summary": {name: summary(each) for name, each in rows.items()},
        "predicted / measured": rows,
    }
    print(json.dumps(record, indent=1))
