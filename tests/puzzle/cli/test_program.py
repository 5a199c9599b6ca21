"""Claims about the command line: it says what the library says, and how it ends."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import puzzle
from puzzle.cli import main
from puzzle.cli.commands import COMMANDS
from puzzle.cli.flags import argument_helps
from puzzle.errors import ConstraintError
from search_space import Layout, published_names
from solvers import solve
from tests.factories.parents import text

ROOT = Path(__file__).parents[3]
SIZES = {
    "window": 16,
    "fit-tokens": 512,
    "score-tokens": 64,
    "validation-tokens": 64,
    "batch": 2,
    "prompt-tokens": 8,
    "generated-tokens": 8,
}
SMALL = [part for name, size in SIZES.items() for part in (f"--{name}", str(size))]
SMALL += ["--dtype", "float32"]


@pytest.fixture
def source(saved, tmp_path, monkeypatch):
    """The arguments that name a tiny parent and a text, in an empty working directory."""
    (tmp_path / "text.txt").write_text("\n\n".join(text()))
    monkeypatch.chdir(tmp_path)
    return [str(saved), "--text", "text.txt", "--out", "run", *SMALL]


def said(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_public_function_that_has_a_subcommand_has_it_under_its_own_name():
    for name in (
        "search",
        "distill",
        "evaluate",
        "export",
        "serve_check",
        "devices",
        "doctor",
        "runs",
    ):
        assert name.replace("_", "-") in COMMANDS
        assert callable(getattr(puzzle, name))


def test_search_gives_the_child_and_keeps_the_call_beside_it(source, capsys):
    found = said(capsys, "search", *source, "--constraint", "parameters <= 0.8x")
    layout = Layout.from_dict(found["layout"])
    own = Layout.parent(layout.shape)
    assert layout.parameters() <= 0.8 * own.parameters()
    saved = json.loads(Path("run/child/puzzle_layout.json").read_text())
    assert saved["layout"] == found["layout"]
    page = Path(said(capsys, "report", "run")["path"])
    assert page == Path("run/report.html")
    assert page.read_text().lower().startswith("<!doctype html>")
    again = said(capsys, "search", "--config", "run/search.toml")
    assert again["layout"] == found["layout"]


def test_the_stages_one_by_one_choose_what_a_fast_search_chooses(source, capsys):
    limit = ["--constraint", "parameters <= 0.8x"]
    library = said(capsys, "build", *source)
    assert len(library["layers"]) == 3
    said(capsys, "score", *source, "--method", "fisher", "--save", "scores.json")
    profile = [a for a in source if a not in ("--text", "text.txt")]
    sizes = {f"--{name}" for name in ("window", "fit-tokens", "score-tokens", "validation-tokens")}
    assert sizes < set(profile)
    said(capsys, "profile", *profile, "--save", "costs.json")
    chosen = said(capsys, "solve", "scores.json", "--profile", "costs.json", *limit)
    whole = said(capsys, "search", *source, *limit, "--effort", "fast")
    assert chosen["status"] == "optimal"
    assert chosen["layout"] == whole["layout"]
    assert chosen["objective"] == pytest.approx(whole["predicted"]["child"]["kl"])


def test_a_child_is_distilled_and_evaluated_beside_its_parent(source, saved, capsys):
    said(capsys, "search", *source, "--constraint", "parameters <= 0.8x", "--effort", "fast")
    sizes = ["--tokens", "256", "--length", "16", "--batch", "4", "--micro-batch", "2"]
    data = ["--data", "text.txt"]
    planned = ["distill", "run/child", str(saved), *sizes, "--dry-run", "--shard"]
    one, two = (said(capsys, *planned, "--devices", f"{n}xh100-sxm") for n in (1, 2))
    assert (one["sharded"], two["sharded"]) == (False, True)
    assert two["child"] < one["child"] < 2 * two["child"] * 1.1
    assert one["flops"] == two["flops"] > 0
    assert one["seconds"] == 2 * two["seconds"] > 0
    assert not Path("distilled").exists()
    made = said(capsys, "distill", "run/child", str(saved), *data, *sizes, "--loss", "kl=1")
    assert made["steps"] == 4
    assert made["config"]["losses"] == {"kl": 1.0}
    assert main(["distill", "run/child", str(saved), *data, "--loss", "kl"]) == 2
    found = ["evaluate", made["path"], "--parent", str(saved), *data, "--windows", "2"]
    assert said(capsys, *found, "--length", "16")
    assert (
        "perplexity"
        in puzzle.evaluate(
            made["path"], parent=str(saved), data=Path("text.txt"), windows=2, length=16
        ).table()
    )


def test_solving_a_table_gives_what_solve_gives(tmp_path, capsys):
    def entry(kl, size):
        return {"metrics": {"kl_div": kl}, "stats": {"memory_mib": size}}

    layer = {
        "attention=8 kv heads && ffn=intermediate size 64": entry(0.0, 4.0),
        "attention=no op && ffn=no op": entry(0.5, 1.0),
    }
    file = tmp_path / "block_library.json"
    file.write_text(json.dumps({f"layer_{i}": layer for i in range(3)}))
    found = said(capsys, "solve", str(file), "--constraint", "memory_mib <= 9 MiB")
    table = puzzle.scoring.score_table.ScoreTable.load(file)
    expected = solve(table.problem("kl_div", {"memory_mib": "9 MiB"}))
    assert found["objective"] == expected.objective == 0.5
    assert main(["solve", str(file), "--constraint", "memory_mib <= 2"]) == 3
    assert "infeasible" in capsys.readouterr().err
    assert main(["solve", str(file), "--constraint", "memory_mib"]) == 2


def test_what_cannot_be_reached_ends_with_three_and_a_wrong_word_with_two(source, capsys):
    assert main(["search", *source, "--constraint", "throughput >= 900x"]) == 3
    assert "cannot be reached" in capsys.readouterr().err
    assert main(["score", *source, "--method", "guess"]) == 2
    assert "hybrid, fisher, exact" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["search", *source, "--effrt", "fast"])
    assert stopped.value.code == 2


def test_the_command_line_comes_before_the_file_and_the_file_before_the_defaults(source, capsys):
    Path("run.toml").write_text('space = "ffn"\nbatch = 3\n[search]\nbatch = 4\neffort = "fast"\n')
    plain, config = [a for a in source if a not in ("--batch", "2")], ["--config", "run.toml"]

    def cost(*arguments):
        return said(capsys, "search", *arguments, "--dry-run")

    file = cost(*plain, *config)
    assert file["space"] == cost(*plain, "--space", "ffn")["space"] != cost(*plain)["space"]
    assert "choice" not in {step["name"] for step in file["steps"]}  # "fast" measures no layout
    changed = cost(*plain, *config, "--effort", "thorough", "--space", "small")
    (chosen,) = (step for step in changed["steps"] if step["name"] == "choice")
    assert "at most 220 layouts" in chosen["work"]
    assert changed["space"] == cost(*plain)["space"]


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("bacth = 8", "did you mean 'batch'"),
        ("[serch]\nbatch = 8", "did you mean 'search'"),
        ("[devices]\nbatch = 8", r"key 'batch' in \[devices\] is unknown"),
        ('batch = "many"', "write a whole number"),
        ("batch = true", "write a whole number"),
        ("batch =", "is not valid TOML"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_configuration_file_is_refused_with_a_hint(content, hint, tmp_path, capsys):
    file = tmp_path / "run.toml"
    if content is not None:
        file.write_text(content)
    assert main(["search", "parent", "--text", "text", "--config", str(file)]) == 2
    assert re.search(hint, capsys.readouterr().err)


def test_a_dry_run_writes_nothing(source, capsys):
    before = sorted(Path.cwd().rglob("*"))
    found = said(capsys, "search", *source, "--dry-run")
    assert [step["name"] for step in found["steps"][:2]] == ["opening", "costs"]
    assert found["seconds"] == pytest.approx(sum(step["seconds"] for step in found["steps"]))
    assert sorted(Path.cwd().rglob("*")) == before


INTERRUPTED = """
import os, signal, sys
from puzzle.storage import workspace
from puzzle.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
builds, build = [], workspace.Artifact._build
def interrupting(self, builder, **given):
    builds.append(self)
    if len(builds) == 3:
        def writes_half(directory):
            builder(directory)
            os.kill(os.getpid(), signal.SIGINT)
        return build(self, writes_half, **given)
    return build(self, builder, **given)
