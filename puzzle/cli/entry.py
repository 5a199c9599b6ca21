"""main(): options in, one library function run, exit code out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import cache

import puzzle
from puzzle.cli.checks import check_values
from puzzle.cli.commands import COMMANDS
from puzzle.cli.completion import SHELLS, PrintCompletion
from puzzle.cli.config_file import read_config
from puzzle.cli.flags import Given
from puzzle.cli.interruption import exit_code, signals_interrupt
from puzzle.cli.parsing import Parser, WrongLine
from puzzle.cli.printing import calm_progress, forgiving_streams
from puzzle.cli.subcommand import Answer, Subcommand, UsageError
from puzzle.cli.tables import csv_text, json_text, latex_text
from puzzle.errors import ConstraintError, PuzzleError, SettingError
from puzzle.storage.temporary_places import clean_up
from solvers import InfeasibleError, SolverError

EPILOG = """exit codes: 0 done, 1 error, 2 wrong usage, 3 infeasible, 130 interrupted,
143 terminated (SIGTERM), 129 the terminal went away.
Options come from the command line, then from --config FILE.toml, then from the defaults."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0, or 1 error, 2 usage, 3 infeasible, 130 interrupted, 143 terminated, 129 hung up.
    """
    with forgiving_streams():
        try:
            with signals_interrupt():
                return _run(arguments)
        except KeyboardInterrupt as interrupt:
            clean_up()
            print("interrupted; the same command resumes from here", file=sys.stderr)
            return exit_code(interrupt)


def _run(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        values = vars(make_parser().parse_args(arguments))
    except WrongLine as error:
        words = " ".join(arguments).replace("--as=", "--as ")
        form = "json" if "--json" in arguments or "--as json" in words else "text"
        _print_error(UsageError.__name__, error.message, 2, form)
        raise
    command = COMMANDS[values.pop("command")]
    own = command.name
    form = "json" if values.pop("json", False) else values.pop("as", "text")
    values.pop("as", None)
    dry = values.pop("dry_run", False)
    verbosity = values.pop("verbose", 0) - values.pop("quiet", 0)
    logging.basicConfig(level=logging.WARNING - 10 * verbosity)
    try:
        config = values.pop("config", None)
        file = read_config(config, command, COMMANDS) if config is not None else {}
        given = Given({**file, **values})
        check_values(command, given)
        with calm_progress(quiet=verbosity < 0):
            answer = command.plan(given) if dry and command.plan else command.run(given)
        text = _written(answer, form)
    except (PuzzleError, SolverError, ValueError, OSError) as error:
        return _end(own, error, form)
    return answer.code if _print(text) else 1


def _end(command: str, error: Exception, form: str) -> int:
    """Prints why a command ends, and returns its exit code."""
    if isinstance(error, UsageError | SettingError | ConstraintError):
        code, line = 2, f"puzzle {command}: error: {error} (puzzle {command} --help)"
    elif isinstance(error, InfeasibleError):
        code, line = 3, f"infeasible: {error}"
    else:
        code, line = 1, f"error: {error}"
    print(line, file=sys.stderr)
    _print_error(type(error).__name__, str(error), code, form)
    return code


def _print_error(kind: str, message: str, code: int, form: str) -> None:
    if form == "json":
        _print(json_text({"error": {"kind": kind, "message": message, "exit_code": code}}))


def _written(answer: Answer, form: str) -> str:
    if form == "json":
        return json_text(answer.values)
    if form == "text":
        return answer.text
    if not answer.rows:
        raise UsageError(f"--as {form}: there is no table here; allowed: text, json")
    return (csv_text if form == "csv" else latex_text)(answer.rows)


def _print(text: str) -> bool:
    """Prints an answer; returns False if the disk that stdout goes to refuses it."""
    # Of the processes that a launcher starts, only the first prints.
    if os.environ.get("RANK", "0") == "0":
        try:
            print(text, flush=True)
        except OSError as error:
            print(f"error: done, but the answer cannot be printed ({error})", file=sys.stderr)
            return False
    return True


@cache
def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all subcommands; a process that calls `main` again builds no other."""
    parser = Parser(
        prog="puzzle",
        description="Neural architecture search for pretrained language models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"puzzle {puzzle.__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        default=argparse.SUPPRESS,
        metavar="SHELL",
        help=f"print the script that completes commands and options in {', '.join(SHELLS)}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parser.commands = COMMANDS
    for command in COMMANDS.values():
        _add(commands, command)
    return parser


def _add(commands: argparse._SubParsersAction[Parser], command: Subcommand) -> None:
    parser = commands.add_parser(
        command.name,
        help=command.help,
        description=command.help,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in command.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for option in command.options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        option.add_to(groups[option.group])
    absent = argparse.SUPPRESS
    parser.add_argument("--config", default=absent, metavar="FILE", help="options as TOML")
    if command.plan:
        parser.add_argument(
            "--dry-run",
            dest="dry_run",
            action="store_true",
            help="print the plan with its estimated time, memory and disk, and stop",
        )
    parser.add_argument("--json", action="store_true", help="print only JSON on stdout")
    parser.add_argument(
        "--as",
        default=absent,
        choices=("text", "json", "csv", "latex"),
        help="how the answer is printed; csv and latex print its table alone",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more")
    parser.add_argument(
        "-q", "--quiet", action="count", default=0, help="log less, and no progress bars"
    )
