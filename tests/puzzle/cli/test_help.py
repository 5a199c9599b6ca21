"""Claims about what helps on the command line: suggestions, groups, names, and five questions."""

import io
import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import puzzle
from puzzle import choice
from puzzle.cli import main
from puzzle.cli.commands import COMMANDS
from puzzle.cli.commands.search_command import CHANGES
from tests.factories.parents import text
from tests.puzzle.cli.test_program import ROOT, said

PUBLIC = ROOT / "tests" / "house" / "public_api.txt"


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        (["serch"], "did you mean 'search'?"),
        (["compar", "a", "b"], "did you mean 'compare'?"),
        (["search", "--demo", "--constrain", "memory <= 1x"], "did you mean --constraint?"),
        (
            ["distill", "c", "--parent", "p"],
            "unknown arguments --parent p; give the parent without",
        ),
        (["solve", "s.json", "--frontiers=memory"], "did you mean --frontier?"),
        (["search", "--demo", "--preset", "ffn"], "did you mean --space?"),
        (["search", "--demo", "--output_dir=run"], "did you mean --out?"),
        (["search", "--model", "m"], "unknown argument --model; give the parent without"),
        (["qqq"], "puzzle: error: there is no command 'qqq' (puzzle --help)"),
    ],
)
def test_what_is_misspelt_is_refused_with_what_was_meant(line, meant, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(line)
    assert stopped.value.code == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_speaks_of_options_and_not_of_python(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = " ".join(capsys.readouterr().out.partition("options:")[2].split())
    python = (
        r"\b(None|False|True|As for|puzzle\.(?!cli)[a-z_]+|[A-Z]\w+Config|[A-Z]\w+\.[a-z]\w+)\b"
    )
    assert not re.search(python, shown)
    shown = shown.partition("examples:")[0]
    functions = re.findall(r"^[a-z]\S*\.(\w+_\w+)\(", PUBLIC.read_text(), re.MULTILINE)
    parameters = {o.parameter for command in COMMANDS.values() for o in command.options}
    names = {name for name in parameters | {*functions, "save_pretrained"} if "_" in name}
    # NAME=VALUE is an argument of a trainer, written as it is.
    assert not names & set(re.findall(r"(?<![\w-])(\w+)\b(?!=)", shown))
    assert not [o.help for o in COMMANDS[name].options if re.match(r"[A-Z][a-z ]", o.help)]
    many = [option for option in COMMANDS[name].options if not option.positional]
    if len(many) > 20:
        assert len({option.group for option in many}) > 1


def test_options_have_the_same_names_for_the_same_thing():
    for command in COMMANDS.values():
        names = {name for option in command.options for name in option.written}
        assert not {"data"} & names - {"data"} or "text" in names, command.name
        canonical = {option.name for option in command.options}
        assert not canonical & {"data", "report", "minimize"}, command.name
        assert len(names) == sum(len(option.written) for option in command.options), command.name


COMPLETE = """
source {script}
COMP_WORDS=({words} "{last}"); COMP_CWORD={index}; COMPREPLY=()
$(complete -p puzzle | sed 's/.*-F \\([^ ]*\\).*/\\1/')
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_commands_options_their_values_and_files(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--print-completion", "bash"])
    assert stopped.value.code == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    (tmp_path / "mine.toml").touch()
    for line, completions in (
        ("puzzle se", "search serve-check"),
        ("puzzle search --eff", "--effort"),
        ("puzzle search --effort ", "fast default thorough"),
        ("puzzle search --config mi", "mine.toml"),
        ("puzzle export child --engine ll", "llama.cpp"),
    ):
        *words, last = line.split(" ")
        script = COMPLETE.format(
            script="completion", words=" ".join(words), last=last, index=len(words)
        )
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == completions.split(), line


def test_choices_are_those_of_the_library():
    """They are written out, so that help needs no torch."""
    assert CHANGES["effort"]["choices"] == tuple(choice.EFFORTS)
    assert CHANGES["scores"]["choices"] == choice.METHODS


def test_five_questions_give_a_file_that_search_takes(tmp_path, monkeypatch, capsys):
    """Wrong answers are asked again, with what is allowed."""
    (tmp_path / "corpus.txt").write_text("\n\n".join(text()))
    answers = [
        *("./parent", "no-such.txt", "corpus.txt", "gpu", "", "8 128", "4 64 32"),
        *("speed >= 2x", "parameters <= 80%, kl <= 0.3"),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{answer}\n" for answer in answers)))
    assert main(["new", "mine.toml"]) == 0
    told = capsys.readouterr()
    for said_wrong in ("no file no-such.txt", "--hardware gpu; allowed", "three whole numbers"):
        assert said_wrong in told.err
    assert "Unknown resource 'speed'" in told.err
    assert tomllib.loads((tmp_path / "mine.toml").read_text()) == {
        "parent": "./parent",
        "text": "corpus.txt",
        "hardware": "cpu",
        "batch": 4,
        "prompt-tokens": 64,
        "generated-tokens": 32,
        "constraint": ["parameters <= 80%", "kl <= 0.3"],
    }
    assert "puzzle search --config mine.toml" in told.out
    assert main(["new", "mine.toml"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_environment_names_versions_and_devices_but_no_place(capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = said(capsys, "env")
    assert told["packages"]["puzzle-nas"] in (puzzle.__version__, "not installed")
    assert told["devices"] == [str(device) for device in puzzle.devices()]
    assert told["variables"]["CUDA_VISIBLE_DEVICES"] == ""
    assert str(ROOT) not in json.dumps(told)
    assert sys.prefix not in json.dumps(told)
    assert main(["env"]) == 0
    assert "torch" in capsys.readouterr().out
