"""Members of a family: what each is chosen from, together or each on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from puzzle.choice.sharpening import near_optimal, sharpened
from puzzle.hardware.precision import AUTO
from puzzle.limits.scenario import Scenario, Workload
from puzzle.pipeline.format_choice import choose_formats
from puzzle.pipeline.opening import Inputs, Opened
from puzzle.pipeline.outcome import Outcome
from puzzle.pipeline.request import Request
from puzzle.pipeline.result import SearchResult
from puzzle.pipeline.tightening import ATTEMPTS, Attempt, Chooser, warn_of_missed
from puzzle.pipeline.watching import announce_scores
from puzzle.scoring.exact_scores import exact_of_some
from puzzle.scoring.scores import Scores
from puzzle.sizes.given_sizes import size_named
from puzzle.stages import Run
from search_space import Block, ModelShape
from search_space.counting import attention_weight_bytes, block_kv_bytes, ffn_weight_bytes
from solvers import ChoiceProblem, InfeasibleError, Limit, Nested, only, solve_nested

# Bytes of a weight, and of an element of the cache, where a sublayer has no format of its own.
_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """A size, and what its layout is chosen from.

    Args:
        name: Its name.
        weight: How much its KL counts in a nested family.
        request: The search that it would be on its own.
        inputs: What its run was opened from.
        opened: The run of the family, with the number formats of this size.
        chooser: Scores, costs and limits.
    """

    name: str
    weight: float
    request: Request
    inputs: Inputs
    opened: Opened
    chooser: Chooser

    def result(self, attempt: Attempt) -> SearchResult:
        """Returns the child of a layout, healed and measured, as `puzzle.search` does."""
        chooser, run, layout = self.chooser, self.opened.run, attempt.choice.layout
        healed = run.for_healing.get(chooser.steps.healing(layout))
        child = chooser.steps.nearer(run, layout, healed, chooser.library)
        outcome = Outcome(
            inputs=self.inputs,
            opened=self.opened,
            chooser=chooser,
            attempt=attempt,
            child=child,
            quality=run.get(chooser.steps.quality(layout, child)),
        )
        return outcome.result(self.request.settings())


def served_as(opened: Opened, inputs: Inputs, request: Request) -> Opened:
    """Returns the run of a family with the scenarios and number formats of one size."""
    run = opened.run
    formats = choose_formats(
        inputs.precision, request.workload, request.hardware, run.parent, run.workspace
    )
    workload = request.workload.served_in(formats.served.name)
    return Opened(run=run, workload=workload, formats=formats)


def all_scenarios(requests: Mapping[str, Request]) -> Workload:
    """Returns the scenarios of all sizes by the names of both, as one workload to open a run by."""
    named: dict[str, Scenario] = {}
    for size, request in requests.items():
        for name, scenario in request.workload.scenarios.items():
            # Each size is served in a format of its own, which is decided later.
            named[f"{size}-{name}" if name else size] = replace(scenario, weight_dtype=AUTO)
    return Workload.of(named)


def free_attempts(members: Mapping[str, Member]) -> dict[str, Attempt]:
    """Returns the layout that each size would have if it were searched alone."""
    attempts = {}
    for name, member in members.items():
        with size_named(name):
            attempts[name] = member.chooser.choose()
    return attempts


def nested_attempts(members: Mapping[str, Member]) -> tuple[dict[str, Attempt], Nested]:
    """Returns layouts of which no sublayer is larger than that of the next size.

    Limits that a child misses when it is measured are tightened a few times, as for one search.

    Args:
        members: The smallest first.

    Raises:
        InfeasibleError: No such layouts keep the limits.
    """
    limits = {name: member.chooser.goals.limits for name, member in members.items()}
    scores = next(iter(members.values())).chooser.scores
    chosen, nested = _attempt(members, limits, scores)
    for _ in range(ATTEMPTS - 1):
        before, limits = limits, {
            name: member.chooser.goals.tightened(limits[name], chosen[name].missed)
            for name, member in members.items()
        }  # fmt: skip
        if limits == before:
            break
        scores = next(iter(chosen.values())).scores
        try:
            chosen, nested = _attempt(members, limits, scores)
        except InfeasibleError:
            break  # the previous layouts stay, with the limits that they miss
    for attempt in chosen.values():
        warn_of_missed(attempt.missed)
    return chosen, nested


def _attempt(
    members: Mapping[str, Member], limits: Mapping[str, tuple[Limit, ...]], scores: Scores
) -> tuple[dict[str, Attempt], Nested]:
    """Solves for all sizes at once; then each is measured among what keeps it between the others.

    The largest comes first, so that what it gains leaves more room to the next.
    """
    chooser = next(iter(members.values())).chooser
    if chooser.steps.near:
        exact_of = partial(exact_of_some, chooser.run, chooser.library.refs)
        scores = sharpened(scores, lambda some: _Together(members, limits, some).best(), exact_of)
        announce_scores(scores)
    together = _Together(members, limits, scores)
    chosen: dict[str, Attempt] = {}
    for number in reversed(range(len(members))):
        name, solution = together.names[number], together.nested.solutions[number]
        program = together.between(number)
        chosen[name] = members[name].chooser.settled(program, solution, scores)
        together.place(number, [block.label for block in chosen[name].choice.layout.blocks])
    return {name: chosen[name] for name in members}, together.nested


class _Together:
    """The program of all sizes, solved, and where each size has its blocks.

    Args:
        members: The smallest first.
        limits: Of each.
        scores: The scores.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        limits: Mapping[str, tuple[Limit, ...]],
        scores: Scores,
    ) -> None:
        self.names, self.members = list(members), list(members.values())
        self.run = self.members[0].opened.run
        self.problems = [
            member.chooser.goals.problem(scores, limits[name]) for name, member in members.items()
        ]
        self.sizes = [_sizes(self.run, members, problem) for problem in self.problems]
        self.nested = _solved(self.run, self.members, self.problems, self.sizes)
        self._at = [
            problem.starts + np.array(solution.choices)
            for problem, solution in zip(self.problems, self.nested.solutions, strict=True)
        ]

    def between(self, number: int) -> ChoiceProblem:
        """Returns what of a size's program keeps it between its neighbours."""
        problem = self.problems[number]
        room = np.ones(problem.size, dtype=bool)
        for other, sign in ((number - 1, 1), (number + 1, -1)):
            if 0 <= other < len(self.names):
                own, edge = self.sizes[number], self.sizes[other]
                room &= _beyond(problem, own, edge, self._at[other], sign)
        return only(problem, room)

    def place(self, number: int, labels: Sequence[str]) -> None:
        """Puts other blocks where the solution has those of a size."""
        problem = self.problems[number]
        rows = zip(problem.groups, labels, strict=True)
        self._at[number] = problem.starts + np.array([row.index(label) for row, label in rows])

    def best(self) -> list[tuple[str, ...]]:
        """Returns the labels of the solutions, and of the best layouts of each size beside them."""
        labels = [solution.labels for solution in self.nested.solutions]
        for number, member in enumerate(self.members):
            count = member.chooser.steps.effort.pool
            if count > 1:
                program, run = self.between(number), self.run
                best = near_optimal(program, count, solver=run.solver, seed=run.seed)
                labels += [solution.labels for solution in best]
        return labels


