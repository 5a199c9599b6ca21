"""puzzle solve: `solvers.solve` on scores and costs from files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle import scoring
from puzzle.choice.program import program_of
from puzzle.cli.flags import Given, Option, declared_options
from puzzle.cli.inputs import table
from puzzle.cli.signatures import declared
from puzzle.cli.subcommand import Answer, Subcommand, UsageError, required
from puzzle.costs.profile import Profile
from puzzle.errors import ConstraintError
from puzzle.limits.constraints import parse_constraints
from puzzle.scoring.score_table import ScoreTable
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.paths import user_path
from search_space import Block, Layout
from solvers import ChoiceProblem, Solution, solve

if TYPE_CHECKING:
    from puzzle.scoring.scores import Scores

SOLVER = declared_options(declared(solve), skip=("problem", "start", "options"))
OWN = (
    Option(
        name="scores",
        parameter="scores",
        positional=True,
        help="scores that puzzle score --save wrote, or a table in the format of "
        "docs/score-table.md",
    ),
    Option(name="profile", parameter="profile", help="costs that puzzle profile --save wrote"),
    Option(
        name="constraint",
        parameter="constraint",
        many=True,
        help='such as "throughput >= 1.25x" with a profile, or "stats.memory_mib <= 80 GiB" of '
        "a column of the table",
    ),
    Option(
        name="metric",
        parameter="metric",
        default="kl_div",
        help="column of the table whose sum is minimised",
    ),
)


def _run(given: Given) -> Answer:
    file, constraints = user_path(required(given, "scores")), given.get("constraint", [])
    if given.get("profile") is None:
        scores = ScoreTable.load(file)
        with _usage():
            problem = scores.problem(
                given.get("metric", "kl_div"), dict(_amount(text) for text in constraints)
            )
        shape = None
    else:
        profile = Profile.load(given.get("profile"))
        with _usage():
            constraints = parse_constraints(constraints, resources=profile.resources)
        problem = program_of(_scores(file), profile, profile.shape, profile.scenario, constraints)
        shape = profile.shape
    solution = solve(problem, **given.arguments(SOLVER))
    values: dict[str, Any] = solution.to_dict()
    if shape is not None:
        layout = Layout(shape, tuple(map(Block.from_label, solution.labels)))
        values["layout"] = layout.to_dict()
    return Answer(values=values, text=_text(problem, solution))


@contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except ConstraintError as error:
        raise UsageError(f"--constraint: {error}") from error


def _scores(file: Path) -> Scores:
    what = "a file of scores; puzzle score --save writes one"
    with interpreting(file, what):
        return scoring.Scores.from_dict(read_object(file, what))


def _amount(text: str) -> tuple[str, str | float]:
    match = re.fullmatch(r"\s*(\S+)\s*<=\s*(.+?)\s*", text)
    if match is None:
        raise UsageError(f"--constraint {text!r}: of a table, write COLUMN <= AMOUNT")
    try:
        return match[1], float(match[2])
    except ValueError:
        return match[1], match[2]


def _text(problem: ChoiceProblem, solution: Solution) -> str:
    rows: list[tuple[str, ...]] = [("resource", "total")]
    rows += [(name, f"{total:.6g}") for name, total in solution.resources.items()]
    slack = "".join(f"\n  {name}: {left:.6g} to spare" for name, left in solution.slack.items())
    blocks = "\n".join(f"  {group} {label}" for group, label in enumerate(solution.labels))
    return (
        f"{solution.status}: score {solution.objective:.6f}, none below {solution.bound:.6f}, "
        f"{problem.size} options, {solution.seconds:.2f} s\n{table(rows)}{slack}\n{blocks}"
    )


SOLVE = Subcommand(
    name="solve",
    help="choose one block per layer from scores and costs",
    options=(*OWN, *SOLVER),
    examples=(
        'puzzle solve scores.json --profile cpu.json --constraint "throughput >= 1.25x"',
        'puzzle solve block_library.json --constraint "stats.memory_mib <= 80 GiB" --json',
    ),
    run=_run,
)