workspace.Artifact._build = interrupting
sys.exit(main(sys.argv[1:]))
"""


def test_an_interrupted_search_ends_with_130_and_goes_on_where_it_stopped(
    source, capsys, other_process
):
    arguments = ["search", *source, "--constraint", "parameters <= 0.8x", "--effort", "fast"]
    stopped = other_process.run(INTERRUPTED, *arguments)
    assert stopped.returncode == 130, stopped.stderr
    assert "the same command resumes from here" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    finished = {
        p: p.stat().st_mtime_ns
        for p in Path("run").glob("*/*/manifest.json")
        if p.parents[1].name != "boundary"  # streams are deleted when nothing needs them
    }
    assert "costs" in {path.parents[1].name for path in finished}
    assert not list(Path("run/tmp").iterdir())
    said(capsys, *arguments)
    assert {p: p.stat().st_mtime_ns for p in finished} == finished


def test_layouts_lists_draws_and_reads_children(saved, tmp_path, capsys):
    assert [entry["name"] for entry in said(capsys, "layouts")] == list(published_names())
    name = "llama-3.3-nemotron-super-49b-v1"
    drawing = tmp_path / "super.svg"
    found = said(capsys, "layouts", name, "--svg", str(drawing))
    assert Layout.from_dict(found) == Layout.published(name)
    assert drawing.read_text().startswith("<svg")
    assert Layout.from_dict(said(capsys, "layouts", str(saved))).shape.layers == 3
    assert main(["layouts", "llama-9"]) == 1
    assert main(["layouts", "--svg", "x.svg"]) == 2


def test_devices_names_the_cpu(capsys):
    assert said(capsys, "devices")[0]["torch_name"] == "cpu"


def test_help_comes_from_the_docstrings():
    for command in COMMANDS.values():
        assert len(command.examples) == 2
        for option in command.options:
            assert option.help, f"{command.name} --{option.name}"
    helps = argument_helps(puzzle.export.__doc__.replace("\n    ", "\n"))
    assert helps["directory"].startswith("Where to write")


def test_the_command_line_tells_usage_from_errors(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong in (["search"], ["search", "model"], ["search", "model", "--demo"]):
        assert main(wrong) == 2
        assert "--demo" in capsys.readouterr().err
    (tmp_path / "text").write_text("words")
    assert main(["search", "./nowhere.gguf", "--text", "text"]) == 1
    assert "nowhere.gguf" in capsys.readouterr().err
    with pytest.raises(ConstraintError, match="throughput"):
        puzzle.search("nowhere", text(), constraints=["troughput >= 2x"], out=tmp_path / "run")


@pytest.mark.parametrize("quiet", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_progress_is_silent_when_quiet_and_rare_in_a_file(source, quiet):
    """Of a bar, a file has its start and its end."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "puzzle", "build", *source, *["-q"] * quiet],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("layer")
    drawn = re.findall(r"library-layer", done.stderr)
    assert len(drawn) == (0 if quiet else 2)
    assert not quiet or not done.stderr
