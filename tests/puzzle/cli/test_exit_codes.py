"""Claims about how the command line ends on wrong values: with 2, before any work, by name."""

import json
from pathlib import Path

import pytest

from puzzle.cli import main
from puzzle.cli.commands import COMMANDS
from puzzle.cli.tables import json_text

SOURCE = ["no-such-parent", "--text", "no-such-text.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", *SOURCE, "--space", "smal"], "--space smal: allowed: default, small,"),
        (["build", *SOURCE, "--space", "all"], "--space all: allowed: default, small,"),
        (["search", *SOURCE, "--effort", "much"], "--effort much: allowed: fast, default"),
        (["search", *SOURCE, "--hardware", "h100"], "--hardware h100; allowed: 'cpu' or 'cuda'"),
        (["search", *SOURCE, "--hardware", "roofline:h1"], "h100-sxm"),
        (["profile", "p", "--hardware", "table:no.csv"], "there is no file no.csv; give"),
        (["profile", "p", "--hardware", "no.json"], "there is no file no.json; give"),
        (["search", *SOURCE, "--constraint", "throughput > fast"], "throughput"),
        (["search", *SOURCE, "--constraint", "speed >= 2x"], "speed"),
        (["search", *SOURCE, "--dtype", "float8"], "float32"),
        (["search", *SOURCE, "--working-dtype", "int4"], "float32"),
        (["profile", "p", "--batch", "0"], "it must be a whole number of at least 1"),
        (["build", *SOURCE, "--coupling", "half"], "allowed: none, removed, all"),
        (["search", *SOURCE, "--bld-tokens", "0", "--bld"], "tokens=0; allowed"),
        (["evaluate", "child"], "there is nothing to measure; give --text FILE, --task NAME"),
        (["distill", "c", "--text", "t.txt", "--teacher", "t"], "cosine need the parent itself; "),
        (["distill", "c", "--text", "t.txt", "--teacher", "t", "--loss", "mse=1"], "--loss kl=1"),
    ],
)
def test_a_wrong_value_is_wrong_usage_and_says_what_is_allowed(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith(f"puzzle {arguments[0]}: error: ")
    assert printed.err.endswith(f"(puzzle {arguments[0]} --help)\n")
    assert not printed.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", ["memory_mib <= 1 GB/s", "weight <= 3", "memory_mib"])
def test_a_constraint_that_a_table_cannot_have_is_wrong_usage(asked, tmp_path, capsys):
    block = {"metrics": {"kl_div": 0.0}, "stats": {"memory_mib": 4.0}}
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"layer_0": {"attention=no op && ffn=no op": block}}))
    assert main(["solve", str(file), "--constraint", asked]) == 2
    assert "--constraint" in capsys.readouterr().err


def test_a_parent_or_text_that_is_not_there_is_an_error_that_says_what_to_give(
    saved, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["build", str(saved), "--text", "no-such-text.txt"]) == 1
    error = capsys.readouterr().err
    assert "--text: there is no text file no-such-text.txt; give the path" in error
    Path("text.txt").write_text("Some text.\n\nMore of it.")
    assert main(["build", "./no-such-parent", "--text", "text.txt"]) == 1
    assert "no-such-parent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "kind", "code", "message"),
    [
        (["solve", "no-such.json"], "DataError", 1, "no-such.json"),
        (["solve", "table.json", "--constraint", "weight <= 3"], "UsageError", 2, "weight"),
        (["solve", "table.json", "--constrain=3"], "UsageError", 2, "did you mean --constraint?"),
        (
            ["solve", "table.json", "--pool", "all"],
            "UsageError",
            2,
            "--pool: 'all' is not a whole number",
        ),
        (["solve", "table.json", "--pool"], "UsageError", 2, "--pool: expected one argument"),
        (["solve", "table.json", "--constraint", "mib <= 1"], "InfeasibleError", 3, "mib"),
    ],
)
@pytest.mark.parametrize("form", [["--json"], ["--as", "json"], ["--as=json"]])
def test_with_json_an_error_is_json_too(arguments, kind, code, message, form, tmp_path, capsys):
    block = {"metrics": {"kl_div": 0.0}, "stats": {"mib": 4.0}}
    (tmp_path / "table.json").write_text(
        json.dumps({"layer_0": {"attention=no op && ffn=no op": block}})
    )
    command, file, *rest = arguments
    try:
        ended = main([command, str(tmp_path / file), *form, *rest])
    except SystemExit as stopped:
        ended = stopped.code
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert (ended, error["kind"], error["exit_code"]) == (code, kind, code)
    assert message in error["message"]
    assert error["message"] in printed.err


def test_json_has_null_for_what_no_reader_takes():
    values = {"a": [1.5, float("nan")], "b": (float("-inf"), "x")}
    assert json.loads(json_text(values)) == {"a": [1.5, None], "b": [None, "x"]}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_wrong_usage_of_every_subcommand(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--no-such-option"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"puzzle {name}: error: unknown argument --no-such-option (puzzle {name} --help)\n"
    )
