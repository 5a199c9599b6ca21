"""puzzle solve: `solvers.solve` on scores and costs from files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle import scoring
from puzzle.choice.program import program_of
from puzzle.cli.flags import Given, Option, declared_options
from puzzle.cli.inputs import table
from puzzle.cli.signatures import declared
from puzzle.cli.subcommand import Answer, Subcommand, UsageError, required
from puzzle.cli.tables import csv_text
from puzzle.costs.profile import Profile
from puzzle.errors import ConstraintError
from puzzle.limits.constraints import parse_constraints
from puzzle.scoring.score_table import ScoreTable
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import publish_text
from search_space import Block, Layout, ModelShape
from solvers import ChoiceProblem, Solution, frontier, pool, solve

if TYPE_CHECKING:
    from puzzle.scoring.scores import Scores

CHANGES = {
    "solver": {"help": "highs, scipy, cbc, or pulp:NAME for another solver through PuLP"},
}
SOLVER = declared_options(declared(solve), skip=("problem", "start", "options"), changes=CHANGES)
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
    Option(
        name="pool",
        parameter="pool",
        type=int,
        help="so many near-optimal solutions that differ in a tenth of the layers, not one",
    ),
    Option(
        name="frontier",
        parameter="frontier",
        help="the best solution for each of ten budgets of this resource, such as seconds",
    ),
    Option(
        name="save",
        parameter="save",
        help="write the solution to this JSON file, which puzzle child takes",
    ),
    Option(name="csv", parameter="csv", help="write the table of the answer to this CSV file"),
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
    several = _several(given, problem)
    if several is not None:
        rows = _sweep(several)
        solutions = [_values(each, shape) for each in several]
        answer = Answer(values={"solutions": solutions}, text=table(rows), rows=rows)
    else:
        solution = solve(problem, **given.arguments(SOLVER))
        values, rows = _values(solution, shape), _chosen(problem, solution)
        answer = Answer(values=values, text=_text(problem, solution), rows=rows)
    if given.get("save") is not None:
        publish_text(user_path(given.get("save")), json.dumps(answer.values, indent=1) + "\n")
    if given.get("csv") is not None:
        publish_text(user_path(given.get("csv")), csv_text(answer.rows) + "\n")
    return answer


def _several(given: Given, problem: ChoiceProblem) -> tuple[Solution, ...] | None:
    count, resource = given.get("pool"), given.get("frontier")
    if count is not None and resource is not None:
        raise UsageError("--pool and --frontier are two questions; give one of them")
    settings = given.arguments(SOLVER)
    if resource is not None:
        if resource not in problem.resources:
            known = ", ".join(problem.resources)
            raise UsageError(f"--frontier {resource}: allowed: {known}")
        return frontier(problem, resource, **settings)
    if count is None:
        return None
    if count < 1:
        raise UsageError(f"--pool {count}: give a whole number from 1")
    return pool(problem, count, max(1, len(problem.groups) // 10), **settings)


def _values(solution: Solution, shape: ModelShape | None) -> dict[str, Any]:
    values: dict[str, Any] = solution.to_dict()
    if shape is not None:
        layout = Layout(shape, tuple(map(Block.from_label, solution.labels)))
        values["layout"] = layout.to_dict()
    return values


def _chosen(problem: ChoiceProblem, solution: Solution) -> list[tuple[str, ...]]:
    """Returns a row for each layer: its block, what it scores and what it takes."""
    rows: list[tuple[str, ...]] = [("layer", "block", "score", *problem.resources)]
    start = 0
    for layer, (labels, chosen) in enumerate(zip(problem.groups, solution.labels, strict=True)):
        if chosen in labels:
            at = start + labels.index(chosen)
            taken = (f"{column[at]:.6g}" for column in problem.resources.values())
            rows.append((str(layer), chosen, f"{problem.score[at]:.6g}", *taken))
        else:  # merged with its neighbours
            rows.append((str(layer), chosen, *[""] * (1 + len(problem.resources))))
        start += len(labels)
    return rows


def _sweep(solutions: Sequence[Solution]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("solution", "score", *solutions[0].resources, "status")]
    for number, each in enumerate(solutions):
        taken = (f"{total:.6g}" for total in each.resources.values())
        rows.append((str(number), f"{each.objective:.6f}", *taken, str(each.status)))
    return rows


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
