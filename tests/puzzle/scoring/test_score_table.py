"""Importing a score table: a made-up file of the published form, and every way to spoil it."""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from puzzle.errors import ConstraintError, DataError
from puzzle.scoring.score_table import ScoreTable
from search_space import Block
from solvers import Limit, pool, solve

WIDTHS = {"intermediate size 2e2 (parent * 100%)": 160, "no_op (parent * 0%)": 0}
HEADS = {"2 kv heads (parent * 100%)": 2, "linear (parent * 1%)": 0, "no_op (parent * 0%)": 0}


def made_up() -> dict[str, Any]:
    table: dict[str, Any] = {}
    for layer in range(3):
        blocks: dict[str, Any] = {}
        for a, (attention, heads) in enumerate(HEADS.items()):
            for f, (ffn, width) in enumerate(WIDTHS.items()):
                blocks[f"attention = {attention}\t&&\tffn = {ffn}"] = {
                    "stats": {
                        "num_kv_heads": heads,
                        "ffn_intermediate_size": width,
                        "memory_mib": 10.0 * heads + 0.5 * width,
                        "runtime_ms": 2 * heads + 3 * bool(width) + (a == 1),
                    },
                    "metrics": {"kl_div": a * (layer + 1) + 5.0 * f, "lm_loss": 1.5 + a + f},
                }
        table[f"layer_{layer}"] = blocks
    return table


def write(folder: Path, table: Any, *, beside: bool = True) -> Path:
    (folder / "block_library.json").write_text(json.dumps(table))
    if beside:
        parent = next(iter(table["layer_0"].values()))
        (folder / "parent_block_stats.json").write_text(json.dumps(parent))
        (folder / "measurement_info.json").write_text('{"batch_size": 4}')
    return folder


def test_a_table_is_read_with_blocks_costs_and_scores(tmp_path: Path) -> None:
    table = ScoreTable.load(write(tmp_path, made_up()))
    assert table.layers == 3
    assert table.labels[0] == (
        "gqa2+gated160",
        "gqa2+none",
        "linear+gated160",
        "linear+none",
        "none+gated160",
        "none+none",
    )
    assert table.blocks[2][1] == Block.from_label("gqa2+none")
    assert set(table.stats) == {
        "num_kv_heads",
        "ffn_intermediate_size",
        "memory_mib",
        "runtime_ms",
    }
    assert table.metrics["kl_div"].tolist()[6:9] == [0.0, 5.0, 2.0]
    assert table.measurement == {"batch_size": 4}
    assert table.parent_totals()["memory_mib"] == 300.0


def test_the_order_of_layers_in_the_file_does_not_matter(tmp_path: Path) -> None:
    turned = dict(reversed(made_up().items()))
    table = ScoreTable.load(write(tmp_path, turned) / "block_library.json")
    assert table.metrics["kl_div"].tolist()[2::6] == [1.0, 2.0, 3.0]


def test_the_problem_is_solved_in_the_units_of_the_table(tmp_path: Path) -> None:
    table = ScoreTable.load(write(tmp_path, made_up()))
    solution = solve(table.problem(limits={"memory_mib": 280.0}))
    assert solution.labels == ("linear+gated160", *["gqa2+gated160"] * 2)
    again = solve(table.problem(limits=[Limit("memory_mib", at_most=280.0)]))
    assert again.choices == solution.choices
    blocks = [Block.from_label(label) for label in solution.labels]
    assert table.choices(blocks) == solution.choices
    other = solve(table.problem("lm_loss", limits={"runtime_ms": "0.014 s"}))
    assert other.resources["runtime_ms"] <= 14.0
    assert other.objective > 4.5


@pytest.mark.parametrize(
    ("amount", "mib"),
    [("80 GiB", 80 * 1024.0), ("80GB", 80e9 / 2**20), (80.0, 80.0), ("1.5 TiB", 1.5 * 2**20)],
)
def test_a_budget_says_which_unit_is_meant(tmp_path: Path, amount: Any, mib: float) -> None:
    table = ScoreTable.load(write(tmp_path, made_up()))
    assert table.problem(limits={"memory_mib": amount}).limits[0].at_most == pytest.approx(mib)


def test_a_budget_that_limits_nothing_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ScoreTable.load(write(tmp_path, made_up())).problem(limits={"memory_mib": "80 GiB"})
    assert "limits nothing, as the most any choice uses is 300" in caplog.text


