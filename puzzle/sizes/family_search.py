"""family(): several children of one parent, from one library and one set of scores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from puzzle.choice.goals import Goals
from puzzle.costs.by_name import require_engine
from puzzle.costs.protocol import CostModel
from puzzle.errors import SettingError
from puzzle.executors.executor import Executor
from puzzle.hardware.precision import Precision
from puzzle.hardware.torch_state import own_torch_state
from puzzle.library.settings import LibraryConfig
from puzzle.limits.requirements import SCORE
from puzzle.limits.scenario import WorkloadLike
from puzzle.pipeline.opening import Inputs, Opened, open_run, open_workspace
from puzzle.pipeline.request import Request
from puzzle.pipeline.steps import Priced, Steps
from puzzle.pipeline.tightening import Chooser
from puzzle.pipeline.watching import Trackers, Watch, announce_result, announce_scores
from puzzle.sizes.family_result import FamilyResult
from puzzle.sizes.given_sizes import Size, given_sizes, size_named
from puzzle.sizes.members import (
    Member,
    all_scenarios,
    free_attempts,
    nested_attempts,
    served_as,
)
from puzzle.storage.workspace import Workspace
from puzzle.text.data_config import DataConfig
from search_space import SearchSpace


@own_torch_state()
def family(
    parent: Any,
    text: Any,
    *,
    sizes: Mapping[str, Any],
    nested: bool = False,
    scenario: WorkloadLike | None = None,
    space: SearchSpace | str = "small",
    distinct: int | None = None,
    effort: str = "default",
    scores: str | None = None,
    hardware: str | os.PathLike[str] | CostModel = "cpu",
    minimise: str = SCORE,
    library: LibraryConfig | None = None,
    data: DataConfig | None = None,
    tokenizer: Any = None,
    device: str | None = None,
    precision: Precision | str = "auto",
    out: str | os.PathLike[str] = "puzzle-run",
    executor: Executor | None = None,
    solver: str = "highs",
    seed: int = 0,
    resume: bool = True,
    progress: bool = True,
    callbacks: Iterable[Any] = (),
    report_to: str | Iterable[str] | None = None,
) -> FamilyResult:
    """Searches children of several sizes: one library, one set of scores, a budget for each.

    The parent is opened, the library fitted and its blocks scored once. Each size is then chosen,
    healed and measured as `puzzle.search` does, and is the child that a search for it alone in the
    same run directory gives.

    Args:
        parent: As for `puzzle.search`.
        text: As for `puzzle.search`.
        sizes: By name, the smallest first: constraints as for `puzzle.search`, or a `Size`, which
            may have a scenario and hardware of its own.
        nested: Whether no sublayer of a child may take more bytes, of weights or of KV cache, than
            that of the next larger child. All layouts are then found by one program, which
            minimises the sum of their KLs by the sizes' weights.
        scenario: As for `puzzle.search`, of the sizes without one of their own.
        space: As for `puzzle.search`.
        distinct: As for `puzzle.search`; not with `nested`.
        effort: As for `puzzle.search`; in a nested family, layouts are measured that keep it so.
        scores: As for `puzzle.search`.
        hardware: As for `puzzle.search`, of the sizes without one of their own.
        minimise: As for `puzzle.search`; not with `nested`.
        library: As for `puzzle.search`.
        data: As for `puzzle.search`.
        tokenizer: As for `puzzle.search`.
        device: As for `puzzle.search`.
        precision: As for `puzzle.search`.
        out: The run directory of the whole family.
        executor: As for `puzzle.search`.
        solver: As for `puzzle.search`.
        seed: As for `puzzle.search`.
        resume: As for `puzzle.search`.
        progress: As for `puzzle.search`.
        callbacks: As for `puzzle.search`.
        report_to: As for `puzzle.search`.

    Returns:
        The result of each size, and of a nested family what nesting costs.

    Raises:
        PuzzleError: As for `puzzle.search`; a size is named.
        InfeasibleError: A size cannot be reached, or no layouts are nested.

    Example:
        >>> import puzzle
        >>> three = puzzle.family("model", text, sizes={
        ...     "nano": "throughput >= 2x",
        ...     "super": "throughput >= 1.5x",
        ...     "ultra": "throughput >= 1.25x"}, nested=True)  # doctest: +SKIP
        >>> three.save("children")  # doctest: +SKIP
    """
    given = given_sizes(sizes)
    if nested and (distinct is not None or minimise != SCORE):
        raise SettingError(
            "a nested family minimises the KL and bounds no number of distinct blocks; leave out "
            "distinct= and minimise=, or nested="
        )
    requests = {}
    for name, size in given.items():
        with size_named(name):
            requests[name] = Request(
                constraints=size.constraints,
                scenario=size.scenario or scenario,
                space=space,
                distinct=distinct,
                effort=effort,
                scores=scores,
                hardware=hardware if size.hardware is None else size.hardware,
                minimise=minimise,
                library=library,
                executor=executor,
                solver=solver,
                seed=seed,
            )
        require_engine(requests[name].hardware)
    first = next(iter(requests.values()))
    inputs = Inputs(
        parent=parent,
        text=text,
        workload=all_scenarios(requests),
        hardware=hardware,
        tokenizer=tokenizer,
        device=device,
        precision=precision,
        data=first.data(data),
        shorten=data is None,
    )
    watch = Watch(Trackers(callbacks, report_to), shown=progress)
    place = open_workspace(out, resume=resume)
    with watch.running():
        return _family(given, requests, inputs, place, watch, nested=nested)


def _family(
    sizes: Mapping[str, Size],
    requests: Mapping[str, Request],
    inputs: Inputs,
    place: Workspace,
    watch: Watch,
    *,
    nested: bool,
) -> FamilyResult:
    """Runs the stages, one after the other."""
    first = next(iter(requests.values()))
    with watch.stage("opening"):
        opened = open_run(
            inputs, place, executor=first.executor, solver=first.solver, seed=first.seed
        )
    members = _members(sizes, requests, inputs, opened, watch)
    together = None
    with watch.stage("choice"):
        if nested:
            attempts, together = nested_attempts(members)
        else:
            attempts = free_attempts(members)
    with watch.stage("healing"):
        children = {name: member.result(attempts[name]) for name, member in members.items()}
    for child in children.values():
        announce_result(child.measured)
    return FamilyResult(children=children, nested=together)


def _members(
    sizes: Mapping[str, Size],
    requests: Mapping[str, Request],
    inputs: Inputs,
    opened: Opened,
    watch: Watch,
) -> dict[str, Member]:
    """Prices every size before the library, so that what none can reach is refused at once."""
    run, own = opened.run, {}
    priced: dict[str, tuple[Steps, Priced, Goals]] = {}
    with watch.stage("costs"):
        for name, request in requests.items():
            own[name] = served_as(opened, inputs, request)
            steps = request.steps(own[name])
            if not priced:
                watch.opened(request, steps, inputs, own[name])
            costs = steps.price(run)
            with size_named(name):
                priced[name] = steps, costs, request.goals(steps, costs)
    first = next(iter(priced.values()))[0]
    with watch.stage("library"):
        library = run.get(first.library)
    with watch.stage("scores"):
        scores = run.get(first.scores(library.refs))
        announce_scores(scores)
    return {
        name: Member(
            name=name,
            weight=sizes[name].weight,
            request=requests[name],
            inputs=replace(
                inputs, workload=requests[name].workload, hardware=requests[name].hardware
            ),
            opened=own[name],
            chooser=Chooser(
                run=run, steps=steps, goals=goals, scores=scores, library=library, priced=costs
            ),
        )
        for name, (steps, costs, goals) in priced.items()
    }