def _solved(
    run: Run,
    members: list[Member],
    problems: list[ChoiceProblem],
    sizes: list[dict[str, npt.NDArray[np.float64]]],
) -> Nested:
    try:
        return solve_nested(
            problems,
            sizes,
            weights=[member.weight for member in members],
            solver=run.solver,
            seed=run.seed,
        )
    except InfeasibleError as error:
        for member, problem in zip(members, problems, strict=True):
            if error.problem is problem:
                raise member.chooser.goals.in_words(error) from error
        names = ", ".join(member.name for member in members)
        raise InfeasibleError(
            error.problem,
            f"each size can be reached, and no layouts of {names} are nested in this order; give "
            "the sizes from the smallest to the largest, loosen one, or leave nested out",
        ) from error


def _sizes(
    run: Run, members: Mapping[str, Member], problem: ChoiceProblem
) -> dict[str, npt.NDArray[np.float64]]:
    """Returns the measures by which an option is larger than another: bytes of what it takes."""
    tokens = max(
        scenario.sequence_tokens
        for member in members.values()
        for scenario in member.opened.workload.scenarios.values()
    )
    rows = [
        _bytes(run.parent.shape, layer, Block.from_label(label), tokens)
        for layer, row in enumerate(problem.groups)
        for label in row
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _bytes(shape: ModelShape, layer: int, block: Block, tokens: int) -> dict[str, float]:
    own = shape.windowed(layer, block)
    return {
        "attention": attention_weight_bytes(shape, block.attention, _BYTES),
        "cache": float(block_kv_bytes(shape, own, tokens, _BYTES)),
        "ffn": ffn_weight_bytes(shape, block.ffn, _BYTES),
    }


def _beyond(
    problem: ChoiceProblem,
    own: Mapping[str, npt.NDArray[np.float64]],
    edge: Mapping[str, npt.NDArray[np.float64]],
    at: npt.NDArray[np.intp],
    sign: int,
) -> npt.NDArray[np.bool_]:
    """Masks the options that are no smaller (sign 1) or no larger (-1) than another's choice."""
    counts = [len(group) for group in problem.groups]
    kept = [sign * own[name] >= sign * np.repeat(edge[name][at], counts) for name in own]
    mask: npt.NDArray[np.bool_] = np.all(kept, axis=0)
    return mask