def test_names_that_say_nothing_known_stay_as_they_are(tmp_path: Path) -> None:
    table = made_up()
    for blocks in table.values():
        blocks["mamba"] = copy.deepcopy(next(iter(blocks.values())))
    loaded = ScoreTable.load(write(tmp_path, table))
    assert (loaded.labels[0][-1], loaded.blocks[0][-1]) == ("mamba", None)


FIRST = "attention = 2 kv heads (parent * 100%)\t&&\tffn = no_op (parent * 0%)"


def spoil(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    table = made_up()
    at = table
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (spoil(("layer_1",), None), "layer_1 missing; a table has every layer from layer_0 on"),
        (spoil(("layer_x",), {}), "unknown key 'layer_x'"),
        (spoil(("layer_1",), {}), "layer_1 has no blocks"),
        (spoil(("layer_1", FIRST, "stats"), None), "of layer_1 lacks its stats or its metrics"),
        (
            spoil(("layer_1", FIRST, "stats", "memory_mib"), -1),
            "memory_mib of block .* of layer_1 is -1; costs cannot be negative",
        ),
        (
            spoil(("layer_1", FIRST, "metrics", "kl_div"), math.nan),
            "kl_div of block .* of layer_1 is nan; give a finite number",
        ),
        (spoil(("layer_1", FIRST, "stats", "memory_mib"), "9"), "memory_mib .* is '9'"),
        (
            spoil(("layer_2", FIRST, "stats", "energy"), 1),
            "of layer_2 and the first block of layer_0 differ in stats: energy",
        ),
        (spoil(("layer_2", FIRST, "metrics", "kl_div"), None), "differ in metrics: kl_div"),
        ([], "table of scores: it holds a JSON list instead of an object"),
        ({}, "layer_0 missing"),
    ],
)
def test_spoilt_tables_are_refused_by_name(tmp_path: Path, table: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ScoreTable.load(write(tmp_path, table, beside=False))


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.json cannot be read"):
        ScoreTable.load(tmp_path / "nothing.json")
    file = tmp_path / "block_library.json"
    file.write_text('{"layer_0": {}, "layer_0": {}}')
    with pytest.raises(DataError, match="'layer_0' appears twice"):
        ScoreTable.load(file)
    file.write_text("{")
    with pytest.raises(
        DataError, match=r"block_library\.json is not a table of scores: it is not JSON"
    ):
        ScoreTable.load(file)


def test_unknown_names_and_units_are_refused_with_what_is_known(tmp_path: Path) -> None:
    table = ScoreTable.load(write(tmp_path, made_up(), beside=False))
    with pytest.raises(DataError, match="unknown metric 'kl'; the table has kl_div, lm_loss"):
        table.problem("kl")
    with pytest.raises(ConstraintError, match="did you mean 'memory_mib'"):
        table.problem(limits={"memory_mb": 1.0})
    with pytest.raises(ConstraintError, match="did you mean 'runtime_ms'"):
        table.problem(limits=[Limit("runtime", at_most=1.0)])
    with pytest.raises(ConstraintError, match=r"'80 G': .* \(GB is 10\^9 bytes, GiB is 2\^30\)"):
        table.problem(limits={"memory_mib": "80 G"})
    with pytest.raises(ConstraintError, match="units of num_kv_heads: none: give a number"):
        table.problem(limits={"num_kv_heads": "8 heads"})
    with pytest.raises(DataError, match=r"put parent_block_stats\.json beside it"):
        table.parent_totals()
    with pytest.raises(DataError, match="the layout has 1 layers and the table 3"):
        table.choices([Block.from_label("none+none")])
    with pytest.raises(DataError, match="no 'gqa4\\+none' for layer 0; it has gqa2"):
        table.choices([Block.from_label("gqa4+none")] * 3)


@pytest.mark.skipif(
    "PUZZLE_NVLABS_LIBRARY" not in os.environ, reason="PUZZLE_NVLABS_LIBRARY names no table"
)
def test_the_published_solutions_are_reached() -> None:
    table = ScoreTable.load(os.environ["PUZZLE_NVLABS_LIBRARY"])
    first = solve(table.problem(limits={"memory_mib": 80_000, "runtime_ms": 51_200}))
    assert round(first.objective, 6) == 6.861455
    assert round(solve(table.problem(limits={"memory_mib": 40_000})).objective, 6) == 18.935023
    parent = table.parent_totals()
    limits = {name: 0.85 * parent[name] for name in ("memory_mib", "runtime_ms")}
    found = pool(table.problem(limits=limits), 3, 20)
    assert [round(solution.objective, 4) for solution in found] == [3.2821, 3.3417, 3.3822]
