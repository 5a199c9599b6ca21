"""Claims about what the command line imports: only what a subcommand works with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import puzzle
from puzzle import Profile, Roofline, Scenario
from puzzle.cli.commands import COMMANDS
from puzzle.cli.signatures import declared, declared_in_source
from puzzle.scoring.scores import Score, Scores
from search_space import ModelShape, SearchSpace

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "transformers", "scipy", "pandas", "datasets", "accelerate", "matplotlib"}
HEAVY |= {"ray", "submitit", "dask", "cloudpickle"}
RUN = """
import json, sys
try:
    {statement}
except SystemExit as stopped:
    assert not stopped.code, stopped.code
print("\\n" + json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""

HELPS = """
    from puzzle.cli import main
    for line in {lines}:
        try:
            main(line)
        except SystemExit as stopped:
            assert not stopped.code, line"""


def modules(statement, directory):
    """The top-level modules that a fresh interpreter has after a statement."""
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(statement=statement)],
        env={"PYTHONPATH": str(ROOT)},
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def command_line(*arguments):
    return f"from puzzle.cli import main; assert main({list(arguments)!r}) == 0"


@pytest.fixture
def table(tmp_path):
    """A score table of two layers in a file."""
    layer = {
        "attention=8 kv heads && ffn=intermediate size 64": {
            "metrics": {"kl_div": 0.0},
            "stats": {"memory_mib": 4.0},
        },
        "attention=no op && ffn=no op": {
            "metrics": {"kl_div": 0.5},
            "stats": {"memory_mib": 1.0},
        },
    }
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"layer_0": layer, "layer_1": layer}))
    return file


def test_solvers_and_search_space_stand_alone(tmp_path):
    alone = modules("import search_space, solvers", tmp_path)
    assert {"search_space", "solvers"} <= alone
    assert not alone & (HEAVY | {"puzzle"})


def test_importing_puzzle_imports_nothing_heavy(tmp_path):
    assert not modules("import puzzle; dir(puzzle)", tmp_path) & (HEAVY | {"numpy"})


def test_help_imports_nothing_heavy(tmp_path):
    """One interpreter for all helps: what one of them imports stays imported."""
    lines = [["--help"], *([name, "--help"] for name in COMMANDS)]
    assert not modules(HELPS.format(lines=lines), tmp_path) & HEAVY


def test_layouts_and_solve_import_nothing_heavy(table, tmp_path):
    assert not modules(command_line("layouts"), tmp_path) & HEAVY
    draw = command_line("layouts", "llama-3.3-nemotron-super-49b-v1", "--svg", "super.svg")
    assert modules(draw, tmp_path) & HEAVY == {"matplotlib"}
    solve = command_line("solve", str(table), "--constraint", "memory_mib <= 6 MiB")
    assert not modules(solve, tmp_path) & HEAVY


def test_solving_scores_with_a_profile_imports_nothing_heavy(tmp_path):
    shape = ModelShape(layers=2, hidden=48, heads=6, head_dim=8, kv_heads=3, ffn_width=64, vocab=62)
    space, scenario = SearchSpace.preset(shape, "no-op-only"), Scenario()
    costs = Roofline("h100-sxm", shape)
    Profile.take(costs, space, scenario, device={"name": "h100"}).save(tmp_path / "costs.json")
    rows = [{block.label: Score(kl=0.1) for block in space.blocks(layer)} for layer in range(2)]
    (tmp_path / "scores.json").write_text(json.dumps(Scores(tuple(rows)).to_dict()))
    limit = ["--constraint", "parameters <= 1x", "--json"]
    solve = command_line("solve", "scores.json", "--profile", "costs.json", *limit)
    assert not modules(solve, tmp_path) & HEAVY


@pytest.mark.parametrize("name", ["search", "distill", "evaluate", "export", "serve_check"])
def test_what_is_read_from_the_source_is_what_the_imported_function_takes(name):
    read, imported = declared_in_source("puzzle", name), declared(getattr(puzzle, name))
    shown = [(p.name, p.kind, p.default, p.annotation) for p in read.signature.parameters.values()]
    real = imported.signature.parameters.values()
    assert shown == [(p.name, p.kind, p.default, p.annotation) for p in real]
    assert read.docstring == imported.docstring


def test_a_function_that_is_not_public_has_no_declaration():
    with pytest.raises(LookupError):
        declared_in_source("puzzle", "no_such_function")
